"""The generator: a frozen masked language model that proposes tokens, and the draw of one of its proposals.

Legend: `N` rows (instances times views), `L` tokens of the padded batch, `M` positions to fill, `E` width of the
generator, `V` vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from diffcse.kernels import packing
from diffcse.kernels.waits import here, send

_LOGITS_AT_ONCE = 1 << 24
"""Logits held at a time (float32: 64 MiB); argmax and sampling need no more than one chunk."""

_BLOCK = 64
"""Words among which the largest logit is looked for at once."""


class Generator(nn.Module):
    """A frozen masked language model; it predicts only the positions that are asked for, and keeps no gradient.

    Args:
        mlm: any `AutoModelForMaskedLM`.
        dropout: keep its dropout on in training mode, as the reference does.
        padding_free: compute nothing for padding, if the model's attention allows it.
    """

    def __init__(self, mlm: PreTrainedModel, *, dropout: bool, padding_free: bool = False) -> None:
        super().__init__()
        self.padding_free = padding_free and packing.supports(mlm)
        self.mlm: PreTrainedModel = mlm.requires_grad_(False)
        self.dropout = dropout
        self.train()

    def train(self, mode: bool = True) -> Generator:
        """Follow the training mode only if dropout stays on, as in the reference; the paper's reading has it off."""
        super().train(mode and self.dropout)
        return self

    @torch.no_grad()
    def logits(self, input_ids: Tensor, attention_mask: Tensor, where: Tensor) -> Iterator[Tensor]:
        """Logits at the positions in `where`, in order, in chunks of shape (m, V) that add up to M rows.

        Args:
            input_ids: x', (N, L).
            attention_mask: (N, L), 1 at real tokens.
            where: (N, L) bool, True at the M positions to predict; on the CPU, asking costs no wait for the device.
        """
        output_layer = self._output_layer()
        if output_layer is None:
            # The head is not one linear layer (DeBERTa-v3's, say): rows of the batch take the place of chunks.
            yield from self._logits_by_rows(input_ids, attention_mask, where)
            return
        for chunk in self._chunks(output_layer, input_ids, attention_mask, where):
            yield output_layer(chunk)

    @torch.no_grad()
    def likeliest(self, input_ids: Tensor, attention_mask: Tensor, where: Tensor) -> Tensor:
        """The id with the largest logit at each position in `where`, (M,); arguments as for `logits`."""
        output_layer = self._output_layer()
        if output_layer is None:
            return torch.cat([rows.argmax(-1) for rows in self._logits_by_rows(input_ids, attention_mask, where)])
        chunks = self._chunks(output_layer, input_ids, attention_mask, where)
        return torch.cat([_likeliest(output_layer, chunk) for chunk in chunks])

    def _chunks(
        self, output_layer: nn.Linear, input_ids: Tensor, attention_mask: Tensor, where: Tensor
    ) -> tuple[Tensor, ...]:
        """What enters the output layer at `where`, in parts (m, E) whose logits are not too many at a time."""
        hidden = self._before(output_layer, input_ids, attention_mask, where)  # (M, E)
        return hidden.split(max(1, _LOGITS_AT_ONCE // output_layer.out_features))

    def _output_layer(self) -> nn.Linear | None:
        layer = self.mlm.get_output_embeddings()
        is_head = isinstance(layer, nn.Linear) and layer.out_features == self.mlm.config.vocab_size
        return layer if is_head else None

    def _before(self, output_layer: nn.Linear, input_ids: Tensor, attention_mask: Tensor, where: Tensor) -> Tensor:
        """What enters the output layer at `where`, (M, E); the layer itself gets no rows while the model runs."""
        seen: list[Tensor] = []

        def take(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
            """Remember the input of the vocabulary's product, and give it nothing to do."""
            seen.append(inputs[0])
            return (inputs[0][:0],)  # no rows, so the product with the whole vocabulary costs nothing here

        # Positions and not a mask: how many rows a mask chooses is known only when the device has caught up.
        at = places(where, input_ids.device)  # (M,)
        handle = output_layer.register_forward_pre_hook(take)
        try:
            if not self.padding_free:
                self.mlm(input_ids=input_ids, attention_mask=attention_mask)
                return seen[0].flatten(0, 1)[at]
            layout = packing.Layout.of(attention_mask)
            with packing.packed(self.mlm):
                self.mlm(**layout.inputs(self.mlm.base_model, input_ids))
            return seen[0][0, layout.place.flatten()[at]]
        finally:
            handle.remove()

    def _logits_by_rows(self, input_ids: Tensor, attention_mask: Tensor, where: Tensor) -> Iterator[Tensor]:
        size = max(1, _LOGITS_AT_ONCE // (input_ids.shape[1] * self.mlm.config.vocab_size))
        for ids, mask, asked in zip(*(part.split(size) for part in (input_ids, attention_mask, where)), strict=True):
            yield self.mlm(input_ids=ids, attention_mask=mask).logits[asked]


def places(where: Tensor, device: torch.device) -> Tensor:
    """Places in the flattened batch that (N, L) is True at, in order, (M,) on the device."""
    return send(here(where).flatten().nonzero().squeeze(1), device)


def _likeliest(output_layer: nn.Linear, rows: Tensor) -> Tensor:
    """`output_layer(rows).argmax(-1)` for rows (m, E), with the vocabulary first: (m,).

    On a CPU the product of 30,000 words with 500 rows takes 0.6 of the time of the product of the rows with the words
    (0.8 with fresh memory and the search).
    The largest logit is looked for in two stages, since an index along the first dimension is slow to find there: the
    block of words that has it, then its place in the block.
    """
    weight, bias = output_layer.weight, output_layer.bias
    logits = weight @ rows.t() if bias is None else torch.addmm(bias.unsqueeze(1), weight, rows.t())  # (V, m)
    words, count = logits.shape
    block = min(_BLOCK, words)
    blocks = words // block
    largest = logits[: blocks * block].view(blocks, block, count).amax(1)
    largest = torch.cat([largest, logits[-block:].amax(0, keepdim=True)])  # the last words, some of them once more
    start = (largest.argmax(0) * block).clamp(max=words - block)  # (m,)
    within = logits.gather(0, start + torch.arange(block, device=start.device).unsqueeze(1))  # (block, m)
    return start + within.argmax(0)


def sample(logits: Tensor, uniform: Tensor) -> Tensor:
    """Draw one id a row by the inverse of the cumulative distribution: one uniform number decides each token.

    Args:
        logits: (m, V).
        uniform: (m,) numbers in [0, 1).
    """
    cumulative = logits.double().softmax(-1).cumsum(-1)
    target = uniform.double().unsqueeze(1) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True).squeeze(1).clamp(max=logits.shape[1] - 1)
