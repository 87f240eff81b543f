"""What watches a run from step to step: signals, the file of metrics, signs of a collapse."""

from __future__ import annotations

import json
import logging
import signal
import threading
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from diffcse.files import json_line, write_atomic

log = logging.getLogger(__name__)


class GracefulStop(TrainerCallback):
    """Ctrl-C or a termination signal ends the run after the step, with a checkpoint; a second one ends it at once."""

    def __init__(self) -> None:
        self.asked = False
        self.former: dict[int, Any] = {}

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Listen for the signals; only the main thread may."""
        if threading.current_thread() is threading.main_thread():
            self.former = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Stop with a checkpoint if asked to."""
        if self.asked:
            control.should_save = control.should_training_stop = True

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Give the signals back."""
        for number, handler in self.former.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


class MetricsFile(TrainerCallback):
    """Appends one JSON object a log line to `metrics.jsonl`; on resume, drops the lines after the checkpoint."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Keep the lines up to the step that the run starts from."""
        if state.is_world_process_zero:
            lines = log_lines(self.path)
            former = [line for line in lines if _step_of(line) <= state.global_step and state.global_step > 0]
            write_atomic(self.path, "".join(f"{line}\n" for line in former).encode())

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """Append one line."""
        if state.is_world_process_zero and logs:
            with self.path.open("a") as file:
                file.write(json_line({"step": state.global_step, **logs}) + "\n")


def log_lines(path: Path) -> list[str]:
    """The lines of a log, none where there is no file; damaged characters are replaced, their lines are no JSON."""
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):  # a line cut off by a kill
        return float("inf")


class WatchForCollapse(TrainerCallback):
    """Says in words, once each, when training goes where no good model comes from."""

    def __init__(self) -> None:
        self.said: set[str] = set()
        self.before: set[str] = set()

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """Look at one training line; a sign counts when seen twice in a row, since the first steps may be odd."""
        if not logs or "loss" not in logs:
            return
        signs = _signs(logs)
        for sign in (signs.keys() & self.before) - self.said:
            self.said.add(sign)
            if state.is_world_process_zero:
                log.warning("step %d: %s", state.global_step, signs[sign])
        self.before = set(signs)


def _signs(logs: dict[str, Any]) -> dict[str, str]:
    signs = {}
    if logs.get("negative_cosine", 0.0) > 0.95:
        signs["collapse"] = (
            f"different sentences have cosine {logs['negative_cosine']:.3f}: the embeddings collapse to one point; "
            "lower the learning rate or the temperature, or use projector bn"
        )
    if logs.get("replaced_share", 0.1) < 0.005:
        signs["no edits"] = (
            f"only {logs['replaced_share']:.2%} of the tokens are replaced: the discriminator has nothing to find; "
            "raise mask_ratio or use a weaker generator"
        )
    if logs.get("replaced_share", 0.1) > 0.9:
        signs["all edited"] = (
            f"{logs['replaced_share']:.2%} of the tokens are replaced: the generator does not know this text; use "
            "one that was trained on it"
        )
    return signs
