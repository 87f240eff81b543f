"""Continued masked language modelling: from any encoder, in one folder a start and a generator."""

from __future__ import annotations

import math
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from transformers import AutoModelForMaskedLM, AutoTokenizer

from diffcse.errors import Interrupted, UserError
from diffcse.method.masking import IGNORE
from diffcse.presets import build
from diffcse.pretraining.config import PretrainConfig, pretrain_config
from diffcse.pretraining.continued import load_start, logits_at, texts_of
from diffcse.pretraining.mlm import MaskedLanguageModel, pretrain
from diffcse.training.networks import load_networks
from tests import tiny
from tests.killing import ctrl_c_at

SHORT = {"batch_tokens": 64, "total_tokens": 64 * 60, "learning_rate": 5e-3, "held_out": 40, "max_length": 64}


@pytest.fixture(scope="module")
def headless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SentenceTransformer without a head, with mean pooling, Normalize and a prompt."""
    folder = tmp_path_factory.mktemp("start")
    plain = tiny.save(tiny.encoder("bert", dropout=0.1), folder / "plain")
    modules = [Transformer(plain), Pooling(16, pooling_mode="mean"), Normalize()]
    SentenceTransformer(modules=modules, prompts={"query": "a "}).save(str(folder / "st"))
    return folder / "st"


def test_the_folder_is_the_encoder_and_a_generator(headless: Path, lines: list[str], tmp_path: Path) -> None:
    result = pretrain(lines, tmp_path / "m", pretrain_config(encoder=str(headless), **SHORT))
    before = pretrain(lines, tmp_path / "n", pretrain_config(encoder=str(headless), **{**SHORT, "learning_rate": 1e-9}))
    assert result.loss < before.loss - 0.3 and result.tokens == before.tokens
    start, now = (SentenceTransformer(str(folder), device="cpu") for folder in (headless, tmp_path / "m"))
    assert [type(module) for module in now] == [Transformer, Pooling, Normalize]
    assert (now[1].pooling_mode, now.prompts["query"]) == ("mean", "a ")
    assert not np.allclose(start.encode(tiny.SENTENCES), now.encode(tiny.SENTENCES), atol=1e-3)
    mlm = AutoModelForMaskedLM.from_pretrained(tmp_path / "m")
    assert mlm.config.hidden_dropout_prob == 0.1
    for name, value in now[0].model.state_dict().items():
        if "pooler" not in name:
            assert torch.equal(value, mlm.base_model.state_dict()[name]), name
    # The head that was trained is there, tied to the input embeddings.
    assert mlm.get_output_embeddings().weight.data_ptr() == mlm.get_input_embeddings().weight.data_ptr()
    networks = load_networks(build(encoder=str(tmp_path / "m"), generator=str(tmp_path / "m")))
    assert networks.pooler == "avg" and networks.generator is not None
    assert AutoTokenizer.from_pretrained(tmp_path / "m").get_vocab() == tiny.VOCABULARY


@pytest.mark.parametrize("family", list(tiny.FAMILIES))
def test_the_models_own_head_is_used_and_the_loss_is_transformers(family: str, tmp_path: Path) -> None:
    mlm = tiny.mlm(family)
    start = load_start(tiny.save(mlm, tmp_path / "m"), seed=3)
    assert start.own_head
    mlm.eval(), start.mlm.eval()
    ids = torch.tensor(tiny.tokenizer()(tiny.SENTENCES[:1] * 2)["input_ids"])
    labels = torch.full_like(ids, IGNORE)
    labels[:, 2], labels[0, 4] = ids[:, 2], ids[0, 4]
    whole = mlm(input_ids=ids, labels=labels)
    got = MaskedLanguageModel(start.mlm)(ids, labels)
    assert float(got["loss"].detach()) == pytest.approx(float(whole.loss.detach()), abs=1e-5)
    where = (labels.flatten() != IGNORE).nonzero()[:, 0]
    expected = whole.logits.flatten(0, 1)[where]
    torch.testing.assert_close(logits_at(start.mlm, ids, where), expected, atol=1e-5, rtol=1e-4)
    got["loss"].backward()
    assert start.mlm.get_input_embeddings().weight.grad.abs().sum() > 0
    assert start.model[0].model is start.mlm.base_model


def test_a_head_that_is_missing_is_new_by_the_seed_and_tied(headless: Path) -> None:
    first, again, other = (load_start(str(headless), seed).mlm for seed in (0, 0, 1))
    name = "cls.predictions.transform.dense.weight"
    assert torch.equal(first.state_dict()[name], again.state_dict()[name])
    assert not torch.equal(first.state_dict()[name], other.state_dict()[name])
    assert first.get_output_embeddings().weight is first.get_input_embeddings().weight
    assert not load_start(str(headless), 0).own_head


def test_stopped_and_resumed_gives_the_same_bits(
    headless: Path, lines: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = pretrain_config(encoder=str(headless), **{**SHORT, "total_tokens": 64 * 12, "checkpoint_every_steps": 5})
    pretrain(lines, tmp_path / "whole", config)
    ctrl_c_at(monkeypatch, 7)
    with pytest.raises(Interrupted, match="stopped at step 7"):
        pretrain(lines, tmp_path / "stopped", config)
    monkeypatch.undo()
    pretrain(lines, tmp_path / "stopped", config)
    a, b = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "stopped"))
    assert a == b
    with pytest.raises(UserError, match="a finished run"):
        pretrain(lines, tmp_path / "whole", config)


def test_documents_become_texts_that_fit() -> None:
    rows = datasets.Dataset.from_dict({"sentences": [["the cat sat", "a dog ran", "we like fish"], ["it is red"]]})
    assert texts_of(rows, tiny.tokenizer(), 8) == ["the cat sat a dog ran", "we like fish", "it is red"]
    assert texts_of(rows, None, 8) == ["the cat sat", "a dog ran", "we like fish", "it is red"]


@pytest.mark.parametrize("encoder", [True, False])
def test_a_run_on_documents(headless: Path, lines: list[str], tmp_path: Path, encoder: bool) -> None:
    rows = datasets.Dataset.from_dict({"sentences": [lines[i : i + 4] for i in range(0, 200, 4)]})
    sizes = {"hidden_size": 16, "layers": 1, "heads": 2, "intermediate_size": 32, "vocab_size": 120}
    more = {"encoder": str(headless)} if encoder else sizes
    short = {**SHORT, "total_tokens": 64 * 5, "held_out": 20, "max_length": 40}
    result = pretrain(rows, tmp_path / "m", pretrain_config(**more, **short))
    assert result.tokens > 10
    assert (tmp_path / "m" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"hidden_size": 32, "heads": 2}, "hidden_size must be unset with an encoder, which has its own; got 32"),
        ({"vocab_size": 100}, "vocab_size must be unset with an encoder"),
    ],
)
def test_sizes_of_an_encoder_are_its_own(more: dict[str, int], words: str) -> None:
    with pytest.raises(UserError, match=words):
        PretrainConfig(encoder="minilm", **more)


def test_text_longer_than_the_encoder_reads_is_refused(headless: Path, lines: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"max_length must be at most 64, the positions of encoder .*; got 65"):
        pretrain(lines, tmp_path / "m", pretrain_config(encoder=str(headless), **{**SHORT, "max_length": 65}))
    assert not (tmp_path / "m").exists()
    assert math.isclose(pretrain_config(encoder="minilm").learning_rate, 3e-4)
