"""What people hand to Python: it works, or it is refused in one line that names the argument."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from diffcse import Config, DiffCSE, DiffCSELoss, DiffCSEModel, adapt, build, train
from diffcse.errors import UserError
from diffcse.settings import checked
from tests import tiny

TEXTS = ["the cat", "a dog"]
BAD = {
    "None": None,
    "number": 3.5,
    "bytes": b"the cat",
    "path": Path("the cat"),
    "table": pd.DataFrame({"text": TEXTS}),
    "dict": {"text": TEXTS},
    "set": set(TEXTS),
    "nested": [TEXTS],
    "rows": [{"text": "the cat"}],
    "array of two dimensions": np.array([TEXTS]),
    "column with a gap": pd.Series(["the cat", None], dtype=object),
    "object": object(),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return DiffCSE(tiny.save(tiny.encoder(), tmp_path_factory.mktemp("models") / "model"))


def test_every_list_of_strings_is_sentences(model):
    expected = model.encode(TEXTS, return_numpy=True)
    for form in (TEXTS, tuple(TEXTS), np.array(TEXTS), pd.Series(TEXTS), pd.Index(TEXTS), iter(TEXTS)):
        np.testing.assert_array_equal(model.encode(form, return_numpy=True), expected)
    model.build_index(text for text in TEXTS)
    assert len(model.search(pd.Series(TEXTS))) == 2


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_sentence_is_refused_by_every_method(model, kind):
    methods = [model.encode, model.encode_query, model.encode_document]
    methods += [lambda x: model.similarity("a", x), lambda x: model.similarity(x, "a")]
    model.build_index(TEXTS)
    methods += [model.search, *([] if kind == "path" else [model.build_index])]
    for method in methods:
        with pytest.raises(UserError, match=r"must be (a string or several of them|text)") as refusal:
            method(BAD[kind])
        assert "\n" not in str(refusal.value)


SETTINGS = build(preset="small", objective="simcse")
CALLS = {
    "model": DiffCSE,
    "device": lambda x: DiffCSE(device=x),
    "num_cells": lambda x: DiffCSE(num_cells=x),
    "backend": lambda x: DiffCSE(backend=x),
    "int8": lambda x: DiffCSE(int8=x),
    "preset": lambda x: build(preset=x),
    "fidelity": lambda x: build(fidelity=x),
    "batch_size": lambda x: build(batch_size=x),
    "pooler": lambda x: build(pooler=x),
    "sources": lambda x: train(x, "model", SETTINGS),
    "output": lambda x: train("text.txt", x, SETTINGS),
    "config": lambda x: train("text.txt", "model", x),
    "criterion": lambda x: train("text.txt", "model", SETTINGS, criterion=x),
    "columns": lambda x: train("text.txt", "model", SETTINGS, columns=x),
    "cache_dir": lambda x: train("text.txt", "model", SETTINGS, cache_dir=x),
    "settings": lambda x: adapt("text.txt", "model", settings=x),
    "Loss": DiffCSELoss,
    "Model": lambda x: DiffCSEModel(x, None, SETTINGS),
    "a model's config": lambda x: DiffCSEModel(tiny.encoder(), None, x),
}


@pytest.mark.parametrize("value", [None, 3.5, b"a", pd.DataFrame({"a": ["b"]}), {"a": 1}, np.zeros((2, 2)), object()])
@pytest.mark.parametrize("call", CALLS)
def test_every_argument_is_refused_in_one_line(call, value, tmp_path, monkeypatch):
    if value is None and call in ("model", "device", "criterion", "columns", "cache_dir", "settings"):
        return  # the default
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r" must be .*; got .*; ") as refusal:
        CALLS[call](value)
    assert "\n" not in str(refusal.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("batch_size", 0, "batch_size must be at least 1; got 0"),
        ("batch_size", "64", "batch_size must be a whole number; got '64'"),
        ("max_length", 0, "max_length must be at least 1; got 0"),
        ("max_length", 2.0, r"max_length must be a whole number; got 2\.0"),
        ("keepdim", "yes", "keepdim must be true or false; got 'yes'"),
        ("prompt", 3, "prompt must be text; got 3"),
    ],
)
def test_numbers_and_switches_of_encode(model, name, value, match):
    with pytest.raises(UserError, match=match):
        model.encode("the cat", **{name: value})


@pytest.mark.parametrize(
    ("name", "value"), [("threshold", float("nan")), ("threshold", "0.5"), ("top_k", None), ("top_k", 0)]
)
def test_numbers_of_search(model, name, value):
    model.build_index(TEXTS)
    with pytest.raises(UserError, match=f"{name} must be"):
        model.search("the cat", **{name: value})


def test_numbers_of_numpy_are_numbers(model):
    assert model.encode(TEXTS, batch_size=np.int64(1), keepdim=np.bool_(True)).shape == (2, 16)
    assert build(batch_size=np.int64(8), temperature=np.float32(0.5)) == build(batch_size=8, temperature=0.5)
    assert type(checked("size", torch.tensor(3), int)) is int


def test_text_and_paths_name_the_same_files(model, tmp_path):
    lines = tmp_path / "text.txt"
    lines.write_text("the cat\na dog\n")
    for name in (lines, str(lines)):
        model.build_index(name)
        assert model.search("the cat")[0][0] == "the cat"
    assert isinstance(SETTINGS, Config)
    for output in (tmp_path / "model", str(tmp_path / "model")):
        with pytest.raises(UserError, match="batch_size must be at most the number of sentences"):
            train(lines, output, SETTINGS, cache_dir=str(tmp_path / "cache"))
