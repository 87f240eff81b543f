import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from diffcse.evaluation.logistic import fit_many

STRENGTHS = (1e-4, 1e-2)


def data(classes: int, rows: int = 300, features: int = 12) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(classes)
    x = rng.normal(size=(rows, features)) * np.exp(rng.normal(size=features)) + 2
    noise = rng.gumbel(size=(rows, classes))
    return x, (x @ rng.normal(size=(features, classes)) + noise).argmax(axis=1)


def optimum(x: np.ndarray, y: np.ndarray, l2: float) -> LogisticRegression:
    """scikit-learn on the same objective; the bias is a feature, since it is penalised too."""
    classes = len(set(y))
    c = (2 if classes == 2 else 1) / (l2 * len(y))
    model = LogisticRegression(C=c, fit_intercept=False, tol=1e-12, max_iter=100_000, solver="newton-cg")
    return model.fit(np.c_[x, np.ones(len(x))], y)


@pytest.mark.parametrize("classes", [2, 3, 6])
def test_every_fit_is_scikit_learns(classes: int) -> None:
    x, y = data(classes)
    learns = np.random.default_rng(0).random((len(x), 3)) < 0.8
    predicted = fit_many(x, y, learns, STRENGTHS)
    assert predicted.shape == (2, 3, len(x))
    for s, l2 in enumerate(STRENGTHS):
        for fit in range(3):
            expected = optimum(x[learns[:, fit]], y[learns[:, fit]], l2).predict(np.c_[x, np.ones(len(x))])
            assert (predicted[s, fit] != expected).sum() == 0


def test_rows_that_are_not_learnt_from_have_no_say() -> None:
    x, y = data(2)
    learns = np.ones((len(x), 1), dtype=bool)
    learns[200:] = False
    before = fit_many(x, y, learns, STRENGTHS)
    flipped = y.copy()
    flipped[200:] = 1 - flipped[200:]
    np.testing.assert_array_equal(fit_many(x, flipped, learns, STRENGTHS), before)
    alone = fit_many(x[:200], y[:200], learns[:200], STRENGTHS)
    np.testing.assert_array_equal(alone[:, 0], before[:, 0, :200])


def test_copies_of_features_and_columns_of_zeros_change_nothing() -> None:
    x, y = data(3)
    learns = np.ones((len(x), 1), dtype=bool)
    wide = np.hstack([x / np.sqrt(2), np.zeros((len(x), 5)), x / np.sqrt(2)])
    np.testing.assert_array_equal(fit_many(wide, y, learns, STRENGTHS), fit_many(x, y, learns, STRENGTHS))


def test_fits_do_not_depend_on_their_neighbours_or_the_order_of_strengths() -> None:
    x, y = data(2)
    learns = np.random.default_rng(1).random((len(x), 4)) < 0.7
    together = fit_many(x, y, learns, STRENGTHS)
    for fit in range(4):
        np.testing.assert_array_equal(fit_many(x, y, learns[:, [fit]], STRENGTHS)[:, 0], together[:, fit])
    np.testing.assert_array_equal(fit_many(x, y, learns, STRENGTHS[::-1])[::-1], together)


def test_separable_rows_are_all_right() -> None:
    x = np.r_[np.random.default_rng(0).normal(size=(40, 3)) + 9, np.random.default_rng(1).normal(size=(40, 3)) - 9]
    y = np.repeat([1, 0], 40)
    assert (fit_many(x, y, np.ones((80, 1), dtype=bool), (1e-5,))[0, 0] == y).all()
