"""Sentences a second of diffcse's encode against sentence-transformers' own, on the same model and text in one run.

Every row is timed `--repeats` times, the rows taking turns, so that a change of the machine's load meets all of them;
the best time counts. `max_abs_difference` is against the vectors of sentence-transformers' torch backend. Rows whose
backend or export is not installed are left out with a note.

    python benchmarks/encode.py --model MODEL --text sentences.txt --sentences 5000
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sentence_transformers import SentenceTransformer

from diffcse.encoding.backends import GraphBackend, GraphPrecision
from diffcse.encoding.encode import Encoder, EncodeSettings, Precision
from diffcse.errors import UserError
from diffcse.export.export import export_model
from diffcse.export.graphs import check_installed
from diffcse.persistence.load import load_encoder
from diffcse.resources import bundled
from diffcse.text.stream import open_texts

Encode = Callable[[list[str]], NDArray[np.float32]]

_WIKI = Path(__file__).parents[2] / "shared" / "text" / "wiki.txt"
_EXPORTS: list[tuple[GraphBackend, GraphPrecision]] = [
    ("onnx", "float32"),
    ("onnx", "int8"),
    ("openvino", "float32"),
    ("openvino", "int8"),
]
_WARM_UP = 64


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table; the keys of `--json`."""

    backend: str
    precision: str
    sentences_per_second: float
    ratio_to_torch: float
    max_abs_difference: float


def main() -> None:
    """Time every backend that is here and print the table."""
    options = _options()
    notes = Console(stderr=True)
    torch.set_num_threads(options.threads)
    try:
        folder = _model(options.model)
        sentences = _sentences(options.text, options.sentences)
        with TemporaryDirectory() as exports:
            backends = _backends(folder, options.precisions)
            if not options.no_exports:
                backends |= _exports(folder, options.exports or Path(exports), notes)
            clock = time.process_time if options.cpu_time else time.perf_counter
            rows = measure(backends, sentences, options.repeats, clock)
    except UserError as error:
        sys.exit(f"benchmarks/encode.py: {error}")
    tokenizer = load_encoder(folder).tokenizer
    tokens = np.mean([len(ids) for ids in tokenizer(sentences, truncation=True)["input_ids"]])
    machine = f"{torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}, {platform.machine()}"
    text = f"{len(sentences):,} sentences of {tokens:.1f} tokens; {folder}; {machine}; torch {torch.__version__}"
    notes.print(text, soft_wrap=True)
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
    else:
        Console().print(_table(rows))


def measure(
    backends: dict[tuple[str, str], Encode],
    sentences: list[str],
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Row]:
    """Best time of each backend over all sentences, the backends taking turns.

    Args:
        backends: by name and precision; the first is what the others are compared with.
        sentences: real text.
        repeats: times that each backend encodes all of it.
        clock: gives seconds.
    """
    vectors, seconds = {}, dict.fromkeys(backends, float("inf"))
    for run in backends.values():
        run(sentences[:_WARM_UP])
    for _ in range(repeats):
        for name, run in backends.items():
            start = clock()
            vectors[name] = run(sentences)
            seconds[name] = min(seconds[name], clock() - start)
    first = next(iter(backends))
    return [
        Row(
            backend=backend,
            precision=precision,
            sentences_per_second=len(sentences) / seconds[backend, precision],
            ratio_to_torch=seconds[first] / seconds[backend, precision],
            max_abs_difference=float(np.abs(vectors[backend, precision] - vectors[first]).max()),
        )
        for backend, precision in backends
    ]


def _backends(folder: str, precisions: list[Precision]) -> dict[tuple[str, str], Encode]:
    model = load_encoder(folder)
    encoders: dict[tuple[str, str], Encode] = {("torch", "float32"): partial(_sentence_transformers, model)}
    for precision in precisions:
        encoders["diffcse", precision] = Encoder(model, settings=EncodeSettings(precision=precision)).encode
    return encoders


def _exports(folder: str, place: Path, notes: Console) -> dict[tuple[str, str], Encode]:
    """The model exported for each backend that is installed, run in batches of sentences of about one length."""
    encoders: dict[tuple[str, str], Encode] = {}
    for backend, precision in _EXPORTS:
        target = place / backend
        try:
            if not target.exists():
                check_installed(backend, int8=True)
                export_model(load_encoder(folder), target, backend, int8=True)
            settings = EncodeSettings(precision=precision)
            encoders[backend, precision] = Encoder(target, backend=backend, settings=settings).encode
        except UserError as error:
            notes.print(f"left out: {backend} {precision} ({error})", soft_wrap=True)
    return encoders


def _sentence_transformers(model: SentenceTransformer, sentences: list[str]) -> NDArray[np.float32]:
    return model.encode(sentences, show_progress_bar=False)  # its defaults: batches of 32, sorted by length


def _model(name: str | None) -> str:
    return str(bundled()) if name is None else name


def _sentences(text: str | None, count: int) -> list[str]:
    if text is None and not _WIKI.is_file():
        raise UserError("--text", "given", "nothing", "name a file of real sentences, one a line")
    sentences = list(islice(open_texts(text or str(_WIKI), skip_blank=True), count))
    if len(sentences) < _WARM_UP:
        raise UserError("--text", f"a file of at least {_WARM_UP} lines", len(sentences), "name a longer one")
    return sentences


def _table(rows: list[Row]) -> Table:
    table = Table("backend", "precision", "sentences/s", "ratio to torch", "largest difference")
    for row in rows:
        speed, ratio = f"{row.sentences_per_second:.1f}", f"{row.ratio_to_torch:.2f}"
        table.add_row(row.backend, row.precision, speed, ratio, f"{row.max_abs_difference:.1e}")
    return table


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder or Hub name; default: the encoder in the package")
    parser.add_argument("--text", help="file of real sentences, one a line; default: ../shared/text/wiki.txt")
    parser.add_argument("--sentences", type=int, default=2000, help="how many of its lines (default 2000)")
    parser.add_argument("--repeats", type=int, default=3, help="times that each backend runs (default 3)")
    parser.add_argument(
        "--precisions",
        nargs="+",
        default=["float32"],
        choices=["float32", "bfloat16", "float16"],
        help="arithmetic of diffcse's rows (default float32)",
    )
    parser.add_argument("--cpu-time", action="store_true", help="seconds of the processor: rough, on a busy machine")
    parser.add_argument("--no-exports", action="store_true", help="leave ONNX Runtime and OpenVINO out")
    parser.add_argument("--exports", type=Path, help="folder that keeps the exported models for the next run")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of every backend")
    parser.add_argument("--json", action="store_true", help="print a list of objects instead of a table")
    return parser.parse_args()


if __name__ == "__main__":
    main()
