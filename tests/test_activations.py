"""Activations that are made again in the backward pass: the same numbers, less kept."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import Tensor, nn

from diffcse import activations
from tests import tiny


def gradients(model: nn.Module, ids: Tensor, *, made_again: bool) -> dict[str, Tensor]:
    """Gradients of every weight, dropout on."""
    torch.manual_seed(0)
    model.zero_grad()
    with activations.made_again() if made_again else contextlib.nullcontext():
        out = model(input_ids=ids).last_hidden_state
    out.sin().sum().backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "mpnet", "electra", "deberta-v2", "modernbert"])
def test_gradients_are_the_same_bits(family):
    model = tiny.encoder(family).train()
    ids = torch.randint(5, 40, (3, 9), generator=torch.Generator().manual_seed(1))
    plain, again = (gradients(model, ids, made_again=used) for used in (False, True))
    assert plain.keys() == again.keys() and len(plain) > 10
    assert all(torch.equal(plain[name], again[name]) for name in plain)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_the_output_is_not_kept_but_its_input_is(approximate, monkeypatch):
    packed: list[object] = []

    def pack(tensor: Tensor) -> object:
        packed.append(_pack(tensor))
        return packed[-1]

    _pack = activations._pack
    monkeypatch.setattr(activations, "_pack", pack)
    net = nn.Sequential(nn.Linear(4, 16), nn.GELU(approximate=approximate), nn.Linear(16, 3))
    values = torch.randn(5, 4, requires_grad=True)
    with activations.made_again():
        out = net(values)
    wide = [kept for kept in packed if isinstance(kept, Tensor) and kept.shape == (5, 16)]
    assert len(wide) == 1  # what enters the activation; what left it stands as the node that made it
    assert sum(not isinstance(kept, Tensor) for kept in packed) == 1
    (again,) = torch.autograd.grad(out.square().sum(), values)
    (plain,) = torch.autograd.grad(net(values).square().sum(), values)
    assert torch.equal(again, plain)
