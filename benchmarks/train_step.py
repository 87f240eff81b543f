"""A training step of ours against a plain padded one, in turns in one run: seconds, useful GFLOP/s, memory.

The baseline is DiffCSE as the paper reads: eager attention, padded batches, logits at every position, AdamW in its
plain form, PyTorch's defaults. Both sides are whole steps (forward, backward, clipping, optimiser) of the same networks
with random weights on the same batches, dropout on. Each has a process of its own and waits while the other one works.

    python benchmarks/train_step.py --configs minilm bert-base --steps 5

Useful FLOPs are those of the real tokens and of what the loss needs: no padding, no last-layer rows beside [CLS]. The
peak is the best rate of a float32 matrix product at the shapes of the networks' own linear layers, on idle cores.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing as mp
import os
import re
import resource
import statistics
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertForMaskedLM, BertModel

from diffcse.config import Config
from diffcse.kernels.memory import freed_memory_kept
from diffcse.method.edits import MlmEdit
from diffcse.method.model import DiffCSEModel
from diffcse.presets import build
from diffcse.text.docstrings import collect

VOCABULARY = 30_522
LONGEST = 32
CLS, SEP, MASK = 101, 102, 103
_WIKI = Path(__file__).parents[2] / "shared" / "text" / "wiki.txt"


@dataclass(frozen=True, kw_only=True)
class Size:
    """Networks and batch of one configuration."""

    hidden: int
    layers: int
    heads: int
    generator_layers: int
    sentences: int

    def bert(self, layers: int) -> BertConfig:
        """A BERT of this width."""
        return BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=self.hidden,
            num_hidden_layers=layers,
            num_attention_heads=self.heads,
            intermediate_size=4 * self.hidden,
        )


SIZES = {
    "minilm": Size(hidden=384, layers=6, heads=12, generator_layers=3, sentences=64),
    "bert-base": Size(hidden=768, layers=12, heads=12, generator_layers=6, sentences=16),
    "tiny": Size(hidden=64, layers=2, heads=2, generator_layers=1, sentences=8),
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table; the keys of `--json`."""

    config: str
    fidelity: str
    seconds_ours: float
    seconds_baseline: float
    ratio: float
    useful_gflops: float
    peak_gflops: float
    share_of_peak: float
    memory_mb_ours: float
    memory_mb_baseline: float


class Plain(nn.Module):
    """DiffCSE written down as it reads, every batch padded and every logit made."""

    def __init__(
        self, encoder: BertModel, discriminator: BertModel, generator: BertForMaskedLM, config: Config
    ) -> None:
        super().__init__()
        hidden = encoder.config.hidden_size
        self.encoder, self.discriminator, self.config = encoder, discriminator, config
        self.generator = generator.requires_grad_(False)
        self.projector = nn.Sequential(
            nn.Linear(hidden, 2 * hidden, bias=False),
            nn.BatchNorm1d(2 * hidden),
            nn.ReLU(),
            nn.Linear(2 * hidden, hidden, bias=False),
            nn.BatchNorm1d(hidden, affine=False),
        )
        self.head = nn.Linear(hidden, 2)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, masked_ids: Tensor, chosen: Tensor, **_: Any
    ) -> Tensor:
        """The loss of (B, 2, L) ids."""
        ids, mask = input_ids.flatten(0, 1), attention_mask.flatten(0, 1)
        pooled = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0]
        projected = self.projector(pooled)
        z1, z2 = projected.unflatten(0, input_ids.shape[:2]).unbind(1)
        logits = F.cosine_similarity(z1.unsqueeze(1), z2.unsqueeze(0), dim=-1) / 0.05
        loss = F.cross_entropy(logits, torch.arange(len(z1), device=z1.device))
        return loss + 0.005 * self._difference(ids, mask, masked_ids.flatten(0, 1), chosen.flatten(0, 1), projected)

    def _difference(self, ids: Tensor, mask: Tensor, masked: Tensor, chosen: Tensor, sentence: Tensor) -> Tensor:
        with torch.no_grad():
            logits = self.generator(input_ids=masked, attention_mask=mask).logits
            paper = self.config.edits.fill == "sample"
            filled = torch.distributions.Categorical(logits=logits).sample() if paper else logits.argmax(-1)
            edited = torch.where(chosen, filled, ids) if self.config.edits.fill_at == "masked" else filled
            edited[:, 0] = CLS
            edited = edited * mask
            replaced = (edited != ids).long() * mask
        if self.config.objective.edited_views == "first":
            edited, mask, replaced, sentence = (rows[::2] for rows in (edited, mask, replaced, sentence))
        embedded = self.discriminator.embeddings(input_ids=edited)
        embedded = torch.cat([sentence.unsqueeze(1), embedded[:, 1:]], dim=1)
        hidden = self.discriminator.encoder(embedded, (1.0 - mask[:, None, None, :].float()) * -1e9).last_hidden_state
        losses = F.cross_entropy(self.head(hidden).flatten(0, 1), replaced.flatten(), reduction="none")
        if self.config.objective.rtd_average == "real":
            return (losses * mask.flatten()).sum() / mask.sum()
        return losses.mean()


