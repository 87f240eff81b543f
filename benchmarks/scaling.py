"""How cost grows: a training step with the batch and with the length, encoding with the length of a stream.

Each measurement has a process of its own, so that its peak memory is its own; they run one after the other.

    python benchmarks/scaling.py --json

`memory_mb` is the growth of the peak memory over the process before the work. Of a stream in bounded memory it does not
depend on the number of sentences; `slope_mb_per_million` is what the two longest streams say.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing as mp
import os
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from train_step import SIZES, batch, ours, sentence_lengths, timed_step

from diffcse.encoding.encode import Encoder
from diffcse.text.docstrings import collect

NAME = "minilm"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table; the keys of `--json`.

    Attributes:
        what: the work.
        size: sentences of the batch, tokens of each sentence, or sentences of the stream.
        seconds: of one step, or of the whole stream.
        sentences_per_second: of the same.
        memory_mb: growth of the peak memory.
    """

    what: str
    size: int
    seconds: float
    sentences_per_second: float
    memory_mb: float


def main() -> None:
    """Measure, then print the table."""
    options = _options()
    console = Console(stderr=options.json, width=130)
    rows: list[Row] = []
    work: list[tuple[str, Callable[..., tuple[float, int]], list[int]]] = [
        ("step, batch", batch_step, options.batches),
        ("step, batch, 32 rows at once", cached_step, options.batches),
        ("step, tokens of a sentence", length_step, options.lengths),
        ("encode, stream", stream, options.streams),
    ]
    for what, function, sizes in work:
        for size in sizes:
            rows.append(alone(what, function, size, options.threads))
            console.print(f"{what} {size}: {rows[-1].seconds:.2f} s")
    if options.json:
        print(json.dumps({"rows": [asdict(row) for row in rows], "slope_mb_per_million": slope(rows)}, indent=1))
    else:
        console.print(table(rows))
        console.print(f"memory of a stream: {slope(rows):.0f} MB a million sentences")


def alone(what: str, function: Callable[..., tuple[float, int]], size: int, threads: int) -> Row:
    """One measurement in a process of its own."""
    context = mp.get_context("spawn")
    theirs, ours_end = context.Pipe()
    process = context.Process(target=_run, args=(theirs, function, size, threads))
    process.start()
    seconds, sentences, memory = ours_end.recv()
    process.join()
    return Row(what=what, size=size, seconds=seconds, sentences_per_second=sentences / seconds, memory_mb=memory)


def _run(pipe: Any, function: Callable[..., tuple[float, int]], size: int, threads: int) -> None:
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, sentences = function(size)
    pipe.send((seconds, sentences, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024))


def batch_step(size: int) -> tuple[float, int]:
    """A step of `size` sentences."""
    return _step(size, sentence_lengths(None)), size


def cached_step(size: int) -> tuple[float, int]:
    """A step of `size` sentences with gradient caching."""
    return _step(size, sentence_lengths(None), rows_at_once=32), size


def length_step(size: int) -> tuple[float, int]:
    """A step of 32 sentences of `size` tokens each."""
    return _step(32, [size]), 32


def _step(sentences: int, lengths: list[int], rows_at_once: int = 0) -> float:
    SIZES["here"] = dataclasses.replace(SIZES[NAME], sentences=sentences)
    model, optimiser = ours(SIZES["here"], "reference", rows_at_once)
    model.train()
    return min(timed_step(model, optimiser, batch("here", lengths, number), "ours") for number in range(3))


def stream(size: int) -> tuple[float, int]:
    """`size` sentences through the bundled encoder; the vectors are counted and dropped."""
    encoder = Encoder()
    texts = collect(limit=20_000).sentences

    def endless() -> Iterator[str]:
        return (f"{text} {number}" for number, text in enumerate(islice(cycle(texts), size)))

    began = time.perf_counter()
    done = sum(len(chunk.vectors) for chunk in encoder.chunks(endless()))
    return time.perf_counter() - began, done


def slope(rows: list[Row]) -> float:
    """MB of memory for each further million sentences of a stream, from the two longest."""
    streams = sorted((row for row in rows if "stream" in row.what), key=lambda row: row.size)
    if len(streams) < 2:
        return float("nan")
    short, long = streams[-2:]
    return (long.memory_mb - short.memory_mb) / (long.size - short.size) * 1e6


def table(rows: list[Row]) -> Table:
    """The rows for a reader."""
    shown = Table(title=f"Growth of cost, {NAME}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for head in ("work", "size", "seconds", "sentences/s", "memory MB"):
        shown.add_column(head, justify="left" if head == "work" else "right")
    for row in rows:
        figures = (f"{row.seconds:.2f}", f"{row.sentences_per_second:.1f}", f"{row.memory_mb:.0f}")
        shown.add_row(row.what, f"{row.size:,}", *figures)
    return shown


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="*", default=[16, 32, 64, 128, 256], help="sentences of a step")
    parser.add_argument("--lengths", type=int, nargs="*", default=[16, 32, 64, 128], help="tokens of a sentence")
    parser.add_argument(
        "--streams", type=int, nargs="*", default=[20_000, 40_000, 80_000], help="sentences of a stream"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of PyTorch")
    parser.add_argument("--json", action="store_true", help="print objects instead of the table")
    return parser.parse_args()


if __name__ == "__main__":
    main()
