"""What a command shows: text as it is, one kind of bar with the time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_WORTH_A_LINE = 100_000
"""Rows from which work is announced where no bar can be shown."""


def make_console(*, stderr: bool = True, quiet: bool = False) -> Console:
    """A console that prints text as it is: a path with [brackets] is no markup, `:dog:` no emoji.

    Args:
        stderr: write to standard error, where everything but results goes.
        quiet: write nothing, as all but the first process of a run do.
    """
    return Console(stderr=stderr, quiet=quiet, markup=False, emoji=False, highlight=False)


def say(console: Console | None, *lines: str) -> None:
    """Print lines as they are, unbroken however narrow the terminal, on the console that a caller brought, if any."""
    for line in lines:
        if console is not None:
            console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)


def make_bar(console: Console, *, figures: bool = False) -> Progress:
    """A bar; shows nothing in a file or a pipe, and vanishes at its end unless it ends with figures.

    Args:
        console: where to show it.
        figures: show the task's field `figures` after the time left.
    """
    columns: list[ProgressColumn] = [
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    ]
    if figures:
        columns.append(TextColumn("{task.fields[figures]}", markup=False))
    return Progress(*columns, console=console, disable=not console.is_terminal, transient=not figures)


class Counter:
    """Says how far some work is: call it with the number that is done.

    The bar comes with the first call, so that work which turns out to be done already shows nothing. In a file or a
    pipe, long work gets one line.

    Args:
        console: where to show it; None shows nothing.
        what: words in front of the bar.
        total: how many there are; None where that is not known.
    """

    def __init__(self, console: Console | None, what: str, total: int | None = None) -> None:
        self.console, self.what, self.total, self.done = console, what, total, 0
        self.bar = None if console is None else make_bar(console)

    def __call__(self, done: int, total: int | None = None) -> None:
        """Show that `done` are done, of `total` if that is known only now."""
        self.done, self.total = done, self.total if total is None else total
        if self.bar is not None:
            self._begin()
            self.bar.update(self.bar.task_ids[0], completed=done, total=self.total)

    def name(self, what: str) -> None:
        """Change the words in front of the bar, for work of several parts."""
        self.what = what
        if self.bar is not None:
            self._begin()
            self.bar.update(self.bar.task_ids[0], description=what)

    def where(self) -> str:
        """How far the work is, in words.

        >>> counter = Counter(None, "encode", 2000)
        >>> counter(1000)
        >>> counter.where()
        'encode, 1,000 of 2,000'
        """
        return f"{self.what}, {self.done:,}" + (f" of {self.total:,}" if self.total else "")

    def _begin(self) -> None:
        assert self.bar is not None and self.console is not None
        if self.bar.task_ids:
            return
        self.bar.add_task(self.what, total=self.total)
        self.bar.start()
        if not self.console.is_terminal and (self.total or 0) >= _WORTH_A_LINE:
            say(self.console, f"{self.what}: {self.total:,} rows")


@contextmanager
def counting(console: Console | None, what: str, total: int | None = None) -> Iterator[Counter]:
    """A `Counter` for the length of a block.

    Raises:
        KeyboardInterrupt: the one that ended the block, with how far the work was.
    """
    counter = Counter(console, what, total)
    try:
        yield counter
    except KeyboardInterrupt:
        raise KeyboardInterrupt(counter.where()) from None
    finally:
        if counter.bar is not None:
            counter.bar.stop()
