"""The folder of a training run: who may write into it, what waits there, and when it is finished."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.filesize import decimal
from safetensors.torch import save
from torch import Tensor, nn

from diffcse import __version__
from diffcse.errors import UserError
from diffcse.files import digest, disk_errors, read_json, write_atomic, write_json
from diffcse.training.callbacks import log_lines
from diffcse.training.trainer import last_checkpoint, read_state

_RUN = "diffcse.json"


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """Where everything of one run is.

    Attributes:
        folder: the model's folder.
        about: settings, sources and version, as `diffcse.json` holds them.
    """

    folder: Path
    about: dict[str, Any]

    @classmethod
    def look(
        cls,
        folder: Path,
        settings: dict[str, Any],
        sources: list[str],
        columns: Sequence[str] | None = None,
        may_change: Sequence[str] = (),
        defaults: dict[str, Any] | None = None,
    ) -> RunFolder:
        """Check that a run may write into `folder`: new, empty, or with an interrupted run of the same settings.

        Nothing is written: a run that is refused later leaves nothing in the way of its correction. `claim` takes it.

        Args:
            folder: where the model will be.
            settings: the run's settings as plain data.
            sources: where its text comes from.
            columns: columns of a table.
            may_change: settings that a longer run may change; it resumes from the last checkpoint.
            defaults: what a run of an earlier version, which did not have some setting, ran with.

        Raises:
            UserError: for a folder that holds something else, is finished, or cannot be written.
        """
        about = {
            "diffcse": __version__,
            "settings": settings,
            "sources": sources,
            "columns": list(columns or []),
            "finished": False,
        }
        run = cls(folder=folder, about=about)
        if not _is_first():
            return run  # under torchrun the first process claims the folder; if it refuses, torchrun ends the others
        check_place(folder)
        former = run._former()
        if former is not None:
            run._check_same(_with_defaults(former, defaults or {}), may_change)
        return run

    def claim(self, rows: Any = None) -> None:
        """Take the folder, once nothing can refuse the run any more.

        Args:
            rows: the run's text as a dataset, for `check_text` of the run that resumes this one.

        Raises:
            UserError: a disk that cannot be written to.
        """
        if not _is_first():
            return
        with disk_errors(f"output {self.folder}", "choose another folder"):
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            if rows is not None and not self._text.is_file():
                write_json(self._text, {"sha256": _text_digest(rows), "rows": len(rows)})
            write_json(self.folder / _RUN, self.about)
        last_checkpoint(self.checkpoints, remove_broken=True)

    def release(self) -> None:
        """Take back a claim after all, where something refused the run before it wrote anything else."""
        (self.folder / _RUN).unlink(missing_ok=True)
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        with contextlib.suppress(OSError):  # files of the user's own stay, and so does their folder
            self.folder.rmdir()

    @property
    def _text(self) -> Path:
        return self.checkpoints / "text.json"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints that a killed run resumes from."""
        return self.folder / "checkpoints"

    @property
    def metrics(self) -> Path:
        """One JSON object a log line."""
        return self.folder / "metrics.jsonl"

    def last_checkpoint(self) -> str | None:
        """The newest complete checkpoint."""
        newest = last_checkpoint(self.checkpoints)
        return str(newest) if newest else None

    def read_metrics(self) -> list[dict[str, Any]]:
        """All log lines so far."""
        return [json.loads(line) for line in log_lines(self.metrics)]

    def check_text(self, rows: Any) -> None:
        """Refuse to resume on other text than the run began with: counts and a sample of rows are compared.

        Args:
            rows: the sentences or documents as a dataset.
        """
        if not _is_first() or not self._text.is_file():
            return
        what = f"output {self.folder}"
        former = read_json(self._text, what=what, do="choose another folder").get("sha256")
        if former != _text_digest(rows):
            do = "give the text as it was, or choose another folder"
            raise UserError(what, "an interrupted run on this text", "one on other text", do)

    def check_steps(self, steps: int) -> None:
        """Refuse to resume a run of another length: its learning rates were those of that length.

        Args:
            steps: optimiser steps of the run; the same settings gave more before `epochs` ended a run with `max_steps`.
        """
        checkpoint = self.last_checkpoint()
        if not _is_first() or checkpoint is None:
            return
        what, do = f"output {self.folder}", "choose another folder; more epochs give more steps"
        former = read_state(Path(checkpoint)).max_steps
        if former != steps:
            raise UserError(what, f"an interrupted run of {steps} steps", f"one of {former}", do)

    def check_space(self, model: nn.Module, terms: int = 0) -> None:
        """Room for three checkpoints (weights and two moments each), the best weights and the model.

        Args:
            model: what is trained; has an `encoder`.
            terms: evaluations whose mean is kept; twice their files may wait, and one is being written.
        """
        if not _is_first():
            return
        trained = _bytes(p for p in model.parameters() if p.requires_grad)
        need = trained * (3 * 3 + 2)
        if terms:
            need += (2 * terms + 1) * _bytes(model.get_submodule("encoder").parameters())
        free = shutil.disk_usage(_existing(self.folder)).free
        if free < need:
            rule = f"on a disk with {decimal(need)} free for checkpoints"
            raise UserError(f"output {self.folder}", rule, decimal(free), "free some space or choose another disk")

    def writing(self) -> AbstractContextManager[None]:
        """Turn a disk that fills up or goes read-only on the way into one line; the last checkpoint stays complete."""
        do = "make room, then give the same command: it resumes from the last checkpoint"
        return disk_errors(f"output {self.folder}", do)

    def save_training_state(self, state: dict[str, Tensor]) -> None:
        """Projector and discriminator next to the model, in `training/`."""
        place = self.folder / "training"
        place.mkdir(exist_ok=True)
        write_atomic(place / "model.safetensors", save({name: value.contiguous() for name, value in state.items()}))

    def mark_finished(self, *, keep_checkpoints: bool = False) -> None:
        """Say that the model is complete, then drop what only an interrupted run needs."""
        write_json(self.folder / _RUN, {**self.about, "finished": True})
        if not keep_checkpoints:
            shutil.rmtree(self.checkpoints, ignore_errors=True)

    def _former(self) -> dict[str, Any] | None:
        try:
            former = read_json(self.folder / _RUN, what=str(self.folder / _RUN), do="choose another output folder")
        except FileNotFoundError:
            return None
        if not isinstance(settings := former.get("settings", {}), dict):
            what, do = f"settings in {self.folder / _RUN}", "choose another output folder"
            raise UserError(what, "those of a run", settings, do)
        return former

    def _check_same(self, former: dict[str, Any], may_change: Sequence[str]) -> None:
        if former.get("finished") and (not may_change or former.get("settings") == self.about["settings"]):
            do = "choose another folder, or delete this one"
            raise UserError(f"output {self.folder}", "a new folder or an interrupted run", "a finished run", do)
        before, now = ({**about, **{"settings": _without(about, may_change)}} for about in (former, self.about))
        different = [name for name in ("settings", "sources", "columns") if before.get(name) != now[name]]
        if different:
            do = "give the same command to resume it, or choose another folder"
            got = f"other {' and '.join(different)}"
            raise UserError(f"output {self.folder}", "the interrupted run of this very command", got, do)


