"""Rows of text from files and from the Hub, one at a time, so that memory does not grow with the input.

A source names its columns before anything long is read, then yields its rows as they are. Bytes that are not UTF-8
come through as lone surrogates, which no good text holds; `diffcse.text.dataset` decides what becomes of them.
"""

from __future__ import annotations

import glob
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import datasets
import pyarrow as pa

from diffcse.connection import hub_or_cache
from diffcse.errors import UserError
from diffcse.text.opening import CHUNK, File, decode, lines, opened, suffix_of
from diffcse.text.tables import (
    ROWS,
    ArrowTable,
    CsvFile,
    JsonFile,
    JsonLinesFile,
    Numbered,
    ParquetFile,
    TsvFile,
    is_text,
)

log = logging.getLogger(__name__)

_HUB_NAME = re.compile(r"(?P<name>\w[\w.-]*(/\w[\w.-]*)?)(:(?P<split>.+))?")


class Source(Protocol):
    """A file or a Hub dataset."""

    @property
    def name(self) -> str:
        """The source as the user knows it."""

    @property
    def identity(self) -> tuple[Any, ...]:
        """Changes when the content does; cheap to make."""

    def columns(self) -> Mapping[str, bool] | None:
        """Every column and whether it holds text; None for plain text, which has no columns."""

    def rows(self, columns: Sequence[str], longest: int) -> Iterator[Numbered]:
        """Line number (in Parquet: row number), from 1, and the values of `columns`.

        A value may be cut once it is longer than `longest` bytes.
        """

    def values(self, columns: Sequence[str]) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """The same with values of any type, whole."""


class TextFile(File):
    r"""One sentence per line; only \n and \r\n end a line."""

    def _opened(self) -> AbstractContextManager[BinaryIO]:
        return opened(self.path)

    def columns(self) -> None:
        """None, after a look at the first line."""
        with self._opened() as file:
            first = next(lines(file, CHUNK), b"")
        if b"\r" in first[:-1] and not first.endswith(b"\n"):
            log.warning("%s: carriage returns alone end no line; to split there: mac2unix FILE", self.name)

    def rows(self, columns: Sequence[str], longest: int) -> Iterator[Numbered]:
        """Each line as a row of one; of a longer line, the first `longest` bytes."""
        with self._opened() as file:
            for number, line in enumerate(lines(file, longest), 1):
                yield number, (decode(line.removesuffix(b"\n").removesuffix(b"\r")),)

    def values(self, columns: Sequence[str]) -> Iterator[Numbered]:
        """For each line no value, as there are no columns."""
        return ((number, ()) for number, _ in self.rows(columns, 1))


@dataclass(frozen=True)
class HubDataset(ArrowTable):
    """One split of a Hub dataset, downloaded and cached by `datasets`."""

    name: str
    split: str

    @cached_property
    def _loaded(self) -> datasets.Dataset:
        with hub_or_cache() as problem:
            try:
                return datasets.load_dataset(self.name, split=self.split)
            except (OSError, ValueError, RuntimeError) as error:  # no network, no such dataset, split or configuration
                absent = problem and isinstance(error, ConnectionError)
                got = f"nothing in the cache, and {problem}" if absent else f"{type(error).__name__}: {error}"
                do = "check the name (name:split); offline, download its files elsewhere and give their paths"
                raise UserError(self.name, "an existing file or a Hub dataset within reach", got, do) from error

    @property
    def identity(self) -> tuple[Any, ...]:
        """Name, split and the fingerprint of the downloaded data."""
        return self.name, self.split, self._loaded._fingerprint

    def columns(self) -> Mapping[str, bool]:
        """The dataset's columns."""
        return {field.name: is_text(field.type) for field in self._loaded.features.arrow_schema}

    def batches(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Batches of all columns."""
        return self._loaded.with_format("arrow").iter(ROWS)


FORMATS: dict[str, type[Any]] = {
    ".txt": TextFile,
    ".csv": CsvFile,
    ".tsv": TsvFile,
    ".jsonl": JsonLinesFile,
    ".json": JsonFile,
    ".parquet": ParquetFile,
}
"""What the end of a file's name says about its content."""


def find_sources(paths: Sequence[str | Path], formats: Mapping[str, type[Any]] = FORMATS) -> list[Source]:
    """The files that paths and globs (in sorted order) name, each once, and Hub datasets where no file has the name.

    Args:
        paths: files, globs and names of Hub datasets.
        formats: the class of source for each end of a file's name.

    Raises:
        UserError: for a folder, a missing file, a glob without a match, something that is not a regular file, or a
            name whose end is not one of the formats'.
    """
    return list(dict.fromkeys(source for each in paths for source in _find(each, formats)))


def _find(name: str | Path, formats: Mapping[str, type[Any]]) -> list[Source]:
    path = Path(name).expanduser()
    if os.path.isdir(path):  # noqa: PTH112 - unlike Path.is_dir, it does not raise where a folder may not be entered
        raise UserError(str(name), "a file or a glob", "a folder", f"name its files, for example '{path / '*.txt'}'")
    if os.path.exists(path):  # noqa: PTH110 - as above
        return [_file(path, formats)]
    matches = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 - Path.glob refuses absolute patterns
    if files := [Path(match) for match in matches if not Path(match).is_dir()]:
        return [_file(match, formats) for match in files]
    hub = _HUB_NAME.fullmatch(str(name)) if isinstance(name, str) else None
    if hub and suffix_of(Path(hub["name"])) not in formats:
        return [HubDataset(hub["name"], hub["split"] or "train")]
    raise UserError(str(name), "an existing file or a glob that matches one", "nothing of that name", "check the path")


def _file(path: Path, formats: Mapping[str, type[Any]]) -> Source:
    if not os.path.exists(path):  # noqa: PTH110 - a link to nothing, or to itself, which Path.exists may not take
        raise UserError(str(path), "an existing file", "a link that leads nowhere", "check what the link names")
    if not path.is_file():
        raise UserError(str(path), "a regular file", "a pipe or a device", "save its content to a file first")
    if suffix_of(path) not in formats:
        rule = f"one of {', '.join(formats)}, or one of these with .gz, .bz2, .xz or .zst"
        raise UserError(f"{path}: the name's end", rule, suffix_of(path) or "none", "convert the file, or rename it")
    source: Source = formats[suffix_of(path)](path)
    return source
