"""A model folder that ONNX Runtime or OpenVINO can run too, checked against the original before it is in place.

Legend: `N` sentences, `B` of them in a batch, `L` tokens of its longest, `H` hidden.

`onnx/` and `openvino/` lie beside the weights, each there whole or not at all, and each with `export.json`, which says
from which weights it was made: a graph that is older than the weights beside it is never used.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer, WeightedLayerPooling
from torch import Tensor

from diffcse.encoding.encode import EncodeSettings, Forward, TokenBatch, encode
from diffcse.errors import UserError
from diffcse.export.graphs import TOOLS, Backend, ExportPrecision, Run, check_installed, input_names, tokenised
from diffcse.persistence.load import fingerprint, load_encoder
from diffcse.persistence.save import save_folder

_NOTE = "export.json"
_CALIBRATION_BATCH = 4
_TOLERANCE = 1e-3  # of the largest number in the vectors; float32 graphs come within 1e-5


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """An exported graph beside the original, on the same sentences."""

    precision: ExportPrecision
    file: str
    """Path in the model folder."""
    megabytes: float
    sentences: int
    max_abs_difference: float
    """Largest difference of any number of the vectors, as the model gives them."""
    mean_cosine: float
    """Mean cosine similarity to the original's vectors."""
    lowest_cosine: float


class ExportedEncoder:
    """An exported graph with the pooling of its folder: sentences in, vectors (N, H) out.

    Args:
        model: the folder's model, whose tokenizer and pooling are used.
        run: the graph.
    """

    def __init__(self, model: SentenceTransformer, run: Run) -> None:
        self.model, self.run, self._names = model, run, input_names(model)
        self._rest = [module for module in list(model)[1:] if not isinstance(module, WeightedLayerPooling)]

    def __call__(self, sentences: list[str]) -> NDArray[np.float32]:
        """Vectors (N, H), batched by length as `diffcse.encoding.encode.encode` does it."""
        return encode(self.model, sentences, EncodeSettings(), forward=self.forward).vectors

    def forward(self, model: SentenceTransformer, batch: TokenBatch) -> Tensor:
        """A batch through the graph, then through the modules behind the Transformer: (B, H)."""
        mask = np.arange(int(batch.lengths[0])) < batch.lengths[:, None]
        ids = np.full(mask.shape, model.tokenizer.pad_token_id or 0, dtype=np.int64)
        ids[mask] = batch.input_ids
        given = {"input_ids": ids, "attention_mask": mask.astype(np.int64), "token_type_ids": np.zeros_like(ids)}
        vectors = torch.from_numpy(np.array(self.run({name: given[name] for name in self._names})))
        features: dict[str, Any] = {"token_embeddings": vectors, "attention_mask": torch.from_numpy(mask).long()}
        for module in self._rest:
            features = module(features)
        return features["sentence_embedding"].to(model.device)


def export_model(
    model: SentenceTransformer,
    folder: Path,
    backend: Backend,
    *,
    int8: bool = False,
    sentences: Sequence[str] | None = None,
) -> list[Comparison]:
    """Write `onnx/` or `openvino/` into a model folder, once it gives the original's vectors.

    Args:
        model: what to export.
        folder: the folder that the model was loaded from, or a new one, which gets the model as well.
        backend: onnx or openvino.
        int8: an int8 graph beside the float32 one.
        sentences: real ones, to check with; None for some of Python's own documentation. int8 graphs of OpenVINO are
            calibrated on the first half of them.

    Returns:
        How the float32 graph, and then the int8 one, compare with the original.

    Raises:
        UserError: a folder with other content, a model of another kind, or a graph with other vectors.
        MissingExtra: the backend is not installed.
    """
    check_installed(backend, int8=int8)
    _check_kind(model)
    _check_folder(folder, backend, model)
    texts = list(sentences) if sentences is not None else real_sentences()
    if not texts:
        raise UserError("sentences to check with", "at least one", "none", "give a file with some lines")
    new = not folder.exists()
    work = folder.with_name(f".{folder.name}.{os.getpid()}.part") if new else folder / f".{backend}.{os.getpid()}.part"
    shutil.rmtree(work, ignore_errors=True)
    try:
        work.mkdir(parents=True)
        if new:
            save_folder(model, work, {})
        found = _build(model, work, backend, int8, texts)
        if new:
            work.rename(folder)
        else:
            _swap(work / backend, folder / backend)
    except OSError as error:
        do = "make room or permission, or choose another; what was in it still is"
        raise UserError(f"folder {folder}", "one that can be written to", error.strerror or error, do) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return found


def exported_encoder(
    folder: str | Path, backend: Backend = "onnx", precision: ExportPrecision = "fp32"
) -> ExportedEncoder:
    """The graph that `export_model` put into a folder.

    Args:
        folder: a model folder with `onnx/` or `openvino/` in it.
        backend: onnx or openvino.
        precision: fp32 or int8.

    Raises:
        UserError: no such graph there, or one of other weights than those beside it.
        MissingExtra: the backend is not installed.
    """
    path = _graph(Path(folder), backend, precision)
    return attach(load_encoder(folder), path.parent.parent, backend, precision)


def attach(
    model: SentenceTransformer, folder: str | Path, backend: Backend, precision: ExportPrecision
) -> ExportedEncoder:
    """The folder's graph for a model that is loaded already; raises as `exported_encoder` does."""
    check_installed(backend, int8=False)
    path = _graph(Path(folder), backend, precision)
    made_from = json.loads((path.parent / _NOTE).read_text(encoding="utf-8")).get("model")
    if made_from != fingerprint(model):
        do = f"export again: diffcse export {folder} --to {backend}"
        raise UserError(f"{path}", "made from the weights beside it", "a graph of other weights", do)
    return ExportedEncoder(model.to("cpu"), TOOLS[backend].load(path))


