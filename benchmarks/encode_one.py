"""Milliseconds of one sentence a call: sentence-transformers, `Encoder` and `DiffCSE` on the same model in one process.

Every sentence is encoded by all three, one after the other, and they begin in turns, so that a change of the machine's
load and what a call leaves in the cache meet all of them.

    python benchmarks/encode_one.py --models bundled minilm --json > benchmarks/results/encode_one.json
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from diffcse import DiffCSE
from diffcse.encoding.encode import Encoder
from diffcse.errors import UserError
from diffcse.persistence.load import load_encoder
from diffcse.text.stream import open_texts

Call = Callable[[str], object]

_WIKI = Path(__file__).parents[2] / "shared" / "text" / "wiki.txt"
_WARM_UP = 50


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table; the keys of `--json`.

    Attributes:
        model: what encodes.
        caller: through which library.
        threads: of torch.
        median_ms, fastest_ms: time of a call.
        ratio: sentence-transformers' time for a sentence over this caller's, median over the sentences.
    """

    model: str
    caller: str
    threads: int
    median_ms: float
    fastest_ms: float
    ratio: float


def main() -> None:
    """Time every model and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["bundled"], help="folders or names (default: the bundled one)")
    parser.add_argument("--text", default=str(_WIKI), help="sentences, one a line; default: ../shared/text/wiki.txt")
    parser.add_argument("--sentences", type=int, default=1000, help="how many of its lines (default 1000)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    parser.add_argument("--json", action="store_true", help="print a list of objects instead of a table")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    try:
        sentences = list(islice(open_texts(options.text, skip_blank=True), options.sentences + _WARM_UP))
        rows = [row for name in options.models for row in measure(name, callers(name), sentences)]
    except UserError as error:
        sys.exit(f"benchmarks/encode_one.py: {error}")
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
    else:
        Console().print(_table(rows))


def callers(name: str) -> dict[str, Call]:
    """What takes one sentence, by library; each gives a vector on the CPU, from weights of its own in memory."""
    return {
        "sentence-transformers": partial(load_encoder(name).encode, show_progress_bar=False),
        "Encoder": Encoder(name).encode,
        "DiffCSE": DiffCSE(name).encode,
    }


def measure(
    model: str, calls: dict[str, Call], sentences: list[str], clock: Callable[[], float] = time.perf_counter
) -> list[Row]:
    """Times of single calls, after a warm-up.

    Args:
        model: its name in the rows.
        calls: by name; the first is what the others are compared with.
        sentences: real text, `_WARM_UP` of it not timed.
        clock: gives seconds.
    """
    names, seconds = list(calls), np.empty((len(sentences), len(calls)))
    for number, sentence in enumerate(sentences):
        for turn in range(len(names)):
            column = (number + turn) % len(names)
            start = clock()
            calls[names[column]](sentence)
            seconds[number, column] = clock() - start
    seconds = seconds[_WARM_UP:]
    return [
        Row(
            model=model,
            caller=name,
            threads=torch.get_num_threads(),
            median_ms=1000 * float(np.median(seconds[:, column])),
            fastest_ms=1000 * float(seconds[:, column].min()),
            ratio=float(np.median(seconds[:, 0] / seconds[:, column])),
        )
        for column, name in enumerate(names)
    ]


def _table(rows: list[Row]) -> Table:
    table = Table("model", "caller", "threads", "median ms", "fastest ms", "ratio")
    for row in rows:
        numbers = (f"{row.median_ms:.2f}", f"{row.fastest_ms:.2f}", f"{row.ratio:.2f}")
        table.add_row(row.model, row.caller, str(row.threads), *numbers)
    return table


if __name__ == "__main__":
    main()
