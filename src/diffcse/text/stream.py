"""The texts of a file, one per line or row, for verbs that read once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from diffcse.errors import UserError
from diffcse.text.dataset import choose_columns
from diffcse.text.sources import Source, find_sources
from diffcse.text.standard_input import STDIN, Pipe

_LONGEST = 400_000
"""Bytes that are read of one text; no encoder reads as many."""

_SURROGATES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True)
class Texts:
    """The texts of a file, one per line or row, each time it is iterated.

    Attributes:
        name: as the user knows it.
        sources: the files.
        columns: the text column of each.
        skip_blank: leave out blank texts instead of giving a vector to each line.
    """

    name: str
    sources: list[Source]
    columns: list[tuple[str, ...]]
    skip_blank: bool = False

    def __iter__(self) -> Iterator[str]:
        for source, columns in zip(self.sources, self.columns, strict=True):
            for _, (text,) in source.rows(columns, _LONGEST):
                if not self.skip_blank or (text or "").strip():
                    yield text or ""

    def count(self) -> int | None:
        """How many there are, by reading all of them; None for standard input, which can be read only once.

        Raises:
            UserError: there are none, or the file is damaged.
        """
        if self.name == STDIN:
            return None
        total = sum(1 for _ in self)
        if not total:
            raise UserError(self.name, "a text with at least one line", "an empty file", "give another file")
        return total


def readable(texts: Iterable[str]) -> tuple[list[str], int]:
    """All of them `repaired`, and how many needed it."""
    raw = list(texts)
    clean = [repaired(text) for text in raw]
    return clean, sum(text != before for text, before in zip(clean, raw, strict=True))


def repaired(text: str) -> str:
    """The text with a replacement character for each byte that was not UTF-8."""
    return _SURROGATES.sub("\ufffd", text)


def open_texts(source: str, *, column: str | None = None, skip_blank: bool = False) -> Texts:
    """Look at the head of a file: plain text, csv, tsv, jsonl or Parquet, any of them gzipped, or `-`.

    Args:
        source: path, glob, or `-` for plain text on standard input.
        column: the text column of a table; needed where several could be meant.
        skip_blank: leave out blank texts.

    Raises:
        UserError: missing, unreadable, or without one column of text.
    """
    if source == STDIN:
        if column is not None:
            do = "remove it, or name a file"
            raise UserError("column", "left out for standard input, which is plain text", column, do)
        return Texts(name=STDIN, sources=[Pipe(Path(STDIN))], columns=[("",)], skip_blank=skip_blank)
    sources = find_sources([source])
    chosen = choose_columns(sources, None if column is None else (column,))
    if len(chosen[0]) != 1:
        raise UserError(source, "read with one column", ", ".join(chosen[0]), "choose one with --column")
    return Texts(name=source, sources=sources, columns=chosen, skip_blank=skip_blank)
