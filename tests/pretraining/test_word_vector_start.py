"""The start from co-occurrence: counts against a plain loop, the factorisation's properties, the encoder's mean."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse
from sentence_transformers import SentenceTransformer

from diffcse.errors import UserError
from diffcse.pretraining import word_vectors as counting
from diffcse.pretraining.config import CooccurConfig
from diffcse.pretraining.word_vector_start import build_start, cooccur, weighted_vectors
from diffcse.pretraining.word_vectors import (
    count,
    halves_found,
    positive_pmi,
    share_spelling,
    split_marks,
    token_ids,
    word_vectors,
)
from tests import tiny
from tests.cli.command import invoke, options

SMALL = {"hidden_size": 20, "heads": 2, "intermediate_size": 16, "max_length": 32, "held_out": 10}


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny.tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def config(tokenizer_folder: str) -> CooccurConfig:
    return CooccurConfig(**SMALL, tokenizer=tokenizer_folder)


def vocabulary() -> list[str]:
    tokenizer = tiny.tokenizer()
    return tokenizer.convert_ids_to_tokens(range(len(tokenizer)))


@pytest.mark.parametrize("at_once", [3, 1000])
def test_counts_are_those_of_a_plain_loop(lines, monkeypatch, at_once):
    monkeypatch.setattr(counting, "SENTENCES_AT_ONCE", at_once)
    tokenizer, done = tiny.tokenizer(), []
    got = count(lines[:20], tokenizer, (1, 4), on_progress=done.append)
    assert done[-1] == 20 and done == sorted(done)
    rows = token_ids(lines[:20], tokenizer)
    assert got.words.tolist() == np.bincount(np.concatenate(rows), minlength=len(tokenizer)).tolist()
    for pairs, window in zip(got.pairs, (1, 4), strict=True):
        expected: Counter[tuple[int, int]] = Counter()
        for row in rows:
            for i, j in itertools.permutations(range(len(row)), 2):
                if abs(i - j) <= window:
                    expected[int(row[i]), int(row[j])] += 1
        entries = pairs.tocoo()
        results = zip(entries.row.tolist(), entries.col.tolist(), entries.data.tolist(), strict=True)
        assert {(i, j): n for i, j, n in results if n} == dict(expected)


def test_pmi_is_the_formula_and_not_negative():
    pairs = sparse.csr_array(np.array([[0, 6, 1], [6, 0, 2], [1, 2, 0]]))
    got = positive_pmi(pairs, 0.75).toarray()
    counts = pairs.toarray().astype(float)
    context = counts.sum(1) ** 0.75 / (counts.sum(1) ** 0.75).sum()
    with np.errstate(divide="ignore"):
        expected = np.maximum(0, np.log(counts / counts.sum(1, keepdims=True) / context))
    np.testing.assert_allclose(got, expected, atol=1e-12)
    assert (expected == 0).sum() > 3  # a pair that is rarer than chance is left out, not only unseen ones


def test_vectors_are_of_unit_length_and_like_words_are_alike():
    topic = np.repeat(np.arange(3), 10)
    counts = np.random.default_rng(0).poisson(np.where(topic[:, None] == topic, 50, 2))
    vectors = word_vectors(positive_pmi(sparse.csr_array(counts + counts.T), 0.75), 3, -1.0, 0)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0)
    cosines = vectors @ vectors.T
    assert cosines[topic[:, None] == topic].min() > 0.9
    assert cosines[topic[:, None] != topic].max() < 0.1


def test_a_word_that_was_never_seen_has_no_vector(lines, config):
    counted = count(lines, tiny.tokenizer(), (2, 10))
    vectors = weighted_vectors(counted, vocabulary(), config)
    assert (counted.words == 0).any()
    assert np.isfinite(vectors).all()
    assert (np.linalg.norm(vectors, axis=1) > 0).tolist() == (counted.words > 0).tolist()
    frequent = int(counted.words.argmax())
    assert np.linalg.norm(vectors[frequent]) == pytest.approx(1e-3 / (1e-3 + counted.shares[frequent]))


def test_halves_find_each_other_by_shared_words():
    same = [np.array([i, i, i, i]) for i in range(6)]
    assert halves_found(np.eye(6), same, 0).share == 1.0
    assert halves_found(np.eye(6), [np.array([1, 2])], 0).sentences == 0
    rng = np.random.default_rng(0)
    random = [rng.integers(0, 500, 12) for _ in range(50)]
    assert halves_found(rng.standard_normal((500, 20)), random, 0).share < 0.2


def test_marks_of_the_kinds_of_tokenizers():
    for tokens in (["a", "##b"], ["\u0120a", "b"], ["\u2581a", "b"]):
        letters, continues = split_marks(tokens)
        assert (letters, continues.tolist()) == (["a", "b"], [False, True])


def test_a_piece_that_continues_a_word_weighs_less(lines, tokenizer_folder):
    counted, tokens = count(lines, tiny.tokenizer(), (2, 10)), vocabulary()
    full, half = (
        weighted_vectors(
            counted, tokens, CooccurConfig(**SMALL, tokenizer=tokenizer_folder, continuation_weight=weight)
        )
        for weight in (1.0, 0.5)
    )
    continues = split_marks(tokens)[1]
    assert continues.any()
    np.testing.assert_allclose(half, full * np.where(continues, 0.5, 1.0)[:, None])


def test_words_that_are_spelled_alike_share_their_directions():
    tokens = ["player", "players", "stone", "##players", "playing", "play"]
    vectors = np.eye(6)
    vectors[4] = 0.0  # never seen
    shared = share_spelling(vectors, tokens, 1.0)
    np.testing.assert_allclose(shared[[2, 3, 4]], vectors[[2, 3, 4]])
    np.testing.assert_allclose(np.linalg.norm(shared[[0, 1, 5]], axis=1), 1.0)
    assert shared[0, 1] > 0.5 and shared[1, 0] > 0.5 and shared[0, 2] == 0
    np.testing.assert_array_equal(share_spelling(vectors, tokens, 0.0), vectors)


def states(model: torch.nn.Module, line: str) -> np.ndarray:
    """(L, H), and the hidden vectors are those of one sentence."""
    with torch.no_grad():
        return model(**tiny.tokenizer()(line, return_tensors="pt")).last_hidden_state[0].numpy()


def normed_words(vectors: np.ndarray) -> np.ndarray:
    whole = np.hstack([vectors, np.tile([1.0, -1.0, 0.0, 0.0], (len(vectors), 1))])
    return (whole - whole.mean(1, keepdims=True)) / whole.std(1, keepdims=True)


def test_the_start_is_the_weighted_mean_of_word_vectors(lines, tokenizer_folder):
    config = CooccurConfig(**SMALL, tokenizer=tokenizer_folder, redundancy=0.0)
    tokenizer = tiny.tokenizer()
    vectors = weighted_vectors(count(lines, tokenizer, (2, 10)), vocabulary(), config)
    vectors[tokenizer.all_special_ids] = 0
    model = build_start(vectors, tokenizer, config)
    expected = normed_words(vectors)
    for line, row in zip(lines[:8], token_ids(lines[:8], tokenizer), strict=True):
        got = states(model, line)
        assert (got[:, -4:] == 0).all()
        np.testing.assert_allclose(got[:, :-4].sum(0), expected[row, :-4].sum(0), atol=1e-4)


@pytest.mark.parametrize("heads", [2, 4])
def test_a_word_weighs_less_next_to_words_like_it(lines, tokenizer_folder, heads):
    """Each token's vector is divided by 1 + 2 r, r being its product with the sentence's sum."""
    rng = np.random.default_rng(0)
    config = CooccurConfig(**{**SMALL, "hidden_size": 32, "heads": heads}, tokenizer=tokenizer_folder, redundancy=2.0)
    tokenizer = tiny.tokenizer()
    # Short vectors, for which the scores are near their tangent, of dimensions that the heads have room for; their
    # means are 0, so that LayerNorm only divides.
    room = np.concatenate([part[: 32 // heads - 1] for part in np.array_split(np.arange(28), heads)])
    some = rng.standard_normal((len(tokenizer), len(room)))
    some -= some.mean(1, keepdims=True)
    vectors = np.zeros((len(tokenizer), 28))
    vectors[:, room] = 0.3 * some / np.linalg.norm(some, axis=1, keepdims=True)
    vectors[tokenizer.all_special_ids] = 0
    model = build_start(vectors, tokenizer, config)
    word = tokenizer.convert_ids_to_tokens(token_ids(lines[:1], tokenizer)[0].tolist())[0]
    for line in (f"{lines[0]} {word} {word} {word}", lines[1]):
        row = token_ids([line], tokenizer)[0]
        redundancy = (vectors[row] @ vectors[row].T).sum(1)
        got = states(model, line)[1:-1, :-4]
        results = np.linalg.norm(vectors[row] * 32**0.5 / 2**0.5, axis=1) / np.linalg.norm(got, axis=1)
        shared = 100 / (100 + len(row) + 1)  # of the softmax, by [CLS]: what the others share, they lack twice
        np.testing.assert_allclose(results, 1 + 2.0 * redundancy * shared**2, atol=0.1)
        assert np.corrcoef(results, redundancy)[0, 1] > 0.99
        directions = (got * vectors[row]).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(vectors[row], axis=1)
        np.testing.assert_allclose(directions, 1.0, atol=2e-3)


def test_same_command_twice_gives_the_same_bytes(lines, config, tmp_path):
    for name in ("a", "b"):
        result = cooccur(lines, tmp_path / name, config)
        assert result.tokens > 1000
        assert result.held_out.sentences > 5
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert Path("model.safetensors") in files
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file
    encoder = SentenceTransformer(str(tmp_path / "a"), device="cpu")
    assert encoder[0].model.dtype == torch.float16
    first, again, other = encoder.encode([lines[0], lines[0], lines[1]])
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    with pytest.raises(UserError, match="a finished run"):
        cooccur(lines, tmp_path / "a", config)


def test_too_little_text_and_bad_settings(config, tmp_path):
    with pytest.raises(UserError, match=r"text must be more than 10 sentences \(held_out\); got 1"):
        cooccur(["one sentence"], tmp_path / "m", config)
    assert not (tmp_path / "m").exists()
    with pytest.raises(UserError, match=r"broad_window must be at least narrow_window \(3\)"):
        CooccurConfig(narrow_window=3, broad_window=2)
    with pytest.raises(UserError, match="hidden_size must be a multiple of heads"):
        CooccurConfig(hidden_size=101)
    with pytest.raises(UserError, match="heads must be even; got 3"):
        CooccurConfig(heads=3)
    with pytest.raises(UserError, match="continuation_weight must be between 0 and 1"):
        CooccurConfig(continuation_weight=2.0)
    with pytest.raises(UserError, match="context_smoothing must be above 0"):
        CooccurConfig(context_smoothing=0.0)


def test_nothing_held_out_is_allowed(lines, tokenizer_folder, tmp_path):
    config = CooccurConfig(**{**SMALL, "held_out": 0}, tokenizer=tokenizer_folder)
    assert cooccur(lines, tmp_path / "m", config).held_out.sentences == 0
    assert "held-out" not in (tmp_path / "m" / "README.md").read_text()


def test_command_line(lines, tokenizer_folder, tmp_path):
    (tmp_path / "t.txt").write_text("\n".join(lines))
    command = ["cooccur", tmp_path / "t.txt", "-o", tmp_path / "m", "--tokenizer", tokenizer_folder, *options(SMALL)]
    message = invoke(*command, "--cache", tmp_path / "cache")
    assert message.exit_code == 0, message.output
    assert "half of a held-out sentence finds the other half of 10" in " ".join(message.output.split())
    assert (tmp_path / "m" / "modules.json").is_file()


def test_what_cannot_work_stops_before_anything_is_counted_or_written(lines, tokenizer_folder, tmp_path):
    with pytest.raises(UserError, match="must be a model that can be loaded"):
        cooccur(lines, tmp_path / "n", CooccurConfig(**SMALL, tokenizer=str(tmp_path)))
    wide = CooccurConfig(**{**SMALL, "hidden_size": 576}, tokenizer=tokenizer_folder)
    with pytest.raises(UserError, match=r"hidden_size must be below the vocabulary's size \(\d+\); got 576"):
        cooccur(lines, tmp_path / "n", wide)
    assert not (tmp_path / "n").exists()
