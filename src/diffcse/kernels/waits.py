"""Stands for `tensor.cpu()` and `tensor.to(device)`: no wait for what a GPU still has to do, where none is needed.

A batch is made on the CPU, so its lengths and masked positions are known there. Asking the device for them would empty
its queue twice a step (`benchmarks/gpu.py` counts the waits that are left). So a tensor that is sent is held with
its copy here, and `here` answers from that copy for the tensor and for every view of it.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import torch
from torch import Tensor


class _Known(NamedTuple):
    """A tensor elsewhere and its values on the CPU; that it is held keeps its memory from being used again."""

    there: Tensor
    version: int
    values: Tensor


_recent: deque[_Known] = deque(maxlen=16)  # two batches and more


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on the device, without waiting for what the device still has to do."""
    # Only a copy from pinned memory is asynchronous; any other waits for the stream.
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def send_and_remember(tensor: Tensor, device: torch.device) -> Tensor:
    """As `send`, and `here` then knows the values of what it returns; `tensor` must not change after that."""
    there = send(tensor, device)
    if there.device.type != "cpu" and tensor.is_contiguous():
        _remember(there, tensor)
    return there


def here(tensor: Tensor) -> Tensor:
    """The values on the CPU; a wait only for what was computed on the device, once for each tensor."""
    if tensor.device.type == "cpu":
        return tensor
    if tensor.is_inference():  # has neither a base nor a version that would tell of a change
        return tensor.cpu()
    base = tensor if tensor._base is None else tensor._base
    for known in tuple(_recent):
        if known.there is base and known.version == base._version:
            start = known.values.storage_offset() + tensor.storage_offset()
            return known.values.as_strided(tensor.shape, tensor.stride(), start)
    values = tensor.cpu()
    if base is tensor and tensor.is_contiguous():
        _remember(tensor, values)
    return values


def _remember(there: Tensor, values: Tensor) -> None:
    # A view of `there` is the same view of `values`: both are contiguous and begin at the start of their memory.
    if there.storage_offset() == 0 and not there.is_inference():
        _recent.append(_Known(there, there._version, values))
