"""SimCSE and DiffCSE from the same start, same steps, several seeds: the experiments of docs/experiments.md.

python experiments/seeds.py --text ../shared/text/wiki.txt --senteval ../shared/senteval --encoder runs/start \
    --seeds 5 --name cooccur -o runs/seeds

Each run is resumed where it was interrupted; finished ones are not repeated. Writes results-NAME.json: an object a run
with its settings and every STS score that the data at hand allow, fractions from 0 to 1; experiments/tables.py makes
the tables from such files.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from diffcse.config import BUNDLED, build
from diffcse.encoding.encode import encode
from diffcse.evaluation.criterion import stsb_dev
from diffcse.evaluation.suite import evaluate, plan, select
from diffcse.files import write_atomic
from diffcse.persistence.hub import locate
from diffcse.persistence.load import load_encoder
from diffcse.training.run_folder import is_finished
from diffcse.training.train import train


def main() -> None:
    """Run what is missing, then print and write the table."""
    args = _arguments()
    console = Console(stderr=True)
    args.output.mkdir(parents=True, exist_ok=True)
    start = str(locate(args.encoder))
    results = [{"run": f"start, {pooler}", **scores(start, args.senteval, pooler)} for pooler in args.start_poolers]
    for seed in range(args.seeds):
        for objective in args.objectives:
            folder = args.output / f"{objective}-{args.name}-{seed}"
            settings = {"objective": objective, "seed": seed, "encoder": args.encoder, **json.loads(args.settings)}
            if args.steps:
                settings["max_steps"] = args.steps
            config = build(preset="small", **{"epochs": 100.0, **settings})
            if not is_finished(folder):
                criterion = stsb_dev(args.senteval)
                train(
                    [args.text], folder, config, criterion=criterion, cache_dir=args.output / "cache", console=console
                )
            used = config.as_dict()
            used["model"]["encoder"] = Path(args.encoder).name  # a results file names no place on a disk
            row = {"run": f"{objective}, {args.name}", "seed": seed, "settings": used}
            results.append({**row, **scores(folder, args.senteval, None)})
            write_atomic(args.output / f"results-{args.name}.json", (json.dumps(results, indent=1) + "\n").encode())
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
    names = [name for name in results[0] if name not in ("run", "seed", "settings")]
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
    parser.add_argument("--encoder", default=BUNDLED, help="start: a folder, a Hub name or bundled")
    parser.add_argument("--start-poolers", nargs="+", default=["avg"], help="poolers to measure the start with")
    parser.add_argument("--steps", type=int, default=0, help="0: what preset small says")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--objectives", nargs="+", default=["simcse", "diffcse"])
    parser.add_argument("--name", default="small", help="name of this setting in files and tables")
    parser.add_argument("--settings", default="{}", help="JSON object of settings that differ from preset small")
    return parser.parse_args()


if __name__ == "__main__":
    main()
