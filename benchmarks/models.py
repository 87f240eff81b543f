"""Size, speed and STS of several encoders next to each other.

Speed is that of `diffcse encode` on sentences of Wikipedia, the models taking turns, best of `--repeats`.
STS comes from files of `diffcse evaluate MODEL --tasks sts --json FILE`.

    python benchmarks/models.py bundled=sts_bundled.json minilm=sts_minilm.json static=sts_static.json

A name may be followed by the model's place: `static:FOLDER=sts_static.json`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from diffcse.encoding.encode import Encoder
from diffcse.errors import UserError
from diffcse.files import read_json
from diffcse.text.stream import open_texts

TASKS = ("STS12", "STS13", "STSBenchmark")
"""The STS tasks whose data come with the machine that measured this."""

_WIKI = Path(__file__).parents[2] / "shared" / "text" / "wiki.txt"


def main() -> None:
    """Measure and print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="NAME[:PLACE]=FILE")
    parser.add_argument("--text", default=str(_WIKI), help="sentences, one a line; default: ../shared/text/wiki.txt")
    parser.add_argument("--sentences", type=int, default=1000, help="how many of its lines (default 1000)")
    parser.add_argument("--repeats", type=int, default=3, help="times that each model encodes them (default 3)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    try:
        sentences = list(islice(open_texts(options.text, skip_blank=True), options.sentences))
        rows = measure([described(model) for model in options.models], sentences, options.repeats)
    except UserError as error:
        sys.exit(f"benchmarks/models.py: {error}")
    print(json.dumps(rows, indent=1))


def described(argument: str) -> tuple[str, str, dict[str, float]]:
    """Name, place and STS scores (Spearman) of a model."""
    model, _, file = argument.partition("=")
    name, _, place = model.partition(":")
    scores = read_json(Path(file), what=f"the scores in {file}", do="run diffcse evaluate")["tasks"]
    return name, place or name, {task: scores[task]["spearman"] for task in TASKS}


def measure(
    models: list[tuple[str, str, dict[str, float]]], sentences: list[str], repeats: int
) -> list[dict[str, Any]]:
    """A row for each model.

    Args:
        models: from `described`.
        sentences: real text.
        repeats: times that each model encodes all of it.
    """
    encoders = {name: Encoder(place) for name, place, _ in models}
    seconds = dict.fromkeys(encoders, float("inf"))
    for encoder in encoders.values():
        encoder.encode(sentences[:50])
    for _ in range(repeats):
        for name, encoder in encoders.items():
            start = time.perf_counter()
            encoder.encode(sentences)
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    return [
        {
            "model": name,
            "dims": encoders[name].width,
            "megabytes": 4e-6 * sum(parameter.numel() for parameter in encoders[name].model.parameters()),
            "threads": torch.get_num_threads(),
            "sentences_per_second": len(sentences) / seconds[name],
            **{task: 100 * score for task, score in scores.items()},
            "average": 100 * statistics.mean(scores.values()),
        }
        for name, _, scores in models
    ]


if __name__ == "__main__":
    main()
