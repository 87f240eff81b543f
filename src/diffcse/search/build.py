"""From a text to an index folder; a killed run goes on where it was."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from sentence_transformers import SentenceTransformer

from diffcse.encoding.bulk import BulkSettings, Progress, encode_texts, finished, working
from diffcse.encoding.encode import Encoder
from diffcse.encoding.parts import Counts, Job, on_disk, vectors_of
from diffcse.encoding.prompts import resolve_prompt
from diffcse.files import write_atomic
from diffcse.persistence.load import fingerprint
from diffcse.search.index import add_to_index, check_model, check_new, create_index
from diffcse.search.manifest import BUILDING, NAME, Manifest, read_manifest
from diffcse.text.stream import Texts, open_texts
from diffcse.vectors import Vectors, import_faiss

_GENERATION = "generation"


def index_text(
    given: str,
    folder: Path,
    load: Callable[[], SentenceTransformer],
    *,
    model: str | None,
    add: bool = False,
    column: str | None = None,
    settings: BulkSettings | None = None,
    on_progress: Progress = lambda done, total: None,
) -> tuple[Manifest, Counts]:
    """Encode the lines of a text, blank ones left out, into a new index or, with `add`, into an existing one.

    Args:
        given: as for `diffcse.text.stream.open_texts`.
        folder: the index; its parent exists.
        load: gives the model; called once everything else has been checked.
        model: the model's name, kept in the index; None for the bundled one.
        add: append to the index in `folder`.
        column: as for `diffcse.text.stream.open_texts`.
        settings: limits and precision; None for the usual ones. Vectors are float32 in any case.
        on_progress: told the sentences encoded.

    Returns:
        The index's manifest, and what was read.

    Raises:
        UserError: bad input, no index to add to, an index in the way, another model, or a full disk.
    """
    import_faiss()
    work = folder / BUILDING
    texts = open_texts(given, column=column, skip_blank=True)
    if (done := _finish_interrupted(folder, work, texts, settings or BulkSettings())) is not None:
        return done
    before = read_manifest(folder) if add else None
    if before is None:
        check_new(folder)
    total = texts.count()
    encoder = load()
    mark = fingerprint(encoder)
    if before is not None:
        check_model(folder, before, mark)
    how = _as_documents(settings or BulkSettings(), encoder)
    with _building(folder, work, 1 if before is None else before.generation + 1):
        job, counts = encode_texts(
            texts, work, Encoder(encoder, settings=how.encoding), how, total=total, on_progress=on_progress
        )
        blocks = _Blocks(job)
        if before is None:
            size = {"rows": counts.rows, "dimension": int(encoder.get_embedding_dimension() or 0)}
            manifest = create_index(folder, blocks, **size, model=model, fingerprint=mark)
        else:
            manifest = add_to_index(folder, blocks, rows=counts.rows, fingerprint=mark)
    shutil.rmtree(work)
    return manifest, counts


def _as_documents(settings: BulkSettings, model: SentenceTransformer) -> BulkSettings:
    """With the model's own prompt for documents, unless one is set."""
    if settings.encoding.prompt is not None:
        return settings
    return replace(settings, encoding=replace(settings.encoding, prompt=resolve_prompt(model, "document")))


class _Blocks:
    """The encoded parts, as often as they are needed."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def __iter__(self) -> Iterator[tuple[Sequence[str], Vectors]]:
        for path in self.job.paths():
            table = pq.read_table(path)
            yield table["text"].to_pylist(), np.ascontiguousarray(vectors_of(table))


@contextmanager
def _building(folder: Path, work: Path, generation: int) -> Iterator[None]:
    """Hold the folder of the encoded parts, marked with the generation of the index that they are for."""
    with on_disk(folder):
        folder.mkdir(exist_ok=True)
    with working(work):
        with on_disk(work):
            write_atomic(work / _GENERATION, str(generation).encode())
        yield


def _finish_interrupted(
    folder: Path, work: Path, texts: Texts, settings: BulkSettings
) -> tuple[Manifest, Counts] | None:
    """Tidy up after a run that was killed when its index was already whole; tell whether it was this very run."""
    if not (work / _GENERATION).is_file() or not (folder / NAME).is_file():
        return None
    manifest = read_manifest(folder)
    if int((work / _GENERATION).read_text()) > manifest.generation:
        return None  # killed earlier: what it has encoded will be used
    counts = finished(work, texts, settings.encoding)
    shutil.rmtree(work)
    return None if counts is None else (manifest, counts)
