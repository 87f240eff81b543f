"""What the page refuses, and what it makes of what it takes."""

import pytest

from diffcse.errors import UserError
from diffcse.explore import limits


@pytest.mark.parametrize("text", [None, "", " \n\t "])
def test_an_empty_field_is_reported(text):
    with pytest.raises(UserError, match="Query must be a sentence; got nothing; type a sentence"):
        limits.one_sentence(text, "Query")
    with pytest.raises(UserError, match="Lines must be 2 to 5 sentences, one per line; got 0; add some"):
        limits.several_sentences(text, "Lines", least=2, most=5)


def test_sizes_are_bounded():
    assert limits.one_sentence("a" * limits.MOST_CHARACTERS, "Query") == "a" * limits.MOST_CHARACTERS
    with pytest.raises(UserError, match="Query must be at most 1,000 characters long; got 1,001"):
        limits.one_sentence("a" * (limits.MOST_CHARACTERS + 1), "Query")
    with pytest.raises(UserError, match="Lines must be 1 to 3 sentences, one per line; got 4; leave some out"):
        limits.several_sentences("a\nb\nc\nd", "Lines", most=3)
    with pytest.raises(UserError, match="Lines must be at most 200,000 characters long; got 200,001"):
        limits.several_sentences("a" * (limits.MOST_PASTED + 1), "Lines", most=3)
    with pytest.raises(UserError, match="Lines, sentence 2 must be at most 1,000 characters long"):
        limits.several_sentences("a\n" + "b" * 1001, "Lines", most=3)


def test_lines_and_space_are_put_in_order():
    assert limits.one_sentence(" It \n rains.\u2028", "Query") == "It rains."
    assert limits.several_sentences("\r\n a  b \r\n\n\tc\n", "Lines", most=3) == ["a b", "c"]


def test_half_a_surrogate_pair_is_no_fault():
    assert limits.one_sentence("caf\ud83d", "Query") == "caf?"


@pytest.mark.parametrize("value", [0, 51, float("nan"), None, "3", True])
def test_numbers_are_checked(value):
    with pytest.raises(UserError, match="Hits must be a whole number from 1 to 50"):
        limits.whole_number(value, "Hits", 1, 50)
