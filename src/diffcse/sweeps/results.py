"""The results of a sweep: one file `scores/RUN.json` a run, each written atomically."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from diffcse.errors import UserError
from diffcse.files import read_json, write_json


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
    error: str | None = None


class Results:
    """The runs of a sweep.

    Args:
        folder: of the sweep; the results of one that an older version began are taken over.

    Raises:
        UserError: for a folder whose results cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "scores"
        older = folder / "results.sqlite"
        if older.is_file() and not self.folder.exists():
            for result in list(_older(older)):
                self._write(result)

    def plan(self, name: str, settings: Mapping[str, Any]) -> None:
        """Note a planned run; a known run stays as it is."""
        if not any(result.name == name for result in self.all()):
            self._write(Result(name=name, settings=dict(settings)))

    def record(self, name: str, *, scores: Mapping[str, float], seconds: float, error: str | None) -> None:
        """Note how a planned run ended; `seconds` adds to what it took before."""
        (before,) = (result for result in self.all() if result.name == name)
        scored = None if error else dict(scores)
        self._write(replace(before, scores=scored, seconds=before.seconds + seconds, error=error))

    def is_done(self, name: str) -> bool:
        """Whether the run is finished and scored; a failed run is not."""
        return any(result.name == name and result.scores is not None for result in self.all())

    def all(self) -> list[Result]:
        """Every run, in the order of the plan."""
        contents = []
        for path in self.folder.glob("*.json"):
            content = read_json(path, what=str(path), do="remove it, and the same command scores the run again")
            try:
                contents.append((content.pop("number"), Result(**content)))
            except (KeyError, TypeError) as error:
                raise UserError(str(path), "the scores of a run", error, "remove it") from error
        return [result for _, result in sorted(contents, key=lambda pair: pair[0])]

    def _write(self, result: Result) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        names = [known.name for known in self.all()]
        number = names.index(result.name) if result.name in names else len(names)
        write_json(self.folder / f"{result.name}.json", {"number": number, **asdict(result)})


def _older(path: Path) -> Iterator[Result]:
    """The rows of a results file of version 0.1, which kept them in SQLite."""
    try:
        with closing(sqlite3.connect(path)) as connection:
            rows = connection.execute("SELECT name, settings, scores, seconds, error FROM runs ORDER BY rowid")
            for name, settings, scores, seconds, error in rows:
                scored = json.loads(scores) if scores else None
                yield Result(name=name, settings=json.loads(settings), scores=scored, seconds=seconds, error=error)
    except sqlite3.DatabaseError as error:
        raise UserError(str(path), "the results file of a sweep", error, "give the folder of a sweep") from error
