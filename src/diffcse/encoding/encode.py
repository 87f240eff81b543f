"""Vectors of many sentences, fast and exact: sorted by length, batched by tokens, tokenised beside the model.

Legend: `N` sentences, `B` of them in one batch, `T` tokens of a batch without padding, `L` of its longest sentence,
`H` hidden.

A stream is cut into chunks; while the model works on one, a thread tokenises the next. Within a chunk, sentences are
sorted by length, so that a batch holds next to no padding. A chunk's vectors depend on its sentences alone, so work
that was stopped between two chunks goes on with bit-identical results.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from diffcse.config import Pooler
from diffcse.errors import UserError
from diffcse.kernels import packing
from diffcse.kernels.memory import give_back
from diffcse.method import pooling
from diffcse.persistence.save import ONE_LAYER

log = logging.getLogger(__name__)

Vectors = NDArray[np.float32]
Precision = Literal["float32", "float16", "bfloat16"]

_CPU_BATCH_TOKENS = 1024  # more makes a CPU slower: the activations leave its cache
_GPU_BATCH_TOKENS = 16_384


@dataclass(frozen=True, kw_only=True)
class EncodeSettings:
    """How sentences become vectors."""

    max_tokens: int | None = None
    """Longest sentence (tokens, special ones included); longer ones are cut. None: the model's own limit."""
    batch_tokens: int | None = None
    """Largest batch (tokens, padding included); a single longer sentence is a batch by itself. None: 1,024 on a CPU,
    16,384 on a GPU."""
    chunk_sentences: int = 8192
    """Sentences that are sorted together and held in memory at once."""
    chunk_characters: int = 8_000_000
    """Characters after which a chunk ends early."""
    precision: Precision = "float32"
    """Arithmetic of the model; float16 and bfloat16 through autocast. Vectors are float32 in any case."""
    normalize: bool = False
    """Scale every vector to length 1."""

    def __post_init__(self) -> None:
        for name in ("max_tokens", "batch_tokens", "chunk_sentences", "chunk_characters"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(name, "at least 1", value, "give a positive number")
        if self.precision not in get_args(Precision):
            raise UserError("precision", f"one of {', '.join(get_args(Precision))}", self.precision, "use float32")


@dataclass(frozen=True, kw_only=True)
class TokenBatch:
    """Sentences of one batch, one after the other, without padding.

    Attributes:
        input_ids: shape (T,), special tokens included.
        lengths: tokens of each sentence, shape (B,), from long to short.
    """

    input_ids: NDArray[np.int32]
    lengths: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Vectors in the order of the sentences.

    Attributes:
        vectors: shape (N, H).
        truncated: how many of the sentences were longer than the limit and lost their end.
    """

    vectors: Vectors
    truncated: int


Forward = Callable[[SentenceTransformer, TokenBatch], Tensor]
"""A batch through the model: (B, H), any float type, on the model's device."""


def torch_forward(model: SentenceTransformer, batch: TokenBatch) -> Tensor:
    """The batch without padding where the model allows it, else in one padded rectangle (B, L).

    Without padding, a [CLS] model's last layer computes no more than the [CLS] rows need.
    """
    here = torch.arange(int(batch.lengths[0])) < torch.from_numpy(batch.lengths)[:, None]
    input_ids = torch.full(here.shape, model.tokenizer.pad_token_id or 0)
    input_ids[here] = torch.from_numpy(batch.input_ids).long()
    features = {"input_ids": input_ids, "attention_mask": here.long()}
    features = {name: value.to(model.device, non_blocking=True) for name, value in features.items()}
    pooler = _plain_pooler(model)
    if pooler is not None:
        backbone: Any = model[0].model
        vectors = {"sentence_embedding": pooling.encode(backbone, **features, pooler=pooler, padding_free=True)}
        for module in list(model)[2:]:
            vectors = module(vectors)
        return vectors["sentence_embedding"]
    if "token_type_ids" in model.tokenizer.model_input_names:
        features["token_type_ids"] = torch.zeros_like(features["input_ids"])
    return model({**features, "modality": "text"})["sentence_embedding"]


def _plain_pooler(model: SentenceTransformer) -> Pooler | None:
    """The pooling of a model that can go without padding and has nothing but scaling behind it; None for others."""
    modules: list[Any] = list(model)
    pooled = len(modules) > 1 and isinstance(modules[1], Pooling)
    if not pooled or not all(isinstance(module, Normalize) for module in modules[2:]):
        return None
    pooler = ONE_LAYER.get(str(modules[1].pooling_mode))
    return pooler if pooler and packing.supports(modules[0].model) else None


def encode(
    model: SentenceTransformer,
    sentences: Sequence[str],
    settings: EncodeSettings = EncodeSettings(),
    *,
    forward: Forward = torch_forward,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Encoded:
    """Encode sentences on the model's device; float32 equals sentence-transformers' own result to rounding.

    Args:
        model: Transformer, Pooling and any modules behind them.
        sentences: N of them.
        settings: limits and precision.
        forward: what takes a batch through the model.
        on_progress: called with the number of sentences done.

    Raises:
        UserError: something that is not text, or vectors that are not finite.
    """
    vectors = np.empty((len(sentences), _width(model)), dtype=np.float32)
    done = truncated = 0
    for chunk in encode_chunks(model, sentences, settings, forward=forward):
        vectors[done : done + len(chunk.vectors)] = chunk.vectors
        done += len(chunk.vectors)
        truncated += chunk.truncated
        on_progress(done)
    return Encoded(vectors=vectors, truncated=truncated)


def encode_stream(
    model: SentenceTransformer,
    sentences: Iterable[str],
    settings: EncodeSettings = EncodeSettings(),
    *,
    forward: Forward = torch_forward,
) -> Iterator[Vectors]:
    """Arrays (n, H) that follow the sentences of a stream of any length; memory holds two chunks, not the stream."""
    return (chunk.vectors for chunk in encode_chunks(model, sentences, settings, forward=forward))


def encode_chunks(
    model: SentenceTransformer,
    sentences: Iterable[str],
    settings: EncodeSettings = EncodeSettings(),
    *,
    forward: Forward = torch_forward,
) -> Iterator[Encoded]:
    """The chunks of `encode_stream`, each with its count of truncated sentences."""
    tokenise = Tokeniser(model, settings.max_tokens)
    with ThreadPoolExecutor(1, thread_name_prefix="tokenise") as worker:
        ahead = None
        for texts in chunks(sentences, settings):
            following = worker.submit(tokenise, texts)
            if ahead is not None:
                yield _encode_chunk(model, ahead.result(), settings, forward)
                give_back()
            ahead = following
        if ahead is not None:
            yield _encode_chunk(model, ahead.result(), settings, forward)


def usual_batch_tokens(device: torch.device) -> int:
    """Tokens of a batch that keep this kind of device busy and no more."""
    return _CPU_BATCH_TOKENS if device.type == "cpu" else _GPU_BATCH_TOKENS


def chunks(sentences: Iterable[str], settings: EncodeSettings) -> Iterator[list[str]]:
    """Consecutive groups of sentences, bounded in number and in characters; the check that each is text.

    >>> list(chunks("abc", EncodeSettings(chunk_sentences=2)))
    [['a', 'b'], ['c']]
    """
    group: list[str] = []
    characters = 0
    for number, sentence in enumerate(sentences):
        if not isinstance(sentence, str):
            raise UserError(f"sentence {number}", "text", type(sentence).__name__, "give strings")
        group.append(sentence)
        characters += len(sentence)
        if len(group) == settings.chunk_sentences or characters >= settings.chunk_characters:
            yield group
            group, characters = [], 0
    if group:
        yield group


def batches(lengths: NDArray[np.int64], tokens: int) -> Iterator[slice]:
    """Cut rows that are sorted from long to short into batches whose padded size stays within `tokens`.

    >>> [(rows.start, rows.stop) for rows in batches(np.array([9, 5, 5, 2, 2, 2]), 10)]
    [(0, 1), (1, 3), (3, 6)]
    """
    cuts = [0]
    while cuts[-1] < len(lengths):
        longest = max(int(lengths[cuts[-1]]), 1)
        cuts.append(min(len(lengths), cuts[-1] + max(tokens // longest, 1)))
    return (slice(start, stop) for start, stop in pairwise(cuts))


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Token ids of a chunk: one array a sentence, and how many of the sentences were cut."""

    input_ids: list[NDArray[np.int32]]
    truncated: int


class Tokeniser:
    """Sentences to token ids on a copy of the model's tokenizer, whose own settings stay as they are.

    Args:
        model: must begin with a Transformer that reads plain text.
        max_tokens: longest sentence; never more than the model's own limit.

    Raises:
        UserError: for a model that sentence-transformers itself would feed otherwise (chat templates, prompts, images).
    """

    def __init__(self, model: SentenceTransformer, max_tokens: int | None = None) -> None:
        _check_supported(model)
        tokenizer = model.tokenizer
        limits = [limit for limit in (max_tokens, model.max_seq_length) if limit is not None]
        self.limit = min(limits, default=None)
        fewest = tokenizer.num_special_tokens_to_add() + 1
        if self.limit is not None and self.limit < fewest:
            raise UserError("max_tokens", f"at least {fewest}", self.limit, "leave room for a word")
        self._fast: Any = copy.deepcopy(tokenizer.backend_tokenizer)
        self._fast.no_padding()
        self._fast.no_truncation()
        if self.limit is not None:
            self._fast.enable_truncation(self.limit, direction=tokenizer.truncation_side)

    def __call__(self, texts: list[str]) -> Tokens:
        """Token ids of each text, cut at the limit."""
        try:
            encodings = self._fast.encode_batch_fast(texts)
        except (TypeError, UnicodeError):  # a lone surrogate, which no UTF-8 text can hold
            number = next(i for i, text in enumerate(texts) if not _is_utf8(text))
            what = f"sentence {number} of its chunk"
            raise UserError(what, "Unicode text", "a lone surrogate", "decode the bytes again, as UTF-8") from None
        ids = [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]
        cut = sum(len(encoding) == self.limit and bool(encoding.overflowing) for encoding in encodings)
        return Tokens(input_ids=ids, truncated=cut)


def _check_supported(model: SentenceTransformer) -> None:
    first, tokenizer = model[0], model.tokenizer
    plain = (
        isinstance(first, Transformer)
        and isinstance(tokenizer, PreTrainedTokenizerBase)
        and tokenizer.is_fast
        and "text" in first.modality_config
        and "message" not in first.modality_config
        and model.default_prompt_name is None
        and not any(tokenizer("a")["token_type_ids"] if "token_type_ids" in tokenizer.model_input_names else [])
    )
    if not plain:
        do = "use sentence-transformers' own encode for it"
        raise UserError("the model", "a Transformer that reads plain text without a prompt", type(first).__name__, do)


def _encode_chunk(model: SentenceTransformer, tokens: Tokens, settings: EncodeSettings, forward: Forward) -> Encoded:
    ids = tokens.input_ids
    lengths = np.array([len(one) for one in ids], dtype=np.int64)
    budget = settings.batch_tokens or usual_batch_tokens(model.device)
    order = np.argsort(-lengths, kind="stable")
    out = torch.empty((len(ids), _width(model)), device=model.device)
    with torch.inference_mode(), _evaluating(model), _arithmetic(model, settings.precision):
        for place in batches(lengths[order], budget):
            rows = order[place]
            batch = TokenBatch(input_ids=np.concatenate([ids[row] for row in rows]), lengths=lengths[rows])
            out[torch.from_numpy(rows).to(out.device)] = forward(model, batch).float()
        if settings.normalize:
            out = torch.nn.functional.normalize(out, dim=1)
        vectors = out.cpu().numpy()  # the only wait for the device in a chunk
    if not np.isfinite(vectors).all():
        broken = int((~np.isfinite(vectors).all(axis=1)).sum())
        do = "use precision float32, or check the model's weights"
        raise UserError("sentence vectors", "finite", f"NaN or infinity in {broken} of {len(vectors)}", do)
    return Encoded(vectors=vectors, truncated=tokens.truncated)


@contextmanager
def _evaluating(model: SentenceTransformer) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _arithmetic(model: SentenceTransformer, precision: Precision) -> Any:
    if precision == "float32":
        return nullcontext()
    return torch.autocast(model.device.type, dtype=getattr(torch, precision))


def _width(model: SentenceTransformer) -> int:
    return int(model.get_embedding_dimension() or 0)


def _is_utf8(text: str) -> bool:
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False
