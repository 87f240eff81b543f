"""The parts of a run, each from the settings: the training module, the trainer, what keeps weights."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import TrainerCallback, TrainingArguments

from diffcse.config import Config, TrainingConfig
from diffcse.method.edits import MlmEdit
from diffcse.method.model import DiffCSEModel
from diffcse.training.averages import Average
from diffcse.training.batches import Collator, Examples
from diffcse.training.callbacks import GracefulStop, MetricsFile, WatchForCollapse
from diffcse.training.checks import launched, logger_names
from diffcse.training.criteria import Criterion
from diffcse.training.display import LiveDisplay, Speed
from diffcse.training.keep_weights import KeepWeights
from diffcse.training.networks import Networks
from diffcse.training.run_folder import RunFolder
from diffcse.training.spans import Spans
from diffcse.training.trainer import EpochOrder, SafeTrainer


def build_model(networks: Networks, config: Config) -> DiffCSEModel:
    """The training module on the loaded networks."""
    tokenizer, edit = networks.tokenizer, None
    if config.has_edits:
        ids = {"cls_id": tokenizer.cls_token_id, "pad_id": tokenizer.pad_token_id}
        edit = MlmEdit(networks.generator, config.edits, **ids, padding_free=config.training.padding_free is not False)
    model = DiffCSEModel(networks.transformer.model, edit, config, networks.teacher, networks.dense)
    if config.training.gradient_checkpointing:
        model.checkpoint_layers()
    return model


def build_trainer(
    model: DiffCSEModel,
    dataset: Examples | Spans,
    tokenizer: Any,
    run: RunFolder,
    config: Config,
    further: Sequence[TrainerCallback],
    console: Console | None,
) -> SafeTrainer:
    """The trainer with its order, its batches and what it reports to; `further` are the caller's own callbacks."""
    settings = config.training
    callbacks: list[TrainerCallback] = [Speed(settings.batch_size), MetricsFile(run.metrics)]
    callbacks += [WatchForCollapse(), GracefulStop()]
    if console is not None:
        callbacks.append(LiveDisplay(console, config.objective.objective))
    if model.average is not None:
        callbacks.append(Average(model, settings.ema_decay))  # before the callback that scores
    edits = config.edits if config.has_edits else None
    keys = dataset.keys if isinstance(dataset, Spans) else None
    return SafeTrainer(
        model,
        trainer_arguments(run.checkpoints, config, len(dataset)),
        dataset=dataset,
        order=EpochOrder(len(dataset), settings.seed),
        collate=Collator(tokenizer, edits, settings.seed, config.views, keys),
        callbacks=[*callbacks, *further],
        learning_rates={"discriminator.": settings.discriminator_learning_rate or settings.learning_rate},
    )


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
        per_device_train_batch_size=max(1, settings.batch_size // launched()),
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
        # By default, Accelerate runs torchrun's CPU processes independently and never connects them.
        use_cpu=on_cpu,
        disable_tqdm=True,
    )
    # Several GPUs in one process would mean nn.DataParallel, which splits BatchNorm and the in-batch negatives.
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments


def keep_weights(
    criterion: Criterion | None, networks: Networks, trainer: SafeTrainer, run: RunFolder, config: Config
) -> KeepWeights | None:
    """The callback that keeps the best step or the terms of a mean; None where the last step is the model."""
    settings = config.training
    if criterion is None and not settings.average_checkpoints:
        return None
    # Of a mean only the encoder is kept; of one step, what `keep_discriminator` writes as well.
    whole = settings.keep_discriminator and not settings.average_checkpoints
    keep = KeepWeights(
        trainer,
        run.checkpoints,
        count=settings.average_checkpoints or 1,
        which=settings.average_which if settings.average_checkpoints else "best",
        every_steps=settings.eval_every_steps,
        encoder=networks.model,
        criterion=criterion,
        parts=("encoder.", "dense.", *(("projector.", "discriminator.") if whole else ())),
    )
    trainer.add_callback(keep)
    return keep
