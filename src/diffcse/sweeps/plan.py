"""Many training runs from one settings file: what is done is skipped, what was interrupted resumes.

Every run is an ordinary `diffcse train` in a separate process, so that it has its threads for itself, can be killed
without hurting the others, and ends with the bytes that the command alone would end with.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffcse.config import Config
from diffcse.errors import UserError
from diffcse.files import digest, disk_errors, read_json, write_atomic
from diffcse.persistence.hub import locate
from diffcse.presets import build
from diffcse.reports.logs import read_runs
from diffcse.resources import GENERATOR
from diffcse.sweeps.results import Results
from diffcse.text.dataset import choose_columns
from diffcse.text.sources import find_sources
from diffcse.text.standard_input import STDIN
from diffcse.training.checks import settle_machine
from diffcse.training.run_folder import is_finished

Settings = dict[str, Any]
"""Fields by name, and `preset` and `fidelity`."""

Score = Callable[[Path], dict[str, float]]
"""Scores of a model folder by name, 0 to 1."""

_KEYS = ("text", "senteval", "columns", "settings", "grid", "runs")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a sweep.

    Attributes:
        name: of its folder, derived from the settings: the same settings are the same run.
        varied: the settings that differ between the runs of the sweep.
        config: all settings.
    """

    name: str
    varied: Settings
    config: Config


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What a settings file asks for.

    Attributes:
        text: sources of sentences, as `diffcse train` takes them.
        runs: the runs, in the order of the file.
        senteval: folder in SentEval's layout, or None.
        columns: columns of a table, or None.
    """

    text: tuple[str, ...]
    runs: tuple[Run, ...]
    senteval: Path | None = None
    columns: str | None = None


def read_sweep(path: Path, content: Mapping[str, Any]) -> Sweep:
    """The runs of a settings file; every setting of every run is checked here, before anything is spent.

    Args:
        path: of the file; `text` and `senteval` are relative to its folder.
        content: its tables: `settings` (the same in all runs), `grid` (every combination of lists of values), `runs` (a
            list of tables, each combined with the grid), and `text`, `columns` and `senteval` at the top.

    Raises:
        UserError: for an unknown key or setting, a value outside its rule, or a grid that is not made of lists.
    """
    for key in content:
        if key not in _KEYS:
            raise UserError(f"{path}: key", f"one of {', '.join(_KEYS)}", key, "see docs/sweeps.md")
    text = content.get("text", [])
    here = path.parent
    senteval = content.get("senteval")
    return Sweep(
        text=tuple(str(here / name) for name in ([text] if isinstance(text, str) else text)),
        runs=plan_runs(content.get("settings", {}), content.get("grid", {}), content.get("runs", [{}])),
        senteval=here / senteval if senteval else None,
        columns=content.get("columns"),
    )


def plan_runs(same: Settings, grid: Mapping[str, Sequence[Any]], each: Sequence[Settings]) -> tuple[Run, ...]:
    """All combinations of the grid, for each table of `each`; the last key of the grid varies fastest.

    >>> [run.varied for run in plan_runs({"preset": "small"}, {"seed": [0, 1]}, [{"batch_size": 8}])]
    [{'batch_size': 8, 'seed': 0}, {'batch_size': 8, 'seed': 1}]
    """
    for name, values in grid.items():
        if not isinstance(values, list | tuple) or not values:
            raise UserError(f"grid: {name}", "a list of values", values, "write it in brackets")
    runs: dict[str, Run] = {}
    for table in each:
        for values in itertools.product(*grid.values()):
            varied = {**table, **dict(zip(grid, values, strict=True))}
            config = build(**{**same, **varied})
            name = _name(varied, config)
            runs[name] = Run(name=name, varied=varied, config=config)
    return tuple(runs.values())


def _name(varied: Settings, config: Config) -> str:
    defaults = Config().as_dict()
    # Without the defaults: a setting that a later version adds renames no run.
    settings = {
        section: {name: value for name, value in values.items() if value != defaults[section][name]}
        for section, values in config.as_dict().items()
    }
    short = digest(settings)[:8]
    words = "-".join(f"{name}={Path(str(value)).name}" for name, value in varied.items())
    readable = "".join(c if c.isalnum() or c in "=-._" else "_" for c in words)[:80]
    return f"{readable}-{short}" if readable else short


def named_as_begun(runs: Sequence[Run], folder: Path) -> list[Run]:
    """The runs, each under the name that it was begun with.

    Version 0.1 named a run by all of its settings, so that a new setting renamed every run. Such a run has its settings
    in its folder: with the new setting at its default they are those of the plan.
    """
    begun: dict[str, Config] = {}
    for path in sorted(folder.glob("*/diffcse.json")):
        with contextlib.suppress(UserError):  # a setting that is no more, or a rule of today: none of these runs
            sections = read_json(path, what=str(path), do="remove the run's folder")["settings"]
            config = build(**{name: value for fields in sections.values() for name, value in fields.items()})
            begun[path.parent.name] = settle_machine(config)
    older = {run.name: [name for name, config in begun.items() if config == settle_machine(run.config)] for run in runs}
    return [
        run if run.name in begun or not older[run.name] else dataclasses.replace(run, name=older[run.name][0])
        for run in runs
    ]


def check_inputs(sweep: Sweep, runs: Sequence[Run]) -> None:
    """Look at what runs read before the first of them starts, or each would find the same fault by itself.

    Raises:
        UserError: a text, a column or a model that is not there.
    """
    if STDIN in sweep.text:
        raise UserError("text", "files, which every run reads anew", "standard input", "save it to a file first")
    if any(run.config.views.view != "neighbours" for run in runs):
        columns = None if sweep.columns is None else tuple(name.strip() for name in sweep.columns.split(","))
        choose_columns(find_sources(sweep.text), columns)
    encoders = {(run.config.model.encoder, run.config.model.revision) for run in runs}
    generators = {(run.config.model.generator, run.config.model.revision) for run in runs if run.config.has_generator}
    for name, revision in sorted(encoders, key=str):
        locate(name, revision)
    for name, revision in sorted(generators, key=str):
        locate(name, revision, resource=GENERATOR)


def run_sweep(
    sweep: Sweep, folder: Path, *, score: Score, workers: int = 1, on_change: Callable[[Results], None] = lambda _: None
) -> Results:
    """Run what is missing; a finished run is trained no second time and scored once.

    Ctrl-C stops the runs at their next step with a checkpoint; the same call resumes from there.

    Args:
        sweep: what to run.
        folder: for the runs (`runs/`), their output (`logs/`) and the results (`scores/`).
        score: gives the scores of a finished run's model.
        workers: runs at a time; the cores are shared between them.
        on_change: called with the results whenever one came in.

    Raises:
        KeyboardInterrupt: after Ctrl-C, when the runs have stopped.
        UserError: an input that no run could read; nothing is written.
    """
    if workers < 1:
        raise UserError("workers", "at least 1", workers, "give the number of runs at a time")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"output {folder}", "a folder", "a file", "choose another name")
    results = Results(folder)
    runs = named_as_begun(sweep.runs, folder / "runs")
    missing = [run for run in runs if not results.is_done(run.name)]
    check_inputs(sweep, missing)
    with disk_errors(f"output {folder}", "choose another folder"):
        for place in ("runs", "logs"):
            (folder / place).mkdir(parents=True, exist_ok=True)
    for run in runs:
        results.plan(run.name, run.varied)
    with contextlib.closing(_Children(folder, sweep, max(1, (os.cpu_count() or 1) // workers))) as children:
        for run, seconds, error in _as_completed(children, missing, workers):
            scores = {} if error else {**score(folder / "runs" / run.name), **last_figures(folder / "runs" / run.name)}
            results.record(run.name, scores=scores, seconds=seconds, error=error)
            on_change(results)
    return results


def _as_completed(children: _Children, runs: list[Run], workers: int) -> Iterator[tuple[Run, float, str | None]]:
    with ThreadPoolExecutor(workers) as pool:
        running: dict[Future[tuple[float, str | None]], Run] = {pool.submit(children.train, run): run for run in runs}
        try:
            while running:
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    run = running.pop(future)
                    seconds, error = future.result()
                    yield run, seconds, error
        finally:  # Ctrl-C above all: what runs saves its step, what waits does not begin
            for future in running:
                future.cancel()
            if running:
                children.close()


class _Children:
    """The training processes of a sweep, each with so many threads."""

    def __init__(self, folder: Path, sweep: Sweep, threads: int) -> None:
        self.folder, self.sweep, self.threads = folder, sweep, threads
        self.alive: set[subprocess.Popen[bytes]] = set()
        self.stopping = False

    def train(self, run: Run) -> tuple[float, str | None]:
        """Train one run to its end: seconds, and the last line of its output if it failed."""
        began, place = time.perf_counter(), self.folder / "runs" / run.name
        if is_finished(place):
            return 0.0, None
        if self.stopping:
            return 0.0, "stopped"
        place.mkdir(parents=True, exist_ok=True)
        settings = self.folder / "logs" / f"{run.name}.toml"
        write_atomic(settings, as_toml(run.config).encode())
        command = [sys.executable, "-m", "diffcse", "train", *self.sweep.text, "--output", str(place)]
        command += ["--settings", str(settings), "--cache", str(self.folder / "cache")]
        command += ["--senteval", str(self.sweep.senteval)] if self.sweep.senteval else []
        command += ["--columns", self.sweep.columns] if self.sweep.columns else []
        environment = {"OMP_NUM_THREADS": str(self.threads), **os.environ}  # a number that the user chose stays
        log = self.folder / "logs" / f"{run.name}.log"
        with log.open("ab") as out:
            # A separate session: Ctrl-C reaches the runs through `close` alone, and so once.
            child = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True, env=environment)
            self.alive.add(child)
            code = child.wait()
            self.alive.discard(child)
        return time.perf_counter() - began, None if code == 0 else _last_line(log, code)

    def close(self) -> None:
        """Ask every process to stop at its next step, and wait for it."""
        self.stopping = True
        for child in list(self.alive):
            child.send_signal(signal.SIGINT)
        for child in list(self.alive):
            child.wait()


def _last_line(log: Path, code: int) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else f"exit code {code}"


def last_figures(run: Path) -> dict[str, float]:
    """Loss of the last training line of a run, under the name `train loss`."""
    _, losses = read_runs([run])[0].curve("loss")
    return {"train loss": losses[-1]} if losses else {}


def as_toml(config: Config) -> str:
    """Settings as the file that `diffcse train --settings` reads.

    >>> as_toml(build(preset="small", seed=3)).splitlines()[0]
    '[model]'
    """
    lines = []
    for section, values in config.as_dict().items():
        lines.append(f"[{section}]")
        # JSON's strings, numbers and booleans are TOML's too. TOML has no null: what is open is left out.
        lines += [f"{name} = {json.dumps(value)}" for name, value in values.items() if value is not None]
    return "\n".join(lines) + "\n"
