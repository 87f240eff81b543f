"""A small BERT from plain text: a WordPiece tokenizer, then masked language modelling without padding.

Legend: `B` sentences of one batch, `L` tokens of each (all the same), `M` masked tokens in the batch, `H` hidden,
`V` vocabulary.

Every batch holds sentences of one length, so no position is padding and a sentence is seen during pre-training just
as the sentence encoder will see it later: [CLS] words [SEP] from position 0.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertTokenizer,
    PreTrainedModel,
    TrainerCallback,
    TrainingArguments,
)

from diffcse.errors import Interrupted, UserError
from diffcse.files import json_bytes
from diffcse.kernels.waits import here, send_and_remember
from diffcse.method.generator import places
from diffcse.method.masking import IGNORE, mask_tokens, uniforms
from diffcse.persistence.load import positions
from diffcse.persistence.save import moved_into
from diffcse.pretraining.config import PretrainConfig
from diffcse.pretraining.continued import Start, load_start, logits_at, save_start, texts_of
from diffcse.pretraining.wordpiece import own_tokenizer, unknown_note
from diffcse.progress import say
from diffcse.training.callbacks import GracefulStop, MetricsFile
from diffcse.training.checks import has_bf16
from diffcse.training.display import LiveDisplay
from diffcse.training.process import own_process
from diffcse.training.run_folder import RunFolder
from diffcse.training.trainer import SafeTrainer

_JOIN_EVERY = 32
_JOINED = 4


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

    def __init__(self, tokenizer: Any, config: PretrainConfig) -> None:
        self.special_ids = np.array(tokenizer.all_special_ids)
        self.mask_id, self.vocab_size = int(tokenizer.mask_token_id), len(tokenizer)
        self.config = config

    def __call__(self, examples: list[tuple[int, int, NDArray[np.int64]]]) -> dict[str, Tensor]:
        """`input_ids` and `labels` of shape (B, L)."""
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
    """A model with its MLM head; the forward makes logits only where something is to be predicted.

    Args:
        mlm: the model that is trained and saved.
    """

    def __init__(self, mlm: PreTrainedModel) -> None:
        super().__init__()
        self.mlm = mlm
        first: dict[int, str] = {}  # tied weights are saved once
        names = [(first.setdefault(value.data_ptr(), name), name) for name, value in self.state_dict().items()]
        self._keys_to_ignore_on_save = [name for other, name in names if other != name]

    def tie_weights(self) -> None:
        """Called by the Trainer after it loaded a checkpoint without the tied weights."""
        self.mlm.tie_weights()

    def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Cross-entropy (nats) and accuracy at the masked positions.

        Args:
            input_ids: (B, L) without padding.
            labels: (B, L), `IGNORE` where nothing is predicted.
        """
        where = places(here(labels) != IGNORE, labels.device)  # (M,)
        target = labels.flatten()[where]
        if isinstance(self.mlm, BertForMaskedLM):  # its whole head, not the output layer alone, sees the M rows only
            hidden = self.mlm.bert(input_ids=input_ids).last_hidden_state.flatten(0, 1)  # (B*L, H)
            logits = self.mlm.cls(hidden[where])  # (M, V)
        else:
            logits = logits_at(self.mlm, input_ids, where)
        count = max(1, len(target))  # a small batch may have nothing to predict; its loss is then 0, not 0/0
        loss = nn.functional.cross_entropy(logits, target, reduction="sum") / count
        return {"loss": loss, "accuracy": (logits.argmax(-1) == target).float().sum() / count}


class TokenisedLines(Dataset[tuple[int, int, NDArray[np.int64]]]):
    """Token ids of every example, one flat array and its offsets; an item is (epoch, index, ids).

    Args:
        ids: all token ids one after the other.
        offsets: where each example starts, and the end of the last, shape (N + 1,).
    """

    def __init__(self, ids: NDArray[np.uint16] | NDArray[np.uint32], offsets: NDArray[np.int64]) -> None:
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


