"""diffcse pretrain: a small masked language model from plain text, to start from where no hub can be reached."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from diffcse.cli.common import COLUMN
from diffcse.cli.options import CACHE, MODEL_FOLDER, SOURCES, with_fields, without_none
from diffcse.pretraining.config import PretrainConfig, pretrain_config


def pretrain(
    sources: SOURCES,
    output: MODEL_FOLDER,
    column: COLUMN = None,
    documents: Annotated[
        bool, typer.Option("--documents", help="Read the sources as documents (folders, .md, .html and so on too).")
    ] = False,
    cache: CACHE = None,
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
