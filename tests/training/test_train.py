"""Whole runs through the command line on tiny networks: kill and resume, two processes, determinism, what is saved."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from transformers import TrainerControl, TrainerState

from diffcse.errors import UserError
from diffcse.persistence.load import positions
from diffcse.presets import build
from diffcse.text.dataset import read_texts
from diffcse.training.build import steps_of
from diffcse.training.checks import settle_machine
from diffcse.training.criteria import label_free
from diffcse.training.networks import load_networks
from diffcse.training.run_folder import RunFolder
from diffcse.training.train import train
from tests import tiny
from tests.cli.command import options
from tests.killing import assert_unfinished, checkpoints, kill, logged, run

SETTINGS = {
    "batch_size": 8,
    "max_steps": 12,
    "save_every_steps": 3,
    "eval_every_steps": 4,
    "log_every_steps": 2,
    "learning_rate": 1e-3,
    "lambda_weight": 0.1,
    "keep_discriminator": True,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("networks")
    for name, dropout in (("dropout", 0.1), ("exact", 0.0)):
        tiny.save(tiny.mlm("bert", seed=0, dropout=dropout), folder / f"encoder-{name}")
        tiny.save(tiny.mlm("distilbert", dropout=dropout), folder / f"generator-{name}")
    tiny.write_sentences(folder / "text.txt", 64)
    return folder


def command(place: Path, output: Path, *, dropout: bool = True, **more: object) -> list[str]:
    kind = "dropout" if dropout else "exact"
    settings = {
        **SETTINGS,
        "encoder": place / f"encoder-{kind}",
        "generator": place / f"generator-{kind}",
        "cache": place / "cache",
        **more,
    }
    return ["train", str(place / "text.txt"), "-o", str(output), *options(settings)]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    trained = load_file(folder / "training" / "model.safetensors")
    return {**load_file(folder / "model.safetensors"), **{f"training.{k}": v for k, v in trained.items()}}


# Parameters whose true gradient is zero drift by rounding: a key bias moves all logits of a row alike, and BatchNorm
# takes away any constant before it, which the last LayerNorm's bias is (its mean then keeps what the bias did).
NO_GRADIENT = ("key.bias", "layer.1.output.LayerNorm.bias", "projector.1.running_mean")


def assert_same(first: Path, second: Path, atol: float = 0.0) -> None:
    a, b = weights(first), weights(second)
    assert a.keys() == b.keys()
    for name, value in a.items():
        if atol and name.removeprefix("training.").endswith(NO_GRADIENT):
            continue
        if atol:
            torch.testing.assert_close(value, b[name], atol=atol, rtol=0, msg=lambda m, name=name: f"{name}: {m}")
        else:
            assert torch.equal(value, b[name]), name


@pytest.fixture(scope="module")
def whole(place: Path) -> Path:
    done = run(command(place, place / "whole"))
    assert done.returncode == 0, done.stderr
    return place / "whole"


def test_the_folder_is_a_sentence_transformer_with_its_settings(place: Path, whole: Path) -> None:
    model = SentenceTransformer(str(whole), device="cpu")
    vectors = model.encode(tiny.SENTENCES)
    assert vectors.shape == (len(tiny.SENTENCES), 16)
    assert [type(module).__name__ for module in model] == ["Transformer", "Pooling"]
    about = json.loads((whole / "diffcse.json").read_text())
    assert about["finished"]
    assert about["settings"]["training"]["batch_size"] == 8
    assert "DiffCSE" in (whole / "README.md").read_text()
    assert not (whole / "checkpoints").exists()
    start = SentenceTransformer(str(place / "encoder-dropout"), device="cpu").encode(tiny.SENTENCES)
    assert not np.allclose(start, vectors, atol=1e-3)


def test_metrics_hold_every_figure(whole: Path) -> None:
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    training = [line for line in lines if "loss" in line]
    assert [line["step"] for line in training] == [2, 4, 6, 8, 10, 12]
    expected = {
        "loss",
        "contrastive",
        "rtd",
        "positive_cosine",
        "negative_cosine",
        "replaced_share",
        "replaced_accuracy",
    }
    expected |= {"original_accuracy", "learning_rate", "grad_norm", "sentences_per_second"}
    for line in training:
        assert expected <= line.keys()
        assert line["loss"] == pytest.approx(line["contrastive"] + 0.1 * line["rtd"], abs=1e-4)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_same_command_gives_the_same_bits(place: Path, whole: Path, tmp_path: Path, workers: int) -> None:
    done = run(command(place, tmp_path / "again", data_workers=workers))
    assert done.returncode == 0, done.stderr
    assert_same(whole, tmp_path / "again")


@pytest.mark.parametrize("after", [1, 4, 7, 10])
def test_killed_and_resumed_gives_the_same_bits(place: Path, whole: Path, tmp_path: Path, after: int) -> None:
    output = tmp_path / "killed"
    kill(command(place, output), lambda: logged(output) >= after - 1)
    assert_unfinished(output)
    # A checkpoint that the kill cut short must not be picked up.
    broken = output / "checkpoints" / "checkpoint-11"
    broken.mkdir(exist_ok=True)
    (broken / "model.safetensors").write_bytes(b"half")
    done = run(command(place, output))
    assert done.returncode == 0, done.stderr
    assert_same(whole, output)


def test_three_interruptions_in_a_row_give_the_same_bits(place: Path, tmp_path: Path) -> None:
    whole, output = tmp_path / "whole", tmp_path / "killed"
    longer = {"max_steps": 40, "epochs": 9.0}  # so that the third life is far from its end when it is killed
    assert run(command(place, whole, **longer)).returncode == 0
    for step in (3, 9, 15):  # each life gets further than the one before
        kill(command(place, output, **longer), lambda step=step: max(checkpoints(output), default=0) >= step)
        assert_unfinished(output)
    done = run(command(place, output, **longer))
    assert done.returncode == 0, done.stderr
    assert_same(whole, output)
    first, second = (
        [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (whole, output)
    )
    assert first == second


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [(1, 2), (2, 1)])
def test_a_run_resumed_on_another_number_of_processes_sees_the_same_batches(
    place: Path, tmp_path: Path, first: int, then: int
) -> None:
    exact, output = command(place, tmp_path / "whole", dropout=False), tmp_path / "moved"
    assert run(exact).returncode == 0
    kill(command(place, output, dropout=False), lambda: 6 in checkpoints(output), processes=first)
    assert_unfinished(output)
    done = run(command(place, output, dropout=False), processes=then)
    assert done.returncode == 0, done.stderr
    # Without dropout the weights are a function of the batches alone.
    assert_same(tmp_path / "whole", output, atol=2e-5)


def test_ctrl_c_writes_a_checkpoint_and_the_same_command_resumes(place: Path, whole: Path, tmp_path: Path) -> None:
    output = tmp_path / "stopped"
    message = kill(command(place, output), lambda: logged(output) >= 4, sign=signal.SIGINT)
    assert re.search(r"stopped at step \d+; the same command resumes", message)
    assert "Traceback" not in message
    assert run(command(place, output)).returncode == 0
    assert_same(whole, output)


@pytest.mark.slow
@pytest.mark.parametrize(("average", "decay", "rows"), [("padded", 0.0, 0), ("real", 0.9, 3)])
def test_two_processes_equal_one(place: Path, tmp_path: Path, average: str, decay: float, rows: int) -> None:
    for processes in (1, 2):
        output = tmp_path / f"of-{processes}"
        options = {"rtd_average": average, "ema_decay": decay, "rows_at_once": rows}
        done = run(command(place, output, dropout=False, **options), processes=processes)
        assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "of-1", tmp_path / "of-2", atol=2e-5)
    losses = [
        [
            json.loads(line)["contrastive"]
            for line in (tmp_path / f"of-{n}" / "metrics.jsonl").read_text().splitlines()
            if "contrastive" in line
        ]
        for n in (1, 2)
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_best_checkpoint_is_kept_by_the_label_free_criterion(place: Path, tmp_path: Path) -> None:
    done = run(command(place, tmp_path / "best", select_by="label-free"))
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "best" / "metrics.jsonl").read_text().splitlines()]
    scores = {line["step"]: line["label_free"] for line in lines if "label_free" in line}
    assert sorted(scores) == [4, 8, 12]
    assert [line["step"] for line in lines if "loss" in line] == [2, 4, 6, 8, 10, 12]
    best = max(scores, key=lambda step: scores[step])
    assert f"step {best}," in done.stderr


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch_size": 100}, "batch_size must be at most the number of sentences"),
        ({"encoder": "no-such-folder/x"}, "no-such-folder/x"),
        ({"precision": "fp16"}, "precision must be fp32 or bf16 on a CPU"),
        ({"temperature": 0}, "temperature must be greater than 0"),
        ({"preset": "bert"}, "preset must be one of"),
        ({"select_by": "stsb"}, "select_by stsb must be given with STS-B dev data"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(place: Path, tmp_path: Path, change: dict[str, object], words: str) -> None:
    done = run(command(place, tmp_path / "bad", **change))
    assert done.returncode == 2, done.stderr
    message = [line for line in done.stderr.splitlines() if line.startswith("diffcse: ")]
    assert len(message) == 1
    assert words in message[0]
    assert "Traceback" not in done.stderr


# Kinds 1 and 3 of bad input: refused before the first step, with nothing left in the way of the correction.
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch_size": 100}, "batch_size must be at most the number of sentences"),
        ({"encoder": "no-such-folder/x"}, "no-such-folder/x"),
        ({"select_by": "stsb"}, "select_by stsb must be given with STS-B dev data"),
        ({"max_tokens": 65}, "max_tokens must be at most 64, the positions of the networks; got 65"),
        ({"edit": "insertion", "max_tokens": 33}, "max_tokens must be at most 32 with what makes sentences longer"),
        ({"report_to": "nosuch"}, "report_to must be none, all or some of .*tensorboard.*; got nosuch"),
        ({"report_to": "none, comet_ml"}, "report_to must be a logger that is installed; got comet_ml"),
    ],
)
def test_a_refused_run_leaves_nothing_behind(
    place: Path, tmp_path: Path, change: dict[str, object], words: str
) -> None:
    networks = {"encoder": str(place / "encoder-exact"), "generator": str(place / "generator-exact")}
    settings = {**networks, "batch_size": 8, "max_steps": 1, **change}
    with pytest.raises(UserError, match=words):
        train([place / "text.txt"], tmp_path / "m", build(**settings), cache_dir=place / "cache")
    assert not (tmp_path / "m").exists()


def test_the_corrected_command_works_after_a_refused_one(place: Path, tmp_path: Path) -> None:
    networks = {"encoder": str(place / "encoder-exact"), "generator": str(place / "generator-exact"), "max_steps": 1}
    with pytest.raises(UserError, match="nosuch"):
        train([tmp_path / "nosuch.txt"], tmp_path / "m", build(**networks, batch_size=8))
    with pytest.raises(UserError, match="batch_size"):
        train([place / "text.txt"], tmp_path / "m", build(**networks, batch_size=65), cache_dir=place / "cache")
    text, output = str(place / "text.txt"), str(tmp_path / "m")  # one source, and plain str, are fine too
    done = train(text, output, build(**networks, batch_size=8), cache_dir=place / "cache")
    assert (done.finished, done.step) == (True, 1)


def test_a_batch_that_the_processes_cannot_share_is_refused(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    config = build(encoder=str(place / "encoder-exact"), generator=str(place / "generator-exact"), batch_size=8)
    with pytest.raises(UserError, match=r"batch_size must be a multiple of the number of processes \(3\); got 8"):
        train([place / "text.txt"], tmp_path / "m", config)


def test_a_run_leaves_the_process_as_it_was(place: Path, tmp_path: Path) -> None:
    networks = {"encoder": str(place / "encoder-dropout"), "generator": str(place / "generator-dropout")}
    small = torch.tensor([1e-310], dtype=torch.float64)
    before = random.getstate(), str(np.random.get_state()), torch.get_rng_state()  # noqa: NPY002
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    variables = dict(os.environ)
    outputs = {"m": 2, "refused": 2}
    for name, steps in outputs.items():
        config = build(**networks, batch_size=8 if name == "m" else 100, max_steps=steps)
        with pytest.raises(UserError) if name == "refused" else contextlib.nullcontext():
            train(place / "text.txt", str(tmp_path / name), config, cache_dir=place / "cache")
        assert float(small.mul(1.0)) == 1e-310  # such numbers are not taken for 0
        assert before[:2] == (random.getstate(), str(np.random.get_state()))  # noqa: NPY002
        assert torch.equal(before[2], torch.get_rng_state())
        assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert variables == dict(os.environ)


def test_positions_leave_out_those_that_are_kept_for_padding() -> None:
    assert [positions(tiny.mlm(kind)) for kind in ("bert", "distilbert", "roberta")] == [64, 64, 63]  # padding id 0


def test_too_short_text_has_no_label_free_score() -> None:
    with pytest.raises(UserError, match="select_by must be stsb or last where fewer than two sentences have 4 words"):
        label_free(["a b c d e", "a b", "a"], seed=0)


def test_a_generator_of_another_vocabulary_is_refused_before_anything_else(place: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    tiny.mlm("distilbert").save_pretrained(other)
    vocabulary = {**tiny.VOCABULARY, "cat": tiny.VOCABULARY["dog"], "dog": tiny.VOCABULARY["cat"]}
    type(tiny.tokenizer())(vocab=vocabulary, do_lower_case=True).save_pretrained(other)
    config = build(encoder=str(place / "encoder-exact"), generator=str(other))
    with pytest.raises(UserError, match=r"vocabulary of encoder .* 4 \(token, id\) pairs in only one"):
        load_networks(config)


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"epochs": 2.0}, 16),
        ({"epochs": 2.0, "max_steps": 50}, 16),
        ({"epochs": 2.0, "max_steps": 16}, 16),
        ({"epochs": 2.0, "max_steps": 15}, 15),
        ({"epochs": 0.3, "max_steps": 50}, 3),
        ({"epochs": 0.01}, 1),
        ({"epochs": 2.0, "accumulate": 3}, 6),
        ({"epochs": 2.0, "accumulate": 100, "max_steps": 5}, 2),
    ],
)
def test_the_smaller_of_epochs_and_steps_ends_a_run(settings: dict[str, object], steps: int) -> None:
    config = build(**{"batch_size": 8, **settings}).training
    assert steps_of(config, 65) == steps_of(config, 71) == steps


def test_epochs_end_a_run_before_its_steps_with_the_schedule_of_that_length(place: Path, tmp_path: Path) -> None:
    networks = {"encoder": str(place / "encoder-dropout"), "objective": "simcse", "warmup_ratio": 0.5}
    settings = {**SETTINGS, **networks, "epochs": 0.5}
    for name, most in (("epochs", 0), ("both", 500)):
        config = build(**{**settings, "max_steps": most})
        done = train([place / "text.txt"], tmp_path / name, config, cache_dir=place / "cache")
        assert (done.finished, done.step) == (True, 4)
    assert_same(tmp_path / "epochs", tmp_path / "both")


def test_a_run_of_another_length_is_not_resumed(place: Path, tmp_path: Path) -> None:
    run = RunFolder.look(tmp_path / "m", {}, [])
    checkpoint = run.checkpoints / "checkpoint-3"
    checkpoint.mkdir(parents=True)
    (checkpoint / "complete.json").write_text("{}")
    state = TrainerState(max_steps=50, global_step=3, train_batch_size=8, stateful_callbacks=[TrainerControl()])
    state.save_to_json(str(checkpoint / "trainer_state.json"))
    run.check_steps(50)
    with pytest.raises(UserError, match="must be an interrupted run of 16 steps; got one of 50; choose another folder"):
        run.check_steps(16)


def test_other_text_is_not_resumed_on(place: Path, tmp_path: Path) -> None:
    networks = {"encoder": str(place / "encoder-exact"), "generator": str(place / "generator-exact")}
    config = settle_machine(build(**networks, batch_size=8, max_steps=2))
    text = tiny.write_sentences(tmp_path / "t.txt", 32)
    run = RunFolder.look(tmp_path / "m", config.as_dict(), [str(text)])
    run.claim(read_texts([text], cache_dir=tmp_path / "c")[0])
    tiny.write_sentences(text, 33)
    with pytest.raises(UserError, match="an interrupted run on this text; got one on other text"):
        train([text], tmp_path / "m", config, cache_dir=tmp_path / "c")


def test_an_output_folder_with_something_else_is_left_alone(place: Path, whole: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("years of work")
    config = build(encoder=str(place / "encoder-exact"), generator=str(place / "generator-exact"))
    with pytest.raises(UserError, match="new or empty"):
        train([place / "text.txt"], tmp_path / "taken", config)
    with pytest.raises(UserError, match="a finished run"):
        train([place / "text.txt"], whole, config)
    assert [path.name for path in (tmp_path / "taken").iterdir()] == ["thesis.txt"]
