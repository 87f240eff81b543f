"""Dropout masks drawn cheaply, and the attention that uses them against a plain loop."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import Tensor, nn

from diffcse.kernels import attention, packing
from diffcse.kernels.attention import Block, lay_out
from diffcse.kernels.dropout import Dropout, draw_mask, quicken, suits
from diffcse.method.discriminator import Discriminator
from diffcse.method.edits import MlmEdit
from diffcse.method.model import DiffCSEModel
from diffcse.presets import build
from tests import tiny


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.9])
def test_the_share_is_dropped_and_the_expectation_stays(share):
    torch.manual_seed(0)
    stays, scale = draw_mask((1001, 333), share)
    assert stays.shape == (1001, 333) and stays.dtype == torch.uint8 and int(stays.max()) == 1
    spread = (share * (1 - share) / stays.numel()) ** 0.5
    assert abs(1 - stays.float().mean() - share) < 4 * spread
    assert abs(scale * (1 - share) - 1) < 1e-3
    for neighbour in (1, 2, 3, 4, 333):  # four decisions come from one number: none may follow another
        flat = stays.flatten().double() - stays.double().mean()
        correlation = (flat[neighbour:] * flat[:-neighbour]).mean() / flat.square().mean()
        assert abs(correlation) < 4 / stays.numel() ** 0.5


def test_masks_follow_the_seed_of_torch():
    torch.manual_seed(7)
    first, second = draw_mask((50,), 0.5)[0], draw_mask((50,), 0.5)[0]
    torch.manual_seed(7)
    assert torch.equal(draw_mask((50,), 0.5)[0], first)
    assert not torch.equal(first, second)


def test_the_module_scales_what_stays_and_its_gradient():
    module, values = Dropout(0.3), torch.randn(40, 25).exp().requires_grad_(True)
    out = module(values)
    out.sum().backward()
    dropped = out == 0
    assert 0.2 < dropped.float().mean() < 0.4
    torch.testing.assert_close(out[~dropped], values[~dropped] / 0.7, rtol=1e-4, atol=0)
    torch.testing.assert_close(values.grad, (~dropped) / 0.7, rtol=1e-4, atol=0)
    assert module.eval()(values) is values


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_kinds_of_numbers_get_the_plain_dropout(dtype):
    values = torch.ones(30, 30, dtype=dtype)
    assert suits(values.float(), 0.1) and not suits(values, 0.1) and not suits(values.float(), 0.0)
    torch.manual_seed(1)
    quick = Dropout(0.5)(values)
    torch.manual_seed(1)
    assert torch.equal(quick, nn.Dropout(0.5)(values))


def test_every_dropout_of_a_model_is_exchanged_and_nothing_else():
    model = tiny.encoder("bert").train()
    model.encoder.eval()
    before = {name: module for name, module in model.named_modules()}
    weights = copy.deepcopy(model.state_dict())
    quicken(model)
    after = dict(model.named_modules())
    assert after.keys() == before.keys()
    kinds = {type(before[name]) for name in after if after[name] is not before[name]}
    assert kinds == {nn.Dropout}
    assert not any(type(module) is nn.Dropout for module in after.values())
    assert all(module.training == before[name].training for name, module in after.items())
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())


def loop(query: Tensor, key: Tensor, value: Tensor, blocks: tuple[Block, ...], stays: Tensor, scale: float) -> Tensor:
    """The same attention, one sentence, head and query after the other."""
    out, mask = [torch.zeros(())] * len(query), iter(stays.flatten().tolist())
    token, padding = 0, sum(block.sentences * block.length for block in blocks)
    for count, length, extra, *_ in blocks:
        heads: dict[int, list[Tensor]] = {}
        for sentence in range(count):
            own = list(range(token + sentence * length, token + (sentence + 1) * length))
            asking = own + list(range(padding + sentence * extra, padding + (sentence + 1) * extra))
            for head in range(query.shape[1]):
                for row in asking:
                    weight = ((key[own, head] @ query[row, head]) / 2).softmax(0)
                    thinned = weight * torch.tensor([next(mask) * scale for _ in own])
                    heads.setdefault(row, []).append(thinned @ value[own, head])
        for row, parts in heads.items():
            out[row] = torch.stack(parts)
        token, padding = token + count * length, padding + count * extra
    return torch.stack(out)


@pytest.mark.parametrize("dropout", [0.2, 0.6])
@pytest.mark.parametrize("blocks", [[(2, 4, 0), (3, 1, 0)], [(1, 5, 0), (2, 3, 2), (1, 1, 4)]])
def test_attention_is_that_of_a_plain_loop(blocks, dropout):
    blocks = lay_out(blocks)
    rows = sum(block.sentences * (block.length + block.extra) for block in blocks)
    draw = torch.Generator().manual_seed(0)
    tensors = [torch.randn(rows, 2, 4, generator=draw) for _ in range(3)]
    target = torch.randn(rows, 2, 4, generator=draw)
    torch.manual_seed(5)
    mine = [tensor.clone().requires_grad_(True) for tensor in tensors]
    got = attention.attend(mine, blocks, dropout=dropout, scale=0.5)
    (got * target).sum().backward()
    torch.manual_seed(5)
    stays, scale = draw_mask((sum(b.sentences * 2 * b.length * (b.length + b.extra) for b in blocks),), dropout)
    theirs = [tensor.clone().requires_grad_(True) for tensor in tensors]
    expected = loop(*theirs, blocks, stays, scale)
    (expected * target).sum().backward()
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-5)
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-6, rtol=1e-5)


def test_layers_recomputed_in_the_backward_pass_drop_the_same():
    mask = torch.tensor([[1] * n + [0] * (9 - n) for n in (9, 4, 4, 1)])
    ids = torch.randint(5, 40, mask.shape, generator=torch.Generator().manual_seed(2)) * mask
    gradients = []
    for checkpointed in (False, True):
        backbone = tiny.encoder("bert", dropout=0.3)
        quicken(backbone)
        discriminator = Discriminator(backbone, nn.Identity(), padding_free=True, padding_asked=True).train()
        if checkpointed:
            packing.checkpoint_layers(backbone, padding_free=True)
        torch.manual_seed(4)
        vectors = torch.ones(4, 16, requires_grad=True)
        discriminator(ids, mask, vectors).sin().sum().backward()
        gradients.append(vectors.grad)
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(gradients[1], gradients[0])


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("fidelity", ["reference", "paper"])
def test_a_bfloat16_step_without_padding(fidelity, dropout):
    """Mixed precision takes PyTorch's own attention and dropout; the loss and the gradients stay float32."""
    model, inputs = whole_step(fidelity, dropout)
    exact = model(**inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(**inputs)
    output.loss.backward()
    assert output.loss.dtype == torch.float32
    assert output.loss.isfinite()
    if not dropout:  # else the two draw different masks
        for name in ("contrastive", "rtd"):
            assert float(output[name]) == pytest.approx(float(exact[name]), abs=0.05, rel=0.05), name
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert parameter.grad.dtype == torch.float32 and parameter.grad.isfinite().all(), name
    for part in (model.encoder, model.discriminator):
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())


