"""A training run from text to a model folder; `train` reads like a table of contents.

Under torchrun every process runs `train`; only the first one writes and talks.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import datasets
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from sentence_transformers import SentenceTransformer
from torch import Tensor
from transformers import TrainerCallback, TrainingArguments, set_seed
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations

from diffcse.config import Config, TrainingConfig
from diffcse.errors import UserError
from diffcse.files import digest
from diffcse.kernels.gradient_cache import require_repeatable_dropout
from diffcse.kernels.memory import freed_memory_kept
from diffcse.method.edits import MlmEdit
from diffcse.method.model import DiffCSEModel, trained_parts
from diffcse.persistence import card
from diffcse.persistence.save import save_folder
from diffcse.progress import counting
from diffcse.text.dataset import ReadReport, read_texts, tokenise
from diffcse.training import criteria
from diffcse.training.averages import Average, averaged, swap
from diffcse.training.batches import Collator, Examples
from diffcse.training.criteria import Best, Criterion, KeepBest
from diffcse.training.display import LiveDisplay, Speed
from diffcse.training.keep_weights import KeepForMean, Mean, mean_weights
from diffcse.training.networks import Networks, load_networks
from diffcse.training.run_folder import RunFolder
from diffcse.training.spans import DocumentReport, Spans, check_documents, report
from diffcse.training.trainer import EpochOrder, GracefulStop, MetricsFile, SafeTrainer, untied

_SENTENCES_FOR_LABEL_FREE = 1024

Sources: TypeAlias = str | Path | Sequence[str | Path] | datasets.Dataset
"""Files and the like; or, with view neighbours, documents."""


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """How a run ended.

    Attributes:
        folder: where the model is, or where the unfinished run waits.
        finished: False if the run was interrupted; the same command resumes it.
        step: optimiser step it ended at.
        best: what was kept and why; None where the last step was kept, and in all but the first process.
        read: what was read and skipped; its `summary()` says it in one line.
        seconds: wall time of this call.
    """

    folder: Path
    finished: bool
    step: int
    best: Best | Mean | None
    read: ReadReport | DocumentReport
    seconds: float


def train(
    sources: Sources,
    output: str | Path,
    config: Config,
    *,
    columns: Sequence[str] | None = None,
    criterion: Criterion | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    cache_dir: Path | None = None,
    console: Console | None = None,
) -> TrainResult:
    """Train on unlabelled text and save a SentenceTransformer folder; resumes an interrupted run of the same settings.

    Args:
        sources: one or more text files, tables, globs, or a Hub dataset (see `diffcse.text.dataset.read_texts`). With
            view neighbours they are read as documents (see `diffcse.text.documents.read_documents`), or are documents
            already: what `read_documents` returns, or a dataset with its columns `key` and `sentences`.
        output: folder for the model; new, empty, or holding an interrupted run of the same settings.
        config: all settings (see `diffcse.config.build`).
        columns: names of one (sentences), two (pairs) or three (pairs with a hard negative) columns of a table.
        criterion: what chooses the best checkpoint where labelled data are available (STS-B dev, say).
        callbacks: the Trainer's; the `model` that they are called with has the trained Transformer as `encoder`.
        cache_dir: where tokenised text is kept between runs.
        console: where progress is shown; None shows nothing.

    Raises:
        UserError: for anything wrong with the input, before the first step.
        NonFiniteLoss: for a loss that is not a number, before the optimiser step.
    """
    began = time.perf_counter()
    output, text = Path(output), Text.of(sources, columns, config)
    check_precision(config)
    check_processes(config)
    check_loggers(config.training.report_to)
    set_seed(config.training.seed)
    torch.set_flush_denormal(True)
    run = RunFolder.look(output, config.as_dict(), text.names(), columns, defaults=Config().as_dict())
    networks = load_networks(config)
    check_positions(networks, config)
    config = networks.settle(config)
    rows, read = text.read(cache_dir)
    check_size(len(rows), config)
    dataset = examples(rows, networks, config, cache_dir, console)
    run.check_text(rows)
    run.check_steps(steps_of(config.training, len(dataset)))
    model = build_model(networks, config)
    run.check_space(model, config.training.average_checkpoints)
    encoder = networks.model
    chosen = choose_criterion(config, criterion, first_sentences(rows))
    run.claim(rows)  # last, so that a refused command leaves nothing behind
    trainer = build_trainer(model, dataset, networks.tokenizer, run, config, console)
    for callback in callbacks:
        trainer.add_callback(callback)
    keep = keeper(chosen, encoder, trainer, run, config)
    if keep is not None:
        trainer.add_callback(keep)
    best = None
    with run.writing(), freed_memory_kept():
        trainer.train(resume_from_checkpoint=run.last_checkpoint())
        finished = trainer.state.global_step >= trainer.state.max_steps
        if finished and trainer.args.should_save:
            best = choose_weights(keep, chosen, encoder, trainer)
            save_model(best, trainer, encoder, networks, run, config)
    trainer.accelerator.end_training()
    return TrainResult(
        folder=output,
        finished=finished,
        step=trainer.state.global_step,
        best=best,
        read=read,
        seconds=time.perf_counter() - began,
    )


@dataclass(frozen=True, kw_only=True)
class Text:
    """What a run is trained on, before it is read.

    Attributes:
        sources: names of files and the like; None where `documents` are there already.
        documents: a dataset of documents; None where they are to be read.
        lines: what was said when the documents were read.
        columns: the columns of a table.
        neighbours: whether the sources are read as documents.
    """

    sources: Sequence[str | Path] | None
    documents: datasets.Dataset | None
    lines: Sequence[str]
    columns: Sequence[str] | None
    neighbours: bool

    @classmethod
    def of(cls, sources: Sources, columns: Sequence[str] | None, config: Config) -> Text:
        """Tell names from documents.

        Raises:
            UserError: documents for another view than neighbours, or more than one column of them.
        """
        neighbours = config.views.view == "neighbours"
        if neighbours and columns is not None and len(columns) > 1:
            got = ", ".join(columns)
            raise UserError("columns", "one, the documents' text, with view neighbours", got, "name one column")
        documents, lines = None, ()
        names: Sequence[str | Path] | None = None
        if isinstance(sources, datasets.Dataset):
            documents = sources
        else:
            names = [sources] if isinstance(sources, str | Path) else sources
        if documents is None and neighbours:
            raise UserError("sources", "documents from Python with view neighbours", "files", "read them first")
        if documents is not None and not neighbours:
            raise UserError("view", "neighbours where the sources are documents", config.views.view, "set view")
        return cls(sources=names, documents=documents, lines=lines, columns=columns, neighbours=neighbours)

    def names(self) -> list[str]:
        """What the run's folder remembers: the sources, or a digest of the documents' keys."""
        if self.documents is None:
            return [str(source) for source in self.sources or ()]
        return [f"{len(self.documents)} documents, {digest(list(self.documents['key']))}"]

    def read(self, cache_dir: Path | None) -> tuple[datasets.Dataset, ReadReport | DocumentReport]:
        """The rows, sentences or documents, and what became of what was read."""
        if not self.neighbours:
            return read_texts(self.sources or (), columns=self.columns, cache_dir=cache_dir)
        assert self.documents is not None
        check_documents(self.documents)
        return self.documents, report(self.documents, self.lines)


def examples(
    rows: datasets.Dataset, networks: Networks, config: Config, cache_dir: Path | None, console: Console | None
) -> Examples | Spans:
    """Sentences as token ids, with the sentence after each where that is edited; or documents as spans."""
    limit = config.training.max_tokens
    if config.views.view == "neighbours":
        return Spans(rows, networks.tokenizer, config.views, max_tokens=limit, seed=config.training.seed)
    with counting(console, "tokenise", len(rows)) as show:
        tokens = tokenise(rows, networks.tokenizer, max_tokens=limit, cache_dir=cache_dir, on_progress=show)
    dataset = Examples(tokens, with_next=config.has_edits and config.edits.edited_text != "same")
    check_columns(len(dataset.columns), config)
    return dataset


def first_sentences(rows: datasets.Dataset) -> list[str]:
    """What the criterion without labels looks at: the first sentences, or the first one of the first documents."""
    first = rows[:_SENTENCES_FOR_LABEL_FREE]
    if "sentences" in first:
        return [sentences[0] for sentences in first["sentences"]]
    return list(first["text0"])


def choose_criterion(config: Config, labelled: Criterion | None, sentences: Sequence[str]) -> Criterion | None:
    """What chooses the checkpoint, or None to keep the last one."""
    wanted = config.training.select_by
    if wanted == "label-free":
        return criteria.label_free(list(sentences), config.training.seed)
    if wanted == "stsb" and labelled is None:
        raise UserError(
            "select_by stsb", "given with STS-B dev data", "no data", "add --senteval FOLDER or use label-free"
        )
    best_of = config.training.average_checkpoints and config.training.average_which == "best"
    if wanted == "auto" and labelled is None and best_of:
        do = "use select_by label-free, or add --senteval FOLDER"
        raise UserError("average_which", "last where nothing tells which step is best", "best", do)
    return None if wanted == "last" else labelled


def check_precision(config: Config) -> None:
    """fp16 exists on accelerators only, and gradient caching where dropout masks can be repeated."""
    device = torch.accelerator.current_accelerator()
    if device is not None and config.training.rows_at_once:
        require_repeatable_dropout(device, "rows_at_once", 0)
    if config.training.precision == "fp16" and not torch.accelerator.is_available():
        raise UserError("precision", "fp32 or bf16 on a CPU", "fp16", "use fp32")


def check_size(count: int, config: Config) -> None:
    """At least one full batch; a smaller one would not hold the negatives that were asked for."""
    size, noun = config.training.batch_size, "documents" if config.views.view == "neighbours" else "sentences"
    if count < size:
        raise UserError("batch_size", f"at most the number of {noun} ({count})", size, "lower batch_size")


def check_processes(config: Config) -> None:
    """Every process takes an equal share of the batch, so that the batch is as large as was asked for."""
    size, processes = config.training.batch_size, distributed_size()
    if size % processes:
        rule = f"a multiple of the number of processes ({processes})"
        raise UserError("batch_size", rule, size, "change one of them")


def logger_names(report_to: str) -> list[str]:
    """The names in the setting `report_to`.

    >>> logger_names("tensorboard, wandb")
    ['tensorboard', 'wandb']
    """
    return [name.strip() for name in report_to.split(",") if name.strip()] or ["none"]


def check_loggers(report_to: str) -> None:
    """Every logger is one that transformers knows and that is installed."""
    known, installed = set(INTEGRATION_TO_CALLBACK), get_available_reporting_integrations()
    for name in logger_names(report_to):
        if name in ("none", "all") or name in installed:
            continue
        if name not in known:
            raise UserError("report_to", f"none, all or some of {', '.join(sorted(known))}", name, "choose one of them")
        if name != "flyte":  # transformers cannot tell whether it is there
            raise UserError("report_to", "a logger that is installed", name, f"install {name}, or use none")


def check_positions(networks: Networks, config: Config) -> None:
    """The longest sentence, and what an edit or a view makes of it, must fit into the encoder and the generator."""
    longer = (config.has_edits and config.edits.edit in ("insertion", "all")) or config.views.view == "repetition"
    most = min(positions(reader) for reader in (networks.transformer.model, networks.generator) if reader is not None)
    limit = config.training.max_tokens
    if longer and 2 * limit > most:
        raise UserError("max_tokens", f"at most {most // 2} with what makes sentences longer", limit, "lower it")
    if limit > most:
        raise UserError("max_tokens", f"at most {most}, the positions of the networks", limit, "lower it")


def positions(network: Any) -> int:
    """The most tokens that a network can read; those of RoBERTa's kind keep the first positions for padding."""
    for name, part in network.named_modules():
        if name.endswith("position_embeddings") and isinstance(part, torch.nn.Embedding):
            return part.num_embeddings - (0 if part.padding_idx is None else part.padding_idx + 1)
    return getattr(network.config, "max_position_embeddings", None) or 1 << 30


