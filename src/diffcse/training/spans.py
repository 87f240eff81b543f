"""Documents as training examples: two spans of each, the view `neighbours`.

Legend: `N` documents.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray
from torch.utils.data import Dataset

from diffcse.config import ViewConfig
from diffcse.errors import UserError
from diffcse.method.masking import VIEW, uniforms
from diffcse.method.views import spans
from diffcse.training.batches import Example, number_of


@dataclass(frozen=True, kw_only=True)
class DocumentReport:
    """What a run on documents trains on."""

    kept: int
    """Documents."""
    single: int
    """Those of one sentence, which have no two spans: the sentence is seen twice, as by view dropout."""
    lines: tuple[str, ...] = ()
    """What the reader left out or changed, a sentence each."""

    def summary(self) -> str:
        """The report, each thing that the reader did a line.

        >>> DocumentReport(kept=1200, single=1).summary()
        '1,200 documents; 1 of a single sentence, which is seen twice (view dropout)'
        """
        parts = [f"{self.kept:,} documents"]
        if self.single:
            parts.append(f"{self.single:,} of a single sentence, which is seen twice (view dropout)")
        return "\n".join(["; ".join(parts), *self.lines])


class Spans(Dataset[Example]):
    """Two spans of each document, addressed by (epoch, example) and drawn by (seed, epoch, example).

    Spans are tokenised when they are drawn: their sentences together, so that the ids are those that the model will
    read later of the same text, whatever the tokenizer does at a space.

    Args:
        documents: a dataset with the columns `key` (text) and `sentences` (list of text).
        tokenizer: adds its special tokens.
        settings: how long the spans are, and how far apart.
        max_tokens: longest span (tokens, special ones included); longer ones are cut.
        seed: with (epoch, example) it decides the spans.

    Attributes:
        keys: number of each document's key, (N,); equal documents have equal ones.
    """

    def __init__(self, documents: Any, tokenizer: Any, settings: ViewConfig, *, max_tokens: int, seed: int) -> None:
        self.documents, self.tokenizer, self.settings = documents.with_format(None), tokenizer, settings
        self.max_tokens, self.seed = max_tokens, seed
        self.keys: NDArray[np.int64] = np.array([number_of(key) for key in documents["key"]], dtype=np.int64)

    def texts(self, epoch: int, example: int) -> tuple[str, str]:
        """The two spans of a document in an epoch."""
        sentences = self.documents[example]["sentences"]
        uniform = uniforms(self.seed, epoch, example, 0, 2, VIEW)
        chosen = spans(len(sentences), uniform, longest=self.settings.span_sentences, window=self.settings.span_window)
        first, second = (joined(sentences[span]) for span in chosen)
        return first, second

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> list[Example]:
        """The examples of a batch, tokenised in one call."""
        texts = [text for epoch, example in keys for text in self.texts(epoch, example)]
        only_ids = {"return_attention_mask": False, "return_token_type_ids": False}
        encoded = self.tokenizer(texts, truncation=True, max_length=self.max_tokens, **only_ids)["input_ids"]
        ids = [np.array(row, dtype=np.int64) for row in encoded]
        return [(epoch, example, ids[2 * i : 2 * i + 2]) for i, (epoch, example) in enumerate(keys)]

    def __getitem__(self, key: tuple[int, int]) -> Example:
        return self.__getitems__([key])[0]

    def __len__(self) -> int:
        return len(self.documents)


def joined(sentences: Sequence[str]) -> str:
    """Consecutive sentences as one text: a space between two, but none in a script that is written without.

    >>> joined(["It rains.", "We stay."]), joined(["下雨了。", "我们在家。"])
    ('It rains. We stay.', '下雨了。我们在家。')
    """
    text = sentences[0]
    for sentence in sentences[1:]:
        wide = all(
            unicodedata.east_asian_width(character) in "WF" for character in (text[-1:], sentence[:1]) if character
        )
        text += sentence if wide else f" {sentence}"
    return text


def check_documents(documents: Any) -> None:
    """The columns that spans are drawn from, and at least two documents.

    Raises:
        UserError: naming what is missing.
    """
    for column in ("key", "sentences"):
        if column not in documents.column_names:
            have = ", ".join(documents.column_names)
            raise UserError("documents", f"a dataset with a column {column}", have, "see diffcse.text.documents")
    if len(documents) < 2:
        do = "add documents: the others of a batch are the negatives"
        raise UserError("the text", "at least 2 documents", len(documents), do)


def report(documents: Any, lines: Sequence[str] = ()) -> DocumentReport:
    """Count the documents that have no two spans."""
    batches = documents.with_format("arrow").iter(10_000)  # a selection of documents is followed, unlike by `.data`
    single = sum(int((pc.list_value_length(batch["sentences"]).to_numpy() == 1).sum()) for batch in batches)
    return DocumentReport(kept=len(documents), single=single, lines=tuple(lines))
