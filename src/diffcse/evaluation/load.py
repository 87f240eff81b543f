"""Any sentence encoder, loaded for evaluation.

Legend: `S` sentences, `H` hidden.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from transformers import PreTrainedTokenizerBase

from diffcse.config import Pooler
from diffcse.encoder import as_device
from diffcse.encoding.encode import EncodeSettings, Tokeniser, encode
from diffcse.errors import UserError
from diffcse.persistence import load as checkpoints


class TextEncoder:
    """A SentenceTransformer that is evaluated: sentences are cut at the model's limit only, and that is counted.

    Args:
        model: the SentenceTransformer.
        on_progress: called with the number of sentences done and of all.

    Attributes:
        limit: tokens that the model reads of a sentence; None if it has no limit.
        truncated: sentences so far that were longer and lost their end.
    """

    def __init__(
        self, model: SentenceTransformer, *, on_progress: Callable[[int, int], None] = lambda done, total: None
    ) -> None:
        self.model, self.on_progress = model.eval(), on_progress
        self.limit: int | None = model.max_seq_length
        self.truncated = 0

    def encode(self, sentences: list[str]) -> NDArray[np.float32]:
        """Vectors of S sentences: (S, H)."""
        if not _reads_plain_text(self.model):
            return self._encode_its_own_way(sentences)
        settings = EncodeSettings()
        report = lambda done: self.on_progress(done, len(sentences))  # noqa: E731
        encoded = encode(self.model, sentences, settings, on_progress=report)
        self.truncated += encoded.truncated
        return encoded.vectors

    def _encode_its_own_way(self, sentences: list[str]) -> NDArray[np.float32]:
        """Models with prompts, word vectors and the like: sentence-transformers knows what to do with them."""
        tokenizer = self.model.tokenizer
        if self.limit is not None and isinstance(tokenizer, PreTrainedTokenizerBase):
            ids = tokenizer(sentences, truncation=False, verbose=False)["input_ids"]
            self.truncated += sum(len(one) > self.limit for one in ids)
        return self.model.encode(sentences, show_progress_bar=False).astype(np.float32)


def load_encoder(
    model: str,
    *,
    pooler: Pooler | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> TextEncoder:
    """Load an encoder by folder or Hub name, or the one of the package by the name `bundled`.

    A SentenceTransformer is taken as it is. With `pooler`, or where there is no SentenceTransformer, it is the plain
    Transformer and that pooler (cls by default, as the paper evaluates: [CLS] of the last layer before any projector).

    Args:
        model: what to load.
        pooler: cls, avg, avg_top2, avg_first_last or last; None keeps the model's own.
        device: where to compute; None for a GPU if there is one.
        trust_remote_code: run code that comes with the model.
        on_progress: called with the number of sentences done and of all.

    Raises:
        UserError: no such model, no whole weights in it, or not a text encoder.
    """
    loaded = checkpoints.load_encoder(model, pooler=pooler, trust_remote_code=trust_remote_code)
    return TextEncoder(loaded.to(as_device(device)), on_progress=on_progress)


def _reads_plain_text(model: SentenceTransformer) -> bool:
    try:
        Tokeniser(model)
    except UserError:
        return False
    return True
