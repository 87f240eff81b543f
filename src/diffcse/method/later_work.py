"""What later papers add to the contrastive loss: a list of small objects with one contract, empty by default.

A `Later` may ask for further vectors of each sentence (`rows`), change the logits of InfoNCE (`logits`), and add a
weighted term to the loss (`term`). `build_later` makes the list from `ExtensionConfig`; the mathematics is in pure
functions at the end of the file.

Legend: `B` instances of all processes (of this process in a `Step`), `S` sentences of an instance, `C` candidates, `H`
hidden, `Q` vectors of the queue.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffcse import distributed
from diffcse.config import Config
from diffcse.method import pooling
from diffcse.method.edits import EditedBatch
from diffcse.method.objective import cosine

if TYPE_CHECKING:
    from diffcse.method.model import DiffCSEModel


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a `Later` may read of a step before the losses.

    Attributes:
        model: the training module.
        input_ids: (B, S, L).
        attention_mask: (B, S, L), 1 at real tokens.
        edited: the edits and their mask, (N, K); None if nothing is edited.
        identity: (B, I) int64, see `SameText`; None where only the place in the batch tells sentences apart.
    """

    model: DiffCSEModel
    input_ids: Tensor
    attention_mask: Tensor
    edited: tuple[EditedBatch, Tensor] | None
    identity: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Sentences:
    """The vectors of a step, of all processes.

    Attributes:
        views: projected, (B, S, H).
        further: projected, (B, H) each: what the list's `rows` asked for, by name. Two names are special: `positive`
            is one more positive of the first view, which the contrastive loss is averaged over, and `negative` its hard
            negative.
        guide: what likeness is judged by, (B, H'), without gradient: the teacher's vectors, else the encoder's own.
        identity: (B, I) int64, see `SameText`, or None.
    """

    views: Tensor
    further: dict[str, Tensor]
    guide: Tensor
    identity: Tensor | None = None


class Later:
    """The contract; a method that is not overridden changes nothing.

    Attributes:
        name: of the term, in the log.
        weight: of the term, in the loss.
    """

    name: str = ""
    weight: float = 0.0

    def rows(self, step: Step) -> dict[str, Tensor]:
        """Further vectors of this process's sentences before the projector, (B, 1, H) each, by name."""
        return {}

    def logits(self, logits: Tensor, sentences: Sentences) -> Tensor:
        """The logits (B, C) of InfoNCE, changed or with more columns; the positive stays on the diagonal."""
        return logits

    def term(self, step: Step, sentences: Sentences) -> Tensor | None:
        """A further term of the loss, scalar, before its weight; called after the logits of the step are done."""
        return None


def build_later(config: Config, queue: Queue | None) -> tuple[Later, ...]:
    """The list that the settings ask for, in the order in which it changes the logits; empty by default."""
    extra, temperature = config.extensions, config.objective.temperature
    largest = extra.false_negative_cosine
    choices: list[tuple[bool, Later]] = [
        (extra.edits_as != "none", EditsAs(extra.edits_as.removesuffix("s"))),
        (extra.negatives_without_dropout, NegativesWithoutDropout(temperature=temperature)),
        (largest < 1, TrueNegatives(largest_cosine=largest)),
        (config.views.view == "neighbours", SameText()),
        (extra.dimension_weight > 0, Dimensions(extra.dimension_weight, extra.dimension_temperature)),
        (
            extra.ranking_weight > 0,
            Ranking(extra.ranking_weight, extra.ranking_temperature, extra.teacher_temperature),
        ),
    ]
    later = [each for asked, each in choices if asked]
    # Last, so that the columns of the batch keep their places in front of it.
    return (*later, QueuedNegatives(queue, temperature=temperature)) if queue is not None else tuple(later)


class EditsAs(Later):
    """The first view's edit is another positive, or a hard negative (ablations of Chuang et al., 2022, section 5.2).

    Args:
        role: `positive` or `negative`, see `Sentences`.
    """

    def __init__(self, role: str) -> None:
        self.role = role

    def rows(self, step: Step) -> dict[str, Tensor]:
        """The edit of each first view, read by the encoder; nothing in a step without edits."""
        if step.edited is None:
            return {}
        edited, mask = step.edited
        first = [rows.unflatten(0, (len(step.input_ids), -1))[:, :1] for rows in (edited.input_ids, mask)]
        return {self.role: step.model.pool(*first)}


