"""From texts to token ids: checked, cut at the limit, with a mark at those that the model cannot read.

Legend: `N` texts, `T` tokens of a text.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import PreTrainedTokenizerBase

from diffcse.errors import UserError
from diffcse.text.opening import is_utf8
from diffcse.text.unknown import mostly_unknown

_SENTENCES = "a string or several of them (a list, tuple, array or column)"


def as_sentences(value: Any, what: str = "sentences") -> list[str]:
    """The strings of a list, tuple, generator, numpy array or pandas Series; a single string gives one.

    A table would give the names of its columns, a dict its keys and a set any order, so these are refused.

    Args:
        value: what a caller handed over.
        what: how the error names it.

    Raises:
        UserError: anything else, or something in it that is not text.
    """
    if isinstance(value, str):
        return [str(value)]
    wrong = isinstance(value, Mapping | set | frozenset | bytes | bytearray | PurePath) or hasattr(value, "columns")
    if wrong or not isinstance(value, Iterable) or getattr(value, "ndim", 1) != 1:
        do = "give the column of text" if hasattr(value, "columns") else "give a list of strings"
        raise UserError(what, _SENTENCES, _kind(value), do)
    sentences = value.tolist() if isinstance(value, np.ndarray) else list(value)
    for number, sentence in enumerate(sentences):
        check_text(number, sentence)
    return sentences


def check_text(number: int, sentence: Any) -> str:
    """The sentence, if it is a string.

    Raises:
        UserError: with the number and the kind.
    """
    if not isinstance(sentence, str):
        raise UserError(f"sentence {number}", "text", type(sentence).__name__, "give strings")
    return sentence


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {value.ndim} dimensions"
    return "None" if value is None else f"a {type(value).__name__}"


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Token ids of a chunk of N texts.

    Attributes:
        input_ids: one array (T,) a text, special tokens included.
        truncated: how many of the texts were cut.
        unknown: (N,), True where more than half of a text's tokens are the unknown token.
    """

    input_ids: list[NDArray[np.int32]]
    truncated: int
    unknown: NDArray[np.bool_]


class Tokeniser:
    """Texts to token ids on a copy of the model's tokenizer, whose own settings stay as they are.

    Args:
        model: one that `reads_plain_text`.
        max_tokens: longest text; never more than the model's own limit.

    Raises:
        UserError: a limit that leaves no room for a word.
    """

    def __init__(self, model: SentenceTransformer, max_tokens: int | None = None) -> None:
        tokenizer = model.tokenizer
        self.limit = limit(model, max_tokens)
        self._special = tokenizer.num_special_tokens_to_add()
        if self.limit is not None and self.limit < self._special + 1:
            raise UserError("max_tokens", f"at least {self._special + 1}", self.limit, "leave room for a word")
        self._unknown_id = -1 if tokenizer.unk_token_id is None else int(tokenizer.unk_token_id)
        self._fast: Any = copy.deepcopy(tokenizer.backend_tokenizer)
        self._fast.no_padding()
        self._fast.no_truncation()
        if self.limit is not None:
            self._fast.enable_truncation(self.limit, direction=tokenizer.truncation_side)

    def __call__(self, texts: list[str]) -> Tokens:
        """Token ids of each text, cut at the limit.

        Raises:
            UserError: a lone surrogate.
        """
        encodings = encode_fast(self._fast, texts)
        ids = [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]
        cut = sum(len(encoding) == self.limit and bool(encoding.overflowing) for encoding in encodings)
        return Tokens(input_ids=ids, truncated=cut, unknown=mostly_unknown(ids, self._unknown_id, self._special))


def limit(model: SentenceTransformer, max_tokens: int | None) -> int | None:
    """Tokens that are read of a text: the smaller of the wish and the model's own limit; None for no limit."""
    limits = (max_tokens, model.max_seq_length)  # word vectors say infinity
    return min((value for value in limits if value is not None and value != math.inf), default=None)


def encode_fast(tokenizer: Any, texts: list[str], *, special: bool = True) -> Any:
    """The encodings of a tokenizer of the library `tokenizers`.

    Raises:
        UserError: a lone surrogate, which no UTF-8 text can hold.
    """
    try:
        return tokenizer.encode_batch_fast(texts, add_special_tokens=special)
    except (TypeError, UnicodeError):
        number = next(i for i, text in enumerate(texts) if not is_utf8(text))
        what = f"sentence {number} of its chunk"
        raise UserError(what, "Unicode text", "a lone surrogate", "decode the bytes again, as UTF-8") from None


def reads_plain_text(model: SentenceTransformer) -> bool:
    """Whether token ids alone decide a text's vector; False for word vectors, chat templates, images and the like."""
    first, tokenizer = model[0], model.tokenizer
    return (
        isinstance(first, Transformer)
        and isinstance(tokenizer, PreTrainedTokenizerBase)
        and tokenizer.is_fast
        and "text" in first.modality_config
        and "message" not in first.modality_config
        # Where the prompt's tokens are left out of the mean, the library has to know the prompt.
        and all(module.include_prompt for module in model if isinstance(module, Pooling))
        # Asked of the backend: a call of the tokenizer itself would change its truncation and padding.
        and not (
            "token_type_ids" in tokenizer.model_input_names and any(tokenizer.backend_tokenizer.encode("a").type_ids)
        )
    )
