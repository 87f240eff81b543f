"""Cosines at the edge, and smaller vectors against exact search."""

import numpy as np
import pytest
from sentence_transformers.util.quantization import quantize_embeddings

from diffcse.errors import UserError
from diffcse.vectors import Int8Scale, as_cosines, binary, binary_search, cosines, exact_search, shortened, unit

RNG = np.random.default_rng(0)
CENTRES = RNG.normal(size=(40, 64))
VECTORS = unit(CENTRES[RNG.integers(0, 40, 2000)] + 0.6 * RNG.normal(size=(2000, 64)))
QUERIES = unit(CENTRES[RNG.integers(0, 40, 50)] + 0.6 * RNG.normal(size=(50, 64)))


def recall(rows, exact):
    return np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(rows.tolist(), exact.tolist(), strict=True)])


def test_a_vector_has_cosine_1_with_its_copy_and_no_cosine_is_above():
    scores = cosines(3 * VECTORS, VECTORS)
    assert (np.diag(scores) == 1).all() and scores.max() == 1 and scores.min() >= -1
    assert (np.diag(cosines(VECTORS, -VECTORS)) == -1).all()
    assert (VECTORS @ VECTORS.T).max() > 1  # what the products themselves would say
    assert cosines(np.zeros((1, 64)), VECTORS[:1]) == 0


def test_cosines_below_the_edge_stay_as_they_are():
    values = np.array([0.99999, -0.99999, 0.0, 0.3], dtype=np.float32)
    assert (as_cosines(values) == values).all()


@pytest.mark.parametrize("dims", [1, 10, 64])
def test_shortened_vectors_are_the_first_numbers_at_length_1(dims):
    short = shortened(VECTORS, dims)
    np.testing.assert_allclose(short, unit(VECTORS[:, :dims]), atol=1e-7)
    np.testing.assert_allclose(np.linalg.norm(short, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("dims", [0, 65])
def test_dims_that_are_not_there(dims):
    with pytest.raises(UserError, match="dims must be between 1 and 64, the model's width"):
        shortened(VECTORS, dims)


def test_int8_is_within_half_a_step_and_no_worse_than_the_library():
    scale = Int8Scale.calibrated(VECTORS)
    codes = scale.encode(VECTORS)
    assert codes.dtype == np.int8 and codes.min() == -128 and codes.max() == 127
    assert (np.abs(scale.decode(codes) - VECTORS) <= scale.step * 0.501).all()
    ranges = np.vstack([VECTORS.min(0), VECTORS.max(0)])
    theirs = quantize_embeddings(VECTORS, precision="int8", ranges=ranges)
    error = lambda each: np.abs(scale.decode(each) - VECTORS).mean()  # noqa: E731
    assert error(codes) < 0.6 * error(theirs)  # theirs cut where ours round
    outside = scale.encode(2 * VECTORS)
    assert outside.min() == -128 and outside.max() == 127


def test_int8_search_is_the_exact_search_over_the_decoded_vectors():
    scale = Int8Scale.calibrated(VECTORS[:500])
    codes = scale.encode(VECTORS)
    scores, rows = scale.search(codes, QUERIES, 10)
    expected, exact = exact_search(scale.decode(codes), QUERIES, 10)
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    assert recall(rows, exact) > 0.99
    assert recall(rows, exact_search(VECTORS, QUERIES, 10)[1]) > 0.95


def test_a_dimension_that_does_not_vary_is_exact():
    vectors = np.array([[0.5, 1.0], [0.5, -1.0]], dtype=np.float32)
    scale = Int8Scale.calibrated(vectors)
    np.testing.assert_allclose(scale.decode(scale.encode(vectors)), vectors, atol=1e-6)


def test_nothing_to_calibrate_with():
    with pytest.raises(UserError, match="calibration vectors must be at least one"):
        Int8Scale.calibrated(VECTORS[:0])


def test_binary_search_with_rescoring_gives_exact_scores_and_nearly_all_neighbours():
    codes = binary(VECTORS)
    assert codes.shape == (2000, 8)
    expected, exact = exact_search(VECTORS, QUERIES, 10)
    rough = recall(binary_search(codes, QUERIES, 10, oversample=1)[1], exact)
    signs = recall(binary_search(codes, QUERIES, 10, oversample=8)[1], exact)
    scores, rows = binary_search(codes, QUERIES, 10, vectors=VECTORS, oversample=8)
    assert rough < signs < recall(rows, exact) and recall(rows, exact) > 0.9
    np.testing.assert_allclose(scores, np.take_along_axis(QUERIES @ VECTORS.T, rows, axis=1), atol=1e-5)
    assert (np.diff(scores, axis=1) <= 0).all()
    # With every row a candidate, rescoring is the exact search.
    scores, rows = binary_search(codes, QUERIES, 10, vectors=VECTORS, oversample=2000)
    assert (rows == exact).all()
    np.testing.assert_allclose(scores, expected, atol=1e-6)


@pytest.mark.parametrize("width", [5, 8, 13])
def test_signs_are_scored_as_signs_whatever_the_width(width):
    vectors, query = RNG.normal(size=(30, width)).astype(np.float32), RNG.normal(size=(1, width)).astype(np.float32)
    scores, rows = binary_search(binary(vectors), query, 30, oversample=30)
    signs = np.where(vectors > 0, 1, -1) / width**0.5
    np.testing.assert_allclose(scores[0], (signs @ query[0])[rows[0]], atol=1e-5)
    np.testing.assert_allclose(scores[0], -np.sort(-(signs @ query[0])), atol=1e-5)


def test_codes_of_another_width():
    with pytest.raises(UserError, match="codes must be of vectors of 64 numbers, as queries are; got 32"):
        binary_search(binary(VECTORS[:, :32]), QUERIES, 3)


def test_an_empty_index():
    assert binary_search(binary(VECTORS[:0]), QUERIES, 3)[1].shape == (50, 0)


@pytest.mark.parametrize("top_k", [1, 5, 199, 200])
def test_of_equal_scores_the_lower_row_comes_first(top_k):
    vectors = np.random.default_rng(1).integers(0, 3, (200, 2)).astype(np.float32)  # 9 distinct rows
    scores, rows = exact_search(vectors, vectors[:20], top_k)
    expected = np.argsort(-(vectors[:20] @ vectors.T), axis=1, kind="stable")[:, :top_k]
    assert (rows == expected).all() and (scores == np.take_along_axis(vectors[:20] @ vectors.T, expected, 1)).all()
