"""diffcse report: results and training logs as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffcse.cli.common import check_file
from diffcse.errors import UserError


def report(
    results: Annotated[
        Path,
        typer.Argument(metavar="RESULTS.json", help="Written by `diffcse evaluate --json`.", show_default=False),
    ],
    runs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[RUN_FOLDER]...", help="Folders of training runs, for their curves."),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The page.")] = Path("report.html"),
    figures: Annotated[
        Path | None,
        typer.Option(help="Folder for the figures as SVG and PNG."),
    ] = None,
) -> None:
    r"""Make one self-contained page of tables and figures from results, with published numbers next to them.

    Needs matplotlib: pip install 'diffcse\[plots]'.
    """
    check_file("--output", output)
    if output.exists() and results.exists() and output.samefile(results):
        raise UserError(f"--output {output}", "another file than the results", "the same", "choose another name")
    if figures is not None and figures.exists() and not figures.is_dir():
        raise UserError(f"--figures {figures}", "a folder", "a file", "choose another name")
    from diffcse.progress import make_console, say
    from diffcse.reports.report import read_report, write_report

    write_report(read_report(results, runs or []), output, figures)
    written = str(output) if figures is None else f"{output}, figures in {figures}"
    say(make_console(), written)
