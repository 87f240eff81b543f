"""Settings of the networks that a run can start from: a small masked language model, and word co-occurrence."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from diffcse.config import BUNDLED
from diffcse.errors import UserError
from diffcse.settings import Checked

_MOST_PARAMETERS, _MOST_LAYERS = 10_000_000_000, 1000
"""Of a network that is made here; a slip of the hand in one of its sizes must not fill the memory of the machine."""


class _Network(Checked):
    """What the settings of both kinds of start are checked for alike."""

    hidden_size: int
    layers: int
    heads: int
    intermediate_size: int
    max_length: int
    held_out: int
    seed: int

    def _check_network(self, *positive: str) -> None:
        for name in positive:
            self._need(name, getattr(self, name) >= 1, "at least 1", "give a positive number")
        layer = self.hidden_size * (4 * self.hidden_size + 2 * self.intermediate_size)
        parameters = self.layers * layer + self.max_length * self.hidden_size
        if parameters > _MOST_PARAMETERS or self.layers > _MOST_LAYERS:
            got = f"{parameters:.1e} parameters in {self.layers:,} layers"
            do = "lower layers, hidden_size, intermediate_size or max_length"
            raise UserError("network", f"at most {_MOST_PARAMETERS:.0e} in {_MOST_LAYERS:,}", got, do)
        multiple = self.hidden_size % self.heads == 0
        self._need("hidden_size", multiple, f"a multiple of heads ({self.heads})", "change it")
        self._need("held_out", self.held_out >= 0, "at least 0", "use 0 to hold nothing back")
        self._need("seed", 0 <= self.seed < 2**32, "between 0 and 2**32 - 1", "use a small whole number")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(_Network):
    """Size and schedule of a small masked language model.

    With `encoder` the network exists already and its sizes are not set here; `pretrain_config` gives the schedule
    that suits.
    """

    encoder: str = ""
    """Encoder to continue from, with its own tokenizer: a Hub name, a folder, `bundled` or `minilm`. The defaults are
    then 650,000 tokens in batches of 2,048 at a learning rate of 3e-4, and 200 held out. Empty: a new network."""
    vocab_size: int = 8192
    """Entries of the WordPiece vocabulary (tokens)."""
    lowercase: bool = True
    """Make capital letters small, as bert-base-uncased does."""
    strip_accents: bool = True
    """Remove accents, as bert-base-uncased does. Keep them where they are vowels or make other words (Thai, Hindi,
    Japanese, Vietnamese)."""
    hidden_size: int = 256
    """Width of a token vector."""
    layers: int = 4
    """Transformer layers."""
    heads: int = 4
    """Attention heads a layer."""
    intermediate_size: int = 1024
    """Width of the feed-forward layer."""
    dropout: float = 0.0
    """Dropout of a new network while it is pretrained, 0 to below 1. 0 suits a few epochs; 0.1, as in BERT, many, and
    a network that SimCSE's twins are made of. The saved model has 0.1 either way, and with `encoder` its own."""
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
        sizes = ("vocab_size", "hidden_size", "layers", "heads", "intermediate_size", "batch_tokens", "total_tokens")
        self._check_network(*sizes, "checkpoint_every_steps")
        self._need("max_length", self.max_length >= 3, "at least 3", "text needs [CLS], a word and [SEP]")
        self._need("learning_rate", self.learning_rate > 0, "greater than 0", "use 1e-4 to 1e-3")
        for name in ("warmup_ratio", "decay_ratio"):
            self._need(name, 0 <= getattr(self, name) <= 1, "between 0 and 1", "leave it at its default")
        self._need("dropout", 0 <= self.dropout < 1, "0 or more and below 1", "use 0 or 0.1")
        self._need("mask_ratio", 0 < self.mask_ratio < 1, "between 0 and 1", "use 0.15 to 0.3")
        self._need("vocab_size", self.vocab_size <= 65_536, "at most 65536", "token ids are kept in 16 bits")
        for name, value in _SIZES.items() if self.encoder else ():
            self._need(name, getattr(self, name) == value, "unset with an encoder, which has its own", "remove it")
        if self.warmup_ratio + self.decay_ratio > 1:
            got = f"{self.warmup_ratio} + {self.decay_ratio}"
            raise UserError("warmup_ratio + decay_ratio", "at most 1", got, "lower one of them")

    @property
    def steps(self) -> int:
        """Optimiser steps that `total_tokens` make."""
        return math.ceil(self.total_tokens / self.batch_tokens)


