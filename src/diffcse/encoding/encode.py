"""Vectors of many sentences, fast and exact: sorted by length, batched by tokens, tokenised while the model works.

Legend: `N` sentences, `B` of them in one batch, `H` numbers of a vector.

A stream is cut into chunks; while the model works on one, a thread tokenises the next. Within a chunk, sentences are
sorted by length, so that a batch holds next to no padding. A chunk's vectors depend on its sentences alone, so work
that was stopped between two chunks, or spread over processes, ends with the same bits.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from diffcse.config import BUNDLED
from diffcse.encoding.backends import Backend, Forward, TokenBatch, as_device, open_graph, torch_forward, width_of
from diffcse.encoding.by_library import by_library
from diffcse.encoding.prompts import resolve_prompt
from diffcse.encoding.tokenise import Tokeniser, Tokens, as_sentences, check_text, limit, reads_plain_text
from diffcse.errors import UserError
from diffcse.kernels.memory import give_back
from diffcse.persistence.load import load_encoder
from diffcse.resources import bundled
from diffcse.settings import Checked
from diffcse.text.cache import batches as grouped
from diffcse.vectors import Vectors, check_dims

Precision = Literal["float32", "float16", "bfloat16", "int8"]

_CPU_BATCH_TOKENS = 1024  # more makes a CPU slower: the activations leave its cache
_GPU_BATCH_TOKENS = 16_384


@dataclass(frozen=True, kw_only=True)
class EncodeSettings(Checked):
    """How sentences become vectors."""

    max_tokens: int | None = None
    """Longest text (tokens, special ones included); longer ones are cut. None: the model's own limit."""
    batch_tokens: int | None = None
    """Largest batch (tokens, padding included); a single longer sentence is a batch by itself. None: 1,024 on a CPU,
    16,384 on a GPU."""
    chunk_sentences: int = 8192
    """Sentences that are sorted together and held in memory at once."""
    chunk_characters: int = 8_000_000
    """Characters after which a chunk ends early."""
    precision: Precision = "float32"
    """Arithmetic of the model: float32; float16 or bfloat16 with torch (autocast); int8 with an exported graph. The
    vectors are float32 in any case."""
    dims: int | None = None
    """Keep only the first numbers of a vector, for models trained to be shortened (Matryoshka). None: all."""
    normalize: bool = False
    """Scale every vector to length 1, after any shortening."""
    prompt: str | None = None
    """Words in front of every text. None: the model's default prompt, if it has one; empty: none at all."""

    def _check(self) -> None:
        for name in ("max_tokens", "batch_tokens", "chunk_sentences", "chunk_characters", "dims"):
            value = getattr(self, name)
            self._need(name, value is None or value >= 1, "at least 1", "give a positive number")


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Vectors in the order of the sentences.

    Attributes:
        vectors: shape (N, H).
        truncated: how many of the sentences were longer than the limit and lost their end.
        unknown: (N,), True for a sentence of mostly unknown tokens; vectors of different such sentences may be equal.
    """

    vectors: Vectors
    truncated: int
    unknown: NDArray[np.bool_]


class Encoder:
    """Runs sentences through a model in batches, whatever runs the model and whatever kind of model it is.

    float32 vectors equal sentence-transformers' own to rounding. Models that are no Transformer on plain token ids
    (word vectors, slow tokenizers, chat templates) go through sentence-transformers' encode, with the same limits and
    counts.

    Args:
        model: a SentenceTransformer, or what `load_encoder` takes: a folder, a Hub name, None for the bundled one.
        backend: torch; onnx or openvino for the graph that `diffcse export` put into the model's folder (settings'
            precision names which: float32 or int8); or a function that takes a batch through the model.
        settings: limits, precision, prompt and form of the vectors.
        folder: the model's folder, for a graph of a model that is loaded already.
        device: where to compute; None leaves a loaded model where it is and takes a GPU, if there is one, for others.

    Attributes:
        model: the SentenceTransformer.
        settings: what holds unless a call says otherwise.
        backend, folder: the arguments.
        texts, truncated, unknown: how many sentences so far, how many of them were cut at the token limit, and how
            many consisted mostly of unknown tokens.

    Raises:
        UserError: no such model, graph or device, or a precision that the backend does not have.
    """

    def __init__(
        self,
        model: SentenceTransformer | str | Path | None = None,
        *,
        backend: Backend | Forward = "torch",
        settings: EncodeSettings = EncodeSettings(),
        folder: str | Path | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        check_precision(backend, settings.precision)
        graph = backend if backend in ("onnx", "openvino") else None
        if not isinstance(model, SentenceTransformer):
            folder, target = model, as_device("cpu" if graph else device)
            model = load_encoder(model).to(target)
        elif device is not None:
            model.to(as_device(device))
        self.model, self.settings, self.backend = model, settings, backend
        self.texts = self.truncated = self.unknown = 0
        self.folder = folder
        self._plain, self._tokenisers = reads_plain_text(model), dict[int | None, Tokeniser]()
        if settings.dims is not None:
            check_dims(settings.dims, width_of(model))
        if graph is not None:
            place = bundled() if folder in (None, BUNDLED) else Path(folder or "").expanduser()
            precision: Any = settings.precision
            self._forward: Forward = open_graph(model.to("cpu"), place, graph, precision)  # type: ignore[arg-type]
        else:
            self._forward = backend if callable(backend) else torch_forward

    @property
    def limit(self) -> int | None:
        """Tokens that are read of a text; None if there is no limit."""
        return limit(self.model, self.settings.max_tokens)

    @property
    def width(self) -> int:
        """H, the numbers of a vector."""
        return self.settings.dims or width_of(self.model)

    def encode(
        self,
        sentences: str | Iterable[str],
        *,
        prompt: str | None = None,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Vectors:
        """Vectors (N, H); (1, H) for a single string.

        Args:
            sentences: N of them: a list, tuple, array, column or generator.
            prompt: words in front of each; None for the settings' prompt, else the model's default one.
            on_progress: called with the sentences done and all.

        Raises:
            UserError: something that is not text, or vectors that are not finite.
        """
        return self.run(sentences, prompt=prompt, on_progress=on_progress).vectors

    def encode_query(self, sentences: str | Iterable[str], **how: Any) -> Vectors:
        """`encode` with the settings' prompt, else the model's own for queries, where it has one."""
        return self.encode(sentences, prompt=resolve_prompt(self.model, "query", text=self.settings.prompt), **how)

    def encode_document(self, sentences: str | Iterable[str], **how: Any) -> Vectors:
        """`encode` with the settings' prompt, else the model's own for documents, where it has one."""
        return self.encode(sentences, prompt=resolve_prompt(self.model, "document", text=self.settings.prompt), **how)

    def run(
        self,
        sentences: str | Iterable[str],
        *,
        prompt: str | None = None,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
        settings: EncodeSettings | None = None,
    ) -> Encoded:
        """`encode` with the counts: what was cut, and which sentences the model could not read."""
        texts = as_sentences(sentences)
        settings = self._settings(settings, prompt)
        vectors = np.empty((len(texts), settings.dims or width_of(self.model)), dtype=np.float32)
        unknown = np.zeros(len(texts), dtype=np.bool_)
        done = truncated = 0
        for chunk in self.chunks(texts, settings=settings):
            rows = slice(done, done + len(chunk.vectors))
            vectors[rows], unknown[rows] = chunk.vectors, chunk.unknown
            done, truncated = rows.stop, truncated + chunk.truncated
            on_progress(done, len(texts))
        return Encoded(vectors=vectors, truncated=truncated, unknown=unknown)

    def chunks(
        self, sentences: Iterable[str], *, prompt: str | None = None, settings: EncodeSettings | None = None
    ) -> Iterator[Encoded]:
        """The same for a stream of any length: memory holds two chunks, not the stream."""
        settings = self._settings(settings, prompt)
        return self.groups(chunks(sentences, settings), settings=settings)

    def groups(self, groups: Iterator[list[str]], *, settings: EncodeSettings | None = None) -> Iterator[Encoded]:
        """The vectors of chunks that are cut already; the next one is tokenised while the model works."""
        settings = settings or self.settings
        first = list(itertools.islice(groups, 2))
        if len(first) < 2:  # a small input is worth no thread and no tidying
            yield from (self.chunk(texts, settings=settings) for texts in first)
            return
        with ThreadPoolExecutor(1, thread_name_prefix="tokenise") as worker:
            ahead = worker.submit(self._tokens, first[0], settings)
            for texts in itertools.chain(first[1:], groups):
                following = worker.submit(self._tokens, texts, settings)
                yield self._encode(ahead.result(), settings)
                give_back()
                ahead = following
            yield self._encode(ahead.result(), settings)

    def chunk(self, texts: list[str], *, settings: EncodeSettings | None = None) -> Encoded:
        """The vectors of one chunk, which depend on its texts alone."""
        settings = settings or self.settings
        return self._encode(self._tokens(texts, settings), settings)

    def _settings(self, settings: EncodeSettings | None, prompt: str | None) -> EncodeSettings:
        settings = settings or self.settings
        return settings if prompt is None else replace(settings, prompt=prompt)

    def _tokens(self, texts: list[str], settings: EncodeSettings) -> Tokens | list[str]:
        """Token ids with the prompt in front; the texts themselves for models that sentence-transformers runs."""
        if not self._plain:
            return texts
        prompt = resolve_prompt(self.model, text=settings.prompt)
        key = limit(self.model, settings.max_tokens)
        if key not in self._tokenisers:
            self._tokenisers[key] = Tokeniser(self.model, settings.max_tokens)
        return self._tokenisers[key]([prompt + text for text in texts] if prompt else texts)

    def _encode(self, work: Tokens | list[str], settings: EncodeSettings) -> Encoded:
        with torch.inference_mode(), _evaluating(self.model), _arithmetic(self.model, settings.precision):
            if isinstance(work, Tokens):
                vectors, truncated, unknown = self._batched(work, settings), work.truncated, work.unknown
            else:
                vectors, truncated, unknown = by_library(self.model, work, settings.max_tokens, settings.prompt)
            vectors = vectors if settings.dims is None else vectors[:, : settings.dims]
            if settings.normalize:
                vectors = torch.nn.functional.normalize(vectors, dim=1)
            array = np.ascontiguousarray(vectors.cpu().numpy())  # the only wait for the device in a chunk
        _check_finite(array)
        self.texts, self.truncated = self.texts + len(array), self.truncated + truncated
        self.unknown += int(unknown.sum())
        return Encoded(vectors=array, truncated=truncated, unknown=unknown)

    def _batched(self, tokens: Tokens, settings: EncodeSettings) -> torch.Tensor:
        ids = tokens.input_ids
        lengths = np.array([len(row) for row in ids], dtype=np.int64)
        budget = settings.batch_tokens or usual_batch_tokens(self.model.device)
        order = np.argsort(-lengths, kind="stable")
        out = torch.empty((len(ids), width_of(self.model)), device=self.model.device)
        for place in batches(lengths[order], budget):
            rows = order[place]
            batch = TokenBatch(input_ids=np.concatenate([ids[row] for row in rows]), lengths=lengths[rows])
            out[torch.from_numpy(rows).to(out.device)] = self._forward(self.model, batch).float()
        return out


def check_precision(backend: Any, precision: str) -> None:
    """Refuse an arithmetic that the backend does not have.

    Raises:
        UserError: int8 with torch, or a half precision with a graph.
    """
    known = ("float32", "int8") if backend in ("onnx", "openvino") else ("float32", "float16", "bfloat16")
    if precision not in known:
        name = backend if isinstance(backend, str) else "torch"
        do = "export an int8 graph and choose its backend, or leave the precision at float32"
        raise UserError("precision", f"one of {', '.join(known)} with backend {name}", precision, do)


def usual_batch_tokens(device: torch.device) -> int:
    """Tokens of a batch that keep this kind of device busy and no more."""
    return _CPU_BATCH_TOKENS if device.type == "cpu" else _GPU_BATCH_TOKENS


def chunks(sentences: Iterable[str], settings: EncodeSettings) -> Iterator[list[str]]:
    """Consecutive groups of sentences, bounded in number and in characters; checks that each is text.

    >>> list(chunks("abc", EncodeSettings(chunk_sentences=2)))
    [['a', 'b'], ['c']]
    """
    texts = (check_text(number, sentence) for number, sentence in enumerate(sentences))
    return grouped(texts, len, most=settings.chunk_sentences, characters=settings.chunk_characters)


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


def _check_finite(vectors: Vectors) -> None:
    broken = int((~np.isfinite(vectors).all(axis=1)).sum())
    if broken:
        do = "use precision float32, or check the model's weights"
        raise UserError("sentence vectors", "finite", f"NaN or infinity in {broken} of {len(vectors)}", do)


@contextmanager
def _evaluating(model: SentenceTransformer) -> Iterator[None]:
    # Only what trains is switched: to walk over a model twice takes longer than a short sentence's tokens.
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _arithmetic(model: SentenceTransformer, precision: Precision) -> Any:
    if precision in ("float32", "int8"):
        return nullcontext()
    return torch.autocast(model.device.type, dtype=getattr(torch, precision))
