"""Transfer tasks: a softmax regression on frozen sentence vectors, with SentEval's samples, folds and strengths.

Legend: `N` rows, `D` features, `S` strengths, `K` sets of rows to learn from.

What SentEval does (Conneau & Kiela, 2018; the version of the SimCSE authors): samples are sorted by length in words and
label; folds are stratified, shuffled with seed 1111; the L2 strength is the best of 10^-5, 10^-4, 10^-3, 10^-2 by dev
accuracy, rounded to two decimals, the weaker one on a tie. MR, CR, SUBJ, MPQA: nested folds. SST2: tuned on dev. TREC,
MRPC: tuned by folds of the training part. Ten folds in test mode, five in dev mode. The classifier is stopped early, as
SentEval stops it (`classifier.py`): the optimum of the same regression scores up to a point otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold

from diffcse.evaluation.classifier import FAST, FULL, Schedule, fit, with_ones
from diffcse.evaluation.embed import Embedded
from diffcse.evaluation.tasks import Labelled, LabelledPairs, Mode, Part, Task, needed_parts

STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2)
SEED = 1111
FOLDS: dict[Mode, int] = {"test": 10, "dev": 5}
SCHEDULES: dict[Mode, Schedule] = {"test": FULL, "dev": FAST}

Rows = NDArray[np.intp]
Classes = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Samples:
    """What a classifier sees.

    Attributes:
        features: (N, D).
        labels: (N,).
    """

    features: NDArray[Any]
    labels: Classes


@dataclass(frozen=True, kw_only=True)
class Design:
    """Which rows a classifier is tuned on, learns from and is tested on.

    Attributes:
        tuning: pairs of rows to learn from and rows to check on; the mean accuracy chooses the strength.
        train: rows that the final classifier learns from; None where it is the one that was tuned.
        test: rows that it is tested on; None where only the tuning counts.
    """

    tuning: tuple[tuple[Rows, Rows], ...]
    train: Rows | None
    test: Rows | None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A tuned classifier.

    Attributes:
        l2: the strength that was chosen.
        dev: its accuracy on the rows that it was chosen by, 0 to 1.
        predicted: class of each test row; None without test rows.
    """

    l2: float
    dev: float
    predicted: Classes | None


def score_task(task: Task, embedded: Embedded, *, mode: Mode = "test") -> dict[str, Any]:
    """Results of one transfer task.

    `accuracy` is that of the test rows (in dev mode: the one it was tuned by), `dev` the one it was tuned by, `l2` the
    strengths that were chosen; MRPC has `f1` of its test rows too.
    """
    data, designs = prepare(task, embedded, mode)
    outcomes = [follow_senteval(data, design, SCHEDULES[mode]) for design in designs]
    dev = float(np.mean([outcome.dev for outcome in outcomes]))
    results: dict[str, Any] = {
        "dev": {"accuracy": dev},
        "l2": [outcome.l2 for outcome in outcomes],
        "classifier": "senteval",
    }
    if mode == "dev":
        return {"accuracy": dev, **results}
    predicted = [cast("Classes", outcome.predicted) for outcome in outcomes]
    truth = [data.labels[design.test] for design in designs]
    if task.name == "MRPC":
        results["f1"] = f1(predicted[0], truth[0])
    right = [(guess == label).mean() for guess, label in zip(predicted, truth, strict=True)]
    return {"accuracy": float(np.mean(right)), **results}


def prepare(task: Task, embedded: Embedded, mode: Mode) -> tuple[Samples, list[Design]]:
    """All rows of a task, and what is to be done with them."""
    parts = {name: samples(part, embedded) for name, part in needed_parts(task, mode).items()}
    data = Samples(
        features=np.vstack([part.features for part in parts.values()]),
        labels=np.concatenate([part.labels for part in parts.values()]),
    )
    ends = np.cumsum([len(part.labels) for part in parts.values()])
    rows = dict(zip(parts, np.split(np.arange(len(data.labels)), ends[:-1]), strict=True))
    if "all" in rows:
        outer = stratified(data.labels, FOLDS[mode])
        return data, [by_folds(data.labels, train, test, mode) for train, test in outer]
    if "dev" in rows:
        return data, [Design(tuning=((rows["train"], rows["dev"]),), train=None, test=rows.get("test"))]
    return data, [by_folds(data.labels, rows["train"], rows.get("test"), mode)]


