"""The numbers in docs/performance.md are those of the results files."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from diffcse.evaluation.retrieval import Retrieval, score
from diffcse.vectors import exact_search, unit
from tests import tiny

ROOT = Path(__file__).parents[1]


def load(script):
    name = f"benchmarks_{script}"
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{script}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # where dataclasses look for their types
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tables():
    return load("tables")


def test_document_holds_what_the_results_say(tables):
    document = tables.DOCUMENT.read_text(encoding="utf-8")
    assert tables.filled(document) == document
    assert all(f"<!-- table: {name} -->" in document for name in tables.TABLES)


def test_a_row_a_result_and_a_column_a_key(tables, tmp_path, monkeypatch):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "x.json").write_text('[{"a": "one", "b": 1234.56}, {"a": "two", "b": 0.5}]')
    monkeypatch.setattr(tables, "HERE", tmp_path)
    monkeypatch.setitem(tables.TABLES, "x", (("name", "a", ""), ("speed", "b", ",.1f")))
    filled = tables.filled("before\n<!-- table: x -->\nold\n<!-- end -->\nafter")
    rows = ["| name | speed |", "|---|---|", "| one | 1,234.6 |", "| two | 0.5 |"]
    assert filled == "\n".join(["before", "<!-- table: x -->", *rows, "<!-- end -->", "after"])


def test_callers_take_turns_and_the_ratio_is_of_the_same_sentence():
    module = load("encode_one")
    now, order = [0.0], []

    def caller(name, seconds):
        def call(sentence):
            order.append(name)
            now[0] += seconds * (2 if sentence == "long" else 1)

        return call

    sentences = ["warm"] * module._WARM_UP + ["short", "long", "short"]
    rows = module.measure("m", {"a": caller("a", 0.002), "b": caller("b", 0.001)}, sentences, lambda: now[0])
    assert order[:6] == ["a", "b", "b", "a", "a", "b"]
    assert [row.ratio for row in rows] == pytest.approx([1, 2])
    assert [(row.median_ms, row.fastest_ms) for row in rows] == [pytest.approx((2, 2)), pytest.approx((1, 1))]


def test_forms_of_vectors_are_scored_against_exact_search():
    module, random = load("vector_sizes"), np.random.default_rng(0)
    documents, queries = (unit(random.normal(size=(rows, 16)).astype(np.float32)) for rows in (200, 30))
    exact = np.argsort(-(queries @ documents.T), axis=1)[:, :10]
    recalls = {(form.name, form.dims): module.recall(form.found[1], exact) for form in module.forms(queries, documents)}
    assert recalls["float32", 16] == 1
    assert recalls["binary, every row scored again by float32 (a check)", 16] == 1
    assert 1 > recalls["int8", 16] > recalls["int8", 8] > recalls["int8", 4]
    assert recalls["binary, scored again by float32", 16] > recalls["binary, scored again by its own signs", 16]
    # nDCG of a search whose first result is right for every query, and of one that finds nothing.
    task = Retrieval(["q"] * 30, ["d"] * 200, [{int(rows[0]): 1.0} for rows in exact])
    found = exact_search(documents, queries, 10)
    assert score(task, module.Results(found)).ndcg_at_10 == pytest.approx(1)
    missed = Retrieval(["q"] * 30, ["d"] * 200, [{int(i): 1.0} for i in np.argmin(queries @ documents.T, axis=1)])
    assert score(missed, module.Results(found)).ndcg_at_10 == 0


def test_a_models_place_and_scores_are_read_from_one_argument(tmp_path):
    module = load("models")
    file = tmp_path / "scores.json"
    file.write_text(json.dumps({"tasks": {task: {"spearman": 0.5} for task in module.TASKS}}))
    scores = dict.fromkeys(module.TASKS, 0.5)
    assert module.described(f"static:some/folder={file}") == ("static", "some/folder", scores)
    assert module.described(f"bundled={file}") == ("bundled", "bundled", scores)
    (row,) = module.measure([("bundled", "bundled", scores)], tiny.SENTENCES, repeats=1)
    assert (row["model"], row["dims"], row["average"]) == ("bundled", 576, 50)
    assert row["sentences_per_second"] > 0 and 20 < row["megabytes"] < 40
