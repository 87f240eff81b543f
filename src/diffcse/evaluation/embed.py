"""Every sentence encoded once, in one pass through the encoder, however many tasks it is in.

Legend: `S` sentences, `U` different ones, `H` hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from diffcse.errors import UserError


class Encoder(Protocol):
    """What can be evaluated."""

    def encode(self, sentences: list[str], /) -> Any:
        """Vectors of S sentences: an array or tensor of shape (S, H), in any float type."""


Encode = Callable[[list[str]], Any]
"""The method above by itself."""


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """Vectors of all sentences of a run.

    Attributes:
        row: the row of each sentence.
        vectors: shape (U, H), float32 or float64.
    """

    row: Mapping[str, int]
    vectors: NDArray[Any]

    def __call__(self, sentences: Sequence[str]) -> NDArray[Any]:
        """Vectors of S of the sentences, shape (S, H)."""
        return self.vectors[[self.row[sentence] for sentence in sentences]]


def embed(encode: Encode, sentences: Iterable[str]) -> Embedded:
    """Encode each different sentence once, with one call of an encoder's method.

    Raises:
        UserError: the encoder gave something else than S finite vectors.
    """
    row: dict[str, int] = {}
    for sentence in sentences:
        row.setdefault(sentence, len(row))
    vectors = as_array(encode(list(row)))
    if vectors.ndim != 2 or len(vectors) != len(row):
        rule = f"an array of shape ({len(row)}, H), one vector per sentence"
        raise UserError("what the encoder returns", rule, vectors.shape, "check its encode method")
    broken = int((~np.isfinite(vectors).all(axis=1)).sum())
    if broken:
        got = f"NaN or infinity for {broken} of {len(row)} sentences"
        raise UserError("what the encoder returns", "finite", got, "encode in float32, or check the model's weights")
    return Embedded(row=row, vectors=vectors)


def as_array(vectors: Any) -> NDArray[Any]:
    """Tensors of any device and float type, arrays and lists of vectors, as one float32 or float64 array."""
    if hasattr(vectors, "detach"):
        vectors = vectors.detach().cpu().float() if vectors.element_size() < 4 else vectors.detach().cpu()
    array = np.asarray(vectors)
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)
