"""What the backward pass of an activation is made from is kept once, not twice.

A feed-forward layer keeps what enters its activation for that one's gradient, and what comes out for the next linear
layer's: four widths of every token each. The second is made again from the first when it is asked for: a quarter of
what a layer keeps for a hundredth of its time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


@contextlib.contextmanager
def made_again() -> Iterator[None]:
    """Outputs of GELU that would be kept for the backward pass are made again there, bit for bit the same."""
    with torch.autograd.graph.saved_tensors_hooks(_pack, _unpack):
        yield


def _pack(tensor: Tensor) -> Any:
    """The node that made the tensor if it is a GELU, which keeps its input itself; else the tensor."""
    node = tensor.grad_fn
    return node if node is not None and node.name() == "GeluBackward0" else tensor


def _unpack(kept: Any) -> Tensor:
    if isinstance(kept, Tensor):
        return kept
    with torch.no_grad():
        return F.gelu(kept._saved_self, approximate=kept._saved_approximate)
