"""The figures of a report, drawn with matplotlib from results and training logs.

Each is small, one idea, so that it can be read on a phone; a page shows several in a row. Colours come from one
list (`picture`), so that the page can exchange them for those of a dark background.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diffcse.errors import MissingExtra
from diffcse.reports.logs import Run
from diffcse.reports.picture import FAINT, GRID, INK, SERIES, Picture

try:
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator
except ImportError as error:
    raise MissingExtra("matplotlib", "matplotlib", "plots") from error

_WIDTH_INCHES = 4.2
_STYLES = ("-", "--")
_RC: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "diffcse",  # the same figure, the same bytes
    "text.parse_math": False,  # a model's name may hold a dollar sign
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.4,
}


def fitting(label: str, most: int = 46) -> str:
    """The label, or its end where it is too long for a figure; the end tells models apart better than the start.

    >>> fitting("runs/seeds/a", 8)
    '…seeds/a'
    """
    return label if len(label) <= most else "…" + label[len(label) - most + 1 :]


def to_svg(picture: Picture, *, transparent: bool = False) -> bytes:
    """The figure as SVG, its text as text; the same bytes every time."""
    if isinstance(picture.figure, str):
        return picture.figure.encode()
    return _saved(picture, "svg", metadata={"Date": None}, transparent=transparent)


def to_png(picture: Picture) -> bytes:
    """The figure as PNG on white, 200 dots an inch."""
    return _saved(picture, "png", dpi=200, facecolor="white")


def _saved(picture: Picture, kind: str, **options: Any) -> bytes:
    if isinstance(picture.figure, str):
        raise TypeError(f"the picture {picture.name} is SVG text already")
    file = io.BytesIO()
    with matplotlib.rc_context(_RC):
        picture.figure.savefig(file, format=kind, **options)
    return file.getvalue()


def _new(title: str, height: float = 2.7) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH_INCHES, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title)
    return figure, axes


def scores(
    name: str, title: str, ylabel: str, tasks: Sequence[str], rows: Sequence[tuple[str, Sequence[float | None], bool]]
) -> Picture:
    """Scores by task as lines: measured scores solid, published scores faint and dotted.

    Args:
        name: of the files.
        title: of the figure.
        ylabel: what is measured.
        tasks: short names.
        rows: (name, x100 by task or None, whether published).
    """
    with matplotlib.rc_context(_RC):
        figure, axes = _new(title, 3.0)
        x = np.arange(len(tasks))
        published = 0
        for i, (label, values, quoted) in enumerate(rows):
            y = [np.nan if value is None else value for value in values]
            how: dict[str, Any] = {"color": SERIES[i % len(SERIES)], "marker": "o", "markersize": 5}
            if quoted:
                how = {"color": FAINT, "marker": "s^vD"[published % 4], "markersize": 4.5, "fillstyle": "none"}
            published += quoted
            axes.plot(x, y, ":" if quoted else "-", linewidth=1.1, label=fitting(label), **how)
        axes.set_xticks(x, tasks, rotation=35, ha="right", rotation_mode="anchor")
        axes.set_ylabel(ylabel)
        figure.legend(loc="outside lower left", ncols=1)
    return Picture(name=name, title=title, figure=figure)


def histogram(name: str, model: str, counted: Mapping[str, Any]) -> Picture:
    """Cosines of sentence pairs, one row for each range of gold scores, with the mean of each.

    Args:
        name: of the files.
        model: whose cosines they are.
        counted: `edges` and `counts`, from `analysis.histogram`.
    """
    edges = np.array(counted["edges"], dtype=float)
    counts = {level: np.array(values, dtype=float) for level, values in counted["counts"].items()}
    together = sum(counts.values())
    used = np.flatnonzero(together)
    low, high = (edges[max(used[0] - 1, 0)], edges[used[-1] + 1]) if len(used) else (-1.0, 1.0)
    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(_WIDTH_INCHES, 3.6), layout="constrained")
        rows = figure.subplots(len(counts), 1, sharex=True)
        for axes, (level, values) in zip(np.atleast_1d(rows), reversed(counts.items()), strict=True):
            _one_level(axes, level, values, edges)
            axes.set_xlim(low, high)
        rows[-1].set_xlabel("cosine")
        figure.supylabel("gold score", fontsize=9)
        figure.suptitle(
            f"Cosines by gold score, {fitting(model, 24)}", fontsize=9.5, fontweight="bold", x=0.02, ha="left"
        )
    return Picture(name=name, title=f"Histograms of cosines by gold score, {model}", figure=figure)


def _one_level(axes: Axes, level: str, values: np.ndarray, edges: np.ndarray) -> None:
    axes.stairs(values, edges, fill=True, color=SERIES[0], alpha=0.75)
    if values.sum():
        mean = float(np.average((edges[1:] + edges[:-1]) / 2, weights=values))
        axes.axvline(mean, color=SERIES[1], linewidth=1.4)
        axes.annotate(f"mean {mean:.2f}", (0.01, 0.95), xycoords="axes fraction", va="top", fontsize=8)
    axes.set_yticks([])
    axes.set_ylabel(level.replace("-", "–"), rotation=0, ha="right", va="center")  # noqa: RUF001


def alignment_uniformity(models: Sequence[tuple[str, float, float]]) -> Picture:
    """Each encoder's alignment (close pairs) and uniformity (spread-out sentences); lower left is best.

    Args:
        models: (name, alignment, uniformity).
    """
    title = "Alignment and uniformity"
    with matplotlib.rc_context(_RC):
        figure, axes = _new(title, 3.0)
        for i, (label, alignment, uniformity) in enumerate(models):
            axes.plot([uniformity], [alignment], "o", color=SERIES[i % len(SERIES)], label=fitting(label), markersize=7)
        axes.margins(0.25)
        if len(models) == 1:
            _, alignment, uniformity = models[0]
            axes.set_xlim(uniformity - 0.6, uniformity + 0.6)
            axes.set_ylim(0, 2 * alignment + 0.01)
        axes.set_xlabel("uniformity (lower: more spread out)")
        axes.set_ylabel("alignment (lower: pairs closer)")
        figure.legend(loc="outside lower left", ncols=1)
    return Picture(name="alignment-uniformity", title=title, figure=figure)


_PANELS: tuple[tuple[str, str, Mapping[str, str]], ...] = (
    ("contrastive", "Contrastive loss", {"contrastive": ""}),
    ("rtd", "Loss of the difference prediction", {"rtd": ""}),
    ("loss", "Training loss", {"loss": ""}),
    ("cosines", "Cosine of positives and of others", {"positive_cosine": "positives", "negative_cosine": "others"}),
    (
        "discriminator",
        "Discriminator: accuracy at replaced and at original tokens",
        {"replaced_accuracy": "replaced", "original_accuracy": "original"},
    ),
    ("accuracy", "Accuracy at masked tokens", {"accuracy": ""}),
)
_NO_SCORE = {"step", "epoch", "total_flos"}


def training(runs: Sequence[Run]) -> list[Picture]:
    """The curves of training runs, a picture a quantity: losses, cosines, the discriminator, the score that chooses.

    Args:
        runs: logs; a quantity that none has is skipped.
    """
    chosen_by = sorted({key for run in runs for line in run.lines for key in line if _is_score(line, key)})
    panels = [(f"score-{key}", f"Score that chooses the checkpoint: {key}", {key: ""}) for key in chosen_by]
    pictures = []
    for name, title, keys in (*panels, *_PANELS):
        if any(key in line for run in runs for line in run.lines for key in keys):
            pictures.append(_curves(f"training-{name}", title, runs, keys))
    return pictures


def _is_score(line: Mapping[str, float], key: str) -> bool:
    """Scores have separate lines; the last line of a run sums it up."""
    return "loss" not in line and key not in _NO_SCORE and not key.startswith("train_")


def _curves(name: str, title: str, runs: Sequence[Run], keys: Mapping[str, str]) -> Picture:
    with matplotlib.rc_context(_RC):
        figure, axes = _new(title)
        for i, run in enumerate(runs):
            for style, (key, what) in zip(_STYLES, keys.items(), strict=False):
                steps, values = run.curve(key)
                if not steps:
                    continue
                label = ", ".join(text for text in (run.name if len(runs) > 1 or not what else "", what) if text)
                dot = "o" if len(steps) < 12 else None
                colour = SERIES[i % len(SERIES)]
                axes.plot(steps, values, style, marker=dot, markersize=3, color=colour, label=fitting(label))
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if len(axes.lines) > 1:
            figure.legend(loc="outside lower left", ncols=2 if len(keys) > 1 and len(runs) == 1 else 1)
    return Picture(name=name, title=title, figure=figure)