def check_place(folder: Path) -> None:
    """Look at the place of a run before its text is read: new, empty, or a run's.

    Raises:
        UserError: for a file, a folder that holds something else, or one that cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"output {folder}", "a folder", "a file", "choose another name")
    if folder.is_dir() and not (folder / _RUN).exists() and any(folder.iterdir()):
        raise UserError(f"output {folder}", "new or empty", "a folder with other files", "choose another folder")
    place = _existing(folder)
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"output {folder}", "writable", f"{place}, which is not", "choose another folder")


def is_finished(folder: Path) -> bool:
    """Whether `folder` holds the model of a run that ended."""
    try:
        return bool(read_json(folder / _RUN, what=f"{folder / _RUN}", do="").get("finished"))
    except (FileNotFoundError, UserError):
        return False


def _is_first() -> bool:
    """Whether this process writes; torchrun's variable is there before a process group is."""
    return int(os.environ.get("RANK", "0")) == 0


def _existing(folder: Path) -> Path:
    """The folder itself, or the nearest one above it that exists already."""
    return next((place for place in (folder, *folder.absolute().parents) if place.exists()), Path("/"))


def _text_digest(rows: Any) -> str:
    if "key" in getattr(rows, "column_names", ()):  # documents, whose keys are digests of their text
        return digest(list(rows["key"]))
    sample = [rows[i] for i in range(0, len(rows), max(1, len(rows) // 1000))]
    return digest([len(rows), sample])


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _with_defaults(about: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """With the settings, in their sections, that a run of an earlier version did not know."""
    former = about.get("settings", {})
    filled = {
        name: {**value, **section} if isinstance(section := former.get(name, value), dict) else section
        for name, value in defaults.items()
    }
    return {**about, "settings": {**former, **filled}}


def _without(about: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in about.get("settings", {}).items() if name not in names}
