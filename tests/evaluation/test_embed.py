import numpy as np
import pytest
import torch

from diffcse.errors import UserError
from diffcse.evaluation.embed import as_array, embed
from tests.evaluation.layout import BagOfWords


def test_each_sentence_is_encoded_once_in_one_call() -> None:
    encoder = BagOfWords()
    sentences = ["the dog", "a cat", "the dog", "", "a cat"]
    embedded = embed(encoder.encode, iter(sentences))
    assert encoder.calls == [["the dog", "a cat", ""]]
    np.testing.assert_array_equal(embedded(sentences), encoder.encode(sentences))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_tensors_of_any_float_type(dtype: torch.dtype) -> None:
    vectors = torch.tensor([[1.5, -2.0], [0.25, 3.0]], dtype=dtype, requires_grad=True)
    array = as_array(vectors)
    assert array.dtype == (np.float64 if dtype == torch.float64 else np.float32)
    np.testing.assert_array_equal(array, [[1.5, -2.0], [0.25, 3.0]])


@pytest.mark.parametrize("vectors", [np.ones((2, 3), np.float16), [[1, 1, 1], [1, 1, 1]], [np.ones(3), np.ones(3)]])
def test_arrays_and_lists(vectors: object) -> None:
    np.testing.assert_array_equal(as_array(vectors), np.ones((2, 3)))


@pytest.mark.parametrize("vectors", [np.ones((3, 4)), np.ones(2), np.ones((2, 3, 4))])
def test_a_wrong_shape_is_refused(vectors: np.ndarray) -> None:
    with pytest.raises(UserError, match=r"what the encoder returns must be an array of shape \(2, H\).*; got \("):
        embed(lambda sentences: vectors, ["a", "b"])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_vectors_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(UserError, match="must be finite; got NaN or infinity for 1 of 2 sentences"):
        embed(lambda sentences: np.array([[1.0, 2.0], [bad, 1.0]]), ["a", "b"])
