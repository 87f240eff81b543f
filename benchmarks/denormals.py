"""Where denormal numbers arise in a training step, what they cost, and whether flushing them changes results.

Runs the same steps twice, with denormals kept and flushed to zero, in two processes that take turns; counts in the
first the denormal numbers that every kind of module gives and gets back, and those in gradients and in Adam's moments.

    python benchmarks/denormals.py --config minilm --steps 6
    python benchmarks/denormals.py --model FOLDER       (real weights for encoder and generator)
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections import Counter
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from train_step import CLS, SIZES, batch, sentence_lengths
from train_step import ours as random_networks
from transformers import AutoModelForMaskedLM

from diffcse.method.edits import MlmEdit
from diffcse.method.model import DiffCSEModel
from diffcse.presets import build


def denormals(tensor: Tensor) -> int:
    """Numbers of a float32 tensor that are neither zero nor normal; read as integers: arithmetic may flush them."""
    exponent = tensor.detach().contiguous().view(torch.int32) & 0x7FFFFFFF
    return int(((exponent > 0) & (exponent < 0x00800000)).sum())


class Census:
    """Counts denormals by kind of module, forward and backward."""

    def __init__(self, model: nn.Module) -> None:
        self.counts: Counter[str] = Counter()
        for name, module in model.named_modules():
            if not list(module.children()):
                where = f"{name.split('.')[0]}: {type(module).__name__}"
                module.register_forward_hook(lambda _, __, out, where=where: self._look(where, out))

    def _look(self, where: str, out: Any) -> None:
        self._see(f"{where}, output", out)
        if isinstance(out, Tensor) and out.requires_grad:
            out.register_hook(lambda gradient: self._see(f"{where}, gradient", gradient))

    def _see(self, where: str, value: Any) -> None:
        if isinstance(value, Tensor) and value.dtype == torch.float32:
            self.counts[where] += denormals(value)

    def state(self, model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        """Gradients of the parameters, the parameters, and Adam's moments."""
        for name, parameter in model.named_parameters():
            part = name.split(".")[0]
            if parameter.grad is not None:
                self.counts[f"{part}: gradients of weights"] += denormals(parameter.grad)
            for moment in ("exp_avg", "exp_avg_sq"):
                if moment in optimiser.state.get(parameter, {}):
                    self.counts[f"{part}: Adam's {moment}"] += denormals(optimiser.state[parameter][moment])


def work(pipe: Connection, flush: bool, options: argparse.Namespace) -> None:
    """One process: a step when told; at the end its weights and, where denormals are kept, the census."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model, optimiser = networks(options)
    torch.set_flush_denormal(flush)
    model.train()
    lengths = sentence_lengths(None)
    pipe.send("ready")
    while (number := pipe.recv()) is not None:
        inputs = batch(options.config, lengths, number)
        inputs["input_ids"] %= model.encoder.config.vocab_size
        inputs["masked_ids"] %= model.encoder.config.vocab_size
        torch.manual_seed(number)
        began = time.perf_counter()
        step(model, optimiser, inputs)
        pipe.send(time.perf_counter() - began)
    weights = {name: value.numpy().copy() for name, value in model.encoder.state_dict().items()}
    counts: Counter[str] = Counter()
    if not flush:
        census = Census(model)
        step(model, optimiser, inputs, census)
        counts = census.counts
    pipe.send((weights, dict(counts)))


def step(
    model: DiffCSEModel, optimiser: torch.optim.Optimizer, inputs: dict[str, Tensor], census: Census | None = None
) -> None:
    """One optimiser step."""
    optimiser.zero_grad(set_to_none=True)
    loss = model(**inputs).loss
    assert loss is not None
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    if census is not None:
        census.state(model, optimiser)


def networks(options: argparse.Namespace) -> tuple[Any, torch.optim.Optimizer]:
    """The training module with random weights, or with those of a masked language model's folder."""
    if options.model is None:
        return random_networks(SIZES[options.config], "reference")
    config = build(fidelity="reference")
    mlm = AutoModelForMaskedLM.from_pretrained(options.model, dtype=torch.float32, use_safetensors=True)
    edit = MlmEdit(mlm, config.edits, cls_id=CLS, pad_id=0, padding_free=True)
    model = DiffCSEModel(copy.deepcopy(mlm.base_model).requires_grad_(True), edit, config)
    trained = [p for p in model.parameters() if p.requires_grad]
    return model, torch.optim.AdamW(trained, lr=1e-5, weight_decay=0.0, fused=True)


def main() -> None:
    """Run both processes in turns and print what was found."""
    options = _options()
    sides = {}
    for name, flush in (("kept", False), ("flushed", True)):
        pipe, theirs = get_context("spawn").Pipe()
        process = get_context("spawn").Process(target=work, args=(theirs, flush, options), daemon=True)
        process.start()
        pipe.recv()
        sides[name] = pipe
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(options.steps + 1):
        for name, pipe in sides.items():
            pipe.send(number)
            seconds[name].append(pipe.recv())
    ends = {}
    for name, pipe in sides.items():
        pipe.send(None)
        ends[name] = pipe.recv()
    middle = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    kept, flushed = ends["kept"][0], ends["flushed"][0]
    largest = max(float(abs(kept[name] - flushed[name]).max()) for name in kept if kept[name].dtype == "float32")
    found = {
        "config": options.config if options.model is None else Path(options.model).name,
        "steps": options.steps,
        "seconds_kept": middle["kept"],
        "seconds_flushed": middle["flushed"],
        "ratio": middle["kept"] / middle["flushed"],
        "largest_weight_difference": largest,
        "denormals": {name: count for name, count in sorted(ends["kept"][1].items(), key=lambda x: -x[1]) if count},
    }
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    show(found)


def show(found: dict[str, Any]) -> None:
    """The findings for a reader."""
    console = Console(width=120)
    console.print({name: value for name, value in found.items() if name != "denormals"})
    table = Table("where", "denormal numbers", title="in one step with denormals kept")
    for name, count in found["denormals"].items():
        table.add_row(name, f"{count:,}")
    console.print(table)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", choices=list(SIZES), default="minilm")
    parser.add_argument("--model", help="folder of a masked language model, for real weights")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
