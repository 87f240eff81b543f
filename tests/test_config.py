"""Settings: the published values, the layers, and every rule's message."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

from diffcse.cli.train import settings_file
from diffcse.errors import UserError
from diffcse.presets import PAPER, SECTIONS, build, field_owners
from diffcse.pretraining.config import CooccurConfig, PretrainConfig
from diffcse.settings import field_docs


@pytest.mark.parametrize(
    ("preset", "rate", "ratio", "weight", "encoder", "generator"),
    [
        ("bert-sts", 7e-6, 0.30, 0.005, "bert-base-uncased", "distilbert-base-uncased"),
        ("roberta-sts", 1e-5, 0.20, 0.005, "roberta-base", "distilroberta-base"),
        ("bert-transfer", 2e-6, 0.15, 0.05, "bert-base-uncased", "distilbert-base-uncased"),
        ("roberta-transfer", 3e-6, 0.15, 0.05, "roberta-base", "distilroberta-base"),
    ],
)
def test_presets_are_the_published_settings(
    preset: str, rate: float, ratio: float, weight: float, encoder: str, generator: str
) -> None:
    config = build(preset=preset)
    assert (config.training.learning_rate, config.edits.mask_ratio, config.objective.lambda_weight) == (
        rate, ratio, weight
    )  # fmt: skip
    assert (config.model.encoder, config.model.generator) == (encoder, generator)
    training, objective = config.training, config.objective
    assert (training.batch_size, training.epochs, training.max_tokens) == (64, 2.0, 32)
    assert (training.weight_decay, training.warmup_ratio, training.clip_norm) == (0, 0, 1)
    assert training.eval_every_steps == 125
    assert (objective.temperature, config.model.projector, config.model.pooler) == (0.05, "bn", "auto")


def test_fidelity_switches_exactly_what_is_listed() -> None:
    reference, paper = build(), build(fidelity="paper")
    flat = [{k: v for section in c.as_dict().values() for k, v in section.items()} for c in (reference, paper)]
    assert {name for name in flat[0] if flat[0][name] != flat[1][name]} == set(PAPER)


def test_later_layers_win(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text('preset = "small"\nfidelity = "paper"\n[objective]\ntemperature = 0.07\n[edits]\nfill = "argmax"\n')
    config = build(**{**settings_file(path), "temperature": 0.1})
    assert config.model.encoder == "bundled"
    assert config.objective.temperature == 0.1
    assert config.edits.fill == "argmax"
    assert config.edits.fill_at == "masked"


@pytest.mark.parametrize("cls", [*SECTIONS.values(), PretrainConfig])
def test_every_field_says_what_it_is(cls: Any) -> None:
    docs = field_docs(cls)
    for field in dataclasses.fields(cls):
        assert len(docs[field.name]) > 15, field.name
        assert docs[field.name].endswith("."), field.name


@pytest.mark.parametrize("cls", [*SECTIONS.values(), PretrainConfig, CooccurConfig])
def test_every_field_refuses_what_is_not_of_its_kind(cls: Any) -> None:
    for field in dataclasses.fields(cls):
        odd: list[object] = [[], {}, b"x", object(), 1j]
        if field.default is not None:
            odd.append(None)
        if isinstance(field.default, bool | None):
            odd += [1, "yes"]
        elif isinstance(field.default, int):
            odd += [2**63, -(2**63), 10**9000, 1.5, "1", True]
        elif isinstance(field.default, float):
            odd += [math.inf, -math.inf, math.nan, "1", True]
        else:
            odd += [1, 1.5, True]
        for value in odd:
            with pytest.raises(UserError, match=f"^{field.name} must be "):
                cls(**{field.name: value})


@pytest.mark.parametrize(
    ("size", "value"), [("layers", 10**9), ("hidden_size", 10**9), ("intermediate_size", 10**12), ("max_length", 10**9)]
)
@pytest.mark.parametrize("cls", [PretrainConfig, CooccurConfig])
def test_a_network_that_no_machine_holds_is_refused(cls: Any, size: str, value: int) -> None:
    with pytest.raises(UserError, match=r"^network must be at most 1e\+10 in 1,000; got .* parameters in .* layers; "):
        cls(**{size: value})


def test_a_field_name_belongs_to_one_section() -> None:
    assert len(field_owners()) == sum(len(dataclasses.fields(cls)) for cls in SECTIONS.values())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"preset": "bert"}, "preset must be one of bert-sts, .*; got bert; choose one of them"),
        ({"fidelity": "code"}, "fidelity must be one of reference, paper; got code"),
        ({"pooler": "mean"}, "pooler must be one of auto, cls, avg, avg_top2, avg_first_last, last; got mean"),
        ({"temperature": 0}, "temperature must be greater than 0; got 0.0; use 0.05"),
        ({"temperature": float("nan")}, "temperature must be finite; got nan"),
        ({"mask_ratio": 1.0}, "mask_ratio must be between 0 and 1; got 1.0"),
        ({"batch_size": 1}, "batch_size must be at least 2; got 1"),
        ({"batch_size": 6.5}, "batch_size must be a whole number; got 6.5"),
        ({"batch_size": True}, "batch_size must be a whole number; got True"),
        ({"epochs": 0}, "epochs must be greater than 0"),
        ({"epochs": 1e308}, "epochs must be greater than 0 and at most 1e9; got 1e"),
        ({"data_workers": 10**6}, "data_workers must be 0 to 1,024; got 1000000"),
        ({"queue_size": 10**12, "ema_decay": 0.9}, "queue_size must be at most 1,048,576; got 1000000000000"),
        ({"lambda": 1}, "setting must be a field of the settings; got lambda"),
        ({"keep_discriminator": "yes"}, "keep_discriminator must be true or false; got 'yes'"),
        ({"encoder": ""}, "encoder must be a name or a folder"),
    ],
)
def test_bad_settings_say_what_and_what_to_do(change: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        build(**change)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[training]\ntemperature = 1\n", r"\[training\] must be .*; got temperature; move it to \[objective\]"),
        ("[training]\nspeed = 1\n", "got speed; see diffcse train --help"),
        ("batch_size = 3\n", r"section must be one of \[model\].*; got batch_size"),
        ("[training\n", "must be a TOML file"),
    ],
)
def test_bad_settings_files(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "s.toml").write_text(content)
    with pytest.raises(UserError, match=words):
        settings_file(tmp_path / "s.toml")
    with pytest.raises(UserError, match="readable TOML file"):
        settings_file(tmp_path / "missing.toml")
