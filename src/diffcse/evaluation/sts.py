"""Semantic textual similarity: rank correlation of cosine and human scores, as SentEval computes it.

Legend: `P` pairs, `S` sentences, `H` hidden.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ConstantInputWarning, NearConstantInputWarning, pearsonr, spearmanr

from diffcse.evaluation.embed import Embedded, Encode, embed
from diffcse.evaluation.tasks import Mode, Protocol, ScoredPairs, Task, needed_parts


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """Agreement of cosines with human scores.

    Attributes:
        spearman: rank correlation, -1 to 1; NaN if all cosines or all scores are the same.
        pearson: linear correlation, likewise.
        pairs: P.
    """

    spearman: float
    pearson: float
    pairs: int

    def as_dict(self) -> dict[str, Any]:
        """The form it has in results."""
        return {"spearman": self.spearman, "pearson": self.pearson, "pairs": self.pairs}


def score_pairs(encode: Encode, pairs: ScoredPairs) -> Correlation:
    """Correlation of an encoder on labelled pairs; each different sentence is encoded once.

    Args:
        encode: an encoder's method, sentences to (S, H).
        pairs: what to compare with.
    """
    return correlate(cosines(embed(encode, pairs.sentences()), pairs), pairs.scores)


def cosines(embedded: Embedded, pairs: ScoredPairs) -> NDArray[np.float64]:
    """Cosine of each pair, shape (P,)."""
    return cosine(embedded(pairs.first), embedded(pairs.second))


def cosine(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """Row-wise cosine of (P, H) and (P, H): (P,); 0 where a vector has no length.

    Pair by pair in the vectors' own precision, SentEval's arithmetic to the last bit: an encoder with many equal values
    owes part of its rank correlation to how ties are rounded.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = [np.dot(u, v) / (np.linalg.norm(u) * np.linalg.norm(v)) for u, v in zip(a, b, strict=True)]
    return np.nan_to_num(np.array(cosines, dtype=np.float64))


def correlate(similarity: NDArray[np.float64], scores: NDArray[np.float64]) -> Correlation:
    """Spearman and Pearson of two arrays of shape (P,)."""
    if len(scores) < 2:
        return Correlation(spearman=float("nan"), pearson=float("nan"), pairs=len(scores))
    with warnings.catch_warnings():  # an encoder that gives all pairs one cosine gets NaN, which says enough
        warnings.simplefilter("ignore", ConstantInputWarning)
        warnings.simplefilter("ignore", NearConstantInputWarning)
        return Correlation(
            spearman=float(spearmanr(similarity, scores).statistic),
            pearson=float(pearsonr(similarity, scores).statistic),
            pairs=len(scores),
        )


def score_task(task: Task, embedded: Embedded, *, protocol: Protocol = "all", mode: Mode = "test") -> dict[str, Any]:
    """Results of one STS task.

    STS12-16 give `spearman` and `pearson` by the protocol, the same by each protocol under its name, and `subsets`.
    STSBenchmark and SICKRelatedness give those of the test split (in dev mode: the dev split) and each split under its
    name; without that split they have no `spearman`, and `absent` says so.
    """
    parts = cast("dict[str, ScoredPairs]", needed_parts(task, mode))
    similarity = {name: cosines(embedded, pairs) for name, pairs in parts.items()}
    correlations = {name: correlate(similarity[name], pairs.scores) for name, pairs in parts.items()}
    if "dev" in parts or "test" in parts or "train" in parts:
        return _by_split(task, correlations, mode)
    together = correlate(
        np.concatenate(list(similarity.values())), np.concatenate([pairs.scores for pairs in parts.values()])
    )
    return _by_subset(together, correlations, protocol)


def _by_split(task: Task, splits: Mapping[str, Correlation], mode: Mode) -> dict[str, Any]:
    headline = splits[mode].as_dict() if mode in splits else {}
    absent = [split for split in task.absent if mode == "test" or split == mode]
    return headline | {name: correlation.as_dict() for name, correlation in splits.items()} | {"absent": absent}


def _by_subset(together: Correlation, subsets: Mapping[str, Correlation], protocol: Protocol) -> dict[str, Any]:
    sizes = [subset.pairs for subset in subsets.values()]
    protocols: dict[str, dict[str, float]] = {"all": {}, "mean": {}, "wmean": {}}
    for measure in ("spearman", "pearson"):
        values = [getattr(subset, measure) for subset in subsets.values()]
        protocols["all"][measure] = getattr(together, measure)
        protocols["mean"][measure] = float(np.mean(values))
        protocols["wmean"][measure] = float(np.average(values, weights=sizes))
    named = {name: subset.as_dict() for name, subset in subsets.items()}
    return {**protocols[protocol], "pairs": together.pairs, "protocol": protocol, **protocols, "subsets": named}
