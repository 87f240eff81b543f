"""The paper's tables as runs: every row is a valid setting, and the numbers are those of the paper."""

from __future__ import annotations

import pytest

from diffcse.errors import UserError
from diffcse.sweeps.ablations import TABLES, ablation
from diffcse.sweeps.plan import plan_runs
from diffcse.sweeps.report import describe


@pytest.mark.parametrize("table", TABLES)
def test_every_row_is_a_run_of_its_own_with_a_published_number(table):
    expected = ablation(table, preset="bert-sts", settings={"max_steps": 5})
    runs = plan_runs(expected.settings, {"seed": [0, 1]}, expected.rows)
    assert len(runs) == 2 * len(TABLES[table]) == len({run.name for run in runs})
    for run in runs:
        assert run.config.training.max_steps == 5
        row = {name: value for name, value in run.varied.items() if name != "seed"}
        score = next(score for given, score in TABLES[table] if given == row)
        assert expected.published.get(describe(row)) == score
        assert 54 < score < 85


def test_the_published_recipe_has_the_published_best():
    best = {name: max(rows, key=lambda row: row[1])[0] for name, rows in TABLES.items()}
    assert best["objective"] == {"objective": "diffcse", "projector": "bn"}
    assert best["augmentation"] == {"edit": "replacement", "mask_ratio": 0.15}
    assert best["masking"] == {"mask_ratio": 0.3} and best["lambda"] == {"lambda_weight": 0.005}
    assert best["generator"] == {"generator": "distilbert-base-uncased"}
    assert {score for rows in TABLES.values() for row, score in rows if row == best["masking"]} == {84.56}


@pytest.mark.parametrize(
    ("table", "settings", "message"),
    [
        ("dropout", {}, "one of objective, projector"),
        ("masking", {"mask_ratio": 0.2}, "left to the ablation masking"),
        ("lambda", {"preset": "x"}, None),
    ],
)
def test_what_cannot_be_run_is_refused(table, settings, message):
    preset = settings.pop("preset", "bert-sts")
    with pytest.raises(UserError, match=message or "preset must be one of"):
        ablation(table, preset=preset, settings=settings)
