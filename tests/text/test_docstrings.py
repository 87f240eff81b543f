from __future__ import annotations

import gc
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diffcse.errors import UserError
from diffcse.text import docstrings
from diffcse.text.docstrings import collect, docstring_documents, find_packages, is_held_out, is_plain, prose

TRAIN, HELD_OUT = "sometools", "networkx"  # which side a name is on is checked below

MODULE = '''"""Tools that help you with the handling of {subject}.

They were written for {subject} alone, so they know nothing of other things.
"""

raise SystemExit("a package whose documentation is read is never run")

class Box:
    """A box that holds any number of {subject} in it."""

    def open(self):
        """Open the box so that you can see the {subject}.

        This takes no time, because a box of {subject} has no lid.

        >>> Box().open()
        """

if True:
    async def close():
        "Close the box, and leave the {subject} in the dark."
'''
SENTENCES = [
    "Tools that help you with the handling of {subject}.",
    "They were written for {subject} alone, so they know nothing of other things.",
    "A box that holds any number of {subject} in it.",
    "Open the box so that you can see the {subject}.",
    "This takes no time, because a box of {subject} has no lid.",
    "Close the box, and leave the {subject} in the dark.",
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a package on each side of the split, and files that must be passed over."""
    folder = tmp_path / "site-packages"
    for package, subject in [(TRAIN, "apples"), (HELD_OUT, "pears")]:
        (folder / package / "tests").mkdir(parents=True)
        (folder / package / "__init__.py").write_text(MODULE.format(subject=subject))
        (folder / package / "tests" / "test_it.py").write_text(MODULE.format(subject="tests"))
    (folder / TRAIN / "broken.py").write_text('"""This module cannot be parsed, so it is passed over."""\n(')
    (folder / TRAIN / "bytes.py").write_bytes(b'"""This is latin-1 without a word about it: caf\xe9."""\n')
    (folder / TRAIN / "nul.py").write_bytes(b'"""This one holds a NUL byte \0 in the middle."""\n')
    (folder / TRAIN / "code.py").write_text('"""One sentence, and then code without any end."""\n' + "x = 1\n" * 500)
    return folder


def sentences_about(subject: str) -> set[str]:
    return {sentence.format(subject=subject) for sentence in SENTENCES}


def test_training_sentences_and_pairs_come_from_different_packages(root: Path) -> None:
    assert not is_held_out(TRAIN) and is_held_out(HELD_OUT)
    text = collect(limit=100, roots=[root])
    assert set(text.sentences) == sentences_about("apples") and text.packages == 1
    first, second, _, fourth, fifth, _ = (sentence.format(subject="pears") for sentence in SENTENCES)
    assert set(text.pairs) == {(first, second), (fourth, fifth)} and text.held_out == (HELD_OUT,)


def test_a_sentence_of_the_other_side_and_a_repeated_one_are_dropped(root: Path) -> None:
    shared = SENTENCES[0].format(subject="pears").replace("tools", "TOOLS")
    twice = "The same words, and then once more the same words!"
    (root / TRAIN / "more.py").write_text(f'"""{shared}\n\n{twice} {twice.replace("!", ".")}\n"""\n')
    text = collect(limit=100, roots=[root])
    assert set(text.sentences) == sentences_about("apples") | {twice}


def test_the_limit_holds_and_the_order_is_fixed(root: Path) -> None:
    all_of_it = collect(limit=100, roots=[root]).sentences
    assert collect(limit=4, roots=[root]).sentences == all_of_it[:4]
    assert collect(limit=100, roots=[str(root)]).sentences == all_of_it
    with pytest.raises(UserError, match="limit must be at least 1; got 0"):
        collect(limit=0, roots=[root])


def test_the_source_that_is_parsed_is_bounded(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        (root / TRAIN / f"part{number}.py").write_text(MODULE.format(subject=f"fruit of kind {number}"))
    monkeypatch.setattr(docstrings, "_MOST_SOURCE", 5 * len(MODULE))
    assert 0 < len(collect(limit=1000, roots=[root]).sentences) < 5 * len(SENTENCES)


def test_packages_take_turns(root: Path) -> None:
    for number in range(5):
        (root / "bigone").mkdir(exist_ok=True)
        (root / "bigone" / f"part{number}.py").write_text(MODULE.format(subject=f"plums of kind {number}"))
    assert not is_held_out("bigone")
    sentences = collect(limit=2 * len(SENTENCES), roots=[root]).sentences
    assert sum("plums" in sentence for sentence in sentences) == len(SENTENCES)


def test_the_language_reference_is_a_dictionary_of_texts(tmp_path: Path) -> None:
    (tmp_path / "pydoc_data").mkdir()
    text = "The assert statement\n********************\n\nAssert statements are a way to insert checks.\n\n   x ::= y\n"
    (tmp_path / "pydoc_data" / "topics.py").write_text(f"topics = {{'assert': {text!r}}}\n")
    assert collect(limit=9, roots=[tmp_path]).sentences == ("Assert statements are a way to insert checks.",)


def test_nothing_found_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="documentation must be found; got none in"):
        collect(limit=9, roots=[tmp_path])


def test_the_collector_of_garbage_is_as_it_was(root: Path) -> None:
    assert gc.isenabled()
    collect(limit=9, roots=[root])
    assert gc.isenabled()
    gc.disable()
    try:
        collect(limit=9, roots=[root])
        assert not gc.isenabled()
    finally:
        gc.enable()


# Documents


def test_a_docstring_is_a_document_and_its_package_the_group(root: Path, tmp_path: Path) -> None:
    documents = docstring_documents(roots=[root], cache_dir=tmp_path / "cache")
    kept = documents.dataset.to_list()
    pears = [sentence.format(subject="pears") for sentence in SENTENCES]
    expected = [
        (HELD_OUT, pears[:2], HELD_OUT, f"{HELD_OUT}:1"),
        (HELD_OUT, pears[2:3], f"{HELD_OUT}.Box", f"{HELD_OUT}:9"),
        (HELD_OUT, pears[5:], f"{HELD_OUT}.close", f"{HELD_OUT}:21"),
        (HELD_OUT, pears[3:5], f"{HELD_OUT}.Box.open", f"{HELD_OUT}:12"),
    ]
    rows = [(row["group"], row["sentences"], row["title"], row["origin"]) for row in kept]
    assert sorted(row for row in rows if row[0] == HELD_OUT) == sorted(expected)
    assert [row["group"] for row in kept].count(TRAIN) == 4
    assert documents.counts.documents == len(kept) == 8
    assert len(docstring_documents(limit=3, roots=[root], cache_dir=tmp_path / "cache").dataset) == 3


def test_the_language_reference_is_a_document_a_topic(tmp_path: Path) -> None:
    (tmp_path / "pydoc_data").mkdir()
    texts = {"assert": "Assert statements are a way to insert checks.", "if": "The if statement is used for a choice."}
    (tmp_path / "pydoc_data" / "topics.py").write_text(f"topics = {texts!r}\n")
    documents = docstring_documents(roots=[tmp_path], cache_dir=tmp_path / "cache").dataset
    assert documents["title"][:] == ["assert", "if"] and documents["sentences"][:] == [
        [text] for text in texts.values()
    ]


def test_no_documentation_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="documentation must be found; got none in"):
        docstring_documents(roots=[tmp_path], cache_dir=tmp_path / "cache")
    with pytest.raises(UserError, match="limit must be at least 1; got 0"):
        docstring_documents(limit=0, roots=[tmp_path])


# The cache


def test_the_cache_serves_until_the_packages_change(root: Path, tmp_path: Path) -> None:
    cache = tmp_path / "deep" / "docs.json"
    first = collect(limit=100, cache=cache, roots=[root])
    (root / TRAIN / "__init__.py").write_text("")  # not looked at again: the names of what is installed are the same
    assert collect(limit=100, cache=cache, roots=[root]) == first
    assert [path.name for path in cache.parent.iterdir()] == ["docs.json"]
    with pytest.raises(UserError, match="documentation must be found"):
        collect(limit=3, cache=cache, roots=[root])  # another limit, so looked at again
    (root / TRAIN / "more.py").write_text('"""This came with the second version of it."""\n')
    (root / f"{TRAIN}-2.0.dist-info").mkdir()
    assert collect(limit=100, cache=cache, roots=[root]).sentences == ("This came with the second version of it.",)


@pytest.mark.parametrize("content", [b"", b'{"key": ', b"[]", b'{"sentences": []}', b"\xff"])
def test_a_damaged_cache_is_written_again(root: Path, tmp_path: Path, content: bytes) -> None:
    cache = tmp_path / "docs.json"
    first = collect(limit=100, cache=cache, roots=[root])
    cache.write_bytes(content)
    assert collect(limit=100, cache=cache, roots=[root]) == first
    assert set(json.loads(cache.read_bytes())["sentences"]) == sentences_about("apples")


# What is plain English


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        (
            "Return the ``sum`` of *all* **given** values in `numbers`.",
            ["Return the sum of all given values in numbers."],
        ),
        ("Call :func:`~a.b.total` or :class:`Box` to get it.", [None]),  # a dotted name is code
        ("See :ref:`the long guide <guide>` for all of it.", ["See the long guide for all of it."]),
        ("See `the guide <https://a.org/x>`_ for all of it.", ["See the guide for all of it."]),
        ("See [the guide](https://a.org/x) for all of it.", ["See the guide for all of it."]),
        ("See https://a.org for all of the rest.", [None]),
        ("It says \u201cyes\u201d, and that\u2019s all of it.", ['It says "yes", and that\'s all of it.']),
        ("This is x.y of it. This is another of\nthem.", [None, "This is another of them."]),
        ("Take any list, e.g. List or Tuple, of it.", ["Take any list, e.g. List or Tuple, of it."]),
        (
            "First of all the words.\n\n>>> print(1)\n1\n\nThen the rest of them.",
            ["First of all the words.", None, "Then the rest of them."],
        ),
        (
            "The words before.\n\n```\nThis is the code in here.\n```\n\nAnd these are the words.",
            [None, None, "And these are the words."],
        ),
        ("The name of a thing\n===================\n\nThis is the text of it.", ["This is the text of it."]),
        ("Parameters\n----------\nx : int\n    This is what x is for.", [None]),
        (":param x: This is what the x is for.", [None]),
        ("- This is an item of a list.\n- This is another one of them.", [None]),
        ("1. This is an item of a list.", [None]),
        (".. note:: This is a note to the reader.", [None]),
        ("Name   Meaning of the name.\nOther  Meaning of the other.", [None]),
        ("", []),
    ],
)
def test_prose(docstring: str, expected: list[str | None]) -> None:
    assert prose(docstring) == expected


@pytest.mark.parametrize(
    "sentence",
    [
        "Too few of them.",
        "this one starts with a small letter.",
        "This one has no end to it",
        "This one ends with a colon:",
        "Set some_value to the one you want.",
        "Set someValue to the one you want.",
        "Call box.open to see the inside of it.",
        "It is x = y + z for all of them.",
        "Call open() to see the inside of it.",
        "This (one has only half of its brackets.",
        "THIS SOFTWARE IS PROVIDED AS IT IS WITHOUT ANY WARRANTY.",
        "A 1 2 3 4 5 6 7 8 9 10 11 12.",
        "Éste no es un texto en la lengua.",
        "Word " * 60 + "is the end of it.",
        "Sphinx quartz judge vow black nymphs.",
    ],
)
def test_what_is_not_plain_english(sentence: str) -> None:
    assert not is_plain(sentence)


@pytest.mark.parametrize(
    "sentence",
    [
        "This is the shortest of them.",
        'It\'s "quoted", (bracketed), or one-sided: none of these minds that.',
        "About 3.5% of the 1,000 users' daughters like this very much!",
        "Is NumPy 2.0 (or PEP8) one of the names that are fine?",
        "We wait until the time is up...",
        "Pass what you like, e.g. a list (i.e. not a tuple) - or nothing, etc.",
    ],
)
def test_what_is_plain_english(sentence: str) -> None:
    assert is_plain(sentence)


def test_no_docstring_takes_long() -> None:
    start = time.process_time()
    for piece in ("a", "a ", " ", "(", "'a", "`", "``", "*a", ":", ":a:`", "[`", "A.", "1,", "\n", "\n-", "===\n", '"'):
        prose("The text. " + piece * 20_000)
    assert time.process_time() - start < 5  # a pattern whose time grows with the square of the length takes longer


# The documentation of this machine


def test_the_standard_library_is_enough_for_clean_text(tmp_path: Path) -> None:
    root = docstrings._installed()[0]
    text = collect(limit=3000, roots=[root], cache=tmp_path / "docs.json")
    assert collect(limit=3000, roots=[root], cache=tmp_path / "docs.json") == text
    assert len(text.sentences) == 3000 and len(text.pairs) > 100
    assert set(text.held_out) <= set(find_packages([root]))
    keys = [docstrings._letters(sentence) for sentence in text.sentences]
    assert len(set(keys)) == 3000
    assert not set(keys) & {docstrings._letters(sentence) for pair in text.pairs for sentence in pair}
    assert all(is_held_out(name) for name in text.held_out)
    for sentence in text.sentences:
        assert re.fullmatch(r"[A-Z][A-Za-z0-9 .,;:!?'\"()/%-]+", sentence) and 5 <= len(sentence.split()) <= 60
        assert "__" not in sentence and ">>>" not in sentence and "``" not in sentence


def test_the_result_does_not_depend_on_the_process(root: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from diffcse.text.docstrings import collect\n"
        "print(collect(limit=9, roots=[Path(sys.argv[1])]))"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", program, str(root)],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(docstrings.__file__).parents[2])},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert seen == {f"{collect(limit=9, roots=[root])}\n".encode()}


def test_about_a_sixth_of_all_names_is_held_out() -> None:
    share = sum(is_held_out(f"package{number}") for number in range(10_000)) / 10_000
    assert 0.15 < share < 0.20
