"""Stands for `packing._attend_by_length` on a CPU with dropout: no graph for every length, and less is kept.

PyTorch's fused attention has no dropout on a CPU, so it takes the plain path there: scaled copies of queries and keys,
weights before and after dropout and a mask of floats, all kept, for each length again. Here the backward pass is
written out, and a mask takes one byte for each weight.

Legend: `Q` rows, `A` heads, `D` width of a head; of one block `n` sentences of `l` tokens with `m` queries each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from diffcse.kernels.dropout import draw_mask, thin


class Block(NamedTuple):
    """Sentences of one length, and where they are in a packed row; `lay_out` computes them.

    Attributes:
        sentences: how many, n.
        length: real tokens of each, l.
        extra: padding positions of each that ask too, m - l.
        token: row of the first real token.
        padding: row of the first padding position.
        weight: attention weights of one head before this block.
    """

    sentences: int
    length: int
    extra: int
    token: int
    padding: int
    weight: int

    def tokens(self, rows: Tensor) -> Tensor:
        """The block's real tokens of (Q, A, D), copied: (n * A, l, D)."""
        return self._real(rows).transpose(1, 2).reshape(-1, self.length, rows.shape[-1])

    def queries(self, rows: Tensor) -> Tensor:
        """The block's real tokens and padding positions of (Q, A, D), copied: (n * A, m, D)."""
        if not self.extra:
            return self.tokens(rows)
        both = torch.cat([self._real(rows), self._padding(rows)], dim=1)  # (n, m, A, D)
        return both.transpose(1, 2).flatten(0, 1)

    def put_tokens(self, rows: Tensor, values: Tensor) -> None:
        """The opposite of `tokens`."""
        self._real(rows).copy_(values.unflatten(0, (self.sentences, -1)).transpose(1, 2))

    def put_queries(self, rows: Tensor, values: Tensor) -> None:
        """The opposite of `queries`."""
        self.put_tokens(rows, values[:, : self.length])
        if self.extra:
            self._padding(rows).copy_(values[:, self.length :].unflatten(0, (self.sentences, -1)).transpose(1, 2))

    def weights(self, flat: Tensor, heads: int) -> Tensor:
        """The block's part of all attention weights, a view (n * A, m, l)."""
        asking, start = self.length + self.extra, heads * self.weight
        end = start + heads * self.sentences * asking * self.length
        return flat[start:end].view(-1, asking, self.length)

    def _real(self, rows: Tensor) -> Tensor:
        end = self.token + self.sentences * self.length
        return rows[self.token : end].unflatten(0, (self.sentences, self.length))

    def _padding(self, rows: Tensor) -> Tensor:
        end = self.padding + self.sentences * self.extra
        return rows[self.padding : end].unflatten(0, (self.sentences, self.extra))


def lay_out(shapes: Sequence[tuple[int, int, int]]) -> tuple[Block, ...]:
    """Blocks one after the other, from (sentences, length, extra) of each: all real tokens, then all padding."""
    blocks, token, weight = [], 0, 0
    padding = sum(count * length for count, length, _ in shapes)
    for count, length, extra in shapes:
        blocks.append(Block(count, length, extra, token, padding, weight))
        token, padding = token + count * length, padding + count * extra
        weight += count * length * (length + extra)
    return tuple(blocks)


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
    stays, factor = draw_mask((weights,), dropout)
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
        """The attended values; keeps the weights and which of them dropout let through."""
        out, weights, heads = query.new_empty(query.shape), query.new_empty(stays.shape), query.shape[1]
        for block in blocks:
            q, k, v = block.queries(query), block.tokens(key), block.tokens(value)
            # With beta 0 the first argument is not read, so the scale costs no extra pass.
            scores = torch.baddbmm(q.new_empty(1), q, k.transpose(1, 2), beta=0, alpha=scale)
            weight = block.weights(weights, heads)
            torch.softmax(scores, -1, out=weight)
            block.put_queries(out, thin(weight, block.weights(stays, heads), factor) @ v)
        ctx.save_for_backward(query, key, value, weights, stays)
        ctx.blocks, ctx.scale, ctx.factor = blocks, scale, factor
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of query, key and value."""
        query, key, value, weights, stays = ctx.saved_tensors
        to_query, to_key, to_value = (x.new_empty(x.shape) for x in (query, key, value))
        heads = query.shape[1]
        for unread in (to_key, to_value):
            unread[ctx.blocks[0].padding :] = 0  # padding asks and is never asked
        for block in ctx.blocks:
            q, k, v, g = block.queries(query), block.tokens(key), block.tokens(value), block.queries(gradient)
            # Dropout is applied again instead of stored: one byte a weight is kept, not five.
            weight, mask = block.weights(weights, heads), block.weights(stays, heads)
            block.put_tokens(to_value, thin(weight, mask, ctx.factor).transpose(1, 2) @ g)
            to_weight = thin(g @ v.transpose(1, 2), mask, ctx.factor)
            to_scores = torch._softmax_backward_data(to_weight, weight, -1, weight.dtype).mul_(ctx.scale)
            block.put_queries(to_query, to_scores @ k)
            block.put_tokens(to_key, to_scores.transpose(1, 2) @ q)
        return to_query, to_key, to_value, None, None, None, None
