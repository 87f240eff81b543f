# ruff: noqa: RUF001 - the marks of other scripts are what is tested
from __future__ import annotations

import time

import pytest

from diffcse.text.prose import Block
from diffcse.text.sentences import split_sentences, words


@pytest.mark.parametrize(
    ("text", "language", "sentences"),
    [
        (
            "Dr. Smith paid 3.5 million, e.g. for a house. It works (see Fig. 3). That is all of it!",
            "en",
            ["Dr. Smith paid 3.5 million, e.g. for a house.", "It works (see Fig. 3).", "That is all of it!"],
        ),
        ("Am 3. Oktober war es z.B. kalt. Das ist alles.", "de", ["Am 3. Oktober war es z.B. kalt.", "Das ist alles."]),
        ("今天天气很好。我们去公园吧！你来吗？好的。", "en", ["今天天气很好。", "我们去公园吧！ 你来吗？ 好的。"]),
        ("これはテストです。次の文がここにあります！", "ja", ["これはテストです。", "次の文がここにあります！"]),
        ("วันนี้อากาศดีมาก เราไปสวนกันเถอะ", "th", ["วันนี้อากาศดีมาก", "เราไปสวนกันเถอะ"]),
        ("हम घर जाते हैं। वह यहाँ आता है।", "hi", ["हम घर जाते हैं।", "वह यहाँ आता है।"]),
        (
            "OK. This one is longer. Yes! Another one is here. No.",
            "en",
            ["OK. This one is longer. Yes!", "Another one is here. No."],
        ),
        ("Yes. No.", "en", ["Yes. No."]),
        ("  \n ", "en", []),
    ],
)
def test_sentences_of_many_languages(text: str, language: str, sentences: list[str]) -> None:
    assert split_sentences([Block(text)], language) == sentences


def test_headings_join_the_next_sentence_and_fragments_the_last() -> None:
    blocks = [
        Block("A heading of its own", True),
        Block("And a part", True),
        Block("This is text. And so on."),
        Block("Yes"),
        Block("The end", True),
    ]
    expected = ["A heading of its own And a part This is text.", "And so on. Yes The end"]
    assert split_sentences(blocks) == expected
    assert split_sentences([Block("Only a heading", True)]) == ["Only a heading"]


@pytest.mark.parametrize(
    "text", ["word " * 1000, "今" * 5000, "a" * 20_000, "word. " * 400, "x" * 5000 + " y. " * 4000]
)
def test_long_text_is_cut_and_nothing_is_lost(text: str) -> None:
    sentences = split_sentences([Block(text)])
    assert "".join("".join(sentences).split()) == "".join(text.split())
    assert max(map(words, sentences)) <= 100 and max(map(len, sentences)) <= 3100


@pytest.mark.parametrize("piece", ["\u201c", "'", "(", "a. ", "1. ", "。", "\u0e01 ", '"x', "Dr. "])
def test_no_text_takes_long(piece: str) -> None:
    start = time.process_time()
    split_sentences([Block(piece * 50_000)])
    assert time.process_time() - start < 5  # whole, one of them takes more than 19 seconds
