"""The tables of docs/experiments.md from the files in experiments/results.

python experiments/tables.py            # writes them into the document
python experiments/tables.py --check    # exit code 1 if the document holds anything else

A table stands between `<!-- table: FILE ... -->` and `<!-- end -->`; each FILE is a results file without its ending.
The table of `diffcse adapt` stands after `<!-- adapted -->`; its rows are the files of results/adapt. That of what the
discriminator reads stands after `<!-- reading: FILE -->`; its file is what `experiments/reading.py` writes.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from diffcse.evaluation.statistics import bootstrap
from diffcse.files import write_atomic

HERE = Path(__file__).parent
DOCUMENT = HERE.parent / "docs" / "experiments.md"
TASKS = {
    "STS12": "STS12",
    "STS13": "STS13",
    "STS14": "STS14",
    "STS15": "STS15",
    "STS16": "STS16",
    "STSBenchmark": "STS-B",
    "SICKRelatedness": "SICK-R",
}
DEV = {"STSBenchmark dev": "STS-B dev", "SICKRelatedness dev": "SICK trial"}


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

    def one(match: re.Match[str]) -> str:
        results: list[dict[str, Any]] = []
        for name in match[1].split():
            results += [row for row in rows_of(name) if row not in results]  # the start stands in every file
        return f"<!-- table: {match[1]} -->\n{table(results)}\n<!-- end -->"

    document = re.sub(r"<!-- table: (.+?) -->\n.*?<!-- end -->", one, document, flags=re.DOTALL)
    document = re.sub(
        r"<!-- reading: (.+?) -->\n.*?<!-- end -->",
        lambda match: f"<!-- reading: {match[1]} -->\n{reading_table(match[1])}\n<!-- end -->",
        document,
        flags=re.DOTALL,
    )
    adapted = f"<!-- adapted -->\n{adapted_table()}\n<!-- end -->"
    return re.sub(r"<!-- adapted -->\n.*?<!-- end -->", lambda _: adapted, document, flags=re.DOTALL)


def adapted_table() -> str:
    """Every file of results/adapt, each an `adapt.json`: figures without labels and of judged queries, x 100."""
    lines = [
        "| documents | start | objective | seed | MRR, start | adapted minus start | kept | nDCG@10, start "
        "| adapted minus start | BM25 |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for path in sorted((HERE / "results" / "adapt").glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        start, adapted = (content["reporting"][name] for name in ("start", "adapted"))
        judged = {row["system"]: row for row in content["judged"]}
        figures = [_percent(start["sentence"]["mrr"]), _with_interval(adapted["against_start"]["sentence"])]
        kept = form(content) if content["kept"] == "adapted" else "the start"
        ndcg = [_percent(judged["start"]["ndcg_at_10"]), _with_interval(judged["adapted"]["against_first"])]
        settings = content["settings"]
        run = [judged["start"]["collection"], settings["encoder"], settings["objective"], str(settings["seed"])]
        cells = [*run, *figures, kept, *ndcg]
        lines.append(f"| {' | '.join([*cells, _percent(judged['BM25']['ndcg_at_10'])])} |")
    return "\n".join(lines)


def form(content: dict[str, Any]) -> str:
    """What was kept: the share of the trained weights, and the lexical map.

    Args:
        content: an `adapt.json`.
    """
    parts = [f"{content['share']:.1%}"] if content["share"] else []
    return " + ".join([*parts, *(["map"] if content.get("mapped") else [])])


def reading_table(name: str) -> str:
    """A row a run: its space, and what its discriminator does with each vector (nats a token, shares in percent)."""
    judged_by = ("loss with its own vector", "another's", "zeros", "found with its own", "another's")
    lines = [f"| run | alignment | uniformity | {' | '.join(judged_by)} |", "|---" * 8 + "|"]
    for row in rows_of(name):
        judged = row.get("discriminator", {})
        losses = [f"{judged[vector]['loss']:.4f}" if judged else "" for vector in ("own", "another's", "zeros")]
        found = [_percent(judged[vector]["found"]) if judged else "" for vector in ("own", "another's")]
        space = [f"{row['alignment']:.5f}", f"{row['uniformity']:.4f}"]
        lines.append(f"| {' | '.join([row['run'], *space, *losses, *found])} |")
    return "\n".join(lines)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _with_interval(of: dict[str, float]) -> str:
    return f"{100 * of['difference']:+.1f} [{100 * of['low']:+.1f}, {100 * of['high']:+.1f}]"


def rows_of(name: str) -> list[dict[str, Any]]:
    """The rows of a results file: a list of them, or what `diffcse sweep report --json` writes."""
    content = json.loads((HERE / "results" / f"{name}.json").read_text(encoding="utf-8"))
    rows: list[dict[str, Any]] = content["runs"] if isinstance(content, dict) else content
    return rows


def table(results: list[dict[str, Any]]) -> str:
    """Mean (standard deviation over seeds) of Spearman x100 for each run, and the difference between the objectives.

    Args:
        results: one object a run, with `run`, `seed` and scores as fractions from 0 to 1.
    """
    tests = {key: shown for key, shown in TASKS.items() if all(key in row for row in results)}
    dev = {key: shown for key, shown in DEV.items() if all(key in row for row in results)}
    rows = [{**row, "average": statistics.mean(row[key] for key in tests)} for row in results]
    columns = {**tests, "average": "average", **dev}
    lines = [f"| | seeds | {' | '.join(columns.values())} |", "|---|---|" + "---|" * len(columns)]
    for run in dict.fromkeys(row["run"] for row in rows):
        of_run = [row for row in rows if row["run"] == run]
        cells = [_mean([100 * row[key] for row in of_run]) for key in columns]
        lines.append(f"| {run} | {len(of_run)} | {' | '.join(cells)} |")
    paired = _paired(rows)
    if len(paired) > 2:  # two differences give no interval worth the name
        cells = [_interval([100 * (b[key] - a[key]) for a, b in paired]) for key in columns]
        lines.append(f"| DiffCSE minus SimCSE, 95% interval | {len(paired)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _mean(values: list[float]) -> str:
    spread = f" ({statistics.stdev(values):.2f})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


def _paired(rows: list[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Rows of the same seed, SimCSE's first; of each objective the setting that was run with most seeds."""
    simcse, diffcse = (_most_seeds([row for row in rows if name in row["run"]]) for name in ("simcse", "diffcse"))
    return [(simcse[seed], diffcse[seed]) for seed in sorted(simcse.keys() & diffcse.keys())]


def _most_seeds(rows: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    counts = Counter(row["run"] for row in rows)
    return {row["seed"]: row for row in rows if row["run"] == counts.most_common(1)[0][0]}


def _interval(differences: list[float]) -> str:
    """Mean difference over seeds with its 95% interval."""
    found = bootstrap(differences, seed=0)
    return f"{found.mean:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"


if __name__ == "__main__":
    sys.exit(main())
