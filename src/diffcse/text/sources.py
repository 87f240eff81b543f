"""Rows of text from files and from the Hub, one at a time, so that memory does not grow with the input.

A source tells its columns before anything long is read, then gives its rows as they stand. Bytes that are not UTF-8
come through as lone surrogates, which no good text holds; `diffcse.text.dataset` decides what becomes of them.
"""

from __future__ import annotations

import csv
import glob
import gzip
import json
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Protocol

import datasets
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from diffcse.errors import UserError

Row = tuple[str | None, ...]
Numbered = tuple[int, Row]
"""The line or row that a row begins on, and the row."""

NUL = "\udc00"
"""What a NUL of a .csv file becomes: `csv` refuses NUL before Python 3.11, and no byte decodes to this surrogate."""

_LONGEST_ROW = 64 * 2**20  # bytes; a longer row of .csv or .jsonl is a mistake, such as a quote that is never closed
_LONGEST_JSON = 256 * 2**20
_CHUNK = 2**20
_SEPARATORS = (",", ";", "\t", "|")
_HEAD = 50  # rows that the separator is told from
_ROWS = 256
_END = "\udc01 end of file"

_HUB_NAME = re.compile(r"(?P<name>\w[\w.-]*(/\w[\w.-]*)?)(:(?P<split>.+))?")

_NOT_TEXT = {
    b"\x1f\x8b": ("gzip data", "end its name in .gz"),
    b"PK\x03\x04": ("a zip archive", "unpack it first"),
    b"\xff\xfe": ("UTF-16", "convert it: iconv -f UTF-16 -t UTF-8"),
    b"\xfe\xff": ("UTF-16", "convert it: iconv -f UTF-16 -t UTF-8"),
}


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


@dataclass(frozen=True)
class _File:
    path: Path

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def identity(self) -> tuple[Any, ...]:
        stat = self.path.stat()
        return str(self.path.absolute()), stat.st_size, stat.st_mtime_ns

    def head(self) -> bytes:
        """The first 8 KiB, unpacked."""
        with _reading(self.path) as file:
            return file.read(8192)


class TextFile(_File):
    r"""A sentence a line; only \n and \r\n end a line."""

    def _opened(self) -> AbstractContextManager[BinaryIO]:
        return _reading(self.path)

    def columns(self) -> None:
        """None, after a look at the first line."""
        with self._opened() as file:
            next(_lines(file, self.name, _CHUNK), None)

    def rows(self, columns: Sequence[str], longest: int) -> Iterator[Numbered]:
        """Each line as a row of one; of a longer line, the first `longest` bytes."""
        with self._opened() as file:
            for number, line in enumerate(_lines(file, self.name, longest), 1):
                yield number, (_decode(line.removesuffix(b"\n").removesuffix(b"\r")),)


class CsvFile(_File):
    """A table with a header; quoted fields may hold separators, quotes (doubled) and line breaks.

    The separator is the comma unless another one alone cuts the first rows into equally many columns: spreadsheets
    write semicolons wherever the comma is the decimal sign.
    """

    usual: ClassVar[str] = ","

    @property
    def identity(self) -> tuple[Any, ...]:
        """As of any file; other separators than the comma count, so that rows cached as one column are not used."""
        return super().identity if self.separator == self.usual else (*super().identity, self.separator)

    @cached_property
    def separator(self) -> str:
        """The first of `,`, `;`, tab and `|` that cuts the first rows into two columns or more, as many in each."""
        return next((each for each in _SEPARATORS if self._cuts_evenly(each)), _SEPARATORS[0])

    def _cuts_evenly(self, separator: str) -> bool:
        with closing(self._records(separator)) as records:
            try:
                widths = {len(record) for _, record in islice(records, _HEAD) if record}
            except UserError as error:
                if isinstance(error.__cause__, csv.Error):  # quotes that are wrong with this separator
                    return False
                raise
        return len(widths) == 1 and max(widths) > 1

    def columns(self) -> Mapping[str, bool]:
        """The header's names, all text."""
        with closing(self._records()) as records:
            return dict.fromkeys(self._header(records), True)

    def rows(self, columns: Sequence[str], longest: int) -> Iterator[Numbered]:
        """The fields of `columns`."""
        records = self._records()
        header = self._header(records)
        places = [header.index(column) for column in columns]
        for number, record in records:
            if not record:  # a blank line
                yield number, (None,) * len(places)
            elif len(record) != len(header):
                do = "put quotes around a field that holds a separator or a line break"
                raise UserError(f"{self.name} line {number}", f"a row of {len(header)} columns", len(record), do)
            else:
                yield number, tuple(record[place] for place in places)

    def _header(self, records: Iterator[tuple[int, list[str]]]) -> list[str]:
        for _, record in records:
            return record
        raise UserError(self.name, "a table with a header", "an empty file", "write the columns' names in line 1")

    def _records(self, separator: str | None = None) -> Generator[tuple[int, list[str]], None, None]:
        separator = separator or self.separator
        with _reading(self.path) as file, _long_fields():
            lines = (_decode(line).replace("\0", NUL) for line in _whole_lines(file, self.name))
            reader, start, record = csv.reader(_and_end(lines), delimiter=separator), 1, [""]
            try:
                for record in reader:
                    if record != [_END]:
                        if record and record[-1].endswith(_END):
                            raise csv.Error("a quote is never closed")
                        yield start, record
                    start = reader.line_num + 1
            except csv.Error as error:
                do = "check the quotes from there on"
                raise UserError(f"{self.name} line {start}", "a well-formed row", error, do) from error


