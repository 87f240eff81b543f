"""SentEval's data as the SimCSE authors publish it: downloaded, unpacked and counted.

The archive holds the folders of the tasks (CR, MR, STS, ...); they become `FOLDER/downstream`, which is where
`--senteval FOLDER` looks for them. `downstream` appears when all of it is there.
"""

from __future__ import annotations

import os
import re
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from lzma import LZMAError
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from huggingface_hub import constants, hf_hub_download, hf_hub_url
from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of whichever HTTP library it uses

from diffcse.connection import hub_or_cache
from diffcse.errors import UserError
from diffcse.evaluation.senteval import Reading, read_tasks
from diffcse.evaluation.tasks import ALL_TASKS
from diffcse.files import disk_errors, exclusive, file_digest

REPOSITORY, ARCHIVE = "princeton-nlp/datasets-for-simcse", "senteval.tar"
ENDPOINT = constants.ENDPOINT
"""The Hub's address, or the one in HF_ENDPOINT."""

TASK_FOLDERS = {"STS", "SICK", "MR", "CR", "MPQA", "SUBJ", "SST", "TREC", "MRPC"}

_MOST_BYTES = 2_000_000_000
_MOST_FILES = 20_000


def archive_url() -> str:
    """Where the archive is; `HF_ENDPOINT` names another Hub."""
    return file_url(ARCHIVE)


def file_url(name: str) -> str:
    """Where a file of the authors' dataset is."""
    return hf_hub_url(REPOSITORY, name, repo_type="dataset", endpoint=ENDPOINT)


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


def fetch(folder: Path) -> Reading:
    """Make `folder` hold SentEval's data; an archive that is in it already is used instead of the network.

    The download goes through the Hub's cache; its client resumes where a connection breaks.

    Args:
        folder: made where it is missing; gets `downstream`.

    Raises:
        UserError: something else is in the place, no network, an unsafe or damaged archive, none of the tasks in it.
    """
    if (folder / "downstream").exists():
        do = "remove it, or name another folder"
        raise UserError(f"{folder / 'downstream'}", "absent", "something there", do)
    with disk_errors(str(folder), "choose another folder"):
        folder.mkdir(parents=True, exist_ok=True)
    with exclusive(folder / ".fetch.lock", str(folder)):
        archive = folder / ARCHIVE
        return _unpack(archive if archive.exists() else download(ARCHIVE, archive), folder)


def download(name: str, by_hand: Path) -> Path:
    """A file of the authors' dataset in the Hub's cache, with the content that the Hub says it has.

    Args:
        name: of the file.
        by_hand: where a file that was downloaded elsewhere can be put.

    Raises:
        UserError: no network and nothing in the cache, or a damaged file.
    """
    do = f"run this again with a network, or put {file_url(name)} to {by_hand} by hand and run this again"
    with hub_or_cache(ENDPOINT) as problem:
        try:
            path = Path(hf_hub_download(REPOSITORY, name, repo_type="dataset", endpoint=ENDPOINT))
        except (OSError, HTTPError) as error:
            got = problem or " ".join(str(error).split())
            raise UserError(name, "in the cache, or on a Hub that can be reached", got, do) from error
    content = path.resolve()  # the cache names a large file by the SHA-256 that the Hub gives for it
    actual = file_digest(content)
    if re.fullmatch("[0-9a-f]{64}", content.name) and actual != content.name:
        content.unlink()  # or the next run would use it
        raise UserError(name, f"a file with SHA-256 {content.name}", actual, "run this again")
    return path


def _unpack(archive: Path, folder: Path) -> Reading:
    new = folder / f".unpack.{os.getpid()}.part"
    shutil.rmtree(new, ignore_errors=True)
    try:
        unpack(archive, new / "archive")
        _tasks_folder(archive, new / "archive").rename(new / "downstream")
        reading = check(new)
        if not reading.tasks:
            raise _wrong(archive, "an archive with SentEval's tasks", "none that can be read")
        (new / "downstream").rename(folder / "downstream")
    finally:
        shutil.rmtree(new, ignore_errors=True)
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
    try:
        with tarfile.open(archive) as tar:
            members = list(_checked(archive, tar))
            free, need = shutil.disk_usage(target).free, sum(member.size for member in members)
            if need > free:
                raise UserError(str(target), f"on a disk with {need / 1e6:.0f} MB free", free, "free some space")
            for member in members:
                tar.extract(member, target, filter="data")
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
