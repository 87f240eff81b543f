"""diffcse pretrain: a small masked language model of one's own, to start from where no hub can be reached."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from diffcse.cli.options import SOURCES, given_only, with_fields
from diffcse.pretraining.config import PretrainConfig, pretrain_config


def pretrain(
    sources: SOURCES,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the model.", show_default=False)],
    column: Annotated[Optional[str], typer.Option(help="Column of a table that holds the text.")] = None,  # noqa: UP045
    cache: Annotated[Optional[Path], typer.Option(help="Folder for the text that was read.")] = None,  # noqa: UP045
    **given: Any,
) -> None:
    """Make a WordPiece tokenizer and a small BERT from plain text, or let an encoder read on (--encoder).

    The same command resumes an interrupted run.
    """
    config = pretrain_config(**given_only(given))
    from rich.console import Console

    from diffcse.cli.quiet import quiet_libraries
    from diffcse.pretraining.mlm import pretrain as run
    from diffcse.text.dataset import read_texts

    quiet_libraries()

    console = Console(stderr=True)
    rows, read = read_texts(sources, columns=[column] if column else None, cache_dir=cache)
    console.print(read.summary(), soft_wrap=True)
    run(rows["text0"], output, config, console=console)
    console.print(f"model in {output}", soft_wrap=True)


with_fields(pretrain, {"Size and schedule": PretrainConfig})
