"""What takes a batch of token ids through a model: PyTorch, or an exported graph in ONNX Runtime or OpenVINO.

Legend: `B` sentences, `T` their tokens without padding, `L` tokens of the longest, `H` hidden.
"""

from __future__ import annotations

import importlib
import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, WeightedLayerPooling
from sentence_transformers.util import get_device_name
from torch import Tensor

from diffcse.config import Pooler
from diffcse.errors import MissingExtra, UserError
from diffcse.files import read_json
from diffcse.kernels import packing
from diffcse.method import pooling
from diffcse.persistence.load import fingerprint
from diffcse.persistence.save import ONE_LAYER

Backend = Literal["torch", "onnx", "openvino"]
"""What runs a model."""
GraphBackend = Literal["onnx", "openvino"]
"""What runs an exported graph, on the CPU."""
GraphPrecision = Literal["float32", "int8"]
"""Numbers of an exported graph."""
Inputs = dict[str, NDArray[np.int64]]
Run = Callable[[Inputs], NDArray[np.float32]]
"""Token ids and masks (B, L) to token vectors (B, L, H)."""

NOTE = "export.json"
"""Next to a graph: the weights that it was made from, and how it compared with them."""
OUTPUT = "last_hidden_state"
"""Name of a graph's output, token vectors."""
FILES: dict[GraphBackend, dict[GraphPrecision, str]] = {
    "onnx": {"float32": "onnx/model.onnx", "int8": "onnx/model_quantized.onnx"},
    "openvino": {
        "float32": "openvino/openvino_model.xml",
        "int8": "openvino/openvino_model_qint8_quantized.xml",
    },
}
"""A graph's path in a model folder, where sentence-transformers, Transformers.js and Text Embeddings Inference look."""

_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@dataclass(frozen=True, kw_only=True)
class TokenBatch:
    """Sentences of one batch, one after the other, without padding.

    Attributes:
        input_ids: shape (T,), special tokens included.
        lengths: tokens of each sentence, shape (B,), from long to short.
    """

    input_ids: NDArray[np.int32]
    lengths: NDArray[np.int64]

    def padded(self, pad: int) -> tuple[Tensor, Tensor]:
        """Ids and mask, (B, L) each."""
        mask = torch.arange(int(self.lengths[0])) < torch.from_numpy(self.lengths)[:, None]
        ids = torch.full(mask.shape, pad)
        ids[mask] = torch.from_numpy(self.input_ids).long()
        return ids, mask.long()


Forward = Callable[[SentenceTransformer, TokenBatch], Tensor]
"""A batch through the model: (B, H), any float type, on the model's device."""


def torch_forward(model: SentenceTransformer, batch: TokenBatch) -> Tensor:
    """The batch without padding where the model allows it, else in one padded rectangle (B, L).

    Without padding, a [CLS] model's last layer computes no more than the [CLS] rows need.
    """
    ids, mask = batch.padded(model.tokenizer.pad_token_id or 0)
    features = {"input_ids": ids, "attention_mask": mask}
    features = {name: value.to(model.device, non_blocking=True) for name, value in features.items()}
    pooler = _plain_pooler(model)
    if pooler is not None:
        backbone: Any = model[0].model
        # Sentences of one length, often a single one, have no padding; a packed row would cost half a millisecond.
        padding = batch.lengths[0] != batch.lengths[-1] or pooler == "cls"
        vectors = {"sentence_embedding": pooling.encode(backbone, **features, pooler=pooler, padding_free=padding)}
        for module in list(model)[2:]:
            vectors = module(vectors)
        return vectors["sentence_embedding"]
    if "token_type_ids" in model.tokenizer.model_input_names:
        features["token_type_ids"] = torch.zeros_like(features["input_ids"])
    return model({**features, "modality": "text"})["sentence_embedding"]


def _plain_pooler(model: SentenceTransformer) -> Pooler | None:
    """The pooling of a model that can run without padding, with Dense and Normalize at most after it; else None."""
    modules: list[Any] = list(model)
    pooled = len(modules) > 1 and isinstance(modules[1], Pooling)
    if not pooled or not all(isinstance(module, (Dense, Normalize)) for module in modules[2:]):
        return None
    pooler = ONE_LAYER.get(str(modules[1].pooling_mode))
    return pooler if pooler and packing.supports(modules[0].model) else None


