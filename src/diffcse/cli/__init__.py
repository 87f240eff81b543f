"""The command `diffcse`: one file a verb; heavy imports happen inside the verbs, so that --help is quick."""

from __future__ import annotations

import io
import sys

import typer

from diffcse.errors import Interrupted, NonFiniteLoss, UserError

app = typer.Typer(
    name="diffcse",
    help="Sentence embeddings from plain text, without labels (DiffCSE, Chuang et al., NAACL 2022).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _register() -> None:
    from diffcse.cli import (
        ablate,
        cooccur,
        data,
        dedup,
        demo,
        encode,
        evaluate,
        explore,
        export,
        fingerprint,
        index,
        pretrain,
        report,
        search,
        similarity,
        sweep,
        train,
    )

    app.command()(train.train)
    app.command()(evaluate.evaluate)
    app.command()(report.report)
    app.add_typer(data.app)
    app.command()(encode.encode)
    app.command()(export.export)
    app.command()(similarity.similarity)
    app.command()(index.index)
    app.command()(search.search)
    app.command()(dedup.dedup)
    app.add_typer(sweep.app)
    app.command()(ablate.ablate)
    app.command()(explore.explore)
    app.command()(fingerprint.fingerprint)
    app.command()(demo.demo)
    app.command()(pretrain.pretrain)
    app.command()(cooccur.cooccur)


_register()


def main() -> None:
    """Run a verb; what a user can fix is one line and exit code 2, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal or file whose encoding lacks a character shows `?` for it
            stream.reconfigure(errors="replace")
    try:
        app()
    except UserError as error:
        sys.stderr.write(f"diffcse: {error}\n")
        sys.exit(2)
    except Interrupted as stopped:
        sys.stderr.write(f"diffcse: {stopped}\n")
        sys.exit(130)
    except NonFiniteLoss as error:
        sys.stderr.write(f"diffcse: {error}\n")
        sys.exit(1)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
