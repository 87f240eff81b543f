"""Many L2-regularised logistic regressions on the same features, solved together.

Cross-validation fits the same rows again and again with a few left out. Here all of those fits share every matrix
product: `X @ W` with a column (or one a class) for each fit, so that 44 fits cost little more than one.

Legend: `N` rows, `D` features, `F` fits, `C` columns of a fit (1 for two classes, else the number of classes), `R` kept
directions of the feature space.

For one fit with rows T, weights w_c and biases b_c this minimises, as SentEval's classifier does,

    mean over T of -log softmax(w_y x + b_y)  +  l2 / 2 * sum over classes of (|w_c|^2 + b_c^2)

(there l2 is Adam's weight decay, which acts on the biases too).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]

_MEMORY = 8
_MOST_STEPS = 500
_HALVINGS = 20
_TOLERANCE = 1e-9
"""A fit is done when the next step promises less than this (nats of the mean loss)."""


@dataclass(frozen=True, kw_only=True)
class Fits:
    """Solved fits.

    Attributes:
        predicted: class of every row by every fit, shape (N, F), rows that it did not learn from included.
        steps: L-BFGS steps taken.
    """

    predicted: NDArray[np.int64]
    steps: int


def fit_many(features: Float, labels: NDArray[np.int64], learns: NDArray[np.bool_], l2: Float) -> Fits:
    """Solve F regressions and classify all rows with each; deterministic.

    Args:
        features: (N, D).
        labels: (N,), classes from 0.
        learns: (N, F), whether a fit learns from a row.
        l2: (F,), strength of each fit.
    """
    classes = int(labels.max()) + 1
    problem = _Problem(_rotate(features), labels, learns, l2, classes)
    logits, steps = _minimise(problem)
    predicted = (logits[:, :, 0] > 0).astype(np.int64) if classes == 2 else logits.argmax(axis=2)
    return Fits(predicted=predicted, steps=steps)


@dataclass(frozen=True)
class _Rotated:
    """Features with a column of ones, in the basis of their principal directions.

    A rotation changes neither the optimum nor the penalty; in this basis the curvature of the loss is near diagonal.
    """

    rows: Float  # (N, R)
    spread: Float  # (R,), mean square of each direction


def _rotate(features: Float) -> _Rotated:
    ones = np.ones((len(features), 1))
    extended = np.hstack([features, ones])
    spread, basis = np.linalg.eigh(extended.T @ extended / len(extended))
    kept = spread > spread[-1] * 1e-13  # along the others no row differs, so their weights are 0
    return _Rotated(extended @ basis[:, kept], spread[kept])


class _Problem:
    """Loss and gradient of all fits; `C` columns each."""

    def __init__(
        self, x: _Rotated, labels: NDArray[np.int64], learns: NDArray[np.bool_], l2: Float, classes: int
    ) -> None:
        self.x, self.columns = x.rows, 1 if classes == 2 else classes
        self.share = learns / learns.sum(axis=0)  # (N, F)
        # With two classes the optimum has w_1 = -w_0; w = w_1 - w_0 is one column with half the penalty.
        self.l2 = l2 / 2 if classes == 2 else l2
        wanted = labels[:, None] if classes == 2 else np.eye(classes)[labels]
        self.wanted = wanted.astype(np.float64)[:, None, :]  # (N, 1, C)
        curvature = 0.15 * x.spread[:, None] + self.l2[None, :]
        self.scale = np.repeat(1 / curvature, self.columns, axis=1).reshape(len(x.spread), len(l2), self.columns)

    def logits(self, weights: Float) -> Float:
        """(R, F, C) -> (N, F, C)."""
        return (self.x @ weights.reshape(len(weights), -1)).reshape(len(self.x), *weights.shape[1:])

    def data_loss(self, logits: Float) -> Float:
        """(N, F, C) -> (F,)."""
        if self.columns == 1:
            row = np.logaddexp(0, logits[:, :, 0]) - self.wanted[:, :, 0] * logits[:, :, 0]
        else:
            top = logits.max(axis=2)
            row = np.log(np.exp(logits - top[:, :, None]).sum(axis=2)) + top - (logits * self.wanted).sum(axis=2)
        return np.einsum("nf,nf->f", row, self.share)

    def gradient(self, weights: Float, logits: Float) -> Float:
        """(R, F, C)."""
        if self.columns == 1:
            chance = 0.5 * (1 + np.tanh(0.5 * logits))
        else:
            chance = np.exp(logits - logits.max(axis=2, keepdims=True))
            chance /= chance.sum(axis=2, keepdims=True)
        error = (chance - self.wanted) * self.share[:, :, None]
        slope = (self.x.T @ error.reshape(len(error), -1)).reshape(weights.shape)
        return slope + self.l2[:, None] * weights


def _dot(a: Float, b: Float) -> Float:
    return np.einsum("rfc,rfc->f", a, b)


def _minimise(problem: _Problem) -> tuple[Float, int]:
    """L-BFGS (Nocedal & Wright, 2006, section 7.2), one of its own for each fit, all in step."""
    weights = np.zeros_like(problem.scale)
    logits = np.zeros((len(problem.x), *weights.shape[1:]))
    gradient = problem.gradient(weights, logits)
    memory: deque[tuple[Float, Float, Float]] = deque(maxlen=_MEMORY)
    for step in range(_MOST_STEPS):
        direction = -_inverse_curvature(problem, memory, gradient)
        slope = _dot(gradient, direction)
        if (-slope < _TOLERANCE).all():
            return logits, step
        towards = problem.logits(direction)
        length = _line_search(problem, weights, logits, direction, towards, slope)
        moved = length[:, None] * direction
        weights, logits = weights + moved, logits + length[:, None] * towards
        after = problem.gradient(weights, logits)
        memory.append(_pair(moved, after - gradient))
        gradient = after
    return logits, _MOST_STEPS


def _pair(moved: Float, change: Float) -> tuple[Float, Float, Float]:
    """A step, the change of the gradient over it, and 1 / their product (0 switches a useless pair off)."""
    product = _dot(moved, change)
    return moved, change, np.divide(1.0, product, out=np.zeros_like(product), where=product > 1e-30)


def _inverse_curvature(problem: _Problem, memory: deque[tuple[Float, Float, Float]], gradient: Float) -> Float:
    """The two-loop recursion, started from the diagonal curvature."""
    q = gradient.copy()
    weights = []
    for moved, change, rho in reversed(memory):
        a = rho * _dot(moved, q)
        q -= a[:, None] * change
        weights.append(a)
    q *= problem.scale
    for (moved, change, rho), a in zip(memory, reversed(weights), strict=True):
        q += (a - rho * _dot(change, q))[:, None] * moved
    return q


def _line_search(
    problem: _Problem, weights: Float, logits: Float, direction: Float, towards: Float, slope: Float
) -> Float:
    """Step length of each fit, halved until the loss falls enough; logits are linear in it, so no product is needed."""
    linear, square = problem.l2 * _dot(weights, direction), problem.l2 * _dot(direction, direction)
    before = problem.data_loss(logits)
    length = np.ones(len(slope))
    for _ in range(_HALVINGS):
        after = problem.data_loss(logits + length[:, None] * towards)
        gain = after - before + length * linear + 0.5 * length**2 * square
        short = gain > 1e-4 * length * slope + 1e-14
        if not short.any():
            break
        length[short] /= 2
    return length
