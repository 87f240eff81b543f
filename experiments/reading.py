"""What a discriminator reads: its loss with the sentence's own vector against another sentence's, and the curves.

    python experiments/reading.py runs/proof --start runs/start-mlm --text held-out.txt --senteval SENTEVAL \
        --out experiments/results/reading-proof.json

Of every run: the curves of its log, and alignment and uniformity on STS-B dev of the model that it kept. Of a run with
`keep_discriminator` also the discriminator's cross-entropy (nats a real token) and the shares that it finds and leaves
alone, on sentences that were not trained on, without dropout: given the sentence's own vector, given that of the next
sentence of the text (with another content and the same form), and given zeros. A discriminator that reads the vector
does worse with another's.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffcse.encoding.encode import Encoder
from diffcse.evaluation.senteval import stsb_split
from diffcse.explore.edit_view import TrainedParts, has_discriminator, load_parts
from diffcse.files import write_json
from diffcse.method.objective import detection, replaced_token_detection
from diffcse.persistence.load import load_encoder
from diffcse.sweeps.report import describe
from diffcse.sweeps.results import Results
from diffcse.training.batches import Collator
from diffcse.training.criteria import alignment, uniformity
from diffcse.vectors import unit

BATCH = 64
CURVES = ("contrastive", "positive_cosine", "negative_cosine", "rtd", "replaced_accuracy", "original_accuracy", "stsb")


def main() -> None:
    """Measure every run and write one object each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path, help="folder of a sweep; its runs of seed 0 are looked at")
    parser.add_argument("--start", type=Path, required=True, help="what they were trained from")
    parser.add_argument("--text", type=Path, required=True, help="sentences that were not trained on, one a line")
    parser.add_argument("--senteval", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    sentences = options.text.read_text(encoding="utf-8").splitlines()
    rows = [{"run": "start", **space(options.start, options.senteval)}]
    for result in Results(options.sweep).all():
        if result.scores is None or result.settings.get("seed"):
            continue
        folder = options.sweep / "runs" / result.name
        row: dict[str, Any] = {
            "run": describe({name: value for name, value in result.settings.items() if name != "seed"}),
            **space(folder, options.senteval),
        }
        row["curves"] = curves(folder / "metrics.jsonl")
        if result.settings.get("objective") == "diffcse" and has_discriminator(folder):
            row["discriminator"] = reading(load_parts(folder), sentences)
        rows.append(row)
    write_json(options.out, rows)


def space(model: Path, senteval: Path) -> dict[str, float]:
    """Alignment (pairs rated above 4) and uniformity of the unit vectors of STS-B dev (Wang and Isola, 2020)."""
    pairs, encoder = stsb_split(senteval, "dev"), Encoder(load_encoder(str(model), pooler="cls"))
    first, second = (unit(encoder.encode(list(texts)), np.float64) for texts in (pairs.first, pairs.second))
    near = pairs.scores > 4
    return {
        "alignment": alignment(first[near], second[near]),
        "uniformity": uniformity(np.vstack([first, second])),
    }


def curves(log: Path) -> dict[str, list[tuple[int, float]]]:
    """Each term of a run's log as pairs of step and value."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return {name: [(line["step"], line[name]) for line in lines if name in line] for name in CURVES}


@torch.no_grad()
def reading(parts: TrainedParts, sentences: list[str]) -> dict[str, dict[str, float]]:
    """The discriminator on the edits of `sentences` given three vectors each: sums over batches, then shares."""
    sums = {name: torch.zeros(6, dtype=torch.float64) for name in ("own", "another's", "zeros")}
    collate = Collator(parts.tokenizer, replace(parts.config.edits, edited_text="same"), seed=0)
    cut = {"truncation": True, "max_length": parts.config.training.max_tokens}
    ids = [np.array(row) for row in parts.tokenizer(sentences, **cut)["input_ids"]]
    for start in range(0, len(ids) - BATCH + 1, BATCH):
        batch = collate([(0, place, [ids[place]]) for place in range(start, start + BATCH)])
        for name, values in _judge(parts, {key: value[:, 0] for key, value in batch.items()}).items():
            sums[name] += values
    return {name: _shares(values) for name, values in sums.items()}


def _judge(parts: TrainedParts, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    model, mask = parts.model, batch["attention_mask"]
    assert model.edit is not None and model.discriminator is not None
    edited = model.edit(**batch)
    vectors = model.pool(batch["input_ids"].unsqueeze(1), mask.unsqueeze(1))
    if parts.config.objective.conditioning == "projected":
        vectors = model.project(vectors)
    own = vectors[:, 0]
    given = {"own": own, "another's": own.roll(1, 0), "zeros": torch.zeros_like(own)}
    return {
        name: _figures(model.discriminator(edited.input_ids, mask, v), edited.replaced, mask)
        for name, v in given.items()
    }


def _figures(logits: Tensor, replaced: Tensor, mask: Tensor) -> Tensor:
    """Sums of a batch: loss, tokens, loss at the replaced tokens, these, those found, those left alone."""
    seen, one = detection(logits, replaced, mask), torch.ones(())
    losses = [replaced_token_detection(logits, replaced, where, one) for where in (mask, replaced & mask.bool())]
    return torch.stack([losses[0], seen.tokens, losses[1], seen.replaced, seen.found, seen.left_alone]).double()


def _shares(sums: Tensor) -> dict[str, float]:
    loss, tokens, at_replaced, replaced, found, left_alone = sums.tolist()
    return {
        "loss": loss / tokens,
        "loss at replaced tokens": at_replaced / replaced,
        "replaced": replaced / tokens,
        "found": found / replaced,
        "left alone": left_alone / (tokens - replaced),
    }


if __name__ == "__main__":
    main()
