"""The edit: where it may change a sentence, and each switch between the reference and the paper."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffcse.config import EditConfig
from diffcse.method.edits import MlmEdit
from diffcse.method.generator import Generator, _likeliest, sample
from diffcse.training.batches import Collator
from tests import tiny


def _batch(config: EditConfig, epoch: int = 0) -> dict[str, torch.Tensor]:
    tokens = tiny.tokenizer()
    rows = [(epoch, i, [np.array(tokens(text)["input_ids"])]) for i, text in enumerate(tiny.SENTENCES)]
    return {name: value.flatten(0, 1) for name, value in Collator(tokens, config, seed=3)(rows).items()}


def _edit(config: EditConfig, family: str = "bert", **more: int) -> MlmEdit:
    ids = {"cls_id": 2, "pad_id": 0, **more}
    return MlmEdit(tiny.mlm(family), config, **ids)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_reference_edit_is_the_argmax_everywhere(family: str) -> None:
    edit, batch = _edit(EditConfig(), family).eval(), _batch(EditConfig())
    with torch.no_grad():
        whole = edit.generator.mlm(input_ids=batch["masked_ids"], attention_mask=batch["attention_mask"]).logits
    got, real = edit(**batch), batch["attention_mask"].bool()
    expected = torch.where(real, whole.argmax(-1), 0)
    expected[:, 0] = 2
    # Chunked and whole logits may round apart; where the two largest are closer than that, either is right.
    near = whole.topk(2).values.diff(dim=-1).abs().squeeze(-1) < 1e-4
    assert ((got.input_ids == expected) | (near & real)).all()
    assert (got.replaced == ((got.input_ids != batch["input_ids"]) & real)).all()
    assert 0.1 < got.replaced[real].float().mean() < 1


def test_paper_edit_changes_only_masked_positions() -> None:
    config = EditConfig(fill="sample", fill_at="masked", masking="mask", generator_dropout=False)
    edit, batch = _edit(config), _batch(config)
    got = edit(**batch)
    assert not (got.replaced & ~batch["chosen"]).any()
    assert got.replaced.any()
    again = edit(**batch)
    assert (got.input_ids == again.input_ids).all()


def test_first_position_and_padding() -> None:
    batch = _batch(EditConfig())
    padding = batch["attention_mask"] == 0
    got = _edit(EditConfig(padding_id="zero"), cls_id=9, pad_id=7)(**batch)
    assert (got.input_ids[:, 0] == 9).all()
    assert got.replaced[:, 0].all()  # a forced id that is not the tokenizer's counts as replaced, as in the reference
    assert (got.input_ids[padding] == 0).all()
    assert not got.replaced[padding].any()
    assert (_edit(EditConfig(padding_id="pad"), pad_id=7)(**batch).input_ids[padding] == 7).all()


def test_generator_keeps_its_dropout_only_where_asked() -> None:
    on, off = Generator(tiny.mlm(), dropout=True), Generator(tiny.mlm(), dropout=False)
    assert on.train().mlm.training
    assert not off.train().mlm.training
    assert not on.eval().mlm.training


def test_generator_gets_no_gradient_and_keeps_no_graph() -> None:
    generator, batch = Generator(tiny.mlm(), dropout=True).train(), _batch(EditConfig())
    chunks = list(generator.logits(batch["masked_ids"], batch["attention_mask"], batch["attention_mask"].bool()))
    assert not any(chunk.requires_grad for chunk in chunks)
    assert not any(parameter.requires_grad for parameter in generator.parameters())


@pytest.mark.parametrize("words", [3, 64, 65, 200, 1000])
@pytest.mark.parametrize("bias", [True, False])
def test_the_likeliest_word_is_found_wherever_it_stands(words: int, bias: bool) -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(16, words, bias=bias)
    rows = 30 * torch.randn(400, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = layer(rows)
        results = _likeliest(layer, rows)
    assert results.shape == (400,)
    assert len(results.unique()) > 2  # not one word that always wins
    assert torch.equal(results, logits.argmax(-1))


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "modernbert"])
def test_the_likeliest_words_are_those_of_the_logits(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffcse.method.generator._LOGITS_AT_ONCE", 1000)  # several chunks
    batch, generator = _batch(EditConfig()), Generator(tiny.mlm(family), dropout=False)
    where = batch["attention_mask"].bool()
    inputs = (batch["masked_ids"], batch["attention_mask"], where)
    assert torch.equal(generator.likeliest(*inputs), torch.cat(list(generator.logits(*inputs))).argmax(-1))


def test_nothing_is_predicted_where_it_would_be_thrown_away() -> None:
    config, asked = EditConfig(), []
    edit = _edit(config)
    assert edit.generator is not None
    likeliest = edit.generator.likeliest

    def note(ids: torch.Tensor, mask: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
        asked.append(where)
        return likeliest(ids, mask, where)

    edit.generator.likeliest = note  # type: ignore[method-assign]
    batch = _batch(config)
    edit(**batch)
    (where,) = asked
    assert not where[:, 0].any()
    assert torch.equal(where[:, 1:], batch["attention_mask"][:, 1:].bool())


def test_sampling_follows_the_distribution_and_its_uniform_number_alone() -> None:
    logits = torch.tensor([[0.0, 1.0, -1.0, 2.0]]).expand(100_000, 4)
    drawn = sample(logits, torch.rand(100_000, generator=torch.Generator().manual_seed(0)))
    shares = torch.bincount(drawn, minlength=4) / len(drawn)
    assert shares.tolist() == pytest.approx(logits[0].softmax(-1).tolist(), abs=0.01)
    assert sample(logits[:1], torch.tensor([0.0])).item() == 0
    assert sample(logits[:1], torch.tensor([1 - 1e-9], dtype=torch.float64)).item() == 3
    certain = torch.tensor([[-1e9, 0.0, -1e9]])
    assert {sample(certain, torch.tensor([u])).item() for u in (0.0, 0.3, 0.999)} == {1}


def test_masks_depend_on_epoch_and_view_but_not_on_the_batch() -> None:
    tokens, config = tiny.tokenizer(), EditConfig()
    collate = Collator(tokens, config, seed=3)
    rows = [(4, i, [np.array(tokens(text)["input_ids"])]) for i, text in enumerate(tiny.SENTENCES)]
    whole = collate(rows)
    for i, row in enumerate(rows):
        alone, length = collate([row]), len(row[2][0])
        for name in ("masked_ids", "chosen", "draws"):
            assert torch.equal(alone[name][0], whole[name][i, :, :length]), name
    assert not torch.equal(whole["masked_ids"][:, 0], whole["masked_ids"][:, 1])
    other_epoch = collate([(5, i, columns) for _, i, columns in rows])
    assert not torch.equal(whole["masked_ids"], other_epoch["masked_ids"])
