"""What every settings class shares: values checked against what is declared, and one text for each field.

The docstring under a field is the only text about it: the command line's help and the reference page print it.
"""

from __future__ import annotations

import ast
import functools
import inspect
import itertools
import math
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

from diffcse.errors import UserError

_TOO_LARGE = 2**63


class Checked:
    """Checks closed sets and plain types, so that each class below only states its own rules."""

    def __post_init__(self) -> None:
        cls: Any = type(self)
        hints = _hints(cls)
        for field in fields(self):  # type: ignore[arg-type]
            value = checked(field.name, getattr(self, field.name), hints[field.name])
            object.__setattr__(self, field.name, value)
        self._check()

    def _check(self) -> None:
        """Rules that involve ranges or several fields."""

    def _need(self, name: str, holds: bool, rule: str, do: str) -> None:
        if not holds:
            raise UserError(name, rule, getattr(self, name), do)


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    return get_type_hints(cls)


def field_docs(cls: type[Any]) -> dict[str, str]:
    """The docstring under each field of a settings class.

    >>> from diffcse.config import ObjectiveConfig
    >>> field_docs(ObjectiveConfig)["temperature"]
    'Divisor of the cosine similarities in the contrastive loss.'
    """
    (module,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(module, ast.ClassDef)
    docs = {}
    for field, text in itertools.pairwise(module.body):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            assert isinstance(field.target, ast.Name)
            docs[field.target.id] = " ".join(str(text.value.value).split())
    return docs


def checked(name: str, value: Any, hint: Any) -> Any:
    """A value of the type that it is declared with; numbers of numpy become Python's.

    Args:
        name: how the error names it.
        value: what a caller handed over.
        hint: int, float, bool, str, a Literal of them, or one of these or None.

    Raises:
        UserError: a value of another kind, outside a closed set, or not finite.

    >>> checked("temperature", 1, float)
    1.0
    """
    choices = get_args(hint)
    if NoneType in choices:  # a setting that may be left open
        (hint,) = (choice for choice in choices if choice is not NoneType)
        return None if value is None else checked(name, value, hint)
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    if choices:
        # Tables and arrays answer == with a table, so only plain values are compared.
        if not isinstance(value, str | int | float) or value not in choices:
            raise UserError(name, f"one of {', '.join(map(str, choices))}", value, "choose one of them")
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        kinds = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
        got = repr(value) if hint in kinds else kind(value)
        raise UserError(name, kinds.get(hint, f"of type {hint.__name__}"), got, "give a value of that kind")
    if hint is int and abs(value) >= _TOO_LARGE:
        # Python does not write out the longest numbers.
        raise UserError(name, "at most 2**63 - 1", f"a number of {value.bit_length()} bits", "give an ordinary number")
    if hint is float and not math.isfinite(value):
        raise UserError(name, "finite", value, "give an ordinary number")
    return value


def at_least(least: int, name: str, value: Any) -> int:
    """A whole number that is large enough.

    Raises:
        UserError: any other value.
    """
    number: int = checked(name, value, int)
    if number < least:
        raise UserError(name, f"at least {least}", number, f"give {least} or more")
    return number


def as_path(name: str, value: Any) -> Path:
    """A file or folder named by text or a path.

    Raises:
        UserError: any other value.
    """
    if not isinstance(value, str | Path):
        raise UserError(name, "a path, as text or a Path", kind(value), "give the file's or folder's name")
    return Path(value)


def as_names(name: str, value: Any) -> list[str | Path]:
    """One name of a file, a column and the like, or several of them.

    Raises:
        UserError: any other value, such as a table, whose elements would be the names of its columns.
    """
    several = [value] if isinstance(value, str | Path) else value
    wrong = isinstance(several, Mapping | set | frozenset) or hasattr(several, "columns")
    if not wrong and isinstance(several, Iterable):
        several = list(several)
        if all(isinstance(each, str | Path) for each in several):
            return several
    raise UserError(name, "a name or a list of names", kind(value), "give text or paths; put your own text into a file")


def kind(value: Any) -> str:
    """What a value is, for an error.

    >>> kind(None), kind(3)
    ('None', 'a value of type int')
    """
    return "None" if value is None else f"a value of type {type(value).__name__}"
