"""What an index folder says about itself, and the checks that it is whole.

Files are never changed in place: new ones are written beside the old under the next generation's number, and the
manifest, replaced last and in one step, decides which of them count.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffcse.errors import UserError
from diffcse.files import write_atomic

NAME, LOCK, BUILDING = "manifest.json", ".lock", "building"
_FORMAT = "diffcse-index"
_VERSION = 1
_FILE = re.compile(r"(sentences|vectors)-\d{6}\.(arrow|faiss)")
_BLOCK = 2**20


@dataclass(frozen=True, kw_only=True)
class Part:
    """One file of an index.

    Attributes:
        file: its name in the folder.
        rows: sentences or vectors in it.
        bytes: its size.
        blake2b: digest of its content.
    """

    file: str
    rows: int
    bytes: int
    blake2b: str

    @staticmethod
    def of(path: Path, rows: int) -> Part:
        """Describe a file that has just been written."""
        return Part(file=path.name, rows=rows, bytes=path.stat().st_size, blake2b=_digest(path))


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of an index folder.

    Attributes:
        generation: how often the folder has been written.
        dimension: numbers in a vector.
        kind: `flat` (a search compares with every vector) or `hnsw` (it walks a graph of neighbours).
        model: folder or Hub name of the encoder, None for the bundled one.
        fingerprint: digest of that encoder.
        sentences: files of sentences, in the order of the rows.
        vectors: the FAISS file.
    """

    generation: int
    dimension: int
    kind: str
    model: str | None
    fingerprint: str
    sentences: tuple[Part, ...]
    vectors: Part

    @property
    def rows(self) -> int:
        """Sentences in the index."""
        return self.vectors.rows

    def files(self) -> set[str]:
        """Names of the files that count."""
        return {part.file for part in (*self.sentences, self.vectors)}

    def save(self, folder: Path) -> None:
        """Make this the folder's content, in one step, and remove what no longer counts."""
        content = {"format": _FORMAT, "version": _VERSION, **dataclasses.asdict(self)}
        write_atomic(folder / NAME, json.dumps(content, indent=1).encode())
        for path in folder.iterdir():
            if _FILE.fullmatch(path.name) and path.name not in self.files():
                path.unlink()


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an index folder.

    Raises:
        UserError: no index, a newer version's, or a damaged one.
    """
    path = folder / NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        do = "name a folder that diffcse index has made"
        raise UserError(f"index {folder}", "an index folder", f"no {NAME} in it", do) from error
    except (OSError, ValueError) as error:
        raise damaged(folder, error) from error
    if not isinstance(content, dict) or content.pop("format", None) != _FORMAT:
        raise UserError(f"index {folder}", "an index folder of diffcse", f"another {NAME}", "check the path")
    if (version := content.pop("version", None)) != _VERSION:
        raise UserError(f"index {folder}", f"of version {_VERSION}", version, "update diffcse, or make the index again")
    return _parsed(folder, content)


def check_files(folder: Path, manifest: Manifest, *, content: bool) -> None:
    """Compare sizes and, with `content`, digests with the manifest's.

    Raises:
        UserError: naming the file that differs.
    """
    for part in (*manifest.sentences, manifest.vectors):
        path = folder / part.file
        size = path.stat().st_size if path.is_file() else None
        if size is None:
            raise damaged(folder, f"no {part.file}")
        if size != part.bytes:
            raise damaged(folder, f"{part.file} of {size:,} bytes, not {part.bytes:,}")
        if content and _digest(path) != part.blake2b:
            raise damaged(folder, f"other content in {part.file}")


def _parsed(folder: Path, content: dict[str, Any]) -> Manifest:
    try:
        sentences = tuple(Part(**part) for part in content.pop("sentences"))
        vectors = Part(**content.pop("vectors"))
        manifest = Manifest(**content, sentences=sentences, vectors=vectors)
        bad = [name for name in manifest.files() if not _FILE.fullmatch(name)]
        whole = sum(part.rows for part in sentences) == manifest.rows and manifest.kind in ("flat", "hnsw")
    except (TypeError, KeyError, AttributeError) as error:
        raise damaged(folder, f"a manifest without its fields ({error})") from error
    if bad:  # a path that leads out of the folder, for one
        raise damaged(folder, f"a file named {bad[0]}")
    if not whole:
        raise damaged(folder, "a manifest that contradicts itself")
    return manifest


def damaged(folder: Path, got: Any) -> UserError:
    """The error of an index folder with a fault in it."""
    return UserError(f"index {folder}", "whole", got, "make it again with diffcse index, or restore the folder")


def is_ours(path: Path) -> bool:
    """Whether a file has one of the names that an index folder gives."""
    return path.name in (NAME, LOCK, BUILDING) or _FILE.fullmatch(path.name) is not None


def sync(path: Path) -> None:
    """Return when the file is on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _digest(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
