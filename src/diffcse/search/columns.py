"""The other columns of a table, row by row next to its texts, and their values as SQLite keeps them.

Numbers in .csv and .tsv files are read as numbers.
"""

from __future__ import annotations

import datetime
import decimal
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from diffcse.text.sources import Source
from diffcse.text.stream import Texts, repaired
from diffcse.text.tables import CsvFile

_WHOLE = re.compile(r"-?(0|[1-9]\d{0,17})")
_DECIMAL = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")

SORTED = (int, float, decimal.Decimal, datetime.date, datetime.time, np.number)
"""Values of columns that SQLite sorts, so that a condition on them need not read every row."""


def other_columns(texts: Texts) -> Iterator[Mapping[str, Any]]:
    """For each text, blank ones included, its row without the text; empty for plain text.

    Args:
        texts: with one text column a source.
    """
    if all(text == "" for (text,) in texts.columns):
        return itertools.repeat({})
    return itertools.chain.from_iterable(
        _rows(source, *columns) for source, columns in zip(texts.sources, texts.columns, strict=True)
    )


def column_names(texts: Texts) -> set[str]:
    """The columns that `other_columns` gives; none of plain text, which may be readable only once.

    Raises:
        UserError: a name that several columns have.
    """
    names = set()
    for source, (text,) in zip(texts.sources, texts.columns, strict=True):
        if text:
            next(iter(source.values(others := _others(source, text))), None)
            names.update(others)
    return names


def _others(source: Source, text: str) -> list[str]:
    """A column without a name, such as the row numbers that pandas writes, is left out."""
    return [name for name in source.columns() or () if name and name != text]


def _rows(source: Source, text: str) -> Iterator[Mapping[str, Any]]:
    names = _others(source, text)
    numbers = _numbers(source, names) if isinstance(source, CsvFile) else {}
    for _, values in source.values(names):
        yield {
            name: numbers[name](value) if value and name in numbers else value
            for name, value in zip(names, values, strict=True)
            if not isinstance(value, bytes)  # a picture, a sound
        }


def _numbers(source: CsvFile, names: list[str]) -> dict[str, type[int] | type[float]]:
    """The columns that hold nothing but numbers and empty fields, and the narrowest type for them.

    A column with a leading zero in it, such as a postcode, is text.
    """
    types: dict[str, type[int] | type[float] | None] = {}
    for _, values in source.values(names):
        for name, value in zip(names, values, strict=True):
            if not value or types.get(name, int) is None:
                continue
            if types.get(name, int) is int and _WHOLE.fullmatch(value):
                types[name] = int
            else:
                types[name] = float if _DECIMAL.fullmatch(value) else None
    return {name: kind for name, kind in types.items() if kind is not None}


def stored(value: Any) -> int | float | str | None:
    """A value as SQLite keeps it: numbers and text as they are, times in ISO form, the rest as JSON."""
    match value:
        case None:
            return None
        case str():
            return repaired(value)  # SQLite takes no lone surrogates
        case bool():
            return int(value)
        case int():
            return value if -(2**63) <= value < 2**63 else str(value)
        case float():
            return None if math.isnan(value) else value
        case decimal.Decimal():
            return float(value)
        case datetime.date() | datetime.time():
            return value.isoformat()
    if isinstance(value, np.generic):
        return stored(value.item())
    return json.dumps(value, ensure_ascii=False, default=str)
