"""A text of any length to a file of vectors, in bounded memory; a killed run goes on where it was.

The growing file lies in a folder beside the output, with the number of rows that are safely in it. Every chunk is
synced before it is counted, so a kill at any moment costs one chunk, and the finished file is bit-identical to that of
an uninterrupted run. The output appears at the end, whole.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.filesize import decimal
from sentence_transformers import SentenceTransformer

from diffcse.encoding.backends import Backend
from diffcse.encoding.encode import Encoded, Encoder, EncodeSettings, check_precision
from diffcse.encoding.sinks import SINKS, DType, Sink
from diffcse.errors import UserError
from diffcse.files import write_atomic
from diffcse.persistence.load import fingerprint
from diffcse.settings import Checked
from diffcse.text.stream import Texts, open_texts, repaired

_VERSION = 1
Progress = Callable[[int, int | None], None]
"""Called with the rows done and all rows; None where their number is not known beforehand."""


@dataclass(frozen=True, kw_only=True)
class BulkSettings(Checked):
    """How texts become rows of a file."""

    dtype: DType = "float32"
    """Type of the numbers written; int8 scales each vector by itself, which cosines do not feel."""
    encoding: EncodeSettings = field(default_factory=lambda: EncodeSettings(normalize=True))
    """Limits, precision and normalization."""
    backend: Backend = "torch"
    """What runs the model; onnx and openvino run what `diffcse export` put into its folder."""

    def _check(self) -> None:
        if self.dtype == "int8" and not self.encoding.normalize:
            raise UserError("int8", "used with normalized vectors", "no normalization", "remove --no-normalize")
        check_precision(self.backend, self.encoding.precision)


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What has been read and written so far; the content of `state.json`."""

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
    digest: str = ""
    """Fingerprint of the texts so far; a resumed run must read the same again."""
    finished: bool = False
    """The result is whole and only has to be moved to its place."""


def digest(texts: Texts) -> str:
    """Fingerprint of all texts, the one in `Counts` when they are done."""
    reader = _Reader(texts, Counts())
    for text in texts:
        reader.add(text)
    return reader.hash.hexdigest()


def encode_file(
    given: str,
    output: Path,
    load: Callable[[], SentenceTransformer],
    settings: BulkSettings,
    *,
    column: str | None = None,
    overwrite: bool = False,
    folder: str | Path | None = None,
    on_progress: Progress = lambda done, total: None,
) -> Counts:
    """Write the vector of every line of `given` to `output`; the same call goes on where a killed one was.

    Args:
        given: as for `open_texts`.
        output: .npy (vectors) or .parquet (texts and vectors).
        load: gives the model; called once everything else has been checked.
        settings: type of the numbers, limits, precision.
        column: as for `open_texts`.
        overwrite: replace an existing output, at the end.
        folder: the model's folder, for a backend other than torch.
        on_progress: told the rows done.

    Raises:
        UserError: bad input or output, another model or text than the interrupted run's, or no room on the disk.
    """
    work = output.with_name(f"{output.name}.part")
    kind = check_output(output, overwrite=overwrite or work.is_dir())
    counts = load_counts(work)
    if counts.finished and output.exists() and not kind(work, 1, settings.dtype).result.exists():
        shutil.rmtree(work)  # killed between the last two steps of a run
        return counts
    texts = open_texts(given, column=column)
    total = texts.count()
    model = load()
    sink = kind(work, int(model.get_embedding_dimension() or 0), settings.dtype)
    with exclusive(work), tidy_if_nothing_done(work):
        counts = run(texts, work, model, settings, sink=sink, total=total, folder=folder, on_progress=on_progress)
        with saying_what_to_do(work, counts.rows):
            sink.finish()
            _save(work, dataclasses.replace(counts, finished=True))
            sink.result.replace(output)
    shutil.rmtree(work)
    return counts


def check_output(output: Path, *, overwrite: bool) -> Any:
    """The sink for that name, after a look at the place.

    Raises:
        UserError: a name that says no known format, a place that cannot be written to, or a file that is there.
    """
    if output.suffix not in SINKS:
        do = "name the format by the end of the name"
        raise UserError(f"output {output}", f"a file ending in {' or '.join(SINKS)}", output.suffix or "no ending", do)
    check_place(output, overwrite=overwrite)
    return SINKS[output.suffix]


def check_place(output: Path, *, overwrite: bool) -> None:
    """Refuse a file that could not be written, or that is there already.

    Raises:
        UserError: no such folder, no permission, or a file that is there.
    """
    if not output.parent.is_dir():
        raise UserError(f"output {output}", "in an existing folder", f"no folder {output.parent}", "make the folder")
    if not os.access(output.parent, os.W_OK):
        raise UserError(f"output {output}", "in a folder that you may write to", "no permission", "choose another")
    if output.is_dir() or (output.exists() and not overwrite):
        raise UserError(f"output {output}", "a new file", "one that exists", "choose another name, or --overwrite")


