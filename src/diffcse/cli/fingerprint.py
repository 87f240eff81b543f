"""diffcse fingerprint: digests of a run or a model that two people can compare."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer


def fingerprint(
    folder: Annotated[Path, typer.Argument(help="A model, or an interrupted run.", show_default=False)],
    json_: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Digests of weights, optimiser, random states, next batch, text and settings, to compare two runs by.

    Equal lines mean equal bits. Of an interrupted run, the newest complete checkpoint is described.
    """
    from diffcse.cli.quiet import quiet_libraries
    from diffcse.files import json_bytes
    from diffcse.training.fingerprint import fingerprint as compute

    quiet_libraries()
    result = compute(folder)
    if json_:
        typer.echo(json_bytes(dataclasses.asdict(result)).decode(), nl=False)
    else:
        typer.echo("\n".join(result.lines()))
