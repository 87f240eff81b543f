"""What an adaptation comes to: figures on the documents that report, and which model is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffcse.adaptation.blend import START, Candidate, Measured, Remembering, better
from diffcse.adaptation.questions import SENTENCE
from diffcse.evaluation.lexical import BM25, TfIdf
from diffcse.evaluation.retrieval import Retrieval, RetrievalScores, Scorer, score
from diffcse.evaluation.statistics import Paired, paired
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
    """Figures on documents that nothing was trained on.

    Attributes:
        kept: whether the adapted model is kept; else the start is.
        chosen: the form of the model that was chosen, as measured on the documents that choose.
        start: the start on the documents that report.
        adapted: the chosen form on them.
        together: difference of the chosen form from the start in MRR, by kind, on all held-out documents.
        lexical: BM25 and TF-IDF on them, by kind of question.
        candidates: everything that was measured on the documents that choose, the start first.
        searches: the questions whose answers changed most.
        documents: how many report.
    """

    kept: bool
    chosen: Candidate
    start: Candidate
    adapted: Candidate
    together: Mapping[str, Paired]
    lexical: Mapping[str, Mapping[str, RetrievalScores]]
    candidates: Sequence[Candidate]
    searches: Sequence[Search]
    documents: int

    def words(self) -> str:
        """The decision in a sentence."""
        bounds = self.adapted.against_start[SENTENCE].words()
        if self.kept:
            return (
                f"kept: the adapted model ({self.chosen.form.words()}), {bounds} MRR over the start; "
                f"{self.together[SENTENCE].words()} on all held-out documents"
            )
        why = "on the documents that choose" if not self.chosen.better else "on all held-out documents"
        return f"kept: the start; training did not show a gain {why} ({bounds} MRR on the documents that report)"


def reach(candidates: Sequence[Candidate], chosen: Candidate, reported: Measured) -> Verdict:
    """Compare the chosen form with the start, and both with counting words.

    The chosen form is kept if it was better beyond chance where it was chosen, if it is better on the documents that
    report too, and beyond chance on both together. Half of the documents alone miss gains that are there: with some
    200 questions the interval of a difference is 4 points wide.

    Args:
        candidates: as measured on the documents that choose.
        chosen: one of them.
        reported: the start and the chosen form on the documents that report.
    """
    (start, adapted), tasks = reported.candidates, reported.tasks
    together = {kind: _together(chosen, adapted, candidates[0], start, kind) for kind in adapted.scores}
    gained = adapted.against_start[SENTENCE].difference > 0 if together else False
    systems: dict[str, Scorer] = {"BM25": BM25(), "TF-IDF": TfIdf()}
    return Verdict(
        kept=chosen.better and gained and better(together),
        chosen=chosen,
        start=start,
        adapted=adapted,
        together=together,
        lexical={name: {kind: score(task, system) for kind, task in tasks.items()} for name, system in systems.items()},
        candidates=candidates,
        searches=_changed(tasks[SENTENCE], reported.memories[START], reported.memories[chosen.form]),
        documents=len(tasks[SENTENCE].documents),
    )


def _together(chosen: Candidate, adapted: Candidate, first: Candidate, start: Candidate, kind: str) -> Paired:
    """The difference from the start over the questions that choose and those that report."""
    after, before = (
        np.concatenate([one.scores[kind].per_query["mrr"], other.scores[kind].per_query["mrr"]])
        for one, other in ((chosen, adapted), (first, start))
    )
    return paired(after, before)


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
