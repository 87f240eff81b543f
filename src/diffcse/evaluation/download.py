"""One file over HTTP: whole or not at all, and an interrupted download goes on where it ended.

What has arrived waits in `NAME.part`; `NAME.part.json` says of which version of the file it is. A server that offers
another version, or that can not go on in the middle, makes the download start over.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any, BinaryIO

from diffcse import __version__
from diffcse.errors import UserError
from diffcse.files import write_atomic

_TIMEOUT_SECONDS = 30
_BLOCK_BYTES = 1 << 18
_PARTIAL, _RANGE_NOT_SATISFIABLE = 206, 416

OnBytes = Callable[[int, int | None], None]
"""Called with the bytes that are there and all, if the server told."""


@dataclass(frozen=True, kw_only=True)
class Version:
    """Which file the part belongs to.

    Attributes:
        url: where it comes from.
        mark: the server's ETag or date of change; None if it gives neither.
        size: bytes of the whole file, if the server told.
        sha256: of the whole file, if the server told (the Hub does, of large files).
    """

    url: str
    mark: str | None
    size: int | None
    sha256: str | None


def download(
    url: str, target: Path, *, on_progress: OnBytes = lambda done, total: None, wait_seconds: float = 1.0
) -> None:
    """Bring `url` to `target`; a broken connection is taken up again as long as each new one brings something.

    Args:
        url: http or https.
        target: the file to be, in an existing folder.
        on_progress: called after every block.
        wait_seconds: pause before a new connection.

    Raises:
        UserError: the server can not be reached or refuses, the disk is full, or the content is not what was promised.
    """
    if not re.match(r"https?://", url):
        raise UserError(f"--url {url}", "an http or https address", url.partition(":")[0], "download by hand")
    part = _Part(target)
    while True:
        before = part.size()
        try:
            _bring(url, part, on_progress)
        except urllib.error.HTTPError as error:
            raise _failed(url, part, f"{error.code} {error.reason}") from error
        except (OSError, HTTPException) as error:
            if part.size() <= before:
                raise _failed(url, part, getattr(error, "reason", None) or error) from error
            time.sleep(wait_seconds)
        else:
            return part.finish()


def _failed(url: str, part: _Part, got: Any) -> UserError:
    begun = f", which goes on at {part.size():,} bytes" if part.size() else ""
    do = f"run this again{begun}; or download it by hand to {part.target} and run this again"
    return UserError(url, "reachable", got, do)


def _bring(url: str, part: _Part, on_progress: OnBytes) -> None:
    """One connection, from where the part ends."""
    known, start = part.version(), part.size()
    if known is None or known.url != url or known.mark is None or start > (known.size or start):
        known, start = None, 0  # nothing that could be known to be of the same file
    if known and start == known.size:
        return  # all of it was there; only the last move was missing
    try:
        response, version = _open(url, start)
    except urllib.error.HTTPError as error:
        if error.code != _RANGE_NOT_SATISFIABLE or not start:
            raise
        return _again(url, part, on_progress)
    with response:
        goes_on = response.status == _PARTIAL
        if goes_on and (version != known or _first_byte(response) != start):
            return _again(url, part, on_progress)
        with part.open(version, start if goes_on else 0) as file:
            _receive(response, file, version, on_progress)


def _again(url: str, part: _Part, on_progress: OnBytes) -> None:
    part.remove()
    _bring(url, part, on_progress)


def _receive(response: HTTPResponse, file: BinaryIO, version: Version, on_progress: OnBytes) -> None:
    while block := response.read(_BLOCK_BYTES):
        _write(file, block)
        on_progress(file.tell(), version.size)
    if version.size is not None and file.tell() < version.size:
        raise ConnectionError("the connection ended early")


def _write(file: BinaryIO, block: bytes) -> None:
    try:
        file.write(block)
        file.flush()
    except OSError as error:  # not to be mistaken for a fault of the connection
        raise UserError(str(file.name), "a file that can be written", error.strerror, "free some space") from error


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Keeps the headers on the way: the Hub names size and SHA-256 of a large file where it points to its storage."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        self.headers |= {name.lower(): value for name, value in headers.items()}
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(url: str, start: int) -> tuple[HTTPResponse, Version]:
    headers = {"User-Agent": f"diffcse/{__version__}", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    redirects = _Redirects()
    opener = urllib.request.build_opener(redirects)
    response = opener.open(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT_SECONDS)
    return response, _version(url, response, redirects.headers)


def _version(url: str, response: HTTPResponse, on_the_way: dict[str, str]) -> Version:
    linked = on_the_way.get("x-linked-etag")
    digest = (linked or "").strip('"')
    return Version(
        url=url,
        mark=linked or response.headers.get("ETag") or response.headers.get("Last-Modified"),
        size=_size(response),
        sha256=digest if re.fullmatch("[0-9a-f]{64}", digest) else None,
    )


def _size(response: HTTPResponse) -> int | None:
    """Bytes of the whole file, from `Content-Range: bytes 5-9/10` or `Content-Length: 10`."""
    told = response.headers.get("Content-Range", "").rpartition("/")[2]
    if response.status != _PARTIAL:
        told = response.headers.get("Content-Length", "")
    return int(told) if told.isdecimal() else None


def _first_byte(response: HTTPResponse) -> int | None:
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(found[1]) if found else None


class _Part:
    """What has arrived of `target`."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(f"{target.name}.part")
        self.about = target.with_name(f"{target.name}.part.json")

    def size(self) -> int:
        """Bytes that are there."""
        return self.path.stat().st_size if self.path.exists() else 0

    def version(self) -> Version | None:
        """Of which file they are; None if that is not known."""
        try:
            return Version(**json.loads(self.about.read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

    def open(self, version: Version, start: int) -> BinaryIO:
        """The file to write to, cut at `start`."""
        free = shutil.disk_usage(self.path.parent).free
        if version.size is not None and version.size - start > free:
            rule = f"on a disk with {(version.size - start) / 1e6:.0f} MB free"
            raise UserError(str(self.path), rule, f"{free / 1e6:.0f} MB", "free some space or choose another folder")
        if not start:
            self.remove()
            write_atomic(self.about, json.dumps(asdict(version)).encode())
        return self.path.open("ab")

    def remove(self) -> None:
        """Start over."""
        self.path.unlink(missing_ok=True)
        self.about.unlink(missing_ok=True)

    def finish(self) -> None:
        """Check the content and give it its name."""
        version = self.version()
        if version is not None and version.sha256 is not None:
            with self.path.open("rb") as file:
                found = _sha256(file)
            if found != version.sha256:
                self.remove()
                raise UserError(str(self.target), f"a file with SHA-256 {version.sha256}", found, "run this again")
        with self.path.open("rb") as file:
            os.fsync(file.fileno())
        self.path.replace(self.target)
        self.about.unlink(missing_ok=True)


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := file.read(_BLOCK_BYTES):
        digest.update(block)
    return digest.hexdigest()