class TsvFile(CsvFile):
    """Tab-separated with a header; a quote is an ordinary character, save around a whole field."""

    usual: ClassVar[str] = "\t"

    @property
    def separator(self) -> str:
        """Always the tab."""
        return self.usual

    def _records(self, separator: str | None = None) -> Generator[tuple[int, list[str]], None, None]:
        with _reading(self.path) as file:
            for number, line in enumerate(_whole_lines(file, self.name), 1):
                text = _decode(line.removesuffix(b"\n").removesuffix(b"\r"))
                yield number, [_unquoted(field) for field in text.split("\t")] if text else []


class JsonLinesFile(_File):
    """A JSON object a line."""

    def columns(self) -> Mapping[str, bool]:
        """The first object's keys; a null may stand for text."""
        for _, record in self._records():
            if record:
                return {key: value is None or isinstance(value, str) for key, value in record.items()}
        raise UserError(self.name, "a JSON object a line", "an empty file", "write at least two objects")

    def rows(self, columns: Sequence[str], longest: int) -> Iterator[Numbered]:
        """The values of `columns`; None where a key is missing."""
        for number, record in self._records():
            row = tuple(record.get(column) for column in columns)
            for column, value in zip(columns, row, strict=True):
                if not (value is None or isinstance(value, str)):
                    raise UserError(f"{self.name} line {number}: {column}", "text", repr(value), "correct the line")
            yield number, row

    def _records(self) -> Iterator[tuple[int, dict[str, Any]]]:
        with _reading(self.path) as file:
            for number, line in enumerate(_whole_lines(file, self.name), 1):
                yield number, self._parsed(number, line) if line.strip() else {}

    def _parsed(self, number: int, line: bytes) -> dict[str, Any]:
        text = _decode(line)
        try:
            record = json.loads(text, strict=False)
        except (ValueError, RecursionError) as error:
            what = f"{self.name} line {number}"
            raise UserError(what, "a JSON object", text.strip(), f"correct the line ({error})") from error
        if not isinstance(record, dict):
            raise UserError(f"{self.name} line {number}", "a JSON object", text.strip(), 'write {"text": "..."}')
        return record


class JsonFile(JsonLinesFile):
    """A JSON array of objects or of strings, an object that holds one such array, or in truth a .jsonl file.

    It is parsed as one piece, so a large one is refused.
    """

    def _records(self) -> Iterator[tuple[int, dict[str, Any]]]:
        with _reading(self.path) as file:
            raw = file.read(_LONGEST_JSON + 1).removeprefix(b"\xef\xbb\xbf")
        if len(raw) > _LONGEST_JSON:
            rule = f"shorter than {_LONGEST_JSON // 2**20} MiB"
            raise UserError(self.name, rule, "a longer one", "convert it to .jsonl, which is read line by line")
        try:
            content = json.loads(_decode(raw), strict=False)
        except (ValueError, RecursionError):
            yield from super()._records()  # a line an object, or the number of the line that is wrong
            return
        for number, item in enumerate(_items(content), 1):
            record = {"text": item} if isinstance(item, str) else item
            if not isinstance(record, dict):
                do = 'write {"text": "..."}'
                raise UserError(f"{self.name} item {number}", "an object or a string", repr(item)[:60], do)
            yield number, record


