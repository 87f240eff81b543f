"""Usage errors of typer (an unknown option, a missing argument, a word for a number) in our one wording."""

from __future__ import annotations

import difflib
import re
from typing import Any

import typer

from diffcse.errors import UserError

# typer has moved click into itself and gives this class no public name; BadParameter is a subclass of it.
UsageError: type[Exception] = next(cls for cls in typer.BadParameter.__mro__ if cls.__name__ == "ClickException")

_KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false"}
_LIMITS = {
    "greater_than_equal": ("ge", "at least {}"),
    "greater_than": ("gt", "greater than {}"),
    "less_than_equal": ("le", "at most {}"),
    "less_than": ("lt", "less than {}"),
}


def shows_help(error: Any) -> bool:
    """Whether the error is that nothing was asked for, which typer has answered with the help."""
    return type(error).__name__ == "NoArgsIsHelpError"


def as_user_error(error: Any) -> UserError:
    """The error in one line.

    Args:
        error: one of `UsageError`; recognised by the names of their classes, which are not public.
    """
    kind, context = type(error).__name__, getattr(error, "ctx", None)
    do = f"see {context.command_path if context is not None else 'diffcse'} --help"
    if kind == "NoSuchOption":
        near = difflib.get_close_matches(error.option_name, error.possibilities or (), 1, cutoff=0.7)  # below: no guess
        do = f"use {near[0]}" if near else do
        return UserError(error.option_name, "an option of this verb", "an unknown one", do)
    if kind == "MissingParameter":
        return UserError(_name(error.param), "given", "nothing", do)
    if kind == "BadOptionUsage":
        if "argument" in error.message:
            return UserError(error.option_name, "followed by a value", "nothing", "add the value")
        return UserError(error.option_name, "given without a value", "one", "remove the value")
    if kind == "BadParameter" and error.param is not None:
        return _bad_value(error, do)
    return _by_message(error.format_message(), do)


def _bad_value(error: Any, do: str) -> UserError:
    """From the validation error behind it, which still has the value."""
    faults: list[Any] = getattr(error.__cause__, "errors", list)()
    if not faults:
        return UserError(_name(error.param), "valid", error.message, do)
    fault, name = faults[0], _name(error.param)
    if choices := re.search(r" is not one of (.+)\.$", fault["msg"]):
        return UserError(name, f"one of {choices[1].replace(chr(39), '')}", fault["input"], "choose one of them")
    if fault["type"] in _LIMITS:
        limit, rule = _LIMITS[fault["type"]]
        return UserError(name, rule.format(fault["ctx"][limit]), fault["input"], do)
    if kind := _KINDS.get(fault["type"].partition("_")[0]):
        return UserError(name, kind, repr(fault["input"]), do)
    return UserError(name, "valid", fault["msg"].removeprefix("Value error, "), do)


def _by_message(message: str, do: str) -> UserError:
    if unknown := re.match(r"No such command '(.*?)'\.(?: Did you mean (.*)\?)?", message, re.DOTALL):
        near = (unknown[2] or "").replace("'", "").replace(", ", " or ")
        return UserError("command", "one of diffcse's", unknown[1], f"use {near}" if near else do)
    if extra := re.match(r"Got unexpected extra argument(?:\(s\)|s)? \((.*)\)", message, re.DOTALL):
        return UserError("arguments", "no more than the verb takes", extra[1], do)
    return UserError("arguments", "as the verb takes them", message, do)


def _name(parameter: Any) -> str:
    """How the help writes the parameter: --output, or an argument's name in capitals."""
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name.upper()).strip("[].")
    return str(max(parameter.opts, key=len))
