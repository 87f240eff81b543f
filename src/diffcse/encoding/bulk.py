"""A text of any length to a file of vectors, in bounded memory; a killed run resumes with the same command.

The text is cut into chunks; each becomes a numbered part in a folder next to the output (`parts`), and at the end the
parts are joined into the output, which appears atomically. Any engine may write the parts: this process, the processes
of one machine (`workers`) or a cluster (`ray_workers`).
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.filesize import decimal
from sentence_transformers import SentenceTransformer

from diffcse.encoding.backends import Backend
from diffcse.encoding.encode import Encoder, EncodeSettings, check_precision, chunks
from diffcse.encoding.parts import (
    Counts,
    DType,
    Engine,
    Job,
    Part,
    another_text,
    counts_of,
    in_this_process,
    job_mark,
    join,
    on_disk,
    read_note,
    text_digest,
)
from diffcse.encoding.prompts import resolve_prompt
from diffcse.errors import UserError
from diffcse.files import exclusive, fsync, read_json, replace_folder, write_json
from diffcse.persistence.load import fingerprint
from diffcse.settings import Checked
from diffcse.text.standard_input import STDIN
from diffcse.text.stream import Texts, open_texts

_VERSION = 2
"""Of the folder of an interrupted run; 1 was one growing file."""

Progress = Callable[[int, int | None], None]
"""Called with the rows done and all rows; None where their number is not known beforehand."""


@dataclass(frozen=True, kw_only=True)
class BulkSettings(Checked):
    """How texts become rows of a file."""

    dtype: DType = "float32"
    """Type of the numbers written; int8 scales each vector by itself, which cosines do not depend on."""
    encoding: EncodeSettings = field(default_factory=lambda: EncodeSettings(normalize=True))
    """Limits, precision, prompt and normalization."""
    backend: Backend = "torch"
    """What runs the model; onnx and openvino run what `diffcse export` put into its folder."""

    def _check(self) -> None:
        if self.dtype == "int8" and not self.encoding.normalize:
            raise UserError("int8", "used with normalized vectors", "no normalization", "remove --no-normalize")
        check_precision(self.backend, self.encoding.precision)


def encode_file(
    source: str,
    output: Path,
    load: Callable[[], SentenceTransformer],
    settings: BulkSettings,
    *,
    column: str | None = None,
    overwrite: bool = False,
    folder: str | Path | None = None,
    engine: Engine = in_this_process,
    prompt: Callable[[SentenceTransformer], str] | None = None,
    on_progress: Progress = lambda done, total: None,
) -> Counts:
    """Write the vector of every line of `source` to `output`; the same call resumes a killed one.

    Args:
        source: as for `open_texts`.
        output: .npy (vectors) or .parquet (texts and vectors), or a new folder of Parquet parts.
        load: gives the model; called once everything else has been checked.
        settings: type of the numbers, limits, precision.
        column: as for `open_texts`.
        overwrite: replace an existing output, at the end.
        folder: the model's folder, for a backend other than torch.
        engine: what writes the parts.
        prompt: gives the words in front of every text once the model is loaded; None for the settings' prompt.
        on_progress: called with the rows done and all.

    Raises:
        UserError: bad input or output, another model or text than the interrupted run's, or no room on the disk.
    """
    if not output.name:
        raise UserError(f"output {output}", "the name of a new file or folder", "none", "add a name")
    work = output.absolute().with_name(f"{output.name}.part")
    in_place = not output.suffix and output.is_dir() and (work / "job.json").is_file() and not _parts(work).exists()
    if not in_place:  # else the run was killed after its last step but one
        check_output(output, overwrite=overwrite or work.is_dir())
    texts = open_texts(source, column=column)
    total = texts.count()
    model = load()
    if prompt is not None:
        encoding = dataclasses.replace(settings.encoding, prompt=prompt(model))
        settings = dataclasses.replace(settings, encoding=encoding)
    with working(work):
        parts = output if in_place else _parts(work)
        job, counts = encode_texts(
            texts,
            work,
            Encoder(model, backend=settings.backend, settings=settings.encoding, folder=folder),
            settings,
            parts=parts,
            texts_kept=output.suffix != ".npy",
            engine=engine,
            total=total,
            on_progress=on_progress,
        )
        with on_disk(work):
            _publish(job, work, output)
            shutil.rmtree(work)
    return counts


def check_output(output: Path, *, overwrite: bool) -> None:
    """Look at the place of the output.

    Raises:
        UserError: a name that says no known format, a place that cannot be written to, or a file that is there.
    """
    if output.suffix not in (".npy", ".parquet", ""):
        do = "name the format by the ending"
        raise UserError(f"output {output}", "a file ending in .npy or .parquet, or a new folder", output.suffix, do)
    check_place(output, overwrite=overwrite)


def check_place(output: Path, *, overwrite: bool, source: str | Path = "") -> None:
    """Refuse a file that could not be written, that is there already, or that is what will be read.

    Raises:
        UserError: no such folder, no permission, a file that is there, or the input.
    """
    if not output.parent.is_dir():
        raise UserError(f"output {output}", "in an existing folder", f"no folder {output.parent}", "make the folder")
    if not os.access(output.parent, os.W_OK):
        raise UserError(f"output {output}", "in a folder that you may write to", "no permission", "choose another")
    if output.exists() and not overwrite:
        raise UserError(f"output {output}", "a new file", "one that exists", "choose another name, or --overwrite")
    if output.is_dir():
        raise UserError(f"output {output}", "a file", "a folder", "name a file in it")
    if output.exists() and source and Path(source).exists() and output.samefile(source):
        raise UserError(f"output {output}", "another file than the input", "the same", "choose another name")


def encode_texts(
    texts: Texts,
    work: Path,
    encoder: Encoder,
    settings: BulkSettings,
    *,
    parts: Path | None = None,
    texts_kept: bool = True,
    engine: Engine = in_this_process,
    total: int | None = None,
    on_progress: Progress = lambda done, total: None,
) -> tuple[Job, Counts]:
    """Write every part of the texts that is not there yet.

    Args:
        texts: what to encode.
        work: folder of the run; the caller holds its lock (`working`).
        encoder: the model.
        settings: as for `encode_file`.
        parts: folder of the parts; None for the usual one in `work`.
        texts_kept: keep the texts in the parts.
        engine: what writes the parts.
        total: number of texts, for the progress and the check of the disk.
        on_progress: called with the rows done and all.

    Returns:
        The job, whose `paths()` are the parts in order, and what was read.

    Raises:
        UserError: an interrupted run of another kind or text in `work`, no text at all, or no room on the disk.
    """
    job = begin(work, encoder, settings, parts or _parts(work), texts_kept)
    _check_disk(job, encoder, total)
    seen = _Seen(job, texts, settings.encoding)
    done = Counts()
    for counts in engine(encoder, job, seen.missing()):
        done = done + counts
        on_progress(done.rows + seen.counts.rows, total)
    if not seen.number:
        raise UserError(texts.name, "a text with at least one line", "nothing", "give another text")
    if len(job.paths()) > seen.number:
        raise another_text(job, texts.name)
    on_progress(done.rows + seen.counts.rows, total)
    return job, done + seen.counts


class _Seen:
    """The chunks of the text while they are read: those that are encoded already are counted, the others passed on."""

    def __init__(self, job: Job, texts: Texts, encoding: EncodeSettings) -> None:
        self.job, self.texts, self.encoding = job, texts, encoding
        self.counts, self.number = Counts(), 0

    def missing(self) -> Iterator[Part]:
        """The parts that an earlier call did not finish; counts those that it did."""
        for group in chunks(self.texts, self.encoding):
            part = Part(number=self.number, texts=group)
            self.number += 1
            counts = counts_of(self.job, part, self.texts.name)
            if counts is None:
                yield part
            else:
                self.counts = self.counts + counts


def finished(work: Path, texts: Texts, encoding: EncodeSettings) -> Counts | None:
    """The counts of the parts in `work` if they are those of this very text; standard input cannot be compared."""
    notes = [note for note in map(read_note, sorted(_parts(work).glob("part-*"))) if note is not None]
    if texts.name != STDIN and [note["text"] for note in notes] != [text_digest(g) for g in chunks(texts, encoding)]:
        return None
    return sum((Counts(**note["counts"]) for note in notes), Counts())


def begin(work: Path, encoder: Encoder, settings: BulkSettings, parts: Path, texts_kept: bool) -> Job:
    """Start, or resume where the run was the same.

    Raises:
        UserError: the run in the folder was another one.
    """
    encoding = dataclasses.asdict(settings.encoding)
    encoding["prompt"] = resolve_prompt(encoder.model, text=settings.encoding.prompt)
    description = {
        "version": _VERSION,
        "dtype": settings.dtype,
        "backend": settings.backend,
        "model": fingerprint(encoder.model),
        "texts": texts_kept,
        **encoding,
    }
    job = Job(folder=parts, mark=job_mark(description), dtype=settings.dtype, texts=texts_kept)
    what, restart = f"the interrupted run in {work}", f"remove {work} to start again"
    try:
        before = read_json(work / "job.json", what=what, do=restart)
    except FileNotFoundError:
        with on_disk(work):
            parts.mkdir(exist_ok=True)
            write_json(work / "job.json", description)
        return job
    if before.get("version") != _VERSION:
        raise UserError(what, "one by this version of diffcse", "one by another version", restart)
    differing = [name for name in description if before.get(name) != description[name]]
    if differing:
        do = f"use the same model and options, or {restart}"
        raise UserError(what, "one of the same kind", f"other {', '.join(differing)}", do)
    parts.mkdir(exist_ok=True)
    return job


@contextmanager
def working(work: Path) -> Iterator[None]:
    """Be the only process that works in the folder; bad input before the first part leaves no folder."""
    with on_disk(work):
        work.mkdir(exist_ok=True)
    with exclusive(work / "lock", f"{work}"):
        try:
            yield
        except UserError:
            if not any(_parts(work).glob("part-*")) and _is_ours(work):
                shutil.rmtree(work, ignore_errors=True)
            raise


def _is_ours(work: Path) -> bool:
    """Whether nothing lies in the folder that an earlier version of the package has to be asked about."""
    return {path.name for path in work.iterdir()} <= {"lock", "job.json", "parts", "addition"}


def _parts(work: Path) -> Path:
    return work / "parts"


def _publish(job: Job, work: Path, output: Path) -> None:
    """Put the parts, joined or as a folder, into the place of the output."""
    if job.folder == output:
        return
    if not output.suffix:
        for stray in job.folder.glob(".part-*"):  # of a process that was killed while it wrote
            stray.unlink()
        replace_folder(job.folder, output)
        return
    joined = work / f"joined{output.suffix}"
    join(job.paths(), joined)
    joined.replace(output)
    fsync(output.absolute().parent)


def _check_disk(job: Job, encoder: Encoder, total: int | None) -> None:
    """Parts and output lie on the disk together for a moment."""
    size = {"float32": 4, "float16": 2, "int8": 1}[job.dtype] * encoder.width
    need = 2 * size * (total or 0) - sum(path.stat().st_size for path in job.paths())
    free = shutil.disk_usage(job.folder).free
    if need > free:
        rule = f"on a disk with {decimal(need)} free"
        raise UserError(f"{job.folder.parent}", rule, decimal(free), "make room or choose another disk")
