"""Labelled pairs of your own, in any language: two columns of text and one of scores."""

from __future__ import annotations

import csv
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffcse.errors import UserError
from diffcse.evaluation.tasks import ScoredPairs
from diffcse.text.sources import CsvFile

if TYPE_CHECKING:
    import pandas as pd

_AS_WRITTEN = {"dtype": str, "keep_default_na": False, "index_col": False, "encoding": "utf-8"}
"""pandas would take the sentence "NA" for a hole."""


def read_pairs(path: Path, columns: Sequence[str]) -> ScoredPairs:
    """Read a .csv, .tsv, .jsonl or .parquet file (the first three also with .gz).

    Args:
        path: the file; .csv and .tsv have a header; in .tsv a double quote is a character like any other.
        columns: names of the first sentences, the second sentences and the scores.

    Raises:
        UserError: naming what is wrong with the file, a column or a row.
    """
    if len(columns) != 3 or len(set(columns)) != 3:
        raise UserError("--columns", "three names: first text, second text, score", ",".join(columns), "name them all")
    table = _read(path)
    for column in columns:
        if column not in table.columns:
            known = ", ".join(str(name) for name in table.columns)
            raise UserError(f"--columns {column}", f"a column of {path}", "none of that name", f"it has: {known}")
    first, second, scores = (table[column].tolist() for column in columns)
    pairs = ScoredPairs(
        first=[_text(value, path, columns[0], row) for row, value in enumerate(first, start=1)],
        second=[_text(value, path, columns[1], row) for row, value in enumerate(second, start=1)],
        scores=np.array([_score(value, path, columns[2], row) for row, value in enumerate(scores, start=1)]),
    )
    if len(set(pairs.scores.tolist())) < 2:
        got = f"{len(pairs.scores)} rows, {len(set(pairs.scores.tolist()))} different scores"
        raise UserError(f"--pairs {path}", "rows with different scores", got, "a correlation needs scores that differ")
    return pairs


def _read(path: Path) -> pd.DataFrame:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    kind = suffixes[-2] if suffixes[-1:] == [".gz"] and len(suffixes) > 1 else "".join(suffixes[-1:])
    if kind not in _readers():
        do = "convert the file, or rename it"
        raise UserError(f"--pairs {path}", "a .csv, .tsv, .jsonl or .parquet file", kind or "no ending", do)
    if not path.is_file():
        got = "a folder" if path.is_dir() else "no such file"
        raise UserError(f"--pairs {path}", "a file that can be read", got, "check the path")
    import pandas as pd

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # a row with more fields than the header
            return _readers()[kind](path)
    except UserError:  # a ValueError, but already one line
        raise
    except OSError as error:
        got = error.strerror or str(error)
        raise UserError(f"--pairs {path}", "a file that can be read", got, "check the path") from error
    except (
        ValueError,
        EOFError,
        pd.errors.ParserWarning,
    ) as error:  # not UTF-8, rows of different lengths, no JSON, no Parquet, cut gzip
        got = str(error).strip().splitlines()[0]
        raise UserError(f"--pairs {path}", f"a well-formed {kind} file in UTF-8", got, "fix or convert it") from error


def _readers() -> Mapping[str, Callable[[Path], pd.DataFrame]]:
    import pandas as pd

    return {
        ".csv": lambda path: pd.read_csv(path, sep=CsvFile(path).separator, **_AS_WRITTEN),
        ".tsv": lambda path: pd.read_csv(path, sep="\t", quoting=csv.QUOTE_NONE, **_AS_WRITTEN),
        ".jsonl": lambda path: pd.read_json(path, lines=True, dtype=False, convert_dates=False, encoding="utf-8"),
        ".parquet": lambda path: pd.read_parquet(path),
    }


def _text(value: Any, path: Path, column: str, row: int) -> str:
    if not isinstance(value, str) or not value.strip():
        got = "nothing" if value is None or value != value or value == "" else repr(value)
        raise UserError(f"{path}, row {row}, {column}", "a sentence", got, "fix or remove the row")
    return value


def _score(value: Any, path: Path, column: str, row: int) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{path}, row {row}, {column}", "a number", value, "fix or remove the row")
    return number
