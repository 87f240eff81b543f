"""What a sweep says: means, spread over seeds, the best of several runs, and paired comparisons of settings."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffcse.errors import UserError
from diffcse.evaluation.statistics import bootstrap, randomisation
from diffcse.reports import table
from diffcse.reports.table import Table
from diffcse.sweeps.results import Result

RESAMPLES = 9_999
LOSS = "train loss"
DEFAULT_METRICS = ("STSBenchmark dev", LOSS)
_BEST_OF = (3, 5)


@dataclass(frozen=True, kw_only=True)
class Group:
    """The runs of one setting, whatever their seed.

    Attributes:
        settings: those that vary in the sweep, without the seed.
        seeds: of the runs that ended, in order.
        scores: of the same runs.
        mean: of the scores.
        deviation: sample standard deviation; None with one run.
        interval: 95% percentile bootstrap interval of the mean; None with fewer than three runs.
        best_of: expected maximum of k runs, by k; empty for a loss.
        failed: runs without a score.
    """

    settings: dict[str, Any]
    seeds: list[int]
    scores: list[float]
    mean: float
    deviation: float | None
    interval: tuple[float, float] | None
    best_of: dict[int, float]
    failed: int

    @property
    def name(self) -> str:
        """The settings in a line."""
        return describe(self.settings)


@dataclass(frozen=True, kw_only=True)
class Paired:
    """One setting against another over the seeds that both have.

    Attributes:
        name: of the setting.
        against: the setting it is compared with.
        seeds: how many seeds both have.
        difference: mean of the differences, the first minus the second.
        interval: 95% percentile bootstrap interval of it; None with fewer than three seeds.
        p: of the two-sided sign-flip permutation test; None with fewer than two seeds.
    """

    name: str
    against: str
    seeds: int
    difference: float
    interval: tuple[float, float] | None
    p: float | None


def describe(settings: Mapping[str, Any]) -> str:
    """Settings in a line.

    >>> describe({"objective": "simcse", "learning_rate": 1e-4})
    'objective simcse, learning_rate 0.0001'
    """
    return ", ".join(f"{name} {value}" for name, value in settings.items()) or "all"


def choose_metric(results: Sequence[Result], metric: str | None) -> str:
    """The score that settings are compared by: STS-B dev where it is there, so that test scores choose nothing.

    Raises:
        UserError: for a score that no run has, or a sweep without a finished run.
    """
    known = sorted({name for result in results for name in result.scores or {}})
    if not known:
        finished = sum(result.scores is not None for result in results)
        got, do = "none", "run diffcse sweep first"
        if finished:  # too short for a line in the log
            got, do = f"{finished} without any score", "name --senteval, or lower log_every_steps below the runs' steps"
        raise UserError("the sweep", "a sweep with a finished run that has scores", got, do)
    if metric is None:
        return next((name for name in DEFAULT_METRICS if name in known), known[0])
    if metric not in known:
        raise UserError("metric", f"one of {', '.join(known)}", metric, "choose one of them")
    return metric


def groups(results: Sequence[Result], metric: str) -> list[Group]:
    """The runs of each setting together, in the order of the sweep."""
    runs: dict[str, list[Result]] = {}
    for result in results:
        key = json.dumps({name: value for name, value in result.settings.items() if name != "seed"})
        runs.setdefault(key, []).append(result)
    return [_group(json.loads(key), of_setting, metric) for key, of_setting in runs.items()]


def _group(settings: dict[str, Any], runs: list[Result], metric: str) -> Group:
    ended = [run for run in runs if run.scores is not None and metric in run.scores]
    ended.sort(key=lambda run: run.settings.get("seed", 0))
    scores = np.array([(run.scores or {})[metric] for run in ended])
    return Group(
        settings=settings,
        seeds=[int(run.settings.get("seed", 0)) for run in ended],
        scores=scores.tolist(),
        mean=float(scores.mean()) if len(scores) else float("nan"),
        deviation=float(scores.std(ddof=1)) if len(scores) > 1 else None,
        interval=interval(scores),
        best_of={k: expected_best(scores, k) for k in _BEST_OF if k <= len(scores) and metric != LOSS},
        failed=len(runs) - len(ended),
    )


def flat_rows(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Every finished run as one flat object: `run` (its settings in a line), `seed` and each score but the loss."""
    rows = []
    for result in results:
        if result.scores is not None:
            settings = {name: value for name, value in result.settings.items() if name != "seed"}
            scores = {name: score for name, score in result.scores.items() if name != LOSS}
            rows.append({"run": describe(settings), "seed": result.settings.get("seed", 0), **scores})
    return rows


