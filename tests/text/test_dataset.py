from __future__ import annotations

import bz2
import csv
import gzip
import json
import logging
import lzma
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from diffcse.errors import UserError
from diffcse.text import cache as cache_module
from diffcse.text import dataset as data
from diffcse.text.dataset import ReadReport, choose_columns, read_texts, tokenise, tokenizer_identity
from diffcse.text.sources import find_sources
from tests import tiny
from tests.text.tables import write_table

LINES = ["One sentence.", "Another, with a comma.", 'A "third" one — with ümlauts.']
PAIRS = {"first": ["a b", "c d", "e f"], "second": ["b a", "d c", "f e"], "score": [1, 2, 3]}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@contextmanager
def unprivileged() -> Iterator[Path]:
    """A folder of an ordinary user, as whom the block runs even where the tests run as root."""
    with tempfile.TemporaryDirectory() as name:
        folder, root = Path(name), os.geteuid() == 0
        if root:
            os.chown(folder, 65534, 65534)
            os.seteuid(65534)
        try:
            yield folder
        finally:
            if root:
                os.seteuid(0)


# Formats


@pytest.mark.parametrize("packed", ["", ".gz"])
def test_text_is_a_sentence_a_line(tmp_path: Path, cache: Path, packed: str) -> None:
    content = "\n".join(LINES).encode()
    path = tmp_path / f"a.txt{packed}"
    path.write_bytes(gzip.compress(content, mtime=0) if packed else content)
    rows, report = read_texts([path], cache_dir=cache)
    assert list(rows["text0"]) == LINES and rows.column_names == ["text0"]
    assert report == ReadReport(files=1, kept=3) and report.summary() == "3 sentences from 1 file"


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_every_table_gives_the_same_rows(tmp_path: Path, cache: Path, kind: str, packed: str) -> None:
    path = write_table(tmp_path / f"t.{kind}{packed}", {"text": LINES, "label": [1, 2, 3]})
    assert list(read_texts(path, columns="text", cache_dir=cache)[0]["text0"]) == LINES
    pairs = write_table(tmp_path / f"p.{kind}{packed}", PAIRS)
    rows, report = read_texts(pairs, columns=["second", "first"], cache_dir=cache)
    assert rows.to_dict() == {"text0": PAIRS["second"], "text1": PAIRS["first"]}
    assert report.summary() == "3 pairs from 1 file"


def test_csv_fields_may_hold_commas_quotes_and_line_breaks(tmp_path: Path, cache: Path) -> None:
    texts = ["a\nb", 'x, "y"', "z\r\nw", "NA"]
    path = write_table(tmp_path / "t.csv", {"text": texts, "other": list("1234")})
    assert list(read_texts(path, cache_dir=cache)[0]["text0"]) == texts


@pytest.mark.parametrize(
    ("content", "separator", "rows"),
    [
        ("id;text\n0;One, two.\n1;Three, four.\n", ";", ["One, two.", "Three, four."]),
        ('id;text\n0;"One; two."\n1;"Three\nfour."\n', ";", ["One; two.", "Three\nfour."]),
        ("id\ttext\n0\tOne.\n1\tTwo.\n", "\t", ["One.", "Two."]),
        ("id|text\n0|One.\n\n1|Two.\n", "|", ["One.", "Two."]),
        ("id,text\n0,One; two.\n1,Three; four.\n", ",", ["One; two.", "Three; four."]),
        ("text\nOne; two.\nThree.\n", ",", ["One; two.", "Three."]),
        ('id;text\n0;5" pipe\n1;"Two"\n', ";", ['5" pipe', "Two"]),
    ],
)
def test_the_separator_of_csv_is_found(
    tmp_path: Path, cache: Path, content: str, separator: str, rows: list[str]
) -> None:
    (tmp_path / "a.csv").write_text(content, encoding="utf-8", newline="")
    (source,) = find_sources([tmp_path / "a.csv"])
    assert source.separator == separator  # type: ignore[attr-defined]
    assert read_texts([tmp_path / "a.csv"], columns=["text"], cache_dir=str(cache))[0]["text0"][:] == rows


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_what_was_taken_for_a_header_is_said(
    tmp_path: Path, cache: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / name).write_text("The first sentence.\nThe second one.\nThe third one.\n")
    with caplog.at_level(logging.WARNING):
        assert read_texts([tmp_path / name], cache_dir=cache)[1].kept == 2
    assert caplog.messages == [f"{tmp_path / name}: line 1 is the header: 'The first sentence.'"]


