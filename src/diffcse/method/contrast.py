"""The contrastive side of a step: the plain loss, and what the switches from later work make of it.

Legend: `B` instances of all processes, `S` sentences of an instance, `H` hidden, `Q` vectors of the queue.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffcse.config import Config
from diffcse.method import later_work, objective


@dataclass(frozen=True, kw_only=True)
class Sentences:
    """The vectors of a batch; what the settings do not ask for is absent.

    Attributes:
        views: projected, (B, S, H).
        edited: the first view's edit, projected, (B, H).
        plain: the first view without dropout, projected, (B, H).
        guide: what likeness is judged by, (B, H'), without gradient: the teacher's vectors, else the encoder's own.
    """

    views: Tensor
    edited: Tensor | None = None
    plain: Tensor | None = None
    guide: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Scalars of the contrastive side.

    Attributes:
        loss: the weighted sum, with gradient.
        contrast: the contrastive term, before its weight.
        dimensions: the contrast between dimensions, before its weight.
        ranking: the distillation of the teacher's ranking, before its weight.
        plain: the plain contrast, whose cosines are logged.
    """

    loss: Tensor
    contrast: Tensor
    dimensions: Tensor | None
    ranking: Tensor | None
    plain: objective.Contrast


class ContrastiveSide(nn.Module):
    """Vectors to contrastive terms; its only state is the queue.

    Args:
        config: the run's settings; `objective` and `extensions` are read.
        hidden: width of the vectors.
    """

    def __init__(self, config: Config, hidden: int) -> None:
        super().__init__()
        self.settings, self.extensions = config.objective, config.extensions
        size = config.extensions.queue_size
        self.queue = Queue(size, hidden) if size else None

    def plain(self, views: Tensor) -> objective.Contrast:
        """The published loss of (B, S, H), in float32 whatever the precision of the forward pass."""
        z1, z2, *z3 = views.float().unbind(1)
        weight, temperature = self.settings.hard_negative_weight, self.settings.temperature
        with _in_full(views):
            return objective.contrastive(z1, z2, *z3, temperature=temperature, hard_negative_weight=weight)

    def forward(self, sentences: Sentences) -> Terms:
        """All terms of a batch, in float32."""
        with _in_full(sentences.views):
            return self._terms(sentences)

    def _terms(self, sentences: Sentences) -> Terms:
        extra, views = self.extensions, sentences.views
        if extra.edits_as == "negatives" and sentences.edited is not None:
            views = torch.cat([views, sentences.edited.unsqueeze(1)], dim=1)
        plain = self.plain(views)
        contrast = self._extended(plain, sentences)
        if extra.edits_as == "positives" and sentences.edited is not None:
            other = self.plain(torch.stack([views[:, 0], sentences.edited], dim=1))
            contrast = (contrast + self._extended(other, sentences)) / 2
        loss = self.settings.contrastive_weight * contrast
        z1, z2 = views.float().unbind(1)[:2]
        dimensions = ranking = None
        if extra.dimension_weight:
            dimensions = later_work.between_dimensions(z1, z2, temperature=extra.dimension_temperature)
            loss = loss + extra.dimension_weight * dimensions
        if extra.ranking_weight and sentences.guide is not None:
            ranking = later_work.ranking(
                z1,
                z2,
                sentences.guide.float(),
                temperature=extra.ranking_temperature,
                teacher_temperature=extra.teacher_temperature,
            )
            loss = loss + extra.ranking_weight * ranking
        return Terms(loss=loss, contrast=contrast, dimensions=dimensions, ranking=ranking, plain=plain)

    def _extended(self, plain: objective.Contrast, sentences: Sentences) -> Tensor:
        """The contrastive loss on logits that the switches have changed; the published one if none has."""
        logits, extra, temperature = plain.logits, self.extensions, self.settings.temperature
        if extra.negatives_without_dropout and sentences.plain is not None:
            logits = later_work.without_dropout(logits, sentences.plain.float(), temperature=temperature)
        if extra.false_negative_cosine < 1 and sentences.guide is not None:
            largest = extra.false_negative_cosine
            logits = later_work.keep_true_negatives(logits, sentences.guide.float(), largest_cosine=largest)
        if self.queue is not None:
            z1 = sentences.views[:, 0].float()
            logits = later_work.with_queue(logits, z1, self.queue.filled(), temperature=temperature)
        if logits is plain.logits:
            return plain.loss
        return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def _in_full(tensor: Tensor) -> torch.autocast:
    """No autocast: it would make the products of the cosines in half precision, whatever their inputs are."""
    return torch.autocast(tensor.device.type, enabled=False)


class Queue(nn.Module):
    """The last vectors that were pushed; buffers, so that checkpoints hold them.

    Args:
        size: vectors that it holds.
        hidden: their width.
    """

    vectors: Tensor
    pushed: Tensor

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.zeros(size, hidden))
        self.register_buffer("pushed", torch.zeros((), dtype=torch.long))

    def filled(self) -> Tensor:
        """What it holds so far, (Q, H) at most; a copy, since the next push writes into it."""
        return self.vectors[: int(self.pushed)].clone()

    @torch.no_grad()
    def push(self, rows: Tensor) -> None:
        """Put (B, H) in, over the oldest."""
        size = len(self.vectors)
        rows = rows[-size:].to(self.vectors.dtype)
        place = (int(self.pushed) + torch.arange(len(rows), device=rows.device)) % size
        self.vectors[place] = rows
        self.pushed += len(rows)
