"""From a text to an index folder; a killed run goes on where it was."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer

from diffcse.encoding.bulk import (
    BulkSettings,
    Counts,
    Progress,
    digest,
    exclusive,
    load_counts,
    run,
    saying_what_to_do,
    tidy_if_nothing_done,
)
from diffcse.encoding.sinks import ParquetSink
from diffcse.files import write_atomic
from diffcse.persistence.load import fingerprint
from diffcse.search.index import add_to_index, check_model, check_new, create_index
from diffcse.search.manifest import BUILDING, NAME, Manifest, read_manifest
from diffcse.text.stream import STDIN, Texts, open_texts
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
    if (done := _finish_interrupted(folder, work, texts)) is not None:
        return done
    before = read_manifest(folder) if add else None
    if before is None:
        check_new(folder)
    total = texts.count()
    encoder = load()
    mark = fingerprint(encoder)
    if before is not None:
        check_model(folder, before, mark)
    with _building(folder, work, 1 if before is None else before.generation + 1):
        sink = ParquetSink(work, int(encoder.get_embedding_dimension() or 0), "float32")
        how = settings or BulkSettings()
        counts = run(texts, work, encoder, how, sink=sink, total=total, on_progress=on_progress)
        blocks = _Blocks(sink)
        if before is None:
            size = {"rows": counts.rows, "dimension": sink.width}
            manifest = create_index(folder, blocks, **size, model=model, fingerprint=mark)
        else:
            manifest = add_to_index(folder, blocks, rows=counts.rows, fingerprint=mark)
    shutil.rmtree(work)
    return manifest, counts


class _Blocks:
    """The encoded parts, as often as they are wanted."""

    def __init__(self, sink: ParquetSink) -> None:
        self.sink = sink

    def __iter__(self) -> Iterator[tuple[Sequence[str], Vectors]]:
        for table in self.sink.tables():
            vectors = table["vector"].combine_chunks().flatten().to_numpy().reshape(-1, self.sink.width)
            yield table["text"].to_pylist(), np.ascontiguousarray(vectors)


@contextmanager
def _building(folder: Path, work: Path, generation: int) -> Iterator[None]:
    """Hold the folder of the encoded parts, marked with the generation of the index that they are for."""
    with saying_what_to_do(folder, 0):
        folder.mkdir(exist_ok=True)
    with exclusive(work), tidy_if_nothing_done(work):
        with saying_what_to_do(work, load_counts(work).rows):
            write_atomic(work / _GENERATION, str(generation).encode())
        yield


def _finish_interrupted(folder: Path, work: Path, texts: Texts) -> tuple[Manifest, Counts] | None:
    """Tidy up after a run that was killed when its index was already whole; tell whether it was this very run."""
    if not (work / _GENERATION).is_file() or not (folder / NAME).is_file():
        return None
    manifest = read_manifest(folder)
    if int((work / _GENERATION).read_text()) > manifest.generation:
        return None  # killed earlier: what it has encoded will be used
    counts = load_counts(work)
    same = texts.name == STDIN or digest(texts) == counts.digest
    shutil.rmtree(work)
    return (manifest, counts) if same else None
