"""The paper's analyses of one encoder on STSBenchmark: alignment and uniformity, cosines by gold score, retrieval.

Legend: `P` pairs, `S` sentences, `H` hidden.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffcse.errors import UserError
from diffcse.evaluation.embed import Embedded
from diffcse.evaluation.sts import cosines
from diffcse.evaluation.tasks import ScoredPairs
from diffcse.training.criteria import alignment, uniformity
from diffcse.vectors import unit

POSITIVE_ABOVE = 4.0
"""Pairs rated above this are positives for alignment (Gao et al., 2021, section 5)."""

SAME_MEANING = 5.0
"""Pairs rated so find each other in the retrieval (Chuang et al., 2022, section 6.4)."""

_BINS = 100
_CUTS = (1, 5, 10)
_EQUAL = 1e-6
_QUERIES = 6
_NEAREST = 4

Float = NDArray[np.float64]


def analyse(embedded: Embedded, pairs: ScoredPairs, *, split: str = "test") -> dict[str, Any]:
    """All analyses, as plain data.

    Args:
        embedded: vectors of all sentences of `pairs`.
        pairs: STSBenchmark's test split in the paper.
        split: its name, for the results.

    Raises:
        UserError: no pair is rated high enough.
    """
    first, second = (unit(embedded(texts), np.float64) for texts in (pairs.first, pairs.second))
    positive = pairs.scores > POSITIVE_ABOVE
    same = pairs.scores >= SAME_MEANING
    if not positive.any() or not same.any():
        got = f"{int(positive.sum())} above {POSITIVE_ABOVE:g} and {int(same.sum())} at {SAME_MEANING:g}"
        raise UserError("pairs for the analyses", "rated up to 5", got, "use STSBenchmark's file")
    return {
        "data": f"STSBenchmark {split}",
        "alignment": alignment(first[positive], second[positive]),
        "uniformity": uniformity(np.vstack([first, second])),
        "positive_pairs": int(positive.sum()),
        "histogram": histogram(cosines(embedded, pairs), pairs.scores),
        "retrieval": retrieval(first, second, same),
        "neighbours": neighbours(embedded, pairs, same),
    }


def histogram(similarity: Float, scores: Float) -> dict[str, Any]:
    """Cosines (P,) of pairs with gold scores (P,), counted in bins from -1 to 1 for each range of scores.

    Ranges are [0, 1), [1, 2), [2, 3), [3, 4) and [4, 5].
    """
    edges = np.linspace(-1, 1, _BINS + 1)
    level = np.clip(np.floor(scores), 0, 4)
    inside = np.clip(similarity, -1, 1)  # rounding may leave a cosine just outside
    counts = {f"{low}-{low + 1}": np.histogram(inside[level == low], edges)[0].tolist() for low in range(5)}
    return {"edges": edges.tolist(), "counts": counts}


def retrieval(first: Float, second: Float, same: NDArray[np.bool_]) -> dict[str, Any]:
    """Recall of the other sentence of a pair of the same meaning, among all other sentences.

    Both sentences of such a pair are queries: 2 x 97 among 2,758 in STSBenchmark's test split, the query itself left
    out. A sentence counts as nearer only if its cosine is larger by more than rounding, so copies do no harm.

    Args:
        first: unit vectors (P, H).
        second: likewise.
        same: which pairs have the same meaning, (P,).
    """
    corpus = np.vstack([first, second])
    rows = np.flatnonzero(same)
    queries = np.concatenate([rows, rows + len(first)])
    partners = np.concatenate([rows + len(first), rows])
    similarity = corpus[queries] @ corpus.T  # (queries, 2P)
    similarity[np.arange(len(queries)), queries] = -np.inf
    target = similarity[np.arange(len(queries)), partners]
    nearer = (similarity > target[:, None] + _EQUAL).sum(axis=1)
    recall = {f"recall@{cut}": float((nearer < cut).mean()) for cut in _CUTS}
    return {**recall, "queries": len(queries), "sentences": len(corpus)}


def neighbours(embedded: Embedded, pairs: ScoredPairs, same: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """What some sentences are nearest to, for people to read: the first ones of pairs of the same meaning.

    Each has `query`, `partner` (the sentence of the same meaning), its `rank` among all other sentences, and `nearest`,
    a list of `sentence` and `cosine`. The queries are spread evenly over the pairs whose sentences differ.

    Args:
        embedded: vectors of all sentences.
        pairs: the pairs.
        same: which pairs have the same meaning, (P,).
    """
    texts = list(dict.fromkeys(pairs.sentences()))
    vectors = unit(embedded(texts), np.float64)
    rows = [row for row in np.flatnonzero(same) if pairs.first[row] != pairs.second[row]]
    queries = []
    for row in rows[:: max(1, len(rows) // _QUERIES)][:_QUERIES]:
        query, partner = pairs.first[row], pairs.second[row]
        similarity = vectors @ vectors[texts.index(query)]
        order = [i for i in np.argsort(-similarity, kind="stable") if texts[i] != query]
        nearest = [{"sentence": texts[i], "cosine": float(similarity[i])} for i in order[:_NEAREST]]
        rank = order.index(texts.index(partner)) + 1
        queries.append({"query": query, "partner": partner, "rank": rank, "nearest": nearest})
    return queries
