"""Rows of tables, one at a time: .csv, .tsv, .jsonl, .json, .parquet, packed or not."""

from __future__ import annotations

import csv
import itertools
import json
import logging
import shutil
import tempfile
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import cached_property
from itertools import islice
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from diffcse.errors import UserError
from diffcse.text.opening import CHUNK, LONGEST_LINE, File, decode, is_packed, opened, unpacked, whole_lines

log = logging.getLogger(__name__)

Row = tuple[str | None, ...]
Numbered = tuple[int, Row]
"""The line or row that a row begins on, and the row."""

NUL = "\udc00"
"""What a NUL of a .csv file becomes: `csv` ends a field at NUL, and no byte decodes to this surrogate."""

_LONGEST_JSON = 256 * 2**20
_SEPARATORS = (",", ";", "\t", "|")
_HEAD = 50  # rows that the separator is guessed from
ROWS = 256
"""Rows of a batch."""
_END = "\udc01 end of file"


class CsvFile(File):
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
        return self._columns

    @cached_property
    def _columns(self) -> Mapping[str, bool]:
        with closing(self._records()) as records:
            header = self._header(records)
        # A file without a header loses its first row to it; only the user can tell, and is told once.
        log.warning("%s: line 1 is the header: %s", self.name, textwrap.shorten(", ".join(map(repr, header)), 300))
        return dict.fromkeys(header, True)

    def rows(self, columns: Sequence[str], longest: int) -> Iterator[Numbered]:
        """The fields of `columns`."""
        return self.values(columns)

    def values(self, columns: Sequence[str]) -> Iterator[Numbered]:
        """The same; every value is text."""
        records = self._records()
        header = self._header(records)
        if twice := next((column for column in columns if header.count(column) > 1), None):
            do = "rename one of them in line 1"
            raise UserError(f"{self.name}: column {twice}", "one column", f"{header.count(twice)} of that name", do)
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
        with opened(self.path) as file, _long_fields():
            lines = (decode(line).replace("\0", NUL) for line in whole_lines(file, self.name))
            reader, start, record = csv.reader(_and_end(lines), delimiter=separator), 1, [""]
            try:
                for record in reader:
                    if record != [_END]:
                        if record and record[-1].endswith(_END):
                            raise csv.Error("a quote is never closed")
                        yield start, record
                    start = reader.line_num + 1
            except csv.Error as error:
                got, do = str(error), "check the quotes from there on"
                if got.startswith("new-line character"):
                    got, do = "a carriage return without a line feed", "convert the line ends: mac2unix FILE"
                raise UserError(f"{self.name} line {start}", "a well-formed row", got, do) from error


class TsvFile(CsvFile):
    """Tab-separated with a header; a quote is an ordinary character, save around a whole field."""

    usual: ClassVar[str] = "\t"

    @property
    def separator(self) -> str:
        """Always the tab."""
        return self.usual

    def _records(self, separator: str | None = None) -> Generator[tuple[int, list[str]], None, None]:
        with opened(self.path) as file:
            for number, line in enumerate(whole_lines(file, self.name), 1):
                text = decode(line.removesuffix(b"\n").removesuffix(b"\r"))
                yield number, [_unquoted(field) for field in text.split("\t")] if text else []


class JsonLinesFile(File):
    """A JSON object per line."""

    def columns(self) -> Mapping[str, bool]:
        """The first object's keys; a null may be missing text."""
        for _, record in self._records():
            if record:
                return {key: value is None or isinstance(value, str) for key, value in record.items()}
        raise UserError(self.name, "a JSON object per line", "an empty file", "write at least two objects")

    def rows(self, columns: Sequence[str], longest: int) -> Iterator[Numbered]:
        """The values of `columns`; None where a key is missing."""
        for number, row in self.values(columns):
            for column, value in zip(columns, row, strict=True):
                if not (value is None or isinstance(value, str)):
                    raise UserError(f"{self.name} line {number}: {column}", "text", repr(value), "correct the line")
            yield number, row

    def values(self, columns: Sequence[str]) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """The values of `columns`, of any type."""
        return ((number, tuple(map(record.get, columns))) for number, record in self._records())

    def _records(self) -> Iterator[tuple[int, dict[str, Any]]]:
        with opened(self.path) as file:
            for number, line in enumerate(whole_lines(file, self.name), 1):
                yield number, self._parsed(number, line) if line.strip() else {}

    def _parsed(self, number: int, line: bytes) -> dict[str, Any]:
        text = decode(line)
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
        with opened(self.path) as file:
            raw = file.read(_LONGEST_JSON + 1)
        if len(raw) > _LONGEST_JSON:
            rule = f"shorter than {_LONGEST_JSON // 2**20} MiB"
            raise UserError(self.name, rule, "a longer one", "convert it to .jsonl, which is read line by line")
        try:
            content = json.loads(decode(raw), strict=False)
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
        arrays = [
            value for value in content.values() if isinstance(value, list) and value and isinstance(value[0], dict)
        ]
        return arrays[0] if len(arrays) == 1 else [content]
    return content if isinstance(content, list) else [content]


