"""What several processes must share for their step to equal one process's step.

Legend: `B` local instances, `W` processes.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_gather


def world() -> tuple[int, int]:
    """(rank, number of processes); (0, 1) without a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def gather_with_gradient(rows: Tensor) -> Tensor:
    """The rows of every process in rank order, (W*B, ...); gradients flow back to the process that a row came from.

    The backward pass adds up the gradients of all processes, and DDP divides by their number afterwards, so that a loss
    which every process computes over all rows gives the same gradient as in one process.
    """
    if world()[1] == 1:
        return rows
    return torch.cat(all_gather(rows.contiguous()), dim=0)


def own_rows(rows: Tensor, count: int) -> Tensor:
    """This process's `count` rows out of gathered ones."""
    rank, _ = world()
    return rows[rank * count : (rank + 1) * count]


def longest(length: int, device: torch.device) -> int:
    """The greatest `length` over all processes."""
    if world()[1] == 1:
        return length
    greatest = torch.tensor(length, device=device)
    dist.all_reduce(greatest, op=dist.ReduceOp.MAX)
    return int(greatest)


def mean_count(count: Tensor) -> Tensor:
    """Mean of a scalar over all processes, without gradient."""
    _, size = world()
    if size == 1:
        return count
    total = count.detach().clone()
    dist.all_reduce(total)
    return total / size
