from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from diffcse.errors import UserError
from diffcse.text import documents as module
from diffcse.text.documents import DocumentCounts, Documents, documents_of, read_documents
from tests.text.tables import write_table

FIRST = "The first sentence is here. The second one follows it."
SENTENCES = ["The first sentence is here.", "The second one follows it."]
OTHER = "Another document has other words. It ends with this one."
ROWS = {"_id": ["a", "b"], "title": ["On firsts", "On others"], "text": [f"On firsts. {FIRST}", OTHER]}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def texts(documents: Documents) -> list[list[str]]:
    return documents.dataset["sentences"][:]


# What is a document


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl", "t.json", "t.parquet", "t.jsonl.gz", "t.parquet.gz"])
def test_a_row_is_a_document_with_its_title_taken_off_the_text(tmp_path: Path, cache: Path, name: str) -> None:
    write_table(tmp_path / name, ROWS)
    documents = read_documents(tmp_path / name, cache_dir=cache)
    assert texts(documents) == [SENTENCES, ["Another document has other words.", "It ends with this one."]]
    assert documents.dataset["title"][:] == ["On firsts", "On others"]
    first = {".csv": 2, ".tsv": 2}.get(Path(name).suffix, 1)
    assert documents.dataset["origin"][:] == [f"{tmp_path / name}:{first}", f"{tmp_path / name}:{first + 1}"]
    assert documents.counts == DocumentCounts(documents=2, sentences=4, files=1)


MARKDOWN = """---
title: "Ignored: the words"
---
# A *heading* that is here

Some [linked](http://x.org) words &amp; `code` in
a sentence. And one more!

```python
print("gone")
```

| a | table |
|---|---|
| 1 | 2 |

## A part

- one item of a list
- yes
- another item of it

<p align="center">Words in <b>HTML</b> here</p>
"""
RST = """
=========
The title
=========

Words with :func:`~a.total` and `a link <http://x.org>`_ in them. See `here`_::

    gone = 1

.. note:: This is a note
   of two lines.

.. code-block:: python

   gone()

.. a comment

A part
------

* first item of a list
* second item of it

+---+---+
| a | b |
+---+---+

===  ===
a    b
===  ===
1    2
===  ===

.. versionadded:: 3.2
   Since then it is there.

>>> gone()
1

The end of |all| of it [1]_.
"""
HTML = """<!doctype html><title>The &amp; title</title><style>p {}</style><nav>Home of it</nav>
<h1>The &amp; title</h1><p>Words with <b>bold</b> ones<br>in a sentence. And <i>one</i> more.
<h2>A part</h2><ul><li>one item of a list<li>another item of it</ul><pre>gone</pre>
<table><tr><td>gone<td>too</table><script>gone()</script><footer>All rights reserved here.</footer>"""