def tokenise_lines(sentences: list[str], tokenizer: Any, max_length: int, *, join: bool = True) -> TokenisedLines:
    """Token ids of all sentences, some of them joined, cut at `max_length` tokens."""
    kind: Any = np.uint16 if len(tokenizer) <= 1 << 16 else np.uint32
    parts = [np.empty(0, dtype=kind)]  # no sentences, no tokens
    lengths: list[int] = []
    texts = join_some(sentences) if join else sentences
    for start in range(0, len(texts), 10_000):
        batch = tokenizer(texts[start : start + 10_000], truncation=True, max_length=max_length)["input_ids"]
        lengths += [len(row) for row in batch]
        parts += [np.asarray(row, dtype=kind) for row in batch]
    return TokenisedLines(np.concatenate(parts), np.cumsum([0, *lengths], dtype=np.int64))


def build_model(config: PretrainConfig, tokenizer: BertTokenizer) -> BertForMaskedLM:
    """A fresh BERT with its MLM head, and the dropout that it is pretrained with."""
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
            hidden_dropout_prob=config.dropout,
            attention_probs_dropout_prob=config.dropout,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Masked language modelling on text that was not trained on.

    Attributes:
        loss: cross-entropy at the masked positions (nats); NaN where no token was masked.
        accuracy: share of the masked tokens predicted, 0 to 1; NaN where no token was masked.
        tokens: masked tokens.
    """

    loss: float
    accuracy: float
    tokens: int


def pretrain(
    sentences: Sequence[str] | datasets.Dataset,
    output: str | Path,
    config: PretrainConfig,
    *,
    console: Console | None = None,
) -> HeldOut:
    """Make a tokenizer and a masked language model from `sentences`, or continue from `config.encoder`.

    The same call resumes an interrupted run. The first `config.held_out` sentences are not trained on; what they give
    is returned and written to `held_out.json`.

    Args:
        sentences: plain text, one sentence each; or documents, a dataset with the column `sentences`, whose
            consecutive sentences are joined to texts of about `config.max_length` tokens if there is an encoder.
        output: folder for the model; `checkpoints/` and `metrics.jsonl` stay in it.
        config: size and schedule.
        console: where progress is shown; None shows nothing.

    Raises:
        UserError: for too little text, or a folder that holds something else.
        Interrupted: after Ctrl-C or SIGTERM; the checkpoint is written and there is no model yet.
    """
    documents = isinstance(sentences, datasets.Dataset)
    run = RunFolder.look(
        Path(output),
        dataclasses.asdict(config),
        [f"{len(sentences)} {'documents' if documents else 'sentences'}"],
        may_change=() if config.encoder else ("total_tokens", "decay_ratio"),
        defaults=dataclasses.asdict(PretrainConfig()),
    )
    start = _start(config)
    texts = texts_of(sentences, start.tokenizer if start else None, config.max_length) if documents else sentences
    if len(texts) <= config.held_out:
        raise UserError("text", f"more than {config.held_out} sentences (held_out)", len(texts), "lower held_out")
    run.claim()
    train_on, held_out = list(texts[config.held_out :]), list(texts[: config.held_out])
    with own_process(config.seed), run.writing():
        tokenizer, note = (
            (start.tokenizer, "") if start else own_tokenizer(run.checkpoints / "tokenizer", train_on, config, held_out)
        )
        # Texts of documents are long already: several in one would be cut off.
        train_ids, held_out_ids = (
            tokenise_lines(part, tokenizer, config.max_length, join=not (documents and start))
            for part in (train_on, held_out)
        )
        if console is not None:
            counts = np.bincount(train_ids.ids, minlength=len(tokenizer))
            for text in filter(None, [unknown_note(counts, tokenizer), note]):
                say(console, text)
        model = start.mlm if start else build_model(config, tokenizer)
        _fit(_trainer(model, train_ids, tokenizer, run, config, console), run)
        result = evaluate(model, held_out_ids, tokenizer, config)
        if start is None:
            save(model, tokenizer, run, result)
        else:
            save_start(start, run.folder, {"held_out.json": json_bytes(dataclasses.asdict(result))})
            run.mark_finished()
    return result


def _start(config: PretrainConfig) -> Start | None:
    """The encoder to continue from, if there is one; it must be able to read the longest example."""
    if not config.encoder:
        return None
    start = load_start(config.encoder, config.seed)
    if config.max_length > positions(start.mlm):
        rule = f"at most {positions(start.mlm)}, the positions of encoder {config.encoder}"
        raise UserError("max_length", rule, config.max_length, "lower it")
    return start


def _fit(trainer: SafeTrainer, run: RunFolder) -> None:
    """Train to the last step, from the newest checkpoint if there is one."""
    trainer.train(resume_from_checkpoint=run.last_checkpoint())
    if trainer.state.global_step < trainer.state.max_steps:
        raise Interrupted(f"step {trainer.state.global_step}")


def _trainer(
    model: PreTrainedModel,
    data: TokenisedLines,
    tokenizer: Any,
    run: RunFolder,
    config: PretrainConfig,
    console: Console | None,
) -> SafeTrainer:
    displays: list[TrainerCallback] = [LiveDisplay(console, "pretrain")] if console is not None else []
    return SafeTrainer(
        MaskedLanguageModel(model),
        _arguments(run.checkpoints, config),
        dataset=data,
        order=LengthBatches(data.lengths, config.batch_tokens, config.seed),
        collate=MaskedBatches(tokenizer, config),
        callbacks=[MetricsFile(run.metrics), GracefulStop(), *displays],
    )


@torch.no_grad()
def evaluate(model: PreTrainedModel, data: TokenisedLines, tokenizer: Any, config: PretrainConfig) -> HeldOut:
    """Loss and accuracy at the masked positions of `data`, masked once."""
    if not len(data):
        return HeldOut(loss=math.nan, accuracy=math.nan, tokens=0)
    collate, module = MaskedBatches(tokenizer, config), MaskedLanguageModel(model).eval()
    loss = right = tokens = 0.0
    for batch in LengthBatches(data.lengths, config.batch_tokens, config.seed):
        inputs = collate([data[key] for key in batch])
        count = int((inputs["labels"] != IGNORE).sum())
        if count:
            terms = module(**{name: send_and_remember(values, model.device) for name, values in inputs.items()})
            loss, right = loss + count * float(terms["loss"]), right + count * float(terms["accuracy"])
            tokens += count
    return HeldOut(
        loss=loss / tokens if tokens else math.nan, accuracy=right / tokens if tokens else math.nan, tokens=int(tokens)
    )


def save(model: PreTrainedModel, tokenizer: Any, run: RunFolder, result: HeldOut) -> None:
    """The model in half precision with its tokenizer; dropout is on again in its settings, for what comes after."""
    model.config.hidden_dropout_prob = model.config.attention_probs_dropout_prob = 0.1
    with moved_into(run.folder) as part:
        model.half().save_pretrained(part)
        tokenizer.save_pretrained(part)
        (part / "held_out.json").write_bytes(json_bytes(dataclasses.asdict(result)))
    run.mark_finished(keep_checkpoints=True)  # a later run with more tokens resumes from them


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
        bf16=has_bf16(),
        # Masks are drawn sentence by sentence on the CPU, which takes longer than a GPU's step; a mask is a function of
        # (seed, epoch, sentence), so the number of workers changes no batch.
        dataloader_num_workers=min(8, (os.cpu_count() or 1) - 1) if torch.cuda.is_available() else 0,
        max_grad_norm=1.0,
        logging_steps=50,
        logging_nan_inf_filter=False,
        save_steps=config.checkpoint_every_steps,
        save_total_limit=2,
        report_to="none",
        seed=config.seed,
        disable_tqdm=True,
    )
