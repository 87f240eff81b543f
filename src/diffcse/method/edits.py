"""Sensitive transformations: x -> x' (a sentence drafted) -> x'' (filled in by a frozen masked language model).

An edit is a small class that drafts one sentence: it says where tokens are to be filled in and what stood there. All
have the same contract, `edit(ids, uniform) -> Draft`, and are a function of the sentence and its own random numbers
alone. `MlmEdit` then fills the drafts of a whole batch.

Legend: `L` tokens of one sentence, or of the padded batch; `K` tokens of its draft; `N` rows (instances times views);
`V` vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from diffcse.config import EditConfig
from diffcse.kernels.waits import here
from diffcse.method.generator import Generator, places, sample
from diffcse.method.masking import IGNORE, mask_tokens

NOTHING = -1
"""In `Draft.original` where x has no token: what x'' has there always counts as changed."""


@dataclass(frozen=True, kw_only=True)
class Words:
    """What an edit needs to know about the vocabulary.

    Attributes:
        special_ids: ids that are never edited.
        mask_id: id of [MASK].
        size: number of ids.
    """

    special_ids: NDArray[np.int64]
    mask_id: int
    size: int


@dataclass(frozen=True, kw_only=True)
class Draft:
    """x', one sentence before the generator; every array has shape (K,).

    Attributes:
        input_ids: what the generator reads.
        original: the token of x at each place, or `NOTHING`.
        chosen: True where the generator fills in a token.
        draws: uniform numbers in [0, 1), one per token, for sampling from the generator.
    """

    input_ids: NDArray[np.int64]
    original: NDArray[np.int64]
    chosen: NDArray[np.bool_]
    draws: NDArray[np.float64]


Edit = Callable[[NDArray[np.int64], NDArray[np.float64]], Draft]
"""Drafts ids (L,) with numbers from `masking.uniforms` (L, 4)."""


@dataclass(frozen=True, kw_only=True)
class Replacement:
    """Some tokens are masked, to be filled in: the edit of DiffCSE (Chuang et al., 2022, section 3)."""

    ratio: float
    words: Words
    always_mask: bool = False

    def __call__(self, ids: NDArray[np.int64], uniform: NDArray[np.float64]) -> Draft:
        """K = L."""
        masked = mask_tokens(
            ids,
            uniform,
            ratio=self.ratio,
            special_ids=self.words.special_ids,
            mask_id=self.words.mask_id,
            vocab_size=self.words.size,
            always_mask=self.always_mask,
        )
        return Draft(input_ids=masked.input_ids, original=ids, chosen=masked.labels != IGNORE, draws=masked.draws)


@dataclass(frozen=True, kw_only=True)
class Insertion:
    """[MASK] is put after some tokens, to be filled in; the task is to detect the inserted tokens (section 5.3)."""

    ratio: float
    words: Words

    def __call__(self, ids: NDArray[np.int64], uniform: NDArray[np.float64]) -> Draft:
        """K >= L; nothing follows the last token."""
        after = np.flatnonzero(uniform[:-1, 0] < self.ratio)
        return Draft(
            input_ids=np.insert(ids, after + 1, self.words.mask_id),
            original=np.insert(ids, after + 1, NOTHING),
            chosen=np.insert(np.zeros(len(ids), dtype=np.bool_), after + 1, True),
            draws=np.insert(uniform[:, 3], after + 1, uniform[after, 3]),
        )


@dataclass(frozen=True, kw_only=True)
class Deletion:
    """Some tokens are removed; the task is to detect before which tokens one is missing (section 5.3)."""

    ratio: float
    words: Words

    def __call__(self, ids: NDArray[np.int64], uniform: NDArray[np.float64]) -> Draft:
        """K <= L; there is nothing to fill in."""
        gone = (uniform[:, 0] < self.ratio) & ~np.isin(ids, self.words.special_ids)
        after_a_gap = np.concatenate([[False], gone[:-1]])
        stays = ~gone
        return Draft(
            input_ids=ids[stays],
            original=np.where(after_a_gap, NOTHING, ids)[stays],
            chosen=np.zeros(int(stays.sum()), dtype=np.bool_),
            draws=uniform[stays, 3],
        )


@dataclass(frozen=True, kw_only=True)
class OneOf:
    """One of several edits, drawn for each sentence."""

    edits: tuple[Edit, ...]

    def __call__(self, ids: NDArray[np.int64], uniform: NDArray[np.float64]) -> Draft:
        """The first token, [CLS], is never masked, so its second number is free to draw the edit."""
        return self.edits[int(uniform[0, 1] * len(self.edits))](ids, uniform)


def build_edit(config: EditConfig, words: Words) -> Edit:
    """The edit that the settings name."""
    replacement = Replacement(ratio=config.mask_ratio, words=words, always_mask=config.masking == "mask")
    insertion = Insertion(ratio=config.mask_ratio, words=words)
    deletion = Deletion(ratio=config.mask_ratio, words=words)
    edits: dict[str, Edit] = {
        "replacement": replacement,
        "insertion": insertion,
        "deletion": deletion,
        "all": OneOf(edits=(replacement, insertion, deletion)),
    }
    return edits[config.edit]


@dataclass(frozen=True, kw_only=True)
class EditedBatch:
    """What the discriminator reads and what it should say; every tensor has shape (N, L).

    Attributes:
        input_ids: x''.
        replaced: bool, True where x'' differs from x at a real token.
        original: x, aligned with x''; `NOTHING` where x has no token.
        chosen: bool, True where a token was to be filled in.
    """

    input_ids: Tensor
    replaced: Tensor
    original: Tensor
    chosen: Tensor


class MlmEdit(nn.Module):
    """x'' = the generator's reading of the drafts (Chuang et al., 2022, section 3).

    Each field of `EditConfig` that differs between the reference code and the paper is a separate branch here.

    Args:
        mlm: any `AutoModelForMaskedLM` with the encoder's vocabulary; None fills nothing in, so that x'' = x'.
        config: how predictions are taken.
        cls_id: id that position 0 is forced back to.
        pad_id: the tokenizer's padding id.
        padding_free: see `Generator`.
    """

    def __init__(
        self, mlm: PreTrainedModel | None, config: EditConfig, *, cls_id: int, pad_id: int, padding_free: bool = False
    ) -> None:
        super().__init__()
        dropout = config.generator_dropout
        self.generator = None if mlm is None else Generator(mlm, dropout=dropout, padding_free=padding_free)
        self.cls_id = cls_id
        # The reference takes the prediction at every position, masked or not; the paper fills only what was masked. An
        # edit that the reference does not have fills what it asks for: all else would be changed without a label.
        self.everywhere = config.fill_at == "all" and config.edit == "replacement"
        self.argmax = config.fill == "argmax"
        # The reference multiplies x'' by the attention mask, which writes id 0: <s>, not padding, for RoBERTa.
        self.padding_id = 0 if config.padding_id == "zero" else pad_id

    @torch.no_grad()
    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, masked_ids: Tensor, chosen: Tensor, draws: Tensor
    ) -> EditedBatch:
        """Edit every row.

        Args:
            input_ids: x aligned with x', (N, L); `NOTHING` where x has no token.
            attention_mask: (N, L), 1 at real tokens of x'.
            masked_ids: x', (N, L).
            chosen: (N, L) bool, where a token is to be filled in.
            draws: (N, L), uniform numbers in [0, 1) for sampling.
        """
        real = attention_mask.bool()
        edited, where = masked_ids.clone(memory_format=torch.contiguous_format), self._where(attention_mask, chosen)
        if self.generator is not None and bool(where.any()):
            tokens = self._tokens(self.generator, masked_ids, attention_mask, where, draws)
            edited.view(-1)[places(where, edited.device)] = tokens
        edited[:, 0] = self.cls_id
        edited = torch.where(real, edited, self.padding_id)
        # A masked token that the generator recovers counts as original.
        replaced = (edited != input_ids) & real
        return EditedBatch(input_ids=edited, replaced=replaced, original=input_ids, chosen=chosen & real)

    def _where(self, attention_mask: Tensor, chosen: Tensor) -> Tensor:
        """The positions to fill in, (N, L) bool on the CPU, where the batch was made."""
        real = here(attention_mask).bool()
        where = real.clone() if self.everywhere else here(chosen) & real
        where[:, 0] = False  # what is filled in there would be forced back to [CLS]
        return where

    def _tokens(
        self, generator: Generator, masked_ids: Tensor, attention_mask: Tensor, where: Tensor, draws: Tensor
    ) -> Tensor:
        """The generator's ids at `where`, (M,)."""
        if self.argmax:
            return generator.likeliest(masked_ids, attention_mask, where)
        tokens, uniform, start = [], draws.flatten()[places(where, draws.device)], 0
        for logits in generator.logits(masked_ids, attention_mask, where):  # (m, V)
            tokens.append(sample(logits, uniform[start : start + len(logits)]))
            start += len(logits)
        return torch.cat(tokens)
