"""The fourteen tasks of the paper's two tables and what each holds once it is read.

Legend: `P` pairs, `S` sentences. Names and order are SentEval's and the paper's (Chuang et al., 2022, tables 1 and 2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Group = Literal["sts", "transfer"]
Mode = Literal["test", "dev"]
Protocol = Literal["all", "mean", "wmean"]
"""How subsets become one number: one correlation over all their pairs together (what the paper reports; Gao et al.,
2021, appendix B), the mean of the subsets' correlations, or the mean weighted by their size."""

STS_TASKS = ("STS12", "STS13", "STS14", "STS15", "STS16", "STSBenchmark", "SICKRelatedness")
TRANSFER_TASKS = ("MR", "CR", "SUBJ", "MPQA", "SST2", "TREC", "MRPC")
ALL_TASKS = STS_TASKS + TRANSFER_TASKS
GROUPS: Mapping[Group, tuple[str, ...]] = {"sts": STS_TASKS, "transfer": TRANSFER_TASKS}

HEADLINE: Mapping[Group, str] = {"sts": "spearman", "transfer": "accuracy"}
"""The number of a task that the paper's tables show and average."""


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Sentence pairs.

    Attributes:
        first: P sentences.
        second: P sentences.
    """

    first: list[str]
    second: list[str]

    def sentences(self) -> list[str]:
        """All 2P sentences, repetitions included."""
        return self.first + self.second


@dataclass(frozen=True, kw_only=True)
class ScoredPairs(Pairs):
    """Sentence pairs with human similarity scores: `scores`, (P,), higher is more similar."""

    scores: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class LabelledPairs(Pairs):
    """Sentence pairs with class labels: `labels`, (P,), classes counted from 0."""

    labels: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Sentences with class labels.

    Attributes:
        texts: S sentences.
        labels: shape (S,), classes counted from 0.
    """

    texts: list[str]
    labels: NDArray[np.int64]

    def sentences(self) -> list[str]:
        """All sentences, repetitions included."""
        return self.texts


Part = ScoredPairs | Labelled | LabelledPairs


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task that was read.

    Attributes:
        name: SentEval's name.
        parts: its data by name: subsets (STS12-16), splits (train, dev, test), or `all` (cross-validated).
        absent: splits that have no usable file, of a task that can do without them (STSBenchmark, SICKRelatedness).
    """

    name: str
    parts: Mapping[str, Part] = field(repr=False)
    absent: tuple[str, ...] = ()

    def sentences(self, mode: Mode = "test") -> list[str]:
        """Every sentence that the mode needs, repetitions included."""
        return [text for part in needed_parts(self, mode).values() for text in part.sentences()]


def needed_parts(task: Task, mode: Mode) -> dict[str, Part]:
    """The parts that a mode looks at: all of them, or what the reference's dev mode needs.

    Dev mode never looks at a test split: STSBenchmark and SICKRelatedness give their dev split, a classifier
    the score that it was tuned by.
    """
    if mode == "test":
        return dict(task.parts)
    if task.name in STS_TASKS:
        return {name: part for name, part in task.parts.items() if name == "dev"}
    return {name: part for name, part in task.parts.items() if name != "test"}


def has_dev(name: str) -> bool:
    """Whether a task has a dev score; STS12-16 have none.

    >>> has_dev("STS12"), has_dev("MR")
    (False, True)
    """
    return name not in STS_TASKS[:5]
