"""Whole runs with other views, edits, predictors and switches than the published ones, on tiny networks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from diffcse.errors import UserError
from diffcse.presets import build
from diffcse.training.build import build_model
from diffcse.training.networks import load_networks
from diffcse.training.train import train
from tests import tiny

RUNS: dict[str, dict[str, Any]] = {
    "insertion": {"edit": "insertion", "view": "repetition"},
    "deletion, which needs no generator": {"edit": "deletion", "generator": "nowhere"},
    "next": {"edit": "all", "edited_text": "both", "view": "cropping"},
    "conditional mlm, which needs no generator": {"predictor": "conditional_mlm", "generator": "nowhere"},
    "corrective lm": {"predictor": "corrective_lm", "view": "deletion", "fidelity": "paper"},
    "generator's start": {"discriminator": "generator", "discriminator_learning_rate": 1e-2},
    "simcse++": {"negatives_without_dropout": True, "dimension_weight": 0.1},
    "teacher": {"objective": "simcse", "ranking_weight": 1.0, "false_negative_cosine": 0.9, "edits_as": "negatives"},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("frame")
    tiny.save(tiny.mlm("bert", seed=0, dropout=0.1), folder / "encoder")
    tiny.save(tiny.mlm("distilbert", dropout=0.1), folder / "generator")
    tiny.write_sentences(folder / "text.txt", 40)
    return folder


def settings(place: Path, **more: Any) -> dict[str, Any]:
    networks = {"encoder": str(place / "encoder"), "generator": str(place / "generator")}
    if "ranking_weight" in more:
        more["teacher"] = str(place / "encoder")
    return {
        **networks,
        "batch_size": 8,
        "max_steps": 3,
        "max_tokens": 24,
        "log_every_steps": 1,
        "learning_rate": 1e-3,
        **more,
    }


@pytest.mark.parametrize("name", RUNS)
def test_a_run_ends_in_a_model_that_has_learnt_something(place: Path, tmp_path: Path, name: str) -> None:
    config = build(**settings(place, **RUNS[name]))
    result = train([place / "text.txt"], tmp_path / "model", config, cache_dir=place / "cache")
    assert result.finished
    lines = [json.loads(line) for line in (tmp_path / "model" / "metrics.jsonl").read_text().splitlines()]
    logged = [line for line in lines if "contrastive" in line]
    assert [line["step"] for line in logged] == [1, 2, 3]
    assert all(("rtd" in line) == (config.objective.objective == "diffcse") for line in logged)
    assert all(("ranking" in line) == (name == "teacher") for line in logged)
    vectors = SentenceTransformer(str(tmp_path / "model"), device="cpu").encode(tiny.SENTENCES)
    assert vectors.shape == (8, 16)
    before = load_file(place / "encoder" / "model.safetensors")
    after = load_file(tmp_path / "model" / "model.safetensors")
    word = "embeddings.word_embeddings.weight"
    assert not torch.equal(after[word], before[f"bert.{word}"])


def test_the_discriminator_has_its_own_learning_rate(place: Path, tmp_path: Path) -> None:
    moved = {}
    for rate in (0.0, 1e-2):
        config = build(**settings(place, max_steps=1, discriminator_learning_rate=rate, keep_discriminator=True))
        folder = tmp_path / str(rate)
        train([place / "text.txt"], folder, config, cache_dir=place / "cache")
        start = build_model(load_networks(config), config).state_dict()
        trained = load_file(folder / "training" / "model.safetensors")
        name = "discriminator.backbone.encoder.layer.0.output.dense.weight"
        moved[rate] = [float((trained[key] - start[key]).abs().max()) for key in (name,)]
        encoder = load_file(folder / "model.safetensors")["encoder.layer.0.output.dense.weight"]
        moved[rate].append(float((encoder - start["encoder.encoder.layer.0.output.dense.weight"]).abs().max()))
    # The first step of Adam moves a weight by its learning rate.
    assert moved[0.0] == pytest.approx([1e-3, 1e-3], rel=0.01)
    assert moved[1e-2] == pytest.approx([1e-2, 1e-3], rel=0.01)


@pytest.mark.parametrize(
    ("more", "columns", "words"),
    [
        ({"edit": "insertion", "max_tokens": 40}, 1, "max_tokens must be at most 32 with what makes sentences longer"),
        ({"edited_text": "next"}, 2, "edited_text must be at its default with pairs of texts; got 2 columns"),
        ({"view": "cropping"}, 2, "view must be at its default with pairs of texts; got 2 columns"),
        (
            {"negatives_without_dropout": True},
            2,
            "negatives_without_dropout must be at its default with pairs of texts",
        ),
        ({"edits_as": "positives"}, 3, "edits_as must be none with hard negatives in the text"),
    ],
)
def test_text_that_does_not_fit_is_refused(
    place: Path, tmp_path: Path, more: dict[str, Any], columns: int, words: str
) -> None:
    names = ["a", "b", "c"][:columns]
    rows = [dict.fromkeys(names, tiny.SENTENCES[i % 8]) for i in range(16)]
    (tmp_path / "text.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=words):
        train([tmp_path / "text.jsonl"], tmp_path / "model", build(**settings(place, **more)), columns=names)


def test_a_teacher_of_another_vocabulary_is_refused(place: Path, tmp_path: Path) -> None:
    tiny.encoder("bert").save_pretrained(tmp_path / "other")
    vocabulary = {**tiny.VOCABULARY, "cat": tiny.VOCABULARY["dog"], "dog": tiny.VOCABULARY["cat"]}
    type(tiny.tokenizer())(vocab=vocabulary, do_lower_case=True).save_pretrained(tmp_path / "other")
    config = build(**settings(place, ranking_weight=1.0) | {"teacher": str(tmp_path / "other")})
    with pytest.raises(UserError, match=r"teacher .* must be one with the vocabulary of encoder"):
        load_networks(config)
