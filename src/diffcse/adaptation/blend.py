"""Means of the start's weights and the trained ones, which of them is kept, and when the start is kept instead.

A mean of both often finds more than either and forgets less of what the start knew (WiSE-FT; Wortsman et al., 2022).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from diffcse.adaptation.questions import SENTENCE
from diffcse.encoding.encode import Encoder
from diffcse.encoding.prompts import resolve_prompt
from diffcse.errors import UserError
from diffcse.evaluation.retrieval import Retrieval, RetrievalScores, score
from diffcse.evaluation.statistics import Paired, paired
from diffcse.persistence.save import insert_map, remove
from diffcse.vectors import unit

_SHARES = (0.125, 0.25, 0.5, 0.75)

State = dict[str, Tensor]


@dataclass(frozen=True)
class Form:
    """A form of the model that may be kept.

    Attributes:
        share: of the trained weights, 0 (the start) to 1.
        mapped: whether the lexical map follows the pooling.
    """

    share: float = 0.0
    mapped: bool = False

    def words(self) -> str:
        """What it is, for tables and progress."""
        weights = f"{100 * self.share:.3g}% of the trained weights" if self.share else "the start"
        return weights + (" and the lexical map" if self.mapped else "")


START = Form()


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A model that may be kept.

    Attributes:
        form: what it is.
        scores: by kind of question; empty where the model's vectors are not finite.
        against_start: paired differences of MRR from the start, by kind.
        agreement: share of the start's ten nearest documents that are also this model's, mean over documents, 0 to 1.
    """

    form: Form
    scores: Mapping[str, RetrievalScores]
    against_start: Mapping[str, Paired]
    agreement: float

    @property
    def better(self) -> bool:
        """Beyond chance better than the start at what decides, and not worse at any other kind of question."""
        return better(self.against_start)


def better(differences: Mapping[str, Paired]) -> bool:
    """Whether a model is better beyond chance at what decides, and not worse at any other kind of question.

    Args:
        differences: of MRR from the start, by kind; none for a model whose vectors are not finite.
    """
    return bool(differences) and differences[SENTENCE].low > 0 and all(d.high >= 0 for d in differences.values())


def shares(most: float) -> list[float]:
    """The shares of the trained weights that are tried, up to a largest one.

    >>> shares(0.5)
    [0.125, 0.25, 0.5]
    """
    return [share for share in _SHARES if share < most] + [most]


class Blends:
    """One encoder whose weights are set to any mean of a start's and trained ones, with or without a map behind it.

    Args:
        encoder: encodes with the start's model; its weights are changed in place.
        trained: weights of the same names and shapes.

    Attributes:
        map: the lexical map (H, H), once there is one.
    """

    def __init__(self, encoder: Encoder, trained: State) -> None:
        self.encoder, self.trained = encoder, trained
        self.start = copied(encoder.model)
        self.map: Tensor | None = None
        self._inserted: nn.Module | None = None

    def set(self, form: Form) -> None:
        """Give the model this form; share 0 is the start to the bit, 1 the trained model."""
        model = self.encoder.model
        if self._inserted is not None:
            remove(model, self._inserted)
            self._inserted = None
        model.load_state_dict(mean_weights(self.start, self.trained, form.share))
        if form.mapped:
            assert self.map is not None
            self._inserted = insert_map(model, self.map)

    def measure(
        self, tasks: Mapping[str, Retrieval], forms: Sequence[Form], on_step: Callable[[Form], None]
    ) -> Measured:
        """The start and other forms on the same questions.

        Args:
            tasks: by kind of question; all search the same documents.
            forms: to measure after the start.
            on_step: called with the form that comes next.
        """
        measured = Measured(tasks)
        for form in (START, *forms):
            on_step(form)
            self.set(form)
            measured.add(form, Remembering(self.encoder))
        return measured


