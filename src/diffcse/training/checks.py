"""What a run must fulfil, checked before its first step; each error says what to do."""

from __future__ import annotations

import os
from dataclasses import replace

import torch
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations

from diffcse.config import Config, TrainingConfig
from diffcse.errors import UserError
from diffcse.kernels.gradient_cache import require_repeatable_dropout
from diffcse.persistence.load import positions
from diffcse.training.networks import Networks

_SHORT = 32  # tokens: the length that benchmarks/gpu.py measures


def check_machine(config: Config) -> None:
    """What needs neither text nor networks: precision, processes, loggers."""
    check_precision(config)
    check_processes(config)
    check_loggers(config.training.report_to)


def settle_machine(config: Config) -> Config:
    """The settings with what depends on this machine decided, so that a run's record says what it was."""
    settings = config.training
    if settings.precision == "auto":
        settings = replace(settings, precision="bf16" if has_bf16() else "fp32")
    return replace(config, training=settle_padding(settings, on_gpu=torch.cuda.is_available()))


def settle_padding(settings: TrainingConfig, *, on_gpu: bool) -> TrainingConfig:
    """The settings with `padding_free` decided: short rows give a GPU too little work to hide the start of kernels."""
    if settings.padding_free is not None:
        return settings
    return replace(settings, padding_free=not on_gpu or settings.max_tokens > _SHORT)


def has_bf16() -> bool:
    """Whether this machine has a CUDA GPU with arithmetic in bfloat16."""
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


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
    size, processes = config.training.batch_size, launched()
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


def launched() -> int:
    """Processes that torchrun started; its variable is there before a process group is."""
    return int(os.environ.get("WORLD_SIZE", "1"))
