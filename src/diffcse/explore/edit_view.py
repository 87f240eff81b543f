"""What DiffCSE sees: an edited sentence through the discriminator, with the right sentence vector and with another's.

Legend: `L` tokens, special ones included; `H` hidden.

The discriminator can tell which tokens the generator changed only by comparing them with the sentence vector, so the
right vector should help it and another sentence's should mislead it. Everything is computed by the parts of
`DiffCSEModel` itself, in eval mode: no dropout anywhere, BatchNorm with the statistics of the training.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from torch import Tensor

from diffcse.config import Config
from diffcse.errors import UserError
from diffcse.files import read_json
from diffcse.method.edits import MlmEdit
from diffcse.method.model import DiffCSEModel
from diffcse.persistence.load import load_encoder
from diffcse.persistence.save import dense_layers, own_pooler
from diffcse.presets import SECTIONS, build, flatten
from diffcse.training.batches import Collator
from diffcse.training.networks import check_vocabulary, load_generator, load_tokenizer

_RETRAIN = "train it with --keep-discriminator"


@dataclass(frozen=True, kw_only=True)
class TrainedParts:
    """A model folder with everything that took part in its training.

    Attributes:
        model: the training module in eval mode, on the CPU.
        tokenizer: the encoder's.
        config: the run's settings.
    """

    model: DiffCSEModel
    tokenizer: Any
    config: Config


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One edited sentence as the discriminator sees it; every tuple has L entries.

    Attributes:
        tokens: the sentence x.
        masked: where it was masked before the generator read it.
        edited: the generator's edit x''.
        replaced: where the two differ.
        own: probability that a token was replaced, said with the sentence's own vector.
        other: the same, said with the other sentence's vector.
        truncated: the sentence was longer than the model was trained on and has lost its end.
    """

    tokens: tuple[str, ...]
    masked: tuple[bool, ...]
    edited: tuple[str, ...]
    replaced: tuple[bool, ...]
    own: tuple[float, ...]
    other: tuple[float, ...]
    truncated: bool


def what_diffcse_sees(folder: str | Path, sentence: str, other: str, seed: int = 0) -> Seen:
    """Edit a sentence and let the discriminator judge the edit twice.

    Args:
        folder: a model that was trained with `keep_discriminator`.
        sentence: what is edited.
        other: another sentence, whose vector is given to the discriminator the second time.
        seed: decides which tokens are masked, and what is sampled where the settings sample.

    Raises:
        UserError: no such model, one without its discriminator, or a generator out of reach.
    """
    return look(load_parts(folder), sentence, other, seed)


def has_discriminator(folder: str | Path) -> bool:
    """Whether the folder holds what `keep_discriminator` keeps."""
    return _weights(Path(folder)).is_file()


def load_parts(folder: str | Path) -> TrainedParts:
    """The training module as it was when the run kept its weights.

    Raises:
        UserError: see `what_diffcse_sees`.
    """
    place = Path(folder)
    if not has_discriminator(place):
        raise UserError(f"model {place}", "one with its discriminator", "no training/model.safetensors", _RETRAIN)
    config = _settings(place)
    encoder = load_encoder(place)
    tokenizer, generator = encoder.tokenizer, load_generator(config.model)
    check_vocabulary(tokenizer, load_tokenizer(config.model), config.model)
    ids = {"cls_id": tokenizer.cls_token_id, "pad_id": tokenizer.pad_token_id}
    config = replace(config, model=replace(config.model, pooler=own_pooler(encoder, f"model {place}")))
    model = DiffCSEModel(
        _backbone(encoder), MlmEdit(generator, config.edits, **ids), config, dense=dense_layers(encoder)
    )
    _load_trained(model, place)
    return TrainedParts(model=model.eval(), tokenizer=tokenizer, config=config)


