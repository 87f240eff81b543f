"""Vectors on the disk, the exact nearest of them, and a small copy of them that finds candidates fast.

Legend: `N` vectors, `Q` queries, `K` neighbours, `H` numbers of a vector.

The vector file holds float32 rows one after the other and only ever grows; compacting writes another. Above
`EXACT_LIMIT` rows a search first scans codes of 4 bits for every four numbers (product quantisation; Jegou et al.,
2011; scanned in registers: Andre et al., 2015) and then compares the best few hundred exactly. A scan of all codes,
unlike a graph or cells, does not depend on how the vectors are spread, is built in a minute and takes additions at its
end.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from diffcse.files import fsync, write_atomic
from diffcse.search.facts import Facts, Ids
from diffcse.search.rows import damaged
from diffcse.vectors import Vectors, as_cosines, best, import_faiss

EXACT_LIMIT = 100_000
"""Most vectors that every search compares with; above, that takes too long."""

_BLOCK = 16_384
_SAMPLE = 40_000
_WIDE = 128


class VectorFile:
    """The vectors of an index folder.

    Args:
        folder: the index.
        facts: which file, and how wide its rows are.
    """

    def __init__(self, folder: Path, facts: Facts) -> None:
        self.path, self.dimension = folder / facts.vectors_name, facts.dimension

    def append(self, start: int, blocks: Iterable[Vectors]) -> str:
        """Write unit vectors from place `start` on, over what a killed run left there; gives their digest."""
        hasher = hashlib.blake2b(digest_size=16)
        with self.path.open("r+b" if self.path.exists() else "wb") as file:
            file.truncate(start * self._size)
            file.seek(0, os.SEEK_END)
            for block in blocks:
                content = block.astype("<f4", copy=False).tobytes()
                hasher.update(content)
                file.write(content)
        fsync(self.path)
        fsync(self.path.parent)
        return hasher.hexdigest()

    def cut(self, count: int) -> None:
        """Free the room of the vectors after the first `count`, if the disk allows it."""
        with suppress(OSError):
            os.truncate(self.path, count * self._size)

    def open(self, count: int) -> Vectors:
        """The first `count` vectors, memory-mapped.

        Raises:
            UserError: the file is missing or too short.
        """
        if not count:
            return np.empty((0, self.dimension), dtype=np.float32)
        try:
            size = self.path.stat().st_size
        except FileNotFoundError as error:
            raise damaged(self.path.parent, f"no {self.path.name}") from error
        if size < count * self._size:
            raise damaged(self.path.parent, f"{self.path.name} of {size:,} bytes, fewer than {count * self._size:,}")
        mapped = np.memmap(self.path, dtype="<f4", mode="r", shape=(count, self.dimension))
        return np.asarray(mapped)  # a plain array: picking rows from it makes no further maps

    def blocks(self, start: int, end: int) -> Iterator[Vectors]:
        """Vectors block by block, read and not mapped, so that a pass over all takes no memory."""
        with self.path.open("rb") as file:
            file.seek(start * self._size)
            for first in range(start, end, _BLOCK):
                count = min(_BLOCK, end - first) * self.dimension
                yield np.fromfile(file, dtype="<f4", count=count).reshape(-1, self.dimension)

    def check(self, segments: Iterable[tuple[int, int, str]]) -> None:
        """Compare every byte with the digests.

        Raises:
            UserError: a difference.
        """
        for start, rows, digest in segments:
            hasher = hashlib.blake2b(digest_size=16)
            for block in self.blocks(start, start + rows):
                hasher.update(block.tobytes())
            if hasher.hexdigest() != digest:
                raise damaged(self.path.parent, f"other content in {self.path.name}")

    @property
    def _size(self) -> int:
        return 4 * self.dimension


@dataclass(frozen=True, kw_only=True)
class Codes:
    """The approximate index of the first `count` vectors.

    Attributes:
        faiss: FAISS's index.
        count: vectors in it.
    """

    faiss: Any
    count: int

    @classmethod
    def read(cls, folder: Path, facts: Facts) -> Codes:
        """Open the file.

        Raises:
            UserError: it is missing or damaged.
            MissingExtra: FAISS is not installed.
        """
        path, faiss = folder / facts.codes_name, import_faiss()
        if not path.is_file():
            raise damaged(folder, f"no {path.name}")
        try:
            index = faiss.read_index(str(path))
        except RuntimeError as error:
            raise damaged(folder, f"{path.name} that FAISS cannot read") from error
        if index.ntotal != facts.codes:
            raise damaged(folder, f"{path.name} with {index.ntotal:,} vectors")
        return cls(faiss=index, count=facts.codes)

    @classmethod
    def grown(cls, folder: Path, facts: Facts) -> Codes:
        """Code all vectors, from scratch or after those that are coded, and write the codes durably."""
        file = VectorFile(folder, facts)
        index = cls.read(folder, facts).faiss if facts.codes else _trained(file, facts.positions)
        for block in file.blocks(facts.codes, facts.positions):
            index.add(block)
        return cls._written(index, folder, facts)

    def again(self, folder: Path, facts: Facts) -> Codes:
        """The same code books for the vectors of another file."""
        self.faiss.reset()
        for block in VectorFile(folder, facts).blocks(0, facts.positions):
            self.faiss.add(block)
        return self._written(self.faiss, folder, facts)

    @classmethod
    def _written(cls, index: Any, folder: Path, facts: Facts) -> Codes:
        path = folder / replace(facts, codes=facts.positions).codes_name
        write_atomic(path, import_faiss().serialize_index(index).tobytes())
        return cls(faiss=index, count=facts.positions)

    def candidates(self, queries: Vectors, count: int) -> Ids:
        """Places (Q, count) of the best codes, -1 where there are fewer."""
        return np.asarray(self.faiss.search(queries, min(count, self.count))[1], dtype=np.int64)


def _trained(file: VectorFile, count: int) -> Any:
    """An empty index whose code books fit an evenly spaced sample."""
    faiss = import_faiss()
    step = max(1, count // _SAMPLE)
    sample = np.ascontiguousarray(np.concatenate([block[::step].copy() for block in file.blocks(0, count)]))
    width = file.dimension
    # A scan takes as long as its bytes take from memory: four numbers a code book need four times the candidates of
    # three for the same recall, and are faster all the same, because comparing a candidate exactly costs 0.4 us.
    each = next(count for count in ((4, 3, 2, 1) if width > _WIDE else (2, 1)) if width % count == 0)
    index = faiss.IndexPQFastScan(width, width // each, 4, faiss.METRIC_INNER_PRODUCT)
    index.train(sample)
    return index


def exact(
    vectors: Vectors | Iterable[Vectors], queries: Vectors, top_k: int, ids: Ids | None = None
) -> tuple[Vectors, Ids]:
    """Cosines and places, each (Q, min(K, N)), of the nearest vectors, best first; of equals, the lower place first.

    Args:
        vectors: unit vectors (N, H), which may be a memory map, or all of them block by block.
        queries: unit vectors (Q, H).
        top_k: K.
        ids: places to look at, in order; None for all.
    """
    scores = np.empty((len(queries), 0), dtype=np.float32)
    places = np.empty((len(queries), 0), dtype=np.int64)
    for rows, products in _products(vectors, queries, ids):
        here = np.broadcast_to(rows, products.shape)
        scores, places = best(np.concatenate([scores, products], 1), np.concatenate([places, here], 1), top_k)
    return scores, places


def _products(vectors: Vectors | Iterable[Vectors], queries: Vectors, ids: Ids | None) -> Iterator[tuple[Ids, Vectors]]:
    """Block by block, n places and the cosines (Q, n) of their vectors."""
    if isinstance(vectors, np.ndarray) and ids is not None and len(ids) < len(vectors) / 4:
        for first in range(0, len(ids), _BLOCK):
            rows = ids[first : first + _BLOCK]
            yield rows, as_cosines(picked_products(vectors, rows, queries))
        return
    start = 0
    for block in _cut(vectors) if isinstance(vectors, np.ndarray) else vectors:
        products = as_cosines(queries @ block.T)
        rows, start = np.arange(start, start + len(block)), start + len(block)
        if ids is not None:  # all products of a block cost less than a copy of most of its vectors
            chosen = ids[slice(*np.searchsorted(ids, (rows[0], start)))]
            rows, products = chosen, products[:, chosen - rows[0]]
        yield rows, products


def picked_products(vectors: Vectors, rows: Ids, queries: Vectors) -> Vectors:
    """Inner products (Q, n) of queries with some rows.

    One query goes without BLAS, whose threads take longer to wake up (up to 15 ms on a busy machine) than the product.
    """
    picked = vectors[rows]
    return np.einsum("qh,nh->qn", queries, picked) if len(queries) == 1 else queries @ picked.T


def _cut(vectors: Vectors) -> Iterator[Vectors]:
    for start in range(0, len(vectors), _BLOCK):
        yield vectors[start : start + _BLOCK]
