"""The command `diffcse`: one file a verb; heavy imports happen inside the verbs, so that --help is quick."""

from __future__ import annotations

import sys

import typer

from diffcse.cli import ends

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
        adapt,
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
        mine,
        pretrain,
        report,
        reproduce,
        search,
        similarity,
        sweep,
        train,
    )

    app.command()(train.train)
    app.command()(adapt.adapt)
    app.command()(evaluate.evaluate)
    app.command()(report.report)
    app.add_typer(data.app)
    app.command()(encode.encode)
    app.command()(export.export)
    app.command()(similarity.similarity)
    app.command()(index.index)
    app.command()(search.search)
    app.command()(dedup.dedup)
    app.command()(mine.mine)
    app.add_typer(sweep.app)
    app.command()(ablate.ablate)
    app.command()(reproduce.reproduce)
    app.command()(explore.explore)
    app.command()(fingerprint.fingerprint)
    app.command()(demo.demo)
    app.command()(pretrain.pretrain)
    app.command()(cooccur.cooccur)


_register()


def main() -> None:
    """The entry point: run the verb that the command line names and end the process (see `diffcse.cli.ends`)."""
    ends.replace_missing_characters()
    ends.stop_on_sigterm()
    sys.exit(ends.run(typer.main.get_command(app), sys.argv[1:]))