def _items(content: Any) -> list[Any]:
    if isinstance(content, dict):
        arrays = [value for value in content.values() if isinstance(value, list) and value and not _is_plain(value[0])]
        return arrays[0] if len(arrays) == 1 else [content]
    return content if isinstance(content, list) else [content]


def _is_plain(value: Any) -> bool:
    return not isinstance(value, dict)


class ParquetFile(_File):
    """A Parquet file, read page by page."""

    def columns(self) -> Mapping[str, bool]:
        """The schema's columns."""
        with self._opened() as file:
            return {field.name: _is_text(field.type) for field in file.schema_arrow}

    def rows(self, columns: Sequence[str], longest: int) -> Iterator[Numbered]:
        """The values of `columns`."""
        with self._opened() as file:
            batches = file.iter_batches(_ROWS, columns=list(columns))
            yield from enumerate((row for batch in batches for row in _rows(batch, columns, longest)), 1)

    @contextmanager
    def _opened(self) -> Iterator[pq.ParquetFile]:
        with _reading(self.path) as file, tempfile.TemporaryFile() as unpacked:
            if _is_gzip(self.path):  # Parquet is read from its end, which gzip cannot jump to
                shutil.copyfileobj(file, unpacked, _CHUNK)
                file = unpacked
            yield pq.ParquetFile(file, pre_buffer=False, buffer_size=_CHUNK)


@dataclass(frozen=True)
class HubDataset:
    """One split of a Hub dataset, downloaded and cached by `datasets`."""

    name: str
    split: str

    @cached_property
    def _loaded(self) -> datasets.Dataset:
        try:
            return datasets.load_dataset(self.name, split=self.split)
        except (OSError, ValueError, RuntimeError) as error:  # no network, no such dataset, split or configuration
            got = f"{type(error).__name__}: {error}"
            do = "check the name (name:split); offline, download its files elsewhere and give their paths"
            raise UserError(self.name, "an existing file or a Hub dataset within reach", got, do) from error

    @property
    def identity(self) -> tuple[Any, ...]:
        """Name, split and the fingerprint of the downloaded data."""
        return self.name, self.split, self._loaded._fingerprint

    def columns(self) -> Mapping[str, bool]:
        """The dataset's columns."""
        return {field.name: _is_text(field.type) for field in self._loaded.features.arrow_schema}

    def rows(self, columns: Sequence[str], longest: int) -> Iterator[Numbered]:
        """The values of `columns`."""
        batches = self._loaded.with_format("arrow").iter(_ROWS)
        yield from enumerate((row for batch in batches for row in _rows(batch, columns, longest)), 1)


FORMATS: dict[str, type[Any]] = {
    ".txt": TextFile,
    ".csv": CsvFile,
    ".tsv": TsvFile,
    ".jsonl": JsonLinesFile,
    ".json": JsonFile,
    ".parquet": ParquetFile,
}
"""What the end of a file's name says about its content."""


def find_sources(given: Sequence[str | Path], formats: Mapping[str, type[Any]] = FORMATS) -> list[Source]:
    """The files that paths and globs (in sorted order) name, each once, and Hub datasets where no file has the name.

    Args:
        given: paths, globs and names of Hub datasets.
        formats: the class of source for each end of a file's name.

    Raises:
        UserError: for a folder, a missing file, a glob without a match, something that is not a regular file, or a
            name whose end is not one of the formats'.
    """
    return list(dict.fromkeys(source for each in given for source in _find(each, formats)))


