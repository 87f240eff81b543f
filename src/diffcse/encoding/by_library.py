"""Models that are no Transformer on plain token ids, run by sentence-transformers' own encode.

Word vectors, slow tokenizers, chat templates; the limits and counts are those of every other model.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding, Transformer
from transformers import PreTrainedTokenizerBase

from diffcse.encoding.backends import width_of
from diffcse.encoding.prompts import resolve_prompt
from diffcse.encoding.tokenise import encode_fast, limit
from diffcse.text.unknown import mostly_unknown


def by_library(
    model: SentenceTransformer, texts: list[str], max_tokens: int | None, prompt: str | None
) -> tuple[torch.Tensor, int, NDArray[np.bool_]]:
    """Vectors (N, H), how many texts were cut, and (N,) which are mostly unknown, if the tokenizer can tell.

    Args:
        model: any SentenceTransformer.
        texts: N of them.
        max_tokens: longest text; None for the model's own limit.
        prompt: words in front of each text; None for the model's default prompt.
    """
    prompt = resolve_prompt(model, text=prompt)
    most = limit(model, max_tokens)
    how: dict[str, Any] = {}
    if max_tokens is not None and isinstance(model[0], Transformer):
        how["processing_kwargs"] = {"text": {"max_length": most}}
    vectors = model.encode(texts, prompt=prompt, show_progress_bar=False, convert_to_tensor=True, **how)
    cut, unknown = _counted(model, [prompt + text for text in texts], most)
    return vectors.float().reshape(len(texts), width_of(model)), cut, unknown


def _counted(model: SentenceTransformer, texts: list[str], most: int | None) -> tuple[int, NDArray[np.bool_]]:
    tokenizer = model.tokenizer
    if isinstance(tokenizer, PreTrainedTokenizerBase):
        ids = [np.array(row, np.int32) for row in tokenizer(texts, truncation=False, verbose=False)["input_ids"]]
        unknown_id = -1 if tokenizer.unk_token_id is None else int(tokenizer.unk_token_id)
        cut = 0 if most is None else sum(len(row) > most for row in ids)
        return cut, mostly_unknown(ids, unknown_id, tokenizer.num_special_tokens_to_add())
    if isinstance(model[0], StaticEmbedding):  # on a tokenizer of the library `tokenizers`
        encodings = encode_fast(tokenizer, texts, special=False)
        unknown_id = next((i for i in map(tokenizer.token_to_id, ("[UNK]", "<unk>")) if i is not None), -1)
        return 0, mostly_unknown([np.array(row.ids, np.int32) for row in encodings], unknown_id, 0)
    return 0, np.zeros(len(texts), dtype=np.bool_)
