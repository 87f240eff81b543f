"""BERT-style masking whose randomness is a function of (seed, epoch, example, view) and of nothing else.

Legend: `L` tokens of one sentence.

A masked sentence does not change with the batch it is in, with the number of data workers or with the world size,
because each (example, view) has its own random stream, addressed by a counter (Philox; Salmon et al., 2011)
instead of drawn from a generator that everybody shares.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IGNORE = -100
"""Label of a position that was not chosen for masking."""

_DRAWS_PER_TOKEN = 4

EDIT, VIEW, NEXT = 0, 1, 2
"""What a stream of numbers is for: the edit of a sentence, its second view, the edit of the sentence after it."""


@dataclass(frozen=True, kw_only=True)
class MaskedSentence:
    """One masked sentence; every array has shape (L,).

    Attributes:
        input_ids: token ids with some replaced by [MASK] or by a random word.
        labels: the original id where a token was chosen, `IGNORE` elsewhere.
        draws: one uniform number in [0, 1) a token, left for sampling from the generator.
    """

    input_ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    draws: NDArray[np.float64]


def uniforms(seed: int, epoch: int, example: int, view: int, length: int, purpose: int = EDIT) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1) of shape (L, 4) that belong to this (seed, epoch, example, view) and purpose.

    A longer sentence draws the same first rows: the numbers do not depend on `length`.

    >>> bool((uniforms(1, 0, 7, 0, 3) == uniforms(1, 0, 7, 0, 5)[:3]).all())
    True
    """
    # Philox counts blocks in the lowest word of its 256-bit counter, so (purpose, view, example) in the three higher
    # words give streams of 2^64 blocks each that never meet.
    stream = np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64), counter=[0, purpose, view, example])
    return np.random.Generator(stream).random((length, _DRAWS_PER_TOKEN))


def mask_tokens(
    input_ids: NDArray[np.int64],
    uniform: NDArray[np.float64],
    *,
    ratio: float,
    special_ids: NDArray[np.int64],
    mask_id: int,
    vocab_size: int,
    always_mask: bool = False,
) -> MaskedSentence:
    """Choose ordinary tokens with probability `ratio`; of those, 80% become [MASK], 10% a random word, 10% stay.

    This is the reference's masking (transformers' `DataCollatorForLanguageModeling` at its defaults; Devlin et al.,
    2019, section 3.1). Any id among the tokenizer's special ids ([UNK], [MASK] and [PAD] too) is never chosen; the
    random word may be any id, special ones included.

    Args:
        input_ids: token ids, shape (L,).
        uniform: numbers from `uniforms`, shape (L, 4).
        ratio: probability that an ordinary token is chosen, 0 to 1.
        special_ids: ids that are never chosen.
        mask_id: id of [MASK].
        vocab_size: number of ids that a random word is drawn from.
        always_mask: every chosen token becomes [MASK], as the paper's text has it.
    """
    chosen = (uniform[:, 0] < ratio) & ~np.isin(input_ids, special_ids)
    to_mask = chosen & (always_mask | (uniform[:, 1] < 0.8))
    to_random = chosen & ~to_mask & (uniform[:, 1] >= 0.9)
    masked = np.where(to_mask, mask_id, input_ids)
    masked = np.where(to_random, (uniform[:, 2] * vocab_size).astype(np.int64), masked)
    return MaskedSentence(input_ids=masked, labels=np.where(chosen, input_ids, IGNORE), draws=uniform[:, 3])