def _find(given: str | Path, formats: Mapping[str, type[Any]]) -> list[Source]:
    path = Path(given).expanduser()
    if os.path.isdir(path):  # noqa: PTH112 - unlike Path.is_dir, it does not raise where a folder may not be entered
        raise UserError(str(given), "a file or a glob", "a folder", f"name its files, for example '{path / '*.txt'}'")
    if os.path.exists(path):  # noqa: PTH110 - as above
        return [_file(path, formats)]
    matches = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 - Path.glob refuses absolute patterns
    if files := [Path(match) for match in matches if not Path(match).is_dir()]:
        return [_file(match, formats) for match in files]
    hub = _HUB_NAME.fullmatch(str(given)) if isinstance(given, str) else None
    if hub and suffix_of(Path(hub["name"])) not in formats:
        return [HubDataset(hub["name"], hub["split"] or "train")]
    raise UserError(str(given), "an existing file or a glob that matches one", "nothing of that name", "check the path")


def _file(path: Path, formats: Mapping[str, type[Any]]) -> Source:
    if not path.is_file():
        raise UserError(str(path), "a regular file", "a pipe or a device", "save its content to a file first")
    if suffix_of(path) not in formats:
        rule = f"one of {', '.join(formats)}, or one of these with .gz"
        raise UserError(f"{path}: the name's end", rule, suffix_of(path) or "none", "convert the file, or rename it")
    source: Source = formats[suffix_of(path)](path)
    return source


def suffix_of(path: Path) -> str:
    """The end of a file's name in small letters, without the .gz of a packed file."""
    return (path.with_suffix("") if _is_gzip(path) else path).suffix.lower()


def _is_gzip(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


@contextmanager
def _reading(path: Path) -> Iterator[Any]:
    """The file's bytes, unpacked; whatever goes wrong while they are read becomes one line."""
    try:
        with gzip.open(path) if _is_gzip(path) else path.open("rb") as file:
            yield file
    except PermissionError as error:
        raise UserError(str(path), "a file that you may read", "no permission", "change its permissions") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(str(path), "a whole gzip file", error, "download it or pack it again") from error
    except (OSError, pa.ArrowException) as error:
        raise UserError(str(path), "a whole file that can be read", error, "download it or make it again") from error


def _lines(file: BinaryIO, name: str, longest: int) -> Iterator[bytes]:
    """Lines with their ends, without a byte order mark; of a longer line, the first `longest` bytes."""
    start = True
    while line := file.readline(longest):
        if len(line) == longest and not line.endswith(b"\n"):
            while (rest := file.readline(_CHUNK)) and not rest.endswith(b"\n"):
                pass
        if start:
            for magic, (got, do) in _NOT_TEXT.items():
                if line.startswith(magic):
                    raise UserError(name, "UTF-8 text", got, do)
            line, start = line.removeprefix(b"\xef\xbb\xbf"), False
        yield line


def _whole_lines(file: BinaryIO, name: str) -> Iterator[bytes]:
    for number, line in enumerate(_lines(file, name, _LONGEST_ROW), 1):
        if len(line) == _LONGEST_ROW:
            rule = f"shorter than {_LONGEST_ROW // 2**20} MiB"
            raise UserError(f"{name} line {number}", rule, "a longer one", "check that the file has line breaks")
        yield line


def _decode(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _unquoted(field: str) -> str:
    # Writers of .csv that are told to separate by tabs quote a field that holds quotes, and double those.
    inner = field[1:-1].replace('""', "")
    quoted = len(field) > 1 and field[0] == field[-1] == '"' and '"' not in inner
    return field[1:-1].replace('""', '"') if quoted else field


@contextmanager
def _long_fields() -> Iterator[None]:
    before = csv.field_size_limit(_LONGEST_ROW // 4)  # characters, of which Python's widest take 4 bytes
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _and_end(lines: Iterator[str]) -> Iterator[str]:
    # `csv` takes the end of the file for the end of an open quote; a last line that must come back by itself tells.
    yield from lines
    yield _END


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _rows(batch: pa.RecordBatch | pa.Table, columns: Sequence[str], longest: int) -> Iterator[Row]:
    cells = [_cells(batch.column(column), longest) for column in columns]
    return zip(*cells, strict=True)


def _cells(values: pa.Array | pa.ChunkedArray, longest: int) -> Iterator[str | None]:
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    # As bytes, because a Parquet file's strings need not be UTF-8.
    raw = pc.binary_slice(values.cast(pa.large_binary()), 0, longest)
    return (None if cell is None else _decode(cell) for cell in raw.to_pylist())
