"""Ready settings: the published recipes, the paper's reading of them, and settings from names or a file.

Published settings: Chuang et al. (2022), section 4.1 and appendix A, and the authors' training scripts.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Literal, get_type_hints

from diffcse.config import BUNDLED, Config
from diffcse.errors import UserError
from diffcse.settings import checked

Fidelity = Literal["reference", "paper"]

SECTIONS: dict[str, type[Any]] = get_type_hints(Config)
"""The class of each section."""

# What the paper's text says where the code behind its numbers differs. Each switch is explained at its field.
PAPER: dict[str, Any] = {
    "rtd_average": "real",
    "edited_views": "first",
    "masking": "mask",
    "fill": "sample",
    "fill_at": "masked",
    "padding_id": "pad",
    "generator_dropout": False,
}

_BERT = {"encoder": "bert-base-uncased", "generator": "distilbert-base-uncased"}
_ROBERTA = {"encoder": "roberta-base", "generator": "distilroberta-base"}

PRESETS: dict[str, dict[str, Any]] = {
    "bert-sts": {**_BERT, "learning_rate": 7e-6, "mask_ratio": 0.30, "lambda_weight": 0.005},
    "roberta-sts": {**_ROBERTA, "learning_rate": 1e-5, "mask_ratio": 0.20, "lambda_weight": 0.005},
    "bert-transfer": {**_BERT, "learning_rate": 2e-6, "mask_ratio": 0.15, "lambda_weight": 0.05},
    "roberta-transfer": {**_ROBERTA, "learning_rate": 3e-6, "mask_ratio": 0.15, "lambda_weight": 0.05},
    # Ours, for two CPU cores and the bundled model; LOG.md says how the values were chosen.
    "small": {
        "encoder": BUNDLED,
        "generator": BUNDLED,
        "learning_rate": 3e-5,
        "mask_ratio": 0.30,
        "lambda_weight": 0.005,
        "epochs": 1.0,
        "max_steps": 50,
        "eval_every_steps": 25,
        "save_every_steps": 50,
        "log_every_steps": 10,
    },
}


def build(*, preset: str = "bert-sts", fidelity: Fidelity = "reference", **overrides: Any) -> Config:
    """Settings from a preset, then the fidelity's switches, then `overrides`.

    Args:
        preset: a key of `PRESETS`.
        fidelity: `reference` (the code behind the published numbers) or `paper` (what the text says).
        overrides: any field by its name.

    Raises:
        UserError: for an unknown preset, fidelity or field, or a value outside its rule.

    >>> build(preset="roberta-sts", temperature=0.1).objective.temperature
    0.1
    """
    if not isinstance(preset, str) or preset not in PRESETS:
        raise UserError("preset", f"one of {', '.join(PRESETS)}", preset, "choose one of them")
    fidelity = checked("fidelity", fidelity, Fidelity)
    flat = {**PRESETS[preset], **(PAPER if fidelity == "paper" else {}), **overrides}
    owner = field_owners()
    for name in flat:
        if name not in owner:
            raise UserError("setting", "a field of the settings", name, "see diffcse train --help for all of them")
    sections = {name: {f: v for f, v in flat.items() if owner[f] == name} for name in SECTIONS}
    return Config(**{name: cls(**sections[name]) for name, cls in SECTIONS.items()})


def flatten(settings: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Fields of a settings file, checked to be in their own section.

    Args:
        settings: the file's content: sections of fields, and `preset` and `fidelity` at the top.
        source: the file's name, for messages.
    """
    owner, flat = field_owners(), {}
    for section, content in settings.items():
        if section in ("preset", "fidelity"):
            flat[section] = content
            continue
        if section not in SECTIONS or not isinstance(content, Mapping):
            known = ", ".join(f"[{name}]" for name in SECTIONS)
            raise UserError(f"{source}: section", f"one of {known}", section, "move the setting into its section")
        for name, value in content.items():
            if owner.get(name) != section:
                do = f"move it to [{owner[name]}]" if name in owner else "see diffcse train --help"
                raise UserError(f"{source}: [{section}]", "a section with its own fields", name, do)
            flat[name] = value
    return flat


@functools.cache
def field_owners() -> dict[str, str]:
    """Section of every field."""
    return {field.name: section for section, cls in SECTIONS.items() for field in fields(cls)}
