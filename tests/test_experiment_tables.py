"""The numbers in docs/experiments.md are those of the results files, and the interval is a bootstrap."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def tables():
    spec = importlib.util.spec_from_file_location("tables", ROOT / "experiments" / "tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_document_holds_what_the_results_say(tables):
    document = tables.DOCUMENT.read_text(encoding="utf-8")
    assert document.count("<!-- table: ") == document.count("<!-- reading: ") == document.count("<!-- adapted -->") == 1
    assert tables.filled(document) == document


def test_table_has_means_spreads_and_the_paired_difference(tables):
    rows = [{"run": "start, avg", "STS12": 0.5, "STS13": 0.7}]
    for seed, gain in enumerate((0.01, 0.02, 0.03)):
        rows.append({"run": "simcse, x", "seed": seed, "STS12": 0.5 + seed / 10, "STS13": 0.6})
        rows.append({"run": "diffcse, x", "seed": seed, "STS12": 0.5 + seed / 10 + gain, "STS13": 0.6})
    lines = tables.table(rows).splitlines()
    assert lines[0] == "| | seeds | STS12 | STS13 | average |"
    assert lines[2] == "| start, avg | 1 | 50.00 | 70.00 | 60.00 |"
    assert lines[3] == "| simcse, x | 3 | 60.00 (10.00) | 60.00 (0.00) | 60.00 (5.00) |"
    assert lines[5].split(" | ")[2].startswith("+2.00 [+1.")
    assert lines[5].split(" | ")[3] == "+0.00 [+0.00, +0.00]"
    assert "minus" not in tables.table(rows[:3])
    tried = [{"run": f"diffcse, {name}", "seed": 0, "STS12": 0.9, "STS13": 0.9} for name in "ab"]  # with fewer seeds
    assert tables.table(rows + tried).splitlines()[-1] == lines[5]


def test_interval_of_many_like_values_is_that_of_the_normal_approximation(tables):
    values = [float(i % 2) for i in range(400)]
    mean, low, high = (float(part.strip("[],")) for part in tables._interval(values).split())
    assert mean == 0.5
    assert low == pytest.approx(0.5 - 1.96 * 0.5 / 20, abs=0.012)
    assert high == pytest.approx(0.5 + 1.96 * 0.5 / 20, abs=0.012)