class Measured:
    """Forms of the model on the same questions, the start first.

    Args:
        tasks: by kind of question; all search the same documents.

    Attributes:
        candidates: one a form.
        memories: what each form encoded.
    """

    def __init__(self, tasks: Mapping[str, Retrieval]) -> None:
        self.tasks = tasks
        self.candidates: list[Candidate] = []
        self.memories: dict[Form, Remembering] = {}

    def add(self, form: Form, memory: Remembering) -> None:
        """Ask a form every question; `memory` runs the model as it is now."""
        self.memories[form] = memory
        scores = _scores(memory, self.tasks)
        base = self.candidates[0].scores if self.candidates else scores
        against = {kind: paired(scores[kind].per_query["mrr"], base[kind].per_query["mrr"]) for kind in scores}
        same = agreement(self.memories[START], memory, self.tasks[SENTENCE].documents) if scores else 0.0
        self.candidates.append(Candidate(form=form, scores=scores, against_start=against, agreement=same))


@dataclass
class Remembering:
    """An encoder that reads every text once, for tasks that search the same documents.

    Attributes:
        encoder: what encodes.
        vectors: (H,) by role and text.
    """

    encoder: Encoder
    vectors: dict[tuple[str, str], NDArray[np.float32]] = field(default_factory=dict)

    def encode_query(self, texts: list[str]) -> NDArray[np.float32]:
        """Vectors (N, H), with the model's prompt for queries."""
        return self._encode(texts, "query")

    def encode_document(self, texts: list[str]) -> NDArray[np.float32]:
        """Vectors (N, H), with the model's prompt for documents."""
        return self._encode(texts, "document")

    encode = encode_document  # as any encoder has it

    def _encode(self, texts: list[str], role: Literal["query", "document"]) -> NDArray[np.float32]:
        new = [text for text in dict.fromkeys(texts) if (role, text) not in self.vectors]
        if new:
            vectors = self.encoder.encode(new, prompt=resolve_prompt(self.encoder.model, role))
            self.vectors.update(zip(((role, text) for text in new), vectors, strict=True))
        return np.stack([self.vectors[role, text] for text in texts])


def mean_weights(start: State, trained: State, share: float) -> State:
    """The mean of two models' weights; integers, such as positions, are the trained model's.

    Args:
        start: weights by name.
        trained: of the same names and shapes.
        share: of `trained`, 0 to 1.
    """
    if share in (0.0, 1.0):
        return start if share == 0.0 else trained
    floats = (name for name, value in trained.items() if value.is_floating_point())
    return {**trained, **{name: torch.lerp(start[name], trained[name], share) for name in floats}}


def copied(model: nn.Module) -> State:
    """A copy of a model's weights."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def choose(candidates: Sequence[Candidate]) -> Candidate:
    """The best of the forms that are better than the start (which comes first); where none is, the best of all.

    The best has the highest mean of both kinds' MRR: a sentence shares few words with its document, keywords share all
    of theirs, and people's queries are between the two.

    Raises:
        UserError: the vectors of every blend are not finite.
    """
    finite = [candidate for candidate in candidates[1:] if candidate.scores]
    if not finite:
        raise UserError("learning_rate", "low enough for finite vectors", "NaN or infinity in every blend", "lower it")
    better = [candidate for candidate in finite if candidate.better]
    return max(better or finite, key=lambda candidate: sum(scores.mrr for scores in candidate.scores.values()))


def agreement(start: Remembering, other: Remembering, documents: Sequence[str], count: int = 10) -> float:
    """Share of each document's nearest documents by one encoder that are among those by the other, 0 to 1."""
    ours, theirs = (_nearest(memory.encode_document(list(documents)), count) for memory in (start, other))
    shared = [len(np.intersect1d(a, b)) for a, b in zip(ours, theirs, strict=True)]
    return float(np.mean(shared) / ours.shape[1])


def _nearest(vectors: NDArray[Any], count: int) -> NDArray[np.int64]:
    """Rows of the nearest other vectors of each of (D, H), shape (D, count)."""
    units = unit(vectors, vectors.dtype)
    cosines = units @ units.T
    np.fill_diagonal(cosines, -np.inf)
    return np.argsort(-cosines, axis=1, kind="stable")[:, : min(count, len(vectors) - 1)]


def _scores(encoder: Any, tasks: Mapping[str, Retrieval]) -> dict[str, RetrievalScores]:
    """By kind of question; none for an encoder whose vectors are not finite."""
    try:
        return {kind: score(task, encoder) for kind, task in tasks.items()}
    except UserError as error:
        if error.rule != "finite":
            raise
        return {}
