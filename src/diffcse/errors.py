"""The one wording of every error that a user can cause."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_LONGEST_VALUE, _LONGEST_RULE = 120, 600
_STEERING = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class UserError(ValueError):
    """Bad input, said in one line: WHAT must be RULE; got VALUE; do THIS.

    The command line prints the line and exits with code 2. In Python it is a `ValueError`.

    Args:
        what: the setting, file or argument that is wrong, named as the user named it.
        rule: what it must be.
        got: the value that was found; long values are cut.
        do: what the user can do now.

    >>> print(UserError("temperature", "greater than 0", -1, "use 0.05, the published value"))
    temperature must be greater than 0; got -1; use 0.05, the published value
    """

    def __init__(self, what: str, rule: str, got: Any, do: str) -> None:
        self.what, self.rule, self.got, self.do = what, rule, got, do
        rule, do = _short(rule, _LONGEST_RULE), _short(do, _LONGEST_RULE)  # a rule may list a file's many columns
        super().__init__(one_line(f"{what} must be {rule}; got {_short(got)}; {do}"))

    def __reduce__(self) -> tuple[Any, ...]:
        return UserError, (self.what, self.rule, self.got, self.do)


class MissingExtra(UserError, ImportError):
    """An optional dependency is needed and not installed.

    >>> print(MissingExtra("FAISS", "faiss", "search"))
    FAISS must be installed; got no module faiss; run: pip install 'diffcse[search]'
    """

    def __init__(self, name: str, module: str, extra: str) -> None:
        self.name, self.module, self.extra = name, module, extra
        super().__init__(name, "installed", f"no module {module}", f"run: pip install 'diffcse[{extra}]'")

    def __reduce__(self) -> tuple[Any, ...]:
        return MissingExtra, (self.name, self.module, self.extra)


class Interrupted(Exception):
    """A long run was asked to stop and did, with everything kept that the same command needs to resume it.

    The command line prints the line and exits with code 130.

    >>> print(Interrupted("step 20"))
    stopped at step 20; the same command resumes
    """

    def __init__(self, where: str) -> None:
        self.where = where
        super().__init__(f"stopped at {where}; the same command resumes")

    def __reduce__(self) -> tuple[Any, ...]:
        return Interrupted, (self.where,)


class NonFiniteLoss(ArithmeticError):
    """The loss became infinite or not a number; the weights are still those from before that step."""


def one_line(text: str) -> str:
    r"""The text on one line: line breaks and other characters that steer a terminal are escaped.

    >>> print(one_line("a\n\x1b[31mb ünd"))
    a\n\x1b[31mb ünd
    """
    return _STEERING.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def _short(value: Any, most: int = _LONGEST_VALUE) -> str:
    text = one_line(str(value))
    return text if len(text) <= most else text[: most - 1] + "…"


def first_line(error: BaseException) -> str:
    """The first line of a library's error message."""
    return (str(error).strip().removeprefix("Got: ").splitlines() or [type(error).__name__])[0]


@contextmanager
def foreign_errors(what: str, rule: str, do: Callable[[Exception], str]) -> Iterator[None]:
    """Turn what a library raises while it reads somebody's file into one line; not for our own code.

    Raises:
        UserError: in place of any other error.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # readers of damaged files raise whatever they stumble over
        raise UserError(what, rule, first_line(error), do(error)) from error
