"""One graph from tokens to token vectors, made, quantised and run by ONNX Runtime or OpenVINO.

Legend: `B` sentences, `L` tokens of the longest, `H` hidden.

Both are used directly: sentence-transformers reaches them through optimum, which pins an older transformers. Token
vectors are what the folder's own pooling reads, so serving tools pool as they do for the PyTorch weights. Where the
model takes the mean of several layers, that mean is in the graph.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import WeightedLayerPooling
from torch import Tensor, nn

from diffcse.errors import MissingExtra, UserError

Backend = Literal["onnx", "openvino"]
ExportPrecision = Literal["fp32", "int8"]
Inputs = dict[str, NDArray[np.int64]]
Run = Callable[[Inputs], NDArray[np.float32]]
"""Token ids and masks (B, L) to token vectors (B, L, H)."""

_NAMES = ("input_ids", "attention_mask", "token_type_ids")
_OUTPUT = "last_hidden_state"
_OPSET = 17  # the first with LayerNormalization, which keeps the graph small and quick
_LARGEST = 2_000_000_000  # bytes of weights; protobuf ends at 2 GiB


class TokenVectors(nn.Module):
    """The backbone and, where the model has one, the mean of its layers.

    Args:
        model: begins with a Transformer.
    """

    def __init__(self, model: SentenceTransformer) -> None:
        super().__init__()
        layers = model[1] if len(model) > 1 and isinstance(model[1], WeightedLayerPooling) else None
        self.backbone: Any = model[0].model
        self.layers: Any = layers

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Token vectors (B, L, H) of ids and masks (B, L)."""
        given = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            given["token_type_ids"] = token_type_ids
        output = self.backbone(**given, output_hidden_states=self.layers is not None)
        if self.layers is None:
            return output.last_hidden_state
        features = {"token_embeddings": output.last_hidden_state, "all_layer_embeddings": output.hidden_states}
        return self.layers({**features, "attention_mask": attention_mask})["token_embeddings"]


def input_names(model: SentenceTransformer) -> list[str]:
    """Inputs that the tokenizer makes and the backbone uses, in the usual order."""
    backbone: Any = model[0].model
    used = set(inspect.signature(backbone.forward).parameters) & set(model.tokenizer.model_input_names)
    if not getattr(backbone.config, "type_vocab_size", 0):  # DeBERTa takes token types and does nothing with them
        used -= {"token_type_ids"}
    return [name for name in _NAMES if name in used]


def tokenised(model: SentenceTransformer, sentences: Sequence[str]) -> dict[str, Tensor]:
    """The graph's inputs for some sentences: (B, L) each."""
    limit = model.max_seq_length
    made = model.tokenizer(
        list(sentences), padding=True, truncation=limit is not None, max_length=limit, return_tensors="pt"
    )
    if "token_type_ids" in input_names(model) and "token_type_ids" not in made:
        made["token_type_ids"] = torch.zeros_like(made["input_ids"])
    return {name: made[name] for name in input_names(model)}


@dataclass(frozen=True, kw_only=True)
class Tool:
    """What makes, quantises and runs a graph.

    Attributes:
        files: the graph's path in a model folder, by precision; where sentence-transformers, Transformers.js and Text
            Embeddings Inference look for it.
        write: (model, some sentences, path) to a float32 graph.
        quantise: (float32 graph, path, batches of inputs to calibrate with) to an int8 graph.
        load: path to what runs the graph.
    """

    files: dict[ExportPrecision, str]
    write: Callable[[SentenceTransformer, Sequence[str], Path], None]
    quantise: Callable[[Path, Path, Sequence[Inputs]], None]
    load: Callable[[Path], Run]


def _write_onnx(model: SentenceTransformer, sentences: Sequence[str], path: Path) -> None:
    _import("onnx", "onnx")
    size = sum(value.nbytes for value in model[0].state_dict().values())
    if size > _LARGEST:
        rule = f"at most {_LARGEST / 1e9:.0f} GB of weights, what one ONNX file holds"
        raise UserError("the model", rule, f"{size / 1e9:.1f} GB", "use --to openvino")
    example = tokenised(model, sentences)
    axes = {name: {0: "batch_size", 1: "sequence_length"} for name in [*example, _OUTPUT]}
    with _tracing(model) as graph:
        # The exporter by tracing: right for every family here, and 0.5 s where the one by torch.export takes 20 s.
        torch.onnx.export(
            graph,
            tuple(example.values()),
            str(path),
            input_names=list(example),
            output_names=[_OUTPUT],
            dynamic_axes=axes,
            opset_version=_OPSET,
            dynamo=False,
        )


