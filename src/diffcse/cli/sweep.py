"""diffcse sweep: many runs from one settings file, and what they say."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from diffcse.cli.common import check_file, write_results
from diffcse.cli.options import read_toml
from diffcse.errors import UserError

if TYPE_CHECKING:
    from diffcse.sweeps.plan import Score, Sweep
    from diffcse.sweeps.results import Result, Results


class RunByDefault(TyperGroup):
    """`diffcse sweep SETTINGS.toml` means `diffcse sweep run SETTINGS.toml`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put `run` in front unless a command or --help comes first."""
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    name="sweep",
    cls=RunByDefault,
    help="Many training runs from one settings file (seeds, learning rates, objectives, ...), and what they say.",
    no_args_is_help=True,
)

WORKERS = Annotated[int, typer.Option(help="Runs at a time; the cores are shared between them.")]
METRIC = Annotated[
    str | None,
    typer.Option(help="Score to compare by. Default: STS-B dev where it is there, else the last training loss."),
]
AGAINST = Annotated[int, typer.Option(help="Setting that the others are compared with: its row in the table, from 1.")]
JSON = Annotated[Path | None, typer.Option(help="Write the figures here.")]
PLOT = Annotated[Path | None, typer.Option(help="Draw them: a .png, .svg or .pdf file.")]


@app.command()
def run(
    settings: Annotated[Path, typer.Argument(help="TOML file: text, [settings], [grid] and [[runs]].")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder of the sweep. Default: the file's name without its ending."),
    ] = None,
    senteval: Annotated[
        Path | None,
        typer.Option(help="Folder in SentEval's layout: STS-B dev chooses checkpoints, every STS task is scored."),
    ] = None,
    workers: WORKERS = 1,
) -> None:
    """Run what is missing; the same command resumes after an interruption."""
    from diffcse.sweeps.plan import read_sweep

    sweep = read_sweep(settings, read_toml(settings))
    if senteval is not None:
        sweep = dataclasses.replace(sweep, senteval=senteval)
    if not sweep.text:
        raise UserError(f"{settings}: text", "a file or a list of files", "none", 'add text = "sentences.txt"')
    go(sweep, output or Path(settings.stem), workers)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Folder of the sweep.")],
    metric: METRIC = None,
    against: AGAINST = 1,
    json: JSON = None,
    plot: PLOT = None,
) -> None:
    """Mean, spread, expected best of several runs and paired comparisons of a sweep's settings."""
    from diffcse.sweeps.results import Results

    check_figures(json, plot)
    results = Results(folder).all()
    if not results:
        raise UserError(f"{folder}", "the folder of a sweep", "no scores in it", "give diffcse sweep's output")
    show(results, metric, against=against, json=json, plot=plot)


def check_figures(json: Path | None, plot: Path | None) -> None:
    """Refuse now, not after all runs, a place where the figures could not be written."""
    check_file("--json", json)
    check_file("--plot", plot, (".png", ".svg", ".pdf"))


def go(sweep: Sweep, output: Path, workers: int) -> list[Result]:
    """Run a sweep with its progress shown; ends with exit code 1 where a run failed."""
    from diffcse.cli.quiet import quiet_libraries
    from diffcse.progress import counting, make_console, say
    from diffcse.sweeps.plan import run_sweep

    quiet_libraries()
    console = make_console()
    score, names = scorer(sweep.senteval), {run.name for run in sweep.runs}
    with counting(console, "runs", len(sweep.runs)) as counter:

        def on_change(results: Results) -> None:
            done = sum(result.scores is not None for result in results.all() if result.name in names)
            counter(done)
            if not console.is_terminal:
                say(console, f"{done} of {len(sweep.runs)} runs")

        results = run_sweep(sweep, output, score=score, workers=workers, on_change=on_change).all()
    failed = [result for result in results if result.name in names and result.error]
    for result in failed:
        say(console, f"failed: {result.name}: {result.error}")
    say(console, f"results in {output}; see: diffcse sweep report {output}")
    if failed:
        raise typer.Exit(1)
    return results


def scorer(senteval: Path | None) -> Score:
    """Scores a finished run's model on every STS task there is; data are read now, so that a fault shows now."""
    if senteval is None:
        return lambda folder: {}
    from diffcse.evaluation.suite import evaluate, plan, select

    planned = plan(senteval, select("sts"), mode="test", protocol="all")

    def score(folder: Path) -> dict[str, float]:
        from diffcse.encoding.encode import Encoder

        tasks = evaluate(Encoder(str(folder)).encode, planned, model=str(folder))["tasks"]
        scores = {name: task["spearman"] for name, task in tasks.items() if task.get("spearman") is not None}
        dev = {f"{name} dev": task["dev"]["spearman"] for name, task in tasks.items() if "dev" in task}
        return {**scores, **dev}

    return score


def show(
    results: Sequence[Result],
    metric: str | None,
    *,
    against: int = 1,
    json: Path | None = None,
    plot: Path | None = None,
    published: dict[str, float] | None = None,
) -> None:
    """Print the tables, and write the figures and the picture if asked for."""
    from diffcse.progress import make_console
    from diffcse.reports import terminal
    from diffcse.sweeps import report as sweep_report

    chosen = sweep_report.choose_metric(results, metric)
    groups = [group for group in sweep_report.groups(results, chosen) if group.scores]
    if not 1 <= against <= len(groups):
        raise UserError("against", f"a row of the table, 1 to {len(groups)}", against, "choose one of them")
    compared = sweep_report.pairs(groups, groups[against - 1])
    tables = [sweep_report.groups_table(groups, chosen, published)]
    tables += [sweep_report.pairs_table(compared, chosen)] if compared else []
    terminal.show(make_console(stderr=False), *tables)
    if json is not None:
        settings = [{"name": group.name, **dataclasses.asdict(group)} for group in groups]
        tests = [dataclasses.asdict(pair) for pair in compared]
        runs = sweep_report.flat_rows(results)
        write_results(json, {"metric": chosen, "settings": settings, "compared": tests, "runs": runs})
    if plot is not None:
        sweep_report.plot(groups, chosen, plot, published)
