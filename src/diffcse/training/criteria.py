"""What chooses the weights that are kept, with labels or without.

Legend: `N` sentences, `H` hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from diffcse.config import TrainingConfig
from diffcse.errors import UserError
from diffcse.vectors import unit

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Encode = Callable[[list[str]], NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """What chooses the checkpoint: a name for the log and a score of an encoder, higher is better."""

    name: str
    score: Callable[[Encode], float]

    def of(self, encoder: SentenceTransformer) -> float:
        """The score of a model."""
        return self.score(lambda texts: np.asarray(encoder.encode(texts, batch_size=64, show_progress_bar=False)))


def choose_criterion(config: TrainingConfig, labelled: Criterion | None, sentences: Sequence[str]) -> Criterion | None:
    """What chooses the checkpoint, or None to keep the last one.

    Args:
        config: says by what.
        labelled: what there are data for.
        sentences: the run's own text, for the criterion without labels.

    Raises:
        UserError: a choice that nothing here can make.
    """
    if config.select_by == "label-free":
        return label_free(list(sentences), config.seed)
    if config.select_by == "stsb" and labelled is None:
        do = "add --senteval FOLDER or use label-free"
        raise UserError("select_by stsb", "given with STS-B dev data", "no data", do)
    best_of = config.average_checkpoints and config.average_which == "best"
    if config.select_by == "auto" and labelled is None and best_of:
        do = "use select_by label-free, or add --senteval FOLDER"
        raise UserError("average_which", "last where nothing measures which step is best", "best", do)
    return None if config.select_by == "last" else labelled


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
    vectors = unit(np.asarray(encode(first + second)), np.float64)
    a, b = vectors[: len(texts)], vectors[len(texts) :]
    return -(alignment(a, b) + uniformity(a))


def alignment(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Mean squared distance of unit vectors of positive pairs, (N, H) each; 0 is best."""
    return float(np.square(a - b).sum(1).mean())


def uniformity(vectors: NDArray[np.float64]) -> float:
    """Log of the mean of exp(-2 d^2) over all pairs of unit vectors (N, H); 0 where collapsed, lower is better."""
    squared = np.maximum(2 - 2 * vectors @ vectors.T, 0)
    pairs = squared[np.triu_indices(len(vectors), k=1)]
    return float(np.log(np.exp(-2 * pairs).mean()))


def _shortened(words: list[str], rng: np.random.Generator) -> str:
    keep = rng.random(len(words)) >= _DROPPED_WORDS
    rest = [word for word, k in zip(words, keep, strict=True) if k]
    return " ".join(rest or words)
