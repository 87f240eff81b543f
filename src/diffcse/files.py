"""Durable files: atomic writes, folders swapped whole, one writer at a time, one line where the disk refuses.

Everything that must survive a kill or a power cut goes through here: write next to the target, fsync, rename, fsync
the folder. A reader sees the old content or the new, never half of it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from diffcse.errors import UserError

_REFUSED = (*(os.strerror(number) for number in (errno.ENOSPC, errno.EROFS, errno.EDQUOT)), "inline_container")
"""How libraries word a full or read-only disk in exceptions of their own; the last is what torch.save makes of it."""


def write_atomic(path: Path, content: bytes | Callable[[BinaryIO], object]) -> None:
    """Write a file so that a reader finds the old content or the new, also after a power cut.

    Args:
        path: the file; its folder exists.
        content: the bytes, or what writes them into a file opened for binary writing.

    Raises:
        OSError: a disk that refuses (see `disk_errors`); the old file is then untouched.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        fsync(path.parent)
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically, indented for people; numbers that JSON lacks (NaN, infinity) become null."""
    write_atomic(path, json_bytes(content))


def json_bytes(content: Any) -> bytes:
    """JSON as all tools read it: no NaN, no infinity.

    >>> json.loads(json_bytes({"score": float("inf")}))
    {'score': None}
    """
    return (json.dumps(jsonable(content), indent=2, allow_nan=False) + "\n").encode()


def jsonable(value: Any) -> Any:
    """The same data with None for NaN and infinity, which JSON lacks."""
    if isinstance(value, dict):
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def json_line(content: Any) -> str:
    """JSON as `json_bytes` makes it, on one line without its end, other alphabets as they are.

    >>> json_line({"größe": [float("nan"), 1.5]})
    '{"größe": [null, 1.5]}'
    """
    return json.dumps(jsonable(content), ensure_ascii=False, allow_nan=False)


def read_json(path: Path, *, what: str, do: str) -> dict[str, Any]:
    """A JSON object that an earlier run wrote.

    Args:
        path: the file.
        what: how the error names it, such as "index DIR".
        do: what the user can do if it cannot be read.

    Raises:
        FileNotFoundError: no such file; the caller knows what that means.
        UserError: a file that cannot be read, or that is no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(what, f"readable (its {path.name} is not)", error, do) from error
    if not isinstance(content, dict):
        raise UserError(what, f"readable (its {path.name} holds no object)", type(content).__name__, do)
    return content


def fsync(path: Path) -> None:
    """Return when a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_folder(folder: Path) -> None:
    """Return when every file below a folder, and every folder's list of names, is on the disk."""
    for path in sorted(folder.rglob("*"), reverse=True):
        fsync(path)
    fsync(folder)


def replace_folder(new: Path, place: Path) -> None:
    """Put the folder `new` in place of `place`; the old folder is removed only once the new one is there."""
    old = place.with_name(f".{place.name}.{os.getpid()}.old")
    fsync_folder(new)
    if place.exists():
        place.rename(old)
    new.rename(place)
    fsync(place.parent)
    shutil.rmtree(old, ignore_errors=True)


def move_into(source: Path, target: Path) -> None:
    """Move every file of `source` into the folder `target`, each atomically, and remove `source`."""
    target.mkdir(exist_ok=True)
    for path in sorted(source.iterdir()):
        if path.is_dir():
            move_into(path, target / path.name)
        else:
            fsync(path)
            path.replace(target / path.name)
    fsync(target)
    source.rmdir()


@contextmanager
def exclusive(lock: Path, what: str) -> Iterator[None]:
    """Be the only process that holds the lock file; its folder exists.

    Args:
        lock: the lock file; it stays, since removing it would let two processes hold it.
        what: how the error names what is locked, such as "index DIR".

    Raises:
        UserError: another process holds it.
    """
    holder = FileLock(lock, timeout=0)
    try:
        holder.acquire()
    except Timeout as error:
        raise UserError(what, "written by one process at a time", "another one at work", "wait for it") from error
    try:
        yield
    finally:
        holder.release()


@contextmanager
def disk_errors(what: str, do: str) -> Iterator[None]:
    """Turn a full disk, a read-only folder and the like into one line, whatever class a library raises.

    Args:
        what: how the error names the place, such as "output DIR".
        do: what the user can do, and what is kept.

    Raises:
        UserError: in place of OSError, and of SafetensorError or RuntimeError where they report the disk.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if not _is_disk(error):
            raise
        got = (error.strerror if isinstance(error, OSError) else None) or error
        raise UserError(what, "on a disk that can be written to", got, do) from error


def _is_disk(error: Exception) -> bool:
    # Our own UserError is a ValueError, and ConnectionError and TimeoutError are OSErrors that no disk raises.
    if isinstance(error, OSError):
        return not isinstance(error, ConnectionError | TimeoutError)
    return any(words in str(error) for words in _REFUSED)


def file_digest(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, as `sha256sum` prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(*contents: Any) -> str:
    """Hexadecimal SHA-256 of plain data (as sorted JSON) and of files (by their content, given as `Path`).

    >>> digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1})
    True
    """
    hasher = hashlib.sha256()
    for content in contents:
        if isinstance(content, Path):
            hasher.update(bytes.fromhex(file_digest(content)))
        else:
            hasher.update(json.dumps(content, sort_keys=True, default=str).encode())
    return hasher.hexdigest()