def check_columns(columns: int, config: Config) -> None:
    """Pairs have no next sentence and one view each."""
    defaults = {
        "edited_text": config.edits.edited_text == "same",
        "view": config.views.view == "dropout",
        "negatives_without_dropout": not config.extensions.negatives_without_dropout,
    }
    for name, plain in defaults.items():
        if columns > 1 and not plain:
            raise UserError(name, "at its default with pairs of texts", f"{columns} columns", "give one column of text")
    if columns > 2 and config.extensions.edits_as != "none":
        do = "leave the third column out"
        raise UserError("edits_as", "none with hard negatives in the text", config.extensions.edits_as, do)


def build_model(networks: Networks, config: Config) -> DiffCSEModel:
    """The training module on the loaded networks."""
    tokenizer, edit = networks.tokenizer, None
    if config.has_edits:
        ids = {"cls_id": tokenizer.cls_token_id, "pad_id": tokenizer.pad_token_id}
        edit = MlmEdit(networks.generator, config.edits, **ids, padding_free=config.training.padding_free)
    model = DiffCSEModel(networks.transformer.model, edit, config, networks.teacher)
    if config.training.gradient_checkpointing:
        model.checkpoint_layers()
    return model


def build_trainer(
    model: DiffCSEModel,
    dataset: Examples | Spans,
    tokenizer: Any,
    run: RunFolder,
    config: Config,
    console: Console | None,
) -> SafeTrainer:
    """The trainer with its order, its batches and what it reports to."""
    settings = config.training
    callbacks: list[TrainerCallback] = [Speed(settings.batch_size), MetricsFile(run.metrics)]
    callbacks += [criteria.WatchForCollapse(), GracefulStop()]
    if console is not None:
        callbacks.append(LiveDisplay(console, config.objective.objective))
    if model.average is not None:
        callbacks.append(Average(model, settings.ema_decay))  # before the callback that scores
    edits = config.edits if config.has_edits else None
    trainer = SafeTrainer(
        model,
        trainer_arguments(run.checkpoints, config, len(dataset)),
        dataset=dataset,
        order=EpochOrder(len(dataset), settings.seed),
        collate=Collator(
            tokenizer, edits, settings.seed, config.views, dataset.keys if isinstance(dataset, Spans) else None
        ),
        callbacks=callbacks,
        learning_rates={"discriminator.": settings.discriminator_learning_rate or settings.learning_rate},
    )
    return trainer


