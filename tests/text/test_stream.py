from __future__ import annotations

import gzip
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from diffcse.errors import UserError
from diffcse.text.dataset import read_texts
from diffcse.text.standard_input import STDIN
from diffcse.text.stream import open_texts


@contextmanager
def standard_input(descriptor: int) -> Iterator[None]:
    """Descriptor 0 is a copy of another one for as long as the block runs."""
    before = os.dup(0)
    os.dup2(descriptor, 0)
    try:
        yield
    finally:
        os.dup2(before, 0)
        os.close(before)


def read(path: Path) -> list[str]:
    with path.open("rb") as file, standard_input(file.fileno()):
        return list(open_texts(STDIN))


def test_lines_that_were_read_before_do_not_come_back(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"read away\nthe cat\nthe dog")
    with (tmp_path / "a.txt").open("rb") as file, standard_input(file.fileno()):
        os.read(0, len(b"read away\n"))
        assert list(open_texts(STDIN)) == ["the cat", "the dog"]


def test_a_socket_is_read() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b"the cat\nthe dog\n")
        ours.shutdown(socket.SHUT_WR)
        with standard_input(theirs.fileno()):
            assert list(open_texts(STDIN)) == ["the cat", "the dog"]


def test_the_descriptor_stays_open(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"the cat\n")
    with (tmp_path / "a.txt").open("rb") as file, standard_input(file.fileno()):
        list(open_texts(STDIN))
        assert os.fstat(0).st_size == 8


def test_a_mark_and_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfthe cat\r\ncaf\xe9\n")
    assert read(tmp_path / "a.txt") == ["the cat", "caf\udce9"]


def test_packed_text_on_standard_input_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"the cat\n"))
    with pytest.raises(UserError, match="standard input must be text; got gzip data; unpack it first: gunzip -c"):
        read(tmp_path / "a.gz")


def test_a_folder_as_standard_input_is_one_line(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        with (
            standard_input(folder),
            pytest.raises(UserError, match="standard input must be open for reading; got Is a"),
        ):
            list(open_texts(STDIN))
    finally:
        os.close(folder)


def test_standard_input_is_read_by_whoever_reads_twice(tmp_path: Path) -> None:
    """The same content gives the same rows of the cache, whatever file it went through."""
    (tmp_path / "a.txt").write_bytes(b"the cat\n\nthe dog\n")
    rows = []
    for sources in (["-"], "-"):
        with (tmp_path / "a.txt").open("rb") as file, standard_input(file.fileno()):
            rows.append(read_texts(sources, cache_dir=tmp_path / "cache"))
    (first, report), (second, _) = rows
    assert first["text0"][:] == second["text0"][:] == ["the cat", "the dog"]
    assert (report.files, report.kept) == (1, 2)
    assert sum(path.is_dir() for path in (tmp_path / "cache").iterdir()) == 1


def test_standard_input_has_no_columns(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"the cat\nthe dog\n")
    with pytest.raises(UserError, match="column must be left out for standard input, which is plain text; got text; "):
        open_texts(STDIN, column="text")
    with (tmp_path / "a.txt").open("rb") as file, standard_input(file.fileno()):
        with pytest.raises(UserError, match=r"columns must be used with tables \(\.txt files"):
            read_texts("-", columns="text", cache_dir=tmp_path)
