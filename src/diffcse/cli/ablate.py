"""diffcse ablate: the paper's ablation tables, run here and shown next to the published numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from diffcse.cli.options import SOURCES, with_fields, without_none
from diffcse.cli.sweep import JSON, PLOT, WORKERS, check_figures, go, show
from diffcse.errors import UserError
from diffcse.presets import PRESETS, SECTIONS
from diffcse.sweeps.ablations import TABLES, ablation


def ablate(
    table: Annotated[str, typer.Argument(help=f"Which table: {', '.join(TABLES)}.", show_default=False)],
    sources: SOURCES,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the runs.", show_default=False)],
    preset: Annotated[str, typer.Option(help=f"Where the settings start: {', '.join(PRESETS)}.")] = "bert-sts",
    seeds: Annotated[int, typer.Option(help="Runs a row, with seeds from 0; the paper has one.")] = 1,
    senteval: Annotated[
        Path | None,
        typer.Option(help="Folder in SentEval's layout; STS-B dev is the published measure."),
    ] = None,
    workers: WORKERS = 1,
    json: JSON = None,
    plot: PLOT = None,
    **options: Any,
) -> None:
    """Run one of the paper's ablation tables; the same command resumes after an interruption."""
    from diffcse.sweeps.plan import Sweep, plan_runs

    check_figures(json, plot)
    if seeds < 1:
        raise UserError("seeds", "at least 1", seeds, "give the number of runs a row")
    plan = ablation(table, preset=preset, settings=without_none(options))
    runs = plan_runs(plan.settings, {"seed": list(range(seeds))}, plan.rows)
    results = go(Sweep(text=tuple(sources), runs=runs, senteval=senteval), output, workers)
    names = {run.name for run in runs}
    show([result for result in results if result.name in names], None, json=json, plot=plot, published=plan.published)


with_fields(ablate, {name.capitalize(): cls for name, cls in SECTIONS.items()})