def test_a_csv_whose_rows_no_separator_cuts_evenly_is_refused(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "a.csv").write_text("id;text\n0;One, two.\n1;Three; four.\n")
    with pytest.raises(UserError, match="must be a row of 1 columns; got 2; put quotes around a field"):
        read_texts([tmp_path / "a.csv"], cache_dir=cache)


def test_tsv_takes_a_lone_quote_as_it_stands(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "t.tsv"
    path.write_text('text\tid\n"Unclosed, he said\t1\n"whole ""field"""\t2\n6" pipe\t3\n')
    assert list(read_texts(path, cache_dir=cache)[0]["text0"]) == ['"Unclosed, he said', 'whole "field"', '6" pipe']


@pytest.mark.parametrize("kind", ["large_string", "string_view", "dictionary"])
def test_parquet_strings_of_every_kind(tmp_path: Path, cache: Path, kind: str) -> None:
    column = pa.array(LINES)
    column = column.dictionary_encode() if kind == "dictionary" else column.cast(getattr(pa, kind)())
    pq.write_table(pa.table({"anything": column, "n": [1, 2, 3]}), tmp_path / "t.parquet")
    assert list(read_texts(tmp_path / "t.parquet", cache_dir=cache)[0]["text0"]) == LINES


def test_several_files_and_globs_in_order_each_once(tmp_path: Path, cache: Path) -> None:
    for name in ("b", "a", "c"):
        (tmp_path / f"{name}.txt").write_text(f"from {name}\n")
    write_table(tmp_path / "d.jsonl", {"text": ["from d"]})
    (tmp_path / "folder.txt").mkdir()
    given = [tmp_path / "c.txt", str(tmp_path / "*.txt"), tmp_path / "d.jsonl"]
    rows, report = read_texts(given, cache_dir=cache)
    assert list(rows["text0"]) == ["from c", "from a", "from b", "from d"]
    assert report.summary() == "4 sentences from 4 files"


def test_a_name_with_glob_characters_is_a_file_first(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "a[1].txt").write_text("x\ny\n")
    assert len(read_texts(tmp_path / "a[1].txt", cache_dir=cache)[0]) == 2


# Columns


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["review"], ["review"]),
        (["title", "text"], ["text"]),
        (["sentence", "other"], ["sentence"]),
        (["sent0", "sent1"], ["sent0", "sent1"]),
        (["hard_neg", "sent1", "sent0"], ["sent0", "sent1", "hard_neg"]),
    ],
)
def test_default_columns(tmp_path: Path, cache: Path, names: list[str], chosen: list[str]) -> None:
    table = {name: [f"{name} {i}" for i in range(3)] for name in names}
    rows, _ = read_texts(write_table(tmp_path / "t.parquet", {**table, "n": [1, 2, 3]}), cache_dir=cache)
    assert list(rows.to_dict().values()) == [table[name] for name in chosen]


