"""SentEval's data as the SimCSE authors publish it: brought, unpacked and counted.

The archive holds the folders of the tasks (CR, MR, STS, ...); they become `FOLDER/downstream`, which is where
`--senteval FOLDER` looks for them. Nothing is there until all of it is.
"""

from __future__ import annotations

import os
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from lzma import LZMAError
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from filelock import FileLock, Timeout
from huggingface_hub import constants, hf_hub_url

from diffcse.errors import UserError
from diffcse.evaluation.download import OnBytes, download
from diffcse.evaluation.senteval import Reading, read_tasks
from diffcse.evaluation.tasks import ALL_TASKS

REPOSITORY, ARCHIVE = "princeton-nlp/datasets-for-simcse", "senteval.tar"
TASK_FOLDERS = {"STS", "SICK", "MR", "CR", "MPQA", "SUBJ", "SST", "TREC", "MRPC"}

_MOST_BYTES = 2_000_000_000
_MOST_FILES = 20_000


def archive_url() -> str:
    """Where the archive is; `HF_ENDPOINT` names another Hub."""
    return hf_hub_url(REPOSITORY, ARCHIVE, repo_type="dataset")


def check(folder: Path) -> Reading:
    """Read every task with the readers that evaluation uses, row counts included.

    Args:
        folder: the one that holds `downstream`.
    """
    return read_tasks(folder, ALL_TASKS, train_splits=True)


def counts(reading: Reading) -> dict[str, dict[str, int]]:
    """Rows (pairs or sentences) of each part of each task that can be read."""
    return {task.name: {name: _rows(part) for name, part in task.parts.items()} for task in reading.tasks}


def _rows(part: Any) -> int:
    return len(part.scores) if hasattr(part, "scores") else len(part.labels)


def fetch(folder: Path, *, url: str | None = None, on_progress: OnBytes = lambda done, total: None) -> Reading:
    """Make `folder` hold SentEval's data; an archive that lies in it already is used instead of the network.

    Args:
        folder: made where it is missing; gets `downstream`.
        url: of the archive; None for the Hub's.
        on_progress: called with bytes brought and all.

    Raises:
        UserError: something else is in the place, no network, an unsafe or damaged archive, none of the tasks in it.
    """
    if (folder / "downstream").exists():
        do = "remove it, or name another folder"
        raise UserError(f"{folder / 'downstream'}", "absent", "something there", do)
    with _alone(folder):
        archive = folder / ARCHIVE
        brought = not archive.exists()
        if brought:
            if url is None and constants.HF_HUB_OFFLINE:
                do = f"unset it, or download {archive_url()} by hand to {archive} and run this again"
                raise UserError("HF_HUB_OFFLINE", "unset to download", "set", do)
            download(url or archive_url(), archive, on_progress=on_progress)
        try:
            reading = _unpack(archive, folder)
        except UserError:
            if brought:  # or the next run would find the bad one
                archive.unlink(missing_ok=True)
            raise
        if brought:
            archive.unlink(missing_ok=True)
        return reading


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".fetch.lock", timeout=0)
        lock.acquire()
    except Timeout as error:
        raise UserError(str(folder), "used by one process", "another one at work", "wait for it") from error
    except OSError as error:
        raise UserError(str(folder), "a folder that can be written", error.strerror, "choose another one") from error
    try:
        yield
    finally:
        lock.release()
        (folder / ".fetch.lock").unlink(missing_ok=True)


def _unpack(archive: Path, folder: Path) -> Reading:
    beside = folder / f".unpack.{os.getpid()}.part"
    shutil.rmtree(beside, ignore_errors=True)
    try:
        unpack(archive, beside / "archive")
        _tasks_folder(archive, beside / "archive").rename(beside / "downstream")
        reading = check(beside)
        if not reading.tasks:
            raise _wrong(archive, "an archive with SentEval's tasks", "none that can be read")
        (beside / "downstream").rename(folder / "downstream")
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return check(folder) if reading.problems else reading  # so that problems name the files where they are now


def unpack(archive: Path, target: Path) -> None:
    """Unpack a tar archive of plain files and folders, none of which leaves `target`.

    Args:
        archive: plain or compressed.
        target: a folder to be made.

    Raises:
        UserError: not a whole archive, or one with links, devices, paths that lead outside, or too much in it.
    """
    target.mkdir(parents=True)
    # Before Python 3.10.12 there is no such filter; the checks of our own allow nothing that it would stop.
    safely: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    try:
        with tarfile.open(archive) as tar:
            members = list(_checked(archive, tar))
            free, need = shutil.disk_usage(target).free, sum(member.size for member in members)
            if need > free:
                raise UserError(str(target), f"on a disk with {need / 1e6:.0f} MB free", free, "free some space")
            for member in members:
                tar.extract(member, target, **safely)
    except (tarfile.TarError, EOFError, zlib.error, LZMAError) as error:
        raise _wrong(archive, "a whole tar archive", error) from error
    except OSError as error:
        raise UserError(str(archive), "a file that can be unpacked", error, "check file and disk") from error


def _checked(archive: Path, tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members, until one is refused."""
    total = 0
    for count, member in enumerate(tar, start=1):
        total += member.size
        path = PurePosixPath(member.name)
        if not (member.isreg() or member.isdir()):
            raise _wrong(archive, "an archive of files and folders", f"{member.name}, a link or a device")
        if path.is_absolute() or ".." in path.parts or "\\" in member.name or PureWindowsPath(member.name).drive:
            raise _wrong(archive, "an archive that stays in its folder", member.name)
        if total > _MOST_BYTES or count > _MOST_FILES:
            rule = f"an archive of at most {_MOST_FILES:,} files and {_MOST_BYTES / 1e9:g} GB"
            raise _wrong(archive, rule, f"{count:,} files and {total / 1e9:.1f} GB or more")
        yield member


def _tasks_folder(archive: Path, root: Path) -> Path:
    """The folder of the tasks, wherever in the archive it is."""
    for folder in (root, *sorted(path for path in root.rglob("*") if path.is_dir())):
        if any((folder / name).is_dir() for name in TASK_FOLDERS):
            return folder
    raise _wrong(archive, "an archive with SentEval's tasks", "none of " + ", ".join(sorted(TASK_FOLDERS)))


def _wrong(archive: Path, rule: str, got: Any) -> UserError:
    return UserError(str(archive), rule, got, f"compare its address with {archive_url()}")
