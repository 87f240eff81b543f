"""Pre-training: batches without padding, the loss where something is predicted, a folder that loads."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer, BertTokenizer

from diffcse.errors import UserError
from diffcse.method.masking import IGNORE
from diffcse.pretraining.config import PretrainConfig
from diffcse.pretraining.mlm import (
    LengthBatches,
    MaskedBatches,
    MaskedLanguageModel,
    build_model,
    join_some,
    pretrain,
    tokenise_lines,
)
from diffcse.pretraining.wordpiece import train_tokenizer, unknown_note
from tests.cli.command import diffcse, options
from tests.killing import ctrl_c_at

SMALL = {"hidden_size": 16, "layers": 2, "heads": 2, "intermediate_size": 32, "vocab_size": 120, "batch_tokens": 64}


def test_batches_hold_one_length_and_every_example_once(lines: list[str]) -> None:
    lengths = np.array([len(line.split()) for line in lines])
    order = LengthBatches(lengths, batch_tokens=40, seed=1)
    batches = list(order)
    assert len(batches) == len(order)
    assert sorted(i for batch in batches for _, i in batch) == list(range(len(lines)))
    for batch in batches:
        sizes = {int(lengths[i]) for _, i in batch}
        assert len(sizes) == 1
        assert len(batch) * sizes.pop() <= 40
    assert list(order) == batches
    order.set_epoch(1)
    assert [b for b in order] != batches


def test_loss_is_that_of_transformers_own_head(lines: list[str]) -> None:
    config = PretrainConfig(**SMALL)
    tokenizer = train_tokenizer(lines, config)[0]
    model = build_model(config, tokenizer).eval()
    data = tokenise_lines(lines, tokenizer, 128)
    batch = next(iter(LengthBatches(data.lengths, 400, 0)))
    inputs = MaskedBatches(tokenizer, config)([data[key] for key in batch])
    whole = model(input_ids=inputs["input_ids"], labels=inputs["labels"])
    got = MaskedLanguageModel(model)(**inputs)
    assert float(got["loss"].detach()) == pytest.approx(float(whole.loss.detach()), abs=1e-5)
    chosen = inputs["labels"] != IGNORE
    right = (whole.logits.argmax(-1) == inputs["labels"])[chosen].float().mean()
    assert float(got["accuracy"]) == pytest.approx(float(right))


def test_a_batch_with_nothing_to_predict_has_loss_0(lines: list[str]) -> None:
    tokenizer = train_tokenizer(lines, PretrainConfig(**SMALL))[0]
    module = MaskedLanguageModel(build_model(PretrainConfig(**SMALL), tokenizer))
    got = module(torch.tensor([[2, 5, 3]]), torch.full((1, 3), IGNORE))
    assert float(got["loss"].detach()) == 0
    assert float(got["accuracy"]) == 0


def test_tokenizer_is_that_of_bert_uncased(lines: list[str]) -> None:
    tokenizer = train_tokenizer(lines, PretrainConfig(**SMALL))[0]
    ids = tokenizer("The CAT sat.")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "the", "cat", "sat", ".", "[SEP]"]
    assert len(tokenizer) <= 120


@pytest.mark.parametrize(
    ("options", "pieces"),
    [
        ({}, ["the", "cafe", "."]),
        ({"lowercase": False}, ["The", "Cafe", "."]),
        ({"strip_accents": False}, ["the", "caf\u00e9", "."]),
        ({"lowercase": False, "strip_accents": False}, ["The", "Caf\u00e9", "."]),
    ],
)
def test_case_and_accents_are_kept_as_asked(tmp_path: Path, options: dict[str, bool], pieces: list[str]) -> None:
    config = PretrainConfig(**{**SMALL, **options})
    train_tokenizer(["The Caf\u00e9."] * 20, config)[0].save_pretrained(tmp_path)
    tokenizer = BertTokenizer.from_pretrained(tmp_path)
    assert tokenizer.tokenize("The Caf\u00e9.") == pieces


def test_a_script_of_many_characters_is_read() -> None:
    characters = [chr(0x4E00 + i) for i in range(3000)]
    lines = ["".join(characters[i : i + 30]) + "\u3002" for i in range(0, 3000, 30)]
    config = PretrainConfig(**{**SMALL, "vocab_size": 8192})
    tokenizer, note = train_tokenizer(lines[:50], config, lines[50:])
    assert note == "" and tokenizer.unk_token_id not in tokenizer("".join(lines))["input_ids"]
    small, _ = train_tokenizer(lines, PretrainConfig(**{**SMALL, "vocab_size": 1000}))
    counts = np.bincount(tokenise_lines(lines, small, 128).ids, minlength=len(small))
    assert unknown_note(counts, small).startswith("80.68% of the tokens are unknown: a larger --vocab-size")


def test_marks_that_are_vowels_are_not_lost_in_silence() -> None:
    thai = ["\u0e27\u0e31\u0e19\u0e19\u0e35\u0e49"] * 20
    assert "use --no-strip-accents" in train_tokenizer(thai, PretrainConfig(**SMALL))[1]
    assert train_tokenizer(thai, PretrainConfig(**{**SMALL, "strip_accents": False}))[1] == ""
    assert train_tokenizer(["caf\u00e9 \u00e9t\u00e9"] * 20, PretrainConfig(**SMALL))[1] == ""


def test_joined_text_loses_no_word(lines: list[str]) -> None:
    assert " ".join(join_some(lines)).split() == " ".join(lines).split()


def test_model_folder_loads_and_learnt_something_and_longer_runs_go_on(lines: list[str], tmp_path: Path) -> None:
    config = PretrainConfig(**SMALL, total_tokens=64 * 150, learning_rate=5e-3, held_out=40)
    result = pretrain(lines, tmp_path / "m", config)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "m")
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "m", dtype=torch.float32)
    assert result.loss < math.log(len(tokenizer)) - 0.5
    assert result.tokens > 30
    assert model.config.hidden_dropout_prob == 0.1
    assert (tmp_path / "m" / "held_out.json").is_file()
    with pytest.raises(UserError, match="a finished run"):
        pretrain(lines, tmp_path / "m", config)
    longer = PretrainConfig(**{**SMALL, "total_tokens": 64 * 200, "learning_rate": 5e-3, "held_out": 40})
    pretrain(lines, tmp_path / "m", longer)
    steps = [line for line in (tmp_path / "m" / "metrics.jsonl").read_text().splitlines() if '"step": 200' in line]
    assert steps
    with pytest.raises(UserError, match="other settings"):
        pretrain(lines, tmp_path / "m", PretrainConfig(**{**SMALL, "seed": 5, "held_out": 40}))


def test_nothing_held_out_is_allowed(lines: list[str], tmp_path: Path) -> None:
    result = pretrain(lines, tmp_path / "m", PretrainConfig(**SMALL, total_tokens=64 * 3, held_out=0))
    assert (result.tokens, math.isnan(result.loss), math.isnan(result.accuracy)) == (0, True, True)
    assert json.loads((tmp_path / "m" / "held_out.json").read_text()) == {"loss": None, "accuracy": None, "tokens": 0}


@pytest.mark.parametrize("name", ["held_out", "seed", "checkpoint_every_steps", "max_length", "learning_rate"])
def test_negative_numbers_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"{name} must be .*; got -1"):
        PretrainConfig(**{name: -1})


def test_stopped_by_ctrl_c_is_said_and_resumes_with_the_same_bits(
    lines: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t.txt").write_text("\n".join(lines))
    config = {**SMALL, "total_tokens": 64 * 12, "held_out": 40, "checkpoint_every_steps": 5}
    command = ["pretrain", tmp_path / "t.txt", "--cache", tmp_path / "c", *options(config), "-o"]
    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    ctrl_c_at(monkeypatch, 7)
    ended = diffcse(*command, stopped)
    assert ended.code == 130 and "diffcse: stopped at step 7; the same command resumes\n" in ended.err
    assert "model in" not in ended.out + ended.err
    assert not (stopped / "model.safetensors").exists()
    monkeypatch.undo()
    assert diffcse(*command, stopped).code == 0
    # the tokenizer is learnt once: ties in its training are broken at random
    shutil.copytree(stopped / "checkpoints" / "tokenizer", whole / "checkpoints" / "tokenizer")
    about = json.loads((stopped / "diffcse.json").read_text())
    (whole / "diffcse.json").write_text(json.dumps({**about, "finished": False}))
    assert diffcse(*command, whole).code == 0
    assert (stopped / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_too_little_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="text must be more than 2000 sentences"):
        pretrain(["one sentence"], tmp_path / "m", PretrainConfig(**SMALL))
