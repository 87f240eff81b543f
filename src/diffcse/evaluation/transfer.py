"""Transfer tasks: a logistic regression on frozen sentence vectors, with SentEval's folds and strengths.

Legend: `N` rows, `D` features, `F` fits, `S` strengths, `K` folds.

What SentEval does (Conneau & Kiela, 2018; the version of the SimCSE authors): samples are sorted by length in words and
label; folds are stratified, shuffled with seed 1111; the L2 strength is the best of 10^-5, 10^-4, 10^-3, 10^-2 by dev
accuracy, rounded to two decimals, the weaker one on a tie. MR, CR, SUBJ, MPQA: nested folds. SST2: tuned on dev. TREC,
MRPC: tuned by folds of the training part. Ten folds in test mode, five in dev mode.

What differs: its classifier is trained by Adam and stopped early on held-out rows; ours is solved to the optimum, which
is deterministic and needs no rows held out (see benchmarks/evaluation.py for both side by side).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold

from diffcse.evaluation.embed import Embedded
from diffcse.evaluation.logistic import fit_many
from diffcse.evaluation.tasks import Labelled, LabelledPairs, Mode, Part, Task, needed_parts

STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2)
SEED = 1111
FOLDS: dict[Mode, int] = {"test": 10, "dev": 5}

Rows = NDArray[np.intp]
Float = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Samples:
    """What a classifier sees.

    Attributes:
        features: (N, D).
        labels: (N,).
    """

    features: Float
    labels: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A tuned classifier.

    Attributes:
        l2: the strength that was chosen.
        dev: its accuracy on the rows that it was chosen by, 0 to 1.
        predicted: class of each test row.
    """

    l2: float
    dev: float
    predicted: NDArray[np.int64]


def score_task(task: Task, embedded: Embedded, *, mode: Mode = "test") -> dict[str, Any]:
    """Results of one transfer task.

    `accuracy` is that of the test rows (in dev mode: the one it was tuned by), `dev` the one it was tuned by, `l2` the
    strengths that were chosen; MRPC has `f1` of its test rows too.
    """
    parts = {name: samples(part, embedded) for name, part in needed_parts(task, mode).items()}
    if "all" in parts:
        return _nested(parts["all"], FOLDS[mode], mode)
    if "dev" in parts:
        outcome = tune_on_dev(parts["train"], parts["dev"], parts.get("test"))
    else:
        outcome = tune_by_folds(parts["train"], parts.get("test"), FOLDS[mode])
    found: dict[str, Any] = {"dev": {"accuracy": outcome.dev}, "l2": [outcome.l2]}
    if mode == "dev":
        return {"accuracy": outcome.dev, **found}
    truth = cast("Labelled | LabelledPairs", parts["test"]).labels
    if task.name == "MRPC":
        found["f1"] = f1(outcome.predicted, truth)
    return {"accuracy": float((outcome.predicted == truth).mean()), **found, "rows": len(truth)}


def samples(part: Part, embedded: Embedded) -> Samples:
    """Features and labels in SentEval's order: by length in words and label; pairs become [|u - v|, u * v]."""
    if isinstance(part, LabelledPairs):
        words = [(len(a.split()), len(b.split())) for a, b in zip(part.first, part.second, strict=True)]
        labels = part.labels
        order = sorted(range(len(words)), key=lambda i: (*words[i], labels[i]))
        u, v = (embedded([texts[i] for i in order]).astype(np.float64) for texts in (part.first, part.second))
        return Samples(features=np.hstack([np.abs(u - v), u * v]), labels=labels[order])
    part = cast("Labelled", part)
    order = sorted(range(len(part.texts)), key=lambda i: (len(part.texts[i].split()), part.labels[i]))
    return Samples(features=embedded([part.texts[i] for i in order]).astype(np.float64), labels=part.labels[order])