def samples(part: Part, embedded: Embedded) -> Samples:
    """Features and labels in SentEval's order: by length in words and label; pairs become [|u - v|, u * v]."""
    if isinstance(part, LabelledPairs):
        labels = part.labels
        words = [(len(a.split()), len(b.split())) for a, b in zip(part.first, part.second, strict=True)]
        order = sorted(range(len(words)), key=lambda i: (*words[i], labels[i]))
        u, v = (embedded([texts[i] for i in order]) for texts in (part.first, part.second))
        return Samples(features=np.hstack([np.abs(u - v), u * v]), labels=labels[order])
    part = cast("Labelled", part)
    order = sorted(range(len(part.texts)), key=lambda i: (len(part.texts[i].split()), part.labels[i]))
    return Samples(features=embedded([part.texts[i] for i in order]), labels=part.labels[order])


def stratified(labels: Classes, folds: int) -> Iterator[tuple[Rows, Rows]]:
    """SentEval's folds: (rows to learn from, rows to check on)."""
    splitter = StratifiedKFold(n_splits=folds, shuffle=True, random_state=SEED)
    yield from splitter.split(np.zeros(len(labels)), labels)


def by_folds(labels: Classes, train: Rows, test: Rows | None, mode: Mode) -> Design:
    """Tuned by folds of the training rows, then learning from all of them; no test row is in any fold."""
    folds = stratified(labels[train], FOLDS[mode])
    tuning = tuple((train[learn], train[check]) for learn, check in folds)
    return Design(tuning=tuning, train=train, test=test if mode == "test" else None)


def follow_senteval(data: Samples, design: Design, schedule: Schedule = FULL) -> Outcome:
    """Tune, learn and test as SentEval does, with its classifier."""
    rows, labels, classes = with_ones(data.features), data.labels, int(data.labels.max()) + 1
    accuracy, tuned = [], None
    for learn, check in design.tuning:
        dev = rows[check], labels[check]
        tuned = fit(rows[learn], labels[learn], STRENGTHS, classes=classes, dev=dev, schedule=schedule)
        accuracy.append(tuned.accuracy)
    best, dev_accuracy = choose(np.mean(accuracy, axis=0))
    if design.test is None:
        return Outcome(l2=STRENGTHS[best], dev=dev_accuracy, predicted=None)
    if design.train is None:
        predicted = cast("Any", tuned).predict(rows[design.test])[best]
    else:
        final = fit(
            rows[design.train], labels[design.train], STRENGTHS[best : best + 1], classes=classes, schedule=schedule
        )
        predicted = final.predict(rows[design.test])[0]
    return Outcome(l2=STRENGTHS[best], dev=dev_accuracy, predicted=predicted)


def choose(accuracy: NDArray[np.float64]) -> tuple[int, float]:
    """SentEval's choice among the strengths: the first of the best accuracies, rounded to 0.01 points.

    >>> choose(np.array([0.5, 0.70001, 0.70004]))[0]
    1
    """
    best = int(np.argmax(np.round(100 * accuracy, 2)))
    return best, float(accuracy[best])


def f1(predicted: Classes, truth: Classes) -> float:
    """F1 of class 1; 0 if nothing is right.

    >>> f1(np.array([1, 1, 0, 0]), np.array([1, 0, 0, 1]))
    0.5
    """
    right = int(((predicted == 1) & (truth == 1)).sum())
    return 2 * right / max(int((predicted == 1).sum() + (truth == 1).sum()), 1)
