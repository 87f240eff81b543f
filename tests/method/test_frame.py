"""The frame around DiffCSE: one table of tests for all views, all edits and all predictors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from diffcse.config import Config, EditConfig, ViewConfig
from diffcse.errors import UserError
from diffcse.method.edits import NOTHING, MlmEdit, Words, build_edit
from diffcse.method.masking import EDIT, NEXT, VIEW, uniforms
from diffcse.method.model import DiffCSEModel
from diffcse.method.predictors import LanguageModelHead
from diffcse.method.views import build_view
from diffcse.presets import build
from diffcse.training.batches import Collator, Examples
from tests import tiny

SPECIAL = np.arange(5)
WORDS = Words(special_ids=SPECIAL, mask_id=4, size=len(tiny.VOCABULARY))
SENTENCE = np.array([2, *range(5, 25), 3])
VIEWS = ["dropout", "repetition", "cropping", "deletion", "shuffling"]
EDITS = ["replacement", "insertion", "deletion", "all"]
PREDICTORS = ["rtd", "conditional_mlm", "corrective_lm"]


def numbers(example: int, length: int = len(SENTENCE), purpose: int = EDIT) -> np.ndarray:
    return uniforms(7, 0, example, 0, length, purpose)


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_keeps_the_ends_is_its_numbers_alone_and_does_what_it_says(name: str) -> None:
    view = build_view(ViewConfig(view=name, view_ratio=0.3), SPECIAL)
    seen = [view(SENTENCE, numbers(i)) for i in range(200)]
    for i, ids in enumerate(seen):
        assert ids[0] == 2 and ids[-1] == 3
        assert (ids == view(SENTENCE, numbers(i))).all()
        assert set(ids) <= set(SENTENCE)
    assert (SENTENCE == np.array([2, *range(5, 25), 3])).all()  # what was given is not changed
    lengths = np.array([len(ids) for ids in seen]) - len(SENTENCE)
    ordered = all((np.diff(ids[1:-1]) >= 0).all() for ids in seen)
    spans = all((np.diff(ids[1:-1]) == 1).all() for ids in seen)
    assert {
        "dropout": lambda: (lengths == 0).all() and ordered,
        "repetition": lambda: lengths.min() == 0 and lengths.max() == 6 and abs(lengths.mean() - 3) < 0.5 and ordered,
        "cropping": lambda: (lengths == -6).all() and spans and len({ids[1] for ids in seen}) == 7,
        "deletion": lambda: abs(lengths.mean() + 6) < 0.6 and ordered and not spans,
        "shuffling": lambda: (lengths == 0).all() and not ordered and all(set(ids) == set(SENTENCE) for ids in seen),
    }[name]()


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("ids", [[2, 3], [2, 5, 3], [2, 5, 6, 3], [2, 1, 3]])
def test_a_view_of_a_short_sentence_is_not_empty(name: str, ids: list[int]) -> None:
    view = build_view(ViewConfig(view=name, view_ratio=0.9), SPECIAL)
    for i in range(50):
        got = view(np.array(ids), numbers(i, len(ids)))
        assert len(got) >= min(3, len(ids)) and got[0] == 2 and got[-1] == 3


@pytest.mark.parametrize("name", EDITS)
def test_a_draft_is_aligned_with_its_sentence(name: str) -> None:
    edit = build_edit(EditConfig(edit=name, mask_ratio=0.25), WORDS)
    drafts = [edit(SENTENCE, numbers(i)) for i in range(300)]
    for i, draft in enumerate(drafts):
        again = edit(SENTENCE, numbers(i))
        for field in ("input_ids", "original", "chosen", "draws"):
            assert (getattr(draft, field) == getattr(again, field)).all()
            assert len(getattr(draft, field)) == len(draft.input_ids)
        assert draft.input_ids[0] == 2 and draft.input_ids[-1] == 3
        known = draft.original != NOTHING
        kept = known & ~draft.chosen
        assert (draft.input_ids[kept] == draft.original[kept]).all()
        assert (np.diff(draft.original[known]) > 0)[1:-1].all()  # in the sentence's order
    grown = np.array([len(draft.input_ids) for draft in drafts]) - len(SENTENCE)
    asked = np.mean([draft.chosen.sum() for draft in drafts])
    assert {
        "replacement": lambda: (grown == 0).all() and abs(asked - 5) < 0.5,
        "insertion": lambda: (
            abs(grown.mean() - 21 / 4) < 0.5 and all(d.chosen.sum() == g for d, g in zip(drafts, grown, strict=True))
        ),
        "deletion": lambda: abs(grown.mean() + 5) < 0.5 and asked == 0,
        "all": lambda: (
            min(abs((np.sign(grown) == s).mean() - 1 / 3) for s in (-1, 0, 1)) < 0.08
            and {*np.sign(grown)} == {-1, 0, 1}
        ),
    }[name]()


def test_deletion_marks_the_token_after_a_gap() -> None:
    uniform = np.ones((6, 4))
    uniform[[2, 3], 0] = 0.0
    draft = build_edit(EditConfig(edit="deletion"), WORDS)(np.array([2, 5, 6, 7, 8, 3]), uniform)
    assert draft.input_ids.tolist() == [2, 5, 8, 3]
    assert draft.original.tolist() == [2, 5, NOTHING, 3]


def test_insertion_asks_for_new_tokens_after_the_drawn_ones() -> None:
    uniform = np.ones((4, 4))
    uniform[[0, 2], 0] = 0.0
    draft = build_edit(EditConfig(edit="insertion"), WORDS)(np.array([2, 5, 6, 3]), uniform)
    assert draft.input_ids.tolist() == [2, 4, 5, 6, 4, 3]
    assert draft.original.tolist() == [2, NOTHING, 5, 6, NOTHING, 3]
    assert draft.chosen.tolist() == [False, True, False, False, True, False]


@pytest.mark.parametrize("fill_at", ["all", "masked"])
@pytest.mark.parametrize("name", ["insertion", "deletion", "all"])
def test_labels_of_a_filled_batch_are_what_the_draft_says(name: str, fill_at: Any) -> None:
    config = EditConfig(edit=name, fill_at=fill_at)
    batch = {key: value.flatten(0, 1) for key, value in collated(build(edit=name)).items() if key in _DRAFT}
    batch["input_ids"], batch["attention_mask"] = batch.pop("aligned_ids"), batch.pop("draft_mask")
    edited = MlmEdit(tiny.mlm(), config, cls_id=2, pad_id=0)(**batch)
    real = batch["attention_mask"].bool()
    expected = (batch["input_ids"] == NOTHING) & real
    untouched = real & ~batch["chosen"]
    assert torch.equal(edited.replaced[untouched], expected[untouched])
    assert torch.equal(edited.input_ids[untouched], batch["masked_ids"][untouched])
    assert edited.replaced[batch["chosen"] & expected].all()
    assert not edited.replaced[~real].any()
    assert edited.replaced.any()


_DRAFT = ("aligned_ids", "draft_mask", "masked_ids", "chosen", "draws")


def collated(config: Config, count: int = 6, shift: int = 0) -> dict[str, torch.Tensor]:
    tokens, after = tiny.tokenizer(), config.edits.edited_text != "same"
    ids = [np.array(tokens(text)["input_ids"]) for text in tiny.SENTENCES * 2]
    rows = [(0, i + shift, [ids[i], ids[i + 1]] if after else [ids[i]]) for i in range(count)]
    edits = config.edits if config.has_edits else None
    return Collator(tokens, edits, config.training.seed, config.views)(rows)


def network(config: Config, teacher: torch.nn.Module | None = None) -> DiffCSEModel:
    edit = None
    if config.has_edits:
        mlm = tiny.mlm("distilbert", dropout=0.0) if config.has_generator else None
        edit = MlmEdit(mlm, config.edits, cls_id=2, pad_id=0)
    encoder = tiny.encoder(dropout=0.0)
    torch.manual_seed(2)
    return DiffCSEModel(encoder, edit, config, teacher).train()


@pytest.mark.parametrize("fidelity", ["reference", "paper"])
@pytest.mark.parametrize("predictor", PREDICTORS)
@pytest.mark.parametrize("text", ["same", "next", "both"])
@pytest.mark.parametrize("edit", EDITS)
def test_every_combination_trains_every_part(edit: str, text: str, predictor: str, fidelity: Any) -> None:
    if edit != "replacement" and predictor != "rtd":
        with pytest.raises(UserError, match=f"edit must be replacement with predictor {predictor}"):
            build(edit=edit, predictor=predictor)
        return
    config = build(edit=edit, edited_text=text, predictor=predictor, fidelity=fidelity, mask_ratio=0.4)
    net, inputs = network(config), collated(config)
    views = 2 if fidelity == "reference" else 1
    seen: list[torch.Tensor] = []
    net.discriminator.register_forward_pre_hook(lambda _, given: seen.append(given[2]))
    output = net(**inputs)
    assert len(seen[0]) == 6 * views * (2 if text == "both" else 1)
    assert torch.isfinite(output.loss) and float(output.rtd) > 0
    assert (output.token_accuracy is None) == (predictor == "rtd") == (output.replaced_share is not None)
    output.loss.backward()
    assert [name for name, p in net.named_parameters() if p.requires_grad and p.grad is None] == []
    for part in ("encoder.", "discriminator.backbone.", "discriminator.head."):
        assert any(p.grad.abs().max() > 0 for name, p in net.named_parameters() if name.startswith(part)), part


def test_the_same_and_the_next_sentence_are_judged_by_the_same_vector() -> None:
    both, same, following = (build(edited_text=text) for text in ("both", "same", "next"))
    batches = {text: collated(config) for text, config in (("both", both), ("next", following))}
    drafts = batches["both"]["masked_ids"]
    assert drafts.shape[1] == 4
    length = batches["next"]["masked_ids"].shape[2]
    assert torch.equal(drafts[:, 2:, :length], batches["next"]["masked_ids"])
    own = collated(same)["masked_ids"]
    assert torch.equal(drafts[:, :2, : own.shape[2]], own)
    net = network(both)
    seen: list[torch.Tensor] = []
    net.discriminator.register_forward_pre_hook(lambda _, given: seen.append(given[2].detach().unflatten(0, (6, 4))))
    net(**batches["both"])
    assert torch.equal(seen[0][:, :2], seen[0][:, 2:])
    assert not torch.equal(seen[0][0], seen[0][1])


def test_the_next_sentence_is_the_row_after_and_the_last_row_has_itself() -> None:
    class Rows(list):
        column_names = ("ids0",)

        def with_format(self, _: str) -> Rows:
            return self

    rows = Examples(Rows({"ids0": [2, word, 3]} for word in (5, 6, 7)), with_next=True)
    assert [[ids.tolist() for ids in rows[0, i][2]] for i in range(3)] == [
        [[2, 5, 3], [2, 6, 3]],
        [[2, 6, 3], [2, 7, 3]],
        [[2, 7, 3], [2, 7, 3]],
    ]


def test_streams_of_numbers_differ_by_purpose() -> None:
    streams = [numbers(3, purpose=purpose) for purpose in (EDIT, VIEW, NEXT)]
    assert len({stream[0, 0] for stream in streams}) == 3


def test_views_and_edits_do_not_depend_on_the_batch() -> None:
    config = build(view="repetition", view_ratio=0.4, edit="all", edited_text="both")
    whole = collated(config)
    alone = collated(config, count=1)
    for name, value in alone.items():
        length = value.shape[2]
        assert torch.equal(value[0], whole[name][0, :, :length]), name
    other = collated(config, shift=1)
    assert not torch.equal(whole["masked_ids"][..., :8], other["masked_ids"][..., :8])


def test_conditional_mlm_is_cross_entropy_at_the_masked_positions() -> None:
    config = build(predictor="conditional_mlm", lambda_weight=1.0, contrastive_weight=0.0, masking="mask")
    net, inputs = network(config).eval(), collated(config)
    got = net(**inputs)
    rows = {name: value.flatten(0, 1) for name, value in inputs.items()}
    sentence = net.project(net.pool(inputs["input_ids"], inputs["attention_mask"])).flatten(0, 1)
    masked = rows["masked_ids"] * rows["attention_mask"]
    hidden = net.discriminator.hidden(masked, rows["attention_mask"], sentence)
    head = net.discriminator.head
    assert isinstance(head, LanguageModelHead)
    words = net.discriminator.backbone.get_input_embeddings().weight
    logits = head.norm(F.gelu(head.layer(hidden))) @ words.T + head.bias
    expected = F.cross_entropy(logits[rows["chosen"]], rows["input_ids"][rows["chosen"]])
    torch.testing.assert_close(got.rtd, expected)
    torch.testing.assert_close(got.loss, expected)
    assert net.edit.generator is None


def test_corrective_lm_asks_for_every_token_but_the_first() -> None:
    config = build(predictor="corrective_lm")
    net, inputs = network(config), collated(config)
    rows = {name: value.flatten(0, 1) for name, value in inputs.items()}
    where = net.predictor.where(net.edit(**rows), rows["attention_mask"])
    assert where[:, 0].sum() == 0
    assert torch.equal(where[:, 1:], rows["attention_mask"][:, 1:].bool())


def test_without_contrast_the_loss_is_the_difference_alone() -> None:
    config = build(contrastive_weight=0.0, lambda_weight=0.5)
    output = network(config)(**collated(config))
    torch.testing.assert_close(output.loss, 0.5 * output.rtd)
    with pytest.raises(UserError, match="contrastive_weight must be above 0 where nothing else is trained on"):
        build(contrastive_weight=0.0, objective="simcse")
    assert build(contrastive_weight=0.0, objective="simcse", dimension_weight=0.1).objective.contrastive_weight == 0


def test_a_discriminator_that_starts_as_the_generator_has_its_weights_and_learns() -> None:
    config = build(discriminator="generator")
    mlm = tiny.mlm("distilbert", hidden_size=24, dim=24, dropout=0.0)
    edit = MlmEdit(mlm, config.edits, cls_id=2, pad_id=0)
    net = DiffCSEModel(tiny.encoder(dropout=0.0), edit, config).train()
    theirs = mlm.distilbert.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in net.discriminator.backbone.state_dict().items())
    assert net.discriminator.adapter.weight.shape == (24, 16)
    net(**collated(config)).loss.backward()
    assert [name for name, p in net.named_parameters() if p.requires_grad and p.grad is None] == []
    assert all(p.grad is None for p in mlm.parameters())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"edits_as": "negatives", "edited_text": "next"}, "edits_as must be none where the next sentence is edited"),
        ({"edits_as": "negatives", "predictor": "conditional_mlm"}, "edits_as must be none with conditional_mlm"),
        ({"discriminator": "generator", "predictor": "conditional_mlm"}, "discriminator must be encoder with"),
        ({"queue_size": 8}, "queue_size must be 0 without a moving average"),
        ({"ranking_weight": 1.0}, "ranking_weight must be 0 without a teacher"),
        ({"teacher": "x"}, "teacher must be empty unless something uses it"),
        ({"view_ratio": 1.0}, "view_ratio must be between 0 and 1"),
        ({"false_negative_cosine": 1.5}, "false_negative_cosine must be above -1 and at most 1"),
    ],
)
def test_what_cannot_go_together_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        build(**settings)
