"""diffcse data: the evaluation data, brought and checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from diffcse.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from diffcse.evaluation.senteval import Reading

app = typer.Typer(name="data", help="Bring and check SentEval's evaluation data.", no_args_is_help=True)


@app.command()
def fetch(
    folder: Annotated[
        Path, typer.Argument(help="Folder for the data, later given to `diffcse evaluate --senteval`.")
    ] = Path("senteval"),
    url: Annotated[
        Optional[str],  # noqa: UP045  (typer reads this form on 3.10)
        typer.Option(help="Address of the archive. Default: the one of the SimCSE authors on the Hub."),
    ] = None,
) -> None:
    """Download SentEval's data (90 MB), unpack it and count the rows of all 14 tasks; the same command resumes."""
    from rich.console import Console

    from diffcse.evaluation import fetch as fetching

    err = Console(stderr=True)
    if (folder / "downstream").is_dir():
        reading = fetching.check(folder)
        show(reading)
        if reading.problems:
            faulty = dict.fromkeys(problem.task for problem in reading.problems)
            got = "faults in " + ", ".join(faulty)
            raise UserError(str(folder / "downstream"), "complete", got, "remove it, or name another folder")
        err.print(f"{folder} is complete; nothing to do", soft_wrap=True, markup=False, highlight=False)
        return
    with _bytes(err) as advance:
        reading = fetching.fetch(folder, url=url, on_progress=advance)
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
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from diffcse.evaluation.fetch import counts
    from diffcse.evaluation.tasks import ALL_TASKS

    found = counts(reading)
    whole = set(found) - {problem.task for problem in reading.problems}
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("task", "", "rows"):
        table.add_column(heading)
    for name in ALL_TASKS:
        state = "whole" if name in whole else "in part" if name in found else "missing"
        table.add_row(name, state, ", ".join(f"{part} {rows}" for part, rows in found.get(name, {}).items()))
    out, err = Console(), Console(stderr=True)
    out.width = max(out.width, 120) if not out.is_terminal else out.width
    out.print(table)
    for problem in reading.problems:
        err.print(problem.line, soft_wrap=True, markup=False, highlight=False)


@contextmanager
def _bytes(console: Console) -> Iterator[Callable[[int, int | None], None]]:
    """A bar of bytes on a terminal, nothing elsewhere."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    text = TextColumn("{task.description}")
    columns = (text, BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, disable=not console.is_terminal)
    task = bar.add_task("senteval", total=None)
    with bar:
        yield lambda done, total: bar.update(task, completed=done, total=total)
