"""Tables and packed files in every format that the readers take."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from diffcse.text.opening import suffix_of

PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": lambda content: gzip.compress(content, mtime=0),
    ".bz2": bz2.compress,
    ".xz": lambda content: lzma.compress(content, preset=0),
    ".zst": zstandard.compress,
}


def write_table(path: Path, columns: Mapping[str, Sequence[Any]]) -> Path:
    """The table in the format that the path's name asks for, packed if it says so."""
    kind, rows, out = suffix_of(path), list(zip(*columns.values(), strict=True)), io.StringIO(newline="")
    records = [dict(zip(columns, row, strict=True)) for row in rows]
    if kind == ".jsonl":
        out.writelines(json.dumps(record) + "\n" for record in records)
    elif kind == ".json":
        json.dump({"data": records}, out)
    else:
        csv.writer(out, delimiter="\t" if kind == ".tsv" else ",").writerows([list(columns), *rows])
    content = out.getvalue().encode()
    if kind == ".parquet":
        pq.write_table(pa.table(dict(columns)), buffer := io.BytesIO())
        content = buffer.getvalue()
    path.write_bytes(PACKINGS[path.suffix if path.suffix in PACKINGS else ""](content))
    return path