@torch.no_grad()
def look(parts: TrainedParts, sentence: str, other: str, seed: int = 0) -> Seen:
    """As `what_diffcse_sees`, for parts that are loaded already."""
    assert parts.model.edit is not None and parts.model.discriminator is not None
    batch = edit_batch(parts, sentence, seed)
    edited = parts.model.edit(**batch)
    vectors = torch.cat([sentence_vector(parts, text) for text in (sentence, other)])  # (2, H)
    twice = {"input_ids": edited.input_ids.expand(2, -1), "attention_mask": batch["attention_mask"].expand(2, -1)}
    own, others = parts.model.discriminator(**twice, sentence=vectors).float().softmax(-1)[..., 1].tolist()
    return Seen(
        tokens=_tokens(parts, batch["input_ids"]),
        masked=tuple(batch["chosen"][0].tolist()),
        edited=_tokens(parts, edited.input_ids),
        replaced=tuple(edited.replaced[0].tolist()),
        own=tuple(own),
        other=tuple(others),
        truncated=len(parts.tokenizer(sentence)["input_ids"]) > parts.config.training.max_tokens,
    )


def edit_batch(parts: TrainedParts, sentence: str, seed: int) -> dict[str, Tensor]:
    """The sentence as `MlmEdit` takes it, each tensor (1, L): masked as the training's collator masks."""
    collate = Collator(parts.tokenizer, replace(parts.config.edits, edited_text="same"), seed)
    ids = _ids(parts, sentence)[0].numpy()
    return {name: value[:, 0] for name, value in collate([(0, 0, [ids])]).items()}


def sentence_vector(parts: TrainedParts, sentence: str) -> Tensor:
    """The vector (1, H) that the discriminator is given for a sentence."""
    ids = _ids(parts, sentence)
    pooled = parts.model.pool(ids.unsqueeze(1), torch.ones_like(ids).unsqueeze(1))  # (1, 1, H)
    projected = parts.config.objective.conditioning == "projected"
    return (parts.model.project(pooled) if projected else pooled)[:, 0]


def _ids(parts: TrainedParts, sentence: str) -> Tensor:
    limit = parts.config.training.max_tokens
    return torch.tensor([parts.tokenizer(sentence, truncation=True, max_length=limit)["input_ids"]])


def _tokens(parts: TrainedParts, ids: Tensor) -> tuple[str, ...]:
    return tuple(parts.tokenizer.convert_ids_to_tokens(ids[0].tolist()))


def _weights(folder: Path) -> Path:
    return folder / "training" / "model.safetensors"


def _settings(folder: Path) -> Config:
    """The run's settings; a folder from somebody else may not switch on foreign code."""
    path = folder / "diffcse.json"
    try:
        sections = read_json(path, what=str(path), do=_RETRAIN).get("settings")
    except FileNotFoundError as error:
        raise UserError(str(path), "the settings of a training run", error.strerror, _RETRAIN) from error
    if not isinstance(sections, dict):
        raise UserError(str(path), "the settings of a training run", "no settings in it", _RETRAIN)
    fields = flatten({name: content for name, content in sections.items() if name in SECTIONS}, str(path))
    config = build(**fields)
    seen = (config.objective.objective, config.objective.predictor, config.edits.edit)
    if seen != ("diffcse", "rtd", "replacement"):
        rule = "trained with objective diffcse, predictor rtd and edit replacement"
        raise UserError(f"model {folder}", rule, ", ".join(seen), _RETRAIN)
    return replace(config, model=replace(config.model, trust_remote_code=False))


def _backbone(encoder: SentenceTransformer) -> Any:
    return cast(Any, encoder[0]).model


def _load_trained(model: DiffCSEModel, folder: Path) -> None:
    """Projector and discriminator from the folder; what is missing or too much there is an error."""
    path = _weights(folder)
    do = f"restore the folder, or {_RETRAIN}"
    try:
        missing, unexpected = model.load_state_dict(load_file(path), strict=False)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise UserError(f"{path}", "whole", str(error).splitlines()[0], do) from error
    lacking = [name for name in missing if name.startswith(("projector.", "discriminator."))]
    if lacking or unexpected:
        raise UserError(f"{path}", "projector and discriminator", (lacking or unexpected)[0], do)