def test_a_row_with_a_blank_column_is_dropped(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "t.jsonl"
    lines = [
        '{"a": "x", "b": "y"}',
        '{"a": "x", "b": null}',
        '{"a": "x"}',
        '{"a": " ", "b": "y"}',
        "",
        '{"a":"1","b":"2"}',
    ]
    path.write_text("\n".join(lines))
    rows, report = read_texts(path, columns=["a", "b"], cache_dir=cache)
    assert rows.to_dict() == {"text0": ["x", "1"], "text1": ["y", "2"]}
    assert report == ReadReport(files=1, columns=2, kept=2, empty=4)


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_wrong_columns_are_named_with_those_that_exist(tmp_path: Path, cache: Path, kind: str) -> None:
    path = write_table(tmp_path / f"t.{kind}", PAIRS)
    with pytest.raises(UserError, match=r"columns must be among first, second, score; got third"):
        read_texts(path, columns=["first", "third"], cache_dir=cache)
    with pytest.raises(UserError, match=r"columns must be named .* got first, second, score; name one"):
        read_texts(path, cache_dir=cache)


def test_columns_must_hold_text(tmp_path: Path, cache: Path) -> None:
    for kind in ("jsonl", "parquet"):
        with pytest.raises(UserError, match=r"column score must be text"):
            read_texts(write_table(tmp_path / f"t.{kind}", PAIRS), columns="score", cache_dir=cache)
    (tmp_path / "u.jsonl").write_text('{"text": "a"}\n{"text": ["b"]}\n')
    with pytest.raises(UserError, match=r"u.jsonl line 2: text must be text; got \['b'\]"):
        read_texts(tmp_path / "u.jsonl", cache_dir=cache)


@pytest.mark.parametrize("columns", [[], ["a", "a"], ["a", "b", "c", "d"]])
def test_one_to_three_different_columns(tmp_path: Path, columns: list[str]) -> None:
    with pytest.raises(UserError, match="columns must be one, two or three different names"):
        read_texts(write_table(tmp_path / "t.csv", PAIRS), columns=columns)


def test_files_must_agree_on_the_number_of_columns_before_anything_is_read(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "a.txt").write_text("x\ny\n")
    pairs = write_table(tmp_path / "p.csv", PAIRS)
    with pytest.raises(UserError, match=r"p.csv must be read with 1 column, as .*a.txt is; got first, second"):
        read_texts([tmp_path / "a.txt", pairs], columns=["first", "second"], cache_dir=cache)
    with pytest.raises(UserError, match=r"a.txt must be read with 2 columns, as .*p.csv is; got a line of text"):
        read_texts([pairs, tmp_path / "a.txt"], columns=["first", "second"], cache_dir=cache)
    with pytest.raises(UserError, match=r"columns must be used with tables \(\.txt files have no columns\)"):
        read_texts(tmp_path / "a.txt", columns="text", cache_dir=cache)
    assert choose_columns(find_sources([tmp_path / "a.txt", pairs]), ("first",)) == [("",), ("first",)]


# Text that is not as it should be


def test_faults_in_lines_are_skipped_or_repaired_and_counted(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_bytes(
        b"\xef\xbb\xbffirst\r\n"  # byte order mark, Windows line end
        b"\n   \r\n\0\0\n"  # three that are empty
        b"caf\xe9\n"  # latin-1
        b"\xed\xa0\x80\n"  # a surrogate in UTF-8's clothes
        b"nul\0 inside\n" + "two\u2028parts\x85\rof one\n".encode() + b"last, without an end"
    )
    rows, report = read_texts(path, cache_dir=cache)
    assert list(rows["text0"]) == ["first", "nul inside", "two\u2028parts\x85\rof one", "last, without an end"]
    assert report == ReadReport(files=1, kept=4, empty=3, not_utf8=2, nul=1)
    assert report.summary() == "4 sentences from 1 file; skipped 3 empty, 2 not UTF-8; removed NULs from 1"


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_faults_in_tables_are_skipped_or_repaired_and_counted(tmp_path: Path, cache: Path, kind: str) -> None:
    path = tmp_path / f"t.{kind}"
    texts = [b"good", b"caf\xe9", b"nul\0 inside", b"  ", "gut—gut".encode()]
    if kind == "parquet":
        raw = pa.array(texts, pa.binary())
        pq.write_table(pa.table({"text": pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())}), path)
    elif kind == "jsonl":
        path.write_bytes(b"".join(b'{"text": "%s"}\n' % text for text in texts))
    else:
        path.write_bytes(b"\xef\xbb\xbftext\r\n" + b"".join(text + b"\r\n" for text in texts))
    rows, report = read_texts(path, cache_dir=cache)
    assert list(rows["text0"]) == ["good", "nul inside", "gut—gut"]
    assert report == ReadReport(files=1, kept=3, empty=1, not_utf8=1, nul=1)


def test_json_escapes_of_lone_surrogates_and_nuls(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"text": "a"}\n{"text": "\\ud800"}\n{"text": "b\\u0000"}\n')
    rows, report = read_texts(tmp_path / "t.jsonl", cache_dir=cache)
    assert list(rows["text0"]) == ["a", "b"] and (report.not_utf8, report.nul) == (1, 1)


@pytest.mark.parametrize("end", [b"\n", b""])
def test_the_cut_counts_characters_not_bytes(tmp_path: Path, cache: Path, end: bytes) -> None:
    path = tmp_path / "t.txt"
    path.write_bytes("𠀀𠀁𠀂\n𠀀𠀁𠀂𠀃\n𠀀𠀁𠀂𠀃𠀄\n".encode() + b"abcdefghi" * 10_000 + end)
    rows, report = read_texts(path, max_characters=4, cache_dir=cache)
    assert list(rows["text0"]) == ["𠀀𠀁𠀂", "𠀀𠀁𠀂𠀃", "𠀀𠀁𠀂𠀃", "abcd"]
    assert report.cut == 2 and report.summary().endswith("; cut 2 too long")


@pytest.mark.parametrize("kind", ["txt", "txt.gz", "csv", "tsv", "jsonl", "parquet"])
def test_a_line_of_ten_million_characters_is_cut(tmp_path: Path, cache: Path, kind: str) -> None:
    texts, path = ["short", "é" * 10_000_000, "also short"], tmp_path / f"t.{kind}"
    if "txt" in kind:
        content = "\n".join(texts).encode()
        path.write_bytes(gzip.compress(content, 1, mtime=0) if kind.endswith("gz") else content)
    else:
        write_table(path, {"text": texts})
    start = time.perf_counter()
    rows, report = read_texts(path, cache_dir=cache)
    assert time.perf_counter() - start < 10
    assert [len(text) for text in rows["text0"]] == [5, 100_000, 10] and report.cut == 1
    assert csv.field_size_limit() == 131_072  # csv's own limit is as it was


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("t.txt", b"", r"the text must be at least 2 rows; got 0 sentences from 1 file; add sentences"),
        ("t.txt", b"\n \n\r\n", r"at least 2 rows; got 0 sentences from 1 file; skipped 3 empty"),
        ("t.txt", b"only one\n", r"at least 2 rows; got 1 sentence from 1 file; add sentences"),
        ("t.txt", gzip.compress(b"a\nb\n", mtime=0), r"t.txt must be text; got gzip data; end its name in .gz"),
        ("t.txt.gz", b"a\nb\n", r"t.txt.gz must be a whole gzip file; got Not a gzipped file"),
        ("t.txt.gz", gzip.compress(os.urandom(9999))[:5000], r"t.txt.gz must be a whole gzip file; got Compressed"),
        ("t.txt.gz", gzip.compress(b"a" * 99, mtime=0)[:12] + b"\xff" * 20, r"t.txt.gz must be a whole gzip file"),
        ("t.csv", b"", r"t.csv must be a table with a header; got an empty file"),
        ("t.csv", b"text\n", r"at least 2 rows; got 0 sentences"),
        ("t.csv", b"a,b\n1,2\n1,2,3\n", r"t.csv line 3 must be a row of 2 columns; got 3; put quotes"),
        (
            "t.csv",
            b'a\n"x\ny"\n"never\nclosed\n',
            r"t.csv line 4 must be a well-formed row; got a quote is never",
        ),
        ("t.csv", b'"a\nb\n', r"t.csv line 1 must be a well-formed row; got a quote is never closed"),
        ("t.tsv", b"", r"t.tsv must be a table with a header; got an empty file"),
        ("t.tsv", b"a\tb\nx\n", r"t.tsv line 2 must be a row of 2 columns; got 1"),
        ("t.jsonl", b"", r"t.jsonl must be a JSON object per line; got an empty file"),
        (
            "t.jsonl",
            b'{"a": "x"}\n\n{"a": oops}\n',
            r"t.jsonl line 3 must be a JSON object; got {.*oops}; .*char 6",
        ),
        ("t.jsonl", b'["a"]\n', r"t.jsonl line 1 must be a JSON object; got \[\"a\"\]; write"),
        ("t.jsonl", b"[" * 100_000, r"t.jsonl line 1 must be a JSON object; got \[\[\["),
        ("t.parquet", b"", r"t.parquet must be a whole file that can be read"),
        ("t.parquet", b"PAR1 nothing of the kind PAR1", r"t.parquet must be a whole file that can be read"),
        ("t.docx", b"x", r"t.docx: the name's end must be one of .txt, .csv, .* got .docx; convert"),
        ("t", b"x", r"/t: the name's end must be one of .* got none"),
        ("t.gz", b"x", r"t.gz: the name's end must be one of .* got none"),
        ("t.txt", bz2.compress(b"a"), r"t.txt must be text; got bzip2 data; end its name in .bz2"),
        ("t.txt", lzma.compress(b"a"), r"t.txt must be text; got xz data; end its name in .xz"),
        ("t.txt", b"PK\x03\x04", r"t.txt must be text; got a zip archive; unpack it first"),
        ("t.txt", b"%PDF-1.7", r"t.txt must be text; got a PDF file; convert it to text first"),
        ("t.txt.bz2", bz2.compress(os.urandom(9999))[:5000], r"t.txt.bz2 must be a whole bzip2 file"),
        ("t.txt.xz", lzma.compress(os.urandom(9999))[:5000], r"t.txt.xz must be a whole xz file"),
        ("t.txt.xz", b"nothing of the kind", r"t.txt.xz must be a whole xz file"),
        ("t.txt.zst", zstandard.compress(os.urandom(9999))[:5000], r"t.txt.zst must be a whole Zstandard file"),
        ("t.txt.zst", b"nothing of the kind", r"t.txt.zst must be a whole Zstandard file"),
        ("t.json", b"{oops", r"t.json line 1 must be a JSON object; got {oops"),
        ("t.json", b"", r"t.json must be a JSON object per line; got an empty file"),
    ],
)
def test_a_bad_file_is_one_clear_line(tmp_path: Path, cache: Path, name: str, content: bytes, line: str) -> None:
    (tmp_path / name).write_bytes(content)
    columns = "a" if content.startswith(b"a,b") or content.startswith(b"a\tb") else None
    with pytest.raises(UserError, match=line) as caught:
        read_texts(tmp_path / name, columns=columns, cache_dir=cache)
    assert "\n" not in str(caught.value)


