"""Is one encoder better than another? Intervals and a paired test on the difference of Spearman correlations.

Legend: `P` pairs, `B` resamples, `T` tasks.

The resampling is that of `statistics`: pairs are drawn again with replacement, the same ones for every model; the test
swaps, at random, the two models' ranks of a pair.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from diffcse.evaluation.embed import Embedded
from diffcse.evaluation.statistics import coins, draws, percentiles
from diffcse.evaluation.sts import cosines
from diffcse.evaluation.suite import Plan
from diffcse.evaluation.tasks import STS_TASKS, ScoredPairs, needed_parts

RESAMPLES = 1000
SEED = 1111

Float = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One task as one model sees it.

    Attributes:
        similarity: cosine of each pair, shape (P,).
        scores: human score of each pair, shape (P,).
    """

    similarity: Float
    scores: Float


def judge(plan: Plan, embedded: Embedded) -> dict[str, Judged]:
    """The pairs behind the main number of each STS task (all subsets together, or the split of the plan's mode).

    Pairs that the user gave, if the plan has any, are the task `pairs`.
    """
    judged = {}
    for task in plan.tasks:
        if task.name not in STS_TASKS:
            continue
        parts = needed_parts(task, plan.mode)
        names = list(parts) if task.name in STS_TASKS[:5] else [name for name in parts if name == plan.mode]
        chosen = [part for name, part in parts.items() if name in names and isinstance(part, ScoredPairs)]
        if chosen:
            similarity = np.concatenate([cosines(embedded, part) for part in chosen])
            judged[task.name] = Judged(similarity=similarity, scores=np.concatenate([part.scores for part in chosen]))
    if plan.pairs is not None:
        judged["pairs"] = Judged(similarity=cosines(embedded, plan.pairs), scores=plan.pairs.scores)
    return judged


def compare(models: Mapping[str, Mapping[str, Judged]], *, resamples: int = RESAMPLES) -> dict[str, Any]:
    """Every model with its interval, and against the first one; plain data.

    `tasks` has for each task, and `average` for the mean over the STS tasks (None without any): `spearman` and
    `interval` (95%) of each model, and for each further model `difference` to the first, `difference_interval` (95%)
    and `p` of the two-sided paired test.

    Args:
        models: by name, what `judge` gave; all of the same tasks.
        resamples: B, of the bootstrap and of the test each.
    """
    names = list(models)
    tasks = list(models[names[0]])
    drawn = {task: _resample([models[name][task] for name in names], resamples) for task in tasks}
    summaries = {task: _summary(names, drawn[task]) for task in tasks}
    averaged = [drawn[task] for task in tasks if task in STS_TASKS]
    average = _summary(names, _mean(averaged)) if averaged else None
    return {"baseline": names[0], "resamples": resamples, "tasks": summaries, "average": average}


@dataclass(frozen=True, kw_only=True)
class _Drawn:
    """Correlations of M models and differences to the first."""

    spearman: Float  # (M,)
    bootstrap: Float  # (M, B)
    swapped: Float  # (M - 1, B), differences between two models with swapped ranks


def _mean(drawn: Sequence[_Drawn]) -> _Drawn:
    """Of the averages over the tasks, which were drawn independently of each other."""
    return _Drawn(
        spearman=np.mean([task.spearman for task in drawn], axis=0),
        bootstrap=np.mean([task.bootstrap for task in drawn], axis=0),
        swapped=np.mean([task.swapped for task in drawn], axis=0),
    )


def _summary(names: Sequence[str], drawn: _Drawn) -> dict[str, Any]:
    models = {
        name: {"spearman": float(drawn.spearman[m]), "interval": list(percentiles(drawn.bootstrap[m]))}
        for m, name in enumerate(names)
    }
    for m, name in enumerate(names[1:], start=1):
        difference = float(drawn.spearman[m] - drawn.spearman[0])
        as_large = int((np.abs(drawn.swapped[m - 1]) >= abs(difference) - 1e-12).sum())
        models[name] |= {
            "difference": difference,
            "difference_interval": list(percentiles(drawn.bootstrap[m] - drawn.bootstrap[0])),
            "p": (as_large + 1) / (drawn.swapped.shape[1] + 1),
        }
    return models


def _resample(models: Sequence[Judged], resamples: int) -> _Drawn:
    rng = np.random.default_rng(SEED)
    scores = models[0].scores
    similarity = np.stack([model.similarity for model in models])  # (M, P)
    ranks, gold = _centred_ranks(similarity), _centred_ranks(scores[None])
    bootstrap = [_bootstrap(similarity, scores, rows) for rows in draws(rng, len(scores), resamples)]
    swapped = [_swapped_differences(ranks, gold, swaps) for swaps in coins(rng, len(scores), resamples)]
    return _Drawn(
        spearman=_correlation(ranks, gold),
        bootstrap=np.concatenate(bootstrap, axis=1),
        swapped=np.concatenate(swapped, axis=1),
    )


def _bootstrap(similarity: Float, scores: Float, rows: NDArray[np.int64]) -> Float:
    """Correlations of M models on the pairs of each row of (B, P): (M, B)."""
    gold = _centred_ranks(scores[rows])
    return np.stack([_correlation(_centred_ranks(model[rows]), gold) for model in similarity])


def _swapped_differences(ranks: Float, gold: Float, swaps: NDArray[np.bool_]) -> Float:
    """Differences to the first of M rankings after swapping where (B, P) says so: (M - 1, B)."""
    differences = np.empty((len(ranks) - 1, len(swaps)))
    for m, other in enumerate(ranks[1:]):
        one_way = _correlation(_centred_ranks(np.where(swaps, ranks[0], other)), gold)
        other_way = _correlation(_centred_ranks(np.where(swaps, other, ranks[0])), gold)
        differences[m] = one_way - other_way
    return differences


def _centred_ranks(values: NDArray[Any]) -> Float:
    """Ranks in each row of (B, P), minus their mean."""
    return rankdata(values, axis=1) - (values.shape[1] + 1) / 2


def _correlation(a: Float, b: Float) -> Float:
    """Pearson of centred rows: (B, P) and (B, P) or (1, P): (B,); 0 where a row is constant."""
    size = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    return np.divide((a * b).sum(axis=1), size, out=np.zeros(len(a)), where=size > 0)
