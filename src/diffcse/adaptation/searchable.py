"""The documents as a searchable folder, encoded by the model that was kept."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

from datasets import Dataset
from rich.console import Console

from diffcse.files import write_atomic
from diffcse.persistence.load import fingerprint, load_encoder
from diffcse.progress import counting
from diffcse.search.build import index_text
from diffcse.search.index import SentenceIndex
from diffcse.search.rows import NAME
from diffcse.search.writing import BUILDING, check_new

_TABLE = "documents.jsonl"


def check_index(folder: Path | None, work: Path) -> None:
    """Refuse a folder that an index cannot be made in, unless an interrupted run of this command began it.

    Args:
        folder: for the index; None for none.
        work: folder of the interrupted run, if any.
    """
    if folder is not None and not (work / _TABLE).is_file():
        check_new(folder)


def index_documents(documents: Dataset, model: Path, folder: Path, work: Path, console: Console | None) -> None:
    """Make the index, or finish the one that an interrupted run began.

    Args:
        documents: columns title, sentences and origin; title and origin become columns of the index.
        model: the saved model.
        folder: of the index; its parent is made.
        work: where the table of the documents' texts is kept until the run is finished.
        console: where progress is shown.
    """
    table = work / _TABLE
    if not table.is_file():
        texts = documents.map(_whole, batched=True).select_columns(["text", "title", "origin"])
        write_atomic(table, lambda file: texts.to_json(file, force_ascii=False))
    elif _complete(folder, model, len(documents)):
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with counting(console, "index", len(documents)) as show:
        index, _ = index_text(
            str(table),
            folder,
            lambda: load_encoder(model),
            model=str(model.resolve()),
            column="text",
            on_progress=lambda done, total: show(done),
        )
    index.close()


def _complete(folder: Path, model: Path, rows: int) -> bool:
    """Whether the index was written before the run could be marked as finished."""
    if not (folder / NAME).is_file() or (folder / BUILDING).exists():
        return False
    with closing(SentenceIndex(folder)) as index:
        return len(index) == rows and index.facts.fingerprint == fingerprint(load_encoder(model))


def _whole(batch: dict[str, list[Any]]) -> dict[str, list[str]]:
    pairs = zip(batch["title"], batch["sentences"], strict=True)
    return {"text": [" ".join([title, *sentences] if title else sentences) for title, sentences in pairs]}
