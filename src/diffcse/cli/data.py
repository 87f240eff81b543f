"""diffcse data: the evaluation data, brought and checked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diffcse.errors import UserError

if TYPE_CHECKING:
    from diffcse.evaluation.senteval import Reading

app = typer.Typer(name="data", help="Bring and check SentEval's evaluation data.", no_args_is_help=True)


@app.command()
def fetch(
    folder: Annotated[
        Path, typer.Argument(help="Folder for the data, later given to `diffcse evaluate --senteval`.")
    ] = Path("senteval"),
) -> None:
    """Download SentEval's data (90 MB), unpack it and count the rows of all 14 tasks."""
    from diffcse.evaluation import fetch as fetching
    from diffcse.progress import make_console, say

    if (folder / "downstream").is_dir():
        reading = fetching.check(folder)
        show(reading)
        if reading.problems:
            faulty = dict.fromkeys(problem.task for problem in reading.problems)
            got = "faults in " + ", ".join(faulty)
            raise UserError(str(folder / "downstream"), "complete", got, "remove it, or name another folder")
        say(make_console(), f"{folder} is complete; nothing to do")
        return
    reading = fetching.fetch(folder)
    show(reading)
    if reading.problems:
        raise typer.Exit(1)


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(help="Folder in SentEval's layout, the one that holds downstream/.")],
) -> None:
    """Read every task of a folder and count its rows; exit code 1 if something is missing or damaged."""
    from diffcse.evaluation import fetch as fetching

    reading = fetching.check(folder)
    show(reading)
    if reading.problems:
        raise typer.Exit(1)


def show(reading: Reading) -> None:
    """Rows of each task on stdout; what is missing on stderr."""
    from diffcse.evaluation.fetch import counts
    from diffcse.evaluation.tasks import ALL_TASKS
    from diffcse.progress import make_console, say
    from diffcse.reports import terminal
    from diffcse.reports.table import Table

    tasks = counts(reading)
    whole = set(tasks) - {problem.task for problem in reading.problems}
    rows = []
    for name in ALL_TASKS:
        state = "whole" if name in whole else "in part" if name in tasks else "missing"
        rows.append((name, state, ", ".join(f"{part} {count}" for part, count in tasks.get(name, {}).items())))
    table = Table(title="SentEval's tasks", columns=("task", "", "rows"), rows=rows, words=3)
    terminal.show(make_console(stderr=False), table)
    for problem in reading.problems:
        say(make_console(), problem.line)
