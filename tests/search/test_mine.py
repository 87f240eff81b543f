"""Mined negatives are texts of the file, near and not the partner, in columns that training takes."""

import json

import numpy as np
import pytest

from diffcse.errors import UserError
from diffcse.persistence.load import load_encoder
from diffcse.text.dataset import read_texts
from tests import tiny
from tests.cli.command import invoke

PAIRS = [(tiny.SENTENCES[row], tiny.SENTENCES[(row + 3) % 8]) for row in range(8)]


@pytest.fixture
def pairs(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps({"question": a, "answer": b, "n": "1"}) + "\n" for a, b in PAIRS))
    return path


def run(*arguments):
    return invoke("mine", *arguments)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_the_nearest_text_that_is_far_enough_below_the_positive(tmp_path, folder, pairs, suffix):
    output = tmp_path / f"mined{suffix}"
    done = run(pairs, "-o", output, "-m", folder, "--columns", "question,answer", "--margin", "0.0001")
    assert "from 8 pairs" in done.stderr
    rows, report = read_texts(output, cache_dir=tmp_path / "cache")
    assert report.columns == 3
    vectors = dict(
        zip(tiny.SENTENCES, load_encoder(folder).encode(tiny.SENTENCES, normalize_embeddings=True), strict=True)
    )
    mined = {(row["text0"], row["text1"]): row["text2"] for row in rows}
    expected = {}
    for first, second in PAIRS:
        limit = 0.9999 * float(vectors[first] @ vectors[second])
        scores = {text: float(vectors[first] @ vectors[text]) for text in tiny.SENTENCES if text not in (first, second)}
        below = {text: score for text, score in scores.items() if score <= limit}
        if below:
            expected[first, second] = max(below, key=below.__getitem__)
    assert mined == expected
    assert 0 < len(mined) <= 8
    assert np.isfinite(list(vectors.values())).all()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["-o", "out.csv"], r"must be a file ending in \.jsonl or \.parquet; got \.csv"),
        (["-o", "out.jsonl", "--columns", "question"], "--columns must be two names separated by a comma"),
        (["-o", "out.jsonl", "--count", "0"], "--count must be at least 1; got 0"),
        (["-o", "out.jsonl", "--margin", "1"], "--margin must be at least 0 and below 1"),
        (["-o", "out.jsonl", "--columns", "question,answer", "--margin", "0.99"], "with a text that can be a negative"),
    ],
)
def test_refusals(tmp_path, folder, pairs, monkeypatch, options, match):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=match):
        run(pairs, *options, "-m", folder)
    assert not list(tmp_path.glob("out*"))
