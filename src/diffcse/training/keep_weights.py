"""The plain mean of the encoder's weights over several evaluations of one run (Izmailov et al., 2018).

Each evaluation that counts leaves a file beside the checkpoints. What a resumed run finds there must be what the run
had when it wrote the checkpoint: files that are newer are dropped, and none that the checkpoint's mean is made of goes
before the next checkpoint is complete. So up to twice as many files wait as the mean has terms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState

from diffcse.files import write_atomic
from diffcse.training.criteria import due
from diffcse.training.trainer import last_checkpoint

Which = Literal["last", "best"]


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A mean over evaluations that is kept as the model.

    Attributes:
        steps: optimiser steps that its terms were taken at.
        score: the criterion's value of the mean itself; None without a criterion.
        metric: name of the criterion.
    """

    steps: tuple[int, ...]
    score: float | None = None
    metric: str | None = None

    def describe(self) -> str:
        """In words.

        >>> Mean(steps=(4, 8)).describe()
        'mean of steps 4, 8'
        """
        scored = "" if self.score is None else f", {self.metric} {self.score:.4f}"
        return f"mean of steps {', '.join(map(str, self.steps))}{scored}"


@dataclass(frozen=True, kw_only=True)
class Term:
    """One evaluation whose weights wait in a file.

    Attributes:
        path: the file.
        step: optimiser step.
        score: the criterion's value, NaN without one.
    """

    path: Path
    step: int
    score: float


def chosen(terms: Iterable[Term], count: int, which: Which) -> list[Term]:
    """The `count` last or best of some evaluations, in the order of their steps; of equal scores the earlier one."""

    def rank(term: Term) -> tuple[float, int]:
        if which == "last":
            return 0.0, -term.step
        return (math.inf if math.isnan(term.score) else -term.score), term.step

    return sorted(sorted(terms, key=rank)[:count], key=lambda term: term.step)


def found(folder: Path) -> list[Term]:
    """The evaluations whose weights wait in `folder`."""
    terms = []
    for path in folder.glob("mean-*.safetensors"):
        with safe_open(path, framework="pt") as file:
            about = file.metadata()
        terms.append(Term(path=path, step=int(about["step"]), score=float(about["score"])))
    return terms


def mean_weights(terms: list[Term]) -> dict[str, Tensor]:
    """The mean of the files' weights, summed in float64; what is no weight, such as positions, is the last file's."""
    total = load_file(terms[-1].path)
    floating = [name for name, value in total.items() if value.is_floating_point()]
    sums = {name: total[name].double() for name in floating}
    for term in terms[:-1]:
        state = load_file(term.path)
        for name in floating:
            sums[name] += state[name]
    return {**total, **{name: (value / len(terms)).to(total[name].dtype) for name, value in sums.items()}}


class KeepForMean(TrainerCallback):
    """Keeps the encoder's weights of the last or the best evaluations.

    Args:
        folder: the run's folder of checkpoints.
        count: terms of the mean.
        which: the last or the best evaluations.
        every_steps: steps between two evaluations; the last step is one too.
        state: gives the weights to keep.
        score: computes the criterion; None without one.
        report: called with each score.
    """

    def __init__(
        self,
        folder: Path,
        *,
        count: int,
        which: Which,
        every_steps: int,
        state: Callable[[], dict[str, Any]],
        score: Callable[[], float] | None,
        report: Callable[[float], None],
    ) -> None:
        self.folder, self.count, self.which, self.every_steps = folder, count, which, every_steps
        self.state, self.score, self.report = state, score, report

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Drop what is newer than the checkpoint that the run goes on from, and halves that a kill left."""
        if state.is_world_process_zero:
            newer = [term.path for term in found(self.folder) if term.step > state.global_step]
            for path in [*newer, *self.folder.glob(".mean-*.part")]:
                path.unlink()

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Evaluate, and keep the weights if they count."""
        if not due(state, self.every_steps) or not state.is_world_process_zero:
            return
        score = math.nan if self.score is None else self.score()
        path = self.folder / f"mean-{state.global_step}.safetensors"
        now = Term(path=path, step=state.global_step, score=score)
        if now in chosen([*found(self.folder), now], self.count, self.which):
            about = {"step": str(now.step), "score": repr(score)}
            write_atomic(path, save({name: value.contiguous() for name, value in self.state().items()}, metadata=about))
        self._drop()
        if self.score is not None:
            self.report(score)

    def terms(self) -> list[Term]:
        """What the mean is made of so far."""
        return chosen(found(self.folder), self.count, self.which)

    def _drop(self) -> None:
        """Keep what counts now and what counted at the newest complete checkpoint."""
        checkpoint = last_checkpoint(self.folder)
        saved = 0 if checkpoint is None else int(checkpoint.name.removeprefix("checkpoint-"))
        waiting = found(self.folder)
        before = chosen([term for term in waiting if term.step <= saved], self.count, self.which)
        needed = {term.path for term in [*self.terms(), *before]}
        for term in waiting:
            if term.path not in needed:
                term.path.unlink()
