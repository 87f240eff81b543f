"""A searchable index of sentences in one folder: FAISS vectors and Arrow sentences, both memory-mapped.

Legend: `N` indexed sentences, `Q` queries, `K` neighbours, `H` hidden.

Up to `FLAT_LIMIT` sentences a search compares with every vector and is exact. Above, it walks a graph of neighbours
(HNSW; Malkov & Yashunin, 2018), which finds nearly all of the nearest in a time that hardly grows with N. Vectors have
length 1, so inner products are cosines.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from diffcse.errors import UserError
from diffcse.search.manifest import LOCK, NAME, Manifest, Part, check_files, damaged, is_ours, read_manifest, sync
from diffcse.vectors import import_faiss, unit

Vectors = NDArray[np.float32]
Blocks = Iterable[tuple[Sequence[str], Vectors]]
"""Sentences and their vectors (n, H), block by block."""

FLAT_LIMIT = 100_000
"""Most sentences that every search compares with; above, an exact search would take too long."""

_NEIGHBOURS, _BUILD_WIDTH = 32, 80
_SEARCH_WIDTH = 512
"""Candidates that a search of the graph keeps. Over a million sentences: recall@10 0.95 in 7 ms; 128 gave 0.86 in 2 ms,
and an exact search takes over 100 ms (docs/performance.md)."""
_MOST_PARTS = 32
_ROWS = 10_000


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A sentence found.

    Attributes:
        sentence: its text.
        score: cosine similarity to the query.
        row: its place in the index, from 0.
    """

    sentence: str
    score: float
    row: int


class SentenceIndex:
    """An index folder, opened for searching.

    Args:
        folder: what `create_index` made.
        verify: compare the content of all files with the manifest's digests, not only their sizes.

    Raises:
        UserError: no index there, or a damaged one.
        MissingExtra: FAISS is not installed.
    """

    def __init__(self, folder: str | Path, *, verify: bool = True) -> None:
        self.folder = Path(folder)
        self._faiss = import_faiss()
        self.manifest = read_manifest(self.folder)
        check_files(self.folder, self.manifest, content=verify)
        self._vectors = _read_vectors(self._faiss, self.folder, self.manifest, mapped=True)
        self._sentences = [_map_sentences(self.folder, part) for part in self.manifest.sentences]
        self._starts = list(itertools.accumulate((part.rows for part in self.manifest.sentences), initial=0))

    def __len__(self) -> int:
        return self.manifest.rows

    def search(self, queries: Vectors, top_k: int = 5, threshold: float = -1.0) -> list[list[Hit]]:
        """The nearest sentences of each query, best first.

        Args:
            queries: (Q, H); their lengths do not matter.
            top_k: most hits of a query.
            threshold: smallest cosine similarity of a hit, -1 to 1.
        """
        if queries.ndim != 2 or queries.shape[1] != self.manifest.dimension:
            do = "encode them with the index's model"
            raise UserError("queries", f"vectors of {self.manifest.dimension} numbers", queries.shape, do)
        if top_k < 1:
            raise UserError("top_k", "at least 1", top_k, "use 5")
        scores, rows = self._vectors.search(unit(queries), min(top_k, max(1, len(self))))
        return [
            [
                Hit(sentence=self.sentence(int(row)), score=float(score), row=int(row))
                for score, row in zip(*found, strict=True)
                if row >= 0 and score >= threshold  # FAISS fills up with -1 where it found fewer
            ]
            for found in zip(scores, rows, strict=True)
        ]

    def sentence(self, row: int) -> str:
        """The sentence of a row, read from the mapped file."""
        part = bisect.bisect_right(self._starts, row) - 1
        return str(self._sentences[part][row - self._starts[part]])


def create_index(
    folder: str | Path, blocks: Blocks, *, rows: int, dimension: int, model: str | None, fingerprint: str
) -> Manifest:
    """Write an index folder; it counts once it is whole.

    Args:
        folder: a new or empty one.
        blocks: sentences with their vectors.
        rows: N.
        dimension: H.
        model: folder or Hub name of the encoder, None for the bundled one.
        fingerprint: its digest.

    Raises:
        UserError: the folder holds something else, or cannot be written to.
    """
    target = Path(folder)
    empty = Manifest(
        generation=0,
        dimension=dimension,
        kind="flat",
        model=model,
        fingerprint=fingerprint,
        sentences=(),
        vectors=Part(file="", rows=0, bytes=0, blake2b=""),
    )
    check_new(target)
    faiss = import_faiss()
    with writing(target):
        return _append(faiss, target, empty, faiss.IndexFlatIP(dimension), blocks, rows)


def add_to_index(folder: str | Path, blocks: Blocks, *, rows: int, fingerprint: str) -> Manifest:
    """Append sentences; a reader sees the index as it was or as it is afterwards, nothing between.

    Args:
        folder: an index.
        blocks: as for `create_index`.
        rows: how many are added.
        fingerprint: digest of the encoder, which must be the index's.

    Raises:
        UserError: vectors of another encoder, a damaged index, another writer, or a disk that cannot be written to.
    """
    target = Path(folder)
    faiss = import_faiss()
    manifest = read_manifest(target)
    check_model(target, manifest, fingerprint)
    with writing(target):
        manifest = read_manifest(target)
        check_files(target, manifest, content=True)
        return _append(faiss, target, manifest, _read_vectors(faiss, target, manifest, mapped=False), blocks, rows)