def test_damage_in_the_middle_of_a_parquet_file(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"text": [os.urandom(50).hex() for _ in range(5000)]}), path, compression="snappy")
    content = bytearray(path.read_bytes())
    content[50_000:150_000] = b"\xff" * 100_000
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"t.parquet must be a whole file that can be read"):
        read_texts(path, cache_dir=cache)
    assert not [path for path in cache.iterdir() if path.is_dir()]


def test_a_row_of_more_than_64_mib_is_refused(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "t.jsonl"
    with path.open("wb") as file:
        file.write(b'{"text": "a"}\n{"text": "')
        file.truncate(70 * 2**20)
    with pytest.raises(UserError, match=r"t.jsonl line 2 must be shorter than 64 MiB"):
        read_texts(path, cache_dir=cache)


def test_what_is_not_a_file(tmp_path: Path, cache: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    for given, line in [
        (tmp_path, r"must be a file or a glob; got a folder; name its files, for example '.*/\*\.txt'"),
        (tmp_path / "none.txt", r"none.txt must be an existing file .*; got nothing of that name"),
        ("none.txt", r"^none.txt must be an existing file"),
        (str(tmp_path / "*.txt.gz"), r"got nothing of that name"),
        (tmp_path / "pipe.txt", r"pipe.txt must be a regular file; got a pipe or a device"),
    ]:
        with pytest.raises(UserError, match=line):
            read_texts([given], cache_dir=cache)
    with pytest.raises(UserError, match="sources must be at least one file"):
        read_texts([], cache_dir=cache)


def test_a_file_that_may_not_be_read() -> None:
    with unprivileged() as folder:
        for name in ("t.txt", "t.csv", "t.parquet"):
            path = folder / name
            path.write_text("text\na\nb\n")
            path.chmod(0)
            with pytest.raises(UserError, match=rf"{name} must be a file that you may read; got no permission"):
                read_texts(path, cache_dir=folder / "cache")


def test_minimum_is_checked_on_cached_text_too(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "t.txt").write_text("one\n")
    assert len(read_texts(tmp_path / "t.txt", minimum=1, cache_dir=cache)[0]) == 1
    with pytest.raises(UserError, match="at least 2 rows; got 1 sentence"):
        read_texts(tmp_path / "t.txt", cache_dir=cache)
    with pytest.raises(UserError, match="max_characters must be at least 1"):
        read_texts(tmp_path / "t.txt", max_characters=0)


# The Hub


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")
    return tmp_path / "hub"


@pytest.mark.parametrize("name", ["owner/name", "owner/name:test", "somename"])
def test_a_hub_dataset_out_of_reach_says_what_to_do(offline: Path, cache: Path, name: str) -> None:
    line = "must be an existing file or a Hub dataset within reach; .*offline, download its files"
    with pytest.raises(UserError, match=f"^{name.split(':')[0]} {line}"):
        read_texts(name, cache_dir=cache)


def test_a_hub_dataset_is_read_by_datasets(offline: Path, cache: Path, tmp_path: Path) -> None:
    # What `datasets` keeps of owner/name once it was downloaded: made by its own JSON builder, then renamed.
    write_table(tmp_path / "t.jsonl", {"text": LINES, "n": [1, 2, 3]})
    datasets.load_dataset("json", data_files={"test": str(tmp_path / "t.jsonl")}, cache_dir=str(offline))
    (built,) = offline.glob("json/*/*/*/")
    info = json.loads((built / "dataset_info.json").read_text())
    (built / "dataset_info.json").write_text(json.dumps({**info, "dataset_name": "name", "config_name": "default"}))
    (built / "json-test.arrow").rename(built / "name-test.arrow")
    target = offline / "owner___name" / "default" / built.parent.name / built.name
    target.parent.mkdir(parents=True)
    built.rename(target)
    rows, report = read_texts("owner/name:test", cache_dir=cache)
    assert list(rows["text0"]) == LINES and report.kept == 3
    with pytest.raises(UserError, match=r"owner/name must be .* within reach; got ValueError: Unknown split"):
        read_texts("owner/name", cache_dir=cache)


# The cache


def test_a_second_call_reads_nothing(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.txt").write_text("a\n\nb\n")
    rows, report = read_texts(tmp_path / "t.txt", cache_dir=cache)
    assert rows.cache_files[0]["filename"].startswith(str(cache))  # memory-mapped from there
    monkeypatch.setattr(data, "write_arrow", None)
    again, same = read_texts([str(tmp_path / "t.txt")], cache_dir=cache)
    assert again.to_dict() == rows.to_dict() and same == report and again._fingerprint == rows._fingerprint


def test_changed_files_and_settings_are_read_again(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_text("aaa\nbbb\n")
    first = read_texts(path, cache_dir=cache)[0]
    path.write_text("ccc\nddd\n")
    os.utime(path, ns=(1, 1))  # the same size, another time
    assert list(read_texts(path, cache_dir=cache)[0]["text0"]) == ["ccc", "ddd"]
    assert list(read_texts(path, max_characters=1, cache_dir=cache)[0]["text0"]) == ["c", "d"]
    assert list(first["text0"]) == ["aaa", "bbb"]


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.txt").write_text("a\nb\nc\n")

    def interrupted(text: str) -> bool:
        if text == "c":
            raise KeyboardInterrupt("by the user")
        return True

    with monkeypatch.context() as patch:
        patch.setattr(data, "is_utf8", interrupted)
        with pytest.raises(KeyboardInterrupt, match="by the user"):
            read_texts(tmp_path / "t.txt", cache_dir=cache)
    assert not [path for path in cache.iterdir() if path.is_dir()]
    assert len(read_texts(tmp_path / "t.txt", cache_dir=cache)[0]) == 3


def test_a_killed_write_is_written_again(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "t.txt").write_text("".join(f"sentence {i}\n" for i in range(20_000)))
    program = (
        "import os, signal, sys; from diffcse.text import dataset as data; whole = data.batches\n"
        "def first(rows, size):\n    yield next(whole(rows, size)); os.kill(os.getpid(), signal.SIGKILL)\n"
        "data.batches = first; data.read_texts(sys.argv[1], cache_dir=data.Path(sys.argv[2]))"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(tmp_path / "t.txt"), str(cache)])
    assert killed.returncode == -signal.SIGKILL
    assert len([path for path in cache.iterdir() if path.suffix == ".part"]) == 1
    assert len(read_texts(tmp_path / "t.txt", cache_dir=cache)[0]) == 20_000
    assert not [path for path in cache.iterdir() if path.suffix == ".part"]


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_entry_is_written_again(tmp_path: Path, cache: Path, damage: str) -> None:
    (tmp_path / "t.txt").write_text("".join(f"sentence {i}\n" for i in range(30_000)))
    read_texts(tmp_path / "t.txt", cache_dir=cache)
    (table,) = cache.glob("*/data.arrow")
    if damage == "cut":
        os.truncate(table, table.stat().st_size // 2)
    else:
        table.unlink()
    rows = read_texts(tmp_path / "t.txt", cache_dir=cache)[0]
    assert len(rows) == 30_000 and rows[29_999]["text0"] == "sentence 29999"


def test_of_several_that_want_the_same_one_makes_it(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t.txt").write_text("a\nb\n")
    made, make = [], cache_module._make

    def slow(*args):
        made.append(args)
        time.sleep(0.2)
        return make(*args)

    monkeypatch.setattr(cache_module, "_make", slow)
    lengths: list[int] = []
    want = [
        threading.Thread(target=lambda: lengths.append(len(read_texts(tmp_path / "t.txt", cache_dir=cache)[0])))
        for _ in range(4)
    ]
    for thread in want:
        thread.start()
    for thread in want:
        thread.join()
    assert lengths == [2] * 4 and len(made) == 1


def test_a_cache_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("a\nb\n")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"the cache .* must be a folder that can be written to; .* name another"):
        read_texts(tmp_path / "t.txt", cache_dir=tmp_path / "file")


def test_a_cache_folder_that_is_read_only_still_serves() -> None:
    with unprivileged() as folder:
        (folder / "t.txt").write_text("a\nb\n")
        read_texts(folder / "t.txt", cache_dir=folder / "cache")
        (folder / "cache").chmod(0o555)
        assert len(read_texts(folder / "t.txt", cache_dir=folder / "cache")[0]) == 2
        with pytest.raises(UserError, match=r"must be a folder that can be written to; got .*Permission denied"):
            read_texts(folder / "t.txt", max_characters=9, cache_dir=folder / "cache")
        (folder / "cache").chmod(0o755)


def test_memory_is_bounded_by_the_batch_not_the_text() -> None:
    rows = [("x" * 1000,)] * 5000 + [("y",)] * 25_000
    batches = list(data.batches(iter(rows), data._size))
    assert [row for batch in batches for row in batch] == rows
    assert max(map(len, batches)) == 10_000
    assert max(sum(len(text) for (text,) in batch) for batch in batches) < 2**20 + 1000


# Token ids


@pytest.fixture
def rows(tmp_path: Path, cache: Path) -> datasets.Dataset:
    return read_texts(tiny.write_sentences(tmp_path / "s.txt", 300), cache_dir=cache)[0]


def test_ids_are_those_of_the_tokenizer(rows: datasets.Dataset, cache: Path) -> None:
    tokenizer = tiny.tokenizer()
    ids = tokenise(rows, tokenizer, max_tokens=8, cache_dir=cache)
    assert ids.column_names == ["ids0"] and len(ids) == 300
    for text, row in zip(rows["text0"], ids["ids0"], strict=True):
        assert row == tokenizer(text, truncation=True, max_length=8)["input_ids"]
        assert len(row) <= 8 and row[0] == tokenizer.cls_token_id and row[-1] == tokenizer.sep_token_id
    assert ids.cache_files[0]["filename"].startswith(str(cache))


def test_every_column_is_tokenised(tmp_path: Path, cache: Path) -> None:
    table = {"sent0": ["the cat", "a dog"], "sent1": ["a cat", "the dog"], "hard_neg": ["rain", "sun and sky"]}
    triplets = read_texts(write_table(tmp_path / "n.csv", table), cache_dir=cache)[0]
    ids = tokenise(triplets, tiny.tokenizer(), max_tokens=5, cache_dir=cache)
    assert ids.to_dict() == {
        f"ids{i}": tiny.tokenizer()(texts, truncation=True, max_length=5)["input_ids"]
        for i, texts in enumerate(table.values())
    }


def test_ids_are_computed_once(rows: datasets.Dataset, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tiny.tokenizer()
    first = tokenise(rows, tokenizer, max_tokens=8, cache_dir=cache)
    tokenizer(["the cat", "a"], padding=True, truncation=True, max_length=4)  # changes the backend's settings
    monkeypatch.setattr(data, "write_arrow", None)
    assert tokenise(rows, tiny.tokenizer(), max_tokens=8, cache_dir=cache)._fingerprint == first._fingerprint
    assert tokenise(rows, tokenizer, max_tokens=8, cache_dir=cache)._fingerprint == first._fingerprint


def test_another_text_tokenizer_or_length_gives_other_ids(rows: datasets.Dataset, cache: Path) -> None:
    cased = type(tiny.tokenizer())(vocab=tiny.VOCABULARY, do_lower_case=False)
    left = tiny.tokenizer()
    left.truncation_side = "left"
    grown = tiny.tokenizer()
    grown.add_tokens(["mat."])
    assert len({tokenizer_identity(t) for t in (tiny.tokenizer(), cased, left, grown)}) == 4
    made = [
        tokenise(rows, tiny.tokenizer(), max_tokens=8, cache_dir=cache),
        tokenise(rows, tiny.tokenizer(), max_tokens=7, cache_dir=cache),
        tokenise(rows, left, max_tokens=8, cache_dir=cache),
        tokenise(rows.select(range(299, -1, -1)), tiny.tokenizer(), max_tokens=8, cache_dir=cache),
    ]
    assert len({ids._fingerprint for ids in made}) == 4
    assert made[0][299] == made[3][0] and made[0][0] != made[2][0]


def test_max_tokens_must_leave_room_for_a_word(rows: datasets.Dataset) -> None:
    with pytest.raises(UserError, match="max_tokens must be at least 3; got 2"):
        tokenise(rows, tiny.tokenizer(), max_tokens=2)


def test_damaged_facts_of_the_cache_are_made_again(tmp_path: Path, cache: Path) -> None:
    text = tiny.write_sentences(tmp_path / "t.txt", 5)
    first, report = read_texts(text, cache_dir=cache)
    (facts,) = cache.glob("text-*/facts.json")
    whole = facts.read_text()
    for damaged in (whole.replace('"cut"', '"c5t"'), whole.replace('"kept": 5', '"kept": 4'), "[]", "{}", '{"ro', ""):
        facts.write_text(damaged)
        again, counts = read_texts(text, cache_dir=cache)
        assert (again["text0"][:], counts) == (first["text0"][:], report) and facts.read_text() == whole
