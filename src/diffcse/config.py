"""Every setting of a training run, its unit and its check; the defaults are the published recipe.

The docstring under a field is the only text about it: `diffcse train --help` and the reference page print it.
Published settings: Chuang et al. (2022), section 4.1 and appendix A, and the authors' training scripts.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from diffcse.errors import UserError

Objective = Literal["diffcse", "simcse"]
Pooler = Literal["cls", "avg", "avg_top2", "avg_first_last"]
Projector = Literal["bn", "tanh", "none"]
Fidelity = Literal["reference", "paper"]

BUNDLED = "bundled"
"""Name of the small models that come with the package, as encoder and as generator."""


class _Checked:
    """Checks closed sets and plain types, so that each class below only states its own rules."""

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in fields(self):  # type: ignore[arg-type]
            value = _as_declared(field.name, getattr(self, field.name), hints[field.name])
            object.__setattr__(self, field.name, value)
        self._check()

    def _check(self) -> None:
        """Rules that involve ranges or several fields."""

    def _need(self, name: str, holds: bool, rule: str, do: str) -> None:
        if not holds:
            raise UserError(name, rule, getattr(self, name), do)


@dataclass(frozen=True, kw_only=True)
class ModelConfig(_Checked):
    """Which networks take part."""

    encoder: str = "bert-base-uncased"
    """Encoder to start from: a Hub name, a folder, or `bundled` (the small model that comes with the package)."""
    generator: str = "distilbert-base-uncased"
    """Frozen masked language model that makes the edits: a Hub name, a folder or `bundled`; same vocabulary as the
    encoder."""
    pooler: Pooler = "cls"
    """How token vectors become a sentence vector: cls, avg, avg_top2 (last two layers) or avg_first_last."""
    projector: Projector = "bn"
    """Head between pooler and losses, dropped after training: bn (two layers with BatchNorm; the published one), tanh
    (one layer; SimCSE's) or none."""
    trust_remote_code: bool = False
    """Run code that comes with a Hub model; off unless you have read that code."""
    revision: str = "main"
    """Branch, tag or commit of a Hub model."""

    def _check(self) -> None:
        self._need("encoder", bool(self.encoder), "a name or a folder", "give a Hub name, a folder or 'bundled'")


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig(_Checked):
    """The two losses and their balance (Chuang et al., 2022, equations 1 to 4)."""

    objective: Objective = "diffcse"
    """diffcse (contrast and difference prediction) or simcse (contrast alone; no generator, no discriminator)."""
    temperature: float = 0.05
    """Divisor of the cosine similarities in the contrastive loss."""
    lambda_weight: float = 0.005
    """Weight of the difference prediction loss beside the contrastive loss."""
    hard_negative_weight: float = 0.0
    """Added to the logit of a sentence's own hard negative; only used with three text columns."""
    conditioning: Literal["projected", "pooled"] = "projected"
    """Sentence vector that the discriminator sees: the projector's output (the reference) or its input."""
    rtd_average: Literal["padded", "real"] = "padded"
    """Positions that the difference prediction loss is averaged over: all of the padded batch, padding with label 0
    (the reference), or the real tokens (the paper)."""
    edited_views: Literal["all", "first"] = "all"
    """Views that are edited and judged: all, each masked on its own (the reference), or the first (the paper)."""

    def _check(self) -> None:
        self._need("temperature", self.temperature > 0, "greater than 0", "use 0.05, the published value")
        self._need("lambda_weight", self.lambda_weight >= 0, "at least 0", "use 0.005; 0 gives SimCSE's gradient")


@dataclass(frozen=True, kw_only=True)
class EditConfig(_Checked):
    """How the sensitive transformation x -> x'' is made."""

    mask_ratio: float = 0.30
    """Share of the ordinary tokens that are masked before the generator fills them in, 0 to 1."""
    masking: Literal["bert", "mask"] = "bert"
    """What a chosen token becomes: 80% [MASK], 10% a random word, 10% itself (the reference), or always [MASK] (the
    paper)."""
    fill: Literal["argmax", "sample"] = "argmax"
    """How the generator's prediction is taken: the likeliest token (the reference) or a sample (the paper)."""
    fill_at: Literal["all", "masked"] = "all"
    """Positions that take the generator's prediction: every one (the reference) or the masked ones (the paper)."""
    padding_id: Literal["zero", "pad"] = "zero"
    """Id at the padding of x'': 0 in every vocabulary (the reference) or the tokenizer's padding id."""
    generator_dropout: bool = True
    """Keep the generator's dropout on while the model trains (the reference); off in the paper's reading."""

    def _check(self) -> None:
        self._need("mask_ratio", 0 < self.mask_ratio < 1, "between 0 and 1", "use 0.15 to 0.4 (published: 0.30)")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(_Checked):
    """Schedule, optimiser and bookkeeping."""

    batch_size: int = 64
    """Sentences in an optimiser step, over all processes together."""
    epochs: float = 2.0
    """Passes over the text; `max_steps` ends a run earlier."""
    max_steps: int = 0
    """Optimiser steps after which the run ends; 0 means that `epochs` decides."""
    max_tokens: int = 32
    """Longest sentence (tokens, with [CLS] and [SEP]); longer ones are cut."""
    learning_rate: float = 7e-6
    """Peak learning rate of AdamW; falls linearly to 0."""
    warmup_ratio: float = 0.0
    """Share of the steps in which the learning rate rises to its peak, 0 to 1."""
    weight_decay: float = 0.0
    """Weight decay of AdamW."""
    clip_norm: float = 1.0
    """Largest norm of the gradient over all trained parameters together."""
    accumulate: int = 1
    """Batches whose gradients are added up before an optimiser step; in-batch negatives stay within one batch."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the forward and backward pass; fp16 and bf16 through autocast."""
    seed: int = 42
    """Seed of initialisation, order, dropout, masks and samples."""
    padding_free: bool = True
    """Compute nothing for padding where the networks' attention allows it; the same numbers to rounding, dropout aside.
    With rtd_average padded the discriminator keeps its padding: what it says there enters the loss."""
    rows_at_once: int = 0
    """Sentences (views counted) that go through a network at once, their activations made again in the backward pass: a
    large batch then needs the memory of a small one (gradient caching; Gao et al., 2021). 0: the whole batch."""
    gradient_checkpointing: bool = False
    """Keep only the input of each layer and make the rest again in the backward pass: less memory, a third slower."""
    data_workers: int = 0
    """Processes that prepare batches; 0 prepares them in the training process. Results do not depend on it."""
    eval_every_steps: int = 125
    """Optimiser steps between evaluations that choose the best checkpoint."""
    save_every_steps: int = 125
    """Optimiser steps between checkpoints that a killed run resumes from."""
    log_every_steps: int = 25
    """Optimiser steps between log lines; each is the average since the line before."""
    select_by: Literal["auto", "stsb", "label-free", "last"] = "auto"
    """What chooses the model that is kept: stsb (Spearman on STS-B dev), label-free (minus alignment and uniformity),
    last (no choice), or auto (stsb where evaluation data are given, else last)."""
    ema_decay: float = 0.0
    """Decay of an exponential moving average of the encoder's weights, each step; the average is scored and saved in
    place of the weights themselves. 0: no average; 0.99 to 0.999 are usual."""
    keep_discriminator: bool = False
    """Keep discriminator and projector beside the model, in its folder `training`, for research."""
    report_to: str = "none"
    """Extra loggers of the Trainer, comma separated: tensorboard, wandb, mlflow and so on."""

    def _check(self) -> None:
        for name in ("batch_size", "accumulate", "eval_every_steps", "save_every_steps", "log_every_steps"):
            self._need(name, getattr(self, name) >= 1, "at least 1", "give a positive number")
        self._need("batch_size", self.batch_size >= 2, "at least 2", "other sentences of the batch are the negatives")
        self._need("max_tokens", self.max_tokens >= 3, "at least 3", "a sentence needs [CLS], a word and [SEP]")
        self._need("epochs", self.epochs > 0, "greater than 0", "use 1 or 2")
        self._need("max_steps", self.max_steps >= 0, "at least 0", "use 0 to let epochs decide")
        self._need("learning_rate", self.learning_rate > 0, "greater than 0", "use 1e-6 to 1e-4")
        self._need("warmup_ratio", 0 <= self.warmup_ratio < 1, "0 or more and below 1", "use 0, the published value")
        self._need("weight_decay", self.weight_decay >= 0, "at least 0", "use 0, the published value")
        self._need("rows_at_once", self.rows_at_once >= 0, "at least 0", "use 0 for the whole batch")
        self._need("clip_norm", self.clip_norm > 0, "greater than 0", "use 1.0, the published value")
        self._need("ema_decay", 0 <= self.ema_decay < 1, "0 or more and below 1", "use 0 (off) or 0.99")
        self._need("data_workers", self.data_workers >= 0, "at least 0", "use 0, 1 or 2")
        self._need("seed", 0 <= self.seed < 2**32, "between 0 and 2**32 - 1", "use a small whole number")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(_Checked):
    """Size and schedule of a small masked language model."""

    vocab_size: int = 8192
    """Entries of the WordPiece vocabulary (tokens)."""
    hidden_size: int = 256
    """Width of a token vector."""
    layers: int = 4
    """Transformer layers."""
    heads: int = 4
    """Attention heads a layer."""
    intermediate_size: int = 1024
    """Width of the feed-forward layer."""
    max_length: int = 128
    """Longest example (tokens); longer text is cut."""
    mask_ratio: float = 0.2
    """Share of tokens to predict, 0 to 1."""
    batch_tokens: int = 4096
    """Tokens in a training batch."""
    total_tokens: int = 28_000_000
    """Tokens to train on before stopping."""
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW."""
    warmup_ratio: float = 0.04
    """Share of the steps in which the learning rate rises to its peak, 0 to 1."""
    decay_ratio: float = 0.3
    """Share of the steps, the last ones, in which the learning rate falls to 0, 0 to 1."""
    checkpoint_every_steps: int = 250
    """Steps between checkpoints."""
    held_out: int = 2000
    """Sentences, the first ones, that are kept for evaluation and not trained on."""
    seed: int = 0
    """Seed of the weights, the order and the masks."""

    def _check(self) -> None:
        for name in ("vocab_size", "hidden_size", "layers", "heads", "max_length", "batch_tokens", "total_tokens"):
            self._need(name, getattr(self, name) >= 1, "at least 1", "give a positive number")
        self._need(
            "hidden_size", self.hidden_size % self.heads == 0, f"a multiple of heads ({self.heads})", "change it"
        )
        self._need("mask_ratio", 0 < self.mask_ratio < 1, "between 0 and 1", "use 0.15 to 0.3")
        self._need("vocab_size", self.vocab_size <= 65_536, "at most 65536", "token ids are kept in 16 bits")
        if self.warmup_ratio + self.decay_ratio > 1:
            got = f"{self.warmup_ratio} + {self.decay_ratio}"
            raise UserError("warmup_ratio + decay_ratio", "at most 1", got, "lower one of them")

    @property
    def steps(self) -> int:
        """Optimiser steps that `total_tokens` make."""
        return math.ceil(self.total_tokens / self.batch_tokens)


@dataclass(frozen=True, kw_only=True)
class CooccurConfig(_Checked):
    """An encoder to start from, made of word co-occurrence."""

    tokenizer: str = BUNDLED
    """Tokenizer whose words are counted: a Hub name, a folder or `bundled`; the one of your
    generator."""
    narrow_window: int = 2
    """Largest distance between two words of a pair (tokens) in the narrow window: what can stand in a word's place."""
    broad_window: int = 10
    """Largest distance in the broad window (tokens): what the text is about."""
    context_smoothing: float = 0.75
    """Power of a context word's frequency, 0 to 1; below 1 rare contexts count for less (Levy et al., 2015)."""
    singular_power: float = -1.0
    """Power of the singular values in the word vectors; 1 is the plain factorisation, -1 makes all
    dimensions count alike."""
    frequency_scale: float = 1e-3
    """The a of a word's weight a / (a + p), p being its share of the text (Arora et al., 2017)."""
    hidden_size: int = 576
    """Width of a token vector; two of it hold a constant."""
    layers: int = 1
    """Transformer layers, which add nothing before training."""
    heads: int = 8
    """Attention heads a layer."""
    intermediate_size: int = 256
    """Width of the feed-forward layer."""
    max_length: int = 128
    """Longest input (tokens)."""
    held_out: int = 2000
    """Sentences, the first ones, that are kept for evaluation and not counted."""
    seed: int = 0
    """Seed of the factorisation and of the layers' weights."""

    def _check(self) -> None:
        for name in ("narrow_window", "layers", "heads", "intermediate_size", "max_length"):
            self._need(name, getattr(self, name) >= 1, "at least 1", "give a positive number")
        self._need("hidden_size", self.hidden_size >= 4, "at least 4", "use 256 to 768")
        self._need(
            "hidden_size", self.hidden_size % self.heads == 0, f"a multiple of heads ({self.heads})", "change it"
        )
        least = self.narrow_window
        self._need("broad_window", self.broad_window >= least, f"at least narrow_window ({least})", "use 5 to 20")
        self._need("context_smoothing", 0 < self.context_smoothing <= 1, "above 0 and at most 1", "use 0.75")
        self._need("frequency_scale", self.frequency_scale > 0, "greater than 0", "use 1e-4 to 1e-2")
        self._need("held_out", self.held_out >= 0, "at least 0", "use 2000")
        self._need("seed", 0 <= self.seed < 2**32, "between 0 and 2**32 - 1", "use a small whole number")


@dataclass(frozen=True, kw_only=True)
class Config(_Checked):
    """A whole run: the four sections of a settings file."""

    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    objective: ObjectiveConfig = dataclasses.field(default_factory=ObjectiveConfig)
    edits: EditConfig = dataclasses.field(default_factory=EditConfig)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """Plain nested dictionary, the form of a settings file."""
        return dataclasses.asdict(self)


SECTIONS: dict[str, type[Any]] = {
    "model": ModelConfig,
    "objective": ObjectiveConfig,
    "edits": EditConfig,
    "training": TrainingConfig,
}

# What the paper's text says where the code that made its numbers does otherwise. Each switch is explained at its field.
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
        "pooler": "avg",
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
        fidelity: `reference` (what made the published numbers) or `paper` (what the text says).
        overrides: any field by its name.

    Raises:
        UserError: for an unknown preset, fidelity or field, or a value outside its rule.

    >>> build(preset="roberta-sts", temperature=0.1).objective.temperature
    0.1
    """
    if preset not in PRESETS:
        raise UserError("preset", f"one of {', '.join(PRESETS)}", preset, "choose one of them")
    if fidelity not in get_args(Fidelity):
        raise UserError("fidelity", f"one of {', '.join(get_args(Fidelity))}", fidelity, "choose one of them")
    flat = {**PRESETS[preset], **(PAPER if fidelity == "paper" else {}), **overrides}
    owner = field_owners()
    for name in flat:
        if name not in owner:
            raise UserError("setting", "a field of the settings", name, "see diffcse train --help for all of them")
    sections = {name: {f: v for f, v in flat.items() if owner[f] == name} for name in SECTIONS}
    return Config(**{name: cls(**sections[name]) for name, cls in SECTIONS.items()})


def flatten(settings: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Fields of a settings file, checked to stand in their own section.

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
                raise UserError(f"{source}: [{section}]", "a section with fields of its own", name, do)
            flat[name] = value
    return flat


@functools.cache
def field_owners() -> dict[str, str]:
    """Section of every field."""
    return {field.name: section for section, cls in SECTIONS.items() for field in fields(cls)}


def field_docs(cls: type[Any]) -> dict[str, str]:
    """The docstring under each field of one of the settings classes of this file.

    >>> field_docs(EditConfig)["mask_ratio"]
    'Share of the ordinary tokens that are masked before the generator fills them in, 0 to 1.'
    """
    return _all_docs()[cls.__name__]


@functools.cache
def _all_docs() -> dict[str, dict[str, str]]:
    module = ast.parse(Path(__file__).read_text(encoding="utf-8"))
    return {part.name: _docs_in(part.body) for part in module.body if isinstance(part, ast.ClassDef)}


def _docs_in(body: list[ast.stmt]) -> dict[str, str]:
    docs = {}
    for field, text in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            assert isinstance(field.target, ast.Name)
            docs[field.target.id] = " ".join(str(text.value.value).split())
    return docs


def _as_declared(name: str, value: Any, hint: Any) -> Any:
    choices = get_args(hint)
    if choices:
        if value not in choices:
            raise UserError(name, f"one of {', '.join(map(str, choices))}", value, "choose one of them")
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        kinds = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
        raise UserError(name, kinds.get(hint, hint.__name__), repr(value), "give a value of that kind")
    if hint is float and not math.isfinite(value):
        raise UserError(name, "finite", value, "give an ordinary number")
    return value
