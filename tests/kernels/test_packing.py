"""Packed == padded: the padding-free forward gives the numbers of the plain one, in every family that has it."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import pytest
import torch
from torch import Tensor

from diffcse.errors import UserError
from diffcse.kernels import packing
from diffcse.method import pooling
from diffcse.method.discriminator import Discriminator
from diffcse.method.edits import MlmEdit
from diffcse.method.generator import Generator
from diffcse.method.model import DiffCSEModel
from diffcse.presets import build
from tests import tiny

LENGTHS = [3, 14, 7, 14, 1, 9, 9, 14]
POOLERS = ["cls", "avg", "avg_top2", "avg_first_last", "last"]
OWN_ATTENTION = {"mpnet", "deberta-v2"}
PACKED = [family for family in tiny.FAMILIES if family not in OWN_ATTENTION]


def batch(lengths: list[int] = LENGTHS, seed: int = 0) -> tuple[Tensor, Tensor]:
    mask = torch.tensor([[1] * n + [0] * (max(lengths) - n) for n in lengths])
    ids = torch.randint(5, 40, mask.shape, generator=torch.Generator().manual_seed(seed))
    return ids * mask, mask


def close(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, atol=5e-6, rtol=5e-6)


@pytest.mark.parametrize("lengths", [LENGTHS, [5], [4, 4, 4], [1, 1, 2]])
def test_a_layout_packs_and_unpacks(lengths):
    ids, mask = batch(lengths)
    layout = packing.Layout.of(mask)
    packed = layout.pack(ids)
    assert packed.shape == (1, sum(lengths))
    assert torch.equal(layout.unpack(packed), ids)
    assert torch.equal(packed[0, layout.starts], ids[:, 0])
    assert torch.equal(packed[0][layout.place[mask.bool()]], ids[mask.bool()])
    assert sorted(block.length for block in layout.groups for _ in range(block.sentences)) == sorted(lengths)


@pytest.mark.parametrize("pooler", POOLERS)
@pytest.mark.parametrize("family", PACKED)
def test_sentence_vectors_and_their_gradients(family, pooler):
    ids, mask = batch()
    results = []
    for padding_free in (False, True):
        backbone = tiny.encoder(family, dropout=0.0).train()
        vectors = pooling.encode(backbone, ids, mask, pooler, padding_free=padding_free)
        vectors.sin().sum().backward()
        results.append((vectors, {name: p.grad for name, p in backbone.named_parameters() if p.grad is not None}))
    (padded, padded_gradients), (packed, packed_gradients) = results
    close(packed, padded)
    assert packed_gradients.keys() == padded_gradients.keys()
    for name, gradient in padded_gradients.items():
        scale = gradient.abs().max().clamp(min=1)
        close(packed_gradients[name] / scale, gradient / scale)


@pytest.mark.parametrize("family", sorted(OWN_ATTENTION))
def test_a_family_with_its_own_attention_keeps_its_padding_and_says_so_once(family, caplog, monkeypatch):
    monkeypatch.setattr(packing, "_announced", set())
    ids, mask = batch()
    backbone = tiny.encoder(family).eval()
    with caplog.at_level(logging.INFO, logger="diffcse.kernels.packing"):
        for _ in range(2):
            vectors = pooling.encode(backbone, ids, mask, "cls", padding_free=True)
    assert torch.equal(vectors, pooling.encode(backbone, ids, mask, "cls"))
    assert [record.getMessage() for record in caplog.records] == [
        f"{type(backbone).__name__} has its own attention: its batches keep their padding"
    ]


def test_a_causal_model_keeps_its_padding():
    decoder = tiny.encoder("bert", is_decoder=True)
    assert not packing.supports(decoder)
    assert packing.supports(tiny.encoder("bert"))


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta", "electra"])
def test_the_last_layer_computes_first_tokens_only(family):
    ids, mask = batch()
    backbone = tiny.encoder(family, dropout=0.0)
    rows: list[int] = []
    last = backbone.encoder.layer[-1]
    last.intermediate.register_forward_hook(lambda _, inputs, __: rows.append(inputs[0].shape[1]))
    pooling.encode(backbone, ids, mask, "cls", padding_free=True)
    assert rows == [len(LENGTHS)]


def test_a_window_reaches_as_far_as_in_the_padded_forward():
    lengths = [40, 3, 25]  # the tiny ModernBERT's window is 8
    ids, mask = batch(lengths)
    backbone = tiny.encoder("modernbert").eval()
    close(pooling.encode(backbone, ids, mask, "avg", padding_free=True), pooling.encode(backbone, ids, mask, "avg"))


def test_a_padding_id_inside_a_roberta_sentence_keeps_its_odd_position():
    ids, mask = batch()
    ids[1, 4] = 0
    backbone = tiny.encoder("roberta").eval()
    close(pooling.encode(backbone, ids, mask, "cls", padding_free=True), pooling.encode(backbone, ids, mask, "cls"))


@pytest.mark.parametrize("family", PACKED)
def test_the_generator_predicts_the_same(family):
    ids, mask = batch()
    where = mask.bool() & (torch.arange(mask.shape[1]) % 2 == 0)
    found = [
        torch.cat(list(Generator(tiny.mlm(family), dropout=False, padding_free=free).logits(ids, mask, where)))
        for free in (False, True)
    ]
    assert found[0].shape == (int(where.sum()), len(tiny.VOCABULARY))
    close(found[1], found[0])


@pytest.mark.parametrize("family", PACKED)
def test_the_discriminator_says_the_same_at_real_tokens(family):
    ids, mask = batch()
    sentence = torch.randn(len(ids), 16, generator=torch.Generator().manual_seed(3))
    discriminator = Discriminator(tiny.encoder(family), padding_free=False).eval()
    padded = discriminator(ids, mask, sentence)
    discriminator.padding_free = True
    packed = discriminator(ids, mask, sentence)
    close(packed[mask.bool()], padded[mask.bool()])


@pytest.mark.parametrize("lengths", [LENGTHS, [4, 4, 4], [20, 2, 5]])
@pytest.mark.parametrize("padding_id", [0, 1])
@pytest.mark.parametrize("family", PACKED)
def test_the_discriminator_says_the_same_at_padding(family, padding_id, lengths):
    """The tiny ModernBERT's window is 8: some padding sees no token there, and some sees a few."""
    ids, mask = batch(lengths)
    ids = torch.where(mask.bool(), ids, padding_id)
    drawn = torch.Generator().manual_seed(3)
    target = torch.randn(*ids.shape, 2, generator=drawn)
    sentence = torch.randn(len(ids), 16, generator=drawn)
    results = []
    for padding_free in (False, True):
        torch.manual_seed(0)
        backbone = tiny.encoder(family, dropout=0.0)
        discriminator = Discriminator(backbone, padding_free=padding_free, padding_asked=True).train()
        vectors = sentence.clone().requires_grad_(True)
        logits = discriminator(ids, mask, vectors)
        (logits * target).sum().backward()
        results.append((logits, vectors.grad, {name: p.grad for name, p in discriminator.named_parameters()}))
    (padded, padded_vectors, padded_gradients), (packed, packed_vectors, packed_gradients) = results
    close(packed, padded)
    close(packed_vectors, padded_vectors)
    for name, gradient in padded_gradients.items():
        assert (gradient is None) == (packed_gradients[name] is None), name
        if gradient is not None:
            scale = gradient.abs().max().clamp(min=1)
            close(packed_gradients[name] / scale, gradient / scale)


