"""Numbered parts: what every bulk engine writes, a chunk of the text each, and how they become the output.

Legend: `n` rows of a part, `N` of all, `H` numbers of a vector.

A part is a Parquet file, written atomically and named by the chunk's number. Its metadata say which job and which text
it belongs to. A chunk's vectors depend on its texts alone, so it does not matter which process encodes it, nor how
often: a part that is there is never written again, and a run that was killed ends with the same bytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from diffcse.encoding.encode import Encoded, Encoder
from diffcse.errors import UserError
from diffcse.files import digest, disk_errors, write_atomic
from diffcse.text.stream import repaired
from diffcse.vectors import Vectors

DType = Literal["float32", "float16", "int8"]

_KEY = b"diffcse"


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What a run has read and written."""

    rows: int = 0
    """Rows written."""
    truncated: int = 0
    """Texts cut at the token limit."""
    blank: int = 0
    """Blank texts among the rows."""
    unknown: int = 0
    """Texts of mostly unknown tokens."""
    repaired: int = 0
    """Texts with bytes that are not UTF-8, encoded with a replacement character for each."""

    def __add__(self, other: Counts) -> Counts:
        return Counts(**{name: value + getattr(other, name) for name, value in dataclasses.asdict(self).items()})


@dataclass(frozen=True, kw_only=True)
class Job:
    """What decides a part's content, apart from its texts; small enough to send to other machines.

    Attributes:
        folder: of the parts.
        mark: digest of the model and the settings.
        dtype: type of the numbers.
        texts: keep the texts next to the vectors.
    """

    folder: Path
    mark: str
    dtype: DType
    texts: bool

    def path(self, number: int) -> Path:
        """Where a part belongs."""
        return self.folder / f"part-{number:09d}.parquet"

    def paths(self) -> list[Path]:
        """The parts that are there, in order."""
        return sorted(self.folder.glob("part-*.parquet"))


@dataclass(frozen=True, kw_only=True)
class Part:
    """A chunk of the text, as it was read.

    Attributes:
        number: from 0.
        texts: n of them; bytes that are not UTF-8 are lone surrogates.
    """

    number: int
    texts: list[str]


Engine = Callable[[Encoder, Job, Iterator[Part]], Iterator[Counts]]
"""Writes the parts of an iterator, which is read only as fast as they are encoded; gives the counts of each."""


def in_this_process(encoder: Encoder, job: Job, parts: Iterator[Part]) -> Iterator[Counts]:
    """The local engine: one part after the other, the next one tokenised meanwhile."""
    waiting = deque[Part]()

    def groups() -> Iterator[list[str]]:
        """Each part's texts; the part waits for its vectors."""
        for part in parts:
            waiting.append(part)
            yield [repaired(text) for text in part.texts]

    for encoded in encoder.groups(groups()):
        yield save(job, waiting.popleft(), encoded)


def encode_part(encoder: Encoder, job: Job, part: Part) -> Counts:
    """One part from its texts to its file: what other engines call in their workers."""
    return save(job, part, encoder.chunk([repaired(text) for text in part.texts]))


def save(job: Job, part: Part, encoded: Encoded) -> Counts:
    """Write a part atomically."""
    texts = [repaired(text) for text in part.texts]
    counts = Counts(
        rows=len(texts),
        truncated=encoded.truncated,
        blank=sum(not text.strip() for text in texts),
        unknown=int(encoded.unknown.sum()),
        repaired=sum(text != raw for text, raw in zip(texts, part.texts, strict=True)),
    )
    numbers = as_dtype(encoded.vectors, job.dtype)
    columns = {"vector": pa.FixedSizeListArray.from_arrays(pa.array(numbers.reshape(-1)), numbers.shape[1])}
    if job.texts:
        columns = {"text": pa.array(texts, pa.string()), **columns}
    note = {"job": job.mark, "text": text_digest(part.texts), "counts": dataclasses.asdict(counts)}
    table = pa.table(columns).replace_schema_metadata({_KEY: json.dumps(note)})
    with on_disk(job.folder.parent):
        write_atomic(job.path(part.number), lambda file: pq.write_table(table, file, use_dictionary=False))
    return counts


