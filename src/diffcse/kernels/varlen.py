"""Stands for one attention a length (`packing.attend`): on a CUDA GPU one or two calls a layer, dropout included.

About 25 lengths times 12 layers are right for a CPU, but on a GPU starting that many small kernels takes longer than
their work (`benchmarks/gpu.py` times a step). FlashAttention takes the sentences' ends as
cumulative lengths; PyTorch's own copy of it, and its memory-efficient attention for float32, have dropout and its
backward pass. `torch.nn.attention.varlen_attn`, FlashAttention 3 and 4 and flex attention have none.

Legend: `Q` queries, `K` keys of a packed row, `A` heads, `D` width of a head, `n` sentences.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor

from diffcse.kernels.waits import send

_HALF = (torch.bfloat16, torch.float16)


class Segments(NamedTuple):
    """Which queries may ask which keys: those of the same sentence.

    Attributes:
        queries: rows of the queries before each sentence and after the last, (n + 1,) int32.
        keys: the same of the keys.
        most_queries: of one sentence.
        most_keys: of one sentence.
    """

    queries: Tensor
    keys: Tensor
    most_queries: int
    most_keys: int

    @classmethod
    def of(cls, queries: Tensor, keys: Tensor, device: torch.device) -> Segments:
        """From the number of queries and keys of each sentence, (n,) each on the CPU."""
        ends = [torch.cat([count.new_zeros(1), count.cumsum(0)]).int() for count in (queries, keys)]
        return cls(send(ends[0], device), send(ends[1], device), int(queries.max()), int(keys.max()))


def may_suit(device: torch.device) -> bool:
    """Whether a layout for this device needs `Segments` at all."""
    return device.type != "cpu"


def suits(query: Tensor, window: int | None) -> bool:
    """Whether `attend` can take these queries (..., D); else there is one attention a length."""
    if query.device.type != "cuda" or torch.version.cuda is None or query.shape[-1] % 8 or query.shape[-1] > 256:
        return False
    if _dtype(query) in _HALF:
        return torch.cuda.get_device_capability(query.device)[0] >= 8
    return window is None and query.dtype == torch.float32


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: Segments,
    *,
    dropout: float,
    scale: float,
    window: int | None = None,
) -> Tensor:
    """Softmax attention inside each sentence, (Q, A, D).

    Args:
        query: (Q, A, D).
        key: (K, A, D).
        value: (K, A, D).
        segments: the sentences.
        dropout: share of the attention weights that is dropped; its masks come from the device's own generator.
        scale: factor of the scores.
        window: distance from which tokens do not see each other; half precision only.
    """
    rows = [row.to(_dtype(query)) for row in (query, key, value)]  # autocast does not reach these two operators
    if rows[0].dtype in _HALF:
        reach = None if window is None else window - 1
        result = torch.ops.aten._flash_attention_forward(
            *rows, *segments, dropout, False, False, scale=scale, window_size_left=reach, window_size_right=reach
        )
        return cast(Tensor, result[0])
    trained = torch.is_grad_enabled() and any(row.requires_grad for row in rows)  # the backward pass needs the sums
    batch = [row.unsqueeze(0) for row in rows]
    result = torch.ops.aten._efficient_attention_forward(*batch, None, *segments, dropout, 0, trained, scale=scale)
    return cast(Tensor, result[0].squeeze(0))


def _dtype(tensor: Tensor) -> torch.dtype:
    """The type that autocast would compute in."""
    kind = tensor.device.type
    return torch.get_autocast_dtype(kind) if kind != "meta" and torch.is_autocast_enabled(kind) else tensor.dtype
