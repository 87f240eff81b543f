"""diffcse cooccur: a start for training from counting alone, in minutes on one core."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from diffcse.cli.options import SOURCES, given_only, with_fields
from diffcse.pretraining.config import CooccurConfig


def cooccur(
    sources: SOURCES,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the model.", show_default=False)],
    column: Annotated[Optional[str], typer.Option(help="Column of a table that holds the text.")] = None,  # noqa: UP045
    cache: Annotated[Optional[Path], typer.Option(help="Folder for the text that was read.")] = None,  # noqa: UP045
    **given: Any,
) -> None:
    """Make an encoder to start from out of word co-occurrence in plain text; no labels, minutes on one core."""
    config = CooccurConfig(**given_only(given))
    from rich.console import Console

    from diffcse.cli.quiet import quiet_libraries
    from diffcse.pretraining.word_vector_start import cooccur as run
    from diffcse.text.dataset import read_texts

    quiet_libraries()
    console = Console(stderr=True)
    rows, read = read_texts(sources, columns=[column] if column else None, cache_dir=cache)
    console.print(read.summary(), soft_wrap=True)
    result = run(rows["text0"], output, config, console=console)
    found = result.held_out
    halves = f"half of a held-out sentence finds the other half of {found.sentences:,} in {100 * found.share:.1f}%"
    measured = f"; {halves}" if found.sentences else ""
    console.print(f"{result.tokens:,} tokens{measured}\nmodel in {output}", soft_wrap=True)


with_fields(cooccur, {"Counting and size": CooccurConfig})
