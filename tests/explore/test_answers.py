"""The page's answers: the right sentences and numbers in the markup, what a user types escaped, faults as text."""

import re

import numpy as np
import pytest

from diffcse.errors import UserError
from diffcse.explore import answers as answers_module
from diffcse.explore import corpus as corpus_module
from diffcse.explore.answers import SENTENCES, Answers, make_answers
from diffcse.explore.corpus import Corpus, cosine_table, make_corpus, read_corpus, search
from diffcse.explore.edit_view import look
from diffcse.explore.pictures import _ALIKE, _DOUBT, colour, luminance
from tests import tiny


def letters(sentences):
    """A five-line encoder: counts of letters."""
    return np.array([[sentence.count(letter) for letter in "abcdef"] for sentence in sentences], dtype=np.float32)


@pytest.fixture
def simple():
    corpus = Corpus(name="letters", sentences=["aaa", "aab", "bbb", "ccc"], vectors=np.eye(4, 6, dtype=np.float32))
    return Answers(embed=letters, corpus=make_corpus("letters", corpus.sentences, letters))


def text_of(html):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html))


def test_search_equals_cosines_by_hand(simple):
    results = search(simple.corpus, "ab", letters, 3)
    assert [sentence for sentence, _ in results.hits] == ["aab", "aaa", "bbb"]
    np.testing.assert_allclose([cosine for _, cosine in results.hits], [3 / 10**0.5, 0.5**0.5, 0.5**0.5], atol=1e-6)
    np.testing.assert_allclose(results.cosines, [0.5**0.5, 3 / 10**0.5, 0.5**0.5, 0], atol=1e-6)


def test_search_shows_hits_best_first(simple):
    html = simple.search("ab", "", 2)
    assert re.findall(r"<li>.*?</li>", html) and [text_of(item) for item in re.findall(r"<li>.*?</li>", html)] == [
        " 0.95 aab ",
        " 0.71 aaa ",
    ]
    assert html.count('class="hit"') == 2
    assert "4 sentences in letters" in text_of(html)


def test_pasted_sentences_take_the_place_of_the_corpus_and_are_encoded_once(simple):
    counted = []
    answers = Answers(embed=lambda texts: (counted.append(len(texts)), letters(texts))[1], corpus=simple.corpus)
    for _ in range(2):
        html = answers.search("d", "ddd\neee\n", 5)
        assert "ddd" in html
        assert "aaa" not in html
    assert counted == [1, 2, 1] or counted == [2, 1, 1]


def test_heat_map_shows_every_pair(simple):
    html = simple.heat_map("aaa\nab\nb")
    cells = re.findall(r"<td style[^>]*>([^<]*)</td>", html)
    assert cells == ["1.00", "0.71", "0.00", "0.71", "1.00", "0.71", "0.00", "0.71", "1.00"]
    assert "Nearest pair: 1 and 2, cosine 0.71" in text_of(html)
    np.testing.assert_allclose(cosine_table(["aaa", "ab"], letters), [[1, 0.5**0.5], [0.5**0.5, 1]], atol=1e-6)


def test_sees_shows_the_numbers_of_look(trained):
    answers = make_answers(str(trained), letters, None)
    html = answers.sees(tiny.SENTENCES[4], tiny.SENTENCES[6], 3)
    seen = look(answers.parts, tiny.SENTENCES[4], tiny.SENTENCES[6], 3)
    shown = [tuple(re.findall(r">(\d+%)</span></li>", panel)) for panel in html.split('class="dc-panel"')[1:]]
    assert shown == [tuple(f"{value:.0%}" for value in values) for values in (seen.own, seen.other)]
    assert html.count("<del>") == sum(seen.replaced)


EVIL = "<img src=x onerror=alert(1)>\"'&"


def test_nothing_typed_becomes_markup(simple, trained):
    answers = make_answers(str(trained), letters, make_corpus(EVIL, [EVIL, "b"], letters))
    pages = [
        answers.search(EVIL, "", 2),
        answers.search("a", EVIL, 2),
        answers.heat_map(f"{EVIL}\nb"),
        answers.sees(EVIL, EVIL, 1),
        answers.search("a", "", EVIL),
    ]
    for page in pages:
        assert "<img" not in page
        assert "alert" in page
        assert re.search(r"title=\"[^\"]*onerror=alert\(1\)>\"", page) is None


@pytest.mark.parametrize(
    ("answer", "match"),
    [
        (lambda page: page.search("", "", 5), "Query must be a sentence; got nothing"),
        (lambda page: page.search("a" * 2000, "", 5), "Query must be at most 1,000 characters"),
        (lambda page: page.search("a", "a\n" * 2001, 5), "Your sentences must be 1 to 2,000 sentences"),
        (lambda page: page.search("a", "", None), "Number of hits must be a whole number"),
        (lambda page: page.heat_map("a"), "Sentences must be 2 to 24 sentences"),
        (lambda page: page.heat_map(None), "Sentences must be 2 to 24 sentences"),
        (lambda page: page.sees("a", "b", 1), "must be one that was kept with its discriminator"),
    ],
)
def test_faults_are_messages(simple, answer, match):
    html = answer(make_answers(None, letters, simple.corpus))
    assert 'role="alert"' in html
    assert match in text_of(html)


@pytest.mark.parametrize(("sentence", "other", "seed"), [("", "b", 1), ("a", " ", 1), ("a", "b", -1), ("a", "b", None)])
def test_faults_of_the_third_tab_are_messages(trained, sentence, other, seed):
    assert 'role="alert"' in make_answers(str(trained), letters, None).sees(sentence, other, seed)


def test_without_a_discriminator_the_rest_works(tmp_path):
    folder = tiny.save(tiny.encoder(), tmp_path / "plain")
    answers = make_answers(folder, letters, None)
    assert answers.parts is None
    assert "--keep-discriminator" in str(answers.lacking)
    assert answers.corpus.sentences == list(SENTENCES)
    assert "dc-hits" in answers.search("a bad cafe", "", 3)


def test_a_damaged_discriminator_is_reported_and_the_rest_works(trained, tmp_path, monkeypatch):
    def out_of_reach(folder):
        raise UserError("generator", "within reach", "nothing", "get it")

    monkeypatch.setattr(answers_module, "load_parts", out_of_reach)
    assert (
        str(make_answers(str(trained), letters, None).lacking) == "generator must be within reach; got nothing; get it"
    )


def test_corpus_from_a_file(tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text("a\n\nb\nc\n")
    assert read_corpus(str(tmp_path / "text.txt"), letters).sentences == ["a", "b", "c"]
    monkeypatch.setattr(corpus_module, "MOST_IN_FILE", 2)
    cut = read_corpus(str(tmp_path / "text.txt"), letters)
    assert (cut.sentences, cut.left_out) == (["a", "b"], True)
    (tmp_path / "blank.txt").write_text("\n \n")
    with pytest.raises(UserError, match="must be a text with at least one line; got an empty file"):
        read_corpus(str(tmp_path / "blank.txt"), letters)


@pytest.mark.parametrize("ramp", [_ALIKE, _DOUBT])
def test_ink_can_be_read_on_every_colour(ramp):
    for value in np.linspace(0, 1, 101):
        back, ink = (tuple(bytes.fromhex(part[1:])) for part in colour(value, ramp))
        light, dark = sorted((luminance(back), luminance(ink)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5
