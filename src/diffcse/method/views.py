"""Insensitive transformations: what makes the two views of a sentence that should stay close.

DiffCSE is one case of equivariant contrastive learning (Dangovski et al., 2021): insensitive to some transformations
(views, here), sensitive to others (`diffcse.method.edits`). Its view is dropout alone: the same tokens twice, and the
Transformer's own dropout masks make the difference (Gao et al., 2021). The others change the second view's tokens as
well; each is a small class with one contract, `view(ids, uniform) -> ids`, and a function of the sentence and its own
random numbers alone. `neighbours` alone reads more than a sentence: its two views are spans of one document (`spans`).

Legend: `L` tokens of one sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffcse.config import ViewConfig

View = Callable[[NDArray[np.int64], NDArray[np.float64]], NDArray[np.int64]]
"""Ids (L,) and numbers from `masking.uniforms` (L, 4) to ids of the view."""


@dataclass(frozen=True, kw_only=True)
class Unchanged:
    """The same tokens: dropout alone makes the view (Gao et al., 2021)."""

    def __call__(self, ids: NDArray[np.int64], uniform: NDArray[np.float64]) -> NDArray[np.int64]:
        """The ids as they are."""
        return ids


@dataclass(frozen=True, kw_only=True)
class TokenView:
    """What the views that change tokens share.

    Attributes:
        ratio: how much is changed, 0 to 1.
        special_ids: ids that never are.
    """

    ratio: float
    special_ids: NDArray[np.int64]

    def words(self, ids: NDArray[np.int64]) -> NDArray[np.intp]:
        """Places of the tokens that are not special."""
        return np.flatnonzero(~np.isin(ids, self.special_ids))


class Repetition(TokenView):
    """Some tokens twice, so that length is no sign of sameness (ESimCSE; Wu et al., 2022, section 3.1).

    The number of repeated tokens is uniform between 0 and max(2, ratio * tokens); they are drawn without replacement.
    """

    def __call__(self, ids: NDArray[np.int64], uniform: NDArray[np.float64]) -> NDArray[np.int64]:
        """Longer by the repeated tokens."""
        words = self.words(ids)
        most = min(max(2, int(self.ratio * len(words))), len(words))
        count = int(uniform[0, 1] * (most + 1))
        twice = words[np.argsort(uniform[words, 0], kind="stable")[:count]]
        return np.insert(ids, twice, ids[twice])


class Cropping(TokenView):
    """One span of the sentence, the rest cut off at both ends."""

    def __call__(self, ids: NDArray[np.int64], uniform: NDArray[np.float64]) -> NDArray[np.int64]:
        """Shorter by `ratio` of its ordinary tokens, rounded down; at least one is kept."""
        words = self.words(ids)
        cut = min(int(self.ratio * len(words)), max(len(words) - 1, 0))
        first = int(uniform[0, 1] * (cut + 1))
        outside = np.concatenate([words[:first], words[len(words) - (cut - first) :]])
        return np.delete(ids, outside)


class Dropping(TokenView):
    """Some tokens removed, each with probability `ratio`; at least one ordinary token stays."""

    def __call__(self, ids: NDArray[np.int64], uniform: NDArray[np.float64]) -> NDArray[np.int64]:
        """Shorter by the removed tokens."""
        words = self.words(ids)
        gone = words[uniform[words, 0] < self.ratio]
        return np.delete(ids, gone[1:] if len(gone) == len(words) else gone)


class Shuffling(TokenView):
    """Some tokens, each chosen with probability `ratio`, change places among themselves."""

    def __call__(self, ids: NDArray[np.int64], uniform: NDArray[np.float64]) -> NDArray[np.int64]:
        """The same tokens in another order."""
        words = self.words(ids)
        moved = words[uniform[words, 0] < self.ratio]
        out = ids.copy()
        out[moved] = ids[moved[np.argsort(uniform[moved, 1], kind="stable")]]
        return out


def build_view(config: ViewConfig, special_ids: NDArray[np.int64]) -> View:
    """The view that the settings name."""
    settings: dict[str, Any] = {"ratio": config.view_ratio, "special_ids": special_ids}
    kinds: dict[str, View] = {
        "dropout": Unchanged(),
        "repetition": Repetition(**settings),
        "cropping": Cropping(**settings),
        "deletion": Dropping(**settings),
        "shuffling": Shuffling(**settings),
        "neighbours": Unchanged(),  # the spans are two texts already; a document of one sentence is seen twice
    }
    return kinds[config.view]


def spans(count: int, uniform: NDArray[np.float64], *, longest: int, window: int = 0) -> tuple[slice, slice]:
    """Two spans of consecutive sentences of a document that do not overlap, in random order.

    Which words two passages of one document share, and which they do not, says what the document is about; so the
    vectors learn its topic and leave out what is said in passing (Giorgi et al., 2021; Izacard et al., 2022).

    Args:
        count: sentences of the document; with one, both spans are that sentence.
        uniform: numbers from `masking.uniforms`, (2, 4).
        longest: most sentences of a span.
        window: consecutive sentences that both spans are drawn from; 0 for all.

    >>> spans(9, np.full((2, 4), 0.5), longest=3)
    (slice(5, 7, None), slice(3, 5, None))
    """
    if count == 1:
        return slice(0, 1), slice(0, 1)
    sizes, places = uniform
    first = 0
    if 0 < window < count:
        first, count = int(sizes[3] * (count - window + 1)), window
    a = 1 + int(sizes[0] * min(longest, count - 1))
    b = 1 + int(sizes[1] * min(longest, count - a))
    # The sentences in neither span are before, between and after them: two cuts of their number say how many where.
    before, between = sorted(int(place * (count - a - b + 1)) for place in places[:2])
    start, other = first + before, first + a + between
    chosen = slice(start, start + a), slice(other, other + b)
    return chosen if sizes[2] < 0.5 else chosen[::-1]


def views(columns: Sequence[NDArray[np.int64]], view: View, uniform: NDArray[np.float64]) -> list[NDArray[np.int64]]:
    """The sentences of one instance: one text column is seen twice; pairs and triples are views already.

    >>> alone, two = [np.array([2, 7, 3])], [np.array([2, 7, 3]), np.array([2, 8, 9, 3])]
    >>> [len(ids) for ids in views(alone, Unchanged(), np.zeros((3, 4)))]
    [3, 3]
    >>> [len(ids) for ids in views(two, Unchanged(), np.zeros((3, 4)))]
    [3, 4]
    """
    return [columns[0], view(columns[0], uniform)] if len(columns) == 1 else list(columns)
