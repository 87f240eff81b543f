"""What is settled and refused before a run's first step."""

from __future__ import annotations

import pytest
import torch

from diffcse.presets import build
from diffcse.training.checks import settle_machine


@pytest.mark.parametrize(
    ("gpu", "has_half", "asked", "settled"),
    [
        (False, False, "auto", "fp32"),
        (True, False, "auto", "fp32"),
        (True, True, "auto", "bf16"),
        (True, True, "fp32", "fp32"),
        (False, False, "bf16", "bf16"),
    ],
)
def test_auto_is_half_precision_where_the_gpu_has_it(
    gpu: bool, has_half: bool, asked: str, settled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: has_half)
    config = build(preset="small", precision=asked)
    assert settle_machine(config).training.precision == settled


@pytest.mark.parametrize(
    ("gpu", "tokens", "asked", "settled"),
    [
        (False, 32, None, True),
        (True, 32, None, False),
        (True, 33, None, True),
        (True, 32, True, True),
        (False, 32, False, False),
    ],
)
def test_short_rows_keep_their_padding_on_a_gpu(
    gpu: bool, tokens: int, asked: bool | None, settled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    config = build(precision="fp32", max_tokens=tokens, padding_free=asked)
    assert settle_machine(config) == build(precision="fp32", max_tokens=tokens, padding_free=settled)
