"""An index at size, on this package and on others: recall, latency, memory, build time, disk, changes.

Encodes a text with diffcse's own bulk encoding (an interrupted run resumes with the same command; a finished one is
used again) and measures each engine, each stage in a process of its own so that memory is counted apart. Queries are
other sentences than the indexed ones. Engines:

- diffcse: `diffcse.search.index` (SQLite, a file of vectors, FAISS's 4-bit codes scanned whole, exact re-ranking);
- hnsw: FAISS's graph of neighbours in one file, written anew by each addition, as the package had it before;
- lance-rq, lance-sq, lance-hnsw: LanceDB with IVF_RQ (2 bits), IVF_SQ and IVF_HNSW_SQ, all re-ranked on exact vectors.

    python benchmarks/index.py --sentences 1000000 --engines diffcse --json benchmarks/results/index.json
"""

from __future__ import annotations

import argparse
import itertools
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
from diffcse.files import write_atomic, write_json
from diffcse.persistence.load import fingerprint, load_encoder
from diffcse.search.facts import Facts, Row
from diffcse.search.index import SentenceIndex
from diffcse.search.nearest import exact
from diffcse.text.stream import open_texts
from diffcse.vectors import Vectors, import_faiss, shortened

_SHARED = Path(__file__).parents[2] / "shared" / "text"
_BLOCK, _TOP_K, _MB = 8192, 10, 1e6
_YEARS = 100
_WHERE = "year < 5"
"""A condition that one row in 20 meets."""

Block = tuple[list[str], list[int], Vectors]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Vectors on the disk, and where the index goes."""

    texts: str
    vectors: str
    queries: str
    index: str
    sentences: int
    dims: int | None
    threads: int
    changed: int

    def queries_of(self) -> Vectors:
        """Queries (Q, H)."""
        return self._short(np.load(self.queries))

    def blocks(self, start: int, end: int) -> Iterator[Block]:
        """Sentences, their numbers and their vectors, a block at a time."""
        texts = islice(open_texts(self.texts, skip_blank=True), start, end)
        for first in range(start, end, _BLOCK):
            last = min(first + _BLOCK, end)
            # Mapped anew for each block: pages that stay mapped would count as the builder's memory.
            block = np.load(self.vectors, mmap_mode="r")[first:last].copy()
            yield list(islice(texts, last - first)), list(range(first, last)), self._short(block)

    def _short(self, vectors: Vectors) -> Vectors:
        return vectors if self.dims is None else shortened(vectors, self.dims)


class Diffcse:
    """This package."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def build(self, blocks: Iterator[Block]) -> None:
        """A new index."""
        first = next(blocks)
        facts = Facts(dimension=first[2].shape[1], model=None, fingerprint="benchmark")
        SentenceIndex.create(self.folder, facts, self._rows(itertools.chain([first], blocks)))

    def add(self, blocks: Iterator[Block]) -> None:
        """More rows."""
        SentenceIndex(self.folder).add(self._rows(blocks))

    def delete(self, start: int, end: int) -> None:
        """Rows by their number."""
        SentenceIndex(self.folder).delete(f"_line BETWEEN {start} AND {end - 1}")

    def open(self) -> Callable[[Vectors, str | None], list[int]]:
        """What searches for one query."""
        index = SentenceIndex(self.folder)
        return lambda query, where: [hit.line for hit in index.search(query, _TOP_K, where=where)[0]]

    def _rows(self, blocks: Iterator[Block]) -> Iterator[tuple[list[Row], Vectors]]:
        for texts, lines, vectors in blocks:
            rows = zip(texts, lines, strict=True)
            yield [Row(text=text, line=line, columns={"year": line % _YEARS}) for text, line in rows], vectors


