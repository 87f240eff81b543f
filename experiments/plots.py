"""The figures of docs/experiments.md from the files in experiments/results.

python experiments/plots.py      # writes every docs/images/NAME.png that the document shows

`results-...` files become a dot a run with a bar at each setting's mean, `reading-...` files the curves of each run.
"""

from __future__ import annotations

import re
import statistics
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from tables import DEV, DOCUMENT, TASKS, rows_of

matplotlib.use("agg")
DOT, BAR, START = "#2b6cb0", "#1a202c", "#718096"


def main() -> None:
    """One picture a results file; the start is drawn where the file has it."""
    for name in re.findall(r"\(images/((?:results|reading)-[^)]+)\.png\)", DOCUMENT.read_text(encoding="utf-8")):
        figure = (curves if name.startswith("reading") else drawn)(rows_of(name))
        figure.savefig(DOCUMENT.parent / "images" / f"{name}.png", dpi=110, metadata={"Software": None})


def drawn(results: list[dict[str, Any]]) -> Figure:
    """Two panels side by side: the average over the test sets, and STS-B dev; Spearman x100.

    Args:
        results: objects with `run`, and each score as a fraction from 0 to 1; a setting stands once for each seed.
    """
    names = [name for name in dict.fromkeys(row["run"] for row in results) if not name.startswith("start")]
    tests = [task for task in TASKS if all(task in row for row in results)]
    panels = {
        "average of " + ", ".join(TASKS[task] for task in tests): tests,
        **{DEV[key]: [key] for key in list(DEV)[:1]},
    }
    figure = Figure(figsize=(11, 1.4 + 0.32 * len(names)), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True)
    for axis, (title, tasks) in zip(axes, panels.items(), strict=True):
        for row in results:
            value = 100 * statistics.mean(row[task] for task in tasks)
            if row["run"].startswith("start"):
                axis.axvline(value, color=START, linestyle="dotted")
            else:
                axis.plot(value, names.index(row["run"]), "o", color=DOT, alpha=0.6, markersize=6)
        for place, name in enumerate(names):
            scores = [100 * statistics.mean(row[task] for task in tasks) for row in results if row["run"] == name]
            axis.plot([statistics.mean(scores)], [place], "|", color=BAR, markersize=15, markeredgewidth=2)
        started = ", ".join(row["run"] for row in results if row["run"].startswith("start"))
        axis.set_title(f"{title} (dotted: {started})" if started else title, fontsize=10)
        axis.tick_params(labelsize=8)
        axis.set_ylim(len(names) - 0.5, -0.5)
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(names)), map(short, names), fontsize=8)
    figure.supxlabel("Spearman x100", fontsize=9)
    return figure


def short(run: str) -> str:
    """The name of a setting for a legend."""
    return run.removeprefix("objective ").replace("learning_rate", "rate").replace("_weight", "")


PANELS = {
    "stsb": "STS-B dev, Spearman",
    "contrastive": "contrastive loss",
    "positive_cosine": "cosine of the two views",
    "rtd": "replaced token detection, loss",
    "replaced_accuracy": "share of the replaced tokens found",
    "original_accuracy": "share of the others left alone",
}


def curves(results: list[dict[str, Any]]) -> Figure:
    """A panel a term over the steps, a line a run.

    Args:
        results: what `reading.py` writes; rows without curves are not drawn.
    """
    figure = Figure(figsize=(11, 6.5), layout="constrained")
    axes = figure.subplots(2, 3)
    runs = [row for row in results if "curves" in row]
    colours = matplotlib.colormaps["tab10" if len(runs) <= 10 else "tab20"].colors
    for axis, (term, title) in zip(axes.flat, PANELS.items(), strict=True):
        for number, row in enumerate(runs):
            steps = row["curves"][term]
            if steps:
                axis.plot(*zip(*steps, strict=True), color=colours[number], marker=".", label=short(row["run"]))
        axis.set_title(title, fontsize=10)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
    axes[0, 1].set_yscale("log")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", fontsize=8, ncols=2)
    axes[1, 1].set_xlabel("step", fontsize=9)
    return figure


if __name__ == "__main__":
    main()