class Graph:
    """An exported graph, then the folder's own pooling; a `Forward`.

    Args:
        model: the folder's model, whose pooling and further modules are used.
        run: the graph.
    """

    def __init__(self, model: SentenceTransformer, run: Run) -> None:
        self.run, self.names = run, input_names(model)
        # The mean of layers, where a model takes one, is in the graph.
        self.modules = [module for module in list(model)[1:] if not isinstance(module, WeightedLayerPooling)]

    def __call__(self, model: SentenceTransformer, batch: TokenBatch) -> Tensor:
        """(B, H)."""
        ids, mask = batch.padded(model.tokenizer.pad_token_id or 0)
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
        vectors = torch.from_numpy(np.array(self.run({name: inputs[name].numpy() for name in self.names})))
        features: dict[str, Any] = {"token_embeddings": vectors, "attention_mask": mask}
        for module in self.modules:
            features = module(features)
        return features["sentence_embedding"].to(model.device)


def open_graph(model: SentenceTransformer, folder: Path, backend: GraphBackend, precision: GraphPrecision) -> Graph:
    """The graph that `diffcse export` put into a model's folder.

    Args:
        model: loaded from the folder.
        folder: a model folder with `onnx/` or `openvino/` in it.
        backend: onnx or openvino.
        precision: float32 or int8.

    Raises:
        UserError: no such graph there, or one of other weights than those next to it.
        MissingExtra: the backend is not installed.
    """
    for name, value, known in (
        ("backend", backend, get_args(GraphBackend)),
        ("precision", precision, get_args(GraphPrecision)),
    ):
        if value not in known:
            raise UserError(name, f"one of {', '.join(known)}", value, f"use {known[0]}")
    path, option = folder / FILES[backend][precision], " --int8" if precision == "int8" else ""
    do = f"run: diffcse export {folder} --to {backend}{option}"
    if not path.is_file() or not (path.parent / NOTE).is_file():
        raise UserError(f"{path}", "a graph made by diffcse export", "no such file", do)
    note = read_json(path.parent / NOTE, what=f"the graph in {path.parent}", do=do)
    if note.get("model") != fingerprint(model):
        raise UserError(f"{path}", "made from the weights next to it", "a graph of other weights", do)
    return Graph(model, RUNTIMES[backend](path))


def input_names(model: SentenceTransformer) -> list[str]:
    """Inputs that the tokenizer makes and the backbone uses, in the usual order."""
    backbone: Any = model[0].model
    used = set(inspect.signature(backbone.forward).parameters) & set(model.tokenizer.model_input_names)
    if not getattr(backbone.config, "type_vocab_size", 0):  # DeBERTa takes token types and does nothing with them
        used -= {"token_type_ids"}
    return [name for name in _INPUTS if name in used]


def _load_onnx(path: Path) -> Run:
    runtime = import_extra("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run([OUTPUT], inputs)[0]


def _load_openvino(path: Path) -> Run:
    openvino = import_extra("openvino", "openvino")
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = openvino.Core().compile_model(path, "CPU", settings)
    return lambda inputs: compiled(inputs)[0]


RUNTIMES: dict[GraphBackend, Callable[[Path], Run]] = {"onnx": _load_onnx, "openvino": _load_openvino}
"""What runs a graph's file, by the name on the command line."""


def import_extra(module: str, extra: str) -> Any:
    """An optional module.

    Raises:
        MissingExtra: it is not installed.
    """
    names = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "nncf": "NNCF, which quantises for OpenVINO,"}
    top = module.split(".")[0]
    try:
        with only_errors("nncf"):
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != top:
            raise
        raise MissingExtra(names.get(top, top), top, extra) from error


@contextmanager
def only_errors(*names: str | None) -> Iterator[None]:
    """Nothing below an error from these loggers; None is the root."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def as_device(name: str | torch.device | None) -> torch.device:
    """A device of this machine; None is the one that sentence-transformers would take: a GPU if there is one.

    Raises:
        UserError: a name that torch does not know, or a device that this machine does not have.
    """
    if name is None:
        return torch.device(get_device_name())
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise UserError("device", "one that torch knows", name, "use cpu, cuda or cuda:0") from error
    try:
        torch.empty(0, device=device).cpu()  # there and back: `meta` holds no numbers
    except (RuntimeError, AssertionError, ImportError, AttributeError) as error:  # each backend does it its own way
        raise UserError("device", "present in this machine", name, "use cpu") from error
    return device


def width_of(model: SentenceTransformer) -> int:
    """Numbers of a vector."""
    return int(model.get_embedding_dimension() or 0)
