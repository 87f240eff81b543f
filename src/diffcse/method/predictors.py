"""Difference prediction: what the discriminator is asked about the edited sentence (Chuang et al., 2022, section 5.1).

Each predictor is a small class with one contract: the `head` on the discriminator, `where` it is asked, and the `loss`
and `figures` of its answers.

Legend: `N` rows, `K` tokens of the padded drafts, `M` positions that are asked about, `H` hidden, `V` vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from diffcse.config import ObjectiveConfig
from diffcse.method import objective
from diffcse.method.edits import EditedBatch


class Predictor(Protocol):
    """The contract of all predictors."""

    def head(self, backbone: PreTrainedModel) -> nn.Module:
        """The module that reads the discriminator's hidden states."""

    def where(self, edited: EditedBatch, attention_mask: Tensor) -> Tensor | None:
        """Positions that are asked about, (N, K) bool; None for all of the padded batch."""

    def count(self, edited: EditedBatch, attention_mask: Tensor) -> Tensor:
        """Positions that the mean runs over, scalar."""

    def loss(self, answers: Tensor, edited: EditedBatch, attention_mask: Tensor, count: Tensor) -> Tensor:
        """The difference prediction term, scalar; of a part of a batch, what it adds to the whole batch's term.

        Args:
            answers: of the head, (N, K, ...), or (M, ...) at `where`.
            edited: what was judged.
            attention_mask: (N, K), 1 at real tokens.
            count: positions of the whole mean, scalar. Processes hold different numbers of them, and DDP takes a plain
                mean over processes, so it is the mean of all processes' numbers.
        """

    def figures(self, answers: Tensor, edited: EditedBatch, attention_mask: Tensor) -> dict[str, Tensor]:
        """Shares to log, each as (how many, of how many), (2,), so that parts add up; arguments as for `loss`."""


@dataclass(frozen=True, kw_only=True)
class ReplacedTokenDetection:
    """Which tokens differ from the original sentence's (equation 3; the objective of ELECTRA, Clark et al., 2020).

    Attributes:
        average: positions of the mean: all of the padded batch (the reference), or the real tokens (the paper).
    """

    average: Literal["padded", "real"]

    def head(self, backbone: PreTrainedModel) -> nn.Module:
        """Two logits a token; index 1 means replaced."""
        return nn.Linear(int(backbone.config.hidden_size), 2)

    def where(self, edited: EditedBatch, attention_mask: Tensor) -> None:
        """Everywhere, [CLS] and padding too: so does the reference."""
        return

    def count(self, edited: EditedBatch, attention_mask: Tensor) -> Tensor:
        """All positions, or the real tokens."""
        return self._counted(edited, attention_mask).sum()

    def loss(self, answers: Tensor, edited: EditedBatch, attention_mask: Tensor, count: Tensor) -> Tensor:
        """Cross-entropy of logits (N, K, 2)."""
        counted = self._counted(edited, attention_mask)
        return objective.replaced_token_detection(answers, edited.replaced, counted, count)

    def figures(self, answers: Tensor, edited: EditedBatch, attention_mask: Tensor) -> dict[str, Tensor]:
        """How many tokens were replaced, and how many of them are found."""
        seen = objective.detection(answers.detach(), edited.replaced, attention_mask)
        return {
            "replaced_share": torch.stack([seen.replaced, seen.tokens]),
            "replaced_accuracy": torch.stack([seen.found, seen.replaced]),
            "original_accuracy": torch.stack([seen.left_alone, seen.tokens - seen.replaced]),
        }

    def _counted(self, edited: EditedBatch, attention_mask: Tensor) -> Tensor:
        return torch.ones_like(attention_mask) if self.average == "padded" else attention_mask


@dataclass(frozen=True, kw_only=True)
class TokenPrediction:
    """The original token itself, out of the vocabulary.

    Attributes:
        masked_only: at the masked positions, of a sentence in which nothing was filled in (conditional MLM; Yang et
            al., 2021), or at every position of x'' (corrective language modelling; Meng et al., 2021).
    """

    masked_only: bool

    def head(self, backbone: PreTrainedModel) -> nn.Module:
        """A language modelling head."""
        return LanguageModelHead(backbone)

    def where(self, edited: EditedBatch, attention_mask: Tensor) -> Tensor:
        """The masked positions, or all but the first, where the sentence vector is."""
        if self.masked_only:
            return edited.chosen
        real = attention_mask.bool().clone()
        real[:, 0] = False
        return real

    def count(self, edited: EditedBatch, attention_mask: Tensor) -> Tensor:
        """The tokens that are asked for."""
        return self.where(edited, attention_mask).sum()

    def loss(self, answers: Tensor, edited: EditedBatch, attention_mask: Tensor, count: Tensor) -> Tensor:
        """Cross-entropy of logits (M, V); 0 where nothing is asked."""
        targets = edited.original[self.where(edited, attention_mask)]
        return F.cross_entropy(answers, targets, reduction="sum") / count

    def figures(self, answers: Tensor, edited: EditedBatch, attention_mask: Tensor) -> dict[str, Tensor]:
        """How many of the tokens are predicted."""
        targets = edited.original[self.where(edited, attention_mask)]
        right = (answers.detach().argmax(-1) == targets).float()
        return {"token_accuracy": torch.stack([right.sum(), torch.ones_like(right).sum()])}


class LanguageModelHead(nn.Module):
    """Hidden states to logits over the vocabulary: a layer, then the backbone's own word vectors (as BERT's head).

    Args:
        backbone: its input embeddings (V, E) are the output weights too; they stay its parameters.
    """

    def __init__(self, backbone: PreTrainedModel) -> None:
        super().__init__()
        words = backbone.get_input_embeddings()
        assert isinstance(words, nn.Embedding)
        self._words = (words,)  # in a tuple, so that they are not registered a second time
        self.layer = nn.Linear(int(backbone.config.hidden_size), words.embedding_dim)
        self.norm = nn.LayerNorm(words.embedding_dim)
        self.bias = nn.Parameter(torch.zeros(words.num_embeddings))

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., H) -> (..., V)."""
        return F.linear(self.norm(F.gelu(self.layer(hidden))), self._words[0].weight, self.bias)


def build_predictor(settings: ObjectiveConfig) -> Predictor:
    """The predictor that the settings name."""
    if settings.predictor == "rtd":
        return ReplacedTokenDetection(average=settings.rtd_average)
    return TokenPrediction(masked_only=settings.predictor == "conditional_mlm")
