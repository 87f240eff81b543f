"""From tokenised text to the batches that the training module takes.

Legend: `B` instances, `S` sentences of an instance, `L` tokens of the longest sentence in the batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from diffcse.config import EditConfig
from diffcse.masking import IGNORE, MaskedSentence, mask_tokens, uniforms
from diffcse.views import views

Example = tuple[int, int, list[NDArray[np.int64]]]
"""(epoch, example, token ids of each text column)"""


class Examples(Dataset[Example]):
    """Rows of a tokenised dataset, addressed by (epoch, example).

    Args:
        rows: a dataset with the columns `ids0` (, `ids1`, `ids2`) of token ids.
    """

    def __init__(self, rows: Any) -> None:
        self.rows = rows.with_format("numpy")
        self.columns = sorted(name for name in rows.column_names if name.startswith("ids"))

    def __getitem__(self, key: tuple[int, int]) -> Example:
        epoch, index = key
        row = self.rows[index]
        return epoch, index, [np.asarray(row[name], dtype=np.int64) for name in self.columns]

    def __len__(self) -> int:
        return len(self.rows)


class Collator:
    """Makes a batch: the views of each example, and for DiffCSE their masked copies.

    Args:
        tokenizer: gives the padding id, [MASK] and the special ids.
        edits: how tokens are masked; None for objective simcse.
        seed: with (epoch, example, view) it decides every mask.
    """

    def __init__(self, tokenizer: Any, edits: EditConfig | None, seed: int) -> None:
        self.pad_id, self.edits, self.seed = int(tokenizer.pad_token_id), edits, seed
        self.special_ids = np.array(sorted(set(tokenizer.all_special_ids)))
        self.mask_id, self.vocab_size = tokenizer.mask_token_id, len(tokenizer)

    def __call__(self, examples: list[Example]) -> dict[str, Tensor]:
        """Tensors of shape (B, S, L): input_ids, attention_mask and, with edits, masked_ids, chosen, draws."""
        rows = [[ids for ids in views(columns)] for _, _, columns in examples]
        batch = {
            "input_ids": _padded(rows, self.pad_id, np.int64),
            "attention_mask": _padded([[np.ones_like(ids) for ids in row] for row in rows], 0, np.int64),
        }
        if self.edits is not None:
            masked = [
                [self._mask(epoch, example, view, ids) for view, ids in enumerate(row)]
                for (epoch, example, _), row in zip(examples, rows, strict=True)
            ]
            batch["masked_ids"] = _padded([[m.input_ids for m in row] for row in masked], self.pad_id, np.int64)
            batch["chosen"] = _padded([[m.labels != IGNORE for m in row] for row in masked], False, np.bool_)
            batch["draws"] = _padded([[m.draws for m in row] for row in masked], 0.0, np.float64)
        return {name: torch.from_numpy(value) for name, value in batch.items()}

    def _mask(self, epoch: int, example: int, view: int, ids: NDArray[np.int64]) -> MaskedSentence:
        assert self.edits is not None
        return mask_tokens(
            ids,
            uniforms(self.seed, epoch, example, view, len(ids)),
            ratio=self.edits.mask_ratio,
            special_ids=self.special_ids,
            mask_id=self.mask_id,
            vocab_size=self.vocab_size,
            always_mask=self.edits.masking == "mask",
        )


def _padded(rows: list[list[NDArray[Any]]], fill: Any, dtype: Any) -> NDArray[Any]:
    longest = max(len(ids) for row in rows for ids in row)
    out = np.full((len(rows), len(rows[0]), longest), fill, dtype=dtype)
    for i, row in enumerate(rows):
        for j, ids in enumerate(row):
            out[i, j, : len(ids)] = ids
    return out
