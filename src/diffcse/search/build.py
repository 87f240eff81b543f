"""From a text or a table to an index folder, and from words to what is in it; a killed run resumes where it was."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from sentence_transformers import SentenceTransformer

from diffcse.encoding.backends import width_of
from diffcse.encoding.bulk import BulkSettings, Progress, encode_texts, finished, working
from diffcse.encoding.encode import Encoder, EncodeSettings
from diffcse.encoding.parts import (
    Counts,
    Engine,
    Job,
    Part,
    in_this_process,
    on_disk,
    read_note,
    text_digest,
    vectors_of,
)
from diffcse.encoding.prompts import resolve_prompt
from diffcse.errors import UserError
from diffcse.files import write_atomic
from diffcse.persistence.load import fingerprint
from diffcse.search import rows
from diffcse.search.columns import column_names, other_columns
from diffcse.search.facts import Facts, Row
from diffcse.search.index import Hit, SentenceIndex
from diffcse.search.writing import BUILDING, Blocks, check_model, check_new
from diffcse.text.stream import Texts, open_texts

_ADDITION = "addition"

Prompt = Callable[[SentenceTransformer], str]
"""Gives the words in front of every text once the model is loaded."""


def index_text(
    source: str,
    folder: Path,
    load: Callable[[], SentenceTransformer],
    *,
    model: str | None,
    add: bool = False,
    update: str | None = None,
    column: str | None = None,
    settings: BulkSettings | None = None,
    prompt: Prompt | None = None,
    engine: Engine = in_this_process,
    on_progress: Progress = lambda done, total: None,
) -> tuple[SentenceIndex, Counts]:
    """Encode a text, with the other columns of a table, into a new index or into an existing one.

    Args:
        source: as for `diffcse.text.stream.open_texts`; blank texts are counted and not indexed.
        folder: the index; its parent exists.
        load: gives the model; called once everything else has been checked.
        model: the model's name, kept in the index; None for the bundled one.
        add: append to the index in `folder`.
        update: a column; rows of the index with a new row's value in it are replaced, the other new rows appended.
        column: the text's column in a table.
        settings: limits, precision and dims; None for the usual ones. Vectors are normalized float32 in any case.
        prompt: gives the words in front of every text; None for those of the index, or the model's own for documents.
        engine: what encodes.
        on_progress: called with the texts encoded and all.

    Returns:
        The index, open, and what was read.

    Raises:
        UserError: bad input, no index to add to, an index in the way, another model or prompt, or a full disk.
    """
    work, usual = folder / BUILDING, settings or BulkSettings()
    texts = open_texts(source, column=column)
    if (done := _finish_interrupted(folder, work, texts, usual)) is not None:
        return done
    index = _existing(folder, update) if add or update is not None else None
    if index is None:
        check_new(folder)
    total = _checked_count(texts)
    encoder = load()
    mark = fingerprint(encoder)
    if index is not None:
        check_model(folder, index.facts, mark)
    how = _as_documents(usual, encoder, prompt, index)
    with _building(folder, work, 1 if index is None else index.facts.additions + 1):
        runner = Encoder(encoder, settings=how.encoding)
        job, counts = encode_texts(texts, work, runner, how, engine=engine, total=total, on_progress=on_progress)
        if counts.blank == counts.rows:
            shutil.rmtree(job.folder)
            raise _blank(texts)
        if index is not None:
            index.add(_blocks(job, texts), key=update)
        else:
            index = SentenceIndex.create(folder, _facts(encoder, how, model, mark, texts), _blocks(job, texts))
    shutil.rmtree(work)
    return index, counts


def _existing(folder: Path, key: str | None) -> SentenceIndex:
    """The index to put rows into; `key` is a column of it, if rows are to be replaced."""
    index = SentenceIndex(folder)
    if key is not None:
        index.check_key(key)
    return index


def _checked_count(texts: Texts) -> int | None:
    """The number of texts, None for standard input; the names of their columns can be used, and not all are blank."""
    for name in column_names(texts):
        rows.check_name(name)
    total = texts.count()
    if total is not None and not any(text.strip() for text in texts):
        raise _blank(texts)
    return total


class StoredParts:
    """An engine (`diffcse.encoding.parts.Engine`) that takes the parts that `diffcse encode` wrote for the same text.

    They are linked, not copied, where the disk can do that; memory holds none of them.

    Args:
        folder: the output of `diffcse encode`, a folder.

    Raises:
        UserError: no such folder.
    """

    def __init__(self, folder: Path) -> None:
        if not any(folder.glob("part-*.parquet")):
            do = "name the folder that diffcse encode -o FOLDER wrote"
            raise UserError(f"vectors {folder}", "a folder of encoded parts", "no part in it", do)
        self.folder = folder

    def __call__(self, encoder: Encoder, job: Job, parts: Iterator[Part]) -> Iterator[Counts]:
        """Take each part.

        Raises:
            UserError: a part of another text, model or options, or none.
        """
        stored = replace(job, folder=self.folder)
        for part in parts:
            path = stored.path(part.number)
            note = read_note(path)
            if note is None or (note["job"], note["text"]) != (job.mark, text_digest(part.texts)):
                raise self._others(path.name)
            _link(path, job.path(part.number))
            yield Counts(**note["counts"])
        if len(stored.paths()) > len(job.paths()):
            raise self._others(stored.paths()[-1].name)

    def _others(self, name: str) -> UserError:
        do = "encode the text again: diffcse encode TEXT -o FOLDER, with the same model and options"
        return UserError(f"vectors {self.folder}", "of the same text, model and options", f"another {name}", do)


def _link(source: Path, target: Path) -> None:
    with on_disk(target.parent.parent):
        target.unlink(missing_ok=True)
        try:
            target.hardlink_to(source)
        except OSError:  # another disk, or one without links
            with source.open("rb") as file:
                write_atomic(target, lambda copy: shutil.copyfileobj(file, copy))


class TextSearch:
    """An index folder that is searched with words.

    Args:
        index: the folder, opened.
        model: the encoder that made it.
        prompt: words in front of every query; None for those that were noted when the index was made.
        name: one of the model's prompts, in their place.

    Raises:
        UserError: another model than the index's, or several prompts to choose from.
    """

    def __init__(
        self, index: SentenceIndex, model: SentenceTransformer, *, prompt: str | None = None, name: str | None = None
    ) -> None:
        check_model(index.folder, index.facts, fingerprint(model))
        self.index = index
        self.prompt = index.facts.query_prompt if prompt is None and name is None else prompt
        if self.prompt is None:
            self.prompt = resolve_prompt(model, "query", name)
        width, dims = width_of(model), index.facts.dimension
        self._encoder = Encoder(
            model, settings=EncodeSettings(normalize=True, prompt=self.prompt, dims=None if dims == width else dims)
        )

    @property
    def unknown(self) -> int:
        """Queries so far of mostly unknown words, which the model cannot tell apart."""
        return self._encoder.unknown

    def search(
        self,
        queries: Sequence[str],
        top_k: int = 5,
        threshold: float = -1.0,
        *,
        where: str | None = None,
        hybrid: bool = False,
    ) -> list[list[Hit]]:
        """The rows nearest to each query, best first; see `SentenceIndex.search`.

        Args:
            queries: plain words.
            top_k: most hits of a query.
            threshold: smallest cosine similarity of a hit.
            where: only rows that meet this condition.
            hybrid: let a full-text search of the same words decide with the vectors.
        """
        vectors = self._encoder.encode(queries)
        with rows.reading(self.index.folder):
            return self.index.search(vectors, top_k, threshold, where=where, words=queries if hybrid else None)


def _blank(texts: Texts) -> UserError:
    return UserError(texts.name, "a text with at least one line that is not blank", "none", "give another text")


def _as_documents(
    settings: BulkSettings, model: SentenceTransformer, prompt: Prompt | None, index: SentenceIndex | None
) -> BulkSettings:
    """With the prompt and the dimension of the index, or the model's own prompt for documents.

    Raises:
        UserError: others than those of the index.
    """
    words, dims = settings.encoding.prompt, settings.encoding.dims
    if prompt is not None:
        words = prompt(model)
    if index is not None:
        facts, width = index.facts, width_of(model)
        if words is not None and words != facts.document_prompt:
            rule = f"the index's own, {facts.document_prompt!r}"
            raise UserError("the prompt of added texts", rule, repr(words), "remove the option")
        if dims not in (None, facts.dimension):
            raise UserError("dims", f"the index's own, {facts.dimension}", dims, "remove the option")
        words, dims = facts.document_prompt, None if facts.dimension == width else facts.dimension
    elif words is None:
        words = resolve_prompt(model, "document")
    encoding = replace(settings.encoding, prompt=words, dims=dims, normalize=True)
    return replace(settings, encoding=encoding, dtype="float32")


def _facts(model: SentenceTransformer, how: BulkSettings, name: str | None, mark: str, texts: Texts) -> Facts:
    try:
        query_prompt = resolve_prompt(model, "query")
    except UserError:  # several prompts for queries: the search has to choose
        query_prompt = None
    return Facts(
        dimension=how.encoding.dims or width_of(model),
        model=name,
        fingerprint=mark,
        document_prompt=how.encoding.prompt or "",
        query_prompt=query_prompt,
        text_column=texts.columns[0][0] or "text",
    )


def _blocks(job: Job, texts: Texts) -> Blocks:
    """The encoded parts without their blank texts, with the numbers and the other columns of their rows."""
    lines, columns = itertools.count(1), other_columns(texts)
    for path in job.paths():
        table = pq.read_table(path)
        content, vectors = table["text"].to_pylist(), vectors_of(table)
        block = [
            Row(text=text, line=line, columns=others)
            for text, line, others in zip(content, lines, itertools.islice(columns, len(content)), strict=False)
        ]
        if len(block) != len(content):
            raise UserError(texts.name, "the text that was encoded", "a shorter one", "leave it alone until the end")
        kept = np.array([bool(text.strip()) for text in content])
        yield [row for row, there in zip(block, kept, strict=True) if there], np.ascontiguousarray(vectors[kept])


@contextmanager
def _building(folder: Path, work: Path, addition: int) -> Iterator[None]:
    """Hold the folder of the encoded parts, marked with the number of the addition to the index that they are for."""
    with on_disk(folder):
        folder.mkdir(exist_ok=True)
    try:
        with working(work):
            with on_disk(work):
                write_atomic(work / _ADDITION, str(addition).encode())
            yield
    except UserError:
        with suppress(OSError):
            folder.rmdir()  # only if it is empty: nothing was encoded
        raise


def _finish_interrupted(
    folder: Path, work: Path, texts: Texts, settings: BulkSettings
) -> tuple[SentenceIndex, Counts] | None:
    """Tidy up after a run that was killed when its rows were already committed; None unless it was this very run."""
    if not (work / _ADDITION).is_file() or not (folder / rows.NAME).is_file():
        return None
    with closing(rows.Rows(folder)) as database:
        if int((work / _ADDITION).read_text()) > database.facts.additions:
            return None  # killed earlier: what it has encoded will be used
    index = SentenceIndex(folder)
    index.maintain()
    counts = finished(work, texts, settings.encoding)
    shutil.rmtree(work)
    return None if counts is None else (index, counts)