def expected_best(scores: NDArray[np.float64], k: int) -> float:
    """Expected maximum of k of the runs: the unbiased estimate, over all subsets of k (Tang et al., 2020).

    Taking k runs with replacement (Dodge et al., 2019) would underestimate it.

    Args:
        scores: of n runs, shape (n,).
        k: 1 to n.

    >>> expected_best(np.array([1.0, 2.0, 3.0]), 2)
    2.6666666666666665
    """
    count = len(scores)
    weights = [math.comb(i, k - 1) / math.comb(count, k) for i in range(count)]
    return float(np.sort(scores) @ np.array(weights))


def interval(values: NDArray[np.float64]) -> tuple[float, float] | None:
    """95% percentile bootstrap interval of the mean; None for fewer than three values."""
    if len(values) < 3:
        return None
    mean = bootstrap(values, resamples=RESAMPLES)
    return mean.low, mean.high


def pairs(settings: Sequence[Group], against: Group) -> list[Paired]:
    """Every other setting against one, over the seeds that both have."""
    return [_paired(group, against) for group in settings if group is not against]


def _paired(group: Group, against: Group) -> Paired:
    mine, theirs = (dict(zip(g.seeds, g.scores, strict=True)) for g in (group, against))
    common = sorted(mine.keys() & theirs.keys())
    differences = np.array([mine[seed] - theirs[seed] for seed in common])
    return Paired(
        name=group.name,
        against=against.name,
        seeds=len(common),
        difference=float(differences.mean()) if len(common) else float("nan"),
        interval=interval(differences),
        p=randomisation(differences, RESAMPLES) if len(common) > 1 else None,
    )


def groups_table(settings: Sequence[Group], metric: str, published: Mapping[str, float] | None = None) -> Table:
    """One row a setting; scores x 100, losses as they are.

    Args:
        settings: the rows, from `groups`.
        metric: what they are compared by.
        published: published scores (x 100) by setting, in a separate column.
    """
    scale = _scale(metric)
    rows = []
    for number, group in enumerate(settings, 1):
        runs = f"{len(group.scores)}" + (f" ({group.failed} missing)" if group.failed else "")
        spread = "" if group.deviation is None else f"{group.deviation * scale:.2f}"
        best = [f"{group.best_of[k] * scale:.2f}" if k in group.best_of else "" for k in _BEST_OF]
        figures = f"{group.mean * scale:.2f}", spread, table.interval(group.interval, scale=scale)
        last = (f"{published.get(group.name, '')}",) if published else ()
        rows.append((str(number), group.name, runs, *figures, *best, *last))
    columns = ("", "setting", "runs", "mean", "sd", "95% interval", *(f"best of {k}" for k in _BEST_OF))
    title = f"{metric}{' x 100' if scale > 1 else ''}: over seeds"
    return Table(title=title, columns=columns + (("published",) if published else ()), rows=rows, words=2)


def pairs_table(compared: Sequence[Paired], metric: str) -> Table:
    """One row a setting: its difference to the setting that all are compared with."""
    scale = _scale(metric)
    rows = []
    for pair in compared:
        bounds = table.interval(pair.interval, scale=scale, sign=True)
        p = "" if pair.p is None else f"{pair.p:.3f}"
        rows.append((pair.name, str(pair.seeds), table.difference(pair.difference, scale=scale), bounds, p))
    columns = ("setting", "seeds", "difference", "95% interval", "p")
    return Table(title=f"against: {compared[0].against} (same seeds)", columns=columns, rows=rows)


def _scale(metric: str) -> float:
    return 1.0 if metric == LOSS else 100.0


def plot(settings: Sequence[Group], metric: str, path: Path, published: Mapping[str, float] | None = None) -> None:
    """Every run as a point, with the mean and its interval, as PNG, SVG or PDF by the file's name.

    Args:
        settings: the rows.
        metric: for the axis.
        path: of the picture.
        published: published scores by setting (x100), drawn as crosses.
    """
    import matplotlib

    if path.suffix not in (".png", ".svg", ".pdf"):
        raise UserError("plot", "a .png, .svg or .pdf file", path.name, "change its ending")
    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 1.2 + 0.45 * len(settings)), layout="constrained")
    scale = _scale(metric)
    for row, group in enumerate(settings):
        axes.plot(np.array(group.scores) * scale, [row] * len(group.scores), "o", color="#8da0cb", alpha=0.7)
        low, high = group.interval or (group.mean, group.mean)
        axes.plot([low * scale, high * scale], [row, row], color="#333333", linewidth=2)
        axes.plot(group.mean * scale, row, "D", color="#d95f02")
        if published and group.name in published:
            axes.plot(published[group.name], row, "x", color="#666666")
    axes.set_yticks(range(len(settings)), [group.name for group in settings])
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel(f"{metric} (points: runs; diamond: mean; bar: 95% interval of the mean)")
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
