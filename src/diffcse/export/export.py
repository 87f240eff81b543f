"""A model folder that ONNX Runtime or OpenVINO can run too, checked against the original before it is in place.

Legend: `N` sentences, `B` of them in a batch, `L` tokens of its longest, `H` hidden.

`onnx/` and `openvino/` are next to the weights. Each appears atomically and has an `export.json`, which says from which
weights it was made: a graph of other weights than those next to it is never used.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer, WeightedLayerPooling

from diffcse.encoding.backends import FILES, NOTE, RUNTIMES, Graph, GraphBackend, GraphPrecision
from diffcse.encoding.encode import Encoder
from diffcse.errors import UserError
from diffcse.export.graphs import TOOLS, check_installed, tokenised
from diffcse.files import disk_errors, replace_folder, write_json
from diffcse.persistence.load import fingerprint, load_encoder
from diffcse.persistence.save import save_folder
from diffcse.vectors import unit

_CALIBRATION_BATCH = 4
_TOLERANCE = 1e-3  # of the largest number in the vectors; float32 graphs come within 1e-5


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """An exported graph compared with the original, on the same sentences."""

    precision: GraphPrecision
    file: str
    """Path in the model folder."""
    megabytes: float
    sentences: int
    max_abs_difference: float
    """Largest difference of any number of the vectors, as the model gives them."""
    mean_cosine: float
    """Mean cosine similarity to the original's vectors."""
    lowest_cosine: float


def export_model(
    model: SentenceTransformer,
    folder: Path,
    backend: GraphBackend,
    *,
    int8: bool = False,
    sentences: Sequence[str] | None = None,
) -> list[Comparison]:
    """Write `onnx/` or `openvino/` into a model folder, once it gives the original's vectors.

    Args:
        model: what to export.
        folder: the folder that the model was loaded from, or a new one, which gets the model as well.
        backend: onnx or openvino.
        int8: also an int8 graph.
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
    do = "make room or permission, or choose another folder; what was in it is unchanged"
    try:
        with disk_errors(f"folder {folder}", do):
            work.mkdir(parents=True)
            if new:
                save_folder(model, work, {})
            comparisons = _build(model, work, backend, int8, texts)
            replace_folder(*((work, folder) if new else (work / backend, folder / backend)))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return comparisons


def real_sentences(count: int = 256) -> list[str]:
    """English sentences that every Python has: those of its language reference."""
    from pydoc_data.topics import topics

    from diffcse.text.docstrings import is_plain, prose

    sentences = (text for name in sorted(topics) for text in prose(topics[name]) if text and is_plain(text))
    return [text for _, text in zip(range(count), dict.fromkeys(sentences), strict=False)]


def compare(
    model: SentenceTransformer, graph: Graph, sentences: Sequence[str]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Vectors (N, H) of the original by sentence-transformers' own encode, and those of the exported graph."""
    original = model.encode(list(sentences), batch_size=16, show_progress_bar=False, convert_to_numpy=True)
    return np.asarray(original, dtype=np.float32), Encoder(model, backend=graph).encode(sentences)


def _build(
    model: SentenceTransformer, work: Path, backend: GraphBackend, int8: bool, texts: list[str]
) -> list[Comparison]:
    tool, files = TOOLS[backend], FILES[backend]
    (work / backend).mkdir()
    tool.write(model, texts[:2], work / files["float32"])
    comparisons = [_checked(model, work, backend, "float32", texts)]
    if int8:
        half = texts[: max(1, len(texts) // 2)]
        groups = [half[at : at + _CALIBRATION_BATCH] for at in range(0, len(half), _CALIBRATION_BATCH)]
        batches = [{name: value.numpy() for name, value in tokenised(model, group).items()} for group in groups]
        tool.quantise(work / files["float32"], work / files["int8"], batches)
        comparisons.append(_checked(model, work, backend, "int8", texts))
    checks = [asdict(comparison) for comparison in comparisons]
    note = {"model": fingerprint(model), "made_with": version(backend), "checks": checks}
    write_json(work / backend / NOTE, note)
    return comparisons


def _checked(
    model: SentenceTransformer, work: Path, backend: GraphBackend, precision: GraphPrecision, texts: list[str]
) -> Comparison:
    path = work / FILES[backend][precision]
    ours, theirs = compare(model, Graph(model, RUNTIMES[backend](path)), texts)
    difference = float(np.abs(ours - theirs).max())
    if precision == "float32" and difference > _TOLERANCE * float(np.abs(ours).max()):
        do = "report it with the model's name, and use the PyTorch weights"
        raise UserError(f"the {backend} graph", "equal to the model to rounding", f"{difference:.2g} between them", do)
    cosines = (unit(ours) * unit(theirs)).sum(axis=1)
    size = sum(part.stat().st_size for part in (path, path.with_suffix(".bin")) if part.exists())
    return Comparison(
        precision=precision,
        file=FILES[backend][precision],
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
        rule = "a Transformer, the mean of layers or none, a Pooling, and any modules after them"
        raise UserError("the model", rule, ", ".join(kinds), "export it with the tool that wrote it")


def _check_folder(folder: Path, backend: GraphBackend, model: SentenceTransformer) -> None:
    """Only a new folder, or one that holds this very model, and no graph from another tool."""
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
    place = folder / backend
    if place.exists() and not (place / NOTE).is_file():
        raise UserError(f"{place}", "absent, or an earlier export by diffcse", "files of another origin", do)
