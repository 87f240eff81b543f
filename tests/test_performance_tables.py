"""The numbers in docs/performance.md are those of the results files."""

import importlib.util
import sys
from pathlib import Path

import pytest

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
