"""diffcse demo: the main job in small, on real text that every machine has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffcse.errors import UserError


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for text and models.")] = Path("demo-run"),
    steps: Annotated[int, typer.Option(help="Optimiser steps of each of the two runs.")] = 60,
    seed: Annotated[int, typer.Option(help="Seed of both runs.")] = 0,
) -> None:
    """Adapt the bundled model to the documentation on this machine and search it; no labels, no network.

    Trains SimCSE and DiffCSE from the same start and compares them with the start on packages that they never saw.
    """
    if steps < 1:
        raise UserError("steps", "at least 1", steps, "use 60")
    from rich.console import Console

    from diffcse.cli.quiet import quiet_libraries
    from diffcse.demo.demo import demo as run

    quiet_libraries()

    run(output, steps=steps, seed=seed, console=Console())
