"""Arithmetic on rows of vectors: length 1, cosines, exact search, FAISS where it is installed, and smaller vectors.

Legend: `N` indexed vectors, `Q` queries, `K` neighbours, `H` hidden.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffcse.errors import MissingExtra, UserError

Vectors = NDArray[np.float32]

_BLOCK = 64
"""Queries whose scores are held at once: 64 x N floats."""

_ROWS = 65_536
"""Rows of stored small numbers that are float32 at once."""

_ROUNDING = 1e-6
"""How far from 1 the float32 product of two equal unit vectors may end."""


def import_faiss() -> Any:
    """The module `faiss`.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        return importlib.import_module("faiss")
    except ModuleNotFoundError as error:
        raise MissingExtra("FAISS", "faiss", "search") from error


def unit(vectors: NDArray[Any], dtype: Any = np.float32) -> NDArray[Any]:
    """Each row of (N, H) scaled to length 1, as float32 or another type; rows of zeros stay zero.

    >>> unit(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    wide = vectors.astype(np.float64, copy=False) if dtype == np.float64 else vectors
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    return (wide / np.where(lengths > 0, lengths, 1)).astype(dtype, copy=False)


def as_cosines(products: NDArray[Any]) -> Vectors:
    """Products of unit vectors as cosines: never above 1, and exactly 1 for equal vectors.

    The product of a float32 unit vector with itself is 1 to rounding, so that a threshold of 1 would miss exact copies
    and a similarity could exceed 1.

    >>> as_cosines(np.array([1.0000002, 0.9999998, 0.5, -1.0000001])).tolist()
    [1.0, 1.0, 0.5, -1.0]
    """
    cosines = np.asarray(products, dtype=np.float32)
    return np.where(np.abs(cosines) > 1 - _ROUNDING, np.sign(cosines), cosines)


def cosines(first: NDArray[Any], second: NDArray[Any]) -> Vectors:
    """Cosine similarities (N, M) of the rows of (N, H) and (M, H), within -1 and 1; 0 where a row is zero."""
    return as_cosines(unit(first) @ unit(second).T)


def exact_search(vectors: NDArray[Any], queries: Vectors, top_k: int) -> tuple[Vectors, NDArray[np.int64]]:
    """Scores and rows, each (Q, min(K, N)), of the largest inner products, best first; of equals, the lower row first.

    Args:
        vectors: (N, H), float32 or smaller numbers.
        queries: (Q, H).
        top_k: K.
    """
    count = min(top_k, len(vectors))
    scores = np.empty((len(queries), count), dtype=np.float32)
    rows = np.empty((len(queries), count), dtype=np.int64)
    for start in range(0, len(queries), _BLOCK) if count else ():
        block = slice(start, start + _BLOCK)
        products = _products(queries[block], vectors)
        scores[block], rows[block] = best(products, np.broadcast_to(np.arange(len(vectors)), products.shape), count)
    return scores, rows


def _products(queries: Vectors, vectors: NDArray[Any]) -> Vectors:
    """Inner products (Q, N); stored numbers of another type are converted a part at a time."""
    if vectors.dtype == np.float32:
        return queries @ vectors.T
    starts = range(0, len(vectors), _ROWS)
    return np.concatenate([queries @ vectors[at : at + _ROWS].astype(np.float32).T for at in starts], axis=1)


def best(scores: Vectors, places: NDArray[np.int64], top_k: int) -> tuple[Vectors, NDArray[np.int64]]:
    """The `top_k` largest of each row and their places, best first; of equals, the lower place first.

    Args:
        scores: (Q, N).
        places: (Q, N), what each score stands for.
        top_k: at most N are given.
    """
    if scores.shape[1] > top_k:
        # All that equal the last of the best stay in for the sort, so that ties are decided by place.
        cut = np.partition(scores, scores.shape[1] - top_k, axis=1)[:, scores.shape[1] - top_k]
        width = int((scores >= cut[:, None]).sum(axis=1).max())
        chosen = np.argpartition(-scores, width - 1, axis=1)[:, :width]
        scores, places = np.take_along_axis(scores, chosen, 1), np.take_along_axis(places, chosen, 1)
    order = np.lexsort((places, -scores), axis=1)[:, :top_k]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(places, order, 1)


def shortened(vectors: NDArray[Any], dims: int) -> Vectors:
    """The first `dims` numbers of each row, scaled to length 1 (Matryoshka truncation; Kusupati et al., 2022).

    Args:
        vectors: (N, H).
        dims: at most H.

    Raises:
        UserError: more numbers than there are.
    """
    check_dims(dims, vectors.shape[1])
    return unit(vectors[:, :dims])


def check_dims(dims: int, width: int) -> None:
    """Refuse more numbers than a vector has.

    Raises:
        UserError: `dims` is not between 1 and `width`.
    """
    if not 1 <= dims <= width:
        raise UserError("dims", f"between 1 and {width}, the model's width", dims, "give a smaller number")


@dataclass(frozen=True, kw_only=True)
class Int8Scale:
    """Linear 8-bit code of each dimension: code = round((value - lowest) / step) - 128.

    The same form as sentence-transformers' `quantize_embeddings(precision="int8")`, but rounded, not cut, which halves
    the largest error. `step` is never 0, so that a dimension that does not vary is exact.

    Attributes:
        lowest: smallest value of each dimension, (H,).
        step: width of a code, (H,).
    """

    lowest: Vectors
    step: Vectors

    @classmethod
    def calibrated(cls, vectors: Vectors) -> Int8Scale:
        """The scale that covers every value of a sample (N, H) of the vectors that will be stored."""
        if not len(vectors):
            raise UserError("calibration vectors", "at least one", "none", "give some of the stored vectors")
        lowest, highest = vectors.min(axis=0), vectors.max(axis=0)
        step = (highest - lowest) / np.float32(255)
        return cls(lowest=lowest, step=np.where(step > 0, step, 1).astype(np.float32))

    def encode(self, vectors: Vectors) -> NDArray[np.int8]:
        """Codes (N, H); values outside of the calibrated range become the nearest code."""
        codes = np.rint((vectors - self.lowest) / self.step) - 128
        return np.clip(codes, -128, 127).astype(np.int8)

    def decode(self, codes: NDArray[np.int8]) -> Vectors:
        """The values (N, H) that the codes stand for, within half a step where they were in range."""
        return (codes.astype(np.float32) + 128) * self.step + self.lowest

    def search(self, codes: NDArray[np.int8], queries: Vectors, top_k: int) -> tuple[Vectors, NDArray[np.int64]]:
        """As `exact_search` over the decoded vectors, without decoding them.

        q . ((c + 128) step + lowest) = (q step) . c + a constant of the query.
        """
        scaled = queries * self.step
        constant = (128 * scaled + queries * self.lowest).sum(axis=1, keepdims=True)
        scores, rows = exact_search(codes, scaled, top_k)
        return scores + constant, rows


def binary(vectors: NDArray[Any]) -> NDArray[np.uint8]:
    """One bit for each number, 1 where it is positive: (N, H) to (N, ceil(H / 8)), as `np.packbits` orders them."""
    return np.packbits(vectors > 0, axis=1)


def binary_search(
    codes: NDArray[np.uint8],
    queries: Vectors,
    top_k: int,
    *,
    vectors: NDArray[Any] | None = None,
    oversample: int = 4,
) -> tuple[Vectors, NDArray[np.int64]]:
    """The nearest binary codes of each query, scored again more exactly: scores and rows, each (Q, min(K, N)).

    Candidates are the rows with the smallest Hamming distance. With `vectors` (float vectors, which may be a memory
    map) they are scored by the exact inner product; without, by the product of the query with the code's signs.

    Args:
        codes: of the N indexed vectors, from `binary`.
        queries: (Q, H).
        top_k: K.
        vectors: the indexed vectors themselves, (N, H).
        oversample: candidates for each result.

    Raises:
        UserError: codes of another width than the queries.
    """
    width = queries.shape[1]
    if codes.shape[1] != -(-width // 8):
        raise UserError("codes", f"of vectors of {width} numbers, as queries are", codes.shape[1] * 8, "use one model")
    count = min(top_k, len(codes))
    scores, rows = np.empty((len(queries), count), np.float32), np.empty((len(queries), count), np.int64)
    if not count:
        return scores, rows
    for number, (query, code) in enumerate(zip(queries, binary(queries), strict=True)):
        distances = np.bitwise_count(codes ^ code).sum(axis=1, dtype=np.int32)
        _, candidates = best(-distances[None], np.arange(len(codes))[None], count * oversample)
        exact = _signs(codes[candidates[0]], width) if vectors is None else vectors[candidates[0]]
        order = np.lexsort((candidates[0], -(products := exact.astype(np.float32) @ query)))[:count]
        scores[number], rows[number] = products[order], candidates[0][order]
    return scores, rows


def _signs(codes: NDArray[np.uint8], width: int) -> Vectors:
    """The unit vector whose numbers have the code's signs and one size."""
    bits = np.unpackbits(codes, axis=1, count=width).astype(np.float32)
    return (2 * bits - 1) / np.float32(width**0.5)
