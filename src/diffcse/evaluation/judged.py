"""Judged collections: encoders next to BM25 and TF-IDF, with intervals, and a paired test against the first encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from diffcse.errors import UserError
from diffcse.evaluation.beir import read_beir
from diffcse.evaluation.embed import Encoder
from diffcse.evaluation.lexical import BM25, TfIdf
from diffcse.evaluation.retrieval import METRICS, Retrieval, RetrievalScores, Scorer, score
from diffcse.evaluation.statistics import bootstrap, paired

Row = dict[str, Any]


def read_collections(folders: Sequence[Path]) -> dict[str, Retrieval]:
    """Collections in BEIR's layout by the names of their folders.

    Raises:
        UserError: a folder that cannot be read (see `beir.read_beir`), or two of one name.
    """
    collections: dict[str, Retrieval] = {}
    for folder in folders:
        name = folder.expanduser().resolve().name
        if name in collections:
            raise UserError(f"--ir {folder}", "a folder of another name", f"a second {name}", "rename one")
        collections[name] = read_beir(folder.expanduser())
    return collections


def compare_on(
    collections: Mapping[str, Retrieval],
    encoders: Mapping[str, Encoder],
    on_step: Callable[[str], None] = lambda what: None,
) -> list[Row]:
    """One row for each collection and system: the encoders in their order, then BM25 and TF-IDF.

    Args:
        collections: tasks by name.
        encoders: encoders by name; every later one, and BM25 and TF-IDF, is tested against the first.
        on_step: called with what comes next.

    Returns:
        Rows with `collection`, `system`, `queries`, every metric (0 to 1), `interval` (95%, of nDCG@10), and for all
        but the first system `against_first` (difference of nDCG@10, its interval, and p).
    """
    systems: dict[str, Encoder | Scorer] = {**encoders, "BM25": BM25(), "TF-IDF": TfIdf()}
    rows: list[Row] = []
    for name, task in collections.items():
        first: RetrievalScores | None = None
        for system, encoder in systems.items():
            on_step(f"{name}: {system}")
            scores = score(task, encoder)
            rows.append({"collection": name, "system": system, **_row(scores, first)})
            first = first or scores
    return rows


def _row(scores: RetrievalScores, first: RetrievalScores | None) -> Row:
    main = METRICS[0]
    interval = bootstrap(scores.per_query[main])
    row: Row = {"queries": scores.queries, **{name: getattr(scores, name) for name in METRICS}}
    row["interval"] = {"low": interval.low, "high": interval.high}
    if first is not None:
        row["against_first"] = asdict(paired(scores.per_query[main], first.per_query[main]))
    return row