def _nested(data: Samples, folds: int, mode: Mode) -> dict[str, Any]:
    accuracies, outcomes = [], []
    for train, test in stratified(data.labels, folds):
        outcome = tune_by_folds(_take(data, train), _take(data, test), folds)
        outcomes.append(outcome)
        accuracies.append(float((outcome.predicted == data.labels[test]).mean()))
    dev = float(np.mean([outcome.dev for outcome in outcomes]))
    found = {"dev": {"accuracy": dev}, "l2": [outcome.l2 for outcome in outcomes], "rows": len(data.labels)}
    return {"accuracy": dev if mode == "dev" else float(np.mean(accuracies)), **found}


def tune_by_folds(train: Samples, test: Samples | None, folds: int) -> Outcome:
    """Choose the strength by cross-validation on `train`, learn from all of it, classify `test`."""
    parts = [(learn, check) for learn, check in stratified(train.labels, folds)]
    everything = np.arange(len(train.labels))
    predicted = _predict(train, test, [learn for learn, _ in parts] + [everything])  # (K + 1, S, N)
    accuracy = np.array(
        [(predicted[k][:, check] == train.labels[check]).mean(axis=1) for k, (_, check) in enumerate(parts)]
    )  # (K, S)
    return _choose(accuracy.mean(axis=0), predicted[-1][:, len(train.labels) :])


def tune_on_dev(train: Samples, dev: Samples, test: Samples | None) -> Outcome:
    """Learn from `train`, choose the strength on `dev`, classify `test`."""
    rest = dev if test is None else _join(dev, test)
    (predicted,) = _predict(train, rest, [np.arange(len(train.labels))])
    beyond = predicted[:, len(train.labels) :]
    accuracy = (beyond[:, : len(dev.labels)] == dev.labels).mean(axis=1)
    return _choose(accuracy, beyond[:, len(dev.labels) :])


def _choose(accuracy: Float, predicted: NDArray[np.int64]) -> Outcome:
    """SentEval's choice: the first of the best accuracies rounded to 0.01 points."""
    best = int(np.argmax(np.round(100 * accuracy, 2)))
    return Outcome(l2=STRENGTHS[best], dev=float(accuracy[best]), predicted=predicted[best])


def _predict(train: Samples, beyond: Samples | None, learn: Sequence[Rows]) -> NDArray[np.int64]:
    """Classes by every subset of `train` and every strength, of all rows of `train` and then of `beyond`: (K, S, N)."""
    data = train if beyond is None else _join(train, beyond)
    learns = np.zeros((len(data.labels), len(learn)), dtype=bool)
    for k, rows in enumerate(learn):
        learns[rows, k] = True
    strengths = np.tile(np.array(STRENGTHS), len(learn))
    fits = fit_many(data.features, data.labels, np.repeat(learns, len(STRENGTHS), axis=1), strengths)
    return fits.predicted.T.reshape(len(learn), len(STRENGTHS), -1)


def stratified(labels: NDArray[np.int64], folds: int) -> Iterator[tuple[Rows, Rows]]:
    """SentEval's folds: (rows to learn from, rows to check on)."""
    splitter = StratifiedKFold(n_splits=folds, shuffle=True, random_state=SEED)
    yield from splitter.split(np.zeros(len(labels)), labels)


def f1(predicted: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    """F1 of class 1; 0 if nothing is right.

    >>> f1(np.array([1, 1, 0, 0]), np.array([1, 0, 0, 1]))
    0.5
    """
    right = int(((predicted == 1) & (truth == 1)).sum())
    return 2 * right / max(int((predicted == 1).sum() + (truth == 1).sum()), 1)


def _take(data: Samples, rows: Rows) -> Samples:
    return Samples(features=data.features[rows], labels=data.labels[rows])


def _join(a: Samples, b: Samples) -> Samples:
    return Samples(features=np.vstack([a.features, b.features]), labels=np.concatenate([a.labels, b.labels]))
