"""The view `neighbours`: two spans of one document, from the draw to a finished run."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from diffcse.config import ViewConfig
from diffcse.errors import UserError
from diffcse.method.later_work import SameText, Sentences, sharing
from diffcse.method.masking import VIEW, uniforms
from diffcse.method.views import spans
from diffcse.presets import build
from diffcse.training.batches import Collator
from diffcse.training.criteria import Criterion
from diffcse.training.spans import DocumentReport, Spans, check_documents, joined, report
from diffcse.training.train import train
from tests import tiny
from tests.cli.command import options
from tests.killing import assert_unfinished, checkpoints, kill, run
from tests.training.test_train import NO_GRADIENT


def documents(texts: Sequence[Sequence[str]], keys: Sequence[str] | None = None) -> datasets.Dataset:
    keys = keys or [f"{i:032x}" for i in range(len(texts))]
    return datasets.Dataset.from_dict({"key": list(keys), "sentences": [list(text) for text in texts]})


def many(count: int) -> datasets.Dataset:
    """Documents of one to six sentences of the tiny vocabulary, all different."""
    word = tiny.WORDS
    texts = [
        [f"{tiny.SENTENCES[(i + j) % 8][:-1]} and {word[i % 40]} {word[(i // 40 + 7 * j) % 40]}." for j in range(n)]
        for i, n in enumerate(np.random.default_rng(0).integers(1, 7, count))
    ]
    return documents(texts)


@pytest.mark.parametrize("count", [2, 3, 4, 7, 50])
@pytest.mark.parametrize(("longest", "window"), [(1, 0), (3, 0), (5, 4), (3, 2)])
def test_spans_are_inside_do_not_overlap_and_take_every_size_order_and_place(
    count: int, longest: int, window: int
) -> None:
    draws = [spans(count, uniforms(1, 0, i, 0, 2, VIEW), longest=longest, window=window) for i in range(3000)]
    for a, b in draws:
        assert 0 <= a.start < a.stop <= count and 0 <= b.start < b.stop <= count
        assert a.stop <= b.start or b.stop <= a.start
        assert not window or max(a.stop, b.stop) - min(a.start, b.start) <= window
    most = min(longest, min(count, window or count) - 1)
    assert {a.stop - a.start for a, _ in draws} == {b.stop - b.start for _, b in draws} == set(range(1, most + 1))
    assert abs(np.mean([a.start < b.start for a, b in draws]) - 0.5) < 0.05
    assert {i for span in draws for part in span for i in range(part.start, part.stop)} == set(range(count))


def test_a_document_of_one_sentence_is_seen_twice() -> None:
    assert spans(1, np.full((2, 4), 0.9), longest=3) == (slice(0, 1), slice(0, 1))


@pytest.fixture(scope="module")
def examples() -> Spans:
    return Spans(many(40), tiny.tokenizer(), ViewConfig(view="neighbours"), max_tokens=24, seed=7)


def test_an_example_is_the_ids_of_its_text_and_its_own_numbers_alone(examples: Spans) -> None:
    tokens = tiny.tokenizer()
    batch = examples.__getitems__([(1, i) for i in (3, 9, 30)])
    for (epoch, example, ids), i in zip(batch, (3, 9, 30), strict=True):
        assert (epoch, example) == (1, i)
        sentences = examples.documents[i]["sentences"]
        for text, own in zip(examples.texts(1, i), ids, strict=True):
            assert text in " ".join(sentences)
            assert own.tolist() == tokens(text, truncation=True, max_length=24)["input_ids"]
            assert len(own) <= 24
        assert all((a == b).all() for a, b in zip(examples[1, i][2], ids, strict=True))
    longest = max(range(40), key=lambda i: len(examples.documents[i]["sentences"]))
    seen = {examples.texts(epoch, longest) for epoch in range(20)}
    assert len(seen) > 5  # drawn anew each epoch
    other = Spans(many(40), tokens, ViewConfig(view="neighbours"), max_tokens=24, seed=8)
    assert [other.texts(0, i) for i in range(40)] != [examples.texts(0, i) for i in range(40)]


@pytest.mark.parametrize(
    ("sentences", "text"),
    [
        (["It rains.", "We stay."], "It rains. We stay."),
        (["下雨了。", "我们在家。"], "下雨了。我们在家。"),
        (["下雨了。", "It rains."], "下雨了。 It rains."),
        (["ฝนตก", "เราอยู่บ้าน"], "ฝนตก เราอยู่บ้าน"),
        (["one"], "one"),
    ],
)
def test_sentences_are_joined_as_their_script_is_written(sentences: list[str], text: str) -> None:
    assert joined(sentences) == text


def test_documents_of_one_sentence_are_counted_and_said() -> None:
    rows = documents([["a"], ["a", "b"], ["c"], ["d", "e"]])
    assert report(rows) == DocumentReport(kept=4, single=2)
    assert (
        report(rows.select([1, 2])).summary()
        == "2 documents; 1 of a single sentence, which is seen twice (view dropout)"
    )


def test_instances_that_share_a_document_or_a_text_are_known() -> None:
    a, b = [["The cat sat.", "A dog ran.", "She saw a house."], ["They ate fish.", "The cat sat."]]
    rows = documents([a, b, a, ["We like music."], ["It is old."]], keys=["a", "b", "a", "c", "d"])
    view = ViewConfig(view="neighbours", span_sentences=1)
    data = Spans(rows, tiny.tokenizer(), view, max_tokens=16, seed=0)
    collate = Collator(tiny.tokenizer(), None, 0, view, data.keys)
    batch = data.__getitems__([(0, i) for i in range(5)])
    same = sharing(collate(batch)["identity"])
    texts = [set(data.texts(0, i)) for i in range(5)]
    expected = [
        [i != j and (rows["key"][i] == rows["key"][j] or bool(texts[i] & texts[j])) for j in range(5)] for i in range(5)
    ]
    assert same.tolist() == expected
    assert same[0, 2] and not same[3].any()
    assert any(texts[i] & texts[1] for i in (0, 2))  # the text that two documents share was drawn


@pytest.mark.parametrize("columns", [4, 8])
def test_such_pairs_leave_the_loss_and_without_them_the_logits_are_the_same_object(columns: int) -> None:
    logits = torch.randn(4, columns)
    views = torch.randn(4, 2, 3)
    apart = torch.arange(12).view(4, 3)
    own = Sentences(views=views, further={}, guide=views[:, 0], identity=apart)
    assert SameText().logits(logits, own) is logits
    together = apart.clone()
    together[1, 2] = together[3, 0]
    masked = SameText().logits(logits, Sentences(views=views, further={}, guide=views[:, 0], identity=together))
    gone = torch.isneginf(masked)
    assert gone.nonzero().tolist() == [[i, j + k] for i, j in ((1, 3), (3, 1)) for k in range(0, columns, 4)]
    assert torch.equal(masked[~gone], logits[~gone])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spans")
    tiny.save(tiny.mlm("bert", seed=0, dropout=0.1), folder / "encoder")
    tiny.save(tiny.mlm("distilbert", dropout=0.1), folder / "generator")
    return folder


def settings(place: Path, **more: Any) -> dict[str, Any]:
    networks = {"encoder": str(place / "encoder"), "generator": str(place / "generator"), "view": "neighbours"}
    sizes = {"batch_size": 8, "max_steps": 4, "max_tokens": 24, "log_every_steps": 1, "learning_rate": 1e-3}
    return {**networks, **sizes, **more}


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"objective": "simcse", "projector": "none", "pooler": "avg"},
        {"rows_at_once": 5, "edit": "insertion"},
        {"edits_as": "negatives", "false_negative_cosine": 0.9, "dimension_weight": 0.1, "select_by": "label-free"},
        {"prompt": 'It : "{sentence}" is [MASK]', "pooler": "last", "max_tokens": 30},
    ],
    ids=str,
)
def test_a_run_on_documents_ends_in_a_model_with_the_same_bits_again(
    place: Path, tmp_path: Path, more: dict[str, Any]
) -> None:
    config, rows = build(**settings(place, **more)), many(33)
    seen: list[int] = []

    class Follow(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            seen.append(model.encoder.config.hidden_size)

    for name in ("a", "b"):
        result = train(rows, tmp_path / name, config, callbacks=[Follow()], cache_dir=place / "cache")
        assert result.finished and result.read.summary().startswith("33 documents; ")
    assert seen == [16] * 8
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in ("a", "b"))
    assert all(torch.equal(a[name], b[name]) for name in a)
    lines = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    logged = [line for line in lines if "contrastive" in line]
    assert len(logged) == 4
    assert all(np.isfinite(line["loss"]) for line in logged)


def test_a_criterion_from_python_keeps_the_best_step(place: Path, tmp_path: Path) -> None:
    config = build(**settings(place, eval_every_steps=1, objective="simcse"))
    scores = iter([0.1, 0.3, 0.2, 0.0])
    result = train(many(20), tmp_path / "m", config, criterion=Criterion(name="mrr", score=lambda encode: next(scores)))
    assert result.best is not None and result.best.describe() == "step 2, mrr 0.3000"


def command(place: Path, output: Path, **more: object) -> list[str]:
    """`diffcse train` on a table of documents."""
    flags = {**settings(place), "cache": place / "cache", "save_every_steps": 3, "max_steps": 12, **more}
    return ["train", str(place / "documents.jsonl"), "-o", str(output), "--keep-discriminator", *options(flags)]


@pytest.fixture(scope="module")
def table(place: Path) -> Path:
    rows = [{"text": " ".join(sentences)} for sentences in many(40)["sentences"]]
    (place / "documents.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("encoder", "generator"):
        kind = tiny.mlm("bert", seed=0, dropout=0.0) if name == "encoder" else tiny.mlm("distilbert", dropout=0.0)
        tiny.save(kind, place / f"{name}-exact")
    return place


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {**load_file(folder / "model.safetensors"), **load_file(folder / "training" / "model.safetensors")}


def test_a_killed_run_on_files_gives_the_bits_of_an_unbroken_one(table: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = run(command(table, whole, data_workers=1))
    assert done.returncode == 0, done.stderr
    assert re.search(r"40 documents; \d+ of a single sentence, which is seen twice \(view dropout\)", done.stderr)
    kill(command(table, killed), lambda: 6 in checkpoints(killed))
    assert_unfinished(killed)
    assert run(command(table, killed)).returncode == 0
    a, b = weights(whole), weights(killed)
    assert a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


@pytest.mark.slow
def test_two_processes_equal_one_on_documents(table: Path, tmp_path: Path) -> None:
    networks = {"encoder": table / "encoder-exact", "generator": table / "generator-exact"}
    for processes in (1, 2):
        more = {"rows_at_once": 3, "max_steps": 6}
        done = run(command(table, tmp_path / f"of-{processes}", **networks, **more), processes=processes)
        assert done.returncode == 0, done.stderr
    a, b = (weights(tmp_path / f"of-{processes}") for processes in (1, 2))
    for name, value in a.items():
        if not name.endswith(NO_GRADIENT):
            torch.testing.assert_close(value, b[name], atol=2e-5, rtol=0, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"edited_text": "next"}, "edited_text must be same with view neighbours; got next"),
        ({"negatives_without_dropout": True}, "negatives_without_dropout must be False with view neighbours; got True"),
        ({"queue_size": 8, "ema_decay": 0.9}, "queue_size must be 0 with view neighbours; got 8"),
        ({"span_sentences": 0}, "span_sentences must be at least 1; got 0"),
        ({"span_window": 1}, "span_window must be 0 or at least 2; got 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(place: Path, more: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        build(**settings(place, **more))


def test_documents_that_do_not_fit_are_refused(place: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="documents must be a dataset with a column sentences; got key, text"):
        check_documents(datasets.Dataset.from_dict({"key": ["a"], "text": ["b"]}))
    with pytest.raises(UserError, match="the text must be at least 2 documents; got 1"):
        check_documents(documents([["a"]]))
    with pytest.raises(UserError, match="view must be neighbours where the sources are documents; got dropout"):
        train(many(9), tmp_path / "m", build(**settings(place, view="dropout")))
    with pytest.raises(UserError, match=r"batch_size must be at most the number of documents \(7\); got 8"):
        train(many(7), tmp_path / "m", build(**settings(place)))
    with pytest.raises(UserError, match="columns must be one, the documents' text, with view neighbours; got a, b"):
        train(many(9), tmp_path / "m", build(**settings(place)), columns=["a", "b"])
    assert not (tmp_path / "m").exists()
