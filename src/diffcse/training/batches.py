"""From tokenised text to the batches that the training module takes.

Legend: `B` instances, `S` sentences of an instance, `D` drafts of an instance (S for each text that is edited), `L`
tokens of the longest sentence in the batch, `K` tokens of the longest draft.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from diffcse.config import EditConfig, ViewConfig
from diffcse.method.edits import Draft, Words, build_edit
from diffcse.method.masking import EDIT, NEXT, VIEW, uniforms
from diffcse.method.prompt import Prompt
from diffcse.method.views import build_view, views

Example = tuple[int, int, list[NDArray[np.int64]]]
"""(epoch, example, token ids of each text column)"""


class Examples(Dataset[Example]):
    """Rows of a tokenised dataset, addressed by (epoch, example).

    Args:
        rows: a dataset with the columns `ids0` (, `ids1`, `ids2`) of token ids.
        with_next: give the row after it too, as another column; the last row has itself after it.
    """

    def __init__(self, rows: Any, *, with_next: bool = False) -> None:
        self.rows = rows.with_format("numpy")
        self.columns = sorted(name for name in rows.column_names if name.startswith("ids"))
        self.with_next = with_next

    def __getitem__(self, key: tuple[int, int]) -> Example:
        epoch, index = key
        row = self.rows[index]
        ids = [np.asarray(row[name], dtype=np.int64) for name in self.columns]
        if self.with_next:
            after = self.rows[min(index + 1, len(self.rows) - 1)]
            ids.append(np.asarray(after[self.columns[0]], dtype=np.int64))
        return epoch, index, ids

    def __len__(self) -> int:
        return len(self.rows)


class Collator:
    """Makes a batch: the views of each example, and the drafts that are to be filled in.

    Args:
        tokenizer: gives the padding id, [MASK] and the special ids.
        edits: how sentences are edited; None where none is.
        seed: with (epoch, example, view) it decides every view and draft.
        view: how the second view is made; None for the same tokens.
        keys: number of each example's document, (N,) int64; None where examples are not spans of documents.
    """

    def __init__(
        self,
        tokenizer: Any,
        edits: EditConfig | None,
        seed: int,
        view: ViewConfig | None = None,
        keys: NDArray[np.int64] | None = None,
    ) -> None:
        self.pad_id, self.seed, self.keys = int(tokenizer.pad_token_id), seed, keys
        special_ids = np.array(sorted(set(tokenizer.all_special_ids)))
        prompt = Prompt.of(tokenizer)
        self.view = build_view(view or ViewConfig(), special_ids)
        if prompt is not None:
            self.view = prompt.view(self.view)
        self.edits = edits
        if edits is not None:
            words = Words(special_ids=special_ids, mask_id=tokenizer.mask_token_id, size=len(tokenizer))
            self.edit = build_edit(edits, words)
            if prompt is not None:
                self.edit = prompt.edit(self.edit)

    @property
    def with_next(self) -> bool:
        """Whether an example's last column is the sentence after it."""
        return self.edits is not None and self.edits.edited_text != "same"

    def __call__(self, examples: list[Example]) -> dict[str, Tensor]:
        """The tensors of a batch.

        input_ids, attention_mask: (B, S, L). With edits also masked_ids, chosen, draws: (B, D, K). Where a draft is not
        the sentence itself with some tokens masked, also aligned_ids and draft_mask, (B, D, K). With spans of documents
        also identity, (B, 1 + S): numbers of the document and of each view's tokens.
        """
        rows, after = self._views(examples)
        batch = {"input_ids": _padded(rows, self.pad_id, np.int64), "attention_mask": _ones(rows)}
        if self.keys is not None:
            numbers = [[self.keys[e[1]], *map(number_of, row)] for e, row in zip(examples, rows, strict=True)]
            batch["identity"] = np.array(numbers, dtype=np.int64)
        if self.edits is not None:
            drafts = [
                self._drafts(epoch, example, row, following)
                for (epoch, example, _), row, following in zip(examples, rows, after, strict=True)
            ]
            batch["masked_ids"] = _padded([[d.input_ids for d in row] for row in drafts], self.pad_id, np.int64)
            batch["chosen"] = _padded([[d.chosen for d in row] for row in drafts], False, np.bool_)
            batch["draws"] = _padded([[d.draws for d in row] for row in drafts], 0.0, np.float64)
            if self.with_next or self.edits.edit != "replacement":
                batch["aligned_ids"] = _padded([[d.original for d in row] for row in drafts], self.pad_id, np.int64)
                batch["draft_mask"] = _ones([[d.input_ids for d in row] for row in drafts])
        return {name: torch.from_numpy(value) for name, value in batch.items()}

    def _views(self, examples: list[Example]) -> tuple[list[list[NDArray[np.int64]]], list[NDArray[np.int64]]]:
        """The sentences of each instance, and what comes after it in the text (itself where nobody asks)."""
        rows, after = [], []
        for epoch, example, columns in examples:
            texts = columns[:-1] if self.with_next else columns
            rows.append(views(texts, self.view, uniforms(self.seed, epoch, example, 1, len(texts[0]), VIEW)))
            after.append(columns[-1])
        return rows, after

    def _drafts(
        self, epoch: int, example: int, row: Sequence[NDArray[np.int64]], following: NDArray[np.int64]
    ) -> list[Draft]:
        """One of each view for each text that is edited, each with its own random numbers."""
        assert self.edits is not None
        texts: dict[str, list[tuple[int, Sequence[NDArray[np.int64]]]]] = {
            "same": [(EDIT, row)],
            "next": [(NEXT, [following] * len(row))],
            "both": [(EDIT, row), (NEXT, [following] * len(row))],
        }
        return [
            self.edit(ids, uniforms(self.seed, epoch, example, view, len(ids), purpose))
            for purpose, sentences in texts[self.edits.edited_text]
            for view, ids in enumerate(sentences)
        ]


def number_of(content: NDArray[np.int64] | str) -> int:
    """A 64-bit digest of token ids or of a text: equal contents have equal numbers, others all but surely not."""
    raw = content.encode() if isinstance(content, str) else content.tobytes()
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "little", signed=True)


def _padded(rows: list[list[NDArray[Any]]], fill: Any, dtype: Any) -> NDArray[Any]:
    longest = max(len(ids) for row in rows for ids in row)
    out = np.full((len(rows), len(rows[0]), longest), fill, dtype=dtype)
    for i, row in enumerate(rows):
        for j, ids in enumerate(row):
            out[i, j, : len(ids)] = ids
    return out


def _ones(rows: list[list[NDArray[Any]]]) -> NDArray[Any]:
    return _padded([[np.ones_like(ids) for ids in row] for row in rows], 0, np.int64)
