"""The faults that a trainer of a contrastive loss must not have, and the files it leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import TrainerCallback, TrainingArguments

from diffcse.errors import NonFiniteLoss
from diffcse.persistence.card import Kept
from diffcse.presets import build
from diffcse.training.batches import Collator, Examples
from diffcse.training.callbacks import MetricsFile, WatchForCollapse
from diffcse.training.criteria import Criterion, label_free_score
from diffcse.training.keep_weights import KeepWeights
from diffcse.training.trainer import COMPLETE, EpochOrder, SafeTrainer, last_checkpoint
from tests import tiny
from tests.method.test_model import model as build_model


class Spy(TrainerCallback):
    """Looks at the run at each step."""

    def __init__(self, look: Any) -> None:
        self.look = look

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        self.look(named["model"], state)


def trainer(folder: Path, *callbacks: TrainerCallback, dropout: float = 0.1, **args: Any) -> SafeTrainer:
    config = build()
    tokens = tiny.tokenizer()
    rows = Dataset.from_dict({"ids0": [tokens(text)["input_ids"] for text in tiny.SENTENCES * 4]})
    settings = {"max_steps": 4, "per_device_train_batch_size": 8, "learning_rate": 1e-3, "save_steps": 2, **args}
    return SafeTrainer(
        build_model(config, dropout=dropout),
        TrainingArguments(str(folder), logging_steps=1, report_to="none", use_cpu=True, disable_tqdm=True, **settings),
        dataset=Examples(rows),
        order=EpochOrder(len(rows), seed=0),
        collate=Collator(tokens, config.edits, seed=0),
        callbacks=[MetricsFile(folder / "metrics.jsonl"), *callbacks],
    )


def test_one_norm_over_encoder_projector_discriminator_and_head(tmp_path: Path) -> None:
    norms: list[float] = []

    def look(model: torch.nn.Module, state: Any) -> None:
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        norms.append(float(torch.stack([g.norm() for g in grads]).norm()))
        assert any(p.grad is not None for p in model.discriminator.head.parameters())

    trainer(tmp_path, Spy(look), max_grad_norm=1e-3).train()
    assert norms == pytest.approx([1e-3] * 4, rel=1e-3)


def test_checkpoints_hold_every_trained_part_and_no_generator(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    run.train()
    saved = load_file(tmp_path / "checkpoint-4" / "model.safetensors")
    state = run.module.state_dict()
    assert {name.split(".")[0] for name in saved} == {"encoder", "projector", "discriminator"}
    assert "projector.1.running_mean" in saved
    for name, value in saved.items():
        assert torch.equal(value, state[name]), name


def test_evaluation_is_in_eval_mode_and_moves_nothing(tmp_path: Path) -> None:
    seen: list[tuple[bool, bool]] = []
    run = trainer(tmp_path)

    def score(encode: Any) -> float:
        before = {name: value.clone() for name, value in run.module.state_dict().items()}
        run.module.eval()
        ids = torch.tensor([[[2, 6, 7, 3]]])
        with torch.no_grad():
            pair = [run.module.pool(ids, torch.ones_like(ids)) for _ in range(2)]
        seen.append((torch.equal(*pair), all(torch.equal(before[k], v) for k, v in run.module.state_dict().items())))
        return float(len(seen))

    criterion = Criterion(name="m", score=score)
    best = KeepWeights(run, tmp_path, count=1, which="best", every_steps=2, encoder=run.module, criterion=criterion)
    trained_again: list[bool] = []
    run.add_callback(best)
    run.add_callback(Spy(lambda model, state: trained_again.append(model.training)))
    run.train()
    assert seen == [(True, True), (True, True)]
    assert trained_again == [True] * 4
    assert best.load() == Kept(steps=(4,), score=2.0, metric="m")


class Poison(TrainerCallback):
    """Spoils a weight after the second step and remembers all of them."""

    def __init__(self) -> None:
        self.weights: dict[str, torch.Tensor] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        if state.global_step == 2:
            with torch.no_grad():
                named["model"].discriminator.head.bias.fill_(float("inf"))
            self.weights = {name: p.detach().clone() for name, p in named["model"].named_parameters()}


def test_a_loss_that_is_no_number_stops_before_the_optimiser_step(tmp_path: Path) -> None:
    poison = Poison()
    run = trainer(tmp_path, poison)
    with pytest.raises(NonFiniteLoss, match=r"got loss and rtd not finite at step 3"):
        run.train()
    for name, value in run.module.named_parameters():
        assert torch.equal(value, poison.weights[name]), name


def test_only_complete_checkpoints_are_resumed_from(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) is None
    for step, whole in ((100, True), (200, True), (1000, False)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if whole:
            (folder / COMPLETE).write_text("{}")
    (tmp_path / "checkpoint-best").mkdir()
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-200"
    assert (tmp_path / "checkpoint-1000").exists()
    assert last_checkpoint(tmp_path, remove_broken=True) == tmp_path / "checkpoint-200"
    assert not (tmp_path / "checkpoint-1000").exists()


def test_metrics_file_drops_what_a_resumed_run_repeats_and_a_line_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    state = type("State", (), {"is_world_process_zero": True, "global_step": 2})()
    MetricsFile(path).on_train_begin(None, state, None)  # type: ignore[arg-type]
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]


def test_order_is_a_permutation_that_changes_with_epoch_and_seed() -> None:
    order = EpochOrder(100, seed=1)
    first = list(order)
    order.set_epoch(1)
    second = list(order)
    assert sorted(i for _, i in first) == sorted(i for _, i in second) == list(range(100))
    assert {epoch for epoch, _ in second} == {1}
    assert [i for _, i in first] != [i for _, i in second]
    assert first != list(EpochOrder(100, seed=2))
    assert first == list(EpochOrder(100, seed=1))


@pytest.mark.parametrize(
    ("logs", "words"),
    [
        ({"loss": 1.0, "negative_cosine": 0.99}, "collapse to one point"),
        ({"loss": 1.0, "replaced_share": 0.001}, "nothing to find"),
        ({"loss": 1.0, "replaced_share": 0.95}, "does not know this text"),
        ({"loss": 1.0, "replaced_share": 0.2, "negative_cosine": 0.3}, None),
    ],
)
def test_collapse_is_said_in_words_once(logs: dict[str, float], words: str | None, caplog: Any) -> None:
    watch = WatchForCollapse()
    state = type("State", (), {"is_world_process_zero": True, "global_step": 10})()
    for _ in range(4):
        watch.on_log(None, state, None, logs)  # type: ignore[arg-type]
    assert len(caplog.records) == (words is not None)
    assert words is None or words in caplog.text


def test_label_free_score_ranks_a_bag_of_words_over_a_constant_and_over_noise() -> None:
    texts = [f"{s} {w}" for s in tiny.SENTENCES for w in tiny.WORDS[:10]]
    words = {word: i for i, word in enumerate(sorted({w for t in texts for w in t.split()}))}

    def bag(sentences: list[str]) -> np.ndarray:
        out = np.zeros((len(sentences), len(words)), dtype=np.float32)
        for row, sentence in zip(out, sentences, strict=True):
            for word in sentence.split():
                row[words[word]] += 1
        return out

    rng = np.random.default_rng(0)
    scores = {
        "bag": label_free_score(bag, texts, 0),
        "constant": label_free_score(lambda s: np.ones((len(s), 3), dtype=np.float32), texts, 0),
        "noise": label_free_score(lambda s: rng.normal(size=(len(s), 50)).astype(np.float32), texts, 0),
    }
    assert scores["bag"] > scores["constant"]
    assert scores["bag"] > scores["noise"]