class ArrowTable(ABC):
    """A table that comes in Arrow's batches."""

    @abstractmethod
    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch | pa.Table]:
        """Consecutive rows, with `columns` among their columns."""

    def rows(self, columns: Sequence[str], longest: int) -> Iterator[Numbered]:
        """The values of `columns`, all of them text."""
        batches = self.batches(columns)
        yield from enumerate((row for batch in batches for row in _arrow_rows(batch, columns, longest)), 1)

    def values(self, columns: Sequence[str]) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """The values of `columns`, of any type."""
        yield from enumerate((row for batch in self.batches(columns) for row in _arrow_rows(batch, columns)), 1)


class ParquetFile(ArrowTable, File):
    """A Parquet file, read page by page."""

    def columns(self) -> Mapping[str, bool]:
        """The schema's columns."""
        with self._opened() as file:
            return {field.name: is_text(field.type) for field in file.schema_arrow}

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Batches of `columns` alone."""
        with self._opened() as file:
            yield from file.iter_batches(ROWS, columns=list(columns))

    @contextmanager
    def _opened(self) -> Iterator[pq.ParquetFile]:
        with unpacked(self.path) as file, tempfile.TemporaryFile() as copy:
            if is_packed(self.path):  # Parquet is read from its end, which a packed file cannot jump to
                shutil.copyfileobj(file, copy, CHUNK)
                file = copy
            yield pq.ParquetFile(file, pre_buffer=False, buffer_size=CHUNK)


def _unquoted(field: str) -> str:
    # Writers of .csv that separate by tabs quote a field that holds quotes, and double those.
    inner = field[1:-1].replace('""', "")
    quoted = len(field) > 1 and field[0] == field[-1] == '"' and '"' not in inner
    return field[1:-1].replace('""', '"') if quoted else field


@contextmanager
def _long_fields() -> Iterator[None]:
    before = csv.field_size_limit(LONGEST_LINE // 4)  # characters, of which Python's widest take 4 bytes
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _and_end(lines: Iterator[str]) -> Iterator[str]:
    # `csv` takes the end of the file for the end of an open quote; a last line that must come back by itself tells.
    yield from lines
    yield _END


def no_text(source: str, known: Mapping[str, bool]) -> UserError:
    """What a table is told that has no column of text."""
    do = "turn the column that is meant into strings"
    return UserError(f"{source}: columns", "text, at least one of them", ", ".join(known) or "none", do)


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of that type holds text."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _arrow_rows(
    batch: pa.RecordBatch | pa.Table, columns: Sequence[str], longest: int | None = None
) -> Iterator[tuple[Any, ...]]:
    """The rows of a batch; a text may be cut once it is longer than `longest` bytes."""
    if not columns:  # nothing to zip, but as many rows
        return itertools.repeat((), batch.num_rows)
    return zip(*(_cells(batch.column(column), longest) for column in columns), strict=True)


def _cells(values: pa.Array | pa.ChunkedArray, longest: int | None) -> Iterator[Any]:
    if not is_text(values.type):
        return iter(values.to_pylist())
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    # As bytes, because a Parquet file's strings need not be UTF-8.
    raw = values.cast(pa.large_binary())
    raw = raw if longest is None else pc.binary_slice(raw, 0, longest)  # without an end, pyarrow 26 overruns its buffer
    return (None if cell is None else decode(cell) for cell in raw.to_pylist())
