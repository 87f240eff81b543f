"""Digests of a run or a model that two people can compare: which part of two runs differs first?

Everything is hashed by content (names, types, shapes and bytes of tensors; sorted JSON of settings), so that folders
written on other days, in other places or by another layout of the same files have the same fingerprint.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers.trainer_pt_utils import safe_globals

from diffcse.errors import UserError
from diffcse.files import read_json
from diffcse.persistence.load import model_errors
from diffcse.training.trainer import EpochOrder, last_checkpoint, read_state, whole_checkpoint

_FILES_OF_A_MODEL = ("config.json", "modules.json", "config_sentence_transformers.json", "sentence_bert_config.json")
_TOKENIZER = ("tokenizer.json", "vocab.txt", "tokenizer_config.json")


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """SHA-256 digests in hexadecimal; None for what a folder does not hold.

    Attributes:
        kind: `model` for a finished model, `run` for an interrupted run, whose newest checkpoint is described.
        step: optimiser step of the checkpoint.
        settings: of the run, or of the model where no run is known.
        text: what the run reads.
        tokenizer: of the model.
        weights: every tensor by name.
        optimiser: moments and schedule.
        random: states of the random number generators, of every process.
        next_batch: examples of the next optimiser step.
    """

    kind: str
    step: int | None = None
    settings: str | None
    text: str | None = None
    tokenizer: str | None = None
    weights: str
    optimiser: str | None = None
    random: str | None = None
    next_batch: str | None = None

    def lines(self) -> list[str]:
        """A line for each field."""
        width = max(len(field.name) for field in fields(self))
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        return [f"{name.replace('_', ' '):{width}}  {'-' if value is None else value}" for name, value in values]


def fingerprint(folder: str | Path) -> Fingerprint:
    """Digests of a model folder, or of the newest complete checkpoint of an interrupted run.

    Args:
        folder: what `train`, `pretrain` or sentence-transformers wrote.

    Raises:
        UserError: no model and no checkpoint in it, or files that cannot be read.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise UserError(f"{folder}", "a folder with a model or a run", "no such folder", "check the path")
    checkpoint = last_checkpoint(folder / "checkpoints")
    if checkpoint is not None:
        with whole_checkpoint(checkpoint):
            return _run(folder, checkpoint)
    with model_errors(str(folder)):
        return _model(folder)


def _model(folder: Path) -> Fingerprint:
    files = sorted(folder.rglob("*.safetensors"))
    files = [path for path in files if "checkpoints" not in path.parts and "training" not in path.parts]
    if not files:
        raise UserError(f"{folder}", "a folder with a model or a run", "no *.safetensors", "name a model's folder")
    weights = {f"{path.relative_to(folder)} {name}": value for path in files for name, value in load_file(path).items()}
    about = _json(folder / "diffcse.json")
    return Fingerprint(
        kind="model",
        settings=_of_files(folder, _FILES_OF_A_MODEL) if about is None else tree_digest(about["settings"]),
        tokenizer=_of_files(folder, _TOKENIZER),
        weights=tree_digest(weights),
    )


def _run(folder: Path, checkpoint: Path) -> Fingerprint:
    step = read_state(checkpoint).global_step
    about, text = _json(folder / "diffcse.json"), _json(folder / "checkpoints" / "text.json")
    weights = {
        name: value for path in sorted(checkpoint.glob("*.safetensors")) for name, value in load_file(path).items()
    }
    states = [checkpoint / "optimizer.pt", checkpoint / "scheduler.pt"]
    return Fingerprint(
        kind="run",
        step=step,
        settings=None if about is None else tree_digest(about["settings"]),
        text=None if text is None else text["sha256"],
        weights=tree_digest(weights),
        optimiser=tree_digest([_load(path) for path in states if path.is_file()]),
        random=tree_digest([_load(path) for path in sorted(checkpoint.glob("rng_state*.pth"))]),
        next_batch=_next_batch(about, text, step),
    )


def _next_batch(about: Mapping[str, Any] | None, text: Mapping[str, Any] | None, step: int) -> str | None:
    """The (epoch, example) pairs of the step after `step`; None for a run that does not say how long its text is."""
    training = (about or {}).get("settings", {}).get("training")
    if training is None or "rows" not in (text or {}):
        return None
    assert text is not None
    order = EpochOrder(text["rows"], training["seed"])
    steps = max(1, text["rows"] // training["batch_size"] // training["accumulate"])
    order.set_epoch(step // steps)
    size = training["batch_size"] * training["accumulate"]
    first = step % steps * size
    return tree_digest(list(order)[first : first + size])


def tree_digest(tree: Any) -> str:
    """SHA-256 of tensors, arrays, numbers and texts in dictionaries, lists and tuples.

    >>> tree_digest({"b": 1, "a": [torch.zeros(2)]}) == tree_digest({"a": [torch.zeros(2)], "b": 1})
    True
    """
    hasher = hashlib.sha256()
    for part in _parts(tree):
        hasher.update(len(part).to_bytes(8, "little"))  # so that no two lists of parts read the same
        hasher.update(part)
    return hasher.hexdigest()


def _parts(tree: Any) -> Iterable[bytes]:
    if isinstance(tree, Mapping):
        for name in sorted(tree, key=str):
            yield f"key {name}".encode()
            yield from _parts(tree[name])
    elif isinstance(tree, list | tuple):
        yield f"list of {len(tree)}".encode()
        for value in tree:
            yield from _parts(value)
    elif isinstance(tree, Tensor):
        yield from _parts(tree.detach().cpu().contiguous().view(torch.uint8).numpy() if tree.dim() else tree.reshape(1))
        yield f"{tree.dtype} {tuple(tree.shape)}".encode()
    elif isinstance(tree, np.ndarray):
        yield f"{tree.dtype} {tree.shape}".encode()
        yield np.ascontiguousarray(tree).tobytes()
    else:
        yield repr(tree).encode()


def _load(path: Path) -> Any:
    with safe_globals():
        return torch.load(path, map_location="cpu", weights_only=True)


def _json(path: Path) -> dict[str, Any] | None:
    try:
        return read_json(path, what=f"{path}", do="check the folder")
    except FileNotFoundError:
        return None


def _of_files(folder: Path, names: Iterable[str]) -> str | None:
    contents = {
        str(path.relative_to(folder)): json.loads(path.read_text(encoding="utf-8"))
        if path.suffix == ".json"
        else path.read_text(encoding="utf-8")
        for name in names
        for path in sorted(folder.rglob(name))
    }
    return tree_digest(contents) if contents else None