def run(
    texts: Texts,
    work: Path,
    model: SentenceTransformer,
    settings: BulkSettings,
    *,
    sink: Sink,
    total: int | None,
    on_progress: Progress,
    folder: str | Path | None = None,
) -> Counts:
    """Append the vectors of all texts to the sink, from the first row that is not safely in it yet.

    Args:
        texts: what to encode.
        work: folder of the growing file; the caller holds its lock.
        model: the encoder.
        settings: as for `encode_file`.
        sink: in `work`.
        total: number of texts, for the progress and the check of the disk.
        on_progress: told the rows done.
        folder: the model's folder, for a backend other than torch.
    """
    counts = begin(work, {"model": fingerprint(model), "file": type(sink).__name__}, settings)
    with saying_what_to_do(work, counts.rows):
        sink.rollback(counts.rows)
    _check_disk(work, model, settings, counts.rows, total)
    reader = _Reader(texts, counts)
    encoder = Encoder(model, backend=settings.backend, settings=settings.encoding, folder=folder)
    for encoded in encoder.chunks(reader):
        taken, after = reader.take(counts, encoded)
        with saying_what_to_do(work, counts.rows):
            sink.append(taken, encoded.vectors)
            sink.sync()
            _save(work, after)
        counts = after
        on_progress(counts.rows, total)
    if not counts.rows:
        raise UserError(texts.name, "a text with at least one line", "nothing", "give another text")
    return counts


class _Reader:
    """The texts after those that an interrupted run has done, repaired, kept until their vectors arrive."""

    def __init__(self, texts: Texts, done: Counts) -> None:
        self.name, self.waiting = texts.name, deque[str]()
        self.hash, self.rows = hashlib.blake2b(digest_size=16), iter(texts)
        for _ in range(done.rows):
            self.add(next(self.rows, ""))
        if done.rows and self.hash.hexdigest() != done.digest:
            do = "bring the text back, or remove the .part folder beside the output to start again"
            raise UserError(self.name, "the text that the interrupted run read", "another", do)

    def __iter__(self) -> Iterator[str]:
        for text in self.rows:
            self.waiting.append(text)
            yield repaired(text)

    def take(self, counts: Counts, encoded: Encoded) -> tuple[list[str], Counts]:
        """The texts of these vectors, and the counts with them."""
        raw = [self.add(self.waiting.popleft()) for _ in range(len(encoded.vectors))]
        texts = [repaired(text) for text in raw]
        return texts, dataclasses.replace(
            counts,
            rows=counts.rows + len(texts),
            truncated=counts.truncated + encoded.truncated,
            unknown=counts.unknown + int(encoded.unknown.sum()),
            blank=counts.blank + sum(not text.strip() for text in texts),
            repaired=counts.repaired + sum(text != before for text, before in zip(texts, raw, strict=True)),
            digest=self.hash.hexdigest(),
        )

    def add(self, text: str) -> str:
        """Take the text into the digest."""
        content = text.encode("utf-8", "surrogatepass")
        self.hash.update(len(content).to_bytes(8, "little") + content)
        return text


def load_counts(work: Path) -> Counts:
    """What an interrupted run has done; nothing where there is none."""
    try:
        return Counts(**json.loads((work / "state.json").read_text(encoding="utf-8")))
    except FileNotFoundError:
        return Counts()
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{work}/state.json", "as a run left it", error, f"remove {work} to start again") from error


@contextmanager
def exclusive(work: Path) -> Iterator[None]:
    """Be the only process that works in the folder; it is made where it is missing."""
    with saying_what_to_do(work, 0):
        work.mkdir(exist_ok=True)
        lock = FileLock(work / "lock", timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise UserError(f"{work}", "used by one process", "another one at work", "wait for it") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def tidy_if_nothing_done(work: Path) -> Iterator[None]:
    """Leave no folder behind when bad input ends a run before its first row is written; the caller holds its lock."""
    try:
        yield
    except UserError:
        if not (work / "state.json").exists():
            shutil.rmtree(work, ignore_errors=True)
        raise


@contextmanager
def saying_what_to_do(work: Path, rows: int) -> Iterator[None]:
    """Turn a full disk, a read-only folder and the like into one line; nothing that is written is lost."""
    try:
        yield
    except OSError as error:
        do = f"make room or permission, then run the same command: it goes on from row {rows:,}"
        raise UserError(f"{work}", "on a disk that can be written to", error.strerror or error, do) from error


def begin(work: Path, description: dict[str, Any], settings: BulkSettings) -> Counts:
    """Start, or go on where the run was the same.

    Args:
        work: folder of the run; the caller holds its lock.
        description: what else must be the same, beside the settings.
        settings: as for `encode_file`.

    Raises:
        UserError: the run in the folder was another one.
    """
    how = {"version": _VERSION, "dtype": settings.dtype, "backend": settings.backend}
    wanted = {**how, **description, **dataclasses.asdict(settings.encoding)}
    path = work / "job.json"
    if not path.exists():
        with saying_what_to_do(work, 0):
            write_atomic(path, json.dumps(wanted).encode())
        return load_counts(work)
    found = json.loads(path.read_text(encoding="utf-8"))
    differing = [name for name in wanted if found.get(name) != wanted[name]]
    if differing:
        do = f"use the same model and options, or remove {work} to start again"
        raise UserError(f"the interrupted run in {work}", "one of the same kind", f"other {', '.join(differing)}", do)
    return load_counts(work)


def _save(work: Path, counts: Counts) -> None:
    write_atomic(work / "state.json", json.dumps(dataclasses.asdict(counts)).encode())


def _check_disk(work: Path, model: SentenceTransformer, settings: BulkSettings, rows: int, total: int | None) -> None:
    size = {"float32": 4, "float16": 2, "int8": 1}[settings.dtype] * int(model.get_embedding_dimension() or 0)
    need, free = size * ((total or 0) - rows), shutil.disk_usage(work).free
    if need > free:
        rule = f"on a disk with {decimal(need)} free"
        raise UserError(f"{work}", rule, decimal(free), "make room or choose another disk")
