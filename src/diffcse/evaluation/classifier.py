"""SentEval's own classifier: softmax regression by Adam, stopped early; all strengths in one pass over the rows.

Legend: `N` rows, `D` features (a column of ones included), `S` strengths, `C` classes, `B` rows of a batch.

A published transfer score is the score of this procedure, early stop and seed included, and not of the regression's
optimum, which it does not reach. So it is followed step by step: PyTorch's initial weights and NumPy's permutations of
the same seed, batches of 64, Adam at 0.001 with the strength as weight decay (on biases too), a look at held-out rows
every 4 epochs, the weights of the best look, an end at the sixth look that was no better (Conneau & Kiela, 2018;
settings of the SimCSE authors' evaluation script). The strengths see the same batches, so they share every matrix
product; NumPy, since PyTorch takes several times as long for products and steps as small as these.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

SEED = 1111
_EPSILON = 1e-8

Float = NDArray[np.float32]
Classes = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How a classifier is trained.

    Attributes:
        optimiser: adam, or rmsprop, each at PyTorch's defaults.
        batch: rows of a step.
        epochs_per_look: passes between two looks at the held-out rows.
        patience: looks without gain that are forgiven, over the whole training.
        most_epochs: no further passes begin after more than these.
        held_out: share of the training rows that is held out where no rows are given.
    """

    optimiser: Literal["adam", "rmsprop"] = "adam"
    batch: int = 64
    epochs_per_look: int = 4
    patience: int = 5
    most_epochs: int = 200
    held_out: float = 0.05


FULL = Schedule()
"""The reference's test mode."""

FAST = Schedule(optimiser="rmsprop", batch=128, epochs_per_look=2, patience=3)
"""The reference's dev mode."""


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """Weights of S classifiers and how good they were on the held-out rows.

    Attributes:
        weights: shape (D, S, C), the last row the biases.
        accuracy: of the best look, 0 to 1, shape (S,).
    """

    weights: Float
    accuracy: NDArray[np.float64]

    def predict(self, rows: Float) -> Classes:
        """Classes of rows (N, D) by each strength: (S, N)."""
        return _predict(rows, self.weights)


def with_ones(features: NDArray[np.floating]) -> Float:
    """(N, D - 1) -> (N, D)."""
    return np.hstack([features, np.ones((len(features), 1))]).astype(np.float32)


def fit(
    rows: Float,
    labels: Classes,
    strengths: Sequence[float],
    *,
    classes: int,
    dev: tuple[Float, Classes] | None = None,
    schedule: Schedule = FULL,
) -> Classifier:
    """Train one classifier a strength.

    Args:
        rows: (N, D), from `with_ones`.
        labels: (N,), classes from 0.
        strengths: S weight decays.
        classes: C.
        dev: rows to look at; None holds out a random part of the rows.
        schedule: when to look and when to stop.
    """
    numbers = np.random.RandomState(SEED)  # the reference's stream of permutations
    if dev is None:
        order = numbers.permutation(len(labels))
        cut = int(schedule.held_out * len(labels))
        dev = rows[order[:cut]], labels[order[:cut]]
        rows, labels = rows[order[cut:]], labels[order[cut:]]
    method = {"adam": _Adam, "rmsprop": _RmsProp}[schedule.optimiser]
    steps = method(_start(rows.shape[1], len(strengths), classes), strengths)
    targets = np.eye(classes, dtype=np.float32)[labels]
    best, best_weights = np.full(len(strengths), -1.0), steps.weights.copy()
    failures, stopped = np.zeros(len(strengths), dtype=int), np.zeros(len(strengths), dtype=bool)
    epochs = 0
    while not stopped.all() and epochs <= schedule.most_epochs:
        for _ in range(schedule.epochs_per_look):
            steps.epoch(rows, targets, numbers.permutation(len(rows)), schedule.batch)
        epochs += schedule.epochs_per_look
        accuracy = (_predict(dev[0], steps.weights) == dev[1]).mean(axis=1)
        better = (accuracy > best) & ~stopped
        best[better] = accuracy[better]
        best_weights[:, better] = steps.weights[:, better]
        stopped |= ~better & (failures >= schedule.patience)
        failures += ~better
    return Classifier(weights=best_weights, accuracy=best)


