"""What many sentences cost to encode and to train on, from the results of encode.py and train_step.py on one machine.

    python benchmarks/encode.py --json > benchmarks/results/encode.json
    python benchmarks/train_step.py --json > benchmarks/results/train_step.json
    python benchmarks/cost.py --update docs/scale.md

Time is taken to grow with the number of sentences and to shrink with the number of machines; LOG.md says how far that
was measured.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

_BATCHES = {"minilm": 64, "bert-base": 16}  # sentences of a step of benchmarks/train_step.py
_BEGIN, _END = "<!-- made by benchmarks/cost.py -->", "<!-- end -->"


def main() -> None:
    """Print the tables, or put them into a page."""
    options = _options()
    try:
        lines = [*_encoding(options), "", *_training(options)]
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"benchmarks/cost.py: the results must be those of encode.py and train_step.py --json; got {error!r}")
    if options.update is None:
        print("\n".join(lines))
        return
    page = options.update.read_text(encoding="utf-8")
    before, rest = page.split(_BEGIN)
    after = rest.split(_END)[1]
    options.update.write_text("\n".join([f"{before}{_BEGIN}", *lines, f"{_END}{after}"]), encoding="utf-8")


def _encoding(options: argparse.Namespace) -> list[str]:
    """One row a backend: hours of one machine, machines for a day, money, and the room that the vectors take."""
    head = ["backend", "precision", "sentences/s", "machine hours", "machines for 24 h", "cost"]
    rows = [
        [
            row["backend"],
            row["precision"],
            f"{row['sentences_per_second']:,.0f}",
            *_time(options, options.sentences / row["sentences_per_second"], options.encode_cores),
        ]
        for row in json.loads(options.encode.read_text(encoding="utf-8"))
    ]
    sizes = {"float32": 4, "float16": 2, "int8": 1}
    room = ", ".join(f"{kind} {options.sentences * options.width * n / 1e12:.2f} TB" for kind, n in sizes.items())
    where = f"`{options.encode}`, machines of {options.encode_cores} core{'s' if options.encode_cores > 1 else ''}"
    title = f"Encoding {options.sentences:,} sentences ({where}):"
    return [title, "", *_table(head, rows), "", f"Vectors of {options.width} numbers take: {room}."]


def _training(options: argparse.Namespace) -> list[str]:
    """One row a configuration."""
    if not options.train.exists():
        return [f"Training: not measured yet (`python benchmarks/train_step.py --json > {options.train}`)."]
    head = ["configuration", "fidelity", "sentences/s", "machine hours", "machines for 24 h", "cost"]
    rows = []
    for row in json.loads(options.train.read_text(encoding="utf-8")):
        if row["config"] in _BATCHES:
            rate = _BATCHES[row["config"]] / row["seconds_ours"]
            rows.append(
                [
                    row["config"],
                    row["fidelity"],
                    f"{rate:,.1f}",
                    *_time(options, options.sentences / rate, options.cores),
                ]
            )
    where = f"`{options.train}`, machines of {options.cores} core{'s' if options.cores > 1 else ''}"
    return [f"Training on {options.sentences:,} sentences once ({where}):", "", *_table(head, rows)]


def _time(options: argparse.Namespace, seconds: float, cores: int) -> list[str]:
    hours = seconds / 3600
    money = f"${hours * cores * options.price:,.0f}"
    return [f"{hours:,.0f}", f"{hours / 24:,.1f}", money]


def _table(head: list[str], rows: list[list[Any]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def _options() -> argparse.Namespace:
    results = Path("benchmarks/results")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encode", type=Path, default=results / "encode.json")
    parser.add_argument("--train", type=Path, default=results / "train_step.json")
    parser.add_argument("--sentences", type=int, default=1_000_000_000)
    parser.add_argument("--width", type=int, default=576, help="numbers of a vector (default 576, the bundled encoder)")
    parser.add_argument("--cores", type=int, default=2, help="cores of the measured training steps (default 2)")
    parser.add_argument("--encode-cores", type=int, default=1, help="threads of the measured encoding (default 1)")
    parser.add_argument("--price", type=float, default=0.04, help="assumed dollars for a core and hour (default 0.04)")
    parser.add_argument("--update", type=Path, help="page to put the tables into, between its two marks")
    return parser.parse_args()


if __name__ == "__main__":
    main()
