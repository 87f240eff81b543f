"""Do the figures without labels order models as judged queries do? Rank correlation on judged collections.

    python experiments/order.py COLLECTION ... --models bundled minilm FOLDER ... --json experiments/results/order.json

For each collection in BEIR's layout: MRR of `diffcse adapt`'s two kinds of questions on documents that report (split by
seed 0, as `adapt` does), and nDCG@10 of the judged queries, for every model; then Spearman's correlation over models.
Models that were adapted to another collection are models too. A model's figures are kept in the JSON file, so that the
same command resumes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from scipy.stats import spearmanr

from diffcse.adaptation.blend import Remembering
from diffcse.adaptation.parts import split
from diffcse.adaptation.questions import KINDS, questions
from diffcse.adaptation.settings import AdaptSettings
from diffcse.encoding.encode import Encoder, EncodeSettings
from diffcse.evaluation.beir import read_beir
from diffcse.evaluation.retrieval import score
from diffcse.files import json_bytes, write_atomic
from diffcse.persistence.load import load_encoder
from diffcse.text.documents import read_documents

SETTINGS = AdaptSettings()


def main() -> None:
    """Measure what is missing, then print and keep the correlations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collections", nargs="+", type=Path)
    parser.add_argument("--models", nargs="+", default=["bundled", "minilm"])
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    results = json.loads(options.json.read_text(encoding="utf-8")) if options.json.is_file() else {}
    for folder in options.collections:
        rows: dict[str, Any] = results.setdefault(folder.name, {}).setdefault("models", {})
        missing = [name for name in options.models if Path(name).name not in rows]
        for name, row in measured(folder, missing):
            rows[name] = row
            print(folder.name, name, row, flush=True)  # noqa: T201
            write_atomic(options.json, json_bytes(results))
        results[folder.name]["spearman"] = correlations(list(rows.values()))
        print(folder.name, results[folder.name]["spearman"], flush=True)  # noqa: T201
    write_atomic(options.json, json_bytes(results))


def measured(folder: Path, models: list[str]) -> Any:
    """Figures (0 to 1) of each model by its name, one after the other."""
    if not models:
        return
    parts = split(read_documents([folder / "corpus.jsonl"]).dataset, SETTINGS)
    tasks, judged = questions(parts.reporting, SETTINGS.seed), read_beir(folder)
    for name in models:
        model = load_encoder(name)
        limit = min(SETTINGS.read_tokens, model.max_seq_length or SETTINGS.read_tokens)
        memory = Remembering(Encoder(model, settings=EncodeSettings(max_tokens=limit)))
        row = {kind: score(task, memory).mrr for kind, task in tasks.items()}
        row["ndcg_at_10"] = score(judged, memory).ndcg_at_10
        yield Path(name).name, row


def correlations(rows: list[dict[str, float]]) -> dict[str, float]:
    """Spearman's correlation of nDCG@10 with each kind of question, and with the mean of both."""
    judged = [row["ndcg_at_10"] for row in rows]
    means = {kind: [row[kind] for row in rows] for kind in KINDS}
    means["mean"] = [sum(row[kind] for kind in KINDS) / len(KINDS) for row in rows]
    return {name: float(spearmanr(values, judged).statistic) for name, values in means.items()} | {"count": len(rows)}


if __name__ == "__main__":
    main()
