"""What a run is trained on: sentences, pairs and triplets from files, or documents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import datasets
import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from diffcse.config import Config
from diffcse.errors import UserError
from diffcse.files import digest
from diffcse.progress import counting
from diffcse.settings import as_names
from diffcse.text.dataset import ReadReport, read_texts, tokenise
from diffcse.text.documents import Documents, read_documents
from diffcse.text.unknown import warn_of_unknown
from diffcse.training.batches import Examples
from diffcse.training.checks import check_columns
from diffcse.training.networks import Networks
from diffcse.training.spans import DocumentReport, Spans, check_documents, report

_SENTENCES_FOR_LABEL_FREE = 1024
_DOCUMENTS_FOR_UNKNOWN = 1000
"""Spans are tokenised when they are drawn, so the first documents stand for all."""

Sources: TypeAlias = str | Path | Sequence[str | Path] | Documents | datasets.Dataset
"""Files and the like; or, with view neighbours, documents."""


@dataclass(frozen=True, kw_only=True)
class Text:
    """What a run is trained on, before it is read.

    Attributes:
        sources: names of files and the like; None where `documents` are there already.
        documents: a dataset of documents; None where they are to be read.
        lines: what was said when the documents were read.
        columns: the columns of a table.
        neighbours: whether the sources are read as documents.
    """

    sources: Sequence[str | Path] | None
    documents: datasets.Dataset | None
    lines: Sequence[str]
    columns: Sequence[str] | None
    neighbours: bool

    @classmethod
    def of(cls, sources: Sources, columns: Sequence[str] | None, config: Config) -> Text:
        """Tell names from documents.

        Raises:
            UserError: documents for another view than neighbours, or more than one column of them.
        """
        neighbours = config.views.view == "neighbours"
        columns = None if columns is None else [str(name) for name in as_names("columns", columns)]
        if neighbours and columns is not None and len(columns) > 1:
            got = ", ".join(columns)
            raise UserError("columns", "one, the documents' text, with view neighbours", got, "name one column")
        documents, lines = None, tuple[str, ...]()
        names: Sequence[str | Path] | None = None
        if isinstance(sources, Documents):
            documents, lines = sources.dataset, tuple(sources.counts.lines())
        elif isinstance(sources, datasets.Dataset):
            documents = sources
        else:
            names = as_names("sources", sources)
        if documents is not None and not neighbours:
            raise UserError("view", "neighbours where the sources are documents", config.views.view, "set view")
        return cls(sources=names, documents=documents, lines=lines, columns=columns, neighbours=neighbours)

    def names(self) -> list[str]:
        """What the run's folder remembers: the sources, or a digest of the documents' keys."""
        if self.documents is None:
            return [str(source) for source in self.sources or ()]
        return [f"{len(self.documents)} documents, {digest(list(self.documents['key']))}"]

    def read(self, cache_dir: Path | None) -> tuple[datasets.Dataset, ReadReport | DocumentReport]:
        """The rows, sentences or documents, and what became of what was read."""
        if not self.neighbours:
            return read_texts(self.sources or (), columns=self.columns, cache_dir=cache_dir)
        documents, lines = self.documents, self.lines
        if documents is None:
            column = self.columns[0] if self.columns else None
            corpus = read_documents(self.sources or (), column=column, cache_dir=cache_dir)
            documents, lines = corpus.dataset, corpus.counts.lines()
        check_documents(documents)
        return documents, report(documents, lines)


def examples(
    rows: datasets.Dataset, networks: Networks, config: Config, cache_dir: Path | None, console: Console | None
) -> Examples | Spans:
    """Sentences as token ids, with the sentence after each where that is edited; or documents as spans."""
    limit = config.training.max_tokens
    if config.views.view == "neighbours":
        spans = Spans(rows, networks.tokenizer, config.views, max_tokens=limit, seed=config.training.seed)
        first = spans.__getitems__([(0, row) for row in range(min(_DOCUMENTS_FOR_UNKNOWN, len(rows)))])
        warn_of_unknown((ids for _, _, ids in first), networks.tokenizer)
        return spans
    with counting(console, "tokenise", len(rows)) as show:
        tokens = tokenise(rows, networks.tokenizer, max_tokens=limit, cache_dir=cache_dir, on_progress=show)
    warn_of_unknown(_columns(tokens), networks.tokenizer)
    dataset = Examples(tokens, with_next=config.has_edits and config.edits.edited_text != "same")
    check_columns(len(dataset.columns), config)
    return dataset


def _columns(tokens: datasets.Dataset) -> Iterator[list[NDArray[np.int32]]]:
    """Token ids of the texts of each column, some rows at a time."""
    for batch in tokens.with_format("arrow").iter(10_000):
        for column in batch.columns:
            yield list(column.to_numpy())


def first_sentences(rows: datasets.Dataset) -> list[str]:
    """What the criterion without labels looks at: the first sentences, or the first one of the first documents."""
    first = rows[:_SENTENCES_FOR_LABEL_FREE]
    if "sentences" in first:
        return [sentences[0] for sentences in first["sentences"]]
    return list(first["text0"])
