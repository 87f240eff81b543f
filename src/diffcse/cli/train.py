"""diffcse train: text in, a sentence-embedding model out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from diffcse.cli.options import MODEL_FOLDER, SOURCES, read_toml, with_fields, without_none
from diffcse.errors import Interrupted
from diffcse.presets import PRESETS, SECTIONS, build, flatten

if TYPE_CHECKING:
    from rich.console import Console

    from diffcse.training.train import TrainResult


def train(
    sources: SOURCES,
    output: MODEL_FOLDER,
    preset: Annotated[
        str | None,
        typer.Option(help=f"Where the settings start: {', '.join(PRESETS)}. Default: bert-sts."),
    ] = None,
    fidelity: Annotated[
        Literal["reference", "paper"] | None,
        typer.Option(help="As the code behind the published numbers, or as the paper's text. Default: reference."),
    ] = None,
    settings: Annotated[Path | None, typer.Option(help="TOML file with any of the settings below.")] = None,
    columns: Annotated[
        str | None,
        typer.Option(help="Columns of a table, comma separated: one (sentences), two (pairs), three (hard negatives)."),
    ] = None,
    senteval: Annotated[
        Path | None,
        typer.Option(help="Folder in SentEval's layout; its STS-B dev file chooses the best checkpoint."),
    ] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder for tokenised text.")] = None,
    **options: Any,
) -> None:
    """Train a sentence encoder on unlabelled text; the same command resumes an interrupted run.

    Settings come from the preset, then the fidelity's switches, then the settings file, then the options.
    """
    changes = without_none({"preset": preset, "fidelity": fidelity, **options})
    config = build(**{**settings_file(settings), **changes})
    names = [name.strip() for name in columns.split(",")] if columns else None
    criterion = stsb_criterion(senteval) if senteval else None
    from diffcse.cli.quiet import quiet_libraries
    from diffcse.progress import make_console
    from diffcse.training.train import train as run

    quiet_libraries()
    console = make_console(quiet=os.environ.get("RANK", "0") != "0")  # under torchrun the first one talks
    result = run(sources, output, config, columns=names, criterion=criterion, cache_dir=cache, console=console)
    report(result, console)


def settings_file(path: Path | None) -> dict[str, Any]:
    """The fields of a TOML file; empty without one."""
    return {} if path is None else flatten(read_toml(path), str(path))


def stsb_criterion(folder: Path) -> Any:
    """STS-B dev of a folder in SentEval's layout, read before anything is spent."""
    from diffcse.evaluation.criterion import stsb_dev

    return stsb_dev(folder)


def report(result: TrainResult, console: Console) -> None:
    """Say what was read and where the model is.

    Raises:
        Interrupted: the run has not ended; there is no model yet.
    """
    from diffcse.progress import say

    say(console, result.read.summary())
    if not result.finished:
        raise Interrupted(f"step {result.step}")
    weights = "last step" if result.best is None else result.best.describe()
    say(console, f"model in {result.folder} (kept: {weights}; {result.seconds:.0f} s)")


with_fields(train, {name.capitalize(): cls for name, cls in SECTIONS.items()})
