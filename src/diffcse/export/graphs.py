"""One graph from tokens to token vectors, made and quantised for ONNX Runtime or OpenVINO.

Legend: `B` sentences, `L` tokens of the longest, `H` hidden.

Both are used directly: sentence-transformers reaches them through optimum, which pins an older transformers. Token
vectors are what the folder's own pooling reads, so serving tools pool as they do for the PyTorch weights. Where the
model takes the mean of several layers, that mean is in the graph.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import WeightedLayerPooling
from torch import Tensor, nn

from diffcse.encoding.backends import OUTPUT, GraphBackend, Inputs, import_extra, input_names, only_errors
from diffcse.errors import UserError

_OPSET = 17  # the first with LayerNormalization, which keeps the graph small and quick
_LARGEST = 2_000_000_000  # bytes of weights; protobuf ends at 2 GiB


class TokenVectors(nn.Module):
    """The backbone of a model that begins with a Transformer and, where it has one, the mean of its layers."""

    def __init__(self, model: SentenceTransformer) -> None:
        super().__init__()
        layers = model[1] if len(model) > 1 and isinstance(model[1], WeightedLayerPooling) else None
        self.backbone: Any = model[0].model
        self.layers: Any = layers

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Token vectors (B, L, H) of ids and masks (B, L)."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            inputs["token_type_ids"] = token_type_ids
        output = self.backbone(**inputs, output_hidden_states=self.layers is not None)
        if self.layers is None:
            return output.last_hidden_state
        features = {"token_embeddings": output.last_hidden_state, "all_layer_embeddings": output.hidden_states}
        return self.layers({**features, "attention_mask": attention_mask})["token_embeddings"]


def tokenised(model: SentenceTransformer, sentences: Sequence[str]) -> dict[str, Tensor]:
    """The graph's inputs for some sentences: (B, L) each."""
    limit = model.max_seq_length
    tokens = model.tokenizer(
        list(sentences), padding=True, truncation=limit is not None, max_length=limit, return_tensors="pt"
    )
    if "token_type_ids" in input_names(model) and "token_type_ids" not in tokens:
        tokens["token_type_ids"] = torch.zeros_like(tokens["input_ids"])
    return {name: tokens[name] for name in input_names(model)}


@dataclass(frozen=True, kw_only=True)
class Tool:
    """What makes and quantises a graph; `encoding.backends` runs it.

    Attributes:
        write: (model, some sentences, path) to a float32 graph.
        quantise: (float32 graph, path, batches of inputs to calibrate with) to an int8 graph.
    """

    write: Callable[[SentenceTransformer, Sequence[str], Path], None]
    quantise: Callable[[Path, Path, Sequence[Inputs]], None]


def _write_onnx(model: SentenceTransformer, sentences: Sequence[str], path: Path) -> None:
    import_extra("onnx", "onnx")
    size = sum(value.nbytes for value in model[0].state_dict().values())
    if size > _LARGEST:
        rule = f"at most {_LARGEST / 1e9:.0f} GB of weights, what one ONNX file holds"
        raise UserError("the model", rule, f"{size / 1e9:.1f} GB", "use --to openvino")
    example = tokenised(model, sentences)
    axes = {name: {0: "batch_size", 1: "sequence_length"} for name in [*example, OUTPUT]}
    with _tracing(model) as graph:
        # The exporter by tracing: right for every family here, and 0.5 s where the one by torch.export takes 20 s.
        torch.onnx.export(
            graph,
            tuple(example.values()),
            str(path),
            input_names=list(example),
            output_names=[OUTPUT],
            dynamic_axes=axes,
            opset_version=_OPSET,
            dynamo=False,
        )


def _quantise_onnx(source: Path, path: Path, batches: Sequence[Inputs]) -> None:
    """Weights in 8 bits, activations quantised while it runs, so that nothing has to be calibrated."""
    import_extra("onnx", "onnx")
    quantization = import_extra("onnxruntime.quantization", "onnx")
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


def _write_openvino(model: SentenceTransformer, sentences: Sequence[str], path: Path) -> None:
    openvino = import_extra("openvino", "openvino")
    with _tracing(model) as graph:
        converted = openvino.convert_model(graph, example_input=tokenised(model, sentences))
    converted.outputs[0].get_tensor().set_names({OUTPUT})
    _save_openvino(openvino, converted, path)


def _save_openvino(openvino: Any, model: Any, path: Path) -> None:
    try:
        openvino.save_model(model, path, compress_to_fp16=False)
    except RuntimeError as error:  # what OpenVINO makes of a full disk
        raise OSError(f"{path.name} that could not be written ({str(error).splitlines()[0]})") from error


def _quantise_openvino(source: Path, path: Path, batches: Sequence[Inputs]) -> None:
    """Weights and activations in 8 bits, their ranges measured on real sentences."""
    openvino, nncf = import_extra("openvino", "openvino"), import_extra("nncf", "openvino")
    with _quiet("nncf"), redirect_stdout(sys.stderr):  # its progress bars are no result
        quantised = nncf.quantize(
            openvino.Core().read_model(source),
            nncf.Dataset(list(batches)),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(batches),
        )
    _save_openvino(openvino, quantised, path)


TOOLS: dict[GraphBackend, Tool] = {
    "onnx": Tool(write=_write_onnx, quantise=_quantise_onnx),
    "openvino": Tool(write=_write_openvino, quantise=_quantise_openvino),
}
"""By the name on the command line."""


def check_installed(backend: GraphBackend, *, int8: bool) -> None:
    """Fail now, not after the model is loaded.

    Raises:
        MissingExtra: the backend, or what quantises for it, is not installed.
    """
    needed = {"onnx": ("onnx", "onnxruntime"), "openvino": ("openvino", "nncf") if int8 else ("openvino",)}
    for module in needed[backend]:
        import_extra(module, backend)


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
def _quiet(*loggers: str) -> Iterator[None]:
    with only_errors(*(loggers or (None, "torch.onnx"))), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
