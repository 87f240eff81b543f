"""Stands for the padded forward: the tokens of a batch in one row, padding left out; only attention sees sentences.

It gains most of the step's 1.3 to 4 times (docs/performance.md).

Legend: `N` sentences, `L` tokens of the padded batch, `T` tokens without padding, `H` hidden, `A` heads, `D` width of a
head.

Linear layers, norms, embeddings and activations work on single tokens, so they need not know where a sentence ends.
Attention does: transformers' `AttentionInterface` lets a registered function take the packed tensors, and ours cuts
them into sentences. The sentences of one length are neighbours, so that each length is one dense attention without a
mask and without a copy.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from diffcse.errors import UserError
from diffcse.kernels import attention, varlen
from diffcse.kernels.attention import Block, lay_out
from diffcse.kernels.dropout import suits
from diffcse.kernels.gradient_cache import require_repeatable_dropout
from diffcse.kernels.varlen import Segments
from diffcse.kernels.waits import here, send

_NAME = "diffcse_packed"
# Bidirectional encoders whose attention hands over queries, keys and values and nothing else; each is in the tests.
_FAMILIES = ("bert", "roberta", "xlm-roberta", "distilbert", "electra", "modernbert")
# Parts of the names of attention functions in transformers that take `dropout` and do nothing with it.
_NO_DROPOUT = ("flash_attention_3", "flash_attention_4", "flash-attn3", "flash-attn4", "flex", "paged", "varlen")

log = logging.getLogger(__name__)
_announced: set[str] = set()
_one_at_a_time = threading.RLock()


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where each token of a padded batch lies in the packed row; all offsets are computed here, once a batch.

    Attributes:
        index: place in the flattened padded batch of each packed token, (T,).
        place: place in the packed row of each token of the padded batch, (N, L); 0 at padding.
        starts: place in the packed row of each sentence's first token, (N,).
        order: the sentences in the order of the packed row, longest first, (N,).
        rank: place of each sentence in that order, (N,).
        groups: the sentences of each length, in the order of the packed row.
        segments: the sentences for `varlen`, off the CPU: of the real tokens, of the first token of each, and of the
            padding positions; the last is None if no padding asks.
    """

    index: Tensor
    place: Tensor
    starts: Tensor
    order: Tensor
    rank: Tensor
    groups: tuple[Block, ...]
    segments: tuple[Segments, Segments, Segments | None] | None = None

    @classmethod
    def of(cls, attention_mask: Tensor, *, padding: bool = False) -> Layout:
        """The layout of a batch that is padded on the right.

        Args:
            attention_mask: (N, L), 1 at real tokens; every sentence has one at least.
            padding: append the padding positions, sentence by sentence in the same order, to the row: they ask the
                sentence's tokens in every layer and are never asked, as in a padded batch. T counts them too.
        """
        count, length = attention_mask.shape
        lengths = here(attention_mask).sum(1)
        # Longest first: sentences of one length are neighbours, and those without padding come before the others.
        order = torch.argsort(lengths, descending=True, stable=True)
        ordered = lengths[order]
        sizes, counts = torch.unique_consecutive(ordered, return_counts=True)
        first = ordered.cumsum(0) - ordered  # (N,), in packed order
        index = _flat_places(order, ordered, torch.zeros_like(ordered), length)
        if padding:
            index = torch.cat([index, _flat_places(order, length - ordered, ordered, length)])
        place = torch.zeros(count * length, dtype=torch.long)
        place[index] = torch.arange(len(index))
        starts = torch.empty(count, dtype=torch.long)
        starts[order] = first
        device, extra = attention_mask.device, [length - size if padding else 0 for size in sizes.tolist()]
        segments = None
        if varlen.may_suit(device):
            asking = ordered < length  # a suffix, since the longest come first
            more = Segments.of(length - ordered[asking], ordered[asking], device) if padding and asking.any() else None
            whole, first_tokens = (Segments.of(q, ordered, device) for q in (ordered, torch.ones_like(ordered)))
            segments = whole, first_tokens, more
        return cls(
            index=send(index, device),
            place=send(place.view(count, length), device),
            starts=send(starts, device),
            order=send(order, device),
            rank=send(torch.argsort(order), device),
            groups=lay_out(list(zip(counts.tolist(), sizes.tolist(), extra, strict=True))),
            segments=segments,
        )

    @property
    def tokens(self) -> int:
        """Real tokens of the row; padding positions follow them."""
        return self.groups[0].padding

    def pack(self, padded: Tensor) -> Tensor:
        """(N, L, ...) -> (1, T, ...)."""
        return padded.flatten(0, 1)[self.index].unsqueeze(0)

    def sentences(self, tokens: Tensor) -> list[Tensor]:
        """The sentences of each length out of (T, A, D), as views (n, A, l, D)."""
        real = [block.sentences * block.length for block in self.groups]
        # Split and not sliced: the gradient of a slice is a whole row of zeros.
        parts = tokens.split([*real, len(tokens) - sum(real)])
        return [part.unflatten(0, block[:2]).transpose(1, 2) for part, block in zip(parts, self.groups, strict=False)]

    def padding(self, tokens: Tensor) -> list[Tensor]:
        """The padding positions of the sentences of each length, as `sentences`; of no width where there are none."""
        extra = [block.sentences * block.extra for block in self.groups]
        parts = tokens.split([len(tokens) - sum(extra), *extra])[1:]
        shapes = [(block.sentences, block.extra) for block in self.groups]
        return [part.unflatten(0, shape).transpose(1, 2) for part, shape in zip(parts, shapes, strict=True)]

    def unpack(self, packed: Tensor) -> Tensor:
        """(1, T, ...) -> (N, L, ...), zeros at padding that is not in the row."""
        shape = self.place.shape
        out = packed.new_zeros(shape.numel(), *packed.shape[2:])
        return out.index_copy(0, self.index, packed[0]).unflatten(0, shape)

    def inputs(self, backbone: nn.Module, input_ids: Tensor) -> dict[str, Any]:
        """What a backbone, or a masked language model around it, takes for this batch of ids (N, L)."""
        return {
            "input_ids": self.pack(input_ids),
            "position_ids": self.pack(position_ids(backbone, input_ids)),
            "packing": self,
        }


