"""The linear map: its target against the formula, and that it gives what it is trained for."""

import numpy as np
import pytest
import torch
from datasets import Dataset

from diffcse.adaptation import lexical_map
from diffcse.adaptation.lexical_map import drawn, fit, pseudo_questions, targets
from diffcse.evaluation.lexical import BM25
from diffcse.vectors import unit

DOCUMENTS = [[f"rare{n} often{n % 4} some{n % 9}", f"scarce{n} often{n % 4} few{n % 11}"] for n in range(60)]
WIDTH = 24


class Words:
    """The sum of a text's word vectors, common words weighing six times as much as rare ones."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        words = sorted({word for sentences in DOCUMENTS for word in " ".join(sentences).split()})
        # Words of a kind share a half of the dimensions, so that a linear map can weigh the kinds.
        common = np.array([np.arange(WIDTH) < WIDTH // 2] * len(words)) == [[w.startswith("often")] for w in words]
        weight = [[6.0 if word.startswith("often") else 1.0] for word in words]
        self.table = dict(zip(words, rng.normal(size=common.shape) * common * weight, strict=True))

    def encode_document(self, texts: list[str]) -> np.ndarray:
        return np.stack([np.sum([self.table[word] for word in text.split()], axis=0) for text in texts])

    encode_query = encode_document


def test_the_target_is_the_mean_of_cosines_and_scaled_bm25() -> None:
    texts, questions = [" ".join(sentences) for sentences in DOCUMENTS[:5]], ["rare1 often1", "few2"]
    cosines = np.random.default_rng(0).uniform(-1, 1, (2, 5)).astype(np.float32)
    target = targets(cosines, questions, texts, 0.25)
    for row, question in enumerate(questions):
        words = np.concatenate(list(BM25().scores([question], texts)))[0]
        scaled = (words - words.mean()) / words.std() * cosines[row].std() + cosines[row].mean()
        assert target[row] == pytest.approx(0.75 * cosines[row] + 0.25 * scaled, abs=1e-6)
    assert targets(cosines, questions, texts, 0.0) == pytest.approx(cosines)


def test_a_question_of_unknown_words_keeps_its_order() -> None:
    cosines = np.array([[0.1, 0.9, 0.5]], dtype=np.float32)
    target = targets(cosines, ["unseen"], ["a b", "c d", "e f"], 0.5)
    assert np.isfinite(target).all() and target[0].argsort().tolist() == [0, 2, 1]


def test_cosines_after_the_map_are_nearer_to_the_target() -> None:
    encoder, texts = Words(), [" ".join(sentences) for sentences in DOCUMENTS]
    w = fit(encoder, DOCUMENTS, share=0.5, temperature=0.05, seed=0).numpy()
    questions = pseudo_questions(DOCUMENTS, seed=1)  # others than it was trained on
    q, d = unit(encoder.encode_query(questions)), unit(encoder.encode_document(texts))
    target = targets(q @ d.T, questions, texts, 0.5)

    def divergence(cosines: np.ndarray) -> float:
        goal, ours = (torch.from_numpy(scores / 0.05).log_softmax(1) for scores in (target, cosines))
        return float((goal.exp() * (goal - ours)).sum(1).mean())

    assert divergence(unit(q @ w.T) @ unit(d @ w.T).T) < 0.8 * divergence(q @ d.T)


def test_without_bm25_the_map_stays_near_the_identity() -> None:
    w = fit(Words(), DOCUMENTS, share=0.0, temperature=0.05, seed=0)
    assert (w - torch.eye(WIDTH)).abs().max() < 0.01


def test_the_seed_decides_and_progress_ends_at_the_total() -> None:
    output: list[tuple[int, int]] = []
    maps = [
        fit(Words(), DOCUMENTS, share=0.2, temperature=0.05, seed=seed, on_progress=lambda *done: output.append(done))
        for seed in (0, 0, 1)
    ]
    assert maps[0].equal(maps[1]) and not maps[0].equal(maps[2])
    assert output[-1][0] == output[-1][1]


def test_many_documents_are_drawn_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lexical_map, "MOST_DOCUMENTS", 10)
    dataset = Dataset.from_dict({"sentences": DOCUMENTS})
    few = drawn(dataset, seed=0)
    assert len(few) == 10 and all(sentences in DOCUMENTS for sentences in few)
    assert few == drawn(dataset, seed=0) != drawn(dataset, seed=1)


def test_questions_are_titles_sentences_and_words() -> None:
    questions = pseudo_questions([["A title", "One sentence here.", "Another one there."], ["word"]], seed=0)
    assert questions[:2] == ["A title", "word"]
    assert questions[2] in ("A title", "One sentence here.", "Another one there.")
    assert len(questions) == 5  # a document of one word has no telling words
