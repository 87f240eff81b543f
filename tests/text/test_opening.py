"""One door for all readers: encodings, marks and packings are met alike in every verb."""

from __future__ import annotations

import lzma
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zstandard

from diffcse.errors import UserError
from diffcse.evaluation.beir import read_beir
from diffcse.evaluation.pairs import read_pairs
from diffcse.text.dataset import read_texts
from diffcse.text.documents import read_documents
from diffcse.text.stream import open_texts
from tests.text.tables import PACKINGS

ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-be-marked", "utf-32-be-marked"]
LINES = ["Über den Dächern ist es kühl.", "猫は静かに眠る。", "A third 😀 one."]
TABLE = "a,b,score\n" + "".join(f"{line},{line} Again.,{i}\n" for i, line in enumerate(LINES))


def encoded(text: str, encoding: str) -> bytes:
    if encoding.endswith("-marked"):
        return f"\ufeff{text}".encode(encoding.removesuffix("-marked"))
    return text.encode(encoding)


def by_dataset(folder: Path, end: str, write: Callable[[Path, str], None]) -> list[str]:
    write(folder / f"t.txt{end}", "\n".join(LINES))
    return read_texts(folder / f"t.txt{end}", cache_dir=folder / "cache")[0]["text0"][:]


def by_stream(folder: Path, end: str, write: Callable[[Path, str], None]) -> list[str]:
    write(folder / f"t.csv{end}", TABLE)
    return list(open_texts(str(folder / f"t.csv{end}"), column="a"))


def by_documents(folder: Path, end: str, write: Callable[[Path, str], None]) -> list[str]:
    write(folder / f"t.txt{end}", "\n".join(LINES))
    documents = read_documents(folder / f"t.txt{end}", cache_dir=folder / "cache")
    return [sentence for sentences in documents.dataset["sentences"] for sentence in sentences]


def by_pairs(folder: Path, end: str, write: Callable[[Path, str], None]) -> list[str]:
    write(folder / f"t.csv{end}", TABLE)
    pairs = read_pairs(folder / f"t.csv{end}", ("a", "b", "score"))
    np.testing.assert_array_equal(pairs.scores, [0, 1, 2])
    return pairs.first


def by_beir(folder: Path, end: str, write: Callable[[Path, str], None]) -> list[str]:
    (folder / "qrels").mkdir()
    write(folder / f"corpus.jsonl{end}", "".join(f'{{"_id": {i}, "text": "{t}"}}\n' for i, t in enumerate(LINES)))
    write(folder / f"queries.jsonl{end}", '{"_id": "q", "text": "Where?"}\n')
    write(folder / "qrels" / f"test.tsv{end}", "query-id\tcorpus-id\tscore\nq\t1\t1\n")
    return list(read_beir(folder).documents)


@pytest.mark.parametrize("read", [by_dataset, by_stream, by_documents, by_pairs, by_beir])
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("end", PACKINGS)
def test_every_reader_reads_the_same_lines(
    tmp_path: Path, end: str, encoding: str, read: Callable[[Path, str, Callable[[Path, str], None]], list[str]]
) -> None:
    def write(path: Path, text: str) -> None:
        path.write_bytes(PACKINGS[end](encoded(text, encoding)))

    assert read(tmp_path, end, write) == LINES


@pytest.mark.parametrize(
    ("encoding", "damage", "text"),
    [
        ("utf-16-le", b"\x00\xd8", "ab\udcffcd"),  # half of a surrogate pair
        ("utf-32-le", b"\xff\xff\xff\xff", "ab\udcffcd"),
    ],
)
def test_what_cannot_be_decoded_is_repaired_later(tmp_path: Path, encoding: str, damage: bytes, text: str) -> None:
    mark, (before, after) = "\ufeff".encode(encoding), ("ab".encode(encoding), "cd".encode(encoding))
    (tmp_path / "t.txt").write_bytes(mark + before + damage + after)
    assert list(open_texts(str(tmp_path / "t.txt"))) == [text]


def test_frames_of_zstandard_one_after_the_other(tmp_path: Path) -> None:
    frames = [zstandard.compress(text) for text in (b"a\nb\n", b"", b"c\n")]
    (tmp_path / "t.txt.zst").write_bytes(b"".join(frames))
    assert list(open_texts(str(tmp_path / "t.txt.zst"))) == ["a", "b", "c"]


def test_zstandard_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.txt.zst").write_bytes(zstandard.compress(b"a\n"))
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(UserError, match="read with the package zstandard; got no such package; pip install zstandard"):
        list(open_texts(str(tmp_path / "t.txt.zst")))


def test_a_large_packed_text_in_utf16_is_read_whole(tmp_path: Path) -> None:
    lines = [f"Zeile {i} über 😀 alles" for i in range(50_000)]
    (tmp_path / "t.txt.xz").write_bytes(lzma.compress("\r\n".join(lines).encode("utf-16"), preset=0))
    assert list(open_texts(str(tmp_path / "t.txt.xz"))) == lines


@pytest.mark.parametrize(
    ("content", "said", "texts"), [(b"a\rb\rc", True, ["a\rb\rc"]), (b"a\r\nb\r", False, ["a", "b"])]
)
def test_carriage_returns_that_end_no_line_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes, said: bool, texts: list[str]
) -> None:
    (tmp_path / "t.txt").write_bytes(content)
    assert list(open_texts(str(tmp_path / "t.txt"))) == texts
    line = f"{tmp_path / 't.txt'}: carriage returns alone end no line; to split there: mac2unix FILE"
    assert caplog.messages == [line] * said


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("t.csv", b"id,text\r1,a b\r2,c d\r", r"t.csv line 1 must be a well-formed row; got a carriage return without"),
        ("t.csv", b"text,text\na,b\n", r"t.csv: column text must be one column; got 2 of that name; rename one"),
        ("t.jsonl", b'{"text": 1}\n', r"t.jsonl: columns must be text, at least one of them; got text; turn the"),
        ("t.jsonl", b'{"text": ["a"], "n": 1}\n', r"t.jsonl: columns must be text, .*; got text, n; turn the column"),
        ("t.txt", None, r"t.txt must be an existing file; got a link that leads nowhere; check what the link"),
    ],
)
def test_what_no_reader_can_read_is_one_line(tmp_path: Path, name: str, content: bytes | None, line: str) -> None:
    if content is None:
        (tmp_path / name).symlink_to(tmp_path / "nowhere")
    else:
        (tmp_path / name).write_bytes(content)
    readers: list[Callable[[str], object]] = [lambda path: list(open_texts(path)), lambda path: read_texts(path)]
    for read in readers:
        with pytest.raises(UserError, match=line):
            read(str(tmp_path / name))
