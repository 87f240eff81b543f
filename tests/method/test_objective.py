"""The objective against plain loops written from the formulas."""

from __future__ import annotations

import math

import pytest
import torch

from diffcse.method import objective


def _cos(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("weight", [0.0, 1.0])
@pytest.mark.parametrize("hard", [False, True])
def test_contrastive_equals_a_loop(count: int, weight: float, hard: bool) -> None:
    torch.manual_seed(count)
    z1, z2, z3 = torch.randn(3, count, 7, dtype=torch.float64)
    total = 0.0
    for i in range(count):
        scores = [math.exp(_cos(z1[i], z2[j]) / 0.05) for j in range(count)]
        if hard:
            scores += [math.exp(_cos(z1[i], z3[j]) / 0.05 + (weight if i == j else 0)) for j in range(count)]
        total -= math.log(scores[i] / sum(scores)) / count
    got = objective.contrastive(z1, z2, z3 if hard else None, temperature=0.05, hard_negative_weight=weight)
    assert float(got.loss) == pytest.approx(total, abs=1e-9)
    assert got.logits.shape == (count, 2 * count if hard else count)


def test_mean_cosines_and_no_negatives_with_one_instance() -> None:
    torch.manual_seed(0)
    z1, z2 = torch.randn(2, 3, 4)
    got = objective.contrastive(z1, z2, temperature=0.1)
    negatives = [_cos(z1[i], z2[j]) for i in range(3) for j in range(3) if i != j]
    assert float(got.positive_cosine) == pytest.approx(sum(_cos(z1[i], z2[i]) for i in range(3)) / 3, abs=1e-6)
    assert got.negative_cosine is not None
    assert float(got.negative_cosine) == pytest.approx(sum(negatives) / 6, abs=1e-6)
    assert objective.contrastive(z1[:1], z2[:1], temperature=0.1).negative_cosine is None


@pytest.mark.parametrize("padding_counts", [True, False])
def test_replaced_token_detection_equals_a_loop(padding_counts: bool) -> None:
    torch.manual_seed(1)
    logits = torch.randn(2, 4, 2, dtype=torch.float64)
    replaced = torch.tensor([[0, 1, 1, 0], [0, 1, 0, 0]])
    real = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
    counted = torch.ones_like(real) if padding_counts else real
    total, number = 0.0, 0
    for n in range(2):
        for position in range(4):
            if counted[n, position]:
                scores = logits[n, position].exp()
                total -= math.log(float(scores[replaced[n, position]] / scores.sum()))
                number += 1
    got = objective.replaced_token_detection(logits, replaced, counted)
    assert float(got) == pytest.approx(total / number, abs=1e-12)


@pytest.mark.parametrize(("weight", "expected"), [(0.0, 2.0), (0.1, 2.05), (2.0, 3.0)])
def test_the_total_and_its_gradients_weigh_the_edit_loss(weight: float, expected: float) -> None:
    contrastive, rtd = (torch.tensor(value, requires_grad=True) for value in (2.0, 0.5))
    total = objective.total(contrastive, rtd, weight)
    total.backward()
    assert total.item() == pytest.approx(expected)
    assert (float(contrastive.grad), float(rtd.grad)) == pytest.approx((1.0, weight))


def test_detection_counts_real_tokens_only_and_never_divides_by_zero() -> None:
    logits = torch.zeros(1, 4, 2)
    logits[0, :, 1] = torch.tensor([1.0, -1.0, 1.0, 1.0])  # says: replaced, original, replaced, replaced
    replaced = torch.tensor([[1, 1, 0, 0]])
    got = objective.detection(logits, replaced, real=torch.tensor([[1, 1, 1, 0]]))
    assert (float(got.replaced_share), float(got.replaced_accuracy), float(got.original_accuracy)) == pytest.approx(
        (2 / 3, 1 / 2, 0.0)
    )
    nothing = objective.detection(logits, torch.zeros(1, 4), real=torch.ones(1, 4))
    assert float(nothing.replaced_accuracy) == 0.0
    assert float(nothing.replaced_share) == 0.0
