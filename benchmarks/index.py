"""The index at size: recall against exact search, latency, memory, build time, disk and additions.

Encodes a text with diffcse's own bulk encoding (a run that was interrupted goes on with the same command; a finished
one is used again), makes an index of the vectors and measures it, each stage in a process of its own so that memory is
counted apart. Queries are other sentences than the indexed ones.

    python benchmarks/index.py --sentences 1000000 --json benchmarks/results/index.json
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from diffcse.encoding.bulk import BulkSettings, encode_file
from diffcse.encoding.encode import EncodeSettings
from diffcse.errors import UserError
from diffcse.files import write_atomic
from diffcse.persistence.load import fingerprint, load_encoder
from diffcse.search.index import SentenceIndex, add_to_index, create_index
from diffcse.text.stream import open_texts
from diffcse.vectors import Vectors, exact_search, import_faiss

_SHARED = Path(__file__).parents[2] / "shared" / "text"
_BLOCK, _TOP_K, _MB = 8192, 10, 1e6


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Vectors on the disk, and where the index goes."""

    texts: str
    vectors: str
    queries: str
    index: str
    sentences: int
    threads: int

    def arrays(self) -> tuple[Vectors, Vectors]:
        """Indexed vectors (N, H), mapped, and queries (Q, H); the number of threads is set on the way."""
        import_faiss().omp_set_num_threads(self.threads)
        return np.load(self.vectors, mmap_mode="r"), np.load(self.queries)

    def blocks(self, start: int, end: int) -> Iterator[tuple[list[str], Vectors]]:
        """Sentences with their vectors, a block at a time."""
        texts = islice(open_texts(self.texts, skip_blank=True), start, end)
        for first in range(start, end, _BLOCK):
            last = min(first + _BLOCK, end)
            # Mapped anew for each block: pages that stay mapped would count as the builder's memory.
            yield list(islice(texts, last - first)), np.load(self.vectors, mmap_mode="r")[first:last].copy()


def main() -> None:
    """Encode what is not encoded yet, build, measure, print."""
    options = _options()
    notes = Console(stderr=True)
    try:
        prepared = prepare(options, notes)
        figures = measure(prepared, options.added, notes)
    except UserError as error:
        sys.exit(f"benchmarks/index.py: {error}")
    about = {"max_tokens": options.max_tokens, "threads": options.threads, "machine": platform.machine()}
    figures |= about | {"load": round(os.getloadavg()[0], 1), "model": options.model or "bundled"}
    Console().print(_table(figures))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(options.json, (json.dumps(figures, indent=1) + "\n").encode())


def prepare(options: argparse.Namespace, notes: Console) -> Prepared:
    """Texts and vectors of the sentences and of the queries, in the working folder."""
    options.work.mkdir(parents=True, exist_ok=True)
    mark = fingerprint(load_encoder(options.model))[:8]
    name = f"{options.sentences}-{options.max_tokens or 'all'}-{mark}"
    indexed = _head(options.text, options.work / f"text-{options.sentences}.txt", options.sentences)
    asked = _head(options.queries, options.work / f"queries-{options.query_count}.txt", options.query_count)
    vectors, queries = (options.work / f"{kind}-{name}.npy" for kind in ("vectors", "queries"))
    for source, target in ((asked, queries), (indexed, vectors)):
        if not target.exists():
            start = time.perf_counter()
            settings = BulkSettings(encoding=EncodeSettings(normalize=True, max_tokens=options.max_tokens))
            done = encode_file(str(source), target, lambda: load_encoder(options.model), settings)
            notes.print(f"encoded {done.rows:,} sentences, {time.perf_counter() - start:.0f} s in this call")
    return Prepared(
        texts=str(indexed),
        vectors=str(vectors),
        queries=str(queries),
        index=str(options.work / f"index-{name}"),
        sentences=options.sentences,
        threads=options.threads,
    )


def measure(prepared: Prepared, added: int, notes: Console) -> dict[str, Any]:
    """All figures; the last `added` of the sentences come later than the others."""
    shutil.rmtree(prepared.index, ignore_errors=True)
    figures: dict[str, Any] = {"sentences": prepared.sentences, "added": added}
    for stage in (_build, _add, _exact, _search):
        notes.print(f"{stage.__name__.strip('_')} ...")
        figures |= _apart(stage, prepared, added)
    found, exact = figures.pop("found"), figures.pop("exact")
    shares = [len({*ours} & {*theirs}) / _TOP_K for ours, theirs in zip(found, exact, strict=True)]
    figures["recall_at_10"], figures["queries"] = round(float(np.mean(shares)), 4), len(shares)
    return figures


