"""diffcse pretrain: a small masked language model from plain text, to start from where no hub can be reached."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from diffcse.cli.options import SOURCES, with_fields, without_none
from diffcse.pretraining.config import PretrainConfig, pretrain_config


def pretrain(
    sources: SOURCES,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the model.", show_default=False)],
    column: Annotated[str | None, typer.Option(help="Column of a table that holds the text.")] = None,
    documents: Annotated[
        bool, typer.Option("--documents", help="Read the sources as documents (folders, .md, .html and so on too).")
    ] = False,
    cache: Annotated[Path | None, typer.Option(help="Folder for the text that was read.")] = None,
    **options: Any,
) -> None:
    """Make a WordPiece tokenizer and a small BERT from plain text, or let an encoder read on (--encoder).

    The same command resumes an interrupted run.
    """
    config = pretrain_config(**without_none(options))
    from diffcse.cli.quiet import quiet_libraries
    from diffcse.pretraining.mlm import pretrain as run
    from diffcse.progress import make_console, say
    from diffcse.text.dataset import read_texts
    from diffcse.text.documents import read_documents
    from diffcse.training.run_folder import check_place

    check_place(output)
    quiet_libraries()

    console = make_console()
    if documents:
        corpus = read_documents(sources, column=column, cache_dir=cache)
        say(console, "\n".join(corpus.counts.lines()))
        run(corpus.dataset, output, config, console=console)
    else:
        rows, read = read_texts(sources, columns=[column] if column else None, cache_dir=cache)
        say(console, read.summary())
        run(rows["text0"], output, config, console=console)
    say(console, f"model in {output}")


with_fields(pretrain, {"Size and schedule": PretrainConfig})
