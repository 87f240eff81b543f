"""The objective of DiffCSE as pure functions on tensors (Chuang et al., 2022, section 3).

A sentence x is encoded twice with different dropout masks: h = f(x), h+ = f(x). A frozen masked language model turns x
with some tokens masked, x', into x''. A discriminator D reads x'' and h and says which tokens were replaced.

    contrast = -log( exp(cos(h_i, h_i+)/t) / sum_j exp(cos(h_i, h_j+)/t) )   equation 1, `contrastive`
    rtd      = -sum_l log p( [x''_l = x_l] | D(x'', h) )                     equation 3, `replaced_token_detection`
    loss     = contrast + lambda * rtd                                       equation 4, `total`

Through rtd the encoder learns to put into h what x said: D cannot know otherwise which tokens of x'' are new.

Legend: `B` instances, `C` candidates (B, or 2B with hard negatives), `H` hidden, `N` rows of the discriminator, `L`
tokens of the padded batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """The contrastive term and what is logged about it.

    Attributes:
        loss: scalar.
        logits: (B, C), cosines over temperature, the hard negative's weight added.
        positive_cosine: mean cosine of the positive pairs, scalar.
        negative_cosine: mean cosine of the other in-batch pairs, scalar; None with one instance, which has none.
    """

    loss: Tensor
    logits: Tensor
    positive_cosine: Tensor
    negative_cosine: Tensor | None


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of every row of `a` (B, H) with every row of `b` (C, H): (B, C). A zero vector has cosine 0."""
    return F.normalize(a, dim=-1, eps=1e-8) @ F.normalize(b, dim=-1, eps=1e-8).T


def contrastive(
    z1: Tensor, z2: Tensor, z3: Tensor | None = None, *, temperature: float, hard_negative_weight: float = 0.0
) -> Contrast:
    """InfoNCE with in-batch negatives (equation 1; Gao et al., 2021).

    loss = -mean_i log( exp(cos(z1_i, z2_i)/t) / sum_j exp(cos(z1_i, z2_j)/t) ), and with hard negatives z3 the sum also
    runs over exp(cos(z1_i, z3_j)/t + w [i = j]). The reference adds the weight w to the logit; so do we.

    Args:
        z1: first views, (B, H).
        z2: second views, the positives, (B, H).
        z3: hard negatives, (B, H).
        temperature: divisor t of the cosines.
        hard_negative_weight: w.
    """
    cosines = cosine(z1, z2)  # (B, B)
    logits = cosines / temperature
    if z3 is not None:
        # The weight meets the sentence's own hard negative alone; those of others are plain in-batch negatives.
        weights = hard_negative_weight * torch.eye(len(z1), device=z1.device, dtype=logits.dtype)
        logits = torch.cat([logits, cosine(z1, z3) / temperature + weights], dim=1)  # (B, 2B)
    # Row i has its positive in column i, so InfoNCE is a cross-entropy whose classes are 0, 1, ..., B - 1.
    loss = F.cross_entropy(logits, torch.arange(len(z1), device=z1.device))
    positive, negative = mean_cosines(cosines.detach())
    return Contrast(loss=loss, logits=logits, positive_cosine=positive, negative_cosine=negative)


def mean_cosines(cosines: Tensor) -> tuple[Tensor, Tensor | None]:
    """Means of the diagonal and of the rest of (B, B) cosines; one instance has no rest (the reference gives 0/0)."""
    count = len(cosines)
    diagonal = cosines.diagonal()
    rest = (cosines.sum() - diagonal.sum()) / (count * (count - 1)) if count > 1 else None
    return diagonal.mean(), rest


def replaced_token_detection(logits: Tensor, replaced: Tensor, counted: Tensor, count: Tensor | None = None) -> Tensor:
    """Cross-entropy of "replaced or original" (equation 3; the objective of ELECTRA, Clark et al., 2020).

    loss = - sum_{n,l} c_nl log p_nl(replaced_nl) / sum_{n,l} c_nl

    Args:
        logits: (N, L, 2); index 1 means replaced.
        replaced: (N, L), 1 where x'' differs from x.
        counted: (N, L), 1 where a position enters the mean: everywhere in the reference, padding included with label 0;
            at the real tokens in the paper.
        count: divisor of the sum where these rows are only a part of it, scalar; None for that of these rows.
    """
    each = F.cross_entropy(logits.flatten(0, 1), replaced.flatten().long(), reduction="none")  # (N*L,)
    weight = counted.flatten().to(each.dtype)
    return (each * weight).sum() / (weight.sum() if count is None else count)


def total(contrast: Tensor, rtd: Tensor, lambda_weight: float) -> Tensor:
    """Contrast + lambda * rtd (equation 4)."""
    return contrast + lambda_weight * rtd


@dataclass(frozen=True, kw_only=True)
class Detection:
    """How well the discriminator does; scalars over real tokens. A share of nothing is 0, so that no log holds a NaN.

    Attributes:
        tokens: real tokens.
        replaced: those that were replaced.
        found: replaced tokens that it finds.
        left_alone: original tokens that it leaves alone.
    """

    tokens: Tensor
    replaced: Tensor
    found: Tensor
    left_alone: Tensor

    @property
    def replaced_share(self) -> Tensor:
        """Share of the real tokens that were replaced."""
        return self.replaced / self.tokens.clamp(min=1)

    @property
    def replaced_accuracy(self) -> Tensor:
        """Share of the replaced tokens that it finds."""
        return self.found / self.replaced.clamp(min=1)

    @property
    def original_accuracy(self) -> Tensor:
        """Share of the original tokens that it leaves alone."""
        return self.left_alone / (self.tokens - self.replaced).clamp(min=1)


def detection(logits: Tensor, replaced: Tensor, real: Tensor) -> Detection:
    """What the discriminator gets right at the real tokens.

    Args:
        logits: (N, L, 2).
        replaced: (N, L), 1 where x'' differs from x.
        real: (N, L), 1 at tokens, 0 at padding.
    """
    right = (logits.argmax(-1) == replaced.long()).float()
    changed = replaced.float() * real
    unchanged = (1 - replaced.float()) * real
    return Detection(
        tokens=real.float().sum(),
        replaced=changed.sum(),
        found=(right * changed).sum(),
        left_alone=(right * unchanged).sum(),
    )
