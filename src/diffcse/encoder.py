"""`DiffCSE`: encode, compare and search sentences; takes the place of the published package's class of that name.

Legend: `N` sentences or queries, `M` keys, `H` hidden.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffcse.config import BUNDLED
from diffcse.encoding.encode import EncodeSettings, encode, usual_batch_tokens
from diffcse.errors import UserError
from diffcse.persistence.load import load_encoder
from diffcse.resources import bundled
from diffcse.vectors import exact_search, import_faiss, unit

log = logging.getLogger(__name__)

Hits = list[tuple[str, float]]
"""Sentences with their cosine similarity to a query, best first."""


@dataclass(frozen=True, kw_only=True)
class _Index:
    """What `build_index` made: sentences beside unit vectors (N, H) or beside a FAISS index of them."""

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
        backend: Literal["torch", "onnx", "openvino"] = "torch",
        int8: bool = False,
    ) -> None:
        self.device = as_device(device if backend == "torch" else "cpu")
        self.num_cells, self.num_cells_in_search = num_cells, num_cells_in_search
        self.model = load_encoder(name_or_folder, pooler=pooler, trust_remote_code=trust_remote_code).to(self.device)
        self._index: _Index | None = None
        self._how: dict[str, Any] = {}
        if backend != "torch":
            from diffcse.export.export import attach

            folder = bundled() if name_or_folder in (None, BUNDLED) else name_or_folder
            self._how["forward"] = attach(self.model, str(folder), backend, "int8" if int8 else "fp32").forward

    def encode(
        self,
        sentence: str | Sequence[str],
        device: str | torch.device | None = None,
        return_numpy: bool = False,
        normalize_to_unit: bool = True,
        keepdim: bool = False,
        batch_size: int = 64,
        max_length: int = 128,
    ) -> Tensor | NDArray[np.float32]:
        """Vectors of sentences: (N, H), or (H,) for a single string unless `keepdim`.

        Args:
            sentence: one sentence, or any sequence of them.
            device: where to compute, this time and from then on until told otherwise.
            return_numpy: give an array, not a tensor on the CPU.
            normalize_to_unit: scale every vector to length 1.
            keepdim: (1, H) for a single string.
            batch_size: a batch holds at most this many sentences of `max_length` tokens, or more shorter ones.
            max_length: longest sentence (tokens), if the model takes as many; the log says how many were cut.
        """
        single = isinstance(sentence, str)
        sentences = [sentence] if isinstance(sentence, str) else list(sentence)
        vectors = self._encode(sentences, device, normalize_to_unit, batch_size, max_length)
        vectors = vectors[0] if single and not keepdim else vectors
        return vectors if return_numpy else torch.from_numpy(vectors)

    def similarity(
        self,
        queries: str | Sequence[str] | NDArray[Any] | Tensor,
        keys: str | Sequence[str] | NDArray[Any] | Tensor,
        device: str | torch.device | None = None,
    ) -> float | NDArray[np.float32]:
        """Cosine similarities: (N, M); (M,) for a single query; a float for a single query and a single key.

        Args:
            queries: a sentence, sentences, a vector (H,) or vectors (N, H).
            keys: likewise.
            device: where to encode.
        """
        ours, theirs = self._as_vectors(queries, device), self._as_vectors(keys, device)
        if ours.shape[-1] != theirs.shape[-1]:
            do = "use vectors of one model"
            raise UserError("keys", f"vectors of {ours.shape[-1]} numbers, as queries are", theirs.shape[-1], do)
        cosines = unit(np.atleast_2d(ours)) @ unit(np.atleast_2d(theirs)).T
        if ours.ndim == 1:
            return float(cosines[0, 0]) if theirs.ndim == 1 else cosines[0]
        return cosines

    def build_index(
        self,
        sentences_or_file_path: str | Path | Sequence[str],
        use_faiss: bool | None = None,
        faiss_fast: bool = False,
        device: str | torch.device | None = None,
        batch_size: int = 64,
    ) -> None:
        """Encode sentences for `search`; what was indexed before is replaced.

        Args:
            sentences_or_file_path: sentences, or a text file with one a line (blank lines are left out).
            use_faiss: True needs FAISS, False compares with every vector in numpy; None uses FAISS if it is installed.
            faiss_fast: an inverted file instead of a comparison with every vector; misses some neighbours.
            device: where to encode; FAISS works on the CPU.
            batch_size: as for `encode`.
        """
        faiss = None
        if use_faiss or (use_faiss is None and importlib.util.find_spec("faiss") is not None):
            faiss = import_faiss()
        sentences = _sentences(sentences_or_file_path)
        vectors = self._encode(sentences, device, True, batch_size, 128)
        if faiss is None:
            self._index = _Index(sentences=sentences, vectors=vectors)
        else:
            self._index = _Index(sentences=sentences, faiss=self._faiss_index(faiss, vectors, faiss_fast))

    def search(
        self,
        queries: str | Sequence[str],
        device: str | torch.device | None = None,
        threshold: float = 0.6,
        top_k: int = 5,
    ) -> Hits | list[Hits]:
        """The most similar indexed sentences: a list of (sentence, cosine), or one such list for each of many queries.

        Args:
            queries: a query, or any sequence of them.
            device: where to encode the queries.
            threshold: smallest cosine similarity of a hit, -1 to 1.
            top_k: most hits of a query.

        Raises:
            UserError: nothing has been indexed yet.
        """
        if self._index is None:
            raise UserError("search", "after build_index", "no index", "call build_index(sentences) first")
        if top_k < 1:
            raise UserError("top_k", "at least 1", top_k, "use 5")
        single = isinstance(queries, str)
        vectors = self._encode([queries] if isinstance(queries, str) else list(queries), device, True, 64, 128)
        scores, rows = _nearest(self._index, vectors, top_k)
        hits = [
            [(self._index.sentences[row], float(score)) for score, row in zip(*each, strict=True) if score >= threshold]
            for each in zip(scores, rows, strict=True)
        ]
        return hits[0] if single else hits

    def _encode(
        self,
        sentences: list[str],
        device: str | torch.device | None,
        normalize: bool,
        batch_size: int,
        max_length: int,
    ) -> NDArray[np.float32]:
        target = self.device if device is None else as_device(device)
        if self.model.device != target:
            self.model.to(target)
        for name, value in (("batch_size", batch_size), ("max_length", max_length)):
            if value < 1:
                raise UserError(name, "at least 1", value, "give a positive number")
        settings = EncodeSettings(
            max_tokens=max_length,
            batch_tokens=min(batch_size * max_length, usual_batch_tokens(target)),
            normalize=normalize,
        )
        encoded = encode(self.model, sentences, settings, **self._how)
        if encoded.truncated:
            log.warning("%d of %d sentences were cut at %d tokens", encoded.truncated, len(sentences), max_length)
        return encoded.vectors

    def _as_vectors(self, given: Any, device: str | torch.device | None) -> NDArray[np.float32]:
        """Sentences encoded, vectors as they are: (H,) for one and (N, H) for several."""
        if isinstance(given, Tensor):
            given = given.detach().cpu().numpy()
        if isinstance(given, np.ndarray) and given.dtype.kind in "fiu":
            if given.ndim not in (1, 2):
                raise UserError("vectors", "of shape (H,) or (N, H)", given.shape, "give one or two dimensions")
            return given.astype(np.float32, copy=False)
        return self.encode(given, device=device, return_numpy=True)  # type: ignore[return-value]

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
        return list(scores), list(rows)
    scores, rows = index.faiss.search(queries, min(top_k, max(1, len(index.sentences))))
    found = rows >= 0  # FAISS fills up with -1 where it found fewer
    return [s[f] for s, f in zip(scores, found, strict=True)], [r[f] for r, f in zip(rows, found, strict=True)]


def _sentences(given: str | Path | Sequence[str]) -> list[str]:
    if not isinstance(given, str | Path):
        return list(given)
    path = Path(given)
    try:
        lines = [line.rstrip() for line in path.read_text(encoding="utf-8").split("\n")]
    except OSError as error:
        raise UserError(f"file {path}", "a readable text file", error.strerror, "check the path") from error
    except UnicodeDecodeError as error:
        raise UserError(f"file {path}", "UTF-8 text", error, "convert it: iconv -t UTF-8") from error
    return [line for line in lines if line]


def as_device(given: str | torch.device | None) -> torch.device:
    """A device that is there; None means a GPU if there is one.

    Raises:
        UserError: a name that torch does not know, or a device that this machine does not have.
    """
    if given is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(given)
    except RuntimeError as error:
        raise UserError("device", "one that torch knows", given, "use cpu, cuda or cuda:0") from error
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise UserError("device", "present in this machine", given, "use cpu")
    return device
