"""The mean over evaluations: its numbers, which evaluations it takes, and that a kill changes no bit of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerControl, TrainerState, TrainingArguments

from diffcse.errors import UserError
from diffcse.persistence.card import Kept
from diffcse.presets import build
from diffcse.training.criteria import Criterion
from diffcse.training.keep_weights import KeepWeights, Term, chosen, mean_weights, waiting
from diffcse.training.run_folder import RunFolder
from diffcse.training.train import train
from diffcse.training.trainer import COMPLETE
from tests import tiny
from tests.cli.command import options
from tests.killing import assert_unfinished, checkpoints, kill

SCORES = [0.3, 0.9, 0.5, math.nan, 0.9, 0.1, 0.7, 0.8]


class Run:
    """Eight evaluations of a vector that is a function of the step, killed wherever a test likes."""

    def __init__(self, folder: Path, which: str, count: int = 2, scores: Sequence[float] = SCORES) -> None:
        self.folder, self.arguments = folder, TrainingArguments(output_dir=str(folder), use_cpu=True)
        self.step, self.module, self.reported = 0, torch.nn.Module(), []
        self.module.average = None
        self.module.encoder = torch.nn.Module()
        self.module.encoder.register_buffer("w", torch.zeros(2))
        self.module.encoder.register_buffer("ids", torch.arange(2))
        criterion = Criterion(name="m", score=lambda encode: scores[self.step - 1])
        self.keep = KeepWeights(
            self, folder, count=count, which=which, every_steps=1, encoder=self.module, criterion=criterion
        )

    def saved_state(self) -> dict[str, torch.Tensor]:
        self.module.encoder.w.fill_(self.step)
        return {**self.module.state_dict(), "projector.w": torch.zeros(1)}

    def report(self, logs: dict[str, float]) -> None:
        self.reported.append(logs["m"])

    def go(self, start: int, end: int, checkpoints: tuple[int, ...] = ()) -> Run:
        self.keep.on_train_begin(self.arguments, TrainerState(global_step=start), TrainerControl())
        for self.step in range(start + 1, end + 1):
            self.keep.on_step_end(self.arguments, TrainerState(global_step=self.step, max_steps=8), TrainerControl())
            if self.step in checkpoints:
                (self.folder / f"checkpoint-{self.step}").mkdir()
                (self.folder / f"checkpoint-{self.step}" / COMPLETE).touch()
        return self

    def result(self) -> tuple[list[int], list[float]]:
        terms = self.keep.terms()
        assert set(load_file(terms[0].path)) == {"encoder.w", "encoder.ids"}
        return [term.step for term in terms], mean_weights(terms)["encoder.w"].tolist()


@pytest.mark.parametrize(("which", "steps"), [("last", [7, 8]), ("best", [2, 5])])
def test_a_run_killed_anywhere_keeps_what_an_unbroken_run_keeps(tmp_path, which, steps):
    for killed_at in range(9):
        folder = tmp_path / str(killed_at)
        folder.mkdir()
        Run(folder, which).go(0, killed_at, (3, 6))
        start = max(step for step in (0, 3, 6) if step <= killed_at)
        before = {term.step for term in waiting(folder) if term.step <= start}
        again = Run(folder, which).go(start, start)
        assert {term.step for term in waiting(folder)} == before  # nothing newer than the checkpoint is left
        again.go(start, 8)
        assert again.result() == (steps, [sum(steps) / 2] * 2)
        assert len(waiting(folder)) <= 4


@pytest.mark.parametrize("scores", [(0.3, 0.9, 0.9), (math.nan, 0.9, 0.1), (0.3, 0.9, math.nan)])
def test_the_best_is_the_first_of_the_best_steps_and_nan_is_never_it(tmp_path, scores):
    run = Run(tmp_path, "best", 1, scores).go(0, 3)
    assert run.keep.load() == Kept(steps=(2,), score=0.9, metric="m")
    assert run.module.encoder.w.tolist() == [2.0, 2.0]
    assert [repr(score) for score in run.reported] == [repr(score) for score in scores]


def test_without_any_score_the_last_step_stays(tmp_path):
    assert Run(tmp_path, "best", 1, [math.nan] * 3).go(0, 3).keep.load() is None


def test_the_best_of_an_interrupted_run_of_an_earlier_version_is_taken_and_its_mean_refused(tmp_path):
    run = Run(tmp_path, "best", 1, [0.3] * 8)
    state = {"encoder.w": torch.full((2,), 9.0), "projector.w": torch.ones(1)}
    save_file(state, tmp_path / "best.safetensors", {"step": "2", "score": "0.5", "metric": "m"})
    assert run.go(2, 8).keep.load() == Kept(steps=(2,), score=0.5, metric="m")
    assert run.module.encoder.w.tolist() == [9.0, 9.0]
    save_file(state, tmp_path / "mean-2.safetensors")
    with pytest.raises(UserError, match="must be a run of this version; got a mean of an earlier one; finish it"):
        run.go(2, 3)


def test_what_the_checkpoint_counted_waits_for_the_next_one(tmp_path):
    Run(tmp_path, "best").go(0, 5, (3,))
    assert sorted(term.step for term in waiting(tmp_path)) == [2, 3, 5]  # 3 was among the best two at the checkpoint


@pytest.mark.parametrize("content", [b"", b"\xa2" * 500, "cut"], ids=["empty", "garbage", "cut"])
def test_damaged_weights_are_one_line(tmp_path, content):
    run = Run(tmp_path, "last").go(0, 2)
    path = tmp_path / "kept-2.safetensors"
    path.write_bytes(path.read_bytes()[:-3] if content == "cut" else content)
    line = r"weights .*kept-2\.safetensors must be whole; got .*; remove the file, and the same command resumes without"
    with pytest.raises(UserError, match=line):
        run.keep.terms()


def test_the_best_are_the_best_and_no_score_is_the_worst():
    terms = [Term(path=Path(str(step)), step=step, score=score) for step, score in enumerate(SCORES, 1)]
    assert [term.step for term in chosen(terms, 3, "best")] == [2, 5, 8]
    assert [term.step for term in chosen(terms, 8, "best")] == [1, 2, 3, 5, 6, 7, 8]
    assert [term.step for term in chosen(terms, 3, "last")] == [6, 7, 8]
    assert len(chosen(terms, 20, "last")) == 8


def test_the_mean_is_the_mean(tmp_path):
    weights = [torch.randn(50) * 10.0**i for i in range(5)]
    terms = []
    for step, weight in enumerate(weights):
        path = tmp_path / f"mean-{step}.safetensors"
        save_file({"w": weight, "ids": torch.tensor([step])}, path, {"step": str(step), "score": "nan"})
        terms.append(Term(path=path, step=step, score=math.nan))
    mean = mean_weights(terms)
    assert torch.equal(mean["w"], torch.stack(weights).double().mean(0).float())
    assert mean["ids"].item() == 4


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mean")
    tiny.save(tiny.mlm("bert", dropout=0.1), folder / "encoder")
    tiny.write_sentences(folder / "text.txt", 64)
    return folder


def settings(place: Path, **more: object) -> dict[str, object]:
    steps = {"max_steps": 10, "epochs": 9.0, "save_every_steps": 3, "eval_every_steps": 2, "log_every_steps": 1}
    rest = {"objective": "simcse", "batch_size": 8, "learning_rate": 1e-3}
    return {"preset": "small", "encoder": str(place / "encoder"), **steps, **rest, **more}


def trained(place: Path, output: Path, *scores: float, **more: object):
    """A run whose criterion gives these scores, in their order."""
    left = list(scores)
    criterion = Criterion(name="stsb", score=lambda encode: left.pop(0) + 0 * float(encode(["a cat"]).sum()))
    config = build(**settings(place, **more))
    result = train(
        [place / "text.txt"], output, config, criterion=criterion if scores else None, cache_dir=place / "cache"
    )
    assert not left
    return result, load_file(output / "model.safetensors")


def test_a_run_saves_the_mean_of_its_best_evaluations_and_says_so(place, tmp_path):
    _, eight = trained(place, tmp_path / "8", 0.1, 0.2, 0.3, 0.9, 0.5)
    _, four = trained(place, tmp_path / "4", 0.1, 0.9, 0.3, 0.2, 0.5)
    scores = (0.1, 0.8, 0.3, 0.9, 0.5)
    result, mean = trained(place, tmp_path / "m", *scores, 0.77, average_checkpoints=2, average_which="best")
    assert result.best.steps == (4, 8)
    assert result.best.describe() == "mean of steps 4, 8, stsb 0.7700"
    for name, value in mean.items():
        assert torch.equal(value, ((four[name].double() + eight[name].double()) / 2).to(value.dtype)), name
    card = (tmp_path / "m" / "README.md").read_text()
    assert "Kept: mean of steps 4, 8, stsb 0.7700. Last" in card
    assert "value: 0.77" in card
    assert not (tmp_path / "m" / "checkpoints").exists()


def test_the_best_step_of_a_moving_average_is_the_average_at_that_step(place, tmp_path):
    ema = {"ema_decay": 0.9, "max_steps": 6}
    _, best = trained(place, tmp_path / "best", 0.1, 0.2, 0.9, **ema)
    _, last = trained(place, tmp_path / "last", **ema)
    _, earlier = trained(place, tmp_path / "earlier", 0.1, 0.9, 0.2, **ema)
    _, mean = trained(place, tmp_path / "mean", average_checkpoints=2, **ema)
    _, plain = trained(place, tmp_path / "plain", 0.1, 0.2, 0.9, max_steps=6)
    assert all(torch.equal(value, last[name]) for name, value in best.items())
    assert any(not torch.equal(value, plain[name]) for name, value in best.items())
    for name, value in mean.items():
        assert torch.equal(value, ((earlier[name].double() + last[name].double()) / 2).to(value.dtype)), name
    assert "mean of steps 4, 6; each the moving average at that step" in (tmp_path / "mean" / "README.md").read_text()


def test_a_killed_run_saves_the_bits_of_an_unbroken_one(place, tmp_path):
    given = settings(place, average_checkpoints=2, average_which="best", select_by="label-free", max_steps=14)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train([place / "text.txt"], whole, build(**given))
    kill(["train", str(place / "text.txt"), *options(given), "-o", str(killed)], lambda: bool(checkpoints(killed)))
    assert_unfinished(killed)
    train([place / "text.txt"], killed, build(**given))
    expected, again = (load_file(folder / "model.safetensors") for folder in (whole, killed))
    assert all(torch.equal(value, again[name]) for name, value in expected.items())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"average_checkpoints": -1}, "average_checkpoints must be at least 0"),
        ({"average_which": "first"}, "average_which must be one of last, best"),
        ({"average_checkpoints": 2, "average_which": "best", "select_by": "last"}, "average_which must be last where"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change, words):
    with pytest.raises(UserError, match=words):
        build(**change)


def test_the_best_of_nothing_is_refused_before_the_first_step(place, tmp_path):
    with pytest.raises(UserError, match="average_which must be last where nothing measures which step is best"):
        trained(place, tmp_path / "m", average_checkpoints=2, average_which="best")
    assert not list((tmp_path / "m" / "checkpoints").glob("checkpoint-*"))


def test_the_disk_must_have_room_for_the_terms(tmp_path, monkeypatch):
    run = RunFolder.look(tmp_path / "m", {}, [])
    model = torch.nn.ModuleDict({"encoder": torch.nn.Linear(10, 25, bias=False)})  # 1000 bytes
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 15_900}))
    run.check_space(model)
    run.check_space(model, 1)
    with pytest.raises(UserError, match=r"on a disk with 16\.0 kB free for checkpoints; got 15\.9 kB"):
        run.check_space(model, 2)
