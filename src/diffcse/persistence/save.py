"""A trained model as a plain SentenceTransformer folder, Transformer and Pooling, which loads without this package."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeGuard

import torch
from safetensors import SafetensorError
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    Normalize,
    Pooling,
    Transformer,
    WeightedLayerPooling,
)
from torch import Tensor, nn

from diffcse.config import Pooler
from diffcse.errors import UserError
from diffcse.files import move_into
from diffcse.method.pooling import DenseLayers
from diffcse.persistence.layout import to_classic

_ST_MODES = {"cls": "cls", "avg": "mean", "avg_top2": "mean", "avg_first_last": "mean", "last": "lasttoken"}

_TWO_LAYERS: tuple[Pooler, ...] = ("avg_top2", "avg_first_last")

ONE_LAYER: dict[str, Pooler] = {"cls": "cls", "mean": "avg", "lasttoken": "last"}
"""The pooler that each pooling mode of sentence-transformers is, where it takes the last layer alone."""


def sentence_transformer(
    transformer: Transformer, pooler: Pooler, like: SentenceTransformer | None = None
) -> SentenceTransformer:
    """The modules that give what `diffcse.method.pooling.encode` gives, around the same backbone object.

    Args:
        transformer: the Transformer module of a SentenceTransformer.
        pooler: how token vectors become a sentence vector.
        like: the model that the Transformer comes from, whose Dense, Normalize, prompts and similarity are kept; no
            other module may follow its pooling.
    """
    config = transformer.model.config
    modules: list[Any] = [transformer]
    if pooler in ("avg_top2", "avg_first_last"):
        config.output_hidden_states = True
        modules.append(layer_mean(config, pooler))
    modules.append(Pooling(config.hidden_size, pooling_mode=_ST_MODES[pooler]))
    device = str(transformer.model.device)
    if like is None:
        return SentenceTransformer(modules=modules, device=device)
    modules += [module for module in like if isinstance(module, Dense | Normalize)]
    return SentenceTransformer(
        modules=modules,
        device=device,
        prompts={name: prompt for name, prompt in like.prompts.items() if prompt is not None},
        default_prompt_name=like.default_prompt_name,
        similarity_fn_name=like.similarity_fn_name,
    )


def pooler_of(model: SentenceTransformer) -> Pooler | None:
    """What the model's modules do before Dense and Normalize, in the words of the settings.

    None for modules that training cannot carry on (word vectors, another pooling, anything behind a Normalize).
    """
    modules: list[Any] = list(model)
    while len(modules) > 1 and isinstance(modules[-1], Normalize):  # changes no cosine
        modules.pop()
    while len(modules) > 1 and _is_dense(modules[-1]):
        modules.pop()
    kinds, last = [type(module).__name__ for module in modules], modules[-1]
    if kinds == ["Transformer", "Pooling"]:
        return ONE_LAYER.get(last.pooling_mode) if isinstance(last.pooling_mode, str) else None
    if kinds == ["Transformer", "WeightedLayerPooling", "Pooling"] and last.pooling_mode == "mean":
        for pooler in _TWO_LAYERS:
            ours = layer_mean(modules[0].model.config, pooler)
            if ours.layer_start == modules[1].layer_start and ours.layer_weights.equal(modules[1].layer_weights.cpu()):
                return pooler
    return None


def dense_layers(model: SentenceTransformer) -> DenseLayers | None:
    """The model's Dense modules, the same objects, as training takes them; None where it has none."""
    layers = [module for module in model if _is_dense(module)]
    return DenseLayers(layers, int(layers[-1].out_features)) if layers else None


def _is_dense(module: Any) -> TypeGuard[Dense]:
    """Whether it changes the sentence vector and nothing else."""
    return isinstance(module, Dense) and {module.module_input_name, module.module_output_name} == {"sentence_embedding"}


def own_pooler(model: SentenceTransformer, what: str = "the model") -> Pooler:
    """`pooler_of` for a model that is to be trained.

    Args:
        model: any SentenceTransformer.
        what: how the error names it.

    Raises:
        UserError: modules that training cannot carry on.
    """
    pooler = pooler_of(model)
    if pooler is not None:
        return pooler
    kinds = [type(module).__name__ for module in model]
    mode = next((module.pooling_mode for module in model if isinstance(module, Pooling)), None)
    got = ", ".join(kinds) + (f" ({mode if isinstance(mode, str) else ' and '.join(mode)})" if mode else "")
    if kinds[0] != "Transformer":
        do = "start from a Transformer; encode, evaluate and search take this model as it is"
    elif set(kinds) <= {"Transformer", "WeightedLayerPooling", "Pooling", "Normalize"}:
        do = "name the pooler to train with, such as avg"
    else:
        do = "start from the Transformer that it is built on; encode, evaluate and search take this model as it is"
    raise UserError(
        what, "a Transformer with cls, mean or lasttoken pooling, then Dense and Normalize at most", got, do
    )


def insert_map(model: SentenceTransformer, weight: Tensor) -> nn.Module:
    """Put a linear map after the pooling and any Dense, before any Normalize.

    Args:
        model: a Transformer with its pooling, changed in place.
        weight: shape (H, H); a vector v becomes W v.

    Returns:
        The module that was put in.
    """
    out, width = weight.shape
    dense = Dense(width, out, bias=False, activation_function=None, init_weight=weight.clone())
    place = 1 + max(number for number, module in enumerate(model) if isinstance(module, Pooling | Dense))
    dense.to(model.device)
    model.insert(place, dense)
    return dense


def remove(model: SentenceTransformer, module: nn.Module) -> None:
    """Remove a module that `insert_map` put in."""
    del model[next(number for number, other in enumerate(model) if other is module)]


def layer_mean(config: Any, pooler: Pooler) -> WeightedLayerPooling:
    """The module after the Transformer that avg_top2 and avg_first_last need."""
    layers = config.num_hidden_layers
    start = layers - 1 if pooler == "avg_top2" else 0
    weights = torch.zeros(layers + 1 - start)
    weights[0] = weights[-1] = 0.5
    frozen = torch.nn.Parameter(weights, requires_grad=False)
    return WeightedLayerPooling(config.hidden_size, num_hidden_layers=layers, layer_start=start, layer_weights=frozen)


def save_folder(model: SentenceTransformer, folder: Path, extra: dict[str, bytes]) -> None:
    """Write the model and `extra` files into `folder`; each file is replaced atomically.

    Args:
        model: what to save.
        folder: an existing folder; files of the same names in it are replaced.
        extra: content of further files by name (README.md, settings).

    Raises:
        OSError: a disk that cannot be written to.
    """
    with moved_into(folder) as part:
        model.save(str(part), create_model_card=False)
        to_classic(part, model.max_seq_length)
        for name, content in extra.items():
            (part / name).write_bytes(content)


@contextmanager
def moved_into(folder: Path) -> Iterator[Path]:
    """An absent folder to write files into, which then move into the existing `folder`, each atomically.

    Raises:
        OSError: a disk that cannot be written to, in safetensors' words too.
    """
    part = folder / f".model.{os.getpid()}.part"
    shutil.rmtree(part, ignore_errors=True)
    try:
        yield part
        move_into(part, folder)
    except SafetensorError as error:  # what it makes of a full disk
        raise OSError(str(error)) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
