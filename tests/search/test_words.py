"""A full-text search finds words in every script, with spaces between them or without."""

import dataclasses
import json
import sqlite3

import pytest

from diffcse.search.facts import Row
from diffcse.search.index import SentenceIndex
from diffcse.search.words import as_words, terms
from tests.search.test_index import FACTS, vectors

TEXTS = [
    "昨日の東京は雨でした",  # 0, Japanese: yesterday it rained in Tokyo
    "東京都に住んでいます",  # 1, I live in the city of Tokyo
    "京都の寺が好きです",  # 2, I like the temples of Kyoto
    "今天北京有地震",  # 3, Chinese: today there is an earthquake in Beijing
    "地球是圆的",  # 4, the earth is round
    "ฉันอ่านหนังสือที่บ้าน",  # 5, Thai: I read a book at home
    "แมวนอนหลับ",  # 6, the cat sleeps
    "हिन्दी एक भाषा है",  # 7, Hindi, with spaces: Hindi is a language
    "Tokyo is 東京 in Japanese",  # 8
    "ຂ້ອຍຮັກເຈົ້າ",  # 9, Lao: I love you
    "서울은 한국의 수도",  # 10, Korean, with spaces
    "un café noir",  # 11
]
QUERIES = [
    ("東京", {0, 1, 8}),
    ("京都", {1, 2}),  # also inside of 東京都: pairs know no words
    ("雨", {0}),  # one character
    ("寺", {2}),
    ("す", {1, 2}),  # the last character of a text
    ("地震", {3}),
    ("地", {3, 4}),
    ("หนังสือ", {5}),  # a book
    ("แมว", {6}),  # a cat
    ("भाषा", {7}),
    ("हिन्दी", {7}),
    ("tokyo", {8}),
    ("東京 tokyo", {8}),  # a word in more than a tenth of the rows says little
    ("ຮັກ", {9}),
    ("한국의", {10}),
    ("CAFE", {11}),
    ("。、!", set()),
    ("大阪", set()),
]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    rows = [Row(text=text, line=n, columns={"n": n}) for n, text in enumerate(TEXTS)]
    return SentenceIndex.create(tmp_path_factory.mktemp("words") / "index", FACTS, [(rows, vectors(len(TEXTS)))])


@pytest.mark.parametrize(("query", "expected"), QUERIES)
def test_a_query_finds_exactly_the_texts_with_its_words(index, query, expected):
    assert set(index._rows.full_text(query, 20)) == expected


def test_the_text_that_shares_most_is_first(index):
    assert index._rows.full_text("東京は雨", 20)[0] == 0
    assert index._rows.full_text("北京地震", 20)[0] == 3


def test_a_hybrid_search_puts_the_words_first_and_gives_the_text_as_it_was(index):
    hits = index.search(vectors(1, seed=9), 12, words=["หนังสือ"])[0]
    plain = index.search(vectors(1, seed=9), 12)[0]
    fused = {hit.row: hit.fused for hit in hits}
    assert fused[5] == pytest.approx(1 / (60 + [hit.row for hit in plain].index(5) + 1) + 1 / 61)
    assert {hit.row: hit.sentence for hit in hits} == dict(enumerate(TEXTS))


def test_deleted_and_replaced_texts_are_no_longer_found(tmp_path):
    rows = [Row(text=text, line=n, columns={"n": n}) for n, text in enumerate(TEXTS)]
    index = SentenceIndex.create(tmp_path / "index", FACTS, [(rows, vectors(len(TEXTS)))])
    index.delete("n = 8")
    assert index._rows.full_text("東京", 20) == [0, 1]
    index.add([([Row(text="大阪の雨", line=1, columns={"n": 0})], vectors(1))], key="n")
    assert [index._rows.full_text(query, 20) for query in ("東京", "雨", "大阪")] == [[1], [12], [12]]
    index.compact()
    assert SentenceIndex(tmp_path / "index", verify=True)._rows.full_text("雨", 20) == [12]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain words", "plain words"),
        ("猫", " 猫 "),
        ("ab猫cd", "ab 猫 cd"),
        ("東京都", " 東京 京都 都 "),
        ("ที่นี่", " ที่นี่ นี่ "),  # marks stay with their letter
        ("ー・ア", " ー ・ ア "),
        ("", ""),
    ],
)
def test_pairs(text, expected):
    assert as_words(text) == expected


def test_terms_are_quoted():
    assert terms('a"b NOT (x*) 猫', pairs=True) == {
        "a": '"a"',
        "b": '"b"',
        "NOT": '"NOT"',
        "x": '"x"',
        "猫": '"猫" *',
    }


def test_an_index_of_version_2_is_searched_and_grows_as_it_was(tmp_path):
    """Its facts lack what is newer; its full-text index has words only."""
    folder = tmp_path / "index"
    rows = [Row(text=text, line=n) for n, text in enumerate(["the cat sat", "東京 の 雨"])]
    SentenceIndex.create(folder, FACTS, [])
    with sqlite3.connect(folder / "index.sqlite") as db:
        db.execute("DROP TABLE words")
        db.execute("CREATE VIRTUAL TABLE words USING fts5(text, content='rows', content_rowid='_id')")
        facts = json.loads(db.execute("SELECT content FROM facts").fetchone()[0])
        newer = ("pairs", "additions", "measured", "compacted", "purged")
        facts = {name: value for name, value in facts.items() if name not in newer} | {"version": 2}
        db.execute("UPDATE facts SET content = ?", (json.dumps(facts),))
    index = SentenceIndex(folder)
    index.add([(rows, vectors(2))])
    assert index.facts == dataclasses.replace(FACTS, generation=2, additions=1, positions=2)
    assert [index._rows.full_text(query, 9) for query in ("東京", "京", "cat")] == [[1], [], [0]]
    index.delete("_id = 1")
    index.compact()
    opened = SentenceIndex(folder, verify=True)
    assert [opened._rows.full_text(query, 9) for query in ("東京", "cat")] == [[], [0]]
