"""A step asks the device for nothing that this machine knows: on `meta`, which has no numbers, any question fails."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch import Tensor

from diffcse.kernels import waits
from diffcse.kernels.waits import here, send_and_remember
from diffcse.method.edits import MlmEdit
from diffcse.method.masking import IGNORE
from diffcse.method.model import DiffCSEModel
from diffcse.presets import build
from diffcse.pretraining.mlm import MaskedLanguageModel
from tests import tiny
from tests.method.test_model import batch

META = torch.device("meta")


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waits, "_recent", type(waits._recent)(maxlen=waits._recent.maxlen))


def on_meta(rows: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: send_and_remember(value, META) for name, value in rows.items()}


@pytest.mark.parametrize("rows_at_once", [0, 3])
@pytest.mark.parametrize(
    "settings",
    [
        {"objective": "simcse"},
        {"fidelity": "reference"},
        {"fidelity": "paper"},
        {"fidelity": "reference", "edit": "insertion"},
        {"fidelity": "reference", "edit": "deletion"},
    ],
    ids=lambda settings: "-".join(settings.values()),
)
def test_forward_and_backward_ask_nothing(
    settings: dict[str, Any], rows_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # it does not know of `meta`
    config = build(projector="bn", rows_at_once=rows_at_once, **settings)
    rows = batch(config, count=4)
    edit = MlmEdit(tiny.mlm("bert", dropout=0.1), config.edits, cls_id=2, pad_id=0, padding_free=True)
    trained = DiffCSEModel(tiny.encoder("bert", dropout=0.1), edit, config).to(META).train()
    output = trained(**on_meta(rows))
    output.loss.backward()
    assert output.loss.device == META
    assert all(p.grad is not None for p in trained.encoder.parameters() if p.requires_grad)
    with pytest.raises(NotImplementedError, match="meta"):  # else the same step asks: this test would see it
        trained(**{name: value.to(META) for name, value in rows.items()})


def test_masked_language_modelling_asks_nothing() -> None:
    ids = torch.arange(5, 17).view(2, 6)
    labels = torch.where(torch.arange(12).view(2, 6) % 3 == 0, ids, IGNORE)
    terms = MaskedLanguageModel(tiny.mlm("bert").to(META))(**on_meta({"input_ids": ids, "labels": labels}))
    assert terms["loss"].device == META


def test_every_view_of_what_was_sent_is_known() -> None:
    values = torch.arange(24).view(2, 3, 4)
    there = send_and_remember(values, META)
    for view in (lambda t: t, lambda t: t.flatten(0, 1), lambda t: t[:, ::2], lambda t: t[1, 1:], lambda t: t.mT):
        assert torch.equal(here(view(there)), view(values))
    part = values[1]  # begins in the middle of its memory
    assert torch.equal(here(send_and_remember(part, META)[1:]), part[1:])


def test_a_tensor_that_changed_is_asked_for_again() -> None:
    there = send_and_remember(torch.ones(2, 3), META)
    there[0] += 1
    with pytest.raises(NotImplementedError, match="meta"):
        here(there)


def test_an_answer_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Tensor] = []
    monkeypatch.setattr(Tensor, "cpu", lambda tensor: asked.append(tensor) or torch.ones(tensor.shape))
    there = torch.empty(2, 3, device=META)
    for view in (there, there[1:], there.flatten()):
        assert torch.equal(here(view), torch.ones(view.shape))
    assert len(asked) == 1
    assert here(torch.empty(3, device=META) + 0).shape == (3,) and len(asked) == 2


def test_a_cpu_answers_itself() -> None:
    values = torch.ones(3)
    assert here(values) is values and send_and_remember(values, torch.device("cpu")) is values
    assert not waits._recent
