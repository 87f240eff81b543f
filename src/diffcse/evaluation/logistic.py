"""Many L2-regularised logistic regressions on the same features, solved together.

Cross-validation fits the same rows again and again with a few left out. Here all of those fits share every matrix
product: `X @ W` with a column (or one a class) for each fit, so that 11 fits cost little more than one. Strengths go
from strong to weak, each started at the solution of the one before.

Legend: `N` rows, `D` features, `F` fits, `S` strengths, `C` columns of a fit (1 for two classes, else the number of
classes), `R` kept directions of the feature space.

For one fit with rows T, weights w_c and biases b_c this minimises, as SentEval's classifier does,

    mean over T of -log softmax(w_y x + b_y)  +  l2 / 2 * sum over classes of (|w_c|^2 + b_c^2)

(there l2 is Adam's weight decay, which acts on the biases too).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Classes = NDArray[np.int64]

_MEMORY = 8
_MOST_STEPS = 500
_HALVINGS = 20
_TOLERANCE = 1e-9
"""A fit is done when the next step promises less than this (nats of the mean loss)."""


def fit_many(features: Float, labels: Classes, learns: NDArray[np.bool_], strengths: Sequence[float]) -> Classes:
    """Solve F regressions at S strengths each and classify all rows with every one; deterministic.

    Args:
        features: (N, D).
        labels: (N,), classes from 0.
        learns: (N, F), whether a fit learns from a row.
        strengths: S values of l2.

    Returns:
        Predicted classes, shape (S, F, N), rows that a fit did not learn from included.
    """
    data = _data(features, labels, learns)
    weights, logits = data.nothing()
    predicted = np.empty((len(strengths), learns.shape[1], len(labels)), dtype=np.int64)
    for s in sorted(range(len(strengths)), key=lambda s: -strengths[s]):
        weights, logits = _minimise(_Problem(data, strengths[s]), weights, logits)
        predicted[s] = _classes(logits).T
    return predicted


def _classes(logits: Float) -> Classes:
    """(N, C, F) -> (N, F)."""
    return (logits[:, 0] > 0).astype(np.int64) if logits.shape[1] == 1 else logits.argmax(axis=1)


@dataclass(frozen=True, kw_only=True)
class _Data:
    """What the strengths share.

    Attributes:
        rows: features and a column of ones, in the basis of their principal directions, (N, R). A rotation changes
            neither the optimum nor the penalty, and in this basis the curvature of the loss is near diagonal.
        spread: mean square of each direction, (R,).
        wanted: 1 for the class of a row, (N, C, 1).
        share: weight of a row in the mean loss of a fit, (N, F).
    """

    rows: Float
    spread: Float
    wanted: Float
    share: Float

    def nothing(self) -> tuple[Float, Float]:
        """Weights (R, C, F) and logits (N, C, F) of fits that know nothing."""
        columns, fits = self.wanted.shape[1], self.share.shape[1]
        return np.zeros((len(self.spread), columns, fits)), np.zeros((len(self.rows), columns, fits))


def _data(features: Float, labels: Classes, learns: NDArray[np.bool_]) -> _Data:
    extended = np.hstack([features, np.ones((len(features), 1))])
    spread, basis = np.linalg.eigh(extended.T @ extended / len(extended))
    kept = spread > spread[-1] * 1e-13  # along the others no row differs, so their weights are 0
    classes = int(labels.max()) + 1
    wanted = labels[:, None] if classes == 2 else np.eye(classes)[labels]
    return _Data(
        rows=extended @ basis[:, kept],
        spread=spread[kept],
        wanted=wanted.astype(np.float64)[:, :, None],
        share=learns / learns.sum(axis=0),
    )


class _Problem:
    """Loss and gradient of F fits at one strength."""

    def __init__(self, data: _Data, l2: float) -> None:
        self.data = data
        # With two classes the optimum has w_1 = -w_0; w = w_1 - w_0 is one column with half the penalty.
        self.l2 = l2 / 2 if data.wanted.shape[1] == 1 else l2

    def logits(self, weights: Float) -> Float:
        """(R, C, F) -> (N, C, F)."""
        return (self.data.rows @ weights.reshape(len(weights), -1)).reshape(-1, *weights.shape[1:])

    def chances(self, logits: Float) -> Float:
        """Probability of class 1, or of each class: (N, C, F) -> (N, C, F)."""
        if logits.shape[1] == 1:
            return 0.5 * (1 + np.tanh(0.5 * logits))
        chance = np.exp(logits - logits.max(axis=1, keepdims=True))
        return chance / chance.sum(axis=1, keepdims=True)

    def data_loss(self, logits: Float) -> Float:
        """(N, C, F) -> (F,)."""
        right = (logits * self.data.wanted).sum(axis=1)
        if logits.shape[1] == 1:
            whole = np.logaddexp(0, logits[:, 0])
        else:
            top = logits.max(axis=1, keepdims=True)
            whole = np.log(np.exp(logits - top).sum(axis=1)) + top[:, 0]
        return ((whole - right) * self.data.share).sum(axis=0)

    def gradient(self, weights: Float, logits: Float) -> Float:
        """(R, C, F)."""
        error = (self.chances(logits) - self.data.wanted) * self.data.share[:, None]
        slope = (self.data.rows.T @ error.reshape(len(error), -1)).reshape(weights.shape)
        return slope + self.l2 * weights

    def curvature(self, logits: Float) -> Float:
        """Diagonal of the second derivative as if rows were alike: (N, C, F) -> (R, C, F)."""
        chance = self.chances(logits)
        doubt = (chance * (1 - chance) * self.data.share[:, None]).sum(axis=0)
        return self.data.spread[:, None, None] * doubt + self.l2


def _minimise(problem: _Problem, weights: Float, logits: Float) -> tuple[Float, Float]:
    """L-BFGS (Nocedal & Wright, 2006, section 7.2), one of its own for each fit, all in step."""
    gradient = problem.gradient(weights, logits)
    scale = 1 / problem.curvature(logits)
    memory: deque[tuple[Float, Float, Float]] = deque(maxlen=_MEMORY)
    for _ in range(_MOST_STEPS):
        direction = -_newton_like(scale, memory, gradient)
        slope = _dot(gradient, direction)
        if (-slope < _TOLERANCE).all():
            break
        towards = problem.logits(direction)
        length = _line_search(problem, weights, logits, direction, towards, slope)
        moved = length * direction
        weights, logits = weights + moved, logits + length * towards
        after = problem.gradient(weights, logits)
        memory.append(_pair(moved, after - gradient))
        gradient = after
    return weights, logits


def _dot(a: Float, b: Float) -> Float:
    """(R, C, F), (R, C, F) -> (F,)."""
    return (a * b).sum(axis=(0, 1))


def _pair(moved: Float, change: Float) -> tuple[Float, Float, Float]:
    """A step, the change of the gradient over it, and 1 / their product (0 switches a useless pair off)."""
    product = _dot(moved, change)
    return moved, change, np.divide(1.0, product, out=np.zeros_like(product), where=product > 1e-30)


def _newton_like(scale: Float, memory: deque[tuple[Float, Float, Float]], gradient: Float) -> Float:
    """The two-loop recursion, started from the diagonal curvature."""
    q = gradient
    kept = []
    for moved, change, rho in reversed(memory):
        a = rho * _dot(moved, q)
        q = q - a * change
        kept.append(a)
    q = q * scale
    for (moved, change, rho), a in zip(memory, reversed(kept), strict=True):
        q = q + (a - rho * _dot(change, q)) * moved
    return q


def _line_search(
    problem: _Problem, weights: Float, logits: Float, direction: Float, towards: Float, slope: Float
) -> Float:
    """Step length of each fit (F,), halved until the loss falls enough; needs no product, logits are linear in it."""
    linear, square = problem.l2 * _dot(weights, direction), problem.l2 * _dot(direction, direction)
    before = problem.data_loss(logits)
    length = np.ones(len(slope))
    for _ in range(_HALVINGS):
        gain = problem.data_loss(logits + length * towards) - before + length * linear + 0.5 * length**2 * square
        short = gain > 1e-4 * length * slope + 1e-14
        if not short.any():
            break
        length[short] /= 2
    return length
