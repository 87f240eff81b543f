"""Gradient caching: parts give the whole batch's value and gradient, and only one part is ever kept."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diffcse.errors import UserError
from diffcse.kernels import gradient_cache
from diffcse.method import pooling
from diffcse.presets import build
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


def test_the_recomputed_part_gets_its_rows_as_arguments_so_that_a_gpus_random_state_is_kept(monkeypatch):
    """`checkpoint` looks at its positional tensors to find the devices whose generators it must restore."""
    calls: list[tuple[Any, ...]] = []

    def spy(function: Any, *tensors: Any, **settings: Any) -> Any:
        calls.append((tensors, settings))
        return checkpoint(function, *tensors, **settings)

    monkeypatch.setattr(gradient_cache, "checkpoint", spy)
    rows = {"ids": torch.arange(5.0, requires_grad=True), "mask": torch.ones(5)}
    gradient_cache.concatenated(lambda ids, mask: ids * mask, rows, 2).sum().backward()
    assert [[len(tensor) for tensor in tensors] for tensors, _ in calls] == [[2, 2], [2, 2], [1, 1]]
    assert all(isinstance(tensor, Tensor) for tensors, _ in calls for tensor in tensors)
    assert torch.utils.checkpoint._infer_device_type(torch.empty(1, device="meta")) == "meta"
    assert torch.equal(rows["ids"].grad, torch.ones(5))


@pytest.mark.parametrize("settings", [{}, {"fidelity": "paper"}, {"pooler": "avg"}], ids=str)
def test_both_passes_of_a_part_draw_the_same_dropout_masks(settings: dict[str, Any], monkeypatch):
    """What the encoder gives in the second pass is bitwise what it gave in the first, with dropout on."""
    net = network(config := build(rows_at_once=5, **settings))
    drop(net)
    seen: list[Tensor] = []
    net.encoder.register_forward_hook(lambda *given: seen.append(given[2].last_hidden_state.detach()))
    monkeypatch.setattr(pooling.packing, "first_rows", lambda *_: None)  # so that the whole encoder is called
    torch.manual_seed(3)
    with torch.utils.checkpoint.set_checkpoint_early_stop(False):
        net(**collated(config)).loss.backward()
    first, second = seen[:3], seen[3:]
    assert len(second) == 3 and not torch.equal(first[0], first[1])
    for again in second:
        assert any(again.shape == before.shape and torch.equal(again, before) for before in first)


def test_gradients_with_dropout_equal_those_of_the_same_parts_kept_in_memory(monkeypatch):
    """The same masks meet the same rows: `checkpoint` against calling each part and keeping what it needs."""
    results = []
    for recompute in (True, False):
        net = network(config := build(rows_at_once=5))
        drop(net)
        if not recompute:
            monkeypatch.setattr(gradient_cache, "checkpoint", lambda part, *rows, **_: part(*rows))
        torch.manual_seed(3)
        net(**collated(config)).loss.backward()
        results.append({name: p.grad for name, p in net.named_parameters() if p.grad is not None})
    for name, gradient in results[0].items():
        assert torch.equal(gradient, results[1][name]), name


def test_mps_is_refused_where_something_is_recomputed(monkeypatch):
    with pytest.raises(UserError, match=r"rows_at_once must be 0 on mps.*; got on; set it to 0"):
        gradient_cache.require_repeatable_dropout(torch.device("mps"), "rows_at_once", 0)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("mps"))
    with pytest.raises(UserError, match="gradient_checkpointing must be off on mps"):
        network(build()).checkpoint_layers()


def drop(net: torch.nn.Module, share: float = 0.2) -> None:
    """Turn dropout on everywhere."""
    for module in net.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = share
