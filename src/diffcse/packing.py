"""The padding-free forward: the tokens of a batch in one row through every layer; only attention sees sentences.

Legend: `N` sentences, `L` tokens of the padded batch, `T` tokens without padding, `H` hidden, `A` heads, `D` width of a
head.

Linear layers, norms, embeddings and activations work on single tokens, so they need not know where a sentence ends.
Attention does: transformers' `AttentionInterface` lets a registered function take the packed tensors, and ours cuts
them into sentences. The sentences of one length lie side by side, so that each length is one dense attention without
a mask and without a copy.
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

_NAME = "diffcse_packed"
# Bidirectional encoders whose attention hands over queries, keys and values and nothing else; each is in the tests.
_FAMILIES = ("bert", "roberta", "xlm-roberta", "distilbert", "electra", "modernbert")

log = logging.getLogger(__name__)
_told: set[str] = set()
_one_at_a_time = threading.RLock()


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where each token of a padded batch lies in the packed row.

    Attributes:
        index: place in the flattened padded batch of each packed token, (T,).
        place: place in the packed row of each token of the padded batch, (N, L); 0 at padding.
        starts: place in the packed row of each sentence's first token, (N,).
        groups: (sentences, tokens of each) of each length, in the order of the packed row.
    """

    index: Tensor
    place: Tensor
    starts: Tensor
    groups: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, attention_mask: Tensor) -> Layout:
        """The layout of a batch that is padded on the right.

        Args:
            attention_mask: (N, L), 1 at real tokens; every sentence has one at least.
        """
        count, length = attention_mask.shape
        lengths = attention_mask.sum(1).cpu()  # the only wait for the device
        order = torch.argsort(lengths, descending=True, stable=True)
        sizes, counts = torch.unique_consecutive(lengths[order], return_counts=True)
        row = order.repeat_interleave(lengths[order])  # (T,)
        first = lengths[order].cumsum(0) - lengths[order]  # (N,), in packed order
        column = torch.arange(len(row)) - first.repeat_interleave(lengths[order])
        index = row * length + column
        place = torch.zeros(count * length, dtype=torch.long)
        place[index] = torch.arange(len(row))
        starts = torch.empty(count, dtype=torch.long)
        starts[order] = first
        device = attention_mask.device
        return cls(
            index=index.to(device),
            place=place.view(count, length).to(device),
            starts=starts.to(device),
            groups=tuple(zip(counts.tolist(), sizes.tolist(), strict=True)),
        )

    def pack(self, padded: Tensor) -> Tensor:
        """(N, L, ...) -> (1, T, ...)."""
        return padded.flatten(0, 1)[self.index].unsqueeze(0)

    def unpack(self, packed: Tensor) -> Tensor:
        """(1, T, ...) -> (N, L, ...), zeros at the padding."""
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


def supports(model: PreTrainedModel) -> bool:
    """Whether the model can take packed rows; says once if it cannot.

    MPNet and DeBERTa add position terms of their own inside attention and keep the padded forward; so does every model
    that this was not tried with (a causal one would be wrong without a word).
    """
    known = model.config.model_type in _FAMILIES and not getattr(model.config, "is_decoder", False)
    if known and getattr(model, "_supports_attention_backend", False):
        return True
    kind = type(model).__name__
    if kind not in _told:
        _told.add(kind)
        log.info("%s has an attention of its own: its batches keep their padding", kind)
    return False


@contextlib.contextmanager
def packed(model: PreTrainedModel) -> Iterator[None]:
    """The model's attention takes packed rows while the context lasts; padded batches of other threads stay right.

    One thread at a time: the choice of an attention stands in the model's settings, which all threads share.
    """
    config = model.config
    with _one_at_a_time:
        before = config._attn_implementation
        config._attn_implementation = _NAME
        try:
            yield
        finally:
            config._attn_implementation = before


def checkpoint_layers(model: PreTrainedModel, *, padding_free: bool) -> None:
    """Keep only each layer's input for the backward pass, and make a packed row again as a packed row.

    Raises:
        UserError: for a model that transformers cannot do this with.
    """
    if not model.supports_gradient_checkpointing:
        do = "use rows_at_once, which works for every encoder"
        raise UserError("gradient_checkpointing", "off for this encoder", type(model).__name__, do)
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
        backbone: its attention must be `packed`.
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
    """N queries (N, A, D), one a sentence in the batch's order, attend to keys and values (T, A, D): (N, A, D)."""
    order = torch.argsort(layout.starts)  # sentences as they lie in the packed row
    query, out, sentence, token = query[order], [], 0, 0
    for count, length in layout.groups:
        q = query[sentence : sentence + count].unsqueeze(2)  # (n, A, 1, D)
        k, v = (_sentences(x, token, count, length) for x in (key, value))
        out.append(F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scale).squeeze(2))
        sentence, token = sentence + count, token + count * length
    return torch.cat(out)[torch.argsort(order)]


def _sentences(tokens: Tensor, start: int, count: int, length: int) -> Tensor:
    """`count` sentences of `length` tokens out of (T, A, D), as a view (count, A, length, D)."""
    return tokens[start : start + count * length].unflatten(0, (count, length)).transpose(1, 2)


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
        own = ALL_ATTENTION_FUNCTIONS["sdpa"]
        found: tuple[Tensor, None] = own(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return found
    rows = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]  # (T, A, D)
    out, start = [], 0
    for count, length in layout.groups:
        q, k, v = (_sentences(x, start, count, length) for x in rows)  # (n, A, l, D)
        near = _near(length, window, q.device)
        context = F.scaled_dot_product_attention(q, k, v, attn_mask=near, dropout_p=dropout, scale=scaling)
        out.append(context.transpose(1, 2).flatten(0, 1))
        start += count * length
    return torch.cat(out).unsqueeze(0), None


def _near(length: int, window: int | None, device: torch.device) -> Tensor | None:
    """(l, l), True where two tokens are less than `window` apart; None where all are."""
    if window is None or length <= window:
        return None
    place = torch.arange(length, device=device)
    return (place[:, None] - place[None, :]).abs() < window


AttentionInterface.register(_NAME, attend)
AttentionMaskInterface.register(_NAME, sdpa_mask)  # for padded batches; without an attention mask it builds none
