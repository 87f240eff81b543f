"""Are the weights of a folder those of its architecture?

A loader that fills gaps at random, or drops what it does not know, gives another model and says nothing. Nothing is
ever unpickled beyond tensors.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from diffcse.errors import UserError
from diffcse.files import read_json

_TRAINING_HEADS = ("mlp.", "discriminator.", "aux_bert.", "electra_head.", "generator.")
"""Parts of the authors' training class next to the encoder; no class of transformers has them."""

_KNOWN_HEADS = re.compile(
    r"^(\w+\.)?(cls|lm_head|mlm|pooler|vocab_(transform|layer_norm|projector)|generator_(predictions|lm_head)"
    r"|discriminator_predictions|(mask|lm)_predictions|head|decoder|classifier|score|qa_outputs)(\.|$)|position_ids$"
)
"""Parts of checkpoints that a sentence encoder rightly ignores: heads, BERT's pooler, a table of position ids."""

_SAFE, _PICKLED = "model.safetensors", "pytorch_model.bin"


@dataclass(frozen=True, kw_only=True)
class LoadingReport:
    """Names in which a folder's weights and an architecture differ.

    Attributes:
        missing: weights that the architecture has and the folder has not.
        unused: weights that the folder has and the architecture has not.
    """

    missing: Collection[str]
    unused: Collection[str]


def loading_report(backbone: Any, folder: Path) -> LoadingReport:
    """Compare the names of a folder's weights with those of the architecture.

    Args:
        backbone: the PreTrainedModel that was loaded from the folder.
        folder: with config.json and weights.
    """
    # A second load on the meta device compares names and shapes and reads no numbers.
    how: dict[str, Any] = {"config": copy.deepcopy(backbone.config), "dtype": torch.float32, "device_map": "meta"}
    _, report = type(backbone).from_pretrained(folder, output_loading_info=True, **how)
    return LoadingReport(missing=report["missing_keys"], unused=report["unexpected_keys"])


def check_report(report: LoadingReport, folder: Path) -> None:
    """Refuse gaps, and weights that would be dropped.

    Raises:
        UserError: how many there are, and the name of one.
    """
    lacking = sorted(name for name in report.missing if "pooler." not in name)  # the one part that no encoder here uses
    if lacking:
        got = f"{len(lacking)} of them missing, such as {lacking[0]}"
        raise UserError(f"weights in {folder}", "complete", got, "get the folder again, or check its config.json")
    _check_used(report.unused, folder)


def _check_used(unused: Iterable[str], folder: Path) -> None:
    """Adapters, soft prompts and the like change every vector; a model without them is another model."""
    unknown = sorted(name for name in unused if not _KNOWN_HEADS.search(name))
    if unknown:
        got = f"{len(unknown)} others, such as {unknown[0]}"
        do = "merge adapters into the model before saving it, or use the code that made it"
        raise UserError(f"weights in {folder}", "those of its architecture", got, do)


def published_state(folder: Path) -> dict[str, Tensor] | None:
    """The encoder's part of the state of the authors' training class; None for any other state."""
    family = read_json(folder / "config.json", what=f"model {folder}", do="get the folder again").get("model_type")
    if family not in ("bert", "roberta"):
        return None
    if (folder / _SAFE).is_file():
        with safe_open(folder / _SAFE, framework="pt") as file:
            names = set(file.keys())
        return _encoder_part(load_file(folder / _SAFE), family, folder) if _is_training_class(names, family) else None
    if (folder / _PICKLED).is_file():
        state = torch.load(folder / _PICKLED, map_location="cpu", weights_only=True)
        return _encoder_part(state, family, folder) if _is_training_class(set(state), family) else None
    return None


def _is_training_class(names: set[str], family: str) -> bool:
    return all(any(name.startswith(part) for name in names) for part in (f"{family}.", _TRAINING_HEADS))


def _encoder_part(state: Mapping[str, Tensor], family: str, folder: Path) -> dict[str, Tensor]:
    prefix = f"{family}."
    _check_used((name for name in state if not name.startswith((prefix, *_TRAINING_HEADS))), folder)
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
