"""Questions of held-out documents: their words, and that a question cannot be answered by its own sentence."""

import re

import numpy as np

from diffcse.adaptation.parts import Text
from diffcse.adaptation.questions import KEYWORDS, KINDS, SENTENCE, keywords, questions
from diffcse.evaluation.lexical import WORD

TEXTS = [
    Text(sentences=("Cats sleep on warm mats.", "Dogs bark at night.", "Birds sing early.")),
    Text(sentences=("Rivers carry boats to sea.", "Harbours shelter them from storms.")),
    Text(sentences=("Bread needs flour and water.", "Yeast makes it rise slowly.", "Ovens must be hot.")),
]


def test_all_kinds_search_the_same_texts():
    tasks = questions(TEXTS, seed=0)
    assert tuple(tasks) == KINDS
    assert tasks[SENTENCE].documents == tasks[KEYWORDS].documents


def test_a_sentence_is_cut_out_of_what_it_looks_for():
    task = questions(TEXTS, seed=0)[SENTENCE]
    for query, grades in zip(task.queries, task.relevant, strict=True):
        (row,) = grades
        rest = [sentence for sentence in TEXTS[row].sentences if sentence != query]
        assert len(rest) == len(TEXTS[row].sentences) - 1
        assert task.documents[row] == " ".join(rest)


def test_keywords_are_words_of_the_text_in_its_order():
    task = questions(TEXTS, seed=0)[KEYWORDS]
    assert len(task.queries) == 3
    for query, grades in zip(task.queries, task.relevant, strict=True):
        (row,) = grades
        words = query.split()
        assert 2 <= len({word.lower() for word in words}) == len(words) <= 6
        text = re.findall(WORD, task.documents[row])
        places = [text.index(word) for word in words]
        assert places == sorted(places)


def test_the_seed_decides():
    assert questions(TEXTS, seed=0) == questions(TEXTS, seed=0)
    assert len({tuple(questions(TEXTS, seed=seed)[KEYWORDS].queries) for seed in range(5)}) > 1


def test_text_without_spaces_gives_characters():
    text = [
        Text(sentences=("猫在垫子上睡觉。", "狗在晚上叫。")),
        Text(sentences=("河流入海。", "船停在港口。")),
    ]
    queries = questions(text, seed=0)[KEYWORDS].queries
    assert queries and all(len(word) == 1 for query in queries for word in query.split())


def test_texts_without_a_word_have_no_keywords():
    assert keywords(["!!!", "🙂"], np.random.default_rng(0)) == ["", ""]
