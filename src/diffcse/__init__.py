"""DiffCSE: difference-based contrastive learning for sentence embeddings (Chuang et al., NAACL 2022)."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "AdaptSettings": "diffcse.adaptation.settings",
    "Config": "diffcse.config",
    "DiffCSE": "diffcse.encoder",
    "DiffCSELoss": "diffcse.training.st_loss",
    "DiffCSEModel": "diffcse.method.model",
    "UserError": "diffcse.errors",
    "adapt": "diffcse.adaptation.adapt",
    "build": "diffcse.presets",
    "deduplicate": "diffcse.search.dedup",
    "train": "diffcse.training.train",
}

__all__ = [
    "AdaptSettings",
    "Config",
    "DiffCSE",
    "DiffCSELoss",
    "DiffCSEModel",
    "UserError",
    "adapt",
    "build",
    "deduplicate",
    "train",
]


def __getattr__(name: str) -> Any:
    # torch and transformers take seconds to import, so a name brings its module only when it is first used.
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
