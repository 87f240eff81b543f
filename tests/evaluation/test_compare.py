from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from diffcse.evaluation import suite
from diffcse.evaluation.compare import Judged, compare, judge
from diffcse.evaluation.embed import embed
from tests.evaluation.layout import BagOfWords, Layout


def judged(noise: float, seed: int, pairs: int = 400, gold_seed: int = 0) -> Judged:
    gold = np.random.default_rng(gold_seed).uniform(0, 5, pairs)
    return Judged(similarity=gold + noise * np.random.default_rng(seed).normal(size=pairs), scores=gold)


def test_correlations_are_scipys_and_lie_in_their_intervals() -> None:
    models = {"a": {"STS12": judged(1.0, 1)}, "b": {"STS12": judged(2.0, 2)}}
    result = compare(models, resamples=200)["tasks"]["STS12"]
    for name in ("a", "b"):
        expected = spearmanr(models[name]["STS12"].similarity, models[name]["STS12"].scores).statistic
        assert result[name]["spearman"] == pytest.approx(expected, abs=1e-12)
        low, high = result[name]["interval"]
        assert low < expected < high
    assert result["b"]["difference"] == pytest.approx(result["b"]["spearman"] - result["a"]["spearman"])
    assert "difference" not in result["a"]


def test_a_clear_difference_is_significant_and_an_equal_model_is_not() -> None:
    models = {"base": {"STS12": judged(1.0, 1)}, "worse": {"STS12": judged(3.0, 2)}, "alike": {"STS12": judged(1.0, 3)}}
    result = compare(models, resamples=500)["tasks"]["STS12"]
    assert result["worse"]["p"] < 0.01 and result["worse"]["difference_interval"][1] < 0
    assert result["alike"]["p"] > 0.05
    low, high = result["alike"]["difference_interval"]
    assert low < 0 < high


def test_the_same_model_has_no_difference() -> None:
    result = compare({"a": {"STS12": judged(1.0, 1)}, "b": {"STS12": judged(1.0, 1)}}, resamples=100)["tasks"]["STS12"]
    assert result["b"]["difference"] == 0 and result["b"]["difference_interval"] == [0, 0] and result["b"]["p"] == 1


def test_only_ranks_count() -> None:
    a, b = judged(1.0, 1), judged(1.2, 2)
    stretched = Judged(similarity=np.exp(b.similarity), scores=b.scores)
    plain, other = (compare({"a": {"STS12": a}, "b": {"STS12": x}}, resamples=100) for x in (b, stretched))
    assert plain == other


def test_p_of_equal_models_is_spread_evenly() -> None:
    """A test that is right finds p below 0.2 in about a fifth of the cases where nothing differs."""
    values = []
    for seed in range(60):
        models = {name: {"STS12": judged(1.5, 2 * seed + i, pairs=60, gold_seed=seed)} for i, name in enumerate("ab")}
        values.append(compare(models, resamples=99)["tasks"]["STS12"]["b"]["p"])
    assert 0.05 < np.mean(np.array(values) < 0.2) < 0.4
    assert 0.35 < np.mean(values) < 0.65


def test_the_bootstrap_covers_the_truth() -> None:
    """Draw samples of a population with a known correlation: about 95% of the intervals must hold it."""
    population = judged(1.5, 7, pairs=200_000)
    truth = spearmanr(population.similarity, population.scores).statistic
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(60):
        rows = rng.integers(0, 200_000, 150)
        sample = Judged(similarity=population.similarity[rows], scores=population.scores[rows])
        low, high = compare({"a": {"STS12": sample}}, resamples=200)["tasks"]["STS12"]["a"]["interval"]
        inside += low < truth < high
    assert inside >= 51


def test_the_average_is_over_sts_tasks_and_its_interval_is_tighter() -> None:
    tasks = {f"STS{year}": judged(1.0, year, gold_seed=year) for year in (12, 13, 14, 15)}
    others = {f"STS{year}": judged(1.3, 50 + year, gold_seed=year) for year in (12, 13, 14, 15)}
    result = compare({"a": tasks | {"pairs": judged(9.0, 5)}, "b": others | {"pairs": judged(9.0, 6)}}, resamples=200)
    means = [result["tasks"][f"STS{year}"]["b"]["difference"] for year in (12, 13, 14, 15)]
    assert result["average"]["b"]["difference"] == pytest.approx(np.mean(means))

    def width(one: dict) -> float:
        return one["difference_interval"][1] - one["difference_interval"][0]

    assert width(result["average"]["b"]) < min(width(result["tasks"][f"STS{year}"]["b"]) for year in (12, 13, 14, 15))
    assert compare({"a": {"pairs": judged(1.0, 1)}, "b": {"pairs": judged(1.0, 2)}}, resamples=20)["average"] is None


def test_chunks_of_resamples_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    models = {"a": {"STS12": judged(1.0, 1)}, "b": {"STS12": judged(1.2, 2)}}
    whole = compare(models, resamples=50)
    monkeypatch.setattr("diffcse.evaluation.statistics._CHUNK_VALUES", 400 * 7)
    assert compare(models, resamples=50) == whole


@pytest.mark.parametrize("mode", ["test", "dev"])
def test_judged_pairs_are_those_of_the_main_number(tmp_path: Path, mode: str) -> None:
    Layout(tmp_path, at_most=50).write()
    plan = suite.plan(tmp_path, suite.select("sts,MR"), mode=mode, official_rows=False)
    embedded = embed(BagOfWords().encode, plan.sentences())
    results = suite.results(embedded, plan)["tasks"]
    result = judge(plan, embedded)
    assert set(result) == set(results) - {"MR"}
    for name, one in result.items():
        assert spearmanr(one.similarity, one.scores).statistic == pytest.approx(results[name]["spearman"], abs=1e-12)
