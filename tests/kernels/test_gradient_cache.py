"""Gradient caching: parts give the whole batch's value and gradient, and only one part is ever kept."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diffcse.config import build
from diffcse.kernels import gradient_cache
from tests.method.test_frame import collated, network


def weights() -> list[nn.Parameter]:
    """Three parameters: two that are used, in one place together, and one that is not."""
    drawn = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(4, generator=drawn)) for _ in range(3)]


@pytest.mark.parametrize("at_once", [1, 2, 3, 5, 9, 0])
@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_a_sum_in_parts_has_the_value_and_the_gradient_of_the_whole(at_once: int, scale: float) -> None:
    drawn = torch.Generator().manual_seed(1)
    vectors, wanted = torch.randn(5, 4, generator=drawn), torch.randn(5, 4, generator=drawn)
    results = []
    for parts in (0, at_once):
        leaf, (first, second, unused) = vectors.clone().requires_grad_(), weights()

        def loss(part: Tensor, wanted: Tensor, first: Tensor = first, second: Tensor = second) -> Tensor:
            return ((part.tanh() * first + second - wanted) ** 2).sum()

        parameters = [first, second, unused]
        total = gradient_cache.summed(loss, leaf * 2, {"wanted": wanted}, parameters, parts, torch.tensor(scale))
        (total * 0.3).backward()
        assert unused.grad is None
        results.append((total.detach(), leaf.grad, first.grad, second.grad))
    for whole, in_parts in zip(*results, strict=True):
        torch.testing.assert_close(in_parts, whole)


def test_a_gradient_that_autograd_gives_twice_is_not_added_twice() -> None:
    first, second = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))
    rows = torch.arange(12.0).reshape(4, 3)
    total = gradient_cache.summed(
        lambda part, rows: ((first + second + part) * rows).sum(),
        torch.zeros(4, 3, requires_grad=True),
        {"rows": rows},
        [first, second],
        1,
        torch.tensor(1.0),
    )
    total.backward()
    for parameter in (first, second):
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, rows.sum(0))


class Saved:
    """What autograd keeps in place of a tensor for the backward pass."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def test_what_a_part_kept_is_gone_before_the_next_part() -> None:
    kept: list[weakref.ref[Saved]] = []
    weight = nn.Parameter(torch.ones(4))

    def keep(tensor: Tensor) -> Saved:
        saved = Saved(tensor)
        kept.append(weakref.ref(saved))
        return saved

    def loss(part: Tensor, rows: Tensor) -> Tensor:
        assert [one() for one in kept if one() is not None] == []
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved.tensor):
            total = ((part * weight).exp() * rows).sum()
        assert [one() for one in kept if one() is not None] != []
        return total

    vectors = torch.randn(6, 4, requires_grad=True)
    gradient_cache.summed(loss, vectors, {"rows": torch.ones(6, 4)}, [weight], 2, torch.tensor(1.0))
    assert len(kept) >= 3


def test_without_gradients_nothing_is_kept_and_the_value_is_the_same() -> None:
    def loss(part: Tensor, rows: Tensor) -> Tensor:
        return (part * rows).sum()

    vectors = torch.randn(6, 4)
    with torch.no_grad():
        total = gradient_cache.summed(loss, vectors, {"rows": torch.ones(6, 4)}, [], 2, torch.tensor(1.0))
    assert not total.requires_grad
    torch.testing.assert_close(total, vectors.sum())


def test_a_second_backward_pass_is_refused() -> None:
    vectors = torch.randn(4, 2, requires_grad=True)
    total = gradient_cache.summed(lambda part: (part**2).sum(), vectors, {}, [], 2, torch.tensor(1.0))
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="one backward pass"):
        total.backward()


STEPS: list[dict[str, Any]] = [
    {"fidelity": "paper"},
    {"rtd_average": "real"},
    {"predictor": "conditional_mlm"},
    {"predictor": "corrective_lm"},
    {"edit": "insertion"},
    {"edit": "deletion"},
    {"discriminator": "generator"},
    {"conditioning": "pooled", "rtd_average": "real"},
    {"precision": "bf16"},
    {"precision": "bf16", "predictor": "corrective_lm"},
]


@pytest.mark.parametrize("settings", STEPS, ids=lambda settings: "-".join(settings.values()))
def test_a_step_in_parts_equals_the_whole(settings: dict[str, Any]) -> None:
    half = settings.get("precision") == "bf16"
    results = []
    for rows_at_once in (0, 3):
        config = build(rows_at_once=rows_at_once, **settings)
        net = network(config)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            output = net(**collated(config))
        output.loss.backward()
        figures = {name: value.float().detach() for name, value in output.items()}
        results.append((figures, {name: p.grad for name, p in net.named_parameters()}))
    (whole, gradients), (in_parts, others) = results
    assert whole.keys() == in_parts.keys()
    for name, value in whole.items():
        torch.testing.assert_close(in_parts[name], value, atol=1e-2 if half else 1e-5, rtol=1e-5)
    for name, gradient in gradients.items():
        assert (gradient is None) == (others[name] is None), name
        if gradient is not None:
            scale = gradient.abs().max().clamp(min=1)
            torch.testing.assert_close(others[name] / scale, gradient / scale, atol=2e-2 if half else 2e-5, rtol=1e-4)