_NEW = ("vocab_size", "lowercase", "strip_accents", "hidden_size", "layers", "heads", "intermediate_size", "dropout")
_SIZES = {field.name: field.default for field in fields(PretrainConfig) if field.name in _NEW}

_CONTINUED = {"batch_tokens": 2048, "total_tokens": 650_000, "learning_rate": 3e-4, "held_out": 200}
"""What suits a network that can read already: a short run at a lower rate."""


def pretrain_config(**overrides: Any) -> PretrainConfig:
    """Settings with the defaults that suit a new network, or with `encoder` those that suit one that can read already.

    >>> pretrain_config().learning_rate, pretrain_config(encoder="minilm").learning_rate
    (0.001, 0.0003)
    """
    return PretrainConfig(**{**(_CONTINUED if overrides.get("encoder") else {}), **overrides})


@dataclass(frozen=True, kw_only=True)
class CooccurConfig(_Network):
    """An encoder to start from, computed from word co-occurrence."""

    tokenizer: str = BUNDLED
    """Tokenizer whose words are counted: a Hub name, a folder or `bundled`; the one of your
    generator."""
    narrow_window: int = 2
    """Largest distance between two words of a pair (tokens) in the narrow window: what can take a word's place."""
    broad_window: int = 10
    """Largest distance in the broad window (tokens): what the text is about."""
    context_smoothing: float = 0.75
    """Power of a context word's frequency, 0 to 1; below 1 rare contexts count for less (Levy et al., 2015)."""
    singular_power: float = -1.0
    """Power of the singular values in the word vectors; 1 is the plain factorisation, -1 makes all
    dimensions count alike."""
    frequency_scale: float = 1e-3
    """The a of a word's weight a / (a + p), p being its share of the text (Arora et al., 2017)."""
    continuation_weight: float = 0.5
    """Factor of the weight of a piece that continues a word, 0 to 1: a word of many pieces is still one word."""
    spelling: float = 1.0
    """Weight of the vectors of words that are spelled alike (play, played, player) in a word's own; 0 turns it off."""
    redundancy: float = 1.0
    """How much less a word weighs for each word like it in the same sentence (the first layer's attention); 0
    turns it off."""
    hidden_size: int = 576
    """Width of a token vector; four of it are kept for constants."""
    layers: int = 1
    """Transformer layers, which add nothing before training but the redundancy of the first."""
    heads: int = 2
    """Attention heads a layer; an even number, since one half looks for words alike and the other for words unlike."""
    intermediate_size: int = 256
    """Width of the feed-forward layer."""
    max_length: int = 128
    """Longest input (tokens)."""
    held_out: int = 2000
    """Sentences, the first ones, that are kept for evaluation and not counted."""
    seed: int = 0
    """Seed of the factorisation and of the layers' weights."""

    def _check(self) -> None:
        self._check_network("narrow_window", "layers", "heads", "intermediate_size", "max_length")
        self._need("hidden_size", self.hidden_size >= 8, "at least 8", "use 256 to 768")
        self._need("heads", self.heads % 2 == 0 or self.redundancy == 0, "even", "use 2, or redundancy 0")
        for name in ("spelling", "redundancy"):
            self._need(name, getattr(self, name) >= 0, "at least 0", "use 1, or 0 to turn it off")
        self._need("continuation_weight", 0 <= self.continuation_weight <= 1, "between 0 and 1", "use 0.5")
        least = self.narrow_window
        within = least <= self.broad_window <= 1000
        self._need("broad_window", within, f"at least narrow_window ({least}) and at most 1,000", "use 5 to 20")
        self._need("context_smoothing", 0 < self.context_smoothing <= 1, "above 0 and at most 1", "use 0.75")
        self._need("frequency_scale", self.frequency_scale > 0, "greater than 0", "use 1e-4 to 1e-2")
