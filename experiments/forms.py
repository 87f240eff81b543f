"""What every form of an adapted model is worth: shares of the trained weights, without and with the lexical map.

    python experiments/forms.py COLLECTION ... --encoder minilm --seed 0 --runs runs/forms --json runs/forms/forms.json

For each collection in BEIR's layout: train as `diffcse adapt` does, then measure every share of the trained weights,
each without and with a lexical map of each weight, on the documents that choose, on those that report, and on the
judged queries. `adapt` measures fewer of them, and keeps one; here the judged figures say what the others would have
been worth. The JSON file has one object for each collection, encoder, objective and seed, and the same command resumes.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from diffcse.adaptation.adapt import train_config, usual_rate
from diffcse.adaptation.blend import START, Blends, Form, Remembering, agreement, copied
from diffcse.adaptation.lexical_map import drawn, fit
from diffcse.adaptation.parts import split
from diffcse.adaptation.questions import SENTENCE, questions
from diffcse.adaptation.settings import AdaptSettings, usual_steps
from diffcse.encoding.encode import Encoder, EncodeSettings
from diffcse.evaluation.beir import read_beir
from diffcse.evaluation.retrieval import RetrievalScores, score
from diffcse.evaluation.statistics import paired
from diffcse.files import json_bytes, write_atomic
from diffcse.persistence.load import load_encoder
from diffcse.text.documents import read_documents
from diffcse.training.run_folder import is_finished
from diffcse.training.train import train

JUDGED = "judged"


@dataclass(frozen=True)
class Mapped:
    """Vectors of an encoder, each multiplied by a matrix (H, H)."""

    inner: Remembering
    matrix: NDArray[np.float32]

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        """Vectors (N, H)."""
        return self.encode_document(texts)

    def encode_query(self, texts: list[str]) -> NDArray[np.float32]:
        """Vectors (N, H), with the model's prompt for queries."""
        return self.inner.encode_query(texts) @ self.matrix.T

    def encode_document(self, texts: list[str]) -> NDArray[np.float32]:
        """Vectors (N, H), with the model's prompt for documents."""
        return self.inner.encode_document(texts) @ self.matrix.T


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collections", nargs="+", type=Path)
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--objective", default="simcse", choices=["simcse", "diffcse"])
    parser.add_argument("--generator", default="bundled")
    parser.add_argument("--lambda-weight", type=float, default=0.005)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.0, 0.25, 0.5])
    parser.add_argument("--lexical-shares", type=float, nargs="+", default=[0.1])
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    settings = AdaptSettings(
        encoder=options.encoder,
        objective=options.objective,
        generator=options.generator,
        lambda_weight=options.lambda_weight,
        seed=options.seed,
    )
    for folder in options.collections:
        results = json.loads(options.json.read_text(encoding="utf-8")) if options.json.is_file() else {}
        name = "-".join(
            [
                folder.name,
                Path(options.encoder).name,
                options.objective + (f"{options.lambda_weight:g}" if options.objective == "diffcse" else ""),
                str(options.seed),
            ]
        )
        if name not in results:
            rows = measured(folder, settings, options.runs / name, options.shares, options.lexical_shares)
            results = json.loads(options.json.read_text(encoding="utf-8")) if options.json.is_file() else {}
            write_atomic(options.json, json_bytes(results | {name: rows}))


def measured(
    folder: Path, settings: AdaptSettings, run: Path, shares: list[float], lexical: list[float]
) -> list[dict[str, Any]]:
    """A row for each form, the start first."""
    start = load_encoder(settings.encoder)
    parts = split(read_documents([folder / "corpus.jsonl"]).dataset, settings)
    steps = settings.steps or usual_steps(len(parts.training), settings.batch_size)
    settings = replace(settings, learning_rate=settings.learning_rate or usual_rate(start), steps=steps)
    if not is_finished(run):
        train(parts.training, run, train_config(settings, parts))
    limit = min(settings.read_tokens, start.max_seq_length or settings.read_tokens)
    blends = Blends(Encoder(start, settings=EncodeSettings(max_tokens=limit)), copied(load_encoder(run)))
    tasks = {
        "choosing": questions(parts.choosing, settings.seed),
        "reporting": questions(parts.reporting, settings.seed),
        JUDGED: {JUDGED: read_beir(folder)},
    }
    first: dict[str, dict[str, RetrievalScores]] = {}
    rows = []
    for share in shares:
        blends.set(Form(share))
        memory = Remembering(blends.encoder)
        encoders: dict[float, Any] = {0.0: memory}
        for weight in lexical:
            matrix = fit(
                cast(Encoder, memory),
                drawn(parts.corpus, settings.seed),
                share=weight,
                temperature=settings.temperature,
                seed=settings.seed,
            )
            encoders[weight] = Mapped(memory, matrix.numpy())
        for weight, encoder in encoders.items():
            scores = {
                part: {kind: score(task, encoder) for kind, task in kinds.items()} for part, kinds in tasks.items()
            }
            first = first or scores
            if Form(share) == START and not weight:
                base = memory
            row: dict[str, Any] = {"share": share, "lexical": weight}
            row["agreement"] = agreement(base, encoder, tasks["choosing"][SENTENCE].documents)
            for part, kinds in scores.items():
                row[part] = {kind: figures(value, first[part][kind]) for kind, value in kinds.items()}
            rows.append(row)
            print(run.name, share, weight, round(row["agreement"], 3), words(row), flush=True)  # noqa: T201
    return rows


def figures(scores: RetrievalScores, start: RetrievalScores) -> dict[str, Any]:
    """MRR and nDCG@10 (0 to 1), and the paired difference of each from the start."""
    row: dict[str, Any] = {}
    for name in ("mrr", "ndcg_at_10"):
        row[name] = getattr(scores, name)
        row[f"{name} against start"] = asdict(paired(scores.per_query[name], start.per_query[name]))
    return row


def words(row: dict[str, Any]) -> str:
    """The row's differences x100, in a line."""
    parts = []
    for part in ("choosing", "reporting", JUDGED):
        for kind, values in row[part].items():
            name = "ndcg_at_10" if part == JUDGED else "mrr"
            of = values[f"{name} against start"]
            bounds = f"{100 * of['difference']:+.1f} [{100 * of['low']:+.1f}, {100 * of['high']:+.1f}]"
            parts.append(f"{part} {kind} {100 * values[name]:.1f} {bounds}")
    return "; ".join(parts)


if __name__ == "__main__":
    main()
