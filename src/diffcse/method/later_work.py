"""Contrastive losses of later work as pure functions on tensors, each off by default (see `ExtensionConfig`).

Legend: `B` instances, `C` candidates, `H` hidden, `Q` vectors of the queue.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from diffcse.method.objective import cosine


def without_dropout(logits: Tensor, plain: Tensor, *, temperature: float) -> Tensor:
    """Logits whose in-batch negatives are compared without dropout (SimCSE++; Xu et al., 2023).

    logit_ij = cos(plain_i, plain_j) / t for i != j; the positive, logit_ii, keeps its dropout.

    Args:
        logits: (B, C) of `objective.contrastive`; the first B columns are the batch.
        plain: vectors of the batch without dropout, (B, H).
        temperature: t.
    """
    count = len(logits)
    own = torch.eye(count, dtype=torch.bool, device=logits.device)
    batch = torch.where(own, logits[:, :count], cosine(plain, plain) / temperature)
    return torch.cat([batch, logits[:, count:]], dim=1)


def between_dimensions(z1: Tensor, z2: Tensor, *, temperature: float) -> Tensor:
    """Each dimension is told from the others by its course over the batch (SimCSE++'s DCL; Xu et al., 2023).

    loss = -mean_c log( exp(r_cc/t) / sum_d exp(r_cd/t) ), r_cd the correlation of dimension c of z1 and d of z2. What
    keeps a temperature above 1 useful is that correlations are bounded by 1: the term only spreads dimensions gently.

    Args:
        z1: first views, (B, H).
        z2: second views, (B, H).
        temperature: t.
    """
    correlation = _standard(z1).T @ _standard(z2) / len(z1)  # (H, H)
    return F.cross_entropy(correlation / temperature, torch.arange(len(correlation), device=z1.device))


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
