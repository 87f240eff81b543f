"""Dedup keeps what a plain double loop keeps, and both of its files are whole or absent."""

import json
from pathlib import Path

import numpy as np
import pytest

from diffcse.encoding.encode import Encoder, EncodeSettings
from diffcse.errors import UserError
from diffcse.persistence.load import load_encoder
from diffcse.search import dedup
from diffcse.search.dedup import DedupCounts, Duplicate, Kept, dedup_file, deduplicate
from diffcse.vectors import unit
from tests import tiny
from tests.killing import NO_SPACE, killed_at

SETTINGS = EncodeSettings(normalize=True, chunk_sentences=7)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_encoder(tiny.save(tiny.encoder(), tmp_path_factory.mktemp("model")))


def plain(vectors, threshold):
    """(repeats, cosine) of each row by comparison one by one."""
    kept, out = [], []
    for row, vector in enumerate(vectors):
        scores = [float(vector @ vectors[other]) for other in kept]
        best = int(np.argmax(scores)) if scores else None
        if best is not None and scores[best] >= threshold:
            out.append((kept[best], scores[best]))
        else:
            kept.append(row)
            out.append((None, 0.0))
    return out


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.99])
@pytest.mark.parametrize("block", [1, 7, 1000])
def test_equals_a_plain_loop(monkeypatch, threshold, block):
    monkeypatch.setattr(dedup, "_BLOCK", block)
    monkeypatch.setattr(dedup, "_COLUMNS", 13)
    vectors = unit(np.random.default_rng(0).standard_normal((200, 4)))
    kept = Kept(4, threshold)
    verdicts = [*kept.judge(vectors[:90], range(90)), *kept.judge(vectors[90:], range(90, 200))]
    expected = plain(vectors, threshold)
    assert [verdict.line for verdict in verdicts] == list(range(200))
    assert [verdict.repeats for verdict in verdicts] == [repeats for repeats, _ in expected]
    np.testing.assert_allclose([verdict.cosine for verdict in verdicts], [cosine for _, cosine in expected], atol=1e-5)


def test_files(tmp_path, model):
    text = tmp_path / "text.txt"
    text.write_text("The cat sat.\n\nthe cat sat .\nA bird sings loudly.\nThe cat sat.\n", encoding="utf-8")
    output, report = tmp_path / "kept.txt", tmp_path / "report.jsonl"
    vectors = Encoder(model, settings=SETTINGS).encode(["The cat sat.", "A bird sings loudly."])
    assert vectors[0] @ vectors[1] < 0.999
    counts = dedup_file(str(text), output, report, lambda: model, threshold=0.999, settings=SETTINGS)
    assert counts == DedupCounts(kept=2, dropped=2, blank=1)
    assert output.read_text() == "The cat sat.\nA bird sings loudly.\n"
    message = [json.loads(line) for line in report.read_text().splitlines()]
    assert [(row["line"], row["repeats"], row["text"]) for row in message] == [
        (3, 1, "the cat sat ."),
        (5, 1, "The cat sat."),
    ]
    assert all(row["cosine"] == pytest.approx(1, abs=1e-5) for row in message)


def test_a_failure_leaves_nothing_behind(tmp_path, model, monkeypatch):
    text = tiny.write_sentences(tmp_path / "text.txt", 20)
    monkeypatch.setattr(dedup, "fsync", killed_at(dedup.fsync, error=NO_SPACE))
    with pytest.raises(UserError, match=r"report must be on a disk that can be written to; got No space left"):
        dedup_file(
            str(text), tmp_path / "kept.txt", tmp_path / "report", lambda: model, threshold=0.9, settings=SETTINGS
        )
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_a_run_killed_between_its_two_files_is_run_again(tmp_path, model):
    text, output, report = tiny.write_sentences(tmp_path / "text.txt", 20), tmp_path / "kept.txt", tmp_path / "report"
    other = tmp_path / "other"
    other.write_text("years of work")

    def deduplicate(place):
        return dedup_file(str(text), output, place, lambda: model, threshold=0.9, settings=SETTINGS)

    counts = deduplicate(report)
    kept = output.read_bytes()
    # As the kill leaves it: the report in its place, the kept lines not yet.
    (tmp_path / "kept.txt.part").mkdir()
    output.rename(tmp_path / "kept.txt.part" / "lines")
    (tmp_path / "kept.txt.part" / "report").write_text(str(report))
    with pytest.raises(UserError, match="other must be a new file; got one that exists"):
        deduplicate(other)
    assert deduplicate(report) == counts
    assert output.read_bytes() == kept
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept.txt", "other", "report", "text.txt"]


