"""How well an encoder finds documents: MRR, recall and nDCG over queries whose relevant documents are known.

Relevance comes from judgments (`beir.read_beir`) or, without any labels, from the documents themselves: a span of a
document looks for the rest of its own document among all documents (`spans`).

Legend: `Q` queries, `D` documents, `R` relevant documents of a query, `H` hidden, `b` queries of a block.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from diffcse.errors import UserError
from diffcse.evaluation.embed import Encoder, embed
from diffcse.vectors import unit

Pair = tuple[str, str]
Float = NDArray[np.float64]

METRICS = ("ndcg_at_10", "mrr", "recall_at_1", "recall_at_10", "recall_at_100")
"""Names of the scores, the first being the one that encoders are compared by."""

_BLOCK_VALUES = 2**24
_DOCUMENTS = 2**16
_TIE = 1e-9


class Scorer(Protocol):
    """Anything that ranks documents without vectors, such as BM25."""

    def scores(self, queries: Sequence[str], documents: Sequence[str], /) -> Iterator[Float]:
        """Scores of every query against every document, in blocks (b, D), higher is better."""


@dataclass(frozen=True)
class Retrieval:
    """Queries, documents, and which documents answer which query.

    Attributes:
        queries: Q texts.
        documents: D texts.
        relevant: for each query, the positions of its relevant documents and their grade, above 0.

    Raises:
        UserError: no queries, fewer than two documents, only empty documents, or a query without a relevant document.
    """

    queries: list[str]
    documents: list[str]
    relevant: list[dict[int, float]]

    def __post_init__(self) -> None:
        """Check that there is something to find."""
        if len(self.documents) < 2 or not any(document.strip() for document in self.documents):
            got = f"{sum(bool(document.strip()) for document in self.documents)} with text"
            raise UserError("documents to search", "at least 2, not all empty", got, "add documents")
        if not self.queries or len(self.queries) != len(self.relevant):
            got = f"{len(self.queries)} queries, {len(self.relevant)} with judgments"
            raise UserError("queries", "at least 1, each with judgments", got, "judge a document for every query")
        for query, grades in zip(self.queries, self.relevant, strict=True):
            known = all(0 <= document < len(self.documents) for document in grades)
            if not grades or not known or min(grades.values()) <= 0:
                do = "remove the query, or give a relevant document with a grade above 0"
                raise UserError(f"relevant documents of {query[:40]!r}", "known, graded above 0", grades, do)


@dataclass(frozen=True, kw_only=True)
class RetrievalScores:
    """How well the relevant documents are found; fractions from 0 to 1, means over the queries."""

    mrr: float
    """Mean of 1 / rank of the first relevant document."""
    recall_at_1: float
    """Share of a query's relevant documents that rank first."""
    recall_at_10: float
    """Share among the first ten."""
    recall_at_100: float
    """Share among the first hundred."""
    ndcg_at_10: float
    """Normalised discounted cumulative gain of the first ten (Järvelin & Kekäläinen, 2002), gain = grade."""
    queries: int
    """Number of queries."""
    per_query: Mapping[str, Float] = field(compare=False, repr=False)
    """Each of the above by query, shape (Q,), in the task's order; for intervals and paired tests."""


def score(task: Retrieval, encoder: Encoder | Scorer) -> RetrievalScores:
    """Rank all documents for each query.

    A tie counts against the encoder, so that one that maps everything to one point scores nothing. Queries and
    documents get the prompts that the model has for them.

    Args:
        task: what to find.
        encoder: gives vectors, which are compared by cosine, or scores by itself (`lexical.BM25`).

    Raises:
        UserError: vectors that are not finite or not of the right shape.
    """
    blocks = encoder.scores(task.queries, task.documents) if hasattr(encoder, "scores") else _cosines(task, encoder)
    rows = (row for block in blocks for row in block)
    figures = np.array([_metrics(row, grades) for row, grades in zip(rows, task.relevant, strict=True)])  # (Q, 5)
    per_query = dict(zip(METRICS, figures.T, strict=True))
    means = {name: float(values.mean()) for name, values in per_query.items()}
    return RetrievalScores(**means, queries=len(task.queries), per_query=per_query)


