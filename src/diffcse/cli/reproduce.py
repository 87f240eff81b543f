"""diffcse reproduce: the paper's own tables, run here and shown next to the published row."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from diffcse.cli.options import with_fields, without_none
from diffcse.sweeps.reproduce_settings import REPRODUCED, ReproduceSettings


def reproduce(
    preset: Annotated[str, typer.Argument(help=f"Which table: {', '.join(REPRODUCED)}.", show_default=False)],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for runs, results and fetched data.", show_default=False)
    ],
    **options: Any,
) -> None:
    """Train a preset as published and show its evaluation next to the published row.

    The text, the models and SentEval's data come from the Hub where they are not given. The same command resumes after
    an interruption.
    """
    from diffcse.cli.quiet import quiet_libraries
    from diffcse.progress import make_console, say
    from diffcse.reports import terminal
    from diffcse.sweeps import reproduce as job

    quiet_libraries()
    console = make_console()
    table = job.reproduce(preset, output, ReproduceSettings(**without_none(options)), console=console)
    terminal.show(make_console(stderr=False), table)
    say(console, f"for a page: diffcse report {output / 'results.json'} {output}/seed-* -o report.html")


with_fields(reproduce, {"Reproduction": ReproduceSettings})
