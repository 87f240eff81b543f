"""The contrastive side of a step: InfoNCE between the views, and the list of what later papers add to it.

Legend: `B` instances of all processes, `S` sentences of an instance, `H` hidden.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffcse.config import Config
from diffcse.method import objective
from diffcse.method.later_work import Queue, Sentences, Step, build_later, in_float32


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Scalars of the contrastive side.

    Attributes:
        loss: the weighted sum, with gradient.
        contrast: the contrastive term, before its weight.
        plain: the published contrast, whose cosines are logged.
        further: terms of later papers by name, before their weights.
    """

    loss: Tensor
    contrast: Tensor
    plain: objective.Contrast
    further: dict[str, Tensor]


class ContrastiveSide(nn.Module):
    """Vectors to contrastive terms; its only state is the queue of `QueuedNegatives`.

    Args:
        config: the run's settings; `objective` and `extensions` are read.
        hidden: width of the vectors.
    """

    def __init__(self, config: Config, hidden: int) -> None:
        super().__init__()
        self.settings, size = config.objective, config.extensions.queue_size
        self.queue = Queue(size, hidden) if size else None
        self.later = build_later(config, self.queue)

    def plain(self, views: Tensor) -> objective.Contrast:
        """The published loss of (B, S, H), in float32 whatever the precision of the forward pass."""
        z1, z2, *z3 = views.float().unbind(1)
        weight, temperature = self.settings.hard_negative_weight, self.settings.temperature
        with in_float32(views):
            return objective.contrastive(z1, z2, *z3, temperature=temperature, hard_negative_weight=weight)

    def forward(self, step: Step, sentences: Sentences) -> Terms:
        """All terms of a batch, in float32."""
        views, rows = sentences.views, sentences.further
        # The paper tries an edit in two more roles: as hard negative it is a third view, as positive a second h+.
        if "negative" in rows:
            views = torch.cat([views, rows["negative"].unsqueeze(1)], dim=1)
        plain = self.plain(views)
        contrast = self._with_later(plain, sentences)
        if "positive" in rows:
            other = self.plain(torch.stack([views[:, 0], rows["positive"]], dim=1))
            contrast = (contrast + self._with_later(other, sentences)) / 2
        loss, further = self.settings.contrastive_weight * contrast, {}
        for later in self.later:
            term = later.term(step, dataclasses.replace(sentences, views=views))
            if term is not None:
                loss = loss + later.weight * term
                further[later.name] = term
        return Terms(loss=loss, contrast=contrast, plain=plain, further=further)

    def _with_later(self, plain: objective.Contrast, sentences: Sentences) -> Tensor:
        """InfoNCE of the logits that the list has changed; the published loss itself if it changed none."""
        logits = plain.logits
        with in_float32(logits):
            for later in self.later:
                logits = later.logits(logits, sentences)
            if logits is plain.logits:  # DiffCSE itself: the published loss, not a second graph of the same value
                return plain.loss
            return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))