def _apart(stage: Callable[[Prepared, int], dict[str, Any]], prepared: Prepared, added: int) -> dict[str, Any]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(stage, prepared, added).result()


def _build(prepared: Prepared, added: int) -> dict[str, Any]:
    vectors, _ = prepared.arrays()
    rows, began = prepared.sentences - added, time.perf_counter()
    facts = {"dimension": vectors.shape[1], "model": None, "fingerprint": "benchmark"}
    manifest = create_index(prepared.index, prepared.blocks(0, rows), rows=rows, **facts)
    seconds = time.perf_counter() - began
    return {"kind": manifest.kind, "dimension": manifest.dimension, "build_seconds": round(seconds, 1)} | _peak("build")


def _add(prepared: Prepared, added: int) -> dict[str, Any]:
    began, end = time.perf_counter(), prepared.sentences
    blocks = prepared.blocks(end - added, end)
    add_to_index(prepared.index, blocks, rows=added, fingerprint="benchmark")
    size = sum(path.stat().st_size for path in Path(prepared.index).iterdir())
    return {"add_seconds": round(time.perf_counter() - began, 1), "disk_mb": round(size / _MB)} | _peak("add")


def _exact(prepared: Prepared, added: int) -> dict[str, Any]:
    vectors, queries = prepared.arrays()
    everything = np.ascontiguousarray(vectors)
    exact_search(everything, queries[:1], _TOP_K)
    began = time.perf_counter()
    exact_search(everything, queries[:1], _TOP_K)
    alone = time.perf_counter() - began
    rows = exact_search(everything, queries, _TOP_K)[1].tolist()
    return {"exact": rows, "exact_ms": round(alone * 1e3, 1)}


def _search(prepared: Prepared, added: int) -> dict[str, Any]:
    _, queries = prepared.arrays()
    before, began = _resident("RssAnon"), time.perf_counter()
    SentenceIndex(prepared.index)
    verified, began = time.perf_counter() - began, time.perf_counter()
    index = SentenceIndex(prepared.index, verify=False)
    opened = time.perf_counter() - began
    found, seconds = [], []
    for query in queries:
        began = time.perf_counter()
        (hits,) = index.search(query[None], _TOP_K)
        seconds.append(time.perf_counter() - began)
        found.append([hit.row for hit in hits])
    p50, p99 = np.percentile(seconds, [50, 99]) * 1e3
    return {
        "found": found,
        "open_seconds": round(opened, 3),
        "open_verified_seconds": round(verified, 2),
        "p50_ms": round(float(p50), 2),
        "p99_ms": round(float(p99), 2),
        "search_own_mb": round(_resident("RssAnon") - before),
        "search_mapped_mb": round(_resident("RssFile")),
    }


def _peak(name: str) -> dict[str, Any]:
    return {f"{name}_peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / _MB)}


def _resident(field: str) -> float:
    """A field of Linux's account of this process's memory, in MB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1]) * 1024 / _MB for line in lines if line.startswith(f"{field}:"))


def _head(source: Path, target: Path, count: int) -> Path:
    """The first `count` lines of a text that are not blank, as a file of their own."""
    if not target.exists():
        lines = list(islice(open_texts(str(source), skip_blank=True), count))
        if len(lines) < count:
            raise UserError(f"{source}", f"a text of at least {count:,} lines", f"{len(lines):,}", "ask for fewer")
        write_atomic(target, "".join(f"{line}\n" for line in lines).encode("utf-8", "replace"))
    return target


def _table(figures: dict[str, Any]) -> Table:
    table = Table("figure", "value", title="index")
    for name, value in figures.items():
        table.add_row(name.replace("_", " "), f"{value:,}" if isinstance(value, int | float) else str(value))
    return table


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder or Hub name; default: the bundled encoder")
    parser.add_argument("--text", type=Path, default=_SHARED / "wiki.txt", help="sentences to index, one a line")
    parser.add_argument("--queries", type=Path, default=_SHARED / "other.txt", help="sentences to look for")
    parser.add_argument("--sentences", type=int, default=1_000_000, help="how many to index")
    parser.add_argument("--query-count", type=int, default=1_000)
    parser.add_argument("--added", type=int, default=1_000, help="of the sentences, added to the finished index")
    parser.add_argument("--max-tokens", type=int, help="cut sentences here (tokens); default: the model's limit")
    parser.add_argument("--threads", type=int, default=1, help="threads of FAISS")
    parser.add_argument("--work", type=Path, default=Path("runs/index"), help="folder for texts, vectors and the index")
    parser.add_argument("--json", type=Path, help="file for the figures")
    return parser.parse_args()


if __name__ == "__main__":
    main()
