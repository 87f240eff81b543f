"""The loss for sentence-transformers' trainer: it trains what it should, by the numbers of the training module."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, WeightedLayerPooling

from diffcse import DiffCSELoss, build
from diffcse.config import Config
from diffcse.errors import UserError
from diffcse.method.edits import MlmEdit
from diffcse.method.model import DiffCSEModel
from diffcse.persistence.load import load_encoder
from diffcse.persistence.save import sentence_transformer
from diffcse.training.batches import Collator
from diffcse.training.networks import load_generator
from tests import tiny

TEXTS = [tiny.SENTENCES, tiny.SENTENCES[3:] + tiny.SENTENCES[:3], tiny.SENTENCES[5:] + tiny.SENTENCES[:5]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("networks")
    tiny.save(tiny.mlm("bert", seed=0, dropout=0.0), folder / "encoder")
    tiny.save(tiny.mlm("distilbert", dropout=0.0), folder / "generator")
    return folder


def settings(place: Path, **more: Any) -> Config:
    return build(**{"generator": str(place / "generator"), "lambda_weight": 0.1, **more})


def loaded(place: Path, pooler: str = "cls") -> SentenceTransformer:
    model = load_encoder(place / "encoder", pooler=pooler)
    model.max_seq_length = 24
    return model


def features(model: SentenceTransformer, columns: int) -> list[dict[str, Any]]:
    return [model.preprocess(texts) for texts in TEXTS[:columns]]


def trainer(
    model: SentenceTransformer, loss: DiffCSELoss, folder: Path, columns: int, **more: Any
) -> SentenceTransformerTrainer:
    names = ("anchor", "positive", "negative")[:columns]
    data = Dataset.from_dict(dict(zip(names, TEXTS, strict=False)))
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        max_steps=3,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        **more,
    )
    return SentenceTransformerTrainer(model=model, args=arguments, train_dataset=data, eval_dataset=data, loss=loss)


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_the_trainer_moves_encoder_projector_and_discriminator_and_no_generator(place, tmp_path, columns):
    model = loaded(place)
    loss = DiffCSELoss(model, settings(place))
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    vectors = model.encode(tiny.SENTENCES)
    run = trainer(model, loss, tmp_path, columns)
    run.train()
    after = loss.state_dict()
    for part in ("encoder", "projector", "discriminator.backbone", "discriminator.head"):
        names = [name for name in before if name.startswith(f"training_module.{part}.") and "running" not in name]
        assert names and any(not torch.equal(before[name], after[name]) for name in names), part
    frozen = [name for name in before if ".edit." in name]
    assert frozen and all(torch.equal(before[name], after[name]) for name in frozen)
    assert not np.allclose(vectors, model.encode(tiny.SENTENCES), atol=1e-3)
    run.save_model(str(tmp_path / "saved"))
    again = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    np.testing.assert_allclose(again.encode(tiny.SENTENCES), model.encode(tiny.SENTENCES), atol=1e-6)
    assert "DiffCSELoss" in (tmp_path / "saved" / "README.md").read_text()


@pytest.mark.parametrize("pooler", ["cls", "avg", "avg_top2", "avg_first_last", "last"])
@pytest.mark.parametrize("columns", [1, 3])
def test_the_loss_is_the_training_modules_on_the_same_batch(place, pooler, columns):
    model, config = loaded(place, pooler), settings(place, pooler=pooler)
    loss = DiffCSELoss(model, config)
    tokens = tiny.tokenizer()
    ids = [[np.array(tokens(text, truncation=True, max_length=24)["input_ids"]) for text in texts] for texts in TEXTS]
    generator = load_generator(dataclasses.replace(config.model, generator=str(place / "generator")))
    edit = MlmEdit(generator, config.edits, cls_id=2, pad_id=0)
    reference = DiffCSEModel(copy.deepcopy(model[0].model), edit, config)
    reference.load_state_dict(loss.training_module.state_dict(), strict=False)
    collate = Collator(tokens, config.edits, config.training.seed)
    model.train()
    for batch in range(2):
        rows = [(batch, i, [column[i] for column in ids[:columns]]) for i in range(len(tiny.SENTENCES))]
        expected = reference.train()(**collate(rows)).loss
        got = loss(features(model, columns))
        torch.testing.assert_close(got, expected)
        assert got.requires_grad
    assert loss.batches == 2


def test_evaluation_leaves_the_projectors_statistics_alone(place, tmp_path):
    model = loaded(place)
    loss = DiffCSELoss(model, settings(place))
    run = trainer(model, loss, tmp_path, 1, per_device_eval_batch_size=4)
    run.train()
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    batches = loss.batches
    first, second = (run.evaluate()["eval_loss"] for _ in range(2))
    assert first == second
    assert not loss.training_module.projector.training
    assert all(torch.equal(value, before[name]) for name, value in loss.state_dict().items())
    assert loss.batches == batches == 3


def test_simcse_needs_no_generator(place):
    model = loaded(place, "avg")
    loss = DiffCSELoss(model, build(objective="simcse", generator="no/such-model"))
    model.train()
    loss(features(model, 2)).backward()
    assert loss.training_module.discriminator is None
    assert all(module.training for module in (loss.training_module.encoder, loss.training_module.projector))


def test_normalize_at_the_end_changes_nothing(place):
    model = loaded(place)
    normalized = SentenceTransformer(modules=[*model, Normalize()], device="cpu")
    losses = []
    for one in (model, normalized):
        torch.manual_seed(0)
        loss = DiffCSELoss(one, settings(place))
        losses.append(loss(features(one, 1)))
    assert torch.equal(*losses)


def test_what_it_cannot_train_is_refused(place, tmp_path):
    model, config = loaded(place), settings(place)
    for change, words in (
        ({"ema_decay": 0.9}, r"ema_decay must be 0 in DiffCSELoss; got 0\.9; use diffcse train"),
        ({"edited_text": "next"}, "edited_text must be same in DiffCSELoss; got next"),
        ({"prompt": "{sentence} is [MASK]"}, "prompt must be empty in DiffCSELoss; got"),
    ):
        with pytest.raises(UserError, match=words):
            DiffCSELoss(model, settings(place, **change))
    behind = SentenceTransformer(modules=[*model, Normalize(), Dense(16, 8)], device="cpu")
    with pytest.raises(UserError, match=r"lasttoken pooling, then Dense and Normalize at most; got .*Dense"):
        DiffCSELoss(behind, config)
    largest = SentenceTransformer(modules=[model[0], Pooling(16, pooling_mode="max")], device="cpu")
    with pytest.raises(UserError, match=r"got Transformer, Pooling \(max\)"):
        DiffCSELoss(largest, config)
    layers = WeightedLayerPooling(16, num_hidden_layers=2, layer_start=0)
    weighted = SentenceTransformer(modules=[model[0], layers, Pooling(16)], device="cpu")
    with pytest.raises(UserError, match=r"got Transformer, WeightedLayerPooling, Pooling \(mean\)"):
        DiffCSELoss(weighted, config)
    other = tmp_path / "other"
    tiny.mlm("distilbert").save_pretrained(other)
    vocabulary = {**tiny.VOCABULARY, "cat": tiny.VOCABULARY["dog"], "dog": tiny.VOCABULARY["cat"]}
    type(tiny.tokenizer())(vocab=vocabulary, do_lower_case=True).save_pretrained(other)
    with pytest.raises(UserError, match="with the vocabulary of encoder the SentenceTransformer"):
        DiffCSELoss(model, settings(place, generator=str(other)))
    with pytest.raises(UserError, match="the data must be of one, two or three columns; got 4 columns"):
        DiffCSELoss(model, config)([*features(model, 3), *features(model, 1)])
    with pytest.raises(UserError, match="view must be at its default with pairs of texts; got 2 columns"):
        DiffCSELoss(model, settings(place, view="cropping"))(features(model, 2))


def test_two_layers_in_the_mean_are_known_again(place):
    for pooler in ("avg_top2", "avg_first_last"):
        model = sentence_transformer(loaded(place)[0], pooler)
        assert DiffCSELoss(model, settings(place)).config.model.pooler == pooler