def spans(documents: Sequence[Sequence[str]], *, sentences: int = 1, seed: int = 0) -> Retrieval:
    """A task without labels: a span of each document looks for the rest of the document.

    The span is cut out of its document, so that it cannot be found by its own words. Documents that are not longer
    than the span are searched, but nothing looks for them.

    Args:
        documents: the sentences of each document, in order.
        sentences: length of a span.
        seed: chooses the spans.

    Raises:
        UserError: no document is longer than a span.
    """
    rng = np.random.default_rng(seed)
    queries, rests, relevant = [], [], []
    for number, document in enumerate(documents):
        start = int(rng.integers(0, max(len(document) - sentences + 1, 1)))
        stop = start + sentences
        if len(document) > sentences:
            queries.append(" ".join(document[start:stop]))
            relevant.append({number: 1.0})
            document = [*document[:start], *document[stop:]]
        rests.append(" ".join(document))
    if not queries:
        do = "add longer documents"
        raise UserError("documents", f"longer than {sentences} sentences, at least one", "none of them", do)
    return Retrieval(queries, rests, relevant)


def retrieval(encoder: Encoder | Scorer, pairs: Sequence[Pair]) -> RetrievalScores:
    """Find the second text of each pair among all second texts.

    Args:
        encoder: gives vectors of shape (N, H) for N sentences.
        pairs: (summary, next sentence).

    Raises:
        UserError: for fewer than two pairs, or vectors that are not finite or not of that shape.
    """
    if len(pairs) < 2:
        raise UserError("pairs", "at least 2", len(pairs), "install more packages, or give other roots")
    first, second = zip(*pairs, strict=True)
    return score(Retrieval(list(first), list(second), [{number: 1.0} for number in range(len(pairs))]), encoder)


def _metrics(scores: Float, grades: Mapping[int, float]) -> list[float]:
    """Of one query, in the order of `METRICS`; scores has shape (D,)."""
    ranks, gains = _ranks(scores, grades)
    first = np.sort(np.array(list(grades.values())))[::-1][:10]
    ideal = first @ (1 / np.log2(np.arange(len(first)) + 2))
    dcg = (gains / np.log2(ranks + 1))[ranks <= 10].sum()
    return [dcg / ideal, 1 / ranks[0], *((ranks <= cut).mean() for cut in (1, 10, 100))]


def _ranks(scores: Float, grades: Mapping[int, float]) -> tuple[NDArray[np.int64], Float]:
    """Ranks (R,), ascending, and grades of the relevant documents."""
    relevant, gains = np.array(list(grades)), np.array(list(grades.values()), dtype=np.float64)
    # Among the relevant ones a tie puts the lower grade first; equality up to rounding is a tie.
    order = np.lexsort((gains, -np.round(scores[relevant], 9)))
    relevant, gains = relevant[order], gains[order]
    lowest = scores[relevant] - _TIE
    others = np.ones(len(scores), dtype=bool)
    others[relevant] = False
    rivals = np.sort(scores[others & (scores >= lowest.min())])
    # An irrelevant document ranks before every relevant one that it ties with.
    before = len(rivals) - np.searchsorted(rivals, lowest, side="left")
    return before + np.arange(1, len(relevant) + 1), gains


def _cosines(task: Retrieval, encoder: Any) -> Iterator[Float]:
    queries, documents = _unit(encoder, task.queries, "query"), _unit(encoder, task.documents, "document")
    size = max(_BLOCK_VALUES // len(documents), 1)
    for start in range(0, len(queries), size):
        block = queries[start : start + size].astype(np.float64)
        parts = (documents[first : first + _DOCUMENTS] for first in range(0, len(documents), _DOCUMENTS))
        yield np.concatenate([block @ part.astype(np.float64).T for part in parts], axis=1)


def _unit(encoder: Any, texts: list[str], role: Literal["query", "document"]) -> NDArray[Any]:
    """Vectors of length 1, shape (N, H), with the model's prompt for the role where it has one."""
    encode = getattr(encoder, f"encode_{role}", None) or encoder.encode
    vectors = embed(encode, texts)(texts)
    return unit(vectors, vectors.dtype)
