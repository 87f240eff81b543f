"""Logs of training runs: the numbers of `metrics.jsonl`, by step."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffcse.errors import UserError
from diffcse.reports.table import printable


@dataclass(frozen=True, kw_only=True)
class Run:
    """The log of one training run.

    Attributes:
        name: of the run.
        lines: its log lines, each with `step` and numbers by name.
    """

    name: str
    lines: Sequence[Mapping[str, float]] = field(repr=False)

    def curve(self, key: str) -> tuple[list[float], list[float]]:
        """Steps and values of one number."""
        points = [(line["step"], line[key]) for line in self.lines if key in line]
        return [step for step, _ in points], [value for _, value in points]


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """The logs of run folders; runs are named by as much of their path as tells them apart.

    Raises:
        UserError: a folder without a log.
    """
    names = names_apart([str(folder) for folder in folders])
    return [
        Run(name=printable(name), lines=_lines(folder / "metrics.jsonl"))
        for name, folder in zip(names, folders, strict=True)
    ]


def _lines(path: Path) -> list[dict[str, float]]:
    do = "give the output folder of diffcse train or diffcse pretrain"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(str(path), "the log of a training run", error, do) from error
    lines = []
    for line in text.splitlines():
        try:
            numbers = json.loads(line)
        except ValueError:  # cut off by a kill, or being written at this moment
            continue
        if isinstance(numbers, dict) and finite(numbers.get("step")) is not None:
            lines.append({printable(key): value for key, value in numbers.items() if finite(value) is not None})
    if not lines:
        raise UserError(str(path), "the log of a training run", "no line with a step", do)
    return lines


def finite(value: Any) -> float | None:
    """A finite number, or None.

    >>> finite(2), finite(float("nan")), finite(True), finite("2")
    (2.0, None, None, None)
    """
    fine = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if fine else None


def names_apart(paths: Sequence[str]) -> list[str]:
    """The ends of paths, as short as they can be and still be different.

    >>> names_apart(["runs/a/model", "runs/b/model"])
    ['runs/a/model', 'runs/b/model']
    """
    parts = [Path(path).resolve().parts if Path(path).exists() else (path,) for path in paths]
    for length in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return list(paths)
