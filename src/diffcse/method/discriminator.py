"""The discriminator: reads x'' with the sentence vector in place of its [CLS] embedding and finds the replaced tokens.

Legend: `N` rows, `L` tokens of the padded batch, `H` hidden.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import Tensor, nn
from transformers import PreTrainedModel

from diffcse.errors import UserError
from diffcse.kernels import packing


class Discriminator(nn.Module):
    """A Transformer conditioned on a sentence vector, with a head that answers a predictor's question.

    Args:
        backbone: a Transformer with an `embeddings` module, initialised from a checkpoint.
        head: reads its hidden states (see `predictors`); None for that of replaced token detection.
        sentence_size: width of the sentence vector; if it is not the backbone's, a linear layer adapts it.
        padding_free: compute nothing for padding, if the backbone's attention allows it; the hidden states at padding
            are then zero.
        padding_asked: the answers at padding count, so padding is computed too, but never attended to.
    """

    def __init__(
        self,
        backbone: PreTrainedModel,
        head: nn.Module | None = None,
        *,
        sentence_size: int | None = None,
        padding_free: bool = False,
        padding_asked: bool = False,
    ) -> None:
        super().__init__()
        self.backbone, self.padding_asked = backbone, padding_asked
        self.padding_free = padding_free and packing.supports(backbone)
        width = int(backbone.config.hidden_size)
        self.head = nn.Linear(width, 2) if head is None else head
        fits = sentence_size in (None, width)
        self.adapter = nn.Identity() if fits else nn.Linear(int(sentence_size or width), width)
        embedding_output(backbone)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, sentence: Tensor, where: Tensor | None = None
    ) -> Tensor:
        """The head's answers at every position, (N, L, ...), or at those in `where`, (M, ...).

        Replaced token detection gives two logits; index 1 means replaced.

        Args:
            input_ids: x'', (N, L).
            attention_mask: (N, L), 1 at real tokens.
            sentence: (N, H), with gradient: this is how the encoder learns from the edits.
            where: (N, L) bool, True at M positions; None for all.
        """
        hidden = self.hidden(input_ids, attention_mask, self.adapter(sentence))
        return self.head(hidden if where is None else hidden[where])

    def hidden(self, input_ids: Tensor, attention_mask: Tensor, sentence: Tensor) -> Tensor:
        """Last hidden states (N, L, H); arguments as for `forward`."""
        if not self.padding_free:
            with first_position(self.backbone, sentence):
                return self.backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        # The packed row holds all sentences, so their [CLS] places are the sentences' starts.
        layout = packing.Layout.of(attention_mask, padding=self.padding_asked)
        with packing.packed(self.backbone), first_position(self.backbone, sentence, layout.starts):
            return layout.unpack(self.backbone(**layout.inputs(self.backbone, input_ids)).last_hidden_state)


@contextlib.contextmanager
def first_position(backbone: nn.Module, vector: Tensor, places: Tensor | None = None) -> Iterator[None]:
    """Put `vector` (N, H) at position 0 of what the embedding layer gives, while the context lasts.

    After the layer, so after position embedding, LayerNorm and dropout, as in the reference; `inputs_embeds` would put
    it before them. A copy is changed, not the layer's own output.

    Args:
        backbone: a Transformer with an `embeddings` module.
        vector: (N, H).
        places: where each sentence starts in a packed row, (N,); None for a padded batch.
    """

    def replace(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """The embeddings with the sentence vector in place of [CLS]."""
        output = output.clone()  # autograd may still need what the embedding layer returned
        if places is None:
            output[:, 0] = vector.to(output.dtype)
        else:
            output[0, places] = vector.to(output.dtype)
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