def check_new(folder: Path) -> None:
    """Refuse a folder that holds an index or anything that is none of ours."""
    if (folder / NAME).exists():
        raise UserError(f"index {folder}", "a new folder", "an index", "add to it, or choose another folder")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"index {folder}", "a new or empty folder", "a file", "choose another name")
    foreign = [path.name for path in folder.iterdir() if not is_ours(path)] if folder.is_dir() else []
    if foreign:
        raise UserError(f"index {folder}", "a new or empty folder", f"{foreign[0]} in it", "choose another folder")


def check_model(folder: Path, manifest: Manifest, fingerprint: str) -> None:
    """Refuse vectors of another encoder than the index's."""
    if manifest.fingerprint != fingerprint:
        do = f"use {manifest.model or 'the bundled model'} as it was then, or make the index again"
        raise UserError(f"index {folder}", "used with the model that made it", "another model", do)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Be the only writer of the folder, which is made where it is missing; a full disk and the like become one line."""
    try:
        folder.mkdir(exist_ok=True)
        with FileLock(folder / LOCK, timeout=0):
            yield
    except Timeout as error:
        raise UserError(f"index {folder}", "written by one process", "another one at work", "wait for it") from error
    except OSError as error:
        do = "make room or permission and try again; what was in the index still is"
        raise UserError(f"index {folder}", "on a disk that can be written to", error.strerror or error, do) from error


def _append(faiss: Any, folder: Path, before: Manifest, index: Any, blocks: Blocks, rows: int) -> Manifest:
    """Write the next generation: `index` enlarged by the blocks, their sentences, and the manifest last."""
    total, number = before.rows + rows, before.generation + 1
    kind = before.kind
    if kind == "flat" and total > FLAT_LIMIT:
        kind, index = "hnsw", _graph(faiss, index)
    parts, stored = before.sentences, iter(list[Sequence[str]]())
    if len(parts) >= _MOST_PARTS:
        stored = itertools.chain.from_iterable(_texts(folder / part.file) for part in parts)
        parts = ()
    texts, vectors = folder / f"sentences-{number:06d}.arrow", folder / f"vectors-{number:06d}.faiss"
    with _giving_back(texts, vectors):
        written = _write_sentences(texts, itertools.chain(stored, _adding(index, blocks)))
        assert index.ntotal == total and written == total - sum(part.rows for part in parts)
        _write_vectors(faiss, index, vectors)
        made = (*parts, Part.of(texts, written)), Part.of(vectors, total)
    manifest = dataclasses.replace(before, generation=number, kind=kind, sentences=made[0], vectors=made[1])
    manifest.save(folder)
    return manifest


@contextmanager
def _giving_back(*files: Path) -> Iterator[None]:
    """Take files that a full disk cut short off the disk again."""
    try:
        yield
    except OSError:
        for file in files:
            file.unlink(missing_ok=True)
        raise


def _adding(index: Any, blocks: Blocks) -> Iterator[Sequence[str]]:
    """The blocks' sentences, while their vectors go into the index."""
    for texts, vectors in blocks:
        index.add(unit(vectors))
        yield texts


def _graph(faiss: Any, flat: Any) -> Any:
    """A graph of neighbours with the flat index's vectors in it."""
    index = faiss.IndexHNSWFlat(flat.d, _NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction, index.hnsw.efSearch = _BUILD_WIDTH, _SEARCH_WIDTH
    if flat.ntotal:
        index.add(flat.reconstruct_n(0, flat.ntotal))
    return index


def _write_vectors(faiss: Any, index: Any, path: Path) -> None:
    try:
        faiss.write_index(index, str(path))
    except RuntimeError as error:  # what FAISS makes of a full disk
        raise OSError(str(error).splitlines()[0]) from error
    sync(path)


def _read_vectors(faiss: Any, folder: Path, manifest: Manifest, *, mapped: bool) -> Any:
    path = folder / manifest.vectors.file
    # Older versions of FAISS map inverted files only and read these as a whole.
    flags = getattr(faiss, "IO_FLAG_MMAP_IFC", faiss.IO_FLAG_MMAP) | faiss.IO_FLAG_READ_ONLY
    try:
        index = faiss.read_index(str(path), flags) if mapped else faiss.read_index(str(path))
    except RuntimeError as error:
        raise damaged(folder, f"{path.name} that FAISS cannot read") from error
    if (index.ntotal, index.d) != (manifest.rows, manifest.dimension):
        raise damaged(folder, f"{path.name} with {index.ntotal:,} vectors of {index.d} numbers")
    if hasattr(index, "hnsw"):  # the file holds the width of the version that made it
        index.hnsw.efSearch = _SEARCH_WIDTH
    return index


def _write_sentences(path: Path, groups: Iterable[Sequence[str]]) -> int:
    schema, rows = pa.schema([("sentence", pa.string())]), 0
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        for group in groups:
            for start in range(0, len(group), _ROWS):
                part = group[start : start + _ROWS]
                writer.write_batch(pa.record_batch([pa.array(part, pa.string())], schema=schema))
                rows += len(part)
    sync(path)
    return rows


def _map_sentences(folder: Path, part: Part) -> pa.ChunkedArray:
    try:
        column = pa.ipc.open_file(pa.memory_map(str(folder / part.file))).read_all().column("sentence")
    except (pa.ArrowInvalid, KeyError) as error:
        raise damaged(folder, f"{part.file} that Arrow cannot read") from error
    if len(column) != part.rows:
        raise damaged(folder, f"{part.file} with {len(column):,} sentences")
    return column


def _texts(path: Path) -> Iterator[list[str]]:
    with pa.memory_map(str(path)) as file, pa.ipc.open_file(file) as reader:
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number).column(0).to_pylist()
