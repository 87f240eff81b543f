"""What DiffCSE sees is what its training module computes, bit for bit, and a folder without it is told."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffcse.errors import UserError
from diffcse.explore.edit_view import edit_batch, has_discriminator, load_parts, look, what_diffcse_sees
from tests import tiny

SENTENCE, OTHER = tiny.SENTENCES[4], tiny.SENTENCES[6]


@pytest.fixture(scope="module")
def parts(trained):
    return load_parts(trained)


@pytest.fixture
def copy(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "model")


def by_forward(parts, sentences, seed):
    """Probabilities and labels from `DiffCSEModel.forward`: its first view's, one tuple a sentence."""
    heard, judged = [], []
    model = parts.model
    hooks = [
        model.discriminator.register_forward_hook(lambda module, inputs, output: heard.append(output)),
        model.edit.register_forward_hook(lambda module, inputs, output: judged.append(output)),
    ]
    for sentence in sentences:
        batch = {name: value.unsqueeze(1) for name, value in edit_batch(parts, sentence, seed).items()}
        with torch.no_grad():
            model(**{name: value.expand(1, 2, -1) for name, value in batch.items()})
    for hook in hooks:
        hook.remove()
    return [(logits.softmax(-1)[0, :, 1], edit.replaced[0]) for logits, edit in zip(heard, judged, strict=True)]


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_equals_the_training_module(parts, seed):
    ((expected, replaced),) = by_forward(parts, [SENTENCE], seed)
    seen = look(parts, SENTENCE, OTHER, seed)
    assert seen.replaced == tuple(replaced.tolist())
    torch.testing.assert_close(torch.tensor(seen.own), expected, atol=1e-6, rtol=1e-5)


def test_the_other_vector_is_the_only_difference(parts):
    same = look(parts, SENTENCE, SENTENCE, 3)
    assert same.own == pytest.approx(same.other, abs=1e-6)
    different = look(parts, SENTENCE, OTHER, 3)
    assert different.own == pytest.approx(same.own, abs=1e-6)
    assert max(abs(a - b) for a, b in zip(different.own, different.other, strict=True)) > 1e-4
    assert different.edited == same.edited


def test_every_entry_belongs_to_a_token(parts, trained):
    seen = what_diffcse_sees(trained, SENTENCE, OTHER, 3)
    assert seen == look(parts, SENTENCE, OTHER, 3)
    assert seen.tokens == ("[CLS]", *"we like new books about music .".split(), "[SEP]")
    for field in (seen.masked, seen.edited, seen.replaced, seen.own, seen.other):
        assert len(field) == len(seen.tokens)
    assert [a != b for a, b in zip(seen.tokens, seen.edited, strict=True)] == list(seen.replaced)
    assert not seen.masked[0]
    assert not seen.masked[-1]
    assert all(0 <= value <= 1 for value in (*seen.own, *seen.other))
    assert not seen.truncated


def test_the_seed_decides_the_masks_and_nothing_else_does(parts):
    masks = [look(parts, SENTENCE, OTHER, seed).masked for seed in range(6)]
    assert len(set(masks)) > 1
    torch.rand(3)
    assert look(parts, SENTENCE, OTHER, 2).masked == masks[2]


def test_long_sentences_are_cut_as_in_training(parts):
    seen = look(parts, " ".join(["the cat sat"] * 20), OTHER)
    assert len(seen.tokens) == 16
    assert seen.truncated


def test_the_loaded_parts_are_those_that_were_saved(parts, trained):
    saved = load_file(trained / "training" / "model.safetensors")
    state = parts.model.state_dict()
    assert {name.split(".")[0] for name in saved} == {"projector", "discriminator"}
    assert all(torch.equal(value, state[name]) for name, value in saved.items())
    assert not any(module.training for module in parts.model.modules())


def test_a_model_without_its_discriminator(tmp_path):
    folder = tiny.save(tiny.encoder(), tmp_path / "plain")
    assert not has_discriminator(folder)
    with pytest.raises(UserError, match=r"must be one with its discriminator; .*train it with --keep-discriminator"):
        what_diffcse_sees(folder, SENTENCE, OTHER, 0)


def test_a_damaged_folder_is_reported(copy):
    path = copy / "training" / "model.safetensors"
    state = load_file(path)
    lacking = {name: value for name, value in state.items() if name != "discriminator.head.weight"}
    for content, match in (
        (lacking, r"must be projector and discriminator; got discriminator\.head\.weight"),
        ({**state, "extra": torch.zeros(1)}, "must be projector and discriminator; got extra"),
        ({**state, "discriminator.head.weight": torch.zeros(3, 16)}, "must be whole; got Error"),
    ):
        save_file(content, path)
        with pytest.raises(UserError, match=match):
            load_parts(copy)
    path.write_bytes(b"\0" * 100)
    with pytest.raises(UserError, match=r"model\.safetensors must be whole"):
        load_parts(copy)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("{", r"must be readable \(its diffcse\.json is not\)"),
        ("{}", "must be the settings of a training run; got no settings in it"),
        ('{"settings": 3}', "must be the settings of a training run; got no settings in it"),
        ('{"settings": {"model": 3}}', r"section must be one of \[model\]"),
    ],
)
def test_damaged_settings_are_reported(copy, content, fault):
    (copy / "diffcse.json").write_text(content)
    with pytest.raises(UserError, match=rf"diffcse\.json:? {fault}"):
        load_parts(copy)


def test_a_folder_may_not_switch_on_foreign_code(copy):
    path = copy / "diffcse.json"
    about = json.loads(path.read_text())
    about["settings"]["model"]["trust_remote_code"] = True
    path.write_text(json.dumps(about))
    assert load_parts(copy).config.model.trust_remote_code is False


def test_a_generator_out_of_reach_is_reported(copy, tmp_path):
    path = copy / "diffcse.json"
    about = json.loads(path.read_text())
    about["settings"]["model"]["generator"] = str(tmp_path / "gone")
    path.write_text(json.dumps(about))
    with pytest.raises(UserError, match="gone must be an existing folder or a Hub name; got no such folder"):
        load_parts(copy)