def _start(features: int, strengths: int, classes: int) -> Float:
    """PyTorch's initial weights of a linear layer, the same for each strength: (D, S, C)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        layer = torch.nn.Linear(features - 1, classes)
    weights = torch.cat([layer.weight.detach().T, layer.bias.detach()[None]])  # (D, C)
    return weights[:, None].repeat(1, strengths, 1).numpy()


def _predict(rows: Float, weights: Float) -> Classes:
    """(N, D), (D, S, C) -> (S, N)."""
    return (rows @ weights.reshape(len(weights), -1)).reshape(len(rows), *weights.shape[1:]).argmax(axis=2).T


class _Descent:
    """Steps against the gradient of the mean cross-entropy, with weight decay in the gradient, without new memory.

    Attributes:
        weights: (D, S, C).
    """

    def __init__(self, weights: Float, strengths: Sequence[float]) -> None:
        self.weights = weights
        self.flat = weights.reshape(len(weights), -1)  # (D, S * C), the same memory
        self.decay = np.repeat(np.array(strengths, dtype=np.float32), weights.shape[2])
        self.first, self.second = np.zeros_like(self.flat), np.zeros_like(self.flat)
        self.gradient, self.spare = np.empty_like(self.flat), np.empty_like(self.flat)
        self.count = 0

    def epoch(self, rows: Float, targets: Float, order: NDArray[np.intp], batch: int) -> None:
        """One pass over rows (N, D) with targets (N, C) in the given order."""
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            x = rows[chosen]  # (B, D)
            error = _softmax((x @ self.flat).reshape(len(x), *self.weights.shape[1:]))
            error -= targets[chosen][:, None]
            error /= len(x)
            np.dot(x.T, error.reshape(len(x), -1), out=self.gradient)
            self.gradient += np.multiply(self.flat, self.decay, out=self.spare)
            self.count += 1
            self.flat -= self.step(self.gradient, self.spare)

    def step(self, gradient: Float, spare: Float) -> Float:
        """What to subtract, in `spare`."""
        raise NotImplementedError


class _Adam(_Descent):
    """Kingma & Ba (2015), at PyTorch's defaults."""

    def step(self, gradient: Float, spare: Float) -> Float:
        """The change by bias-corrected means of the gradient and its square."""
        rate, beta1, beta2 = 1e-3, 0.9, 0.999
        np.subtract(gradient, self.first, out=spare)
        spare *= 1 - beta1
        self.first += spare
        _running_square(self.second, gradient, spare, beta2)
        np.sqrt(self.second, out=spare)
        spare /= math.sqrt(1 - beta2**self.count)
        spare += _EPSILON
        np.divide(self.first, spare, out=spare)
        spare *= rate / (1 - beta1**self.count)
        return spare


class _RmsProp(_Descent):
    """Tieleman & Hinton (2012), at PyTorch's defaults."""

    def step(self, gradient: Float, spare: Float) -> Float:
        """The change by the gradient over the root of its mean square."""
        rate, alpha = 1e-2, 0.99
        _running_square(self.second, gradient, spare, alpha)
        np.sqrt(self.second, out=spare)
        spare += _EPSILON
        np.divide(gradient, spare, out=spare)
        spare *= rate
        return spare


def _running_square(mean: Float, gradient: Float, spare: Float, keep: float) -> None:
    mean *= keep
    np.multiply(gradient, gradient, out=spare)
    spare *= 1 - keep
    mean += spare


def _softmax(logits: Float) -> Float:
    """Over the classes of (B, S, C), in place."""
    logits -= logits.max(axis=2, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=2, keepdims=True)
    return logits
