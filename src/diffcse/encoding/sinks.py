"""Files of vectors that grow by blocks and can be cut back to any earlier block: .npy and Parquet.

Legend: `n` rows of a block, `N` of the whole file, `H` hidden.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from diffcse.vectors import Vectors

DType = Literal["float32", "float16", "int8"]

_HEADER = 128
"""Bytes of a .npy header for any two-dimensional shape: numpy rounds up to a multiple of 64, and one is too few."""


class Sink(Protocol):
    """Takes blocks of rows in order; what was appended before `sync` survives a kill of the process."""

    @property
    def result(self) -> Path:
        """The complete file, once `finish` has returned."""

    def rollback(self, rows: int) -> None:
        """Keep the first `rows` rows, which must be a place where `sync` was called, and drop what follows."""

    def append(self, texts: list[str], vectors: Vectors) -> None:
        """Add n rows."""

    def sync(self) -> None:
        """Return when everything appended is on the disk."""

    def finish(self) -> None:
        """Make `result` whole."""


class NpySink:
    """One array of shape (N, H); numpy.load with mmap_mode reads it without loading it.

    Args:
        work: folder for the growing file.
        width: H.
        dtype: type of the numbers.
    """

    def __init__(self, work: Path, width: int, dtype: DType) -> None:
        self.width, self.dtype, self.rows = width, np.dtype(dtype), 0
        self.result = work / "vectors.npy"

    def rollback(self, rows: int) -> None:
        """Cut the file after `rows` rows; its header is written at the end."""
        self.result.touch()
        os.truncate(self.result, _HEADER + rows * self.width * self.dtype.itemsize)
        self.rows = rows

    def append(self, texts: list[str], vectors: Vectors) -> None:
        """Add rows; the texts are not kept."""
        with self.result.open("ab") as file:
            file.write(as_dtype(vectors, self.dtype.name).tobytes())
        self.rows += len(vectors)

    def sync(self) -> None:
        """Flush to the disk."""
        _sync(self.result)

    def finish(self) -> None:
        """Write the header."""
        header = io.BytesIO()
        description = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.rows, self.width)}
        np.lib.format.write_array_header_1_0(header, description)
        assert header.tell() == _HEADER
        with self.result.open("r+b") as file:
            file.write(header.getvalue())
        _sync(self.result)


class ParquetSink:
    """Columns `text` and `vector` (a list of H numbers), in parts while it grows and in one file at the end.

    Args:
        work: folder for the parts.
        width: H.
        dtype: type of the numbers.
    """

    def __init__(self, work: Path, width: int, dtype: DType) -> None:
        self.work, self.width, self.dtype, self.rows = work, width, dtype, 0
        kind = {"float32": pa.float32(), "float16": pa.float16(), "int8": pa.int8()}[dtype]
        self.schema = pa.schema([("text", pa.string()), ("vector", pa.list_(kind, width))])
        self.result = work / "merged.parquet"
        self._unsynced: list[Path] = []

    def rollback(self, rows: int) -> None:
        """Remove the parts from `rows` on."""
        for path in self.parts():
            if int(path.stem.split("-")[1]) >= rows:
                path.unlink()
        self.rows = rows

    def append(self, texts: list[str], vectors: Vectors) -> None:
        """Write a part, named by its first row."""
        path = self.work / f"part-{self.rows:015d}.parquet"
        pq.write_table(self.table(texts, vectors), path, use_dictionary=False)
        self._unsynced.append(path)
        self.rows += len(texts)

    def table(self, texts: list[str], vectors: Vectors) -> pa.Table:
        """The n rows as a table."""
        numbers = pa.array(as_dtype(vectors, self.dtype).reshape(-1), self.schema.field("vector").type.value_type)
        column = pa.FixedSizeListArray.from_arrays(numbers, self.width)
        return pa.table([pa.array(texts, pa.string()), column], schema=self.schema)

    def sync(self) -> None:
        """Flush the new parts to the disk."""
        for path in self._unsynced:
            _sync(path)
        self._unsynced.clear()

    def finish(self) -> None:
        """Put the parts into one file."""
        with pq.ParquetWriter(self.result, self.schema, use_dictionary=False) as writer:
            for part in self.tables():
                writer.write_table(part)
        _sync(self.result)

    def parts(self) -> list[Path]:
        """The parts in order."""
        return sorted(self.work.glob("part-*.parquet"))

    def tables(self) -> Iterator[pa.Table]:
        """The parts' content in order."""
        return (pq.read_table(path, schema=self.schema) for path in self.parts())


SINKS: dict[str, type[NpySink] | type[ParquetSink]] = {".npy": NpySink, ".parquet": ParquetSink}
"""The kind of file by the end of its name."""


def as_dtype(vectors: Vectors, dtype: str) -> NDArray[np.generic]:
    """Vectors in another type; int8 scales each row so that its largest number becomes 127 or -127.

    A cosine does not feel the length of a row, so cosines of int8 rows are those of the float32 rows to rounding.

    >>> as_dtype(np.array([[0.5, -0.25, 0.0]], dtype=np.float32), "int8").tolist()
    [[127, -64, 0]]
    """
    if dtype != "int8":
        return vectors.astype(dtype, copy=False)
    largest = np.abs(vectors).max(axis=1, keepdims=True)
    return np.rint(vectors * (127 / np.where(largest > 0, largest, 1))).astype(np.int8)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
