"""Everything that only a GPU can tell about a training step, in one call of under 8 minutes: checks, times, memory.

    python benchmarks/gpu.py                        on a CUDA GPU; writes benchmarks/results/gpu.json
    python benchmarks/gpu.py --device cpu --smoke   the same code on tiny networks, to see that it runs

Checks: both passes of gradient caching draw the same dropout masks; packed rows give the vectors, answers and gradients
of padded ones; dropout follows the seed; how often a step waits for the device. Times: BERT-base with random weights,
64 x 2 sentences of Wikipedia's lengths, fidelity reference, against plain padded steps with PyTorch's own attention in
float32 and bfloat16. Exits with 1 if a check fails; without a GPU it says so and exits with 0.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from train_step import CLS, LONGEST, SIZES, VOCABULARY, Plain, Size, batch, sentence_lengths
from transformers import BertConfig, BertForMaskedLM, BertModel

from diffcse.files import write_json
from diffcse.kernels import varlen
from diffcse.kernels.waits import send_and_remember
from diffcse.method import pooling
from diffcse.method.discriminator import Discriminator
from diffcse.method.edits import MlmEdit
from diffcse.method.model import DiffCSEModel, without_pooler
from diffcse.presets import build

RESULTS = Path(__file__).parent / "results" / "gpu.json"
PUBLISHED_STEPS = 31_250
GOALS = {"over plain fp32": 2.5, "over plain bf16": 1.3, "published run, minutes": 20, "memory, GB": 8}
SIDES: dict[str, dict[str, Any]] = {
    "plain fp32": {"plain": True},
    "plain bf16": {"plain": True, "half": True},
    "ours fp32": {},
    "ours bf16": {"half": True},
    "ours bf16, padded": {"half": True, "padding_free": False},
    "ours bf16, 64 rows at once": {"half": True, "rows_at_once": 64},
}
TOLERANCE = {False: 2e-4, True: 5e-2}
"""Largest difference of packed and padded over the largest number, in float32 and in bfloat16."""


class Bench:
    """Where and at which size everything is measured."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.device, self.name = torch.device(options.device), "tiny" if options.smoke else "bert-base"
        self.steps, self.warm = (2, 1) if options.smoke else (options.steps, 5)
        SIZES["here"] = Size(**{**vars(SIZES[self.name]), "sentences": 8 if options.smoke else 64})
        self.size, self.lengths = SIZES["here"], sentence_lengths(options.text)

    def inputs(self, number: int) -> dict[str, Tensor]:
        """The same batch for every side."""
        rows = batch("here", self.lengths, number)
        return {name: send_and_remember(values, self.device) for name, values in rows.items()}

    def autocast(self, half: bool) -> torch.autocast:
        """Bfloat16, or none."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=half)

    def bert(self, layers: int, dropout: float = 0.1) -> BertConfig:
        """A configuration of this size."""
        config = self.size.bert(layers)
        config.hidden_dropout_prob = config.attention_probs_dropout_prob = dropout
        return config

    def wait(self) -> None:
        """Until the device has done its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def model(self, *, plain: bool = False, half: bool = False, seed: int = 0, **settings: Any) -> nn.Module:
        """A module to train: the plain one, or ours."""
        torch.manual_seed(seed)
        with self.device:
            encoder, generator = (
                BertModel(self.bert(self.size.layers)),
                BertForMaskedLM(self.bert(self.size.generator_layers)),
            )
            other = BertModel(self.bert(self.size.layers)) if plain else None
            config = build(**settings)
            if other is not None:
                bare = (without_pooler(network) for network in (encoder, other))
                return Plain(*bare, generator, config).train()
            free = config.training.padding_free is not False
            edit = MlmEdit(generator, config.edits, cls_id=CLS, pad_id=0, padding_free=free)
            return DiffCSEModel(encoder, edit, config).train()