def real_sentences(count: int = 256) -> list[str]:
    """English sentences that every Python has: those of its language reference."""
    from pydoc_data.topics import topics

    from diffcse.text.docstrings import is_plain, prose

    found = (text for name in sorted(topics) for text in prose(topics[name]) if text and is_plain(text))
    return [text for _, text in zip(range(count), dict.fromkeys(found), strict=False)]


def compare(
    model: SentenceTransformer, exported: ExportedEncoder, sentences: Sequence[str]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Vectors (N, H) of the original by sentence-transformers' own encode, and those of the exported graph."""
    original = model.encode(list(sentences), batch_size=16, show_progress_bar=False, convert_to_numpy=True)
    return np.asarray(original, dtype=np.float32), exported(list(sentences))


def _build(model: SentenceTransformer, work: Path, backend: Backend, int8: bool, texts: list[str]) -> list[Comparison]:
    tool = TOOLS[backend]
    (work / backend).mkdir()
    float32 = work / tool.files["fp32"]
    tool.write(model, texts[:2], float32)
    found = [_checked(model, work, backend, "fp32", texts)]
    if int8:
        half = texts[: max(1, len(texts) // 2)]
        groups = [half[at : at + _CALIBRATION_BATCH] for at in range(0, len(half), _CALIBRATION_BATCH)]
        batches = [{name: value.numpy() for name, value in tokenised(model, group).items()} for group in groups]
        tool.quantise(float32, work / tool.files["int8"], batches)
        found.append(_checked(model, work, backend, "int8", texts))
    note = {"model": fingerprint(model), "made_with": version(backend), "checks": [asdict(one) for one in found]}
    (work / backend / _NOTE).write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")
    return found


def _checked(
    model: SentenceTransformer, work: Path, backend: Backend, precision: ExportPrecision, texts: list[str]
) -> Comparison:
    path = work / TOOLS[backend].files[precision]
    ours, theirs = compare(model, ExportedEncoder(model, TOOLS[backend].load(path)), texts)
    difference = float(np.abs(ours - theirs).max())
    if precision == "fp32" and difference > _TOLERANCE * float(np.abs(ours).max()):
        do = "report it with the model's name, and use the PyTorch weights"
        raise UserError(f"the {backend} graph", "equal to the model to rounding", f"{difference:.2g} between them", do)
    cosines = (ours * theirs).sum(1) / (np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1))
    size = sum(part.stat().st_size for part in (path, path.with_suffix(".bin")) if part.exists())
    return Comparison(
        precision=precision,
        file=TOOLS[backend].files[precision],
        megabytes=size / 1e6,
        sentences=len(texts),
        max_abs_difference=difference,
        mean_cosine=float(cosines.mean()),
        lowest_cosine=float(cosines.min()),
    )


def _check_kind(model: SentenceTransformer) -> None:
    kinds = [type(module).__name__ for module in model]
    known = isinstance(model[0], Transformer) and any(isinstance(module, Pooling) for module in model)
    misplaced = any(isinstance(module, WeightedLayerPooling) for module in list(model)[2:])
    if not known or misplaced:
        rule = "a Transformer, the mean of layers or none, a Pooling, and any modules behind them"
        raise UserError("the model", rule, ", ".join(kinds), "export it with the tool that made it")


def _check_folder(folder: Path, backend: Backend, model: SentenceTransformer) -> None:
    """Only a new folder, or one that holds this very model, and no graph that somebody else made."""
    do = "name a new folder with -o"
    if not folder.exists():
        if not folder.parent.is_dir():
            raise UserError(
                f"folder {folder}", "in an existing folder", f"no folder {folder.parent}", "make the folder"
            )
        return
    if not folder.is_dir():
        raise UserError(f"folder {folder}", "new, or the model's own", "a file", do)
    if not (folder / "modules.json").is_file():
        raise UserError(f"folder {folder}", "new, or the model's own", "a folder with something else", do)
    if fingerprint(load_encoder(folder)) != fingerprint(model):
        raise UserError(f"folder {folder}", "new, or the model's own", "another model", do)
    there = folder / backend
    if there.exists() and not (there / _NOTE).is_file():
        raise UserError(f"{there}", "absent, or an earlier export by diffcse", "files of another origin", do)


def _swap(new: Path, place: Path) -> None:
    """Put a folder into its place; what was there goes only when the new one is there."""
    old = place.with_name(f".{place.name}.{os.getpid()}.old")
    if place.exists():
        place.rename(old)
    new.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def _graph(folder: Path, backend: Backend, precision: ExportPrecision) -> Path:
    for name, value, known in (("backend", backend, get_args(Backend)), ("precision", precision, ("fp32", "int8"))):
        if value not in known:
            raise UserError(name, f"one of {', '.join(known)}", value, f"use {known[0]}")
    path = folder / TOOLS[backend].files[precision]
    if not path.is_file() or not (path.parent / _NOTE).is_file():
        option = " --int8" if precision == "int8" else ""
        do = f"make it: diffcse export {folder} --to {backend}{option}"
        raise UserError(f"{path}", "a graph that diffcse export made", "no such file", do)
    return path


def through(
    folder: str | Path, backend: Backend, precision: ExportPrecision
) -> Callable[[SentenceTransformer], Forward]:
    """What `encoding.bulk` takes as `forward`: a loaded model's graph, from the folder that the model came from."""
    return lambda model: attach(model, folder, backend, precision).forward