@pytest.mark.parametrize(
    ("name", "content", "title", "sentences", "counts"),
    [
        (
            "a.md",
            MARKDOWN,
            "Ignored: the words",
            [
                "A heading that is here Some linked words & code in a sentence.",
                "And one more!",
                "A part one item of a list yes",
                "another item of it",
                "Words in HTML here",
            ],
            {"code_blocks": 1, "tables": 1},
        ),
        (
            "a.rst",
            RST,
            "The title",
            [
                "Words with a.total and a link in them. See here:",
                "This is a note of two lines.",
                "A part first item of a list",
                "second item of it",
                "Since then it is there.",
                "The end of all of it.",
            ],
            {"code_blocks": 3, "tables": 2},
        ),
        (
            "a.html",
            HTML,
            "The & title",
            [
                "Words with bold ones in a sentence.",
                "And one more.",
                "A part one item of a list",
                "another item of it",
            ],
            {"code_blocks": 1, "tables": 1},
        ),
        (
            "a.txt",
            f"{FIRST}\n\nA second paragraph stands here.",
            "",
            [*SENTENCES, "A second paragraph stands here."],
            {},
        ),
    ],
)
def test_a_file_is_a_document_without_its_markup(
    tmp_path: Path, cache: Path, name: str, content: str, title: str, sentences: list[str], counts: dict[str, int]
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    (tmp_path / "z.txt").write_text(OTHER)
    documents = read_documents([tmp_path / name, tmp_path / "z.txt"], cache_dir=cache)
    assert documents.dataset[0] == {
        "key": documents.dataset["key"][0],
        "title": title,
        "sentences": sentences,
        "origin": str(tmp_path / name),
    }
    assert documents.counts == DocumentCounts(documents=2, sentences=len(sentences) + 2, files=2, **counts)


@pytest.mark.parametrize(
    ("content", "unit", "places", "counts"),
    [
        (f"\n{FIRST}\nIt goes on here.\n\n \n{OTHER}\n", "auto", [2, 6], {"by_paragraph": 1}),
        (f"\n{FIRST}\n{OTHER}\n\n", "auto", [2, 3], {"by_line": 1}),
        (f"{FIRST}\n\n{OTHER}\n", "line", [1, 3], {"by_line": 1}),
        (f"{FIRST}\n{OTHER}\n", "paragraph", [1], {"by_paragraph": 1}),
        (f"{FIRST}\n\n{OTHER}\n", "file", [None], {}),
    ],
)
def test_a_text_alone_holds_a_document_a_paragraph_or_a_line(
    tmp_path: Path, cache: Path, content: str, unit: module.Unit, places: list[int | None], counts: dict[str, int]
) -> None:
    (tmp_path / "a.txt").write_text(content)
    documents = read_documents(tmp_path / "a.txt", unit=unit, cache_dir=cache)
    name = str(tmp_path / "a.txt")
    assert documents.dataset["origin"][:] == [name if place is None else f"{name}:{place}" for place in places]
    total = sum(map(len, texts(documents)))
    assert documents.counts == DocumentCounts(documents=len(places), sentences=total, files=1, **counts)


def test_a_long_text_among_others_is_many_documents(tmp_path: Path, cache: Path) -> None:
    random_words = random.Random(0)
    paragraphs = [" ".join(random_words.choices("abcdefghij", k=200)) for _ in range(3000)]
    (tmp_path / "long.txt").write_text("\n\n".join(paragraphs))
    (tmp_path / "short.txt").write_text(FIRST)
    documents = read_documents(tmp_path, cache_dir=cache)
    assert len(documents.dataset) == 3001 and documents.counts.by_paragraph == 1 and documents.counts.cut == 0


def test_a_folder_is_read_in_the_order_of_names_and_what_is_skipped_is_counted(tmp_path: Path, cache: Path) -> None:
    for name in ("b/z.txt", "b/a.md", "a.txt", ".hidden/x.txt", ".x.txt", "picture.png", "b/empty.txt", "b/code.py"):
        path = tmp_path / "docs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("" if "empty" in name else f"This one is from {name} and nowhere else. {name} is its name.")
    (tmp_path / "docs" / "binary.txt").write_bytes(b"text\0" * 100)
    (tmp_path / "docs" / "a_copy.txt").write_bytes((tmp_path / "docs" / "a.txt").read_bytes().upper())
    documents = read_documents(tmp_path / "docs", cache_dir=cache)
    names = [str(Path(origin).relative_to(tmp_path / "docs")) for origin in documents.dataset["origin"]]
    assert names == ["a.txt", "b/a.md", "b/z.txt"]
    assert documents.counts == DocumentCounts(
        documents=3, sentences=6, files=5, hidden=2, binary=1, other_formats=2, empty=1, equal=1
    )
    assert "1 documents were dropped because nothing was left of them." in documents.counts.lines()
    by_glob = read_documents([tmp_path / "docs" / "*"], cache_dir=cache)
    assert texts(by_glob) == texts(documents) and by_glob.counts.other_formats == 2


def test_standard_input_is_read_from_its_descriptor(tmp_path: Path) -> None:
    program = (
        "import sys; from diffcse.text.documents import read_documents\n"
        "print(read_documents('-', cache_dir=sys.argv[1]).dataset['origin'][:])"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        input=f"{FIRST}\n\n{OTHER}".encode(),
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(module.__file__).parents[2])},
    )
    assert run.stdout.decode() == "['standard input:1', 'standard input:3']\n"


# What is dropped


def test_repeated_documents_are_dropped_and_counted() -> None:
    words = [" ".join(random.Random(i).choices("abcdefghijklmnopqrstuvwxyz", k=90)) for i in range(3)]
    nearly = words[0] + " zz"
    documents = documents_of([*words, words[1].upper(), nearly, " ", "\0"])
    assert documents.counts == DocumentCounts(documents=3, sentences=3, equal=1, near_duplicates=1, empty=2, nul=1)
    assert documents.dataset["origin"][:] == ["texts[0]", "texts[1]", "texts[2]"]
    assert documents_of([*words, words[1].upper(), nearly], near_duplicates=None).counts.documents == 4


def test_a_sentence_of_many_documents_stays_in_the_first_alone() -> None:
    notice = "All of the rights are reserved."
    bodies = [f"Document {i} is about {chr(97 + i % 26) * 5} and {i * i} things." for i in range(40)]
    raw = [f"{body} {notice}" if i < 10 else body for i, body in enumerate(bodies)]
    documents = documents_of(raw)
    assert texts(documents) == [[bodies[0], notice], *([body] for body in bodies[1:])]
    assert documents.counts == DocumentCounts(documents=40, sentences=41, repeated_sentences=9)
    assert documents_of([body for i, body in enumerate(raw) if i != 3]).counts.repeated_sentences == 0  # nine of them


def test_text_that_is_no_utf8_is_repaired_and_counted(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"A caf\xe9 is a place to sit in.\n\nThis is another text of it.\n")
    documents = read_documents(tmp_path / "a.txt", cache_dir=cache)
    assert texts(documents)[0] == ["A caf\ufffd is a place to sit in."] and documents.counts.repaired == 1


