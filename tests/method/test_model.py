"""The training module over all families: what it computes, where gradients go, what it saves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from diffcse.config import Config
from diffcse.method import objective
from diffcse.method.discriminator import first_position
from diffcse.method.edits import MlmEdit
from diffcse.method.model import DiffCSEModel
from diffcse.presets import build
from diffcse.training.batches import Collator
from tests import tiny


def batch(config: Config, columns: int = 1, count: int = 4) -> dict[str, torch.Tensor]:
    tokens = tiny.tokenizer()
    texts = tiny.SENTENCES * 2
    rows = [(0, i, [np.array(tokens(texts[i + shift])["input_ids"]) for shift in range(columns)]) for i in range(count)]
    edits = config.edits if config.objective.objective == "diffcse" else None
    return Collator(tokens, edits, seed=config.training.seed)(rows)


def model(config: Config, family: str = "bert", *, dropout: float | None = 0.0) -> DiffCSEModel:
    edit = MlmEdit(tiny.mlm(family, dropout=dropout), config.edits, cls_id=2, pad_id=0)
    encoder = tiny.encoder(family, dropout=dropout)
    torch.manual_seed(2)
    return DiffCSEModel(encoder, edit, config)


@pytest.mark.parametrize("fidelity", ["reference", "paper"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_gradient_flow_in_every_family(family: str, fidelity: Any) -> None:
    config = build(fidelity=fidelity)
    net = model(config, family).train()
    net(**batch(config)).loss.backward()
    grads = {name: p.grad for name, p in net.named_parameters()}
    assert all(g is None for name, g in grads.items() if name.startswith("edit."))
    for part in ("encoder.", "projector.", "discriminator.backbone.", "discriminator.head."):
        assert any(g is not None and g.abs().max() > 0 for name, g in grads.items() if name.startswith(part)), part
    # DDP refuses a trained parameter without a gradient, so there must be none.
    assert [name for name, p in net.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_encoder_learns_through_the_discriminator_alone(family: str) -> None:
    config = build()
    net, inputs = model(config, family).train(), batch(config)
    rows = {name: value.flatten(0, 1) for name, value in inputs.items()}
    sentence = net.project(net.pool(inputs["input_ids"], inputs["attention_mask"])).flatten(0, 1)
    edited = net.edit(**rows)
    logits = net.discriminator(edited.input_ids, rows["attention_mask"], sentence)
    count = net.predictor.count(edited, rows["attention_mask"])
    net.predictor.loss(logits, edited, rows["attention_mask"], count).backward()
    assert max(float(p.grad.abs().max()) for p in net.encoder.parameters() if p.grad is not None) > 0


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_sentence_vector_replaces_position_0_after_the_embedding_layer(family: str) -> None:
    backbone = tiny.encoder(family, dropout=0.0).eval()
    ids = torch.tensor([[2, 6, 7, 8, 3], [2, 9, 10, 3, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]])
    vector, seen = torch.randn(2, 16), []

    def look(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...], named: dict[str, torch.Tensor]) -> None:
        seen.append(inputs[0] if inputs else named["hidden_states"])

    layers = backbone.layers if family == "modernbert" else getattr(backbone, "encoder", None) or backbone.transformer
    first = layers[0] if family == "modernbert" else layers.layer[0]
    plain = backbone(input_ids=ids, attention_mask=mask).last_hidden_state
    handle = first.register_forward_pre_hook(look, with_kwargs=True)
    with first_position(backbone, vector):
        conditioned = backbone(input_ids=ids, attention_mask=mask).last_hidden_state
    handle.remove()
    assert torch.equal(seen[0][:, 0], vector)
    assert not torch.allclose(plain, conditioned)
    assert torch.equal(plain, backbone(input_ids=ids, attention_mask=mask).last_hidden_state)  # the hook is gone


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_three_steps_lower_the_loss_and_the_state_comes_back(family: str) -> None:
    config = build(temperature=0.5)
    net, inputs = model(config, family).train(), batch(config, columns=2)
    optimiser = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for _ in range(4):
        loss = net(**inputs).loss
        losses.append(float(loss.detach()))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[3] < losses[0]
    saved = {name: v.clone() for name, v in net.state_dict().items() if name not in net._keys_to_ignore_on_save}
    assert not any(name.startswith("edit.") for name in saved)
    fresh = model(config, family)
    missing, unexpected = fresh.load_state_dict(saved, strict=False)
    assert set(missing) == set(net._keys_to_ignore_on_save)
    assert unexpected == []
    with torch.no_grad():
        pair = [m.eval().pool(inputs["input_ids"], inputs["attention_mask"]) for m in (net, fresh)]
    assert torch.equal(*pair)


@pytest.mark.parametrize("average", ["padded", "real"])
@pytest.mark.parametrize("conditioning", ["projected", "pooled"])
@pytest.mark.parametrize("columns", [1, 2, 3])
@pytest.mark.parametrize("views", ["all", "first"])
def test_forward_equals_the_parts_put_together(average: str, conditioning: str, columns: int, views: str) -> None:
    settings = {"rtd_average": average, "conditioning": conditioning, "edited_views": views, "lambda_weight": 0.3}
    config = build(**settings, hard_negative_weight=0.7)
    net, inputs = model(config).eval(), batch(config, columns)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    pooled = torch.stack([net.encoder(ids[:, s], mask[:, s]).last_hidden_state[:, 0] for s in range(ids.shape[1])], 1)
    z = net.projector(pooled.flatten(0, 1)).unflatten(0, ids.shape[:2])
    contrast = objective.contrastive(*z.unbind(1), temperature=0.05, hard_negative_weight=0.7).loss
    keep = slice(None) if views == "all" else slice(0, 1)
    edited = net.edit(**{name: value[:, keep].flatten(0, 1) for name, value in inputs.items()})
    row_mask = mask[:, keep].flatten(0, 1)
    h = (z if conditioning == "projected" else pooled)[:, keep].flatten(0, 1)
    words = net.discriminator.backbone.embeddings(edited.input_ids).clone()
    words[:, 0] = h
    wide = (1.0 - row_mask[:, None, None, :].float()) * torch.finfo(torch.float32).min
    hidden = net.discriminator.backbone.encoder(words, attention_mask=wide).last_hidden_state
    each = F.cross_entropy(
        net.discriminator.head(hidden).flatten(0, 1), edited.replaced.flatten().long(), reduction="none"
    )
    rtd = each.mean() if average == "padded" else each[row_mask.flatten().bool()].mean()
    with torch.no_grad():
        got = net(**inputs)
    contrast, rtd = contrast.detach(), rtd.detach()
    assert float(got.rtd) == pytest.approx(float(rtd), abs=1e-5)
    assert float(got.loss) == pytest.approx(float(contrast + 0.3 * rtd), abs=1e-4)


def test_lambda_0_has_the_gradient_of_simcse() -> None:
    grads = []
    for settings in ({"lambda_weight": 0.0}, {"objective": "simcse"}):
        config = build(**settings)
        net = model(config).train()
        net(**batch(config)).loss.backward()
        grads.append({n: p.grad for n, p in net.named_parameters() if n.startswith(("encoder.", "projector."))})
    assert grads[0].keys() == grads[1].keys()
    for name, value in grads[0].items():
        assert torch.equal(value, grads[1][name]), name


def test_simcse_holds_neither_generator_nor_discriminator() -> None:
    config = build(objective="simcse")
    net = model(config)
    assert net.edit is None
    assert net.discriminator is None
    output = net(**batch(config))
    assert "rtd" not in output
    assert "replaced_share" not in output


@pytest.mark.parametrize("pooler", ["cls", "avg", "avg_top2", "avg_first_last", "last"])
def test_poolers_equal_a_loop_over_real_tokens(pooler: Any) -> None:
    config = build(pooler=pooler, projector="none", objective="simcse")
    net, inputs = model(config).eval(), batch(config)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    got = net.pool(ids, mask)
    for i in range(ids.shape[0]):
        length = int(mask[i, 0].sum())
        layers = net.encoder(ids[i, :1, :length], output_hidden_states=True).hidden_states
        chosen = {"cls": layers[-1][:, :1], "avg": layers[-1], "avg_top2": (layers[-1] + layers[-2]) / 2}
        chosen["last"] = layers[-1][:, -1:]
        chosen["avg_first_last"] = (layers[0] + layers[-1]) / 2
        assert torch.allclose(got[i, 0], chosen[pooler][0].mean(0), atol=1e-5)


def test_one_instance_logs_no_nan() -> None:
    config = build()
    output = model(config).train()(**batch(config, count=1))
    assert "negative_cosine" not in output
    assert all(torch.isfinite(value) for value in output.values())
