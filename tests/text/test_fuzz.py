"""Random and damaged files through every reader: the right text, or one line that says what is wrong.

In the suite the same few inputs are tried each time. By hand, for as long as you like:
`DIFFCSE_FUZZ=100000 python -m pytest tests/text/test_fuzz.py`.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffcse.errors import UserError
from diffcse.evaluation.beir import read_beir
from diffcse.evaluation.pairs import read_pairs
from diffcse.text.dataset import read_texts
from diffcse.text.documents import documents_of, read_documents
from diffcse.text.markup import prose_of
from diffcse.text.prose import Block
from diffcse.text.sentences import split_sentences
from diffcse.text.stream import open_texts
from tests.text.tables import PACKINGS

BY_HAND = int(os.environ.get("DIFFCSE_FUZZ", "0"))


def tried(examples: int) -> settings:
    return settings(
        max_examples=BY_HAND or examples,
        derandomize=not BY_HAND,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(autouse=True)
def no_notes_of_headers() -> None:
    logging.getLogger("diffcse.text.tables").setLevel(logging.ERROR)


ENDS = st.sampled_from(list(PACKINGS))
ENCODINGS = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"])
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n"), min_size=1, max_size=30).filter(
    lambda text: text.strip() and not text.startswith("\ufeff")
)
ROWS = st.lists(st.tuples(TEXT, TEXT, st.integers(0, 5).map(str)), min_size=1, max_size=6)


def packed(rows: list[tuple[str, ...]], kind: str, encoding: str) -> bytes:
    """Rows of the columns a, b and score as a file."""
    records = [dict(zip(("a", "b", "score"), row, strict=True)) for row in rows]
    if kind == "parquet":
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(records), buffer)
        return buffer.getvalue()
    if kind == "csv":
        out = io.StringIO()
        table = csv.writer(out, quoting=csv.QUOTE_ALL)
        table.writerows([("a", "b", "score"), *rows])
        text = out.getvalue()
    elif kind == "json":
        text = json.dumps(records, ensure_ascii=False)
    elif kind == "jsonl":
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    else:
        text = "".join(f"{row[0]}\n" for row in rows)
    return text.encode(encoding)


@tried(30)
@given(ROWS, st.sampled_from(["txt", "csv", "jsonl", "json", "parquet"]), ENCODINGS, ENDS)
def test_what_is_written_is_read(rows: list[tuple[str, ...]], kind: str, encoding: str, end: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"t.{kind}{end}"
        path.write_bytes(PACKINGS[end](packed(rows, kind, encoding)))
        column = None if kind == "txt" else "a"
        expected = [row[0] for row in rows]
        assert list(open_texts(str(path), column=column)) == expected
        dataset, report = read_texts(path, columns=column, minimum=0, cache_dir=folder)
        assert dataset["text0"][:] == expected and report.kept == len(rows)
        if kind != "txt" and len({row[2] for row in rows}) > 1:
            pairs = read_pairs(path, ("a", "b", "score"))
            assert (pairs.first, pairs.second) == (expected, [row[1] for row in rows])


@st.composite
def damaged(draw: st.DrawFn) -> tuple[str, bytes]:
    """A name and the bytes of a file of that format in which something is wrong, or nothing of the kind."""
    kind = draw(st.sampled_from(["txt", "csv", "tsv", "jsonl", "json", "parquet", "md", "rst", "html"]))
    end = draw(ENDS)
    content = draw(
        st.one_of(
            st.binary(max_size=300),
            st.builds(packed, ROWS, st.just(kind), ENCODINGS),
            st.text(alphabet="[]{}<>()`*_~|+-=:.,;\"'#&! \n\tab1\\/", max_size=300).map(str.encode),
            st.builds(lambda piece, times: piece * times, st.binary(min_size=1, max_size=4), st.integers(1, 20_000)),
        )
    )
    if draw(st.booleans()):
        content = PACKINGS[end](content)
    for _ in range(draw(st.integers(0, 3))):
        at, length = draw(st.integers(0, len(content))), draw(st.integers(0, 40))
        content = content[:at] + draw(st.binary(max_size=8)) + content[at + length :]
    return f"t.{kind}{end}", content


@tried(60)
@given(damaged())
def test_a_damaged_file_is_read_or_refused_in_one_line(case: tuple[str, bytes]) -> None:
    name, content = case
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        (Path(folder) / "corpus.jsonl").write_bytes(content)
        readers: list[Callable[[], object]] = [
            lambda: read_texts(path, columns=None, minimum=0, cache_dir=folder),
            lambda: list(open_texts(str(path))),
            lambda: read_pairs(path, ("a", "b", "score")),
            lambda: read_beir(folder),
            lambda: read_documents(path, cache_dir=folder),
        ]
        for read in readers:
            try:
                read()
            except UserError as error:
                assert "\n" not in str(error) and len(str(error)) < 5000
        assert not [left.name for left in Path(folder).iterdir() if left.suffix == ".part"]


@tried(60)
@given(st.binary(max_size=200))
def test_no_line_of_a_text_is_lost(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.txt"
        path.write_bytes(b"x" + content)  # no mark of an encoding or a packing
        lines = (b"x" + content).split(b"\n")
        lines = lines[:-1] if not lines[-1] else lines
        _, report = read_texts(path, minimum=0, cache_dir=folder)
        assert report.kept + report.empty + report.not_utf8 == len(lines)


@tried(60)
@given(st.text(max_size=300), st.sampled_from(["en", "de", "zh", "th", "xx"]))
def test_sentences_hold_every_character(text: str, language: str) -> None:
    sentences = split_sentences([Block(text)], language)
    assert "".join("".join(sentences).split()) == "".join(text.split())


@tried(60)
@given(
    st.text(alphabet="[]{}<>()`*_~|+-=:.,;\"'#&!$ \n\tabc1\\/é中", max_size=400),
    st.sampled_from(["plain", "markdown", "rst", "html"]),
)
def test_any_markup_gives_blocks(text: str, kind: str) -> None:
    prose = prose_of(text, kind)  # type: ignore[arg-type]
    assert all(block.text.strip() for block in prose.blocks)


@tried(20)
@given(st.lists(st.text(max_size=60), max_size=12))
def test_every_document_is_counted(texts: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        counts = documents_of(texts, cache_dir=folder).counts
    dropped = counts.empty + counts.equal + counts.near_duplicates + counts.only_repeated
    assert counts.documents + dropped == len(texts)
