"""The results file of a sweep: one row a run in SQLite, whole after every crash."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffcse.errors import UserError

_TABLE = """CREATE TABLE IF NOT EXISTS runs (
    name TEXT PRIMARY KEY, settings TEXT NOT NULL, scores TEXT, seconds REAL NOT NULL DEFAULT 0, error TEXT)"""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One run.

    Attributes:
        name: of its folder.
        settings: those that differ between the runs.
        scores: by name, 0 to 1 (losses aside); None until the run is finished.
        seconds: spent on it in all calls.
        error: the last line of a run that failed.
    """

    name: str
    settings: dict[str, Any]
    scores: dict[str, float] | None = None
    seconds: float = 0.0
    error: str | None = field(default=None)


class Results:
    """The runs of a sweep in a file.

    Args:
        path: of the SQLite file; made if it is not there.

    Raises:
        UserError: for a file that is no results file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._open() as connection:
            connection.execute(_TABLE)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self.path, timeout=30)) as connection, connection:  # commits, or rolls back
                yield connection
        except sqlite3.DatabaseError as error:
            do = "give the folder of a sweep"
            raise UserError(f"{self.path}", "the results file of a sweep", error, do) from error

    def plan(self, name: str, settings: Mapping[str, Any]) -> None:
        """Note a run that is to be made; one that is known stays as it is."""
        with self._open() as connection:
            row = (name, json.dumps(dict(settings)))
            connection.execute("INSERT OR IGNORE INTO runs (name, settings) VALUES (?, ?)", row)

    def record(self, name: str, *, scores: Mapping[str, float], seconds: float, error: str | None) -> None:
        """Note how a run ended; `seconds` adds to what it took before."""
        row = (None if error else json.dumps(dict(scores)), seconds, error, name)
        with self._open() as connection:
            connection.execute("UPDATE runs SET scores = ?, seconds = seconds + ?, error = ? WHERE name = ?", row)

    def is_done(self, name: str) -> bool:
        """Whether the run is finished and scored; a failed one is not."""
        return any(result.name == name and result.scores is not None for result in self.all())

    def all(self) -> list[Result]:
        """Every run, in the order of the plan."""
        with self._open() as connection:
            rows = connection.execute("SELECT name, settings, scores, seconds, error FROM runs ORDER BY rowid")
            return [
                Result(
                    name=name,
                    settings=json.loads(settings),
                    scores=json.loads(scores) if scores else None,
                    seconds=seconds,
                    error=error,
                )
                for name, settings, scores, seconds, error in rows
            ]