def _flat_places(rows: Tensor, counts: Tensor, columns: Tensor, length: int) -> Tensor:
    """Places in a flattened (N, `length`) batch of `counts` neighbours in each row, from the column on."""
    first = counts.cumsum(0) - counts
    within = torch.arange(int(counts.sum())) - first.repeat_interleave(counts)
    return (rows * length + columns).repeat_interleave(counts) + within


def supports(model: PreTrainedModel) -> bool:
    """Whether the model can take packed rows; logs once if it cannot.

    MPNet and DeBERTa add their own position terms inside attention and keep the padded forward. So does every model
    that this was not tested with: a causal one, say, would be wrong in silence.
    """
    known = model.config.model_type in _FAMILIES and not getattr(model.config, "is_decoder", False)
    if known and getattr(model, "_supports_attention_backend", False):
        return True
    kind = type(model).__name__
    if kind not in _announced:
        _announced.add(kind)
        log.info("%s has its own attention: its batches keep their padding", kind)
    return False


@contextlib.contextmanager
def packed(model: PreTrainedModel) -> Iterator[None]:
    """The model's attention takes packed rows while the context lasts; padded batches of other threads stay right.

    One thread at a time: the name of the attention is part of the model's settings, which all threads share.
    """
    config = model.config
    with _one_at_a_time:
        before = config._attn_implementation
        config._attn_implementation = _NAME
        try:
            yield
        finally:
            config._attn_implementation = before


def require_attention_dropout(model: PreTrainedModel) -> None:
    """Refuse to train with an attention that leaves dropout out without a word: the views would be nearly the same.

    Raises:
        UserError: for FlashAttention 3 and 4, flex and paged attention, whose kernels have no dropout.
    """
    name = str(getattr(model.config, "_attn_implementation", "") or "")
    if any(part in name for part in _NO_DROPOUT):
        rule = "one with dropout (sdpa, eager or flash_attention_2) in training"
        raise UserError("attention implementation", rule, name, "load the model with attn_implementation='sdpa'")