def test_a_dropped_out_step_repeats_itself_and_differs_from_the_next():
    model, inputs = whole_step("reference")
    losses = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        losses.append(float(model(**inputs).loss.detach()))
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("padding", [False, True])
def test_a_packed_row_on_another_device_needs_no_value(padding):
    """On `meta`, which has shapes alone: whatever asked for a number there, or stayed on the CPU, would fail."""
    mask = torch.tensor([[1] * n + [0] * (9 - n) for n in (9, 4, 7, 1)])
    layout = packing.Layout.of(mask, padding=padding)
    there = {name: getattr(layout, name).to("meta") for name in ("index", "place", "starts")}
    layout = dataclasses.replace(layout, **there)
    backbone, ids = tiny.encoder("bert").to("meta").train(), mask.to("meta")
    quicken(backbone)
    with packing.packed(backbone):
        first = packing.first_rows(backbone, layout, ids)
        hidden = layout.unpack(backbone(**layout.inputs(backbone, ids)).last_hidden_state)
    (first.sum() + hidden.sum()).backward()
    assert first.shape == (4, 16) and hidden.shape == (4, 9, 16)
    words = backbone.get_input_embeddings().weight
    assert words.grad.shape == words.shape and words.grad.device.type == "meta"


def whole_step(fidelity: str, dropout: float = 0.1) -> tuple[DiffCSEModel, dict[str, Tensor]]:
    config = build(fidelity=fidelity, projector="bn")
    edit = MlmEdit(tiny.mlm("bert", dropout=dropout), config.edits, cls_id=2, pad_id=0, padding_free=True)
    torch.manual_seed(0)
    model = DiffCSEModel(tiny.encoder("bert", dropout=dropout), edit, config).train()
    draw = torch.Generator().manual_seed(2)
    mask = torch.tensor([[1] * n + [0] * (9 - n) for n in (9, 4, 7, 1)]).unsqueeze(1).repeat(1, 2, 1)
    ids = torch.randint(5, 40, mask.shape, generator=draw) * mask
    chosen = (torch.rand(ids.shape, generator=draw) < 0.3) & mask.bool()
    drafts = {"masked_ids": torch.where(chosen, 4, ids), "chosen": chosen}
    draws = torch.rand(ids.shape, generator=draw, dtype=torch.float64)
    return model, {"input_ids": ids, "attention_mask": mask, **drafts, "draws": draws}
