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
from typer.testing import CliRunner

from diffcse import cooccurrence
from diffcse.cli import app
from diffcse.config_start import CooccurConfig
from diffcse.cooccur import build_start, cooccur, weighted_vectors
from diffcse.cooccurrence import count, halves_found, positive_pmi, token_ids, word_vectors
from diffcse.errors import UserError
from tests import tiny

SMALL = {"hidden_size": 18, "heads": 2, "intermediate_size": 16, "max_length": 32, "held_out": 10}


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return tiny.write_sentences(tmp_path_factory.mktemp("text") / "t.txt", 200).read_text().splitlines()


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny.tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def config(tokenizer_folder: str) -> CooccurConfig:
    return CooccurConfig(**SMALL, tokenizer=tokenizer_folder)


@pytest.mark.parametrize("at_once", [3, 1000])
def test_counts_are_those_of_a_plain_loop(lines, monkeypatch, at_once):
    monkeypatch.setattr(cooccurrence, "SENTENCES_AT_ONCE", at_once)
    tokenizer, done = tiny.tokenizer(), []
    got = count(lines[:20], tokenizer, (1, 4), advance=done.append)
    assert sum(done) == 20
    rows = token_ids(lines[:20], tokenizer)
    assert got.words.tolist() == np.bincount(np.concatenate(rows), minlength=len(tokenizer)).tolist()
    for pairs, window in zip(got.pairs, (1, 4), strict=True):
        expected: Counter[tuple[int, int]] = Counter()
        for row in rows:
            for i, j in itertools.permutations(range(len(row)), 2):
                if abs(i - j) <= window:
                    expected[int(row[i]), int(row[j])] += 1
        entries = pairs.tocoo()
        found = zip(entries.row.tolist(), entries.col.tolist(), entries.data.tolist(), strict=True)
        assert {(i, j): n for i, j, n in found if n} == dict(expected)


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
    vectors = weighted_vectors(counted, config)
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


def test_the_start_is_the_weighted_mean_of_word_vectors(lines, config):
    tokenizer = tiny.tokenizer()
    vectors = weighted_vectors(count(lines, tokenizer, (2, 10)), config)
    vectors[tokenizer.all_special_ids] = 0
    model = build_start(vectors, tokenizer, config)
    rows = token_ids(lines[:8], tokenizer)
    whole = np.hstack([vectors, np.tile([1.0, -1.0], (len(vectors), 1))])  # the constant that keeps the proportions
    normed = (whole - whole.mean(1, keepdims=True)) / whole.std(1, keepdims=True)
    expected = np.stack([normed[row, :-2].sum(0) for row in rows])
    with torch.no_grad():
        got = np.stack(
            [model(**tokenizer(line, return_tensors="pt")).last_hidden_state[0].sum(0) for line in lines[:8]]
        )
    assert (got[:, -2:] == 0).all()
    np.testing.assert_allclose(got[:, :-2], expected, atol=1e-4)


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
        CooccurConfig(hidden_size=100)
    with pytest.raises(UserError, match="context_smoothing must be above 0"):
        CooccurConfig(context_smoothing=0.0)


def test_command_line(lines, tokenizer_folder, tmp_path):
    (tmp_path / "t.txt").write_text("\n".join(lines))
    options = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    command = ["cooccur", str(tmp_path / "t.txt"), "-o", str(tmp_path / "m"), "--tokenizer", tokenizer_folder, *options]
    told = CliRunner().invoke(app, [*command, "--cache", str(tmp_path / "cache")])
    assert told.exit_code == 0, told.output
    assert "half of a held-out sentence finds the other half of 10" in " ".join(told.output.split())
    assert (tmp_path / "m" / "modules.json").is_file()


def test_what_cannot_work_stops_before_anything_is_counted_or_written(lines, tokenizer_folder, tmp_path):
    with pytest.raises(UserError, match="must be a model that can be loaded"):
        cooccur(lines, tmp_path / "n", CooccurConfig(**SMALL, tokenizer=str(tmp_path)))
    wide = CooccurConfig(**{**SMALL, "hidden_size": 576}, tokenizer=tokenizer_folder)
    with pytest.raises(UserError, match=r"hidden_size must be below the vocabulary's size \(\d+\); got 576"):
        cooccur(lines, tmp_path / "n", wide)
    assert not (tmp_path / "n").exists()
