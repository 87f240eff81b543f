"""Labelled pairs of your own, in any language: two columns of text and one of scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffcse.errors import UserError
from diffcse.evaluation.tasks import ScoredPairs
from diffcse.text.sources import find_sources
from diffcse.text.stream import repaired
from diffcse.text.tables import CsvFile, JsonLinesFile, ParquetFile


def read_pairs(path: Path, columns: Sequence[str]) -> ScoredPairs:
    """Read a .csv, .tsv, .jsonl, .json or .parquet file, packed or not; blank lines are passed over.

    Args:
        path: the file; .csv and .tsv have a header.
        columns: names of the first sentences, the second sentences and the scores.

    Raises:
        UserError: naming what is wrong with the file, a column or a line.
    """
    if len(columns) != 3 or len(set(columns)) != 3:
        raise UserError("--columns", "three names: first text, second text, score", ",".join(columns), "name them all")
    rows = list(_rows(path, columns))
    pairs = ScoredPairs(
        first=[_text(first, path, columns[0], line) for line, (first, _, _) in rows],
        second=[_text(second, path, columns[1], line) for line, (_, second, _) in rows],
        scores=np.array([_score(score, path, columns[2], line) for line, (_, _, score) in rows]),
    )
    if (different := len(set(pairs.scores.tolist()))) < 2:
        got = f"{len(pairs.scores)} rows, {different} different scores"
        raise UserError(f"--pairs {path}", "rows with different scores", got, "a correlation needs scores that differ")
    return pairs


def _rows(path: Path, columns: Sequence[str]) -> list[tuple[int, tuple[Any, ...]]]:
    (source, *more) = find_sources([path])
    if more or not isinstance(source, CsvFile | JsonLinesFile | ParquetFile):
        raise UserError(f"--pairs {path}", "one table", f"{len(more) + 1} file(s), {source.name}", "name a .csv file")
    known = source.columns()
    for column in columns:
        if column not in known:
            got = "none of that name"
            raise UserError(f"--columns {column}", f"a column of {path}", got, f"it has: {', '.join(known)}")
    rows = source.values(columns)
    whole = isinstance(source, ParquetFile)
    return [(line, row) for line, row in rows if whole or any(value is not None for value in row)]


def _text(value: Any, path: Path, column: str, line: int) -> str:
    if not isinstance(value, str) or not value.strip():
        got = "nothing" if value is None or value != value or value == "" else repr(value)
        raise UserError(f"{path} line {line}, {column}", "a sentence", got, "fix or remove the line")
    if repaired(value) != value:
        got = f"bytes that are not UTF-8 in {repaired(value)[:60]!r}"
        raise UserError(f"{path} line {line}, {column}", "text in UTF-8", got, "fix the line, or convert the file")
    return value


def _score(value: Any, path: Path, column: str, line: int) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{path} line {line}, {column}", "a number", value, "fix or remove the line")
    return number
