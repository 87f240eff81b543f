"""The paper's ablation tables as sweeps, with the published number of each row (Chuang et al., 2022, section 5).

Published numbers are single runs of bert-base-uncased, Spearman x100 on STS-B dev. Next sentences need a text whose
lines follow one another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from diffcse.errors import UserError
from diffcse.presets import PRESETS

Rows = list[tuple[dict[str, Any], float]]
"""What a row differs in, and its published number."""

_GENERATORS = {
    "bert-large-uncased": 82.93,
    "bert-base-uncased": 83.63,
    "distilbert-base-uncased": 84.56,
    "google/bert_uncased_L-8_H-512_A-8": 82.25,
    "google/bert_uncased_L-4_H-512_A-8": 82.64,
    "google/bert_uncased_L-4_H-256_A-4": 82.12,
    "google/bert_uncased_L-2_H-128_A-2": 81.40,
}
_MASKING = {0.15: 84.48, 0.20: 84.04, 0.25: 84.49, 0.30: 84.56, 0.40: 84.48, 0.50: 83.91}
_LAMBDA = {0.0: 82.22, 1e-4: 83.90, 5e-4: 84.40, 1e-3: 84.24, 5e-3: 84.56, 1e-2: 83.44, 5e-2: 84.11, 1e-1: 83.66}

TABLES: dict[str, Rows] = {
    "objective": [
        ({"objective": "simcse", "projector": "tanh"}, 81.47),
        ({"objective": "diffcse", "projector": "bn"}, 84.56),
        ({"contrastive_weight": 0.0}, 54.48),
        ({"edited_text": "next"}, 82.91),
        ({"edited_text": "both"}, 83.41),
        ({"predictor": "conditional_mlm", "edited_text": "same"}, 83.08),
        ({"predictor": "conditional_mlm", "edited_text": "next"}, 75.82),
        ({"predictor": "conditional_mlm", "edited_text": "both"}, 82.88),
        ({"predictor": "corrective_lm"}, 79.79),
    ],
    "projector": [
        ({"objective": "simcse", "projector": "tanh"}, 81.47),
        ({"objective": "simcse", "projector": "bn"}, 82.22),
        ({"objective": "diffcse", "projector": "tanh"}, 83.23),
        ({"objective": "diffcse", "projector": "bn"}, 84.56),
    ],
    # The paper edits 15% of the tokens here.
    "augmentation": [
        ({"edit": "replacement", "mask_ratio": 0.15}, 84.48),
        ({"edit": "insertion", "mask_ratio": 0.15}, 82.20),
        ({"edit": "deletion", "mask_ratio": 0.15}, 82.59),
        ({"edit": "all", "mask_ratio": 0.15}, 82.80),
    ],
    # One table of the paper's in another order: edits as examples of the contrast, against predicting them (15% of the
    # tokens, the projector of SimCSE where there is no discriminator).
    "edits-as": [
        ({"objective": "simcse", "projector": "tanh", "edits_as": "none", "mask_ratio": 0.15}, 81.47),
        ({"objective": "simcse", "projector": "tanh", "edits_as": "positives", "mask_ratio": 0.15}, 73.59),
        ({"objective": "simcse", "projector": "tanh", "edits_as": "negatives", "mask_ratio": 0.15}, 83.02),
        ({"objective": "diffcse", "projector": "bn", "edits_as": "none", "mask_ratio": 0.15}, 84.48),
    ],
    "generator": [({"generator": name}, score) for name, score in _GENERATORS.items()],
    "masking": [({"mask_ratio": ratio}, score) for ratio, score in _MASKING.items()],
    "lambda": [({"lambda_weight": weight}, score) for weight, score in _LAMBDA.items()],
}


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """One of the tables.

    Attributes:
        settings: the same in all runs.
        rows: what differs, one table a row, as `diffcse.sweeps.plan.plan_runs` takes it.
        published: the published number of each row (x100) by its description.
    """

    settings: dict[str, Any]
    rows: list[dict[str, Any]]
    published: dict[str, float]


def ablation(table: str, *, preset: str, settings: dict[str, Any]) -> Ablation:
    """A table's runs from a preset.

    Args:
        table: a key of `TABLES`.
        preset: where the settings start; `bert-sts` is the paper's.
        settings: further fields, the same in all runs.

    Raises:
        UserError: for an unknown table or preset, or a setting that the table itself varies.
    """
    from diffcse.sweeps.report import describe

    if table not in TABLES:
        raise UserError("ablation", f"one of {', '.join(TABLES)}", table, "choose one of them")
    if preset not in PRESETS:
        raise UserError("preset", f"one of {', '.join(PRESETS)}", preset, "choose one of them")
    rows = TABLES[table]
    for name in settings:
        if any(name in row for row, _ in rows):
            raise UserError(name, f"left to the ablation {table}, which varies it", settings[name], "remove it")
    return Ablation(
        settings={"preset": preset, **settings},
        rows=[dict(row) for row, _ in rows],
        published={describe(row): score for row, score in rows},
    )
