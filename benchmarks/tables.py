"""The tables of docs/performance.md from the files in benchmarks/results.

python benchmarks/tables.py            # writes them into the document
python benchmarks/tables.py --check    # exit code 1 if the document holds anything else

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; NAME is a results file without its ending, a list of
objects, each of which becomes a row.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from diffcse.files import write_atomic

HERE = Path(__file__).parent
DOCUMENT = HERE.parent / "docs" / "performance.md"

Columns = tuple[tuple[str, str, str], ...]
"""A heading, the key of a row, and how its value is written."""

_BACKENDS: Columns = (
    ("backend", "backend", ""),
    ("numbers", "precision", ""),
    ("sentences/s", "sentences_per_second", ",.0f"),
    ("of sentence-transformers' torch", "ratio_to_torch", ".2f"),
    ("largest difference", "max_abs_difference", ".1g"),
)
TABLES: dict[str, Columns] = {
    "encode": _BACKENDS,
    "encode_minilm": _BACKENDS,
    "encode_one": (
        ("model", "model", ""),
        ("one sentence a call by", "caller", ""),
        ("median ms", "median_ms", ".2f"),
        ("fastest ms", "fastest_ms", ".2f"),
        ("sentence-transformers' time / this one", "ratio", ".2f"),
    ),
    "models": (
        ("model", "model", ""),
        ("numbers", "dims", ""),
        ("MB", "megabytes", ".0f"),
        ("sentences/s", "sentences_per_second", ",.0f"),
        ("STS12", "STS12", ".2f"),
        ("STS13", "STS13", ".2f"),
        ("STS-B", "STSBenchmark", ".2f"),
        ("average", "average", ".2f"),
    ),
    "vector_sizes": (
        ("model", "model", ""),
        ("stored as", "form", ""),
        ("numbers", "dims", ""),
        ("bytes scanned", "bytes_scanned", ",d"),
        ("bytes stored", "bytes_stored", ",d"),
        ("documentation: recall@10", "documentation_recall_at_10", ".3f"),
        ("nDCG@10", "documentation_ndcg_at_10", ".3f"),
        ("Cranfield: recall@10", "judged_recall_at_10", ".3f"),
        ("nDCG@10", "judged_ndcg_at_10", ".3f"),
    ),
}
"""The columns of each results file."""


def main() -> int:
    """Write the tables, or check them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    before = DOCUMENT.read_text(encoding="utf-8")
    after = filled(before)
    if parser.parse_args().check:
        return int(before != after)
    write_atomic(DOCUMENT, after.encode())
    return 0


def filled(document: str) -> str:
    """The document with every table made anew."""
    return re.sub(
        r"<!-- table: (\w+) -->\n.*?<!-- end -->",
        lambda match: f"<!-- table: {match[1]} -->\n{table(match[1])}\n<!-- end -->",
        document,
        flags=re.DOTALL,
    )


def table(name: str) -> str:
    """The Markdown table of a results file."""
    columns = TABLES[name]
    lines = [f"| {' | '.join(heading for heading, _, _ in columns)} |", "|" + "---|" * len(columns)]
    for row in json.loads((HERE / "results" / f"{name}.json").read_text(encoding="utf-8")):
        lines.append(f"| {' | '.join(format(row[key], form) for _, key, form in columns)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
