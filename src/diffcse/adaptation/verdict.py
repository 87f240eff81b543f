"""What an adaptation comes to: figures on the documents that report, and which model is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffcse.adaptation.blend import Candidate, Remembering
from diffcse.adaptation.questions import SENTENCE
from diffcse.evaluation.lexical import BM25, TfIdf
from diffcse.evaluation.retrieval import Retrieval, RetrievalScores, Scorer, score
from diffcse.vectors import unit

MOST_SEARCHES = 6
HITS = 3


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A document that a search found.

    Attributes:
        text: the document without the question's sentence.
        cosine: -1 to 1.
        right: whether the question is from it.
    """

    text: str
    cosine: float
    right: bool


@dataclass(frozen=True, kw_only=True)
class Search:
    """A question before and after.

    Attributes:
        question: a sentence of a held-out document.
        before: hits of the start, best first.
        after: hits of the adapted model.
        ranks: of the right document, before and after, from 1.
    """

    question: str
    before: tuple[Hit, ...]
    after: tuple[Hit, ...]
    ranks: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Figures on documents that nothing was trained on or chosen by.

    Attributes:
        kept: whether the adapted model is kept; else the start is.
        chosen: the blend that was chosen, as measured on the documents that choose.
        start: the start on the documents that report.
        adapted: the chosen blend on them.
        lexical: BM25 and TF-IDF on them, by kind of question.
        candidates: everything that was measured on the documents that choose, the start first.
        searches: the questions whose answers changed most.
        documents: how many report.
    """

    kept: bool
    chosen: Candidate
    start: Candidate
    adapted: Candidate
    lexical: Mapping[str, Mapping[str, RetrievalScores]]
    candidates: Sequence[Candidate]
    searches: Sequence[Search]
    documents: int

    def words(self) -> str:
        """The decision in a sentence."""
        difference = self.adapted.against_start[SENTENCE]
        interval = f"{100 * difference.difference:+.1f} [{100 * difference.low:+.1f}, {100 * difference.high:+.1f}] MRR"
        if self.kept:
            return (
                f"kept: the adapted model ({self.chosen.share:.0%} of the trained weights), {interval} over the start"
            )
        why = "on the documents that choose" if not self.chosen.better else "on the documents that report"
        return f"kept: the start; training did not show a gain {why} ({interval})"


def reach(
    candidates: Sequence[Candidate],
    chosen: Candidate,
    reported: Sequence[Candidate],
    memories: Mapping[float, Remembering],
    tasks: Mapping[str, Retrieval],
) -> Verdict:
    """Compare the chosen blend with the start, and both with counting words.

    Args:
        candidates: as measured on the documents that choose.
        chosen: one of them.
        reported: the start and the chosen blend on the documents that report.
        memories: what these two encoded, by share.
        tasks: the questions that report, by kind.
    """
    start, adapted = reported
    systems: dict[str, Scorer] = {"BM25": BM25(), "TF-IDF": TfIdf()}
    return Verdict(
        kept=chosen.better and adapted.better,
        chosen=chosen,
        start=start,
        adapted=adapted,
        lexical={name: {kind: score(task, system) for kind, task in tasks.items()} for name, system in systems.items()},
        candidates=candidates,
        searches=_changed(tasks[SENTENCE], memories[0.0], memories[chosen.share]),
        documents=len(tasks[SENTENCE].documents),
    )


def _changed(task: Retrieval, before: Remembering, after: Remembering) -> tuple[Search, ...]:
    """The searches whose 1 / rank changed most, for better or worse, those that gained first."""
    cosines = [_cosines(task, memory) for memory in (before, after)]
    right = np.array([next(iter(grades)) for grades in task.relevant])
    ranks = [1 + (c > np.take_along_axis(c, right[:, None], 1)).sum(axis=1) for c in cosines]
    change = 1 / ranks[1] - 1 / ranks[0]
    order = np.argsort(-np.abs(change), kind="stable")[:MOST_SEARCHES]
    order = order[np.argsort(-change[order], kind="stable")]
    return tuple(
        Search(
            question=task.queries[row],
            before=_hits(task, cosines[0][row], right[row]),
            after=_hits(task, cosines[1][row], right[row]),
            ranks=(int(ranks[0][row]), int(ranks[1][row])),
        )
        for row in order
        if change[row]
    )


def _cosines(task: Retrieval, memory: Remembering) -> Any:
    """Of every question and document, (Q, D)."""
    queries, documents = memory.encode_query(task.queries), memory.encode_document(task.documents)
    return unit(queries, queries.dtype) @ unit(documents, documents.dtype).T


def _hits(task: Retrieval, cosines: Any, right: int) -> tuple[Hit, ...]:
    best = np.argsort(-cosines, kind="stable")[:HITS]
    return tuple(Hit(text=task.documents[row], cosine=float(cosines[row]), right=bool(row == right)) for row in best)
