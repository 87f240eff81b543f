"""The command `diffcse`: one file per verb; heavy imports happen inside the verbs, so that --help is quick.

Besides the verbs: options (made from settings), common (options and displays that verbs share), usage (errors of the
command line in our wording), ends (exit codes), quiet (silent libraries).
"""

from __future__ import annotations

import importlib
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


_VERBS = (
    *("train", "adapt", "evaluate", "report", "data", "encode", "export", "similarity", "index", "search", "dedup"),
    *("mine", "sweep", "ablate", "reproduce", "explore", "fingerprint", "demo", "pretrain", "cooccur"),
)
"""In the order of the help; each is a function of that name in the file of that name, or a group, `app`, in it."""

for _verb in _VERBS:
    _module = importlib.import_module(f"diffcse.cli.{_verb}")
    if hasattr(_module, "app"):
        app.add_typer(_module.app)
    else:
        app.command()(getattr(_module, _verb))


def main() -> None:
    """The entry point: run the verb that the command line names and end the process (see `diffcse.cli.ends`)."""
    ends.replace_missing_characters()
    ends.stop_on_signals()
    sys.exit(ends.run(typer.main.get_command(app), sys.argv[1:]))