def checkpoint_layers(model: PreTrainedModel, *, padding_free: bool) -> None:
    """Keep only each layer's input for the backward pass, and recompute a packed row as a packed row.

    Raises:
        UserError: for a model that transformers cannot do this with, and where the Trainer would put it on `mps`.
    """
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    require_repeatable_dropout(device, "gradient_checkpointing", "off")
    if not model.supports_gradient_checkpointing:
        do = "use rows_at_once, which works for every encoder"
        raise UserError("gradient_checkpointing", "off for this encoder", type(model).__name__, do)
    # The backward pass runs outside `packed`, so the recomputation must enter it again.
    again = packed if padding_free and supports(model) else contextlib.nullcontext
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    enable({"use_reentrant": False, "context_fn": lambda: (contextlib.nullcontext(), again(model))})


def position_ids(backbone: nn.Module, input_ids: Tensor) -> Tensor:
    """The positions that the backbone gives to a padded batch by itself, (N, L)."""
    embeddings: Any = getattr(backbone, "embeddings", None)
    if hasattr(embeddings, "create_position_ids_from_input_ids"):  # RoBERTa counts from the padding id's successor
        ids = embeddings.create_position_ids_from_input_ids(input_ids, embeddings.padding_idx)
        return cast(Tensor, ids)
    return torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)


def first_rows(backbone: PreTrainedModel, layout: Layout, input_ids: Tensor) -> Tensor | None:
    """Last hidden state of each sentence's first token, (N, H); the last layer computes no more than that needs.

    None for a backbone that is not built like BERT (BERT, RoBERTa, XLM-R and ELECTRA are).

    Args:
        backbone: inside `packed`.
        layout: of the batch.
        input_ids: (N, L).
    """
    if not _built_like_bert(backbone):
        return None
    parts: Any = backbone
    inputs = layout.inputs(backbone, input_ids)
    hidden = parts.embeddings(input_ids=inputs["input_ids"], position_ids=inputs["position_ids"])
    if getattr(parts, "embeddings_project", None) is not None:
        hidden = parts.embeddings_project(hidden)
    # Written out as BERT's own forward, since no hook can keep the last layer from computing every token.
    *earlier, last = parts.encoder.layer
    for layer in earlier:
        hidden = layer(hidden, None, packing=layout)
    first, attention = hidden[:, layout.starts], last.attention.self
    heads = (-1, int(attention.num_attention_heads), int(attention.attention_head_size))
    context = _attend_from_first(
        attention.query(first).view(heads),
        attention.key(hidden).view(heads),
        attention.value(hidden).view(heads),
        layout,
        dropout=attention.dropout.p if attention.training else 0.0,
        scale=attention.scaling,
    )
    attended = last.attention.output(context.reshape(first.shape), first)
    return cast(Tensor, last.feed_forward_chunk(attended)[0])


def _built_like_bert(backbone: PreTrainedModel) -> bool:
    layers = getattr(getattr(backbone, "encoder", None), "layer", None)
    if not isinstance(layers, nn.ModuleList) or not len(layers):
        return False
    attention = getattr(layers[-1], "attention", None)
    parts = [getattr(getattr(attention, "self", None), name, None) for name in ("query", "key", "value")]
    has_output = hasattr(attention, "output") and hasattr(layers[-1], "feed_forward_chunk")
    return has_output and all(isinstance(part, nn.Linear) for part in parts)


