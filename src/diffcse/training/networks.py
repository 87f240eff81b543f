"""The pretrained networks of a run, and the check that they share one vocabulary."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Transformer
from torch import nn
from transformers import AutoModelForMaskedLM, AutoTokenizer, PreTrainedModel

from diffcse.config import Config, ModelConfig, Pooler
from diffcse.errors import UserError
from diffcse.method.pooling import DenseLayers
from diffcse.method.prompt import prompted
from diffcse.persistence.hub import locate
from diffcse.persistence.load import load_encoder, model_errors
from diffcse.persistence.save import dense_layers, own_pooler
from diffcse.resources import GENERATOR


@dataclass(frozen=True, kw_only=True)
class Networks:
    """What a run starts from.

    Attributes:
        model: the encoder as a SentenceTransformer with the pooling that is trained, the start's own Dense,
            Normalize and prompts; training changes its weights in place.
        pooler: that pooling.
        tokenizer: the encoder's.
        generator: frozen masked language model; None where nothing is filled in.
        unused_pooler: pooling layer of BERT-like checkpoints, put aside while training and back before saving.
        teacher: frozen sentence encoder; None where the settings name none.
    """

    model: SentenceTransformer
    pooler: Pooler
    tokenizer: Any
    generator: PreTrainedModel | None
    unused_pooler: nn.Module | None
    teacher: nn.Module | None = None

    @property
    def dense(self) -> DenseLayers | None:
        """The start's Dense modules, which are trained too."""
        return dense_layers(self.model)

    @property
    def transformer(self) -> Transformer:
        """The first module of `model`."""
        return cast(Transformer, self.model[0])

    def settle(self, config: Config) -> Config:
        """The settings with the pooling that is trained in place of `auto`."""
        return dataclasses.replace(config, model=dataclasses.replace(config.model, pooler=self.pooler))

    def restore_pooler(self) -> None:
        """Put the unused pooling layer back, so that the saved folder loads without a word about missing weights."""
        if self.unused_pooler is not None:
            self.transformer.model.pooler = self.unused_pooler


def load_networks(config: Config) -> Networks:
    """Load the encoder and what the settings need next to it; vocabularies are compared before more weights are read.

    Raises:
        UserError: for a name that cannot be loaded, or a generator or teacher with another vocabulary.
    """
    settings = config.model
    model = load_encoder(
        settings.encoder,
        pooler=None if settings.pooler == "auto" else settings.pooler,
        trust_remote_code=settings.trust_remote_code,
        revision=settings.revision,
    )
    pooler = own_pooler(model, f"encoder {settings.encoder}")
    if (decay := config.training.ema_decay) and dense_layers(model) is not None:
        do = "leave it out; average_checkpoints averages such a model"
        raise UserError("ema_decay", "0 for a start with Dense, which it does not average", decay, do)
    tokenizer = model.tokenizer
    if settings.prompt:
        tokenizer = prompted(tokenizer, settings.prompt)
    networks = networks_beside(model, tokenizer, pooler, config)
    if settings.prompt:
        networks.transformer.processor = tokenizer
    return networks


def networks_beside(model: SentenceTransformer, tokenizer: Any, pooler: Pooler, config: Config) -> Networks:
    """An encoder with the generator and the teacher that the settings name.

    Raises:
        UserError: for a name that cannot be loaded, or a generator or teacher with another vocabulary.
    """
    settings = config.model
    if config.has_edits:
        check_tokenizer(tokenizer, settings.encoder)
    if config.has_generator:
        check_vocabulary(tokenizer, load_tokenizer(settings), settings)
    return Networks(
        model=model,
        pooler=pooler,
        tokenizer=tokenizer,
        teacher=load_teacher(config, tokenizer) if config.extensions.teacher else None,
        generator=load_generator(settings) if config.has_generator else None,
        unused_pooler=getattr(cast(Transformer, model[0]).model, "pooler", None),
    )


def load_tokenizer(settings: ModelConfig) -> Any:
    """The generator's tokenizer."""
    folder = _generator_folder(settings)
    with model_errors(settings.generator):
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=settings.trust_remote_code)


def load_generator(settings: ModelConfig) -> PreTrainedModel:
    """The generator in float32; only safetensors are read, so nothing is unpickled."""
    folder = _generator_folder(settings)
    with model_errors(settings.generator):
        return AutoModelForMaskedLM.from_pretrained(
            folder, trust_remote_code=settings.trust_remote_code, dtype=torch.float32, use_safetensors=True
        )


def _generator_folder(settings: ModelConfig) -> Path:
    code = settings.trust_remote_code
    return locate(settings.generator, settings.revision, trust_remote_code=code, resource=GENERATOR)


def load_teacher(config: Config, tokenizer: Any) -> nn.Module:
    """The teacher as a SentenceTransformer; it reads the encoder's ids, so its vocabulary must be the same."""
    settings, name = config.model, config.extensions.teacher
    teacher = load_encoder(name, trust_remote_code=settings.trust_remote_code, revision=settings.revision)
    if teacher.tokenizer.get_vocab() != tokenizer.get_vocab():
        rule = f"one with the vocabulary of encoder {settings.encoder}"
        raise UserError(f"teacher {name}", rule, "another vocabulary", "choose a teacher of the encoder's family")
    return teacher


def check_tokenizer(tokenizer: Any, name: str) -> None:
    """DiffCSE needs [MASK], padding and a first special token."""
    for token in ("mask_token_id", "pad_token_id", "cls_token_id"):
        if getattr(tokenizer, token) is None:
            do = "use a masked language model's tokenizer, or objective simcse"
            raise UserError(f"encoder {name}: tokenizer", f"one with a {token.removesuffix('_id')}", "none", do)


def check_vocabulary(encoder: Any, generator: Any, settings: ModelConfig) -> None:
    """The generator's ids must mean the encoder's tokens, else x'' would be noise.

    Raises:
        UserError: naming how many entries differ.
    """
    ours, theirs = encoder.get_vocab(), generator.get_vocab()
    if ours == theirs:
        return
    differing = len(set(ours.items()) ^ set(theirs.items()))
    raise UserError(
        f"generator {settings.generator}",
        f"one with the vocabulary of encoder {settings.encoder} ({len(ours)} entries)",
        f"{len(theirs)} entries, {differing} (token, id) pairs in only one of the two",
        "choose a generator of the same family (distilbert-base-uncased for bert-base-uncased, distilroberta-base for "
        "roberta-base), or the encoder's own masked language model",
    )