def step(family: str, fidelity: str, pooler: str = "cls", checkpointed: bool = False, **training: Any) -> DiffCSEModel:
    """A model after one forward and backward pass without dropout, its output in `last`."""
    config = build(fidelity=fidelity, pooler=pooler, projector="bn", generator_dropout=False, **training)
    free = config.training.padding_free is not False
    edit = MlmEdit(tiny.mlm(family), config.edits, cls_id=2, pad_id=0, padding_free=free)
    torch.manual_seed(0)
    model = DiffCSEModel(tiny.encoder(family, dropout=0.0), edit, config).train()
    if checkpointed:
        model.checkpoint_layers()
    ids, mask = (rows.unflatten(0, (4, 2)) for rows in batch())
    draw = torch.Generator().manual_seed(1)
    chosen = (torch.rand(ids.shape, generator=draw) < 0.3) & mask.bool()
    masked = torch.where(chosen, 4, ids)
    draws = torch.rand(ids.shape, generator=draw, dtype=torch.float64)
    output = model(ids, mask, masked_ids=masked, chosen=chosen, draws=draws)
    output.loss.backward()
    model.last = output
    return model


def assert_same_step(one: DiffCSEModel, other: DiffCSEModel) -> None:
    for name in ("loss", "contrastive", "rtd", "replaced_share"):
        close(one.last[name], other.last[name])
    for (name, a), (_, b) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name
        if a.grad is not None:
            scale = b.grad.abs().max().clamp(min=1)
            torch.testing.assert_close(a.grad / scale, b.grad / scale, atol=2e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("fidelity", ["reference", "paper"])
@pytest.mark.parametrize("family", PACKED)
def test_a_training_step_without_padding(family, fidelity):
    assert_same_step(step(family, fidelity), step(family, fidelity, padding_free=False))


@pytest.mark.parametrize("rows", [1, 3, 4, 100])
def test_gradient_caching_equals_the_whole_batch(rows):
    assert_same_step(step("bert", "reference", rows_at_once=rows), step("bert", "reference"))


@pytest.mark.parametrize("pooler", ["cls", "avg"])
def test_layer_checkpointing_equals_the_plain_step(pooler):
    for fidelity in ("reference", "paper"):
        assert_same_step(step("bert", fidelity, pooler, checkpointed=True), step("bert", fidelity, pooler))


def kept_bytes(**settings: Any) -> int:
    """Bytes that a forward pass keeps for the backward pass, weights aside."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        step("bert", "reference", **settings)
    return sum(kept.values())


def test_gradient_caching_and_checkpointing_keep_less():
    plain = kept_bytes()
    # Whatever is made again in the backward pass is counted too, so this understates the gain.
    assert kept_bytes(rows_at_once=1) < plain
    assert kept_bytes(checkpointed=True) < plain


def test_the_model_is_left_as_it_was_found():
    backbone = tiny.encoder("bert")
    before = backbone.config._attn_implementation
    with pytest.raises(RuntimeError, match="not here"), packing.packed(backbone):
        raise RuntimeError("not here")
    assert backbone.config._attn_implementation == before


@pytest.mark.parametrize("family", PACKED)
def test_a_padded_batch_is_right_while_another_thread_packs(family):
    """The attention stands in settings that all threads share, so a padded forward may meet the packed one's choice."""
    ids, mask = batch()
    backbone = tiny.encoder(family).eval()
    alone = backbone(input_ids=ids, attention_mask=mask).last_hidden_state
    with packing.packed(backbone):
        meanwhile = backbone(input_ids=ids, attention_mask=mask).last_hidden_state
    close(meanwhile[mask.bool()], alone[mask.bool()])


def test_threads_that_pack_the_same_model_do_not_meet():
    backbone = tiny.encoder("bert").eval()
    batches = [batch([3 + i, 14 - i, 7, 1 + i], seed=i) for i in range(6)]
    expected = [pooling.encode(backbone, ids, mask, "avg") for ids, mask in batches]

    def encode(number: int) -> Tensor:
        with torch.no_grad():
            return pooling.encode(backbone, *batches[number % 6], "avg", padding_free=True)

    with ThreadPoolExecutor(6) as pool:
        for number, vectors in enumerate(pool.map(encode, range(240))):
            close(vectors, expected[number % 6])
    with ThreadPoolExecutor(1) as pool:
        with packing.packed(backbone):
            waiting = pool.submit(encode, 0)
            assert not wait([waiting], timeout=0.2).done
        close(waiting.result(timeout=60), expected[0])


@pytest.mark.parametrize("name", ["flash_attention_3", "kernels-community/flash-attn4", "flex_attention"])
def test_an_attention_without_dropout_is_refused_in_training(name):
    encoder = tiny.encoder("bert")
    encoder.config._attn_implementation_internal = name
    with pytest.raises(UserError, match=r"attention implementation must be one with dropout .*; load the model"):
        DiffCSEModel(encoder, None, build(objective="simcse"))