def on_disk(work: Path) -> AbstractContextManager[None]:
    """Turn a full disk, a read-only folder and the like into one line; no part that is written is lost."""
    return disk_errors(f"{work}", "make room or permission, then run the same command: it resumes")


def counts_of(job: Job, part: Part, name: str) -> Counts | None:
    """The counts of a part that an interrupted run wrote; None where it has to be written.

    Args:
        job: what the part must be of.
        part: the chunk of the text that is read now.
        name: the text's, for the error.

    Raises:
        UserError: the interrupted run read another text.
    """
    note = read_note(job.path(part.number))
    if note is None or note["job"] != job.mark:
        return None
    if note["text"] != text_digest(part.texts):
        raise another_text(job, name)
    return Counts(**note["counts"])


def another_text(job: Job, name: str) -> UserError:
    """The error for a text that changed since the run was interrupted."""
    do = f"restore the text, or remove {job.folder.parent} to start again"
    return UserError(name, "the text that the interrupted run read", "another", do)


def read_note(path: Path) -> dict[str, Any] | None:
    """A part's metadata: job, text and counts; None if there is no such part, or one that cannot be read."""
    try:
        return json.loads(pq.read_schema(path).metadata[_KEY])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def text_digest(texts: Iterable[str]) -> str:
    """Fingerprint of the texts of a part, as they were read."""
    hasher = hashlib.blake2b(digest_size=16)
    for text in texts:
        content = text.encode("utf-8", "surrogatepass")
        hasher.update(len(content).to_bytes(8, "little") + content)
    return hasher.hexdigest()


def job_mark(description: dict[str, Any]) -> str:
    """The mark that a job's parts carry."""
    return digest(description)[:32]


def vectors_of(table: pa.Table) -> NDArray[Any]:
    """The vectors (n, H) of a part."""
    column = table["vector"].combine_chunks()
    return column.flatten().to_numpy().reshape(len(table), column.type.list_size)


def join(parts: list[Path], output: Path) -> None:
    """Put parts, in order, into one .npy or Parquet file, one part in memory at a time; appears atomically."""
    write_atomic(output, lambda file: {".npy": _join_npy, ".parquet": _join_parquet}[output.suffix](parts, file))


def _join_npy(parts: list[Path], file: BinaryIO) -> None:
    rows = sum(pq.read_metadata(path).num_rows for path in parts)
    for path in parts:
        vectors = vectors_of(pq.read_table(path, columns=["vector"]))
        if path == parts[0]:
            shape = {"descr": vectors.dtype.str, "fortran_order": False, "shape": (rows, vectors.shape[1])}
            header = io.BytesIO()
            np.lib.format.write_array_header_1_0(header, shape)
            file.write(header.getvalue())
        file.write(vectors.tobytes())


def _join_parquet(parts: list[Path], file: BinaryIO) -> None:
    schema = pq.read_schema(parts[0]).remove_metadata()
    with pq.ParquetWriter(file, schema, use_dictionary=False) as writer:
        for path in parts:
            writer.write_table(pq.read_table(path).replace_schema_metadata(None))


def as_dtype(vectors: Vectors, dtype: str) -> NDArray[np.generic]:
    """Vectors in another type; int8 scales each row so that its largest number becomes 127 or -127.

    A cosine does not depend on the length of a row, so cosines of int8 rows are those of the float32 rows to rounding.

    >>> as_dtype(np.array([[0.5, -0.25, 0.0]], dtype=np.float32), "int8").tolist()
    [[127, -64, 0]]
    """
    if dtype != "int8":
        return vectors.astype(dtype, copy=False)
    largest = np.abs(vectors).max(axis=1, keepdims=True)
    return np.rint(vectors * (127 / np.where(largest > 0, largest, 1))).astype(np.int8)
