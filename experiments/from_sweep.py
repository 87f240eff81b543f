"""A sweep's scores as a results file for experiments/tables.py.

python experiments/from_sweep.py runs/signs signs      # writes experiments/results/results-signs.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from diffcse.files import write_atomic
from diffcse.sweeps.report import describe
from diffcse.sweeps.results import Results


def main(folder: Path, name: str) -> None:
    """One object a finished run: what it differs in, its seed, and every score, fractions from 0 to 1."""
    rows: list[dict[str, Any]] = []
    for result in Results(folder / "results.sqlite").all():
        if result.scores is not None:
            varied = {key: value for key, value in result.settings.items() if key != "seed"}
            scores = {key: score for key, score in result.scores.items() if key != "train loss"}
            row = {"run": describe(varied), "seed": result.settings["seed"], **scores}
            if row not in rows:  # the same run made twice, by two versions of the package
                rows.append(row)
    target = Path(__file__).parent / "results" / f"results-{name}.json"
    write_atomic(target, (json.dumps(rows, indent=1) + "\n").encode())


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
