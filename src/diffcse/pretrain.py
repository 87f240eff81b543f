"""A small BERT from plain text: a WordPiece tokenizer, then masked language modelling without padding.

Legend: `B` sentences of one batch, `L` tokens of each (all the same), `M` masked tokens in the batch, `H` hidden,
`V` vocabulary.

Every batch holds sentences of one length, so no position is padding and a sentence is seen during pre-training just
as the sentence encoder will see it later: [CLS] words [SEP] from position 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tokenizers import BertWordPieceTokenizer
from torch.utils.data import Dataset, Sampler
from transformers import BertConfig, BertForMaskedLM, BertTokenizer, TrainingArguments

from diffcse.errors import UserError
from diffcse.masking import IGNORE, mask_tokens, uniforms
from diffcse.trainer import MetricsFile, SafeTrainer, last_checkpoint

_JOIN_EVERY = 32
_JOINED = 4
_SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
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
    seed: int = 0
    """Seed of the weights, the order and the masks."""

    def __post_init__(self) -> None:
        for name in ("vocab_size", "hidden_size", "layers", "heads", "max_length", "batch_tokens", "total_tokens"):
            if getattr(self, name) < 1:
                raise UserError(name, "at least 1", getattr(self, name), "give a positive number")
        if self.hidden_size % self.heads:
            raise UserError("hidden_size", f"a multiple of heads ({self.heads})", self.hidden_size, "change one of them")
        if not 0 < self.mask_ratio < 1:
            raise UserError("mask_ratio", "between 0 and 1", self.mask_ratio, "use 0.15 to 0.3")
        if self.warmup_ratio + self.decay_ratio > 1:
            got = f"{self.warmup_ratio} + {self.decay_ratio}"
            raise UserError("warmup_ratio + decay_ratio", "at most 1", got, "lower one of them")

    @property
    def steps(self) -> int:
        """Optimiser steps that `total_tokens` make."""
        return math.ceil(self.total_tokens / self.batch_tokens)


class LengthBatches(Sampler[list[tuple[int, int]]]):
    """Batches of examples that all have the same length, in a new random order each epoch.

    Args:
        lengths: tokens of each example, shape (N,).
        batch_tokens: tokens in a batch; a batch holds `batch_tokens // length` examples.
        seed: seed of the order.
    """

    def __init__(self, lengths: NDArray[np.int64], batch_tokens: int, seed: int) -> None:
        self.lengths, self.batch_tokens, self.seed, self.epoch = lengths, batch_tokens, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives."""
        self.epoch = epoch

    def _batches(self) -> list[NDArray[np.int64]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(len(self.lengths))
        order = order[np.argsort(self.lengths[order], kind="stable")]
        batches: list[NDArray[np.int64]] = []
        cuts = np.flatnonzero(np.diff(self.lengths[order])) + 1
        for group in np.split(order, cuts):
            size = max(1, self.batch_tokens // int(self.lengths[group[0]]))
            batches += np.split(group, range(size, len(group), size))
        return [batches[i] for i in rng.permutation(len(batches))]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return ([(self.epoch, int(i)) for i in batch] for batch in self._batches())

    def __len__(self) -> int:
        sizes, counts = np.unique(self.lengths, return_counts=True)
        return int(sum(-(-n // max(1, self.batch_tokens // int(size))) for size, n in zip(sizes, counts, strict=True)))


class MaskedBatches:
    """Collator: masks the examples of one length and keeps the positions to predict.

    Args:
        tokenizer: gives the special ids and [MASK].
        config: gives the mask ratio and the seed.
    """

    def __init__(self, tokenizer: BertTokenizer, config: PretrainConfig) -> None:
        self.special_ids = np.array(tokenizer.all_special_ids)
        self.mask_id, self.vocab_size = int(tokenizer.mask_token_id), len(tokenizer)
        self.config = config

    def __call__(self, examples: list[tuple[int, int, NDArray[np.int64]]]) -> dict[str, Tensor]:
        rows = []
        for epoch, index, ids in examples:
            uniform = uniforms(self.config.seed, epoch, index, 0, len(ids))
            rows.append(
                mask_tokens(
                    ids,
                    uniform,
                    ratio=self.config.mask_ratio,
                    special_ids=self.special_ids,
                    mask_id=self.mask_id,
                    vocab_size=self.vocab_size,
                )
            )
        return {
            "input_ids": torch.from_numpy(np.stack([row.input_ids for row in rows])),
            "labels": torch.from_numpy(np.stack([row.labels for row in rows])),
        }


class MaskedLanguageModel(nn.Module):
    """BERT with its MLM head; the forward makes logits only where something is to be predicted.

    Args:
        bert: the model that is trained and saved.
    """

    def __init__(self, bert: BertForMaskedLM) -> None:
        super().__init__()
        self.mlm = bert
        self._keys_to_ignore_on_save = ["mlm.cls.predictions.decoder.weight", "mlm.cls.predictions.decoder.bias"]  # tied

    def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Cross-entropy (nats) and accuracy at the masked positions.

        Args:
            input_ids: (B, L) without padding.
            labels: (B, L), `IGNORE` where nothing is predicted.
        """
        hidden = self.mlm.bert(input_ids=input_ids).last_hidden_state.flatten(0, 1)  # (B*L, H)
        where = (labels.flatten() != IGNORE).nonzero(as_tuple=True)[0]  # (M,)
        target = labels.flatten()[where]
        logits = self.mlm.cls(hidden[where])  # (M, V)
        loss = nn.functional.cross_entropy(logits, target)
        return {"loss": loss, "accuracy": (logits.argmax(-1) == target).float().mean()}


class TokenisedLines(Dataset[tuple[int, int, NDArray[np.int64]]]):
    """Token ids of every example, one flat array and its offsets; an item is (epoch, index, ids).

    Args:
        ids: all token ids one after the other.
        offsets: where each example starts, and the end of the last, shape (N + 1,).
    """

    def __init__(self, ids: NDArray[np.uint16], offsets: NDArray[np.int64]) -> None:
        self.ids, self.offsets = ids, offsets

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each example, shape (N,)."""
        return np.diff(self.offsets)

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, int, NDArray[np.int64]]:
        epoch, index = key
        return epoch, index, self.ids[self.offsets[index] : self.offsets[index + 1]].astype(np.int64)

    def __len__(self) -> int:
        return len(self.offsets) - 1


def train_tokenizer(sentences: Iterable[str], vocab_size: int) -> BertTokenizer:
    """A lower-casing WordPiece tokenizer (the one of bert-base-uncased) learnt from `sentences`."""
    pieces = BertWordPieceTokenizer(lowercase=True)
    pieces.train_from_iterator(
        sentences, vocab_size=vocab_size, limit_alphabet=400, special_tokens=list(_SPECIAL.values()), show_progress=False
    )
    return BertTokenizer(vocab=pieces.get_vocab(), do_lower_case=True, **_SPECIAL)


def join_some(sentences: list[str]) -> list[str]:
    """Join the first four of every 32 sentences, so that positions past one sentence's length are learnt too.

    >>> [len(text.split()) for text in join_some(["a b"] * 6)]
    [8, 2, 2]
    """
    joined: list[str] = []
    for start in range(0, len(sentences), _JOIN_EVERY):
        chunk = sentences[start : start + _JOIN_EVERY]
        joined += [" ".join(chunk[:_JOINED]), *chunk[_JOINED:]]
    return joined


def tokenise_lines(sentences: list[str], tokenizer: BertTokenizer, max_length: int) -> TokenisedLines:
    """Token ids of all sentences, some joined, cut at `max_length` tokens."""
    parts: list[NDArray[np.uint16]] = []
    lengths: list[int] = []
    texts = join_some(sentences)
    for start in range(0, len(texts), 10_000):
        batch = tokenizer(texts[start : start + 10_000], truncation=True, max_length=max_length)["input_ids"]
        lengths += [len(row) for row in batch]
        parts += [np.asarray(row, dtype=np.uint16) for row in batch]
    return TokenisedLines(np.concatenate(parts), np.concatenate([[0], np.cumsum(lengths)]))


def build_model(config: PretrainConfig, tokenizer: BertTokenizer) -> BertForMaskedLM:
    """A fresh BERT with its MLM head; no dropout while it is pre-trained (few epochs), 0.1 in the saved settings."""
    torch.manual_seed(config.seed)
    return BertForMaskedLM(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            intermediate_size=config.intermediate_size,
            max_position_embeddings=config.max_length,
            type_vocab_size=1,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def pretrain(sentences: list[str], output: Path, config: PretrainConfig) -> None:
    """Make a tokenizer and a masked language model from `sentences`; resumes from the last whole checkpoint.

    Args:
        sentences: plain text, one sentence each.
        output: folder for the model; `checkpoint-*` and `metrics.jsonl` are kept beside it.
        config: size and schedule.
    """
    output.mkdir(parents=True, exist_ok=True)
    torch.set_flush_denormal(True)
    tokenizer = train_tokenizer(sentences, config.vocab_size)
    data = tokenise_lines(sentences, tokenizer, config.max_length)
    model = build_model(config, tokenizer)
    trainer = SafeTrainer(
        MaskedLanguageModel(model),
        _arguments(output, config),
        dataset=data,
        order=LengthBatches(data.lengths, config.batch_tokens, config.seed),
        collate=MaskedBatches(tokenizer, config),
        callbacks=[MetricsFile(output / "metrics.jsonl")],
    )
    checkpoint = last_checkpoint(output, remove_broken=True)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    model.config.hidden_dropout_prob = model.config.attention_probs_dropout_prob = 0.1
    model.half().save_pretrained(output)
    tokenizer.save_pretrained(output)


def _arguments(output: Path, config: PretrainConfig) -> TrainingArguments:
    decay = round(config.decay_ratio * config.steps)
    warmup = round(config.warmup_ratio * config.steps)
    return TrainingArguments(
        output_dir=str(output),
        max_steps=config.steps,
        learning_rate=config.learning_rate,
        lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs={"num_decay_steps": decay, "decay_type": "linear"},
        warmup_steps=warmup,
        weight_decay=0.01,
        adam_beta2=0.98,
        optim="adamw_torch_fused",
        max_grad_norm=1.0,
        logging_steps=50,
        logging_nan_inf_filter=False,
        save_steps=config.checkpoint_every_steps,
        save_total_limit=2,
        report_to="none",
        seed=config.seed,
    )