class Hnsw:
    """A graph of neighbours in one FAISS file; sentences are not kept, nothing can be deleted or filtered."""

    def __init__(self, folder: str) -> None:
        self.file, self.faiss = Path(folder) / "graph.faiss", import_faiss()

    def build(self, blocks: Iterator[Block]) -> None:
        """A new index."""
        first = next(blocks)
        graph = self.faiss.IndexHNSWFlat(first[2].shape[1], 32, self.faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction, graph.hnsw.efSearch = 80, 512
        self._write(graph, itertools.chain([first], blocks))

    def add(self, blocks: Iterator[Block]) -> None:
        """More rows."""
        self._write(self.faiss.read_index(str(self.file)), blocks)

    def _write(self, graph: Any, blocks: Iterator[Block]) -> None:
        for _, _, vectors in blocks:
            graph.add(vectors)
        self.file.parent.mkdir(exist_ok=True)
        self.faiss.write_index(graph, str(self.file))

    def open(self) -> Callable[[Vectors, str | None], list[int]]:
        """What searches for one query."""
        graph = self.faiss.read_index(str(self.file), self.faiss.IO_FLAG_MMAP_IFC | self.faiss.IO_FLAG_READ_ONLY)
        return lambda query, where: graph.search(query, _TOP_K)[1][0].tolist()


class Lance:
    """LanceDB with one of its indexes."""

    _SEARCH = {  # noqa: RUF012 - what each search needs for a recall near 0.95, as far as it gets
        "lance-rq": {"nprobes": 4, "refine_factor": 5},
        "lance-sq": {"nprobes": 400, "refine_factor": 2},
        "lance-hnsw": {"nprobes": 1, "ef": 512, "refine_factor": 4},
    }

    def __init__(self, folder: str, kind: str) -> None:
        import lancedb

        self.db, self.kind = lancedb.connect(folder), kind

    def build(self, blocks: Iterator[Block]) -> None:
        """A new table and its index."""
        from lancedb.index import HnswSq, IvfRq, IvfSq

        batches = (self._batch(*block) for block in blocks)
        first = next(batches)
        import pyarrow as pa

        reader = pa.RecordBatchReader.from_batches(first.schema, itertools.chain([first], batches))
        table = self.db.create_table("rows", reader)
        config = {
            "lance-rq": lambda: IvfRq(distance_type="dot", num_partitions=4, num_bits=2, sample_rate=64),
            "lance-sq": lambda: IvfSq(distance_type="dot", num_partitions=1024, sample_rate=64),
            "lance-hnsw": lambda: HnswSq(distance_type="dot", num_partitions=1, m=16, ef_construction=100),
        }[self.kind]()
        table.create_index("vector", config=config)

    def add(self, blocks: Iterator[Block]) -> None:
        """More rows, and the index over them."""
        import pyarrow as pa

        table = self.db.open_table("rows")
        table.add(pa.Table.from_batches([self._batch(*block) for block in blocks]))
        table.optimize()

    def delete(self, start: int, end: int) -> None:
        """Rows by their number."""
        self.db.open_table("rows").delete(f"line >= {start} AND line < {end}")

    def open(self) -> Callable[[Vectors, str | None], list[int]]:
        """What searches for one query."""
        table = self.db.open_table("rows")

        def search(query: Vectors, where: str | None) -> list[int]:
            builder = table.search(query[0]).distance_type("dot").limit(_TOP_K).select(["line", "text", "_distance"])
            for name, value in self._SEARCH[self.kind].items():
                builder = getattr(builder, name)(value)
            return (builder if where is None else builder.where(where)).to_arrow()["line"].to_pylist()

        return search

    def _batch(self, texts: list[str], lines: list[int], vectors: Vectors) -> Any:
        import pyarrow as pa

        numbers = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
        years = pa.array([line % _YEARS for line in lines])
        return pa.record_batch({"text": texts, "line": pa.array(lines), "year": years, "vector": numbers})


def engine(name: str, folder: str) -> Any:
    """An engine by its name."""
    return {"diffcse": Diffcse, "hnsw": Hnsw}[name](folder) if name in ("diffcse", "hnsw") else Lance(folder, name)


def main() -> None:
    """Encode what is not encoded yet, measure each engine, print; finished engines' figures are kept in the file."""
    options = _options()
    notes = Console(stderr=True)
    try:
        prepared = prepare(options, notes)
        about = {"sentences": options.sentences, "dims": options.dims, "changed": options.changed}
        about |= {"queries": options.query_count, "max_tokens": options.max_tokens, "model": options.model or "bundled"}
        about |= {"threads": options.threads, "machine": platform.machine()}
        results = {}
        truth, seconds = _apart(_exact, "exact", prepared)
        about["exact_ms"] = seconds
        for name in options.engines:
            notes.print(f"{name} ...")
            results[name] = measure(name, prepared, truth) | {"load": round(os.getloadavg()[0], 1)}
            notes.print(results[name])
            if options.json:
                options.json.parent.mkdir(parents=True, exist_ok=True)
                before = json.loads(options.json.read_text()) if options.json.exists() else {}
                key = f"{options.sentences} x {prepared.queries_of().shape[1]}"
                engines = before.get(key, {}).get("engines", {}) | results
                write_json(options.json, before | {key: about | {"engines": engines}})
    except UserError as error:
        sys.exit(f"benchmarks/index.py: {error}")
    Console().print(_table(results))


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
        dims=options.dims,
        threads=options.threads,
        changed=options.changed,
    )


def measure(name: str, prepared: Prepared, truth: dict[str, list[list[int]]]) -> dict[str, Any]:
    """All figures of an engine; the last sentences come later than the others, and the first ones are deleted."""
    shutil.rmtree(prepared.index, ignore_errors=True)
    figures: dict[str, Any] = {}
    for stage in (_build, _add, _delete, _search):
        figures |= _apart(stage, name, prepared)
    for what in ("all", "filtered"):
        found = figures.pop(what)
        expected = truth[what if figures["delete_s"] is not None else f"{what}, nothing deleted"]
        if found is not None:
            shares = [len({*ours} & {*theirs}) / _TOP_K for ours, theirs in zip(found, expected, strict=True)]
            figures[f"recall_at_10_{what}"] = round(float(np.mean(shares)), 4)
    shutil.rmtree(prepared.index, ignore_errors=True)
    return figures


def _apart(stage: Callable[[str, Prepared], Any], name: str, prepared: Prepared) -> Any:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_alone, stage, name, prepared).result()


