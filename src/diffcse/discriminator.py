"""The discriminator: reads x'' with the sentence vector in place of its [CLS] embedding and finds the replaced tokens.

Legend: `N` rows, `L` tokens of the padded batch, `H` hidden.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import Tensor, nn
from transformers import PreTrainedModel

from diffcse.errors import UserError


class Discriminator(nn.Module):
    """A Transformer conditioned on a sentence vector, with a two-way head (replaced token detection).

    Args:
        backbone: a Transformer with an `embeddings` module, initialised from the encoder's checkpoint.
    """

    def __init__(self, backbone: PreTrainedModel) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(int(backbone.config.hidden_size), 2)
        embedding_output(backbone)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, sentence: Tensor) -> Tensor:
        """Logits (N, L, 2); index 1 means replaced.

        Args:
            input_ids: x'', (N, L).
            attention_mask: (N, L), 1 at real tokens.
            sentence: (N, H), with gradient: this is how the encoder learns from the edits.
        """
        return self.head(self.hidden(input_ids, attention_mask, sentence))

    def hidden(self, input_ids: Tensor, attention_mask: Tensor, sentence: Tensor) -> Tensor:
        """Last hidden states (N, L, H); arguments as for `forward`."""
        with first_position(self.backbone, sentence):
            return self.backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


@contextlib.contextmanager
def first_position(backbone: nn.Module, vector: Tensor) -> Iterator[None]:
    """Put `vector` (N, H) at position 0 of what the embedding layer gives, while the context lasts.

    After the layer, so after position embedding, LayerNorm and dropout, as in the reference; `inputs_embeds` would put
    it before them. A copy is changed, not the layer's own output.
    """

    def replace(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> Tensor:
        output = output.clone()
        output[:, 0] = vector.to(output.dtype)
        return output

    handle = embedding_output(backbone).register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()


def embedding_output(backbone: nn.Module) -> nn.Module:
    """The module whose output enters the first layer: `embeddings`, or the projection after it (ELECTRA-small).

    Raises:
        UserError: for a Transformer without an `embeddings` module.
    """
    layer = getattr(backbone, "embeddings_project", None) or getattr(backbone, "embeddings", None)
    if not isinstance(layer, nn.Module):
        do = "use BERT, RoBERTa, XLM-R, DistilBERT, MPNet, ELECTRA, DeBERTa or ModernBERT, or objective simcse"
        raise UserError("encoder", "a Transformer with an embeddings module", type(backbone).__name__, do)
    return layer
