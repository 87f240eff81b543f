"""The moving average: its numbers against a plain loop, and that a killed run goes on with the bits of its average."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerControl, TrainerState, TrainingArguments

from diffcse.errors import UserError
from diffcse.method.model import DiffCSEModel
from diffcse.presets import build
from diffcse.training.averages import Average, averaged
from tests import tiny
from tests.killing import assert_unfinished, checkpoints, kill, run


def model(decay: float) -> DiffCSEModel:
    return DiffCSEModel(tiny.encoder(), None, build(objective="simcse", ema_decay=decay))


def test_the_average_follows_its_formula_and_the_weights_stay(tmp_path):
    net = model(0.5)
    name = "encoder.layer.0.output.dense.weight"
    weight = net.encoder.get_parameter(name)
    expected = weight.detach().clone()
    callback, arguments = Average(net, 0.5), TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    for step in range(1, 9):
        with torch.no_grad():
            weight.add_(0.1 * step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight.detach()
        callback.on_step_end(arguments, TrainerState(global_step=step), TrainerControl())
    torch.testing.assert_close(net.average.get_parameter(name), expected)
    now = weight.detach().clone()
    with averaged(net):
        torch.testing.assert_close(net.encoder.get_parameter(name).detach(), expected)
    assert torch.equal(net.encoder.get_parameter(name), now)


def test_without_a_decay_there_is_no_average():
    net = model(0.0)
    assert net.average is None
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with averaged(net):
        assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(name.startswith("average") for name in before)


def test_the_average_gets_no_gradient():
    net = model(0.9)
    ids = torch.randint(5, 40, (4, 2, 6))
    net(ids, torch.ones_like(ids)).loss.backward()
    assert all(p.grad is None and not p.requires_grad for p in net.average.parameters())


def test_a_decay_of_one_would_never_learn():
    with pytest.raises(UserError, match="ema_decay must be 0 or more and below 1"):
        build(ema_decay=1.0)


def test_a_killed_run_resumes_with_the_bits_of_its_average(tmp_path):
    encoder = tiny.save(tiny.mlm("bert", dropout=0.1), tmp_path / "encoder")
    text = tiny.write_sentences(tmp_path / "text.txt", 64)
    settings = ["--preset", "small", "--objective", "simcse", "--encoder", encoder, "--cache", str(tmp_path / "cache")]
    settings += ["--batch-size", "8", "--max-steps", "12", "--save-every-steps", "2", "--log-every-steps", "1"]
    # The queue of earlier vectors and the numbers of a view are state of the run as well.
    settings += ["--learning-rate", "1e-3", "--ema-decay", "0.9", "--queue-size", "24", "--view", "repetition"]
    settings += ["--max-tokens", "24"]  # the tiny encoder has room for a sentence twice as long, and no more

    def command(output: Path, *more: str) -> list[str]:
        return ["train", str(text), "-o", str(output), *settings, *more]

    for name, more in (("whole", ()), ("plain", ("--ema-decay", "0", "--queue-size", "0"))):
        assert run(command(tmp_path / name, *more)).returncode == 0
    killed = tmp_path / "killed"
    kill(command(killed), lambda: bool(checkpoints(killed)))
    assert_unfinished(killed)
    assert run(command(killed)).returncode == 0
    whole, again, plain = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed", "plain"))
    assert all(torch.equal(value, again[name]) for name, value in whole.items())
    assert any(not torch.equal(value, plain[name]) for name, value in whole.items())
