"""Reads one golden case (see the FORMAT.md that comes with the cases) into our own modules.

Legend: `B` instances, `S` sentences of an instance, `N = B*S` rows, `L` tokens, `H` hidden, `V` vocabulary.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertForMaskedLM,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaModel,
)

from diffcse.config import Config, EditConfig, ModelConfig, ObjectiveConfig
from diffcse.method.edits import MlmEdit
from diffcse.method.masking import IGNORE
from diffcse.method.model import DiffCSEModel

_LEFT_OUT = ("architectures", "model_type", "gradient_checkpointing")
_FAMILIES = {
    "bert": (BertConfig, BertModel, DistilBertConfig, DistilBertForMaskedLM),
    "roberta": (RobertaConfig, RobertaModel, RobertaConfig, RobertaForMaskedLM),
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One case: its description, the model with its initial weights, and everything recorded."""

    name: str
    about: dict[str, Any]
    scalars: dict[str, Any]
    model: DiffCSEModel
    batches: list[dict[str, Tensor]]
    step0: dict[str, Tensor]
    grads: dict[str, Tensor]
    final: dict[str, Tensor]

    @property
    def first(self) -> dict[str, Tensor]:
        """Batch 00 as it was recorded with the first forward pass."""
        return _batch({name.removeprefix("input."): value for name, value in self.step0.items() if "input." in name})


def read_case(folder: Path) -> Case:
    """The case in `folder`."""
    about = json.loads((folder / "case.json").read_text())
    model = build_model(about)
    load_reference(model, load_file(folder / "weights.safetensors"), about["family"])
    flat = load_file(folder / "batches.safetensors")
    names = sorted({name.split(".", 1)[0] for name in flat})
    batches = [{k.split(".", 1)[1]: v for k, v in flat.items() if k.startswith(f"{n}.")} for n in names]
    return Case(
        name=folder.name,
        about=about,
        scalars=json.loads((folder / "scalars.json").read_text()),
        model=model,
        batches=[_batch(batch) for batch in batches],
        step0=load_file(folder / "step0.safetensors"),
        grads=load_file(folder / "grads.safetensors"),
        final=load_file(folder / "final.safetensors"),
    )


def build_model(about: dict[str, Any]) -> DiffCSEModel:
    """Our module for the case's settings, with fresh weights."""
    encoder_config, encoder, generator_config, generator = _FAMILIES[about["family"]]
    backbone = encoder(encoder_config(**_stock(about["encoder_config"])), add_pooling_layer=False)
    edit = None
    if about["rtd"]:
        mlm = generator(generator_config(**_stock(about["generator_config"])))
        # The forced id is hard-coded in the reference; ours is the tokenizer's, which a case may differ from.
        ids = {"cls_id": about["forced_cls_token"], "pad_id": about["special_ids"]["pad"]}
        edit = MlmEdit(mlm, EditConfig(), **ids, padding_free=True)  # as a run has it
    return DiffCSEModel(backbone, edit, settings(about))


def settings(about: dict[str, Any]) -> Config:
    """The reference's arguments in our words."""
    args = about["model_args"]
    pooler, projector = args["pooler_type"], "none"
    if pooler == "cls":
        projector = "bn" if args["batchnorm"] else "tanh"
    pooler = "cls" if pooler.startswith("cls") else pooler
    return Config(
        model=ModelConfig(pooler=pooler, projector=projector),
        objective=ObjectiveConfig(
            objective="diffcse" if about["rtd"] else "simcse",
            temperature=args["temp"],
            lambda_weight=args["lambda_weight"],
            hard_negative_weight=args["hard_negative_weight"],
            conditioning="pooled" if args["before_mlp"] else "projected",
        ),
    )


def our_name(name: str, family: str) -> str | None:
    """Our name of one of the reference's parameters or buffers; None for what we do not have."""
    renamed = {
        f"{family}.": "encoder.",
        "discriminator.": "discriminator.backbone.",
        "electra_head.": "discriminator.head.",
        "generator.": "edit.generator.mlm.",
        "mlp.net.": "projector.",
        "mlp.dense.": "projector.0.",
    }
    return next((ours + name.removeprefix(theirs) for theirs, ours in renamed.items() if name.startswith(theirs)), None)


def ours(model: nn.Module, recorded: dict[str, Tensor], family: str) -> dict[str, Tensor]:
    """What the reference recorded, by our names.

    Its weights hold a discriminator and a generator without replaced token detection too, where neither is used and our
    module has none; what belongs to a part that the module lacks is therefore left aside.
    """
    parts = {name for name, _ in model.named_children()}
    names = {name: our_name(name, family) for name in recorded}
    return {name: recorded[theirs] for theirs, name in names.items() if name and name.split(".")[0] in parts}


def load_reference(model: nn.Module, weights: dict[str, Tensor], family: str) -> None:
    """Put the reference's weights into our module; every weight of ours must be there."""
    state = ours(model, weights, family)
    missing, unexpected = model.load_state_dict(state, strict=False)
    unset = [name for name in missing if not name.endswith((".num_batches_tracked", "decoder.weight", "decoder.bias"))]
    if unset or unexpected:
        raise ValueError(f"weights must match the module; missing {unset}, unexpected {unexpected}")


def _stock(config: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in _LEFT_OUT}


def _batch(recorded: dict[str, Tensor]) -> dict[str, Tensor]:
    batch = {name: recorded[name] for name in ("input_ids", "attention_mask")}
    if "mlm_input_ids" in recorded:
        batch["masked_ids"] = recorded["mlm_input_ids"]
        batch["chosen"] = recorded["mlm_labels"] != IGNORE
        batch["draws"] = torch.zeros_like(batch["input_ids"], dtype=torch.float64)
    return batch
