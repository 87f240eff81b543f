"""Bulk encoding on Ray Data: as many workers as a cluster has, and the rows and vectors of one machine.

The text is cut into the very chunks that one machine would encode, each a small Parquet file in a folder beside the
output. A chunk's vectors depend on its sentences alone, so it does not matter which worker encodes it, nor how often:
its part is written beside and then renamed, and a part that is there is never made again. So a worker that is killed
loses and doubles nothing, and a run that is killed goes on with the parts it has. The output is a folder of Parquet
parts, in the order of the text by their names, and appears at the end, whole.

All machines must see the output's folder and the model under the same names.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from sentence_transformers import SentenceTransformer

from diffcse.encoding.bulk import BulkSettings, Counts, Progress, begin, exclusive, saying_what_to_do
from diffcse.encoding.encode import chunks, encode
from diffcse.encoding.sinks import ParquetSink
from diffcse.errors import MissingExtra, UserError
from diffcse.files import write_atomic
from diffcse.persistence.load import fingerprint, load_encoder
from diffcse.text.stream import STDIN, Texts, open_texts, repaired

_CUT, _PARTS, _TEXT_NOTE, _COUNTS = "text", "parts", "text.json", b"diffcse"


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where the work is done."""

    address: str | None = None
    """Of a running cluster (`auto`, HOST:PORT or ray://HOST:PORT); None starts one on this machine for the run."""
    workers: int | None = None
    """Most processes that encode at once; None: one for each processor core, or each GPU where there are any."""

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise UserError("workers", "at least 1", self.workers, "leave it out for one a core")


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a worker needs to know.

    Attributes:
        model: folder or Hub name, None for the bundled one.
        fingerprint: of the model that the driver loaded.
        trust_remote_code: run code that comes with the model.
        work: folder of the run.
        settings: as for `diffcse.encoding.bulk.encode_file`.
    """

    model: str | None
    fingerprint: str
    trust_remote_code: bool
    work: str
    settings: BulkSettings


class Worker:
    """An actor of Ray Data: loads the model once, then encodes one chunk after the other.

    Args:
        job: what to do.
        device: where to compute.
    """

    def __init__(self, job: Job, device: str) -> None:
        self.job, self.device, self.work = job, device, Path(job.work)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Make sure that the part of a chunk is there; gives its number of rows."""
        number = int(row["chunk"])
        part = self.work / _PARTS / _name(number)
        try:
            if not part.exists():
                self._encode(number, part)
        except UserError as error:  # as data, because Ray gives back the text of an error and not the error
            fault = json.dumps([error.what, error.rule, str(error.got), error.do])
            return {"chunk": number, "rows": 0, "fault": fault}
        return {"chunk": number, "rows": _counts(part).rows, "fault": ""}

    @cached_property
    def model(self) -> SentenceTransformer:
        """Loaded with the first chunk, so that what is wrong with it comes back as that chunk's fault."""
        if self.device == "cpu":
            torch.set_num_threads(1)  # one worker a core
        model = load_encoder(self.job.model, trust_remote_code=self.job.trust_remote_code).to(self.device)
        if fingerprint(model) != self.job.fingerprint:
            do = "give a name under which every machine has the same model"
            raise UserError(f"model {self.job.model}", "the same on all machines", "another one on a worker", do)
        return model

    def _encode(self, number: int, part: Path) -> None:
        raw = [_unpacked(cell) for cell in pq.read_table(self.work / _CUT / _name(number))["text"].to_pylist()]
        texts = [repaired(text) for text in raw]
        encoded = encode(self.model, texts, self.job.settings.encoding)
        counts = Counts(
            rows=len(texts),
            truncated=encoded.truncated,
            unknown=int(encoded.unknown.sum()),
            blank=sum(not text.strip() for text in texts),
            repaired=sum(text != before for text, before in zip(texts, raw, strict=True)),
        )
        schema = ParquetSink(self.work, encoded.vectors.shape[1], self.job.settings.dtype)
        table = schema.table(texts, encoded.vectors)
        table = table.replace_schema_metadata({_COUNTS: json.dumps(dataclasses.asdict(counts))})
        _write(table, self.work, part)


def encode_on_ray(
    given: str,
    output: Path,
    model: str | None,
    settings: BulkSettings,
    *,
    cluster: Cluster = Cluster(),
    column: str | None = None,
    trust_remote_code: bool = False,
    on_progress: Progress = lambda done, total: None,
) -> Counts:
    """Write the vector of every line of `given` to a folder of Parquet parts; the same call goes on after a kill.

    Args:
        given: as for `diffcse.text.stream.open_texts`.
        output: a new folder, on a disk that all machines see under this name.
        model: folder or Hub name, the same on all machines; None for the bundled one.
        settings: as for `diffcse.encoding.bulk.encode_file`.
        cluster: where.
        column: the text column of a table.
        trust_remote_code: run code that comes with the model.
        on_progress: told the rows done.

    Raises:
        UserError: bad input or output, no cluster at that address, or another model or text than the killed run's.
        MissingExtra: Ray is not installed.
    """
    ray = _ray()
    work = output.absolute().with_name(f"{output.name}.part")
    if output.is_dir() and (work / _TEXT_NOTE).is_file() and not (work / _PARTS).exists():
        shutil.rmtree(work)  # killed between the last two steps of a run
        return _sum([_counts(part) for part in sorted(output.glob("part-*.parquet"))])
    _check_output(output)
    loaded = load_encoder(model, trust_remote_code=trust_remote_code)
    job = Job(
        model=str(Path(model).absolute()) if model and Path(model).is_dir() else model,
        fingerprint=fingerprint(loaded),
        trust_remote_code=trust_remote_code,
        work=str(work),
        settings=settings,
    )
    with exclusive(work):
        begin(work, {"model": job.fingerprint, "file": "parts"}, settings)
        rows = _cut(open_texts(given, column=column), work, settings)
        with _connected(ray, cluster.address):
            _encode_missing(ray, job, rows, cluster.workers, on_progress)
        counts = _sum([_counts(work / _PARTS / _name(number)) for number in range(len(rows))])
        with saying_what_to_do(work, counts.rows):
            (work / _PARTS).replace(output)
    shutil.rmtree(work)
    return counts


