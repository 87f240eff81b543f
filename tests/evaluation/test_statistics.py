import numpy as np
import pytest

from diffcse.errors import UserError
from diffcse.evaluation.statistics import bootstrap, paired


def test_the_interval_covers_the_mean_of_the_population_about_95_times_in_100() -> None:
    rng = np.random.default_rng(0)
    intervals = [bootstrap(rng.normal(3, 2, 60), resamples=500, seed=i) for i in range(200)]
    assert 0.90 <= np.mean([interval.low <= 3 <= interval.high for interval in intervals]) <= 0.985


def test_the_same_values_give_the_same_interval() -> None:
    values = np.random.default_rng(1).random(40)
    assert bootstrap(values) == bootstrap(list(values))
    assert bootstrap(values).mean == pytest.approx(values.mean())


def test_paired_scores_share_what_makes_queries_hard() -> None:
    rng = np.random.default_rng(2)
    hard = rng.normal(0, 1, 80)
    a, b = hard + 0.1 + rng.normal(0, 0.05, 80), hard
    result = paired(a, b)
    assert result.low > 0.05 and result.high < 0.15 and result.p < 0.001
    assert paired(b, a).difference == pytest.approx(-result.difference)
    wide = bootstrap(a)
    assert wide.high - wide.low > 5 * (result.high - result.low)


def test_few_pairs_have_an_exact_p() -> None:
    assert paired([1, 2, 3], [0, 0, 0]).p == pytest.approx(2 / 8)  # of 8 sign patterns only the two extreme ones
    assert paired([1.0], [0.0]).p == 1
    assert paired([1, 1], [1, 1]).p == 1


def test_scores_of_other_queries_are_refused() -> None:
    with pytest.raises(UserError, match="paired scores must be of the same queries; got 2 and 3"):
        paired([1, 2], [1, 2, 3])
    with pytest.raises(UserError, match="a list of at least one number"):
        bootstrap([])
