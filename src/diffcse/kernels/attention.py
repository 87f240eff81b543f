"""Attention of a packed row with dropout on a CPU, backward written out: no graph for every length, less kept.

Legend: `Q` rows, `A` heads, `D` width of a head; of one block `n` sentences of `l` tokens with `m` queries each.

PyTorch's fused attention has no dropout on a CPU, so it takes the plain path there: scaled copies of queries and keys,
weights before and after dropout and a mask of floats, all kept, for each length again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from diffcse.kernels.dropout import kept, thin


class Block(NamedTuple):
    """Sentences of one length.

    Attributes:
        sentences: how many, n.
        length: real tokens of each, l.
        extra: padding positions of each that ask too, m - l.
    """

    sentences: int
    length: int
    extra: int


def attend(rows: Sequence[Tensor], blocks: tuple[Block, ...], *, dropout: float, scale: float) -> Tensor:
    """Softmax attention inside each sentence, (Q, A, D).

    Args:
        rows: queries, keys and values, (Q, A, D) each: the real tokens of all blocks, then the padding positions of all
            blocks, whose keys and values are not read and may be left out.
        blocks: the row's sentences, in order.
        dropout: share of the weights that is dropped.
        scale: factor of the scores.
    """
    heads = rows[0].shape[1]
    weights = sum(block.sentences * heads * block.length * (block.length + block.extra) for block in blocks)
    stays, factor = kept((weights,), dropout)
    return cast(Tensor, _Attention.apply(*rows, stays, blocks, scale, factor))


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        stays: Tensor,
        blocks: tuple[Block, ...],
        scale: float,
        factor: float,
    ) -> Tensor:
        out, weights = query.new_empty(query.shape), query.new_empty(stays.shape)
        for places in _walk(blocks, query.shape[1]):
            q, k, v = places.queries(query), places.tokens(key), places.tokens(value)
            scores = torch.baddbmm(q.new_empty(1), q, k.transpose(1, 2), beta=0, alpha=scale)
            weight = places.weights(weights)
            torch.softmax(scores, -1, out=weight)
            places.put_queries(out, thin(weight, places.weights(stays), factor) @ v)
        ctx.save_for_backward(query, key, value, weights, stays)
        ctx.blocks, ctx.scale, ctx.factor = blocks, scale, factor
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, weights, stays = ctx.saved_tensors
        to_query, to_key, to_value = (x.new_empty(x.shape) for x in (query, key, value))
        tokens = sum(block.sentences * block.length for block in ctx.blocks)
        for unread in (to_key, to_value):
            unread[tokens:] = 0
        for places in _walk(ctx.blocks, query.shape[1]):
            q, k, v, g = places.queries(query), places.tokens(key), places.tokens(value), places.queries(gradient)
            weight, mask = places.weights(weights), places.weights(stays)
            places.put_tokens(to_value, thin(weight, mask, ctx.factor).transpose(1, 2) @ g)
            to_weight = thin(g @ v.transpose(1, 2), mask, ctx.factor)
            to_scores = torch._softmax_backward_data(to_weight, weight, -1, weight.dtype).mul_(ctx.scale)
            places.put_queries(to_query, to_scores @ k)
            places.put_tokens(to_key, to_scores.transpose(1, 2) @ q)
        return to_query, to_key, to_value, None, None, None, None


class _Places(NamedTuple):
    """Where a block lies: its first real token, its first padding position, and all of its weights."""

    block: Block
    token: int
    padding: int
    weight: slice

    def tokens(self, rows: Tensor) -> Tensor:
        """The block's real tokens of (Q, A, D), copied: (n * A, l, D)."""
        return self._real(rows).transpose(1, 2).reshape(-1, self.block.length, rows.shape[-1])

    def queries(self, rows: Tensor) -> Tensor:
        """The block's real tokens and padding positions of (Q, A, D), copied: (n * A, m, D)."""
        if not self.block.extra:
            return self.tokens(rows)
        both = torch.cat([self._real(rows), self._padding(rows)], dim=1)  # (n, m, A, D)
        return both.transpose(1, 2).flatten(0, 1)

    def put_tokens(self, rows: Tensor, found: Tensor) -> None:
        """The opposite of `tokens`."""
        self._real(rows).copy_(found.unflatten(0, (self.block.sentences, -1)).transpose(1, 2))

    def put_queries(self, rows: Tensor, found: Tensor) -> None:
        """The opposite of `queries`."""
        length = self.block.length
        self.put_tokens(rows, found[:, :length])
        if self.block.extra:
            self._padding(rows).copy_(found[:, length:].unflatten(0, (self.block.sentences, -1)).transpose(1, 2))

    def weights(self, flat: Tensor) -> Tensor:
        """The block's part of all attention weights, a view (n * A, m, l)."""
        return flat[self.weight].view(-1, self.block.length + self.block.extra, self.block.length)

    def _real(self, rows: Tensor) -> Tensor:
        count, length, _ = self.block
        return rows[self.token : self.token + count * length].unflatten(0, (count, length))

    def _padding(self, rows: Tensor) -> Tensor:
        count, _, extra = self.block
        return rows[self.padding : self.padding + count * extra].unflatten(0, (count, extra))


def _walk(blocks: tuple[Block, ...], heads: int) -> Iterator[_Places]:
    token, weight = 0, 0
    padding = sum(block.sentences * block.length for block in blocks)
    for block in blocks:
        count, length, extra = block
        end = weight + count * heads * length * (length + extra)
        yield _Places(block, token, padding, slice(weight, end))
        token, padding, weight = token + count * length, padding + count * extra, end
