"""Insensitive transformations: what makes the two views of a sentence that should stay close.

DiffCSE is one case of equivariant contrastive learning (Dangovski et al., 2021): insensitive to some transformations
(views, here), sensitive to others (`diffcse.edits`). Its view is dropout alone: the same tokens twice, and the
Transformer's own dropout masks make the difference (Gao et al., 2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def views(columns: Sequence[T]) -> list[T]:
    """The sentences of one instance: one text column is seen twice; pairs and triples are views already.

    >>> views(["a"]), views(["a", "its positive", "its hard negative"])
    (['a', 'a'], ['a', 'its positive', 'its hard negative'])
    """
    return [columns[0], columns[0]] if len(columns) == 1 else list(columns)
