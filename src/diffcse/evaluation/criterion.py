"""What chooses a checkpoint where there are labels: STSBenchmark's dev split, as in the paper (section 4.1)."""

from __future__ import annotations

from pathlib import Path

from diffcse.evaluation.senteval import stsb_split
from diffcse.evaluation.sts import score_pairs
from diffcse.training.criteria import Criterion


def stsb_dev(folder: Path) -> Criterion:
    """Spearman on STS-B dev; the file is read now, so that a bad one stops a run before anything is spent.

    Args:
        folder: SentEval's data folder, the one that holds `downstream`.
    """
    pairs = stsb_split(folder, "dev")
    return Criterion(name="stsb", score=lambda encode: score_pairs(encode, pairs).spearman)
