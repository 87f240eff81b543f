"""SimCSE and DiffCSE from the bundled model, same steps, several seeds: the first experiment of LOG.md.

python experiments/seeds.py --text ../shared/text/wiki.txt --senteval ../shared/senteval -o runs/seeds

Each run is resumed where it was interrupted; finished ones are not repeated. Writes results.json: one object a run with
its settings and every STS score that the data at hand allow, fractions from 0 to 1.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from diffcse.checkpoints import load_encoder
from diffcse.config import BUNDLED, build
from diffcse.encoding import encode
from diffcse.evaluation.criterion import stsb_dev
from diffcse.evaluation.suite import evaluate, plan, select
from diffcse.files import write_whole
from diffcse.loading import resolve
from diffcse.runfolder import is_finished
from diffcse.training import train


def main() -> None:
    """Run what is missing, then print and write the table."""
    args = _arguments()
    console = Console(stderr=True)
    args.output.mkdir(parents=True, exist_ok=True)
    results = [
        {"run": f"start, {pooler}", **scores(resolve(BUNDLED), args.senteval, pooler)} for pooler in ("avg", "cls")
    ]
    for seed in range(args.seeds):
        for objective in args.objectives:
            folder = args.output / f"{objective}-{args.name}-{seed}"
            settings = {"objective": objective, "seed": seed, "max_steps": args.steps, **json.loads(args.settings)}
            config = build(preset="small", epochs=100.0, **settings)
            if not is_finished(folder):
                criterion = stsb_dev(args.senteval)
                train(
                    [args.text], folder, config, criterion=criterion, cache_dir=args.output / "cache", console=console
                )
            results.append({"run": f"{objective}, {args.name}", "seed": seed, **scores(folder, args.senteval, None)})
            write_whole(args.output / f"results-{args.name}.json", (json.dumps(results, indent=1) + "\n").encode())
    Console(width=130).print(table(results))


def scores(model: str | Path, senteval: Path, pooler: str | None) -> dict[str, float]:
    """Spearman of every STS task at hand, and STS-B dev."""
    encoder = load_encoder(str(model), pooler=pooler)
    planned = plan(senteval, select("sts"), mode="test", protocol="all")
    found = evaluate(lambda sentences: encode(encoder, sentences).vectors, planned, model=str(model))["tasks"]
    out = {name: task["spearman"] for name, task in found.items() if task.get("spearman") is not None}
    for name, task in found.items():
        if "dev" in task:
            out[f"{name} dev"] = task["dev"]["spearman"]
    return out


def table(results: list[dict[str, Any]]) -> Table:
    """Mean and sample standard deviation over seeds, x100."""
    names = [name for name in results[0] if name not in ("run", "seed")]
    shown = Table(title="Spearman x100: mean (standard deviation over seeds)")
    for column in ("run", "seeds", *names):
        shown.add_column(column)
    for run in dict.fromkeys(result["run"] for result in results):
        of_run = [result for result in results if result["run"] == run]
        cells = []
        for name in names:
            values = [100 * result[name] for result in of_run]
            spread = f" ({statistics.stdev(values):.2f})" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.2f}{spread}")
        shown.add_row(run, str(len(of_run)), *cells)
    return shown


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--senteval", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/seeds"))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--objectives", nargs="+", default=["simcse", "diffcse"])
    parser.add_argument("--name", default="small", help="name of this setting in files and tables")
    parser.add_argument("--settings", default="{}", help="JSON object of settings that differ from preset small")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
