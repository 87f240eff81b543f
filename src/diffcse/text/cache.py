"""Memory-mapped Arrow tables, each written once into a folder named after everything that its content depends on.

Rows are written batch by batch, so that memory does not grow with the input, and a folder is made under another name
and renamed, so that it is complete or absent.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import datasets
import pyarrow as pa
from datasets.table import MemoryMappedTable
from filelock import FileLock

from diffcse.errors import UserError
from diffcse.files import digest, file_digest, replace_folder

_CHECK, _DATA = "sha256", "data_sha256"
_VERSION = 1  # of what is written here; a new number makes old cache entries unused
_ROWS = 10_000
_CHARACTERS = 2**20

Entry = tuple[datasets.Dataset, dict[str, Any]]
_Row = TypeVar("_Row")


def cached(cache_dir: str | Path | None, key: list[Any], write: Callable[[Path], dict[str, Any]]) -> Entry:
    """The dataset that is stored under `key`, with its facts.

    Args:
        cache_dir: folder of the cache; `diffcse` in the cache of `datasets` unless given.
        key: a kind, such as "text", and then everything that the content depends on.
        write: writes `data.arrow` into the folder that it gets and returns facts to store with it, with its `rows`.

    Raises:
        UserError: the cache cannot be written to.
    """
    name = digest([_VERSION, *key])[:32]
    folder = Path(cache_dir or Path(datasets.config.HF_DATASETS_CACHE) / "diffcse") / f"{key[0]}-{name}"
    entry = _load(folder, name)
    if entry is None:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{folder}.lock"):  # not `exclusive`: whoever needs the same waits for it
                entry = _load(folder, name) or _make(folder, name, write)
        except OSError as error:
            do = "free disk space or name another cache folder"
            raise UserError(f"the cache {folder.parent}", "a folder that can be written to", error, do) from error
    return entry


def write_arrow(path: Path, schema: pa.Schema, batches: Iterable[list[Any]]) -> None:
    """Write batches, each a list of columns, as an Arrow stream."""
    with path.open("wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for columns in batches:
            writer.write_batch(pa.record_batch(columns, schema=schema))


def batches(
    rows: Iterable[_Row], size: Callable[[_Row], int], *, most: int = _ROWS, characters: int = _CHARACTERS
) -> Iterator[list[_Row]]:
    """Consecutive groups of rows, bounded in number and in characters; `size` counts a row's characters."""
    batch: list[_Row] = []
    read = 0
    for row in rows:
        batch.append(row)
        read += size(row)
        if len(batch) == most or read >= characters:
            yield batch
            batch, read = [], 0
    if batch:
        yield batch


def _make(folder: Path, name: str, write: Callable[[Path], dict[str, Any]]) -> Entry:
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # what a killed process left; we hold the lock
    part.mkdir()
    try:
        facts = write(part)
        facts = {**facts, _DATA: file_digest(part / "data.arrow")}
        (part / "facts.json").write_text(json.dumps({**facts, _CHECK: digest(facts)}), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)  # damaged, or it would have been loaded
        replace_folder(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    entry = _load(folder, name)
    assert entry is not None, "what was just written can be read"
    return entry


def _load(folder: Path, name: str) -> Entry | None:
    try:
        facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
        if facts.pop(_CHECK, None) not in (None, digest(facts)):  # an older version noted none
            return None
        # Arrow trusts its files: a damaged offset ends the process, a damaged id reads another row of the table.
        if facts.pop(_DATA, None) not in (None, file_digest(folder / "data.arrow")):
            return None
        table = MemoryMappedTable.from_file(str(folder / "data.arrow"))
    except (OSError, ValueError, TypeError, AttributeError):  # absent or damaged
        return None
    return (datasets.Dataset(table, fingerprint=name), facts) if len(table) == facts.get("rows") else None