@pytest.mark.parametrize(
    ("title", "text", "sentences"),
    [
        ("A wing .", "a wing . it is studied here .", ["it is studied here ."]),
        ("A wing", "A  wing\nIt is studied here.", ["It is studied here."]),
        ("A wing", "A wing is studied here.", ["A wing is studied here."]),  # it begins the sentence
        ("A wing", "A wings: it is studied.", ["A wings: it is studied."]),
        ("A wing", "A wing: it is studied.", ["it is studied."]),
    ],
)
def test_a_title_in_front_of_its_text(title: str, text: str, sentences: list[str]) -> None:
    (document,) = documents_of([text], titles=[title]).dataset
    assert document["sentences"] == sentences and document["title"] == title


@pytest.mark.parametrize("text", ["", "A wing that stands alone", "a wing that stands alone."])
def test_a_title_alone_is_the_document(text: str) -> None:
    (document,) = documents_of([text], titles=["A wing that stands alone"]).dataset
    assert document["sentences"] == ["A wing that stands alone"] and document["title"] == ""


def test_the_key_is_a_digest_of_the_normalised_text() -> None:
    keys = [documents_of([text]).dataset["key"][0] for text in (FIRST, FIRST.upper().replace(" ", "\n"), OTHER)]
    assert keys[0] == keys[1] != keys[2] and len(keys[0]) == 32


# The cache, and what is refused


def test_a_second_call_reads_nothing_and_a_changed_folder_is_read(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text(FIRST)
    first = read_documents(tmp_path / "docs", cache_dir=cache)
    with monkeypatch.context() as patch:
        patch.setattr(module, "clean", None)
        again = read_documents(str(tmp_path / "docs"), cache_dir=cache)
    assert again.counts == first.counts and again.dataset.to_dict() == first.dataset.to_dict()
    (tmp_path / "docs" / "b.txt").write_text(OTHER)
    assert len(read_documents(tmp_path / "docs", cache_dir=cache).dataset) == 2


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ({}, {}, "sources must be files that hold text; got none; name files that end in .txt"),
        ({"a.png": b"x"}, {}, "got 1 other formats"),
        ({"a.txt": b"\0\1"}, {}, "got 1 binary"),
        ({"a.csv": b"x,y\n1,2\n"}, {}, "a.csv: column must be named where several could be meant; got x, y"),
        ({"a.csv": b"x,text\n1,2\n"}, {"column": "z"}, "a.csv: column must be among x, text; got z"),
        ({"a.jsonl": b'{"x": 1}\n'}, {"column": "x"}, "a.jsonl: column x must be text; got another type"),
        ({"a.txt": b"x"}, {"column": "x"}, "column must be used with files that have columns; got x"),
        ({"a.txt": b"x"}, {"unit": "page"}, "unit must be one of auto, file, paragraph, line; got page"),
        ({"a.txt": b"x"}, {"near_duplicates": 2}, "near_duplicates must be between 0 and 1; got 2"),
        ({"a.json": b'[1, "x"]'}, {}, "a.json item 1 must be an object or a string; got 1"),
        ({"a.txt.gz": b"x"}, {}, "must be a whole gzip file"),
    ],
)
def test_what_is_refused_in_one_line(
    tmp_path: Path, cache: Path, files: dict[str, bytes], options: dict[str, object], message: str
) -> None:
    (tmp_path / "docs").mkdir()
    for name, content in files.items():
        (tmp_path / "docs" / name).write_bytes(content)
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        read_documents(tmp_path / "docs", cache_dir=cache, **options)  # type: ignore[arg-type]


def test_a_binary_file_that_is_named_is_refused(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\0\1\2")
    with pytest.raises(UserError, match=r"a\.txt must be text; got binary data"):
        read_documents(tmp_path / "a.txt", cache_dir=cache)


def test_too_few_documents_are_refused_with_what_became_of_them() -> None:
    documents = documents_of([FIRST, FIRST, FIRST])
    assert documents.at_least(1) is documents
    with pytest.raises(
        UserError, match=r"at least 2 different ones; got 1 documents are left.*2 documents were dropped"
    ):
        documents.at_least(2)


@pytest.mark.parametrize(
    ("texts", "titles", "message"),
    [
        ("text", None, "texts must be a list of strings; got str"),
        (None, None, "texts must be a list of strings; got NoneType"),
        ([FIRST, None], None, r"texts\[1\] must be text; got None"),
        ([FIRST], [], "titles must be as many as texts, 1; got 0"),
    ],
)
def test_python_texts_that_are_refused(texts: object, titles: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        documents_of(texts, titles=titles)  # type: ignore[arg-type]


def test_a_file_whose_name_is_not_utf8(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/na\xefve.md"))
    path.write_text("It rains. We stay.\n")
    documents = read_documents(path, cache_dir=tmp_path / "cache").dataset
    assert documents["origin"][:] == [f"{tmp_path}/na\ufffdve.md"]