def loss_of(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """The scalar to go backward from."""
    output = model(**inputs)
    return output if isinstance(output, Tensor) else output.loss


def train(bench: Bench, side: dict[str, Any]) -> dict[str, float]:
    """Median seconds and peak memory of one side's whole steps (forward, backward, clipping, AdamW)."""
    model, half = bench.model(**side), side.get("half", False)
    trained = [p for p in model.parameters() if p.requires_grad]
    fused = {} if side.get("plain") else {"fused": True}
    optimiser = torch.optim.AdamW(trained, lr=1e-5, weight_decay=0.0, **fused)
    seconds = []
    for number in range(bench.warm + bench.steps):
        if number == bench.warm and bench.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        bench.wait()
        began = time.perf_counter()
        with bench.autocast(half):
            loss = loss_of(model, bench.inputs(number))
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        bench.wait()
        seconds.append(time.perf_counter() - began)
    memory = torch.cuda.max_memory_allocated() / 1e9 if bench.device.type == "cuda" else float("nan")
    result = {"seconds": statistics.median(seconds[bench.warm :]), "fastest": min(seconds), "memory_gb": memory}
    del model, optimiser, trained, loss
    gc.collect()
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()
    return result


def check_both_passes(bench: Bench) -> dict[str, Any]:
    """What a layer gives in the second pass of gradient caching is bitwise what it gave in the first, dropout on."""
    model = bench.model(rows_at_once=max(4, bench.size.sentences // 2))
    seen: list[Tensor] = []
    layer = model.get_submodule("encoder.encoder.layer.0")
    layer.register_forward_hook(lambda *given: seen.append(_tensor(given[2]).detach().clone()))
    torch.manual_seed(1)
    with bench.autocast(True), torch.utils.checkpoint.set_checkpoint_early_stop(False):
        loss = loss_of(model, bench.inputs(0))
    first = len(seen)
    loss.backward()
    again = seen[first:]
    equal = sum(any(a.shape == b.shape and torch.equal(a, b) for b in seen[:first]) for a in again)
    apart = not torch.equal(seen[0], seen[1]) if first > 1 else False
    return {"parts": first, "recomputed": len(again), "equal": equal, "holds": equal == len(again) == first and apart}


def _tensor(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]


def check_packed(bench: Bench, *, half: bool) -> dict[str, Any]:
    """Largest relative differences of vectors, answers and gradients, packed against padded, without dropout."""
    inputs = bench.inputs(0)
    ids, mask = inputs["input_ids"].flatten(0, 1), inputs["attention_mask"].flatten(0, 1)
    with bench.device:
        torch.manual_seed(0)
        encoder = without_pooler(BertModel(bench.bert(bench.size.layers, 0.0))).train()
        sentence = torch.randn(len(ids), bench.size.hidden)
        judge = Discriminator(without_pooler(BertModel(bench.bert(bench.size.layers, 0.0))), padding_asked=True).train()
        weight = torch.randn(len(ids), bench.size.hidden)
    results: list[dict[str, Tensor]] = []
    for free in (False, True):
        judge.padding_free = free
        networks = nn.ModuleList([encoder, judge])
        networks.zero_grad(set_to_none=True)
        with bench.autocast(half):
            vectors = pooling.encode(encoder, ids, mask, "cls", padding_free=free)
            answers = judge(ids, mask, sentence)
        ((vectors.float() * weight).mean() + answers.float().log_softmax(-1)[..., 0].mean()).backward()
        gradients = {name: p.grad.float() for name, p in networks.named_parameters() if p.grad is not None}
        results.append({"vectors": vectors.detach().float(), "answers": answers.detach().float(), **gradients})
    padded, packed = results
    largest = max(float(value.abs().max()) for name, value in padded.items() if name not in ("vectors", "answers"))
    scales = {name: float(padded[name].abs().max()) for name in ("vectors", "answers")}
    apart = {name: float((packed[name] - value).abs().max()) for name, value in padded.items()}
    apart = {name: value / scales.get(name, largest) for name, value in apart.items()}
    worst = {name: apart.pop(name) for name in scales}
    worst["gradients"] = max(apart.values())
    return {**worst, "tolerance": TOLERANCE[half], "holds": max(worst.values()) <= TOLERANCE[half]}


def check_dropout(bench: Bench) -> dict[str, Any]:
    """The same seed gives the same loss, another seed another one, and on a GPU one call takes all sentences."""
    model, inputs, losses = bench.model(), bench.inputs(0), []
    with count_calls() as calls:
        for seed in (3, 3, 4):
            torch.manual_seed(seed)
            with bench.autocast(True), torch.no_grad():
                losses.append(float(loss_of(model, inputs)))
    right = losses[0] == losses[1] != losses[2]
    used = calls[0] > 0 if bench.device.type == "cuda" else calls[0] == 0
    return {"losses": losses, "varlen_calls": calls[0], "holds": right and used}


@contextmanager
def count_calls() -> Iterator[list[int]]:
    """How often `varlen.attend` is called while the context lasts."""
    calls, attend = [0], varlen.attend

    def counted(*rows: Any, **settings: Any) -> Tensor:
        calls[0] += 1
        return attend(*rows, **settings)

    varlen.attend = counted
    try:
        yield calls
    finally:
        varlen.attend = attend


def count_waits(bench: Bench) -> dict[str, Any]:
    """Operations that wait for the device from the batch on the CPU to the gradients, by the line that asked.

    None should; the trainer then asks once a step whether the loss is finite, and one wait is the goal.
    """
    if bench.device.type != "cuda":
        return {"waits": None, "holds": True}
    model = bench.model()
    with bench.autocast(True):
        loss_of(model, bench.inputs(0)).backward()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen, bench.autocast(True):
            warnings.simplefilter("always")
            loss_of(model, bench.inputs(1)).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    lines = [f"{Path(w.filename).name}:{w.lineno}" for w in seen if "synchroniz" in str(w.message)]
    return {"waits": len(lines), "lines": lines, "holds": not lines}


def ratios(times: dict[str, dict[str, float]]) -> dict[str, float]:
    """What the goals are about."""
    ours = times["ours bf16"]
    return {
        "over plain fp32": times["plain fp32"]["seconds"] / ours["seconds"],
        "over plain bf16": times["plain bf16"]["seconds"] / ours["seconds"],
        "published run, minutes": ours["seconds"] * PUBLISHED_STEPS / 60,
        "memory, GB": ours["memory_gb"],
    }


def main() -> int:
    """Check, measure, write."""
    options = _options()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA GPU here: nothing was measured (--device cpu --smoke shows that the script runs)")
        return 0
    began, bench = time.perf_counter(), Bench(options)
    checks: dict[str, Callable[[], dict[str, Any]]] = {
        "both passes of gradient caching": lambda: check_both_passes(bench),
        "packed == padded, float32": lambda: check_packed(bench, half=False),
        "packed == padded, bfloat16": lambda: check_packed(bench, half=True),
        "dropout follows the seed": lambda: check_dropout(bench),
        "waits for the device in a step": lambda: count_waits(bench),
    }
    checked, times = {}, {}
    for name, check in checks.items():
        checked[name] = check()
        print(f"{'ok  ' if checked[name]['holds'] else 'FAIL'} {name}: {json.dumps(checked[name])}", flush=True)
    for name, side in SIDES.items():
        times[name] = train(bench, side)
        print(f"{name}: {times[name]['seconds'] * 1000:.1f} ms, {times[name]['memory_gb']:.2f} GB", flush=True)
    results = {
        "device": torch.cuda.get_device_name() if bench.device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "networks": bench.name,
        "sentences": bench.size.sentences,
        "longest": LONGEST,
        "vocabulary": VOCABULARY,
        "checks": checked,
        "times": times,
        "results": ratios(times),
        "goals": GOALS,
        "seconds_in_all": time.perf_counter() - began,
    }
    for name, value in results["results"].items():
        print(f"{name}: {value:.2f} (goal {GOALS[name]})")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out, results)
    return 0 if all(check["holds"] for check in checked.values()) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--smoke", action="store_true", help="tiny networks and two steps")
    parser.add_argument("--steps", type=int, default=30, help="timed steps of each side")
    parser.add_argument("--text", type=Path, help="sentences whose lengths are used, one a line")
    parser.add_argument("--out", type=Path, default=RESULTS, help="results file")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