def _quantise_onnx(source: Path, path: Path, batches: Sequence[Inputs]) -> None:
    """Weights in 8 bits, activations quantised while it runs, so that nothing has to be calibrated."""
    _import("onnx", "onnx")
    quantization = _import("onnxruntime.quantization", "onnx")
    with _quiet():
        quantization.quantize_dynamic(
            source,
            path,
            # Signed weights are the quick ones without VNNI, and with 7 bits of range their sums do not saturate there.
            weight_type=quantization.QuantType.QInt8,
            reduce_range=True,
            per_channel=True,
            extra_options={"MatMulConstBOnly": True},
        )


def _load_onnx(path: Path) -> Run:
    runtime = _import("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run([_OUTPUT], inputs)[0]


def _write_openvino(model: SentenceTransformer, sentences: Sequence[str], path: Path) -> None:
    openvino = _import("openvino", "openvino")
    with _tracing(model) as graph:
        made = openvino.convert_model(graph, example_input=tokenised(model, sentences))
    made.outputs[0].get_tensor().set_names({_OUTPUT})
    _save_openvino(openvino, made, path)


def _save_openvino(openvino: Any, made: Any, path: Path) -> None:
    try:
        openvino.save_model(made, path, compress_to_fp16=False)
    except RuntimeError as error:  # what OpenVINO makes of a full disk
        raise OSError(f"{path.name} that could not be written ({str(error).splitlines()[0]})") from error


def _quantise_openvino(source: Path, path: Path, batches: Sequence[Inputs]) -> None:
    """Weights and activations in 8 bits, their ranges measured on real sentences."""
    openvino, nncf = _import("openvino", "openvino"), _import("nncf", "openvino")
    with _quiet("nncf"), redirect_stdout(sys.stderr):  # its progress bars are no result
        made = nncf.quantize(
            openvino.Core().read_model(source),
            nncf.Dataset(list(batches)),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(batches),
        )
    _save_openvino(openvino, made, path)


def _load_openvino(path: Path) -> Run:
    openvino = _import("openvino", "openvino")
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = openvino.Core().compile_model(path, "CPU", settings)
    return lambda inputs: compiled(inputs)[0]


TOOLS: dict[Backend, Tool] = {
    "onnx": Tool(
        files={"fp32": "onnx/model.onnx", "int8": "onnx/model_quantized.onnx"},
        write=_write_onnx,
        quantise=_quantise_onnx,
        load=_load_onnx,
    ),
    "openvino": Tool(
        files={"fp32": "openvino/openvino_model.xml", "int8": "openvino/openvino_model_qint8_quantized.xml"},
        write=_write_openvino,
        quantise=_quantise_openvino,
        load=_load_openvino,
    ),
}
"""By the name on the command line."""


def check_installed(backend: Backend, *, int8: bool) -> None:
    """Fail now, not after the model is loaded.

    Raises:
        MissingExtra: the backend, or what quantises for it, is not installed.
    """
    needed = {"onnx": ("onnx", "onnxruntime"), "openvino": ("openvino", "nncf") if int8 else ("openvino",)}
    for module in needed[backend]:
        _import(module, backend)


def _import(module: str, extra: str) -> Any:
    names = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "nncf": "NNCF, which quantises for OpenVINO,"}
    top = module.split(".")[0]
    try:
        with _quiet("nncf"):
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != top:
            raise
        raise MissingExtra(names.get(top, top), top, extra) from error


@contextmanager
def _tracing(model: SentenceTransformer) -> Iterator[TokenVectors]:
    """The graph on the CPU in eval mode; tracing's warnings are about shapes, which the check afterwards looks at."""
    training, device = model.training, model.device
    graph = TokenVectors(model.to("cpu").eval())
    try:
        with torch.no_grad(), _quiet():
            yield graph
    finally:
        model.to(device).train(training)


@contextmanager
def _quiet(logger: str | None = None) -> Iterator[None]:
    names = [logger] if logger else ["root", "torch.onnx"]
    loggers = [logging.getLogger(name if name != "root" else None) for name in names]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)
