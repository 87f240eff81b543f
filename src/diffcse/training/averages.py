"""An exponential moving average of the encoder's weights, which moves less from seed to seed than the last step does.

The average lives in the training module as a second, frozen encoder. So checkpoints hold it, a resumed run continues
with the same bits, and under DDP every process updates its own copy by the same weights and all stay equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from transformers import TrainerCallback, TrainerControl, TrainerState


class Average(TrainerCallback):
    """Moves the average after each optimiser step: average = d * average + (1 - d) * weights.

    The decay d rises to its setting as min(setting, (1 + step) / (10 + step)), so that the start of a short run does
    not weigh as much as all of its steps.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """One update."""
        decay = min(self.decay, (1 + state.global_step) / (10 + state.global_step))
        average, weights = _pairs(self.model)
        with torch.no_grad():
            get_ema_multi_avg_fn(decay)(average, weights, None)


@contextmanager
def averaged(model: nn.Module) -> Iterator[None]:
    """The encoder has the average's weights while the context lasts; without an average nothing happens."""
    swap(model)
    try:
        yield
    finally:
        swap(model)


def swap(model: nn.Module) -> None:
    """Exchange the encoder's weights with the average's, if there is one."""
    if model.average is not None:
        for mine, other in zip(*_pairs(model), strict=True):
            mine.data, other.data = other.data, mine.data


def _pairs(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    average, encoder = model.average, model.encoder
    assert isinstance(average, nn.Module) and isinstance(encoder, nn.Module)
    return list(average.parameters()), list(encoder.parameters())