def main() -> None:
    """Time every configuration and print the table."""
    options = _options()
    torch.set_num_threads(options.threads)
    lengths = sentence_lengths(options.text)
    console = Console(stderr=options.json is not None, width=150)
    rows = []
    for name in options.configs:
        for fidelity in options.fidelity:
            rows.append(compare(name, fidelity, lengths, options))
            console.print(f"{name}, {fidelity}: {rows[-1].ratio:.2f} times the baseline")
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
    else:
        console.print(table(rows))


def compare(name: str, fidelity: str, lengths: list[int], options: argparse.Namespace) -> Row:
    """Both sides in turns; the median step of each counts."""
    steps, at_once = options.steps, options.rows_at_once
    sides = {side: Side(side, name, fidelity, lengths, options.threads, at_once) for side in ("ours", "baseline")}
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(steps + 1):
        for side, worker in sides.items():
            seconds[side].append(worker.step(number))
    memory = {side: worker.stop() for side, worker in sides.items()}
    middle = {side: statistics.median(times[1:]) for side, times in seconds.items()}  # the first one warms up
    batches = [batch(name, lengths, number)["attention_mask"] for number in range(1, steps + 1)]
    useful = statistics.mean(useful_flops(SIZES[name], fidelity, mask) for mask in batches) / 1e9
    peak = sgemm_peak(SIZES[name], int(statistics.mean(int(mask.sum()) for mask in batches)))
    return Row(
        config=name,
        fidelity=fidelity,
        seconds_ours=middle["ours"],
        seconds_baseline=middle["baseline"],
        ratio=middle["baseline"] / middle["ours"],
        useful_gflops=useful / middle["ours"],
        peak_gflops=peak,
        share_of_peak=useful / middle["ours"] / peak,
        memory_mb_ours=memory["ours"],
        memory_mb_baseline=memory["baseline"],
    )


class Side:
    """One side's process: makes a step when told, then waits."""

    def __init__(
        self, side: str, name: str, fidelity: str, lengths: list[int], threads: int, rows_at_once: int
    ) -> None:
        context = mp.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        arguments = (theirs, side, name, fidelity, lengths, threads, rows_at_once)
        self.process = context.Process(target=work, args=arguments, daemon=True)
        self.process.start()
        self.pipe.recv()

    def step(self, number: int) -> float:
        """Seconds of step `number`."""
        self.pipe.send(number)
        return float(self.pipe.recv())

    def stop(self) -> float:
        """End the process; its peak memory in MB."""
        self.pipe.send(None)
        memory = float(self.pipe.recv())
        self.process.join()
        return memory


def work(
    pipe: Connection, side: str, name: str, fidelity: str, lengths: list[int], threads: int, rows_at_once: int
) -> None:
    """What a side's process does."""
    torch.set_num_threads(threads)
    size = SIZES[name]
    model, optimiser = ours(size, fidelity, rows_at_once) if side == "ours" else baseline(size, fidelity)
    model.train()
    pipe.send("ready")
    with freed_memory_kept() if side == "ours" else nullcontext():
        while (number := pipe.recv()) is not None:
            pipe.send(timed_step(model, optimiser, batch(name, lengths, number), side))
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def timed_step(model: nn.Module, optimiser: torch.optim.Optimizer, inputs: dict[str, Tensor], side: str) -> float:
    """Seconds of one whole step."""
    began = time.perf_counter()
    optimiser.zero_grad(set_to_none=True)
    out = model(**inputs)
    (out if side == "baseline" else out.loss).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    return time.perf_counter() - began


def ours(size: Size, fidelity: str, rows_at_once: int = 0) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The training module and the optimiser as `diffcse train` has them."""
    torch.set_flush_denormal(True)
    config = build(fidelity=fidelity, rows_at_once=rows_at_once)
    encoder, generator = BertModel(size.bert(size.layers)), BertForMaskedLM(size.bert(size.generator_layers))
    edit = MlmEdit(generator, config.edits, cls_id=CLS, pad_id=0, padding_free=True)
    model = DiffCSEModel(encoder, edit, config)
    trained = [p for p in model.parameters() if p.requires_grad]
    return model, torch.optim.AdamW(trained, lr=1e-5, weight_decay=0.0, fused=True)


def baseline(size: Size, fidelity: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The plain module and the plain optimiser."""
    networks: list[Any] = [BertModel(size.bert(size.layers), add_pooling_layer=False) for _ in range(2)]
    networks.append(BertForMaskedLM(size.bert(size.generator_layers)))
    for network in networks:
        network.set_attn_implementation("eager")
    model = Plain(*networks, build(fidelity=fidelity))
    trained = [p for p in model.parameters() if p.requires_grad]
    return model, torch.optim.AdamW(trained, lr=1e-5, weight_decay=0.0, foreach=False, fused=False)


