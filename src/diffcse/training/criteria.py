"""Choosing the checkpoint that is kept, with labels or without, and noticing a collapse early.

Legend: `N` sentences, `H` hidden.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save
from transformers import TrainerCallback, TrainerControl, TrainerState

from diffcse.errors import UserError
from diffcse.files import write_atomic

log = logging.getLogger(__name__)

Encode = Callable[[list[str]], NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """What chooses the checkpoint: a name for the log and a score of an encoder, higher is better."""

    name: str
    score: Callable[[Encode], float]


_SHORTEST_FOR_VIEWS = 4
_DROPPED_WORDS = 0.15


def label_free(sentences: list[str], seed: int) -> Criterion:
    """The criterion for text without labels; see `label_free_score`.

    Raises:
        UserError: where fewer than two sentences are long enough to be scored.
    """
    long = sum(len(sentence.split()) >= _SHORTEST_FOR_VIEWS for sentence in sentences)
    if long < 2:
        rule = f"stsb or last where fewer than two sentences have {_SHORTEST_FOR_VIEWS} words"
        raise UserError("select_by", rule, "label-free", "use select_by last")
    return Criterion(name="label_free", score=lambda encode: label_free_score(encode, sentences, seed))


def label_free_score(encode: Encode, sentences: list[str], seed: int) -> float:
    """Minus (alignment + uniformity) of Wang & Isola (2020), equations 2 and 3; higher is better, no labels needed.

    Positive pairs are two copies of a sentence that each lost 15% of their words. Alignment alone is best for a
    constant encoder and uniformity alone for a random one; only their sum asks for both.

    Args:
        encode: sentences to (N, H).
        sentences: unlabelled text.
        seed: decides which words are lost.
    """
    rng = np.random.default_rng(seed)
    texts = [sentence.split() for sentence in sentences]
    texts = [words for words in texts if len(words) >= _SHORTEST_FOR_VIEWS]
    first, second = ([_shortened(words, rng) for words in texts] for _ in range(2))
    vectors = _unit(encode(first + second))
    a, b = vectors[: len(texts)], vectors[len(texts) :]
    return -(alignment(a, b) + uniformity(a))


def alignment(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Mean squared distance of unit vectors of positive pairs, (N, H) each; 0 is best."""
    return float(np.square(a - b).sum(1).mean())


def uniformity(unit: NDArray[np.float64]) -> float:
    """Log of the mean of exp(-2 d^2) over all pairs of unit vectors (N, H); 0 where collapsed, lower is better."""
    squared = np.maximum(2 - 2 * unit @ unit.T, 0)
    pairs = squared[np.triu_indices(len(unit), k=1)]
    return float(np.log(np.exp(-2 * pairs).mean()))


def _unit(vectors: NDArray[Any]) -> NDArray[np.float64]:
    wide = np.asarray(vectors, dtype=np.float64)
    return wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)


def _shortened(words: list[str], rng: np.random.Generator) -> str:
    keep = rng.random(len(words)) >= _DROPPED_WORDS
    kept = [word for word, k in zip(words, keep, strict=True) if k]
    return " ".join(kept or words)


@dataclass(frozen=True, kw_only=True)
class Best:
    """The best checkpoint so far.

    Attributes:
        step: optimiser step it was taken at.
        score: value of the criterion.
        metric: name of the criterion.
    """

    step: int
    score: float
    metric: str

    def describe(self) -> str:
        """In words.

        >>> Best(step=250, score=0.8, metric="stsb").describe()
        'step 250, stsb 0.8000'
        """
        return f"step {self.step}, {self.metric} {self.score:.4f}"


def due(state: TrainerState, every_steps: int) -> bool:
    """Whether this step is one that is evaluated: every so many, and the last."""
    return state.global_step % every_steps == 0 or state.global_step == state.max_steps


class KeepBest(TrainerCallback):
    """Scores the encoder every so many steps and keeps the weights of the best.

    The file holds weights, step and score together and is replaced whole, so a killed run finds a true pair. On
    resume a best from after the checkpoint stays: the run reaches the same step again with the same score.

    Args:
        path: the file for the best weights.
        metric: name of the criterion, for the log.
        score: computes it; called in eval mode.
        state: gives the weights to keep.
        every_steps: steps between two scores; the last step is scored too.
        report: called with {metric: score}.
    """

    def __init__(
        self,
        path: Path,
        *,
        metric: str,
        score: Callable[[], float],
        state: Callable[[], dict[str, Any]],
        every_steps: int,
        report: Callable[[dict[str, float]], None],
    ) -> None:
        self.path, self.metric, self.every_steps = path, metric, every_steps
        self.score, self.state, self.report = score, state, report

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Score, and keep the weights if they are better than the best so far."""
        if not due(state, self.every_steps) or not state.is_world_process_zero:
            return
        value = self.score()
        best = read_best(self.path)
        # Not `value > best.score`: a NaN must never be best, nor stay best where an older version kept one.
        if math.isfinite(value) and (best is None or not value <= best.score):
            about = {"step": str(state.global_step), "score": repr(value), "metric": self.metric}
            write_atomic(self.path, save({k: v.contiguous() for k, v in self.state().items()}, metadata=about))
        self.report({self.metric: value})


def read_best(path: Path) -> Best | None:
    """What the file of the best weights says of itself; None without one."""
    if not path.is_file():
        return None
    with safe_open(path, framework="pt") as file:
        about = file.metadata()
    return Best(step=int(about["step"]), score=float(about["score"]), metric=about["metric"])


def load_best(path: Path) -> dict[str, Any]:
    """The best weights."""
    return load_file(path)


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
