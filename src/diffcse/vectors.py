"""Nearest unit vectors by comparison with all of them, and FAISS where it is installed.

Legend: `N` indexed vectors, `Q` queries, `K` neighbours, `H` hidden.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffcse.errors import MissingExtra

Vectors = NDArray[np.float32]

_BLOCK = 64
"""Queries whose scores are held at once: 64 x N floats."""


def import_faiss() -> Any:
    """The module `faiss`.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        return importlib.import_module("faiss")
    except ModuleNotFoundError as error:
        raise MissingExtra("FAISS", "faiss", "search") from error


def unit(vectors: NDArray[Any]) -> Vectors:
    """Each row of (N, H) scaled to length 1; rows of zeros stay zero.

    >>> unit(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32, copy=False)


def exact_search(vectors: Vectors, queries: Vectors, top_k: int) -> tuple[Vectors, NDArray[np.int64]]:
    """Scores and rows, each (Q, min(K, N)), of the largest inner products, best first; of equals, the lower row first.

    Args:
        vectors: (N, H).
        queries: (Q, H).
        top_k: K.
    """
    count = min(top_k, len(vectors))
    scores = np.empty((len(queries), count), dtype=np.float32)
    rows = np.empty((len(queries), count), dtype=np.int64)
    for start in range(0, len(queries), _BLOCK) if count else ():
        products = queries[start : start + _BLOCK] @ vectors.T
        best = np.argpartition(-products, count - 1, axis=1)[:, :count]
        found = np.take_along_axis(products, best, axis=1)
        order = np.lexsort((best, -found), axis=1)
        scores[start : start + _BLOCK] = np.take_along_axis(found, order, axis=1)
        rows[start : start + _BLOCK] = np.take_along_axis(best, order, axis=1)
    return scores, rows
