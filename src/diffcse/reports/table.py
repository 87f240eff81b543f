"""A table before anybody prints it: plain text in rows, the same for a terminal (`terminal`) and a page (`page`)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Cells = tuple[str | None, ...]
"""Texts of a row; None where a number does not exist, which is printed as a dash."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row that is more than its cells.

    Attributes:
        cells: one text a column.
        kind: `measured` stands out; `published` is fainter and marked as published.
        starts_section: whether a terminal draws a line above it.
    """

    cells: Cells
    kind: Literal["", "measured", "published"] = ""
    starts_section: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """What a printer needs; no text in it is markup.

    Attributes:
        title: what the table shows, with its unit.
        columns: the headings.
        rows: the rows; a bare tuple is a plain row.
        notes: what a reader must know, a line each.
        words: how many columns from the left hold words; the others hold numbers.
        folded: whether a page hides it until the reader asks for it.
    """

    title: str
    columns: tuple[str, ...]
    rows: Sequence[Row | Cells]
    notes: tuple[str, ...] = ()
    words: int = 1
    folded: bool = False

    def __post_init__(self) -> None:
        """A row with a cell too few or too many would shift its numbers under other headings."""
        assert all(len(row.cells) == len(self.columns) for row in self.full_rows()), self.title

    def full_rows(self) -> Iterator[Row]:
        """Every row in its full form."""
        for row in self.rows:
            yield row if isinstance(row, Row) else Row(cells=row)


def percent(value: float | None) -> str | None:
    """A fraction as the paper prints it; None for a number that does not exist.

    >>> percent(0.78486)
    '78.49'
    """
    return None if value is None or not math.isfinite(value) else f"{100 * value:.2f}"


def interval(bounds: Sequence[float] | None, *, scale: float = 100.0, sign: bool = False) -> str:
    """Both ends of an interval, x 100 unless another scale is given; nothing where there is none.

    >>> interval((0.5, 0.625)), interval((-0.01, 0.02), sign=True)
    ('50.00 to 62.50', '-1.00 to +2.00')
    """
    if bounds is None:
        return ""
    low, high = (scale * value for value in bounds)
    return f"{low:+.2f} to {high:+.2f}" if sign else f"{low:.2f} to {high:.2f}"


def difference(value: float, *, scale: float = 100.0) -> str:
    """A difference with its sign, x 100 unless another scale is given.

    >>> difference(0.0125)
    '+1.25'
    """
    return f"{scale * value:+.2f}"


def printable(text: str) -> str:
    """Without the control characters and lone surrogates that no page and no figure can hold."""
    return re.sub("[^\t\n\r\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\N{REPLACEMENT CHARACTER}", text)