def sentence_lengths(text: Path | None) -> list[int]:
    """Tokens of real sentences, cut at 32; BERT's vocabulary makes about 1.1 pieces of a word or a mark."""
    if text is None:
        text = _WIKI if _WIKI.is_file() else None
    lines = text.read_text(encoding="utf-8").splitlines()[:20_000] if text else collect(limit=20_000).sentences
    return [min(LONGEST, 2 + round(1.1 * len(re.findall(r"\w+|[^\w\s]", line)))) for line in lines if line.strip()]


def batch(name: str, lengths: list[int], number: int) -> dict[str, Tensor]:
    """The same random ids of real lengths for both sides: two views of each sentence, each masked on its own."""
    count = SIZES[name].sentences
    draw = torch.Generator().manual_seed(number)
    chosen_lengths = [lengths[i] for i in torch.randint(len(lengths), (count,), generator=draw).tolist()]
    longest = max(chosen_lengths)
    mask = torch.tensor([[1] * n + [0] * (longest - n) for n in chosen_lengths])
    ids = torch.randint(1000, VOCABULARY, mask.shape, generator=draw) * mask
    ids[:, 0] = CLS
    ids[torch.arange(count), torch.tensor(chosen_lengths) - 1] = SEP
    ids, mask = (rows.unsqueeze(1).expand(-1, 2, -1).contiguous() for rows in (ids, mask))
    chosen = (torch.rand(ids.shape, generator=draw) < 0.3) & (ids > 999)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "masked_ids": torch.where(chosen, MASK, ids),
        "chosen": chosen,
        "draws": torch.rand(ids.shape, generator=draw, dtype=torch.float64),
    }


def useful_flops(size: Size, fidelity: str, attention_mask: Tensor) -> float:
    """FLOPs that a step needs: a multiplication and an addition are two, backward costs twice forward.

    Args:
        size: the networks.
        fidelity: `paper` edits one view of two and predicts the masked 30%.
        attention_mask: (B, 2, L), 1 at real tokens.
    """
    h, rows = size.hidden, attention_mask.shape[0] * 2
    tokens, squares = int(attention_mask.sum()), int((attention_mask.sum(-1) ** 2).sum())
    share = 0.5 if fidelity == "paper" else 1.0

    def layers(count: float) -> float:
        return count * (2 * 12 * h * h * tokens + 2 * 2 * h * squares)

    keys = 2 * 2 * h * h * tokens + 2 * 10 * h * h * rows + 2 * 2 * h * tokens  # of the encoder's last layer
    encoder = 3 * (layers(size.layers - 1) + keys)
    discriminator = 3 * share * layers(size.layers)
    predicted = tokens * share * (0.3 if fidelity == "paper" else 1.0)
    generator = share * layers(size.generator_layers) + 2 * predicted * h * (VOCABULARY + h)
    return encoder + discriminator + generator


def sgemm_peak(size: Size, tokens: int) -> float:
    """Best GFLOP/s of a float32 matrix product at the shapes of the linear layers."""
    h, best = size.hidden, 0.0
    for columns in (h, 4 * h):
        left, right = torch.randn(tokens, h), torch.randn(h, columns)
        for _ in range(20):
            began = time.perf_counter()
            left @ right
            best = max(best, 2 * tokens * h * columns / (time.perf_counter() - began) / 1e9)
    return best


def table(rows: list[Row]) -> Table:
    """The rows for a reader."""
    shown = Table(title=f"One training step, {torch.get_num_threads()} threads, torch {torch.__version__}")
    heads = ("config", "fidelity", "ours s", "baseline s", "ratio", "useful GFLOP/s", "sgemm", "share")
    for head in (*heads, "ours MB", "baseline MB"):
        shown.add_column(head, justify="left" if head in heads[:2] else "right")
    for row in rows:
        times = (f"{row.seconds_ours:.3f}", f"{row.seconds_baseline:.3f}", f"{row.ratio:.2f}")
        rates = (f"{row.useful_gflops:.1f}", f"{row.peak_gflops:.1f}", f"{row.share_of_peak:.0%}")
        memory = (f"{row.memory_mb_ours:.0f}", f"{row.memory_mb_baseline:.0f}")
        shown.add_row(row.config, row.fidelity, *times, *rates, *memory)
    return shown


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", nargs="+", choices=list(SIZES), default=["minilm", "bert-base"])
    parser.add_argument("--fidelity", nargs="+", choices=["reference", "paper"], default=["reference", "paper"])
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each side")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of each side; they take turns")
    parser.add_argument("--rows-at-once", type=int, default=0, help="gradient caching of ours; 0: the whole batch")
    parser.add_argument("--text", type=Path, help="sentences whose lengths are used, one a line")
    parser.add_argument("--json", action="store_const", const=True, help="print a list of objects instead of the table")
    return parser.parse_args()


if __name__ == "__main__":
    main()
