"""Texts that a model's vocabulary cannot read: whatever they say, their tokens are the unknown one."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)


def mostly_unknown(ids: Sequence[NDArray[np.integer[Any]]], unknown_id: int, special: int) -> NDArray[np.bool_]:
    """(N,), True where more than half of a text's tokens, special ones apart, are the unknown token.

    Args:
        ids: token ids of N texts, special tokens included.
        unknown_id: of the unknown token.
        special: special tokens that every text has.
    """
    ends = np.cumsum([0, *map(len, ids)])  # text i is from ends[i] to ends[i + 1] of all ids in one row
    unknown = np.concatenate([np.zeros(0, np.int32), *ids]) == unknown_id
    before = np.concatenate([[0], np.cumsum(unknown)])[ends]
    return 2 * np.diff(before) > np.diff(ends) - special


def warn_of_unknown(groups: Iterable[Sequence[NDArray[np.integer[Any]]]], tokenizer: Any) -> None:
    """Say how many texts, groups of token ids here, are mostly unknown: a model cannot tell different ones apart."""
    if tokenizer.unk_token_id is None:
        return
    special, count, total = tokenizer.num_special_tokens_to_add(), 0, 0
    for ids in groups:
        count += int(mostly_unknown(ids, tokenizer.unk_token_id, special).sum())
        total += len(ids)
    if count:
        log.warning("%d of %d texts are mostly words that the model does not know and cannot tell apart", count, total)
