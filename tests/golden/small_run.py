"""Losses and weights of fixed small runs, committed, so that a commit which changes training has to say so.

    python -m tests.golden.small_run            compares, and prints what differs
    python -m tests.golden.small_run --write    writes tests/golden/small_run.json anew

Each run is a few steps of the training module on tiny networks with dropout on, in one thread. Plain gradient descent
takes the optimiser's place: Adam divides by the size of a gradient, so that a weight whose true gradient is zero moves
by rounding alone, which is another one on every processor. Losses and norms hold on every processor to `TOLERANCE`; the
digests of the weights hold on the processor, and with the PyTorch, that the file names.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from pathlib import Path
from typing import Any

import torch

from diffcse.files import write_json
from diffcse.presets import build
from tests.method.test_frame import collated, network

FILE = Path(__file__).with_name("small_run.json")
STEPS, RATE, TOLERANCE = 4, 0.05, 1e-5
RUNS: dict[str, dict[str, Any]] = {
    "reference": {},
    "paper": {"fidelity": "paper"},
    "simcse": {"objective": "simcse"},
    "gradient caching": {"rows_at_once": 5},
    "padded": {"padding_free": False},
    "mean pooling, tanh": {"pooler": "avg", "projector": "tanh"},
    "before the projector": {"conditioning": "pooled", "lambda_weight": 0.1},
    "conditional mlm": {"predictor": "conditional_mlm"},
    "corrective lm": {"predictor": "corrective_lm", "lambda_weight": 0.1},
    "insertion": {"edit": "insertion"},
    "repetition": {"view": "repetition"},
    "edits as negatives": {"edits_as": "negatives"},
    "edits as positives": {"edits_as": "positives"},
    "later work": {"negatives_without_dropout": True, "dimension_weight": 0.1, "false_negative_cosine": 0.9},
    "queue": {"queue_size": 8, "ema_decay": 0.9},
}


def run(settings: dict[str, Any]) -> dict[str, Any]:
    """The losses of the steps, and norm and digest of the weights after them."""
    torch.set_num_threads(1)
    config = build(temperature=0.3, **settings)
    net, inputs = network(config), collated(config)
    for module in net.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.1
    trained = {name: p for name, p in net.named_parameters() if p.requires_grad}
    optimiser, losses = torch.optim.SGD(trained.values(), lr=RATE), []
    torch.manual_seed(7)
    for _ in range(STEPS):
        output = net(**inputs)
        output.loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append({name: float(output[name].detach()) for name in ("loss", "contrastive", "rtd") if name in output})
    norm = sum(float(p.detach().double().square().sum()) for p in trained.values()) ** 0.5
    digest = hashlib.sha256()
    for name, parameter in sorted(trained.items()):
        digest.update(name.encode() + parameter.detach().contiguous().numpy().tobytes())
    return {"losses": losses, "norm": norm, "sha256": digest.hexdigest()}


def machine() -> dict[str, str]:
    """What the bits depend on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    facts = dict(reversed([line.split("\t", 1) for line in lines if line.startswith(("model name", "flags"))]))
    # Virtual machines hide the processor's name, so what it can do is part of it.
    flags = hashlib.sha256(facts.get("flags", "").encode()).hexdigest()[:12]
    name = facts.get("model name", platform.processor()).strip(" \t:")
    return {"processor": f"{name}, flags {flags}", "torch": torch.__version__}


def differences(recorded: dict[str, Any], results: dict[str, Any], *, bits: bool) -> list[str]:
    """One line for each number of a run that is not the recorded one."""
    lines = []
    for step, (before, now) in enumerate(zip(recorded["losses"], results["losses"], strict=True), start=1):
        if before.keys() != now.keys():
            lines.append(f"step {step} has {sorted(now)}; recorded {sorted(before)}")
        for name in before.keys() & now.keys():
            if not abs(before[name] - now[name]) <= TOLERANCE * max(1, abs(before[name])):
                lines.append(f"step {step}: {name} is {now[name]:.8g}; recorded {before[name]:.8g}")
    if not abs(recorded["norm"] - results["norm"]) <= TOLERANCE * recorded["norm"]:
        lines.append(f"the weights' norm is {results['norm']:.8g}; recorded {recorded['norm']:.8g}")
    if bits and not lines and recorded["sha256"] != results["sha256"]:
        lines.append("the weights have other bits; losses and norm are the same to rounding")
    return lines


def main(arguments: list[str]) -> int:
    """Compare or write; 1 if anything differs."""
    results = {name: run(settings) for name, settings in RUNS.items()}
    if arguments == ["--write"]:
        write_json(FILE, {"machine": machine(), "runs": results})
        return 0
    recorded = json.loads(FILE.read_text())
    bits = recorded["machine"] == machine()
    lines = [
        f"{name}: {line}" for name in RUNS for line in differences(recorded["runs"][name], results[name], bits=bits)
    ]
    sys.stdout.write("".join(f"{line}\n" for line in lines) or f"{len(RUNS)} runs as recorded\n")
    return bool(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