def _attend_from_first(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, *, dropout: float, scale: float
) -> Tensor:
    """N queries (N, A, D), one per sentence in the batch's order, attend to keys and values (T, A, D): (N, A, D)."""
    queries = query[layout.order]
    if layout.segments is not None and varlen.suits(query, None):
        return varlen.attend(queries, key, value, layout.segments[1], dropout=dropout, scale=scale)[layout.rank]
    parts = zip(
        queries.split([block.sentences for block in layout.groups]),
        layout.sentences(key),
        layout.sentences(value),
        strict=True,
    )
    out = [
        F.scaled_dot_product_attention(q.unsqueeze(2), k, v, dropout_p=dropout, scale=scale).squeeze(2)  # (n, A, D)
        for q, k, v in parts
    ]
    return torch.cat(out)[layout.rank]


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention inside each sentence of a packed row, in the form of transformers' attention functions.

    A padded batch (of another thread) comes without a layout and gets transformers' own attention.

    Args:
        module: the attention layer.
        query: (1, A, T, D), like `key` and `value`.
        key: see `query`.
        value: see `query`.
        attention_mask: None for a packed row, whose sentences hold no padding.
        dropout: share of the attention weights that is dropped.
        scaling: factor of the scores; None takes 1 / sqrt(D).
        kwargs: `packing`, the layout; `sliding_window`, the distance from which tokens do not see each other.

    Returns:
        (1, T, A, D), and no weights.
    """
    layout, window = kwargs.get("packing"), kwargs.get("sliding_window")
    if layout is None:
        plain = ALL_ATTENTION_FUNCTIONS["sdpa"]
        result: tuple[Tensor, None] = plain(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return result
    rows = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]  # (T, A, D)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    # A window counts from the sentence's own positions, which `varlen` does not know of padding.
    if layout.segments is not None and varlen.suits(query, window) and not (window and layout.segments[2]):
        return _attend_at_once(rows, layout, window, dropout=dropout, scale=scale).unsqueeze(0), None
    if window is None and suits(query, dropout):
        return attention.attend(rows, layout.groups, dropout=dropout, scale=scale).unsqueeze(0), None
    return _attend_by_length(rows, layout, window, dropout=dropout, scale=scale).unsqueeze(0), None


def _attend_at_once(rows: list[Tensor], layout: Layout, window: int | None, *, dropout: float, scale: float) -> Tensor:
    """One call for all sentences, and one for the padding that asks them: (T, A, D)."""
    assert layout.segments is not None
    whole, _, padding = layout.segments
    queries, asking = rows[0].split([layout.tokens, len(rows[0]) - layout.tokens])
    keys, values = rows[1][: layout.tokens], rows[2][: layout.tokens]
    real = varlen.attend(queries, keys, values, whole, dropout=dropout, scale=scale, window=window)
    if padding is None:
        return real
    # The longest sentences have no padding and come first: their keys are skipped.
    first = next(block.token for block in layout.groups if block.extra)
    more = varlen.attend(asking, keys[first:], values[first:], padding, dropout=dropout, scale=scale)
    return torch.cat([real, more])


def _attend_by_length(
    rows: list[Tensor], layout: Layout, window: int | None, *, dropout: float, scale: float
) -> Tensor:
    """One dense attention a length over queries, keys and values (T, A, D): (T, A, D)."""
    real, padding = [], []
    queries = zip(layout.sentences(rows[0]), layout.padding(rows[0]), strict=True)
    keys, values = layout.sentences(rows[1]), layout.sentences(rows[2])
    for block, q, k, v in zip(layout.groups, queries, keys, values, strict=True):
        near = _near(block, window, k.device)
        both = torch.cat(q, dim=2) if block.extra else q[0]  # (n, A, m, D)
        context = F.scaled_dot_product_attention(both, k, v, attn_mask=near, dropout_p=dropout, scale=scale)
        context = context.transpose(1, 2)
        real.append(context[:, : block.length].flatten(0, 1))
        if block.extra:
            padding.append(context[:, block.length :].flatten(0, 1))
    return torch.cat(real + padding)


def _near(block: Block, window: int | None, device: torch.device) -> Tensor | None:
    """(m, l), True where two tokens are less than `window` apart; None where all are."""
    asking = block.length + block.extra
    if window is None or asking <= window:
        return None
    place = torch.arange(asking, device=device)
    return (place[:, None] - place[None, : block.length]).abs() < window


AttentionInterface.register(_NAME, attend)
AttentionMaskInterface.register(_NAME, sdpa_mask)  # for padded batches; without an attention mask it builds none