def _alone(stage: Callable[[str, Prepared], Any], name: str, prepared: Prepared) -> Any:
    if name != "exact" and not name.startswith("lance"):
        import_faiss().omp_set_num_threads(prepared.threads)
    return stage(name, prepared)


def _build(name: str, prepared: Prepared) -> dict[str, Any]:
    began, used = time.perf_counter(), time.process_time()
    engine(name, prepared.index).build(prepared.blocks(0, prepared.sentences - prepared.changed))
    cpu = {"build_cpu_s": round(time.process_time() - used, 1)}
    return {"build_s": round(time.perf_counter() - began, 1)} | cpu | _peak("build")


def _add(name: str, prepared: Prepared) -> dict[str, Any]:
    blocks = list(prepared.blocks(prepared.sentences - prepared.changed, prepared.sentences))
    opened, began = engine(name, prepared.index), time.perf_counter()
    opened.add(iter(blocks))
    return {"add_s": round(time.perf_counter() - began, 2)} | _peak("add")


def _delete(name: str, prepared: Prepared) -> dict[str, Any]:
    opened, began = engine(name, prepared.index), time.perf_counter()
    if not hasattr(opened, "delete"):
        return {"delete_s": None} | _disk(prepared)
    opened.delete(0, prepared.changed)
    return {"delete_s": round(time.perf_counter() - began, 2)} | _disk(prepared)


def _disk(prepared: Prepared) -> dict[str, Any]:
    return {"disk_mb": round(sum(path.stat().st_size for path in Path(prepared.index).rglob("*")) / _MB)}


def _exact(name: str, prepared: Prepared) -> tuple[dict[str, list[list[int]]], float]:
    """The truth for all rows and for those that meet the condition, before and after the deletion."""
    vectors = np.concatenate([block for _, _, block in prepared.blocks(0, prepared.sentences)])
    queries, every = prepared.queries_of(), np.arange(prepared.sentences)
    met = every[every % _YEARS < int(_WHERE.split()[-1])]
    began = time.perf_counter()
    exact(vectors, queries[:1], _TOP_K)
    alone = round((time.perf_counter() - began) * 1e3, 1)
    truth = {
        "all, nothing deleted": every,
        "all": every[prepared.changed :],
        "filtered, nothing deleted": met,
        "filtered": met[met >= prepared.changed],
    }
    return {what: exact(vectors, queries, _TOP_K, ids)[1].tolist() for what, ids in truth.items()}, alone


def _search(name: str, prepared: Prepared) -> dict[str, Any]:
    queries = prepared.queries_of()
    before, began = _resident("RssAnon"), time.perf_counter()
    search = engine(name, prepared.index).open()
    search(queries[:1], None)
    figures: dict[str, Any] = {"open_s": round(time.perf_counter() - began, 2)}
    for what, where in (("all", None), ("filtered", _WHERE)):
        if name == "hnsw" and where:
            figures[what] = None
            continue
        results, seconds, used = [], [], time.process_time()
        for query in queries:
            began = time.perf_counter()
            results.append(search(query[None], where))
            seconds.append(time.perf_counter() - began)
        p50, p99 = np.percentile(seconds, [50, 99]) * 1e3
        figures[f"cpu_ms_{what}"] = round((time.process_time() - used) / len(queries) * 1e3, 2)
        figures |= {what: results, f"p50_ms_{what}": round(float(p50), 2), f"p99_ms_{what}": round(float(p99), 2)}
    return figures | {
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


def _table(results: dict[str, dict[str, Any]]) -> Table:
    table = Table("figure", *results, title="index")
    for name in dict.fromkeys(name for figures in results.values() for name in figures):
        table.add_row(name.replace("_", " "), *(str(figures.get(name, "")) for figures in results.values()))
    return table


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder or Hub name; default: the bundled encoder")
    parser.add_argument("--text", type=Path, default=_SHARED / "wiki.txt", help="sentences to index, one a line")
    parser.add_argument("--queries", type=Path, default=_SHARED / "other.txt", help="sentences to look for")
    parser.add_argument("--sentences", type=int, default=1_000_000, help="how many to index")
    parser.add_argument("--query-count", type=int, default=1_000)
    parser.add_argument(
        "--changed", type=int, default=1_000, help="sentences added at the end, and deleted at the start"
    )
    parser.add_argument("--dims", type=int, help="keep the first numbers of each vector only")
    parser.add_argument("--max-tokens", type=int, help="cut sentences here (tokens); default: the model's limit")
    parser.add_argument("--threads", type=int, default=1, help="threads of FAISS")
    kinds = ["diffcse", "hnsw", "lance-rq", "lance-sq", "lance-hnsw"]
    parser.add_argument("--engines", nargs="+", choices=kinds, default=["diffcse"], metavar="ENGINE", help=f"{kinds}")
    parser.add_argument("--work", type=Path, default=Path("runs/index"), help="folder for texts, vectors and the index")
    parser.add_argument("--json", type=Path, help="file for the figures")
    return parser.parse_args()


if __name__ == "__main__":
    main()
