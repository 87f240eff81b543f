"""diffcse demo: the main job on real text that every machine has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffcse.errors import UserError


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for text and models.")] = Path("demo-run"),
    encoder: Annotated[
        str,
        typer.Option(help="Model to start from: auto (minilm where that extra is installed, else bundled) or a name."),
    ] = "auto",
    steps: Annotated[int, typer.Option(help="Optimiser steps of each run; 0: as many as `diffcse adapt` takes.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of everything.")] = 0,
) -> None:
    """Adapt a model to the documentation on this machine, compare it and search; no labels, no network.

    Compares the start, TF-IDF, SimCSE, DiffCSE (from the bundled model) and `diffcse adapt` on packages that none of
    them was trained on.
    """
    if steps < 0:
        raise UserError("steps", "at least 0", steps, "use 0")
    from diffcse.cli.quiet import quiet_libraries
    from diffcse.demo.demo import demo as run
    from diffcse.progress import make_console

    quiet_libraries()

    run(output, encoder=encoder, steps=steps, seed=seed, console=make_console(stderr=False))