def steps_of(settings: TrainingConfig, examples: int) -> int:
    """Optimiser steps of a run: those of `epochs`, or `max_steps` if that is fewer.

    Args:
        settings: batch size, accumulation, epochs and steps.
        examples: sentences or documents; an epoch leaves out what does not fill a batch.

    >>> settings = TrainingConfig(batch_size=8, epochs=2.0, max_steps=50)
    >>> steps_of(settings, 31), steps_of(settings, 9999)
    (6, 50)
    """
    each = max(1, math.ceil(examples // settings.batch_size / settings.accumulate))
    return min(math.ceil(settings.epochs * each), settings.max_steps or sys.maxsize)


def trainer_arguments(folder: Path, config: Config, examples: int) -> TrainingArguments:
    """Our settings in the Trainer's words."""
    settings, on_cpu = config.training, not torch.accelerator.is_available()
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=max(1, settings.batch_size // distributed_size()),
        num_train_epochs=settings.epochs,
        max_steps=steps_of(settings, examples),  # the schedule's length too; the Trainer would forget the epochs
        learning_rate=settings.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=settings.warmup_ratio,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.clip_norm,
        gradient_accumulation_steps=settings.accumulate,
        optim="adamw_torch_fused",
        bf16=settings.precision == "bf16",
        fp16=settings.precision == "fp16",
        dataloader_num_workers=settings.data_workers,
        logging_steps=settings.log_every_steps,
        logging_nan_inf_filter=False,
        save_steps=settings.save_every_steps,
        save_total_limit=2,
        report_to=logger_names(settings.report_to),
        seed=settings.seed,
        ddp_find_unused_parameters=False,
        # Unless it is told so, Accelerate runs torchrun's CPU processes side by side and never connects them.
        use_cpu=on_cpu,
        disable_tqdm=True,
    )
    # Several GPUs in one process would mean nn.DataParallel, which splits BatchNorm and the in-batch negatives.
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments


def distributed_size() -> int:
    """Processes that torchrun started; its variable is there before a process group is."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def keeper(
    chosen: Criterion | None, encoder: SentenceTransformer, trainer: SafeTrainer, run: RunFolder, config: Config
) -> KeepBest | KeepForMean | None:
    """The callback that scores the encoder and keeps the weights of the best step, or those of a mean's terms."""
    settings, every, terms = config.training, config.training.eval_every_steps, config.training.average_checkpoints

    def score() -> float:
        assert chosen is not None
        with averaged(trainer.module):
            return chosen.score(encode_by(encoder))

    def state() -> dict[str, Tensor]:
        with averaged(trainer.module):
            return untied(trainer.module.get_submodule("encoder").state_dict()) if terms else trainer.saved_state()

    if terms:
        return KeepForMean(
            run.checkpoints,
            count=terms,
            which=settings.average_which,
            every_steps=every,
            state=state,
            score=None if chosen is None else score,
            report=lambda value: trainer.report({chosen.name: value} if chosen else {}),
        )
    if chosen is None:
        return None
    return KeepBest(run.best, metric=chosen.name, score=score, state=state, every_steps=every, report=trainer.report)


def encode_by(encoder: SentenceTransformer) -> criteria.Encode:
    """What a criterion asks: sentences to vectors."""

    def encode(sentences: list[str]) -> NDArray[np.float32]:
        vectors: NDArray[np.float32] = encoder.encode(sentences, batch_size=64, show_progress_bar=False)
        return vectors

    return encode


def choose_weights(
    keep: KeepBest | KeepForMean | None, chosen: Criterion | None, encoder: SentenceTransformer, trainer: SafeTrainer
) -> Best | Mean | None:
    """Put the weights that are kept into the encoder, and say which they are."""
    module = trainer.module
    if isinstance(keep, KeepForMean):
        terms = keep.terms()
        module.get_submodule("encoder").load_state_dict(mean_weights(terms))
        score = None if chosen is None else chosen.score(encode_by(encoder))
        steps = tuple(term.step for term in terms)
        return Mean(steps=steps, score=score, metric=None if chosen is None else chosen.name)
    best = None if keep is None else criteria.read_best(keep.path)
    if keep is not None and best is not None:
        module.load_state_dict(criteria.load_best(keep.path), strict=False)
    else:
        swap(module)
    return best


def save_model(
    best: Best | Mean | None,
    trainer: SafeTrainer,
    encoder: SentenceTransformer,
    networks: Networks,
    run: RunFolder,
    config: Config,
) -> None:
    """Write the model folder and mark the run as finished."""
    networks.restore_pooler()
    files = {"README.md": card.model_card(config, best, run.read_metrics()).encode()}
    save_folder(encoder, run.folder, files)
    if config.training.keep_discriminator:
        run.save_training_state(trained_parts(trainer.saved_state()))
    run.mark_finished()
