"""What a training run shows: a live line with the time left on a terminal, plain lines in a file or a pipe."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from diffcse.progress import make_bar, say

_SHOWN = {
    "loss": "loss {:.4f}",
    "contrastive": "contrastive {:.4f}",
    "rtd": "rtd {:.4f}",
    "accuracy": "accuracy {:.3f}",
    "positive_cosine": "pos {:.3f}",
    "negative_cosine": "neg {:.3f}",
    "replaced_share": "replaced {:.3f}",
    "replaced_accuracy": "found {:.3f}",
    "original_accuracy": "kept {:.3f}",
    "learning_rate": "lr {:.2e}",
    "sentences_per_second": "{:.1f} sentences/s",
}


class Speed(TrainerCallback):
    """Adds `sentences_per_second`, measured between two log lines, to each training line.

    Args:
        sentences: sentences in an optimiser step, over all processes.
    """

    def __init__(self, sentences: int) -> None:
        self.sentences, self.since = sentences, (0, 0.0)

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start the clock."""
        self.since = (state.global_step, time.perf_counter())

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """Put the speed since the last training line into this one."""
        step, now = self.since[0], time.perf_counter()
        if logs and "loss" in logs and state.global_step > step:
            logs["sentences_per_second"] = self.sentences * (state.global_step - step) / (now - self.since[1])
            self.since = (state.global_step, now)


class LiveDisplay(TrainerCallback):
    """Progress bar with time left and the last figures on a terminal; one line a log line elsewhere.

    Args:
        console: where to write.
        what: the run's name in front of the bar.
    """

    def __init__(self, console: Console, what: str) -> None:
        self.console, self.what = console, what
        self.progress = make_bar(console, figures=True)
        self.started = (0, 0.0)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Show the bar, from the step that the run starts at."""
        self.started = (state.global_step, time.perf_counter())
        if state.is_world_process_zero and self.console.is_terminal:
            self.progress.add_task(self.what, total=state.max_steps, completed=state.global_step, figures="")
            self.progress.start()

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Move the bar."""
        for task in self.progress.task_ids:
            self.progress.update(task, completed=state.global_step)

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """Show the figures."""
        if not state.is_world_process_zero or not logs:
            return
        figures = "  ".join(form.format(logs[name]) for name, form in _SHOWN.items() if name in logs)
        if self.progress.task_ids and figures:
            self.progress.update(self.progress.task_ids[0], figures=figures)
        elif figures:
            say(self.console, f"{self.what} {state.global_step}/{state.max_steps}  {figures}  {self._left(state)}")

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Close the bar."""
        self.progress.stop()

    def _left(self, state: TrainerState) -> str:
        step, since = self.started
        each = (time.perf_counter() - since) / max(1, state.global_step - step)
        return f"left {time.strftime('%H:%M:%S', time.gmtime(each * (state.max_steps - state.global_step)))}"
