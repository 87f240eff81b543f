import random

import numpy as np
import pytest

from diffcse.errors import UserError
from diffcse.evaluation.retrieval import RetrievalScores, retrieval

PAIRS = [(f"summary {i}", f"description {i}") for i in range(50)]


class Table:
    """An encoder that looks vectors up."""

    def __init__(self, vectors: dict[str, np.ndarray]) -> None:
        self.vectors = vectors

    def encode(self, sentences: list[str], /) -> np.ndarray:
        return np.stack([self.vectors[sentence] for sentence in sentences])


def test_retrieval_of_a_perfect_a_shifted_and_a_constant_encoder() -> None:
    basis = np.eye(50, dtype=np.float32)
    perfect = {text: 3 * basis[i] for i, pair in enumerate(PAIRS) for text in pair}
    assert retrieval(Table(perfect), PAIRS) == RetrievalScores(mrr=1.0, recall_at_1=1.0, recall_at_10=1.0, pairs=50)
    shifted = {b: basis[i] for i, (_, b) in enumerate(PAIRS)}
    shifted |= {a: basis[i] + 2 * basis[(i + 1) % 50] for i, (a, _) in enumerate(PAIRS)}
    assert retrieval(Table(shifted), PAIRS) == RetrievalScores(mrr=0.5, recall_at_1=0.0, recall_at_10=1.0, pairs=50)
    scores = retrieval(Table({text: np.ones(7) * np.pi for pair in PAIRS for text in pair}), PAIRS)
    assert scores.recall_at_10 == 0 and scores.mrr == pytest.approx(1 / 50)
    assert retrieval(Table({text: np.zeros(7) for pair in PAIRS for text in pair}), PAIRS).recall_at_1 == 0


def test_retrieval_is_a_plain_loop_over_the_pairs() -> None:
    rng = np.random.default_rng(0)
    table = {text: rng.normal(size=8).astype(np.float32) for pair in PAIRS for text in pair}
    ranks = []
    for a, own in PAIRS:
        cosine = {b: table[a] @ table[b] / np.linalg.norm(table[a]) / np.linalg.norm(table[b]) for _, b in PAIRS}
        ranks.append(1 + sum(cosine[b] > cosine[own] for _, b in PAIRS if b != own))
    scores = retrieval(Table(table), PAIRS)
    assert scores.mrr == pytest.approx(np.mean([1 / rank for rank in ranks]))
    assert scores.recall_at_1 == np.mean([rank == 1 for rank in ranks])
    assert scores.recall_at_10 == np.mean([rank <= 10 for rank in ranks])
    shuffled = random.Random(0).sample(PAIRS, len(PAIRS))
    assert retrieval(Table(table), shuffled).mrr == pytest.approx(scores.mrr)


def test_retrieval_needs_pairs_and_finite_vectors() -> None:
    table = {text: np.full(3, np.nan) for pair in PAIRS for text in pair}
    with pytest.raises(UserError, match="pairs must be at least 2; got 1"):
        retrieval(Table(table), PAIRS[:1])
    with pytest.raises(UserError, match="must be finite; got NaN or infinity"):
        retrieval(Table(table), PAIRS)
