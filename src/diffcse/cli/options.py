"""Command line options made from settings classes: the docstring of a field is its help text."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from diffcse.errors import UserError
from diffcse.settings import field_docs

SOURCES = Annotated[
    list[str],
    typer.Argument(
        help="Texts (one sentence per line), csv, tsv, jsonl, json or parquet files, packed (gz, bz2, xz, zst) or not; "
        "globs, a Hub dataset name, or - for standard input.",
        show_default=False,
    ),
]
MODEL_FOLDER = Annotated[Path, typer.Option("--output", "-o", help="Folder for the model.", show_default=False)]
CACHE = Annotated[Path | None, typer.Option(help="Folder for the text that was read.")]


def with_fields(command: Callable[..., None], panels: dict[str, type[Any]]) -> Callable[..., None]:
    """Give `command`, which takes **options, an option for every field of the classes; None where it is not set.

    Args:
        command: a function with further options and `**options`; typer reads the signature that it gets here.
        panels: title of a group of options in the help, and its settings class.
    """
    parameters = [
        p for p in inspect.signature(command, eval_str=True).parameters.values() if p.kind is not p.VAR_KEYWORD
    ]
    options = [option for title, cls in panels.items() for option in _options(title, cls)]
    signature = inspect.Signature([p.replace(kind=p.KEYWORD_ONLY) for p in parameters] + options)
    command.__signature__ = signature  # type: ignore[attr-defined]
    command.__annotations__ = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    return command


def _options(title: str, cls: type[Any]) -> list[inspect.Parameter]:
    hints, docs = get_type_hints(cls), field_docs(cls)
    options = []
    for field in fields(cls):
        flag = field.name.replace("_", "-")
        declared = f"--{flag}/--no-{flag}" if hints[field.name] in (bool, bool | None) else f"--{flag}"
        default = "" if field.default in (MISSING, None) else f" Default: {field.default}."
        option = typer.Option(declared, help=docs[field.name] + default, rich_help_panel=title)
        hint: Any = hints[field.name]
        annotation = Annotated[hint | None, option]
        kind = inspect.Parameter.KEYWORD_ONLY
        options.append(inspect.Parameter(field.name, kind, default=None, annotation=annotation))
    return options


def without_none(options: dict[str, Any]) -> dict[str, Any]:
    """The options that are set."""
    return {name: value for name, value in options.items() if value is not None}


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a settings file.

    Raises:
        UserError: for a file that cannot be read or is not TOML.
    """
    import tomllib

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"settings {path}", "a readable TOML file", error.strerror, "check the path") from error
    except ValueError as error:  # not TOML, or not UTF-8
        raise UserError(f"settings {path}", "a TOML file", error, "fix that line") from error
