"""The whole command in this process: what it wrote, and the code that it would end with."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from dataclasses import dataclass

import typer
from typer.testing import CliRunner, Result

from diffcse.cli import app, ends

COMMAND = typer.main.get_command(app)


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


def options(settings: Mapping[str, object]) -> list[str]:
    """Settings as a command line gives them."""
    return [f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}") for name, value in settings.items()]


def diffcse(*arguments: object) -> Ended:
    """Run `diffcse ARGUMENTS`; a fault of ours comes through as the exception that it is."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = ends.run(COMMAND, [str(argument) for argument in arguments])
    return Ended(code, out.getvalue(), err.getvalue())


def invoke(*arguments: object) -> Result:
    """Run `diffcse ARGUMENTS` up to where it ends; what the verb raises comes through as it is."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
