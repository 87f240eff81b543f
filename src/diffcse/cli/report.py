"""diffcse report: results and training logs as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from diffcse.errors import UserError


def report(
    results: Annotated[
        Path,
        typer.Argument(metavar="RESULTS.json", help="Written by `diffcse evaluate --json`.", show_default=False),
    ],
    runs: Annotated[
        Optional[list[Path]],  # noqa: UP045  (typer reads this form on 3.10)
        typer.Argument(metavar="[RUN_FOLDER]...", help="Folders of training runs, for their curves."),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The page.")] = Path("report.html"),
    figures: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder for the figures as SVG and PNG."),
    ] = None,
) -> None:
    r"""Make one self-contained page of tables and figures from results, published numbers beside them.

    Needs matplotlib: pip install 'diffcse\[plots]'.
    """
    if not output.parent.is_dir() or output.is_dir():
        raise UserError(f"--output {output}", "a file in an existing folder", "none", "name another place")
    from rich.console import Console

    from diffcse.reports.report import read_report, write_report

    write_report(read_report(results, runs or []), output, figures)
    written = str(output) if figures is None else f"{output}, figures in {figures}"
    Console(stderr=True).print(written, soft_wrap=True, markup=False, highlight=False)
