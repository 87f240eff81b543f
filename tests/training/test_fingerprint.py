"""Fingerprints tell equal runs from different ones, and name the part that differs."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState

from diffcse import build, train
from diffcse.errors import UserError
from diffcse.training.fingerprint import Fingerprint, fingerprint, tree_digest
from diffcse.training.trainer import read_state
from tests import tiny
from tests.cli.command import invoke


class StopAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            control.should_save = control.should_training_stop = True


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("fingerprint")
    tiny.save(tiny.encoder(), place / "encoder")
    tiny.write_sentences(place / "text.txt", 40)
    return place


def interrupted(place: Path, output: Path, stop: int | None = 3, **changes: Any) -> Path:
    settings = {"objective": "simcse", "encoder": str(place / "encoder"), "batch_size": 8, "max_steps": 7, **changes}
    config = build(preset="small", epochs=10.0, **settings)
    callbacks = [] if stop is None else [StopAt(stop)]
    train(place / "text.txt", output, config, callbacks=callbacks, cache_dir=place / "cache")
    return output


def different(first: Fingerprint, second: Fingerprint) -> set[str]:
    return {
        field.name for field in dataclasses.fields(first) if getattr(first, field.name) != getattr(second, field.name)
    }


def test_the_same_command_has_the_same_fingerprint(place: Path, tmp_path: Path) -> None:
    first, second = (fingerprint(interrupted(place, tmp_path / name)) for name in "ab")
    assert first == second and first.kind == "run" and first.step == 3
    assert None not in (first.settings, first.text, first.optimiser, first.random, first.next_batch)


@pytest.mark.parametrize(
    ("stop", "changes", "same"),
    [
        (3, {"learning_rate": 1e-4}, {"kind", "step", "text", "tokenizer", "random", "next_batch"}),
        (4, {}, {"kind", "settings", "text", "tokenizer"}),
        (3, {"seed": 1}, {"kind", "step", "text", "tokenizer"}),
    ],
    ids=["another learning rate", "a step later", "another seed"],
)
def test_what_differs_is_named(place: Path, tmp_path: Path, stop: int, changes: dict[str, Any], same: set[str]) -> None:
    first = fingerprint(interrupted(place, tmp_path / "a"))
    second = fingerprint(interrupted(place, tmp_path / "b", stop, **changes))
    names = {field.name for field in dataclasses.fields(first)}
    assert different(first, second) == names - same


def test_a_resumed_run_ends_with_the_fingerprint_of_an_uninterrupted_one(place: Path, tmp_path: Path) -> None:
    interrupted(place, tmp_path / "a")
    interrupted(place, tmp_path / "a", stop=None)
    interrupted(place, tmp_path / "b", stop=None)
    first, second = fingerprint(tmp_path / "a"), fingerprint(tmp_path / "b")
    assert first == second and first.kind == "model" and first.step is None and first.tokenizer is not None


def test_the_next_batch_is_the_one_that_is_trained_on_next(place: Path, tmp_path: Path) -> None:
    """Five steps of eight sentences are an epoch of forty: step 5 is the last of the first epoch."""
    from diffcse.training.trainer import EpochOrder

    order = EpochOrder(40, 42)
    order.set_epoch(1)
    assert fingerprint(interrupted(place, tmp_path / "a", 5)).next_batch == tree_digest(list(order)[:8])


def test_trees_are_reported_apart() -> None:
    trees = [
        {"a": 1},
        {"a": 1.0},
        [1],
        [[1]],
        "1",
        torch.tensor(1),
        torch.tensor([1]),
        torch.ones(2),
        torch.ones(2).half(),
    ]
    assert len({tree_digest(tree) for tree in trees}) == len(trees)


def test_command(place: Path, tmp_path: Path) -> None:
    result = invoke("fingerprint", place / "encoder")
    assert result.exit_code == 0 and f"weights     {fingerprint(place / 'encoder').weights}" in result.output


@pytest.mark.parametrize(("name", "words"), [("none", "no such folder"), ("empty", "no .*safetensors")])
def test_other_folders_are_refused(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=words):
        fingerprint(tmp_path / name)


@pytest.mark.parametrize("kind", ["empty", "cut", "garbage"])
@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_damaged_checkpoint_is_one_line(place: Path, tmp_path: Path, file: str, kind: str) -> None:
    run = interrupted(place, tmp_path / "run")
    path = run / "checkpoints" / "checkpoint-3" / file
    content = path.read_bytes()
    path.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "garbage": b"\xa2" * 500}[kind])
    line = r"checkpoint .*checkpoint-3 must be whole; got .*; remove that folder, and the same command resumes from"
    for read in (lambda: fingerprint(run), lambda: interrupted(place, run, stop=None)):
        with pytest.raises(UserError, match=line) as refusal:
            read()
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epoch", {}),
        ("epoch", None),
        ("total_flos", {"a": 1}),
        ("global_step", 4),
        ("global_step", "3"),
        ("max_steps", True),
        ("save_steps", 0),
        ("logging_steps", [1]),
        ("train_batch_size", None),
        ("log_history", {}),
        ("best_model_checkpoint", [1]),
        ("stateful_callbacks", {}),
        ("stateful_callbacks", "x"),
        ("surprise", 1),
    ],
)
def test_a_state_that_no_run_wrote_is_one_line(tmp_path: Path, name: str, value: Any) -> None:
    checkpoint = tmp_path / "checkpoint-3"
    checkpoint.mkdir()
    path = checkpoint / "trainer_state.json"
    state = TrainerState(max_steps=50, global_step=3, train_batch_size=8, stateful_callbacks=[TrainerControl()])
    state.save_to_json(str(path))
    assert read_state(checkpoint).max_steps == 50
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    with pytest.raises(UserError, match=r"checkpoint-3 must be whole; got .*; remove that folder") as refusal:
        read_state(checkpoint)
    assert "\n" not in str(refusal.value)


def test_a_state_is_read_before_a_run_resumes(place: Path, tmp_path: Path) -> None:
    run = interrupted(place, tmp_path / "run")
    path = run / "checkpoints" / "checkpoint-3" / "trainer_state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "total_flos": {}}))
    line = r"must be whole; got a trainer_state\.json with total_flos \{\}; remove that"
    for read in (lambda: fingerprint(run), lambda: interrupted(place, run, stop=None)):
        with pytest.raises(UserError, match=line):
            read()


def test_a_log_with_damaged_characters_does_not_stop_a_run(place: Path, tmp_path: Path) -> None:
    run = interrupted(place, tmp_path / "run", log_every_steps=1)
    log = run / "metrics.jsonl"
    log.write_bytes(log.read_bytes().replace(b'{"step": 2', b'{"\xaatep": 2'))
    interrupted(place, run, stop=None, log_every_steps=1)
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert sorted(set(steps)) == [1, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("settings", [[], "x", None, {"model": 3}])
def test_settings_of_a_run_that_are_none_are_one_line(place: Path, tmp_path: Path, settings: Any) -> None:
    run = interrupted(place, tmp_path / "run")
    about = json.loads((run / "diffcse.json").read_text())
    (run / "diffcse.json").write_text(json.dumps({**about, "settings": settings}))
    with pytest.raises(UserError, match=r"must be .*run.*; got .*; .*choose another"):
        interrupted(place, run, stop=None)


@pytest.mark.parametrize("file", ["tokenizer.json", "model.safetensors", "tokenizer_config.json"])
def test_a_damaged_model_is_one_line(place: Path, tmp_path: Path, file: str) -> None:
    shutil.copytree(place / "encoder", tmp_path / "model")
    (tmp_path / "model" / file).write_bytes(b'{"a": \xa2')
    with pytest.raises(UserError, match=r"model .*model must be a model that can be loaded; got .*; check that the"):
        fingerprint(tmp_path / "model")