class NegativesWithoutDropout(Later):
    """A sentence meets its negatives without dropout (SimCSE++; Xu et al., 2023)."""

    def __init__(self, *, temperature: float) -> None:
        self.temperature = temperature

    def rows(self, step: Step) -> dict[str, Tensor]:
        """The first views in evaluation mode."""
        return {"plain": step.model.pool(step.input_ids[:, :1], step.attention_mask[:, :1], dropout=False)}

    def logits(self, logits: Tensor, sentences: Sentences) -> Tensor:
        """(B, C), see `without_dropout`."""
        return without_dropout(logits, sentences.further["plain"].float(), temperature=self.temperature)


class TrueNegatives(Later):
    """Sentences that are too alike are no negatives of each other (Zhou et al., 2022)."""

    def __init__(self, *, largest_cosine: float) -> None:
        self.largest_cosine = largest_cosine

    def logits(self, logits: Tensor, sentences: Sentences) -> Tensor:
        """(B, C), see `keep_true_negatives`."""
        return keep_true_negatives(logits, sentences.guide.float(), largest_cosine=self.largest_cosine)


class SameText(Later):
    """Spans of one document, and equal texts, are no negatives of each other.

    Each instance has some numbers: a digest of its document and one of each view's tokens. Two instances that share a
    number are never set against each other.
    """

    def logits(self, logits: Tensor, sentences: Sentences) -> Tensor:
        """(B, C) with -inf at such pairs; the very same logits where there is none."""
        assert sentences.identity is not None, "the batches of documents have an identity"
        same = sharing(sentences.identity)
        # On a GPU the question would cost a wait for the device; the answer changes no number.
        if same.device.type == "cpu" and not bool(same.any()):
            return logits
        # With hard negatives a second block of B columns belongs to the same instances.
        return logits.masked_fill(same.repeat(1, logits.shape[1] // len(logits)), -torch.inf)


class Dimensions(Later):
    """The contrast between dimensions (SimCSE++; Xu et al., 2023)."""

    name = "dimensions"

    def __init__(self, weight: float, temperature: float) -> None:
        self.weight, self.temperature = weight, temperature

    def term(self, step: Step, sentences: Sentences) -> Tensor:
        """See `between_dimensions`."""
        with in_float32(sentences.views):
            return between_dimensions(*sentences.views.float().unbind(1)[:2], temperature=self.temperature)


class Ranking(Later):
    """The distillation of a teacher's ranking of the batch (RankCSE; Liu et al., 2023)."""

    name = "ranking"

    def __init__(self, weight: float, temperature: float, teacher_temperature: float) -> None:
        self.weight, self.temperature, self.teacher_temperature = weight, temperature, teacher_temperature

    def term(self, step: Step, sentences: Sentences) -> Tensor:
        """See `ranking`."""
        z1, z2 = sentences.views.float().unbind(1)[:2]
        t, teachers = self.temperature, self.teacher_temperature
        with in_float32(sentences.views):
            return ranking(z1, z2, sentences.guide.float(), temperature=t, teacher_temperature=teachers)


class QueuedNegatives(Later):
    """Earlier sentences, as a moving average of the encoder saw them, are further negatives (MoCo; He et al., 2020)."""

    def __init__(self, queue: Queue, *, temperature: float) -> None:
        self.queue, self.temperature = queue, temperature

    def logits(self, logits: Tensor, sentences: Sentences) -> Tensor:
        """(B, C + Q)."""
        return with_queue(logits, sentences.views[:, 0].float(), self.queue.filled(), temperature=self.temperature)

    @torch.no_grad()
    def term(self, step: Step, sentences: Sentences) -> None:
        """No term: puts the first views into the queue, after the logits, so that no sentence is its own negative."""
        model = step.model
        if model.average is None or not model.training:
            return
        ids, mask = step.input_ids[:, 0], step.attention_mask[:, 0]
        with evaluating(model.average), evaluating(model.projector):
            vectors = pooling.encode(model.average, ids, mask, model.pooler, padding_free=model.padding_free)
            self.queue.push(model.projector(distributed.gather_with_gradient(vectors)))


class Queue(nn.Module):
    """The last `size` vectors that were pushed, (Q, H); buffers, so that checkpoints hold them."""

    vectors: Tensor
    pushed: Tensor

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.zeros(size, hidden))
        self.register_buffer("pushed", torch.zeros((), dtype=torch.long))

    def filled(self) -> Tensor:
        """The vectors so far, (Q, H) at most; a copy, since the next push writes into them."""
        return self.vectors[: int(self.pushed)].clone()

    @torch.no_grad()
    def push(self, rows: Tensor) -> None:
        """Put (B, H) in, over the oldest."""
        size = len(self.vectors)
        rows = rows[-size:].to(self.vectors.dtype)
        place = (int(self.pushed) + torch.arange(len(rows), device=rows.device)) % size
        self.vectors[place] = rows
        self.pushed += len(rows)


def in_float32(tensor: Tensor) -> torch.autocast:
    """No autocast: it would make the products of the cosines in half precision, whatever the type of their inputs."""
    return torch.autocast(tensor.device.type, enabled=False)


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """The module in evaluation mode while the context lasts."""
    before = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(before)


def without_dropout(logits: Tensor, plain: Tensor, *, temperature: float) -> Tensor:
    """Logits whose in-batch negatives are compared without dropout (SimCSE++; Xu et al., 2023).

    logit_ij = cos(plain_i, plain_j) / t for i != j; the positive, logit_ii, keeps its dropout.

    Args:
        logits: (B, C) of `objective.contrastive`; the first B columns are the batch.
        plain: vectors of the batch without dropout, (B, H).
        temperature: t.
    """
    count = len(logits)
    diagonal = torch.eye(count, dtype=torch.bool, device=logits.device)
    batch = torch.where(diagonal, logits[:, :count], cosine(plain, plain) / temperature)
    return torch.cat([batch, logits[:, count:]], dim=1)


def between_dimensions(z1: Tensor, z2: Tensor, *, temperature: float) -> Tensor:
    """Each dimension is contrasted with the others over the batch (SimCSE++'s DCL; Xu et al., 2023).

    loss = -mean_c log( exp(r_cc/t) / sum_d exp(r_cd/t) ), r_cd the correlation of dimension c of z1 and d of z2. What
    keeps a temperature above 1 useful is that correlations are bounded by 1: the term only spreads dimensions gently.

    Args:
        z1: first views, (B, H).
        z2: second views, (B, H).
        temperature: t.
    """
    correlation = _standard(z1).T @ _standard(z2) / len(z1)  # (H, H)
    return F.cross_entropy(correlation / temperature, torch.arange(len(correlation), device=z1.device))


def sharing(identity: Tensor) -> Tensor:
    """(B, B) bool: which two instances of (B, I) share a number; an instance and itself do not count."""
    same = torch.zeros(len(identity), len(identity), dtype=torch.bool, device=identity.device)
    for mine in identity.unbind(1):
        for other in identity.unbind(1):
            same |= mine.unsqueeze(1) == other
    return same.fill_diagonal_(False)


def keep_true_negatives(logits: Tensor, vectors: Tensor, *, largest_cosine: float) -> Tensor:
    """Logits (B, C) with -inf where two sentences of the batch are too alike to be negatives (Zhou et al., 2022).

    Args:
        logits: the first B columns are the batch.
        vectors: what likeness is judged by, (B, H'), without gradient.
        largest_cosine: sentences whose cosine is above it are no negatives of each other.
    """
    count = len(logits)
    alike = cosine(vectors, vectors) > largest_cosine
    alike.fill_diagonal_(False)
    rest = alike.new_zeros(count, logits.shape[1] - count)
    return logits.masked_fill(torch.cat([alike, rest], dim=1), -torch.inf)


def ranking(z1: Tensor, z2: Tensor, teacher: Tensor, *, temperature: float, teacher_temperature: float) -> Tensor:
    """Cross-entropy of the student's ranking of the batch against a teacher's (ListNet in RankCSE; Liu et al., 2023).

    loss = -mean_i sum_{j != i} softmax_j(cos(u_i, u_j)/t') log softmax_j(cos(z1_i, z2_j)/t)

    Args:
        z1: first views, (B, H).
        z2: second views, (B, H).
        teacher: the teacher's vectors u of the same sentences, (B, H').
        temperature: t.
        teacher_temperature: t'.
    """
    ours = _others(cosine(z1, z2)) / temperature
    theirs = _others(cosine(teacher, teacher)) / teacher_temperature
    return -(theirs.softmax(-1) * ours.log_softmax(-1)).sum(-1).mean()


def with_queue(logits: Tensor, z1: Tensor, queue: Tensor, *, temperature: float) -> Tensor:
    """Logits (B, C + Q) with earlier sentences as further negatives (MoCo; He et al., 2020).

    Args:
        logits: (B, C).
        z1: first views, (B, H).
        queue: vectors of earlier sentences, (Q, H), without gradient.
        temperature: divisor of the cosines.
    """
    return torch.cat([logits, cosine(z1, queue) / temperature], dim=1)


def _standard(z: Tensor) -> Tensor:
    """Each dimension with mean 0 and variance 1 over the batch."""
    return F.batch_norm(z, None, None, training=True)


def _others(square: Tensor) -> Tensor:
    """(B, B) without its diagonal, (B, B - 1)."""
    count = len(square)
    return square.flatten()[1:].view(count - 1, count + 1)[:, :-1].reshape(count, count - 1)
