"""An index on object storage: published with one atomic switch, searched from a local copy.

SQLite and mapped vectors need a local disk, so nothing is searched in place. A published index is a folder of files
named by their SHA-256 and one `current.json` that says which of them the index is. Publishing uploads what is missing
and writes that file last; fetching reads it first and downloads what the local cache lacks. So a reader has the index
as it was before or as it is afterwards, and what did not change is not sent twice.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
from filelock import FileLock
from huggingface_hub.constants import HF_HOME

from diffcse.errors import UserError
from diffcse.files import digest, disk_errors, file_digest, json_bytes, write_atomic
from diffcse.search import rows
from diffcse.search.facts import Facts
from diffcse.search.rows import Rows
from diffcse.search.writing import writing

CURRENT = "current.json"
_FORMAT = 1
_CHUNK = 1 << 22

Files = dict[str, dict[str, Any]]
"""Name of each file of an index, its size and its SHA-256."""


def is_remote(name: str | Path) -> bool:
    """Whether a name is an address such as s3://bucket/index, and not a folder."""
    return "://" in str(name)


def publish(folder: Path, url: str) -> tuple[int, int]:
    """Put an index, as it is now, where `fetch` finds it; gives the bytes of the index and those that were sent.

    Args:
        folder: the index; nobody writes to it meanwhile.
        url: where to, as fsspec names it: s3://, gs://, az://, hf://, file:// ...

    Raises:
        UserError: no index, or a storage that refuses.
    """
    with closing(Rows(folder)) as database, _storage(url) as (fs, place), writing(folder):
        files = _described(folder, database.read_facts())
        before = _read(fs, f"{place}/{CURRENT}", url) if fs.exists(f"{place}/{CURRENT}") else {}
        sent = 0
        for name, about in files.items():
            target = f"{place}/files/{about['sha256']}"
            if not fs.exists(target) or fs.size(target) != about["size"]:
                fs.makedirs(f"{place}/files", exist_ok=True)
                fs.put_file(str(folder / name), target)
                sent += about["size"]
        with fs.transaction, fs.open(f"{place}/{CURRENT}", "wb") as file:
            file.write(json_bytes({"format": _FORMAT, "files": files}))
        needed = {about["sha256"] for about in (*files.values(), *before.values())}  # the former: still being read
        for target in fs.ls(f"{place}/files", detail=False, refresh=True):
            if target.rsplit("/", 1)[-1] not in needed:
                fs.rm_file(target)
    return sum(about["size"] for about in files.values()), sent


def fetch(url: str, cache: Path | None = None) -> Path:
    """A local copy of a published index, as it is now; only for searching.

    Args:
        url: as for `publish`.
        cache: where copies are kept; None for a folder in Hugging Face's cache.

    Returns:
        The folder, for `SentenceIndex`. Copies of earlier states are removed.

    Raises:
        UserError: nothing published there, a storage that refuses, or files that are not those that were published.
    """
    home = (cache or Path(HF_HOME) / "diffcse" / "indexes") / digest(url)[:16]
    with disk_errors(f"cache {home}", "make room or permission, or set HF_HOME to another folder"):
        home.mkdir(parents=True, exist_ok=True)
        with FileLock(home / ".lock"), _storage(url) as (fs, place):
            files = _read(fs, f"{place}/{CURRENT}", url)
            folder = home / digest(files)[:16]
            if not folder.is_dir():
                _download(fs, f"{place}/files", url, files, home)
                _assemble(home, folder, files)
            for old in home.iterdir():
                if old.is_dir() and old != folder and old.name != "files":
                    shutil.rmtree(old, ignore_errors=True)
            for stored in (home / "files").iterdir():
                if stored.name not in {about["sha256"] for about in files.values()}:
                    stored.unlink()
    return folder


def _described(folder: Path, facts: Facts) -> Files:
    names = [rows.NAME, facts.vectors_name]
    names += [facts.ids_name] if facts.compacted else []
    names += [facts.codes_name] if facts.codes else []
    return {name: {"size": (folder / name).stat().st_size, "sha256": file_digest(folder / name)} for name in names}


def _read(fs: Any, path: str, url: str) -> Files:
    """What is published; names are checked, because they become names of local files."""
    do = "name a place that diffcse index --publish has written"
    try:
        content = json.loads(fs.cat_file(path))
        files = {name: {"size": int(a["size"]), "sha256": str(a["sha256"])} for name, a in content["files"].items()}
        if content["format"] != _FORMAT or not all(_is_plain(name, about) for name, about in files.items()):
            raise ValueError("an unknown format")
    except FileNotFoundError as error:
        raise UserError(f"index {url}", "a published index", f"no {CURRENT} in it", do) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"index {url}", "a published index", f"a {CURRENT} that cannot be read ({error})", do
        ) from error
    return files


def _is_plain(name: str, about: dict[str, Any]) -> bool:
    known = name == rows.NAME or (name.startswith(("vectors", "ids-", "codes-")) and not {"/", "\\"} & {*name})
    return known and len(about["sha256"]) == 64 and about["sha256"].isalnum()


def _download(fs: Any, source: str, url: str, files: Files, home: Path) -> None:
    """What the cache lacks, each file complete and as it was published; a broken download leaves nothing."""
    (home / "files").mkdir(exist_ok=True)
    for about in files.values():
        target, expected = home / "files" / about["sha256"], about["sha256"]
        if target.is_file() and target.stat().st_size == about["size"]:
            continue

        def copy(file: BinaryIO, expected: str = expected) -> None:
            """Fetch the file in blocks, and compare its digest."""
            hasher = hashlib.sha256()
            with fs.open(f"{source}/{expected}", "rb") as remote:
                while block := remote.read(_CHUNK):
                    hasher.update(block)
                    file.write(block)
            if hasher.hexdigest() != expected:
                raise UserError(f"index {url}", "as it was published", "other content in a file", "publish it again")

        write_atomic(target, copy)


def _assemble(home: Path, folder: Path, files: Files) -> None:
    """The index folder, of links to the downloaded files where the disk has links."""
    work = folder.with_name(f".{folder.name}")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    for name, about in files.items():
        try:
            (work / name).hardlink_to(home / "files" / about["sha256"])
        except OSError:
            shutil.copyfile(home / "files" / about["sha256"], work / name)
    work.rename(folder)


@contextmanager
def _storage(url: str) -> Iterator[tuple[Any, str]]:
    """The file system of an address and the path in it; what it refuses becomes one line."""
    try:
        fs, place = fsspec.core.url_to_fs(url)
        yield fs, place.rstrip("/")
    except UserError:
        raise
    except ImportError as error:
        do = "install the package that it names"
        raise UserError(f"index {url}", "on a storage that fsspec can reach", error, do) from error
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EROFS, errno.EDQUOT):
            raise  # this machine's disk
        do = "check the address, the network and your permissions"
        raise UserError(f"index {url}", "on a storage that can be reached", error, do) from error