def _cut(texts: Texts, work: Path, settings: BulkSettings) -> list[int]:
    """The text in chunks, one file each; gives the rows of each. Done once; a killed run begins again with it."""
    identity = [list(source.identity) for source in texts.sources] if texts.name != STDIN else [STDIN]
    note = work / _TEXT_NOTE
    if note.is_file():
        found = json.loads(note.read_text(encoding="utf-8"))
        if found["identity"] != json.loads(json.dumps(identity)):
            do = f"bring the text back, or remove {work} to start again"
            raise UserError(texts.name, "the text that the interrupted run read", "another", do)
        return found["rows"]
    shutil.rmtree(work / _PARTS, ignore_errors=True)  # of a text that was not cut to its end
    rows = []
    with saying_what_to_do(work, 0):
        for folder in (_CUT, _PARTS):
            (work / folder).mkdir(exist_ok=True)
        for number, group in enumerate(chunks(texts, settings.encoding)):
            # Bytes that are not UTF-8 stay as they are until a worker repairs and counts them.
            cells = [text.encode("utf-8", "surrogatepass") for text in group]
            _write(pa.table({"text": pa.array(cells, pa.binary())}), work, work / _CUT / _name(number))
            rows.append(len(group))
        if not rows:
            raise UserError(texts.name, "a text with at least one line", "an empty file", "give another file")
        write_atomic(note, json.dumps({"identity": identity, "rows": rows}).encode())
    return rows


def _encode_missing(ray: Any, job: Job, rows: list[int], workers: int | None, on_progress: Progress) -> None:
    missing = [n for n in range(len(rows)) if not (Path(job.work) / _PARTS / _name(n)).exists()]
    done, total = sum(rows) - sum(rows[number] for number in missing), sum(rows)
    on_progress(done, total)
    if not missing:
        return
    gpus = int(ray.cluster_resources().get("GPU", 0))
    most = min(workers or gpus or int(ray.cluster_resources()["CPU"]), len(missing))
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars, context.verbose_stats_logs = False, False
    work = ray.data.from_items([{"chunk": number} for number in missing], override_num_blocks=len(missing))
    work = work.map(
        Worker,
        fn_constructor_args=(job, "cuda" if gpus else "cpu"),
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most),
        num_cpus=0 if gpus else 1,
        num_gpus=1 if gpus else 0,
    )
    for row in work.iter_rows():
        if row["fault"]:
            raise UserError(*json.loads(row["fault"]))
        done += int(row["rows"])
        on_progress(done, total)


def _ray() -> Any:
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        if error.name not in ("ray", "ray.data"):
            raise
        raise MissingExtra("Ray", "ray", "ray") from error
    return ray


@contextmanager
def _connected(ray: Any, address: str | None) -> Iterator[None]:
    """Use the cluster that the program is connected to already, or connect for the length of the run."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(address=address or "local", include_dashboard=None if address else False, log_to_driver=False)
    except (ConnectionError, ValueError) as error:
        do = "start one (ray start --head), or leave --address out"
        raise UserError(f"address {address}", "that of a running Ray cluster", str(error), do) from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_output(output: Path) -> None:
    if output.suffix not in ("", ".parquet"):
        raise UserError(f"output {output}", "a folder for Parquet parts", output.suffix, "leave the ending out")
    if not output.parent.is_dir():
        raise UserError(f"output {output}", "in an existing folder", f"no folder {output.parent}", "make the folder")
    if output.exists():
        raise UserError(f"output {output}", "a new folder", "something that exists", "choose another name")


def _name(number: int) -> str:
    return f"part-{number:09d}.parquet"


def _write(table: pa.Table, work: Path, path: Path) -> None:
    """Beside first, under a name of this machine and process, then renamed: the file is there whole or not at all."""
    beside = work / f".{path.parent.name}-{path.name}.{platform.node()}.{os.getpid()}"
    with beside.open("wb") as file:
        pq.write_table(table, file, use_dictionary=False)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def _unpacked(cell: bytes) -> str:
    return cell.decode("utf-8", "surrogatepass")


def _counts(part: Path) -> Counts:
    return Counts(**json.loads(pq.read_schema(part).metadata[_COUNTS]))


def _sum(counts: list[Counts]) -> Counts:
    names = ("rows", "truncated", "blank", "unknown", "repaired")
    return Counts(**{name: sum(getattr(one, name) for one in counts) for name in names})
