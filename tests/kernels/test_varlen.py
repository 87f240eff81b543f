"""One attention a layer on a GPU: its rows and sentences against the padded forward, its operators on `meta`."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from diffcse.kernels import packing, varlen
from diffcse.kernels.varlen import Segments
from tests import tiny
from tests.kernels.test_packing import LENGTHS, assert_same_step, batch, step


def plain(query: Tensor, key: Tensor, value: Tensor, segments: Segments, *, scale: float, **rest: Any) -> Tensor:
    """What `varlen.attend` must give without dropout, a sentence at a time."""
    window, parts = rest.get("window"), []
    assert (segments.queries.diff().max(), segments.keys.diff().max()) == (segments.most_queries, segments.most_keys)
    assert int(segments.queries[-1]) == len(query) and int(segments.keys[-1]) == len(key)
    for i in range(len(segments.queries) - 1):
        own, others = slice(*segments.queries[i : i + 2].tolist()), slice(*segments.keys[i : i + 2].tolist())
        q, k, v = (rows.transpose(0, 1) for rows in (query[own], key[others], value[others]))
        near = None
        if window is not None:
            place = torch.arange(q.shape[1])
            near = (place[:, None] - place[None, :]).abs() < window
        parts.append(F.scaled_dot_product_attention(q, k, v, attn_mask=near, scale=scale).transpose(0, 1))
    return torch.cat(parts)


@pytest.mark.parametrize("fidelity", ["reference", "paper"])
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra", "modernbert"])
def test_a_step_with_one_call_for_all_sentences_equals_the_padded_one(family, fidelity, monkeypatch):
    calls: list[int] = []

    def counted(*rows: Any, **settings: Any) -> Tensor:
        calls.append(len(rows[0]))
        return plain(*rows, **settings)

    monkeypatch.setattr(varlen, "may_suit", lambda _: True)
    monkeypatch.setattr(varlen, "suits", lambda *_: True)
    monkeypatch.setattr(varlen, "attend", counted)
    at_once = step(family, fidelity)
    assert len(calls) >= 4
    assert_same_step(at_once, step(family, fidelity, padding_free=False))


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("padding", [False, True])
def test_the_operators_take_a_packed_row_with_dropout(padding, half, monkeypatch):
    """On `meta`, which has shapes alone: whatever asked for a number there, or stayed on the CPU, would fail."""
    monkeypatch.setattr(varlen, "may_suit", lambda _: True)
    monkeypatch.setattr(varlen, "suits", lambda *_: True)
    _, mask = batch(LENGTHS)
    layout = packing.Layout.of(mask, padding=padding)
    there = {name: getattr(layout, name).to("meta") for name in ("index", "place", "starts", "order", "rank")}
    segments = tuple(
        part and part._replace(queries=part.queries.to("meta"), keys=part.keys.to("meta")) for part in layout.segments
    )
    assert (segments[2] is not None) == padding
    layout = dataclasses.replace(layout, **there, segments=segments)
    backbone, ids = tiny.encoder("bert", dropout=0.1).to("meta").train(), mask.to("meta")
    backbone = backbone.bfloat16() if half else backbone
    with packing.packed(backbone):
        first = packing.first_rows(backbone, layout, ids)
        hidden = layout.unpack(backbone(**layout.inputs(backbone, ids)).last_hidden_state)
    assert first.shape == (len(mask), 16) and hidden.shape == (*mask.shape, 16)
    if not half:  # PyTorch 2.13's shape function of the memory-efficient backward pass takes other arguments than it
        return
    (first.sum() + hidden.sum()).backward()
    words = backbone.get_input_embeddings().weight
    assert words.grad.shape == words.shape and words.grad.device.type == "meta"


def test_a_cpu_and_an_odd_width_keep_one_attention_a_length():
    assert not varlen.suits(torch.ones(3, 2, 8), None)
    assert packing.Layout.of(torch.ones(2, 3, dtype=torch.long)).segments is None
