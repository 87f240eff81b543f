"""Intervals and paired tests: how sure is a mean, and a difference between two encoders on the same queries or seeds?

Legend: `N` values, `B` resamples.

Intervals are 95% percentile bootstrap intervals (Efron & Tibshirani, 1993). The test swaps, at random, the two
encoders' values of a query (approximate randomisation; Noreen, 1989): if the encoders were equally good, such swaps
would make a difference as large as the measured one as often as p says.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from diffcse.errors import UserError

RESAMPLES = 10_000
SEED = 1111
_CHUNK_VALUES = 2_000_000

Float = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean and its 95% interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Difference of two means over the same queries or seeds, first minus second."""

    difference: float
    low: float
    """Lower end of the 95% interval of the difference."""
    high: float
    """Upper end."""
    p: float
    """Two-sided, of the paired randomisation test; exact where all swaps can be tried."""

    def words(self) -> str:
        """The difference and its interval, x 100.

        >>> Paired(difference=0.02, low=-0.001, high=0.05, p=0.1).words()
        '+2.0 [-0.1, +5.0]'
        """
        return f"{100 * self.difference:+.1f} [{100 * self.low:+.1f}, {100 * self.high:+.1f}]"


def bootstrap(values: ArrayLike, *, resamples: int = RESAMPLES, seed: int = SEED) -> Interval:
    """Mean of N values with its 95% interval.

    Args:
        values: shape (N,), such as the score of each query.
        resamples: B.
        seed: of the resampling.

    Raises:
        UserError: no values.

    >>> bootstrap([1.0, 1.0, 1.0])
    Interval(mean=1.0, low=1.0, high=1.0)
    """
    array = _values(values)
    rng = np.random.default_rng(seed)
    means = np.concatenate([array[rows].mean(axis=1) for rows in draws(rng, len(array), resamples)])
    low, high = percentiles(means)
    return Interval(mean=float(array.mean()), low=low, high=high)


def paired(a: ArrayLike, b: ArrayLike) -> Paired:
    """How much better is `a` than `b`?

    Args:
        a: shape (N,), the score of each query or seed.
        b: shape (N,), the other encoder's, in the same order.

    Raises:
        UserError: other lengths, or no values.
    """
    first, second = _values(a), _values(b)
    if len(first) != len(second):
        got = f"{len(first)} and {len(second)}"
        raise UserError("paired scores", "of the same queries", got, "score both encoders on the same task")
    differences = first - second
    mean = bootstrap(differences)
    return Paired(difference=mean.mean, low=mean.low, high=mean.high, p=randomisation(differences))


def randomisation(differences: Float, resamples: int = RESAMPLES) -> float:
    """Two-sided p of the mean of paired differences (N,) under swaps; 1 for a single pair or without any difference."""
    if len(differences) < 2 or not differences.any():
        return 1.0
    how: dict[str, Any] = {"n_resamples": resamples, "batch": max(_CHUNK_VALUES // len(differences), 1)}
    rng = np.random.default_rng(SEED)
    test = stats.permutation_test((differences,), np.mean, permutation_type="samples", vectorized=True, rng=rng, **how)
    return float(test.pvalue)


def percentiles(values: Float) -> tuple[float, float]:
    """Where the middle 95% of resampled values begin and end."""
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def draws(rng: np.random.Generator, count: int, resamples: int) -> Iterator[NDArray[np.int64]]:
    """Rows drawn again with replacement, in chunks (b, N) that fit into memory; B rows in all."""
    for size in _chunks(count, resamples):
        yield rng.integers(0, count, (size, count))


def coins(rng: np.random.Generator, count: int, resamples: int) -> Iterator[NDArray[np.bool_]]:
    """Which of N pairs to swap, in chunks (b, N) that fit into memory; B rows in all."""
    for size in _chunks(count, resamples):
        yield rng.random((size, count)) < 0.5


def _chunks(count: int, resamples: int) -> Iterator[int]:
    most = max(_CHUNK_VALUES // count, 1)
    for start in range(0, resamples, most):
        yield min(most, resamples - start)


def _values(values: ArrayLike) -> Float:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        raise UserError("scores", "a list of at least one number", f"shape {array.shape}", "score at least one query")
    return array
