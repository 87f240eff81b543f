"""Stands for `nn.Dropout` on a CPU: four decisions from each 64-bit random number, one byte for each kept.

PyTorch draws one number after the other there, on one core whatever their number; masks are still 5% of a step. The
seed of each mask comes from PyTorch's own generator, so `torch.manual_seed`, a resumed run and gradient checkpointing
repeat it.
"""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_STEPS = 1 << 16
"""A decision has 16 bits, so a share is right to 1 / 131,072; the scale belongs to the rounded one."""


def draw_mask(shape: tuple[int, ...] | torch.Size, share: float) -> tuple[Tensor, float]:
    """Which numbers stay: uint8 of 1 (stays) and 0 on the CPU, and the factor that keeps the expectation.

    Args:
        shape: of the mask.
        share: of the numbers that are dropped, in [0, 1).
    """
    count, dropped = math.prod(shape), round(share * _STEPS)
    # From the CPU's generator, whose state is what checkpoints, resumed runs and gradient caching restore.
    seed = int(torch.randint(1 << 62, (), device="cpu"))
    # int16 and not uint16, which torch cannot compare: hence the half range below.
    raw = np.random.SFC64(seed).random_raw(-(-count // 4)).view(np.int16)
    stays = torch.empty(count, dtype=torch.uint8)
    torch.ge(torch.from_numpy(raw)[:count], dropped - _STEPS // 2, out=stays)
    return stays.view(shape), _STEPS / (_STEPS - dropped)


def suits(tensor: Tensor, share: float) -> bool:
    """Whether the masks of this module are for this tensor; else PyTorch's own dropout is."""
    known = tensor.device.type == "cpu" and tensor.dtype == torch.float32
    return known and 0.0 < share < 0.999 and tensor.numel() > 0 and not torch.compiler.is_compiling()


def thin(values: Tensor, stays: Tensor, scale: float) -> Tensor:
    """The values that stay, times the scale; uint8 becomes float far faster than bool does."""
    return stays.to(values.dtype).mul_(scale).mul_(values)


class Dropout(nn.Dropout):
    """`nn.Dropout` with masks from `draw_mask` on a CPU, and the plain one elsewhere."""

    def forward(self, input: Tensor) -> Tensor:
        """Any shape; as it came in evaluation mode."""
        if not (self.training and suits(input, self.p)):
            return super().forward(input)
        return cast(Tensor, _Thinned.apply(input, *draw_mask(input.shape, self.p)))


class _Thinned(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, stays: Tensor, scale: float) -> Tensor:
        """The values that stay, scaled."""
        ctx.save_for_backward(stays)
        ctx.scale = scale
        return thin(values, stays, scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """The gradient of the values that stayed, scaled."""
        (stays,) = ctx.saved_tensors
        return thin(gradient, stays, ctx.scale), None, None


def quicken(model: nn.Module) -> None:
    """Replace every `nn.Dropout` inside the model by `Dropout`; names, modes and weights stay."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                quick = Dropout(child.p, child.inplace)
                setattr(module, name, quick.train(child.training))
