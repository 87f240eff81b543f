"""A sentence inside a prompt, whose [MASK] then stands for the sentence (PromptBERT; Jiang et al., 2022, section 4).

The prompt's words become a part of the tokenizer, as [CLS] is, and pooling takes the last token. So a saved folder
needs no code of this package: a tool that reads `tokenizer.json` and knows last-token pooling gives the same vectors.

Legend: `L` tokens of a sentence in its prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from diffcse.errors import UserError
from diffcse.method.edits import Draft, Edit
from diffcse.method.views import View

SENTENCE = "{sentence}"
"""Where the sentence goes in a prompt."""

_NAMES = ("cls_token", "sep_token", "mask_token", "pad_token", "unk_token", "bos_token", "eos_token")


def prompted(tokenizer: Any, prompt: str) -> PreTrainedTokenizerFast:
    """A tokenizer that puts [CLS] and the prompt around every sentence; too long a sentence loses its own end.

    It is of the plain class that takes `tokenizer.json` as it is: a family's own class builds [CLS] and [SEP] again
    whenever it is loaded, and the prompt would be gone.

    Args:
        tokenizer: with a [CLS] and, where the prompt names it, a [MASK]; stays as it is.
        prompt: with `{sentence}` once; `[MASK]` means the tokenizer's own mask token.

    Raises:
        UserError: for a tokenizer that is not of the tokenizers library.
    """
    if not tokenizer.is_fast:
        raise UserError("prompt", "given with a fast tokenizer", type(tokenizer).__name__, "leave the prompt out")
    rules = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        model_max_length=tokenizer.model_max_length,
        padding_side=tokenizer.padding_side,
        model_input_names=tokenizer.model_input_names,
        **{name: getattr(tokenizer, name) for name in _NAMES if getattr(tokenizer, name, None) is not None},
    )
    left, right = prompt.replace("[MASK]", tokenizer.mask_token or "[MASK]").split(SENTENCE)
    ids = {
        "<cls>": [tokenizer.cls_token_id],
        "<before>": tokenizer(left, add_special_tokens=False)["input_ids"],
        "<after>": tokenizer(right, add_special_tokens=False)["input_ids"],
    }
    pieces = [
        {"id": name, "ids": row, "tokens": tokenizer.convert_ids_to_tokens(row)} for name, row in ids.items() if row
    ]
    single = [name for name in ("<cls>", "<before>", "$A", "<after>") if ids.get(name, True)]
    rules.backend_tokenizer.post_processor = TemplateProcessing(
        single=single, pair=[*single, "$B:1"], special_tokens=pieces
    )
    return rules


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What a tokenizer puts around each sentence: views and edits leave it alone.

    Attributes:
        before: tokens before the sentence, [CLS] included.
        after: tokens after it.
    """

    before: int
    after: int

    @classmethod
    def of(cls, tokenizer: Any) -> Prompt | None:
        """That of a tokenizer; None where it adds no more than one token at each end, as most do."""
        if tokenizer.num_special_tokens_to_add() <= 2:
            return None
        mask = tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"]
        ordinary = np.flatnonzero(np.array(mask) == 0)
        return cls(before=int(ordinary[0]), after=len(mask) - 1 - int(ordinary[-1]))

    def view(self, view: View) -> View:
        """The view of the sentence alone, in the same prompt."""

        def inside(ids: NDArray[np.int64], uniform: NDArray[np.float64]) -> NDArray[np.int64]:
            """`view` of (L,), or `ids` where the sentence has no token."""
            sentence = self._sentence(ids)
            if sentence.start == sentence.stop:
                return ids
            return np.concatenate([ids[: sentence.start], view(ids[sentence], uniform[sentence]), ids[sentence.stop :]])

        return inside

    def edit(self, edit: Edit) -> Edit:
        """The edit of the sentence alone, in the same prompt."""

        def inside(ids: NDArray[np.int64], uniform: NDArray[np.float64]) -> Draft:
            """`edit` of (L,); nothing is chosen or drawn in the prompt."""
            sentence = self._sentence(ids)
            start, end = ids[: sentence.start], ids[sentence.stop :]
            nothing = [np.zeros(len(part), dtype=np.bool_) for part in (start, end)]
            if sentence.start == sentence.stop:
                return Draft(input_ids=ids, original=ids, chosen=np.concatenate(nothing), draws=uniform[:, 3])
            draft = edit(ids[sentence], uniform[sentence])
            return Draft(
                input_ids=np.concatenate([start, draft.input_ids, end]),
                original=np.concatenate([start, draft.original, end]),
                chosen=np.concatenate([nothing[0], draft.chosen, nothing[1]]),
                draws=np.concatenate([uniform[: sentence.start, 3], draft.draws, uniform[sentence.stop :, 3]]),
            )

        return inside

    def _sentence(self, ids: NDArray[np.int64]) -> slice:
        return slice(self.before, len(ids) - self.after)
