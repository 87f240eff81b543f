"""From token vectors to a sentence vector, and the projector between it and the losses.

Legend: `N` rows, `L` tokens, `H` hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diffcse.config import Pooler, Projector
from diffcse.kernels import packing


def encode(
    backbone: Any, input_ids: Tensor, attention_mask: Tensor, pooler: Pooler, *, padding_free: bool = False
) -> Tensor:
    """Sentence vectors (N, H), before any projector.

    Args:
        backbone: a Transformer encoder.
        input_ids: (N, L).
        attention_mask: (N, L), 1 at real tokens.
        pooler: cls, last (the last real token), avg (last layer), avg_top2 (mean of the last two layers) or
            avg_first_last (mean of the embedding layer's output and the last layer's), averages over real tokens.
        padding_free: compute nothing for padding, if the backbone's attention allows it; the vectors are the same.
    """
    if padding_free and packing.supports(backbone):
        return _encode_packed(backbone, input_ids, attention_mask, pooler)
    layers = pooler in ("avg_top2", "avg_first_last")
    output = backbone(input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=layers)
    if pooler == "cls":
        return output.last_hidden_state[:, 0]
    if pooler == "last":
        return output.last_hidden_state[_last(attention_mask)]
    if pooler == "avg":
        return mean(output.last_hidden_state, attention_mask)
    return mean(_two_layers(output, pooler), attention_mask)


def _encode_packed(backbone: Any, input_ids: Tensor, attention_mask: Tensor, pooler: Pooler) -> Tensor:
    layout = packing.Layout.of(attention_mask)
    with packing.packed(backbone):
        # Only [CLS] of the last layer is read, so only its row passes through most of that layer.
        first = packing.first_rows(backbone, layout, input_ids) if pooler == "cls" else None
        if first is not None:
            return first
        layers = pooler in ("avg_top2", "avg_first_last")
        output = backbone(**layout.inputs(backbone, input_ids), output_hidden_states=layers)
    if pooler == "cls":
        return output.last_hidden_state[0, layout.starts]
    if pooler == "last":
        return output.last_hidden_state[0, layout.place[_last(attention_mask)]]
    hidden = _two_layers(output, pooler) if layers else output.last_hidden_state
    return mean(layout.unpack(hidden), attention_mask)


def _last(attention_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Row and place of each sentence's last real token in (N, L), padded on the right."""
    return torch.arange(len(attention_mask), device=attention_mask.device), attention_mask.sum(1) - 1


def _two_layers(output: Any, pooler: Pooler) -> Tensor:
    other = output.hidden_states[-2 if pooler == "avg_top2" else 0]
    return (other + output.last_hidden_state) / 2


def mean(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """Mean over the real tokens of (N, L, H): (N, H)."""
    weight = attention_mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weight).sum(1) / weight.sum(1)


class DenseLayers(nn.Module):
    """Layers of the start between its pooling and the end, (N, H) -> (N, O): what the saved model will compute too.

    The losses see what comes out of them, so they are trained with the encoder.

    Args:
        layers: modules of sentence-transformers' contract, such as its Dense.
        width: O.
    """

    def __init__(self, layers: Sequence[nn.Module], width: int) -> None:
        super().__init__()
        self.layers, self.width = nn.ModuleList(layers), width

    def forward(self, pooled: Tensor) -> Tensor:
        """The sentence vectors."""
        features = {"sentence_embedding": pooled}
        for layer in self.layers:
            features = layer(features)
        return features["sentence_embedding"]


def build_projector(kind: Projector, hidden: int) -> nn.Module:
    """The head between pooler and losses, (N, H) -> (N, H).

    bn: Linear(H, 2H) without bias, BatchNorm, ReLU, Linear(2H, H) without bias, BatchNorm without affine (Chuang et
    al., 2022, appendix A; the head of SimSiam and Barlow Twins). tanh: Linear(H, H) and tanh (Gao et al., 2021).
    """
    if kind == "none":
        return nn.Identity()
    if kind == "tanh":
        return nn.Sequential(nn.Linear(hidden, hidden), nn.Tanh())
    return nn.Sequential(
        nn.Linear(hidden, 2 * hidden, bias=False),
        nn.BatchNorm1d(2 * hidden),
        nn.ReLU(inplace=True),
        nn.Linear(2 * hidden, hidden, bias=False),
        nn.BatchNorm1d(hidden, affine=False),
    )
