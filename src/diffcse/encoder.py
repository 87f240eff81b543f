"""`DiffCSE`: encode, compare and search sentences; takes the place of the published package's class of that name.

Legend: `N` sentences or queries, `M` keys, `H` hidden.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffcse.config import BUNDLED
from diffcse.encoding.backends import Backend, as_device
from diffcse.encoding.encode import Encoder, EncodeSettings, usual_batch_tokens
from diffcse.encoding.prompts import Role, resolve_prompt
from diffcse.encoding.tokenise import as_sentences
from diffcse.errors import UserError
from diffcse.persistence.load import load_encoder
from diffcse.settings import at_least, checked
from diffcse.text.stream import open_texts, readable
from diffcse.vectors import as_cosines, cosines, exact_search, import_faiss

log = logging.getLogger(__name__)

Hits = list[tuple[str, float]]
"""Sentences with their cosine similarity to a query, best first."""


@dataclass(frozen=True, kw_only=True)
class _Index:
    """What `build_index` made: sentences with their unit vectors (N, H) or a FAISS index of them."""

    sentences: list[str]
    vectors: NDArray[np.float32] | None = None
    faiss: Any = None


class DiffCSE:
    """A sentence encoder with the methods of the published package's class, and its argument and return types.

    Args:
        name_or_folder: a Hub name, a SentenceTransformer folder, a plain encoder's folder or a published DiffCSE
            checkpoint; None for the model that comes with the package.
        device: where to compute, such as cpu or cuda:1; None for a GPU if there is one.
        num_cells: cells of the inverted file that `build_index(faiss_fast=True)` makes.
        num_cells_in_search: cells that a search in it looks into.
        pooler: cls ([CLS] before any projector; `cls_before_pooler` is the same), avg, avg_top2, avg_first_last or
            last; None for the model's own, or cls where it has none.
        trust_remote_code: run code that comes with the model.
        backend: torch, or the graph that `diffcse export` put into the folder, which runs on the CPU.
        int8: the int8 graph.

    Attributes:
        model: the SentenceTransformer.
        device: where it computes unless a call says otherwise.

    Raises:
        UserError: no such model or device.
    """

    def __init__(
        self,
        name_or_folder: str | Path | None = None,
        device: str | torch.device | None = None,
        *,
        num_cells: int = 100,
        num_cells_in_search: int = 10,
        pooler: str | None = None,
        trust_remote_code: bool = False,
        backend: Backend = "torch",
        int8: bool = False,
    ) -> None:
        backend, int8 = checked("backend", backend, Backend), checked("int8", int8, bool)
        trust_remote_code = checked("trust_remote_code", trust_remote_code, bool)
        self.device = as_device(device if backend == "torch" else "cpu")
        self.num_cells = at_least(1, "num_cells", num_cells)
        self.num_cells_in_search = at_least(1, "num_cells_in_search", num_cells_in_search)
        self.model = load_encoder(name_or_folder, pooler=pooler, trust_remote_code=trust_remote_code).to(self.device)
        settings = EncodeSettings(precision="int8" if int8 else "float32")
        folder = BUNDLED if name_or_folder is None else name_or_folder
        self._encoder = Encoder(self.model, backend=backend, settings=settings, folder=folder)
        self._index: _Index | None = None

    def encode(
        self,
        sentence: str | Iterable[str],
        device: str | torch.device | None = None,
        return_numpy: bool = False,
        normalize_to_unit: bool = True,
        keepdim: bool = False,
        batch_size: int = 64,
        max_length: int = 128,
        *,
        prompt: str | None = None,
    ) -> Tensor | NDArray[np.float32]:
        """Vectors of sentences: (N, H), or (H,) for a single string unless `keepdim`.

        Args:
            sentence: one sentence, or a list, tuple, array or column of them.
            device: where to compute, for this call and all later ones.
            return_numpy: give an array, not a tensor on the CPU.
            normalize_to_unit: scale every vector to length 1.
            keepdim: (1, H) for a single string.
            batch_size: a batch holds at most this many sentences of `max_length` tokens, or more shorter ones.
            max_length: longest sentence (tokens), if the model takes as many; the log says how many were cut.
            prompt: words in front of each sentence; None for the model's default prompt, if it has one.

        Raises:
            UserError: something else than text, or a device that this machine does not have.
        """
        keepdim, return_numpy = checked("keepdim", keepdim, bool), checked("return_numpy", return_numpy, bool)
        how: dict[str, Any] = {"prompt": prompt, "normalize": checked("normalize_to_unit", normalize_to_unit, bool)}
        vectors = self._encode(as_sentences(sentence, "sentence"), device, batch_size, max_length, **how)
        vectors = vectors[0] if isinstance(sentence, str) and not keepdim else vectors
        return vectors if return_numpy else torch.from_numpy(vectors)

    def encode_query(self, sentence: str | Iterable[str], **how: Any) -> Tensor | NDArray[np.float32]:
        """`encode` with the model's own prompt for queries, where it has one."""
        return self.encode(sentence, prompt=resolve_prompt(self.model, "query"), **how)

    def encode_document(self, sentence: str | Iterable[str], **how: Any) -> Tensor | NDArray[np.float32]:
        """`encode` with the model's own prompt for documents, where it has one."""
        return self.encode(sentence, prompt=resolve_prompt(self.model, "document"), **how)

    def similarity(
        self,
        queries: str | Sequence[str] | NDArray[Any] | Tensor,
        keys: str | Sequence[str] | NDArray[Any] | Tensor,
        device: str | torch.device | None = None,
    ) -> float | NDArray[np.float32]:
        """Cosine similarities, -1 to 1: (N, M); (M,) for a single query; a float for a single query and a single key.

        Args:
            queries: a sentence, sentences, a vector (H,) or vectors (N, H).
            keys: likewise.
            device: where to encode.
        """
        ours, theirs = self._as_vectors(queries, device), self._as_vectors(keys, device)
        if ours.shape[-1] != theirs.shape[-1]:
            do = "use vectors of one model"
            raise UserError("keys", f"vectors of {ours.shape[-1]} numbers, as queries are", theirs.shape[-1], do)
        scores = cosines(np.atleast_2d(ours), np.atleast_2d(theirs))
        if ours.ndim == 1:
            return float(scores[0, 0]) if theirs.ndim == 1 else scores[0]
        return scores

    def build_index(
        self,
        sentences_or_file_path: str | Path | Iterable[str],
        use_faiss: bool | None = None,
        faiss_fast: bool = False,
        device: str | torch.device | None = None,
        batch_size: int = 64,
    ) -> None:
        """Encode sentences for `search`, with the model's prompt for documents; replaces what was indexed before.

        Args:
            sentences_or_file_path: sentences, or a file of text, one sentence a line (blank lines are skipped).
            use_faiss: True needs FAISS, False compares with every vector in numpy; None uses FAISS if it is installed.
            faiss_fast: an inverted file instead of a comparison with every vector; misses some neighbours.
            device: where to encode; FAISS works on the CPU.
            batch_size: as for `encode`.
        """
        faiss, use_faiss = None, checked("use_faiss", use_faiss, bool | None)
        faiss_fast = checked("faiss_fast", faiss_fast, bool)
        if use_faiss or (use_faiss is None and importlib.util.find_spec("faiss") is not None):
            faiss = import_faiss()
        sentences = _sentences(sentences_or_file_path)
        vectors = self._encode(sentences, device, batch_size, role="document")
        if faiss is None:
            self._index = _Index(sentences=sentences, vectors=vectors)
        else:
            self._index = _Index(sentences=sentences, faiss=self._faiss_index(faiss, vectors, faiss_fast))

    def search(
        self,
        queries: str | Iterable[str],
        device: str | torch.device | None = None,
        threshold: float = 0.6,
        top_k: int = 5,
    ) -> Hits | list[Hits]:
        """The most similar indexed sentences: a list of (sentence, cosine), or one such list for each of many queries.

        Args:
            queries: a query, or several; the model's prompt for queries is used, if it has one.
            device: where to encode the queries.
            threshold: smallest cosine similarity of a hit, -1 to 1.
            top_k: most hits of a query.

        Raises:
            UserError: nothing has been indexed yet.
        """
        if self._index is None:
            raise UserError("search", "after build_index", "no index", "call build_index(sentences) first")
        threshold, top_k = checked("threshold", threshold, float), at_least(1, "top_k", top_k)
        vectors = self._encode(as_sentences(queries, "queries"), device, role="query")
        scores, rows = _nearest(self._index, vectors, top_k)
        hits = [
            [(self._index.sentences[row], float(score)) for score, row in zip(*each, strict=True) if score >= threshold]
            for each in zip(scores, rows, strict=True)
        ]
        return hits[0] if isinstance(queries, str) else hits

    def _encode(
        self,
        sentences: list[str],
        device: str | torch.device | None,
        batch_size: int = 64,
        max_length: int = 128,
        *,
        role: Role | None = None,
        prompt: str | None = None,
        normalize: bool = True,
    ) -> NDArray[np.float32]:
        target = self.device if device is None else as_device(device)
        if self.model.device != target:
            self.model.to(target)
        batch_size, max_length = at_least(1, "batch_size", batch_size), at_least(1, "max_length", max_length)
        settings = replace(
            self._encoder.settings,
            max_tokens=max_length,
            batch_tokens=min(batch_size * max_length, usual_batch_tokens(target)),
            normalize=normalize,
            prompt=resolve_prompt(self.model, role, text=checked("prompt", prompt, str | None)),
        )
        encoded = self._encoder.run(sentences, settings=settings)
        if encoded.truncated:
            log.warning("%d of %d sentences were cut at %d tokens", encoded.truncated, len(sentences), max_length)
        if encoded.unknown.any():
            text = "%d of %d sentences are mostly words that the model does not know"
            log.warning(text, encoded.unknown.sum(), len(sentences))
        return encoded.vectors

    def _as_vectors(self, values: Any, device: str | torch.device | None) -> NDArray[np.float32]:
        """Sentences encoded, vectors as they are: (H,) for one and (N, H) for several."""
        if isinstance(values, Tensor):
            values = values.detach().cpu().numpy()
        if isinstance(values, np.ndarray) and values.dtype.kind in "fiu":
            if values.ndim not in (1, 2):
                raise UserError("vectors", "of shape (H,) or (N, H)", values.shape, "give one or two dimensions")
            return values.astype(np.float32, copy=False)
        return self.encode(values, device=device, return_numpy=True)  # type: ignore[return-value]

    def _faiss_index(self, faiss: Any, vectors: NDArray[np.float32], fast: bool) -> Any:
        flat = faiss.IndexFlatIP(vectors.shape[1])
        if not fast or not len(vectors):
            flat.add(vectors)
            return flat
        cells = min(self.num_cells, len(vectors))
        index = faiss.IndexIVFFlat(flat, vectors.shape[1], cells, faiss.METRIC_INNER_PRODUCT)
        index.cp.min_points_per_centroid = 1  # few sentences are no fault, and need no warning
        index.train(vectors)
        index.add(vectors)
        index.nprobe = min(self.num_cells_in_search, cells)
        return index


def _nearest(index: _Index, queries: NDArray[np.float32], top_k: int) -> tuple[list[Any], list[Any]]:
    """Scores and rows of each query's neighbours, best first."""
    if index.vectors is not None:
        scores, rows = exact_search(index.vectors, queries, top_k)
        return list(as_cosines(scores)), list(rows)
    scores, rows = index.faiss.search(queries, min(top_k, max(1, len(index.sentences))))
    valid = rows >= 0  # FAISS fills up with -1 if it found fewer
    scores = as_cosines(scores)
    return [s[t] for s, t in zip(scores, valid, strict=True)], [r[t] for r, t in zip(rows, valid, strict=True)]


def _sentences(source: str | Path | Iterable[str]) -> list[str]:
    if not isinstance(source, str | Path):
        return as_sentences(source, "sentences or a file's path")
    lines, damaged = readable(line.rstrip() for line in open_texts(str(source), skip_blank=True))
    if damaged:
        log.warning("%s: replaced bytes that are not UTF-8 in %d of %d texts", source, damaged, len(lines))
    return lines
