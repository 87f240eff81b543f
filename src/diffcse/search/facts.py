"""What an index says about itself, and what a row of it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What an index says about itself.

    Attributes:
        dimension: numbers of a vector.
        model: folder or Hub name of the encoder, None for the bundled one.
        fingerprint: digest of that encoder.
        document_prompt: words that stood in front of every text.
        query_prompt: words that belong in front of a query; None where the model has several prompts for queries.
        text_column: name of the column that holds the text.
        pairs: whether the full-text search has pairs of characters for scripts without spaces (see `words`).
        generation: how often the index has been written.
        additions: how many of these changes added rows.
        positions: vectors in the vector file, those of deleted rows included.
        codes: how many of them, from the first, the approximate index holds.
        candidates: rows that a search takes from the approximate index and compares exactly.
        recall: of the ten nearest rows, the share that an approximate search found when it was last measured.
        measured: how many vectors there were then.
        compacted: the generation in which vectors of deleted rows were last removed from the vector file; 0 for never.
        purged: how many vectors were removed so far.
    """

    dimension: int
    model: str | None
    fingerprint: str
    document_prompt: str = ""
    query_prompt: str | None = ""
    text_column: str = "text"
    pairs: bool = False
    generation: int = 0
    additions: int = 0
    positions: int = 0
    codes: int = 0
    candidates: int = 0
    recall: float | None = None
    measured: int = 0
    compacted: int = 0
    purged: int = 0

    @property
    def next_id(self) -> int:
        """Id of the next row."""
        return self.positions + self.purged

    @property
    def vectors_name(self) -> str:
        """Name of the vector file; compacting writes a new one, so that nothing that is searched changes."""
        return f"vectors-{self.compacted:012d}.f32" if self.compacted else "vectors.f32"

    @property
    def ids_name(self) -> str:
        """Name of the file of the ids of the vectors that compacting left."""
        return f"ids-{self.compacted:012d}.npy"

    @property
    def codes_name(self) -> str:
        """Name of the approximate index's file."""
        return f"codes-{f'{self.compacted:012d}-' if self.compacted else ''}{self.codes:012d}.faiss"


@dataclass(frozen=True, kw_only=True)
class Row:
    """A text with what belongs to it.

    Attributes:
        text: the text.
        line: its number in what it was read from, from 1.
        columns: the other columns.
    """

    text: str
    line: int
    columns: Mapping[str, Any] = field(default_factory=dict)
