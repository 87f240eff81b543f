"""How long a training will take on this machine, from a few steps that are thrown away."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import datasets
import torch

from diffcse.config import Config
from diffcse.encoding.backends import as_device
from diffcse.training.batches import Collator
from diffcse.training.build import build_model, steps_of
from diffcse.training.checks import check_positions
from diffcse.training.criteria import Criterion
from diffcse.training.networks import load_networks
from diffcse.training.process import own_process
from diffcse.training.texts import examples

_TIMED_STEPS = 3


def estimate(rows: datasets.Dataset, criterion: Criterion, configs: Sequence[Config], cache: Path) -> str:
    """How long the training will take, from a few steps and one look at STS-B dev that are thrown away.

    Args:
        rows: the text that the runs are trained on.
        criterion: STS-B dev.
        configs: of the runs that are not finished; an interrupted one has less before it.
        cache: for tokenised text.
    """
    config, count = configs[0], len(configs)
    with own_process(config.training.seed):  # as in a run
        step, look = seconds_needed(rows, criterion, config, cache)
    steps = steps_of(config.training, len(rows))
    looks = steps // config.training.eval_every_steps
    each = steps * step + looks * look
    runs = f", {duration(count * each)} for {count} seeds" if count > 1 else ""
    return (
        f"{steps:,} steps of {step:.2g} s and {looks:,} looks at STS-B dev of {look:.2g} s: "
        f"about {duration(each)} a seed{runs}"
    )


def seconds_needed(rows: datasets.Dataset, criterion: Criterion, config: Config, cache: Path) -> tuple[float, float]:
    """Seconds of a training step (without the optimiser's share) and of a look at STS-B dev, on this machine."""
    device, size = as_device(None), config.training.batch_size
    networks = load_networks(config)
    check_positions(networks, config)
    config = networks.settle(config)
    spread = range(0, len(rows), len(rows) // size)[:size]  # a file may begin with its short lines
    dataset = examples(rows.select(spread), networks, config, cache, None)
    model = build_model(networks, config).to(device).train()
    collate = Collator(networks.tokenizer, config.edits, config.training.seed, config.views)
    batch = {name: value.to(device) for name, value in collate([dataset[0, i] for i in range(size)]).items()}
    seconds = []
    for _ in range(_TIMED_STEPS):
        began = time.perf_counter()
        model(**batch)["loss"].backward()
        if device.type != "cpu":
            torch.accelerator.synchronize()
        seconds.append(time.perf_counter() - began)
    began = time.perf_counter()
    criterion.of(networks.model)
    return min(seconds[1:]), time.perf_counter() - began


def duration(seconds: float) -> str:
    """A time that a person plans with.

    >>> duration(20), duration(1500), duration(11_000), duration(400_000)
    ('20 s', '25 min', '3.1 h', '4.6 days')
    """
    for size, unit, below in ((1, "s", 120), (60, "min", 7_200), (3_600, "h", 172_800)):
        if seconds < below:
            return f"{seconds / size:.1f} {unit}" if unit == "h" else f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:.1f} days"
