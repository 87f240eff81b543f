"""Which weights a run keeps: those of the best evaluation, or the plain mean of several (Izmailov et al., 2018).

The best is the mean of one term. Each evaluation that counts leaves a file next to the checkpoints. What a resumed run
finds there must be what the run had when it wrote the checkpoint: files that are newer are dropped, and none that the
checkpoint's mean is made of goes before the next checkpoint is complete. So up to twice as many files wait as the mean
has terms.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from safetensors import safe_open
from safetensors.torch import load_file, save
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState

from diffcse.errors import UserError
from diffcse.files import write_atomic
from diffcse.persistence.card import Kept
from diffcse.training.averages import averaged
from diffcse.training.criteria import Criterion
from diffcse.training.trainer import last_checkpoint, whole_checkpoint

Which = Literal["last", "best"]


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


class Run(Protocol):
    """What the callback needs of a trainer."""

    module: nn.Module

    def saved_state(self) -> dict[str, Tensor]:
        """What a checkpoint holds of the module."""
        ...

    def report(self, logs: dict[str, float]) -> None:
        """Log a line between two steps."""
        ...


class KeepWeights(TrainerCallback):
    """Scores the encoder every so many steps, and keeps the weights of the last or the best evaluations.

    Args:
        run: the trainer.
        folder: the run's folder of checkpoints.
        count: terms of the mean; 1 keeps one step.
        which: the last or the best evaluations; a score that is not finite is never among the best.
        every_steps: steps between two evaluations; the last step is one too.
        encoder: what is scored: the module's encoder with its pooling.
        criterion: the score; None without one.
        parts: first words of the names of the weights that are kept.
    """

    def __init__(
        self,
        run: Run,
        folder: Path,
        *,
        count: int,
        which: Which,
        every_steps: int,
        encoder: SentenceTransformer,
        criterion: Criterion | None,
        parts: tuple[str, ...] = ("encoder.",),
    ) -> None:
        self.run, self.folder, self.count, self.which, self.every_steps = run, folder, count, which, every_steps
        self.encoder, self.criterion, self.parts = encoder, criterion, parts

    def on_train_begin(self, args: object, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Drop what is newer than the checkpoint that the run resumes from, and halves that a kill left."""
        if not state.is_world_process_zero:
            return
        if any(self.folder.glob("mean-*.safetensors")):
            do = "finish it with that version, or choose another folder"
            raise UserError(f"output {self.folder.parent}", "a run of this version", "a mean of an earlier one", do)
        newer = [term.path for term in waiting(self.folder) if term.step > state.global_step]
        for path in [*newer, *self.folder.glob(".kept-*.part")]:
            path.unlink()

    def on_step_end(self, args: object, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Evaluate, and keep the weights if they count."""
        due = state.global_step % self.every_steps == 0 or state.global_step == state.max_steps
        if not due or not state.is_world_process_zero:
            return
        with averaged(self.run.module):
            score = self.score()
            path = self.folder / f"kept-{state.global_step}.safetensors"
            now = Term(path=path, step=state.global_step, score=score)
            if now in chosen([*waiting(self.folder), now], self.count, self.which):
                about = {"step": str(now.step), "score": repr(score)}
                weights = {k: v.contiguous() for k, v in self.run.saved_state().items() if k.startswith(self.parts)}
                write_atomic(path, save(weights, metadata=about))
        self._drop()
        if self.criterion is not None:
            self.run.report({self.criterion.name: score})

    def score(self) -> float:
        """The criterion's value of the encoder as it is; NaN without a criterion."""
        return math.nan if self.criterion is None else self.criterion.of(self.encoder)

    def terms(self) -> list[Term]:
        """What is kept so far."""
        return chosen(waiting(self.folder), self.count, self.which)

    def load(self) -> Kept | None:
        """Put the kept weights into the module, and say which they are; None if no evaluation counts."""
        terms = self.terms()
        if not terms:
            return None
        self.run.module.load_state_dict(mean_weights(terms), strict=False)
        steps = tuple(term.step for term in terms)
        if self.criterion is None:
            return Kept(steps=steps)
        score = terms[0].score if len(terms) == 1 else self.score()
        return Kept(steps=steps, score=score, metric=self.criterion.name)

    def _drop(self) -> None:
        """Keep what counts now and what counted at the newest complete checkpoint."""
        checkpoint = last_checkpoint(self.folder)
        saved = 0 if checkpoint is None else int(checkpoint.name.removeprefix("checkpoint-"))
        terms = waiting(self.folder)
        before = chosen([term for term in terms if term.step <= saved], self.count, self.which)
        needed = {term.path for term in [*self.terms(), *before]}
        for term in terms:
            if term.path not in needed:
                term.path.unlink()


def chosen(terms: Iterable[Term], count: int, which: Which) -> list[Term]:
    """The `count` last or best of some evaluations, in the order of their steps; of equal scores the earlier one."""
    if which == "last":
        return sorted(terms, key=lambda term: term.step)[-count:]
    best = sorted((term for term in terms if math.isfinite(term.score)), key=lambda term: (-term.score, term.step))
    return sorted(best[:count], key=lambda term: term.step)


def waiting(folder: Path) -> list[Term]:
    """The evaluations whose weights wait in `folder`; `best` is how an earlier version named its only one."""
    terms = []
    for path in [*folder.glob("kept-*.safetensors"), *folder.glob("best.safetensors")]:
        with _whole(path), safe_open(path, framework="pt") as file:
            about = file.metadata()
            terms.append(Term(path=path, step=int(about["step"]), score=float(about["score"])))
    return terms


def _whole(path: Path) -> AbstractContextManager[None]:
    return whole_checkpoint(path, "weights", "remove the file, and the same command resumes without that evaluation")


def _weights(path: Path) -> dict[str, Tensor]:
    with _whole(path):
        return load_file(path)


def mean_weights(terms: list[Term]) -> dict[str, Tensor]:
    """The mean of the files' weights, summed in float64; what is no weight, such as positions, is the last file's."""
    total = _weights(terms[-1].path)
    floating = [name for name, value in total.items() if value.is_floating_point()]
    sums = {name: total[name].double() for name in floating}
    for term in terms[:-1]:
        state = _weights(term.path)
        for name in floating:
            sums[name] += state[name]
    return {**total, **{name: (value / len(terms)).to(total[name].dtype) for name, value in sums.items()}}
