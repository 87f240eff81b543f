"""How well an encoder finds a text's own continuation: ranks by cosine, no labels needed.

Legend: `N` pairs, `H` hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffcse.errors import UserError
from diffcse.evaluation.embed import Encoder, embed

Pair = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class RetrievalScores:
    """How well each summary finds its own next sentence; fractions from 0 to 1."""

    mrr: float
    """Mean of 1 / rank."""
    recall_at_1: float
    """Share whose next sentence ranks first."""
    recall_at_10: float
    """Share whose next sentence is among the first ten."""
    pairs: int
    """Number of pairs."""


def retrieval(encoder: Encoder, pairs: Sequence[Pair]) -> RetrievalScores:
    """Rank the next sentences of all descriptions by cosine with each summary.

    A tie counts against the encoder, so that one that maps everything to one point scores nothing.

    Args:
        encoder: gives vectors of shape (N, H) for N sentences.
        pairs: (summary, next sentence), N of them.

    Raises:
        UserError: for fewer than two pairs, or vectors that are not finite or not of that shape.
    """
    if len(pairs) < 2:
        raise UserError("pairs", "at least 2", len(pairs), "install more packages, or give other roots")
    summaries, following = zip(*pairs, strict=True)
    embedded = embed(encoder.encode, [*summaries, *following])
    cosines = _unit(embedded(summaries)) @ _unit(embedded(following)).T  # (N, N)
    ranks = (cosines >= cosines.diagonal()[:, None] - 1e-9).sum(axis=1)
    return RetrievalScores(
        mrr=float((1 / ranks).mean()),
        recall_at_1=float((ranks <= 1).mean()),
        recall_at_10=float((ranks <= 10).mean()),
        pairs=len(pairs),
    )


def _unit(vectors: NDArray[Any]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return vectors / np.maximum(lengths, 1e-12)