@pytest.mark.parametrize(
    ("given", "output", "report", "match"),
    [
        ("none.txt", "out.txt", "report", "must be an existing file"),
        ("text.txt", "text.txt", "report", "must be a new file; got one that exists"),
        ("text.txt", "out.txt", "text.txt", "must be a new file; got one that exists"),
        ("text.txt", "same", "same", "--report must be another file than the output"),
        ("text.txt", "no/out.txt", "report", "must be in an existing folder"),
    ],
)
def test_bad_input_is_reported_before_the_model_is_loaded(tmp_path, given, output, report, match):
    tiny.write_sentences(tmp_path / "text.txt", 5)
    files = [tmp_path / name for name in (given, output, report)]
    with pytest.raises(UserError, match=match):
        dedup_file(str(files[0]), files[1], files[2], tiny.no_model, threshold=0.9, settings=SETTINGS)


@pytest.mark.parametrize("names", [("text.txt", "report"), ("out.txt", "text.txt"), ("out.txt", "link")])
def test_the_input_is_never_overwritten(tmp_path, names):
    text = tiny.write_sentences(tmp_path / "text.txt", 5)
    (tmp_path / "link").symlink_to(text)
    before = text.read_bytes()
    with pytest.raises(UserError, match="must be another file than the input; got the same"):
        dedup_file(
            str(text), *(tmp_path / n for n in names), tiny.no_model, threshold=0.9, settings=SETTINGS, overwrite=True
        )
    assert text.read_bytes() == before


def test_standard_input_is_refused():
    with pytest.raises(UserError, match="input must be a file; got standard input"):
        dedup_file("-", Path("a"), Path("b"), tiny.no_model, threshold=0.9, settings=SETTINGS)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["我喜欢猫", "他讨厌雨", "我喜欢猫", "The cat sat."], [None, None, 1, None]),  # one vector, two texts
        (["The cat sat.", "A bird sings."] * 12, [None, None, *[1, 2] * 11]),  # equal texts of different chunks
    ],
)
def test_threshold_one_drops_equal_texts_only(tmp_path, model, lines, expected):
    text, output, report = (tmp_path / name for name in ("text.txt", "kept.txt", "report.jsonl"))
    text.write_text("\n".join(lines) + "\n", encoding="utf-8")
    counts = dedup_file(str(text), output, report, lambda: model, threshold=1, settings=SETTINGS)
    repeats = [first for first in expected if first]
    assert (counts.kept, counts.dropped) == (len(lines) - len(repeats), len(repeats))
    assert [json.loads(line)["repeats"] for line in report.read_text().splitlines()] == repeats


@pytest.mark.parametrize("threshold", [0.5, 0.9, 0.999])
def test_in_memory_as_a_plain_loop_and_judged_again(model, threshold):
    texts = tiny.SENTENCES * 2 + ["zzz", "yyy", "zzz"]  # the last three are unknown to the model
    vectors = Encoder(model, settings=SETTINGS).encode(texts)
    expected = plain(vectors[:16], threshold - 1e-6)
    result = deduplicate(texts, 0.7, encoder=model).rethreshold(threshold)
    assert result.threshold == threshold
    assert result.kept_rows == [row for row, (twin, _) in enumerate(expected) if twin is None] + [16, 17]
    assert result.kept == [texts[row] for row in result.kept_rows]
    assert [(d.row, d.text, d.twin) for d in result.dropped[:-1]] == [
        (row, texts[row], twin) for row, (twin, _) in enumerate(expected) if twin is not None
    ]
    np.testing.assert_allclose(
        [d.score for d in result.dropped[:-1]], [s for t, s in expected if t is not None], atol=1e-6
    )
    assert result.dropped[-1] == Duplicate(row=18, text="zzz", twin=16, score=1.0)


def test_in_memory_refusals(model):
    with pytest.raises(UserError, match="threshold must be above 0 and at most 1; got 0"):
        deduplicate(["a"], 0, encoder=model)
    with pytest.raises(UserError, match="texts must be a string or several of them"):
        deduplicate({"a": 1}, encoder=model)
    assert deduplicate([], encoder=model).kept == []
