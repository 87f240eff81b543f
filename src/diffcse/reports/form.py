"""The form of an evaluation's results, checked before a page is built from a file that may have been edited."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffcse.errors import UserError
from diffcse.evaluation.tasks import GROUPS, HEADLINE

_FINITE = (int, float)
_NUMBER = (int, float, type(None))
_PAIR = [_FINITE, _FINITE]
_EACH = ...
"""As a key: any other name. A key that ends in `?` may be absent; a list of one form has any length, of two has two."""

_BY_GROUP = {"average": _NUMBER, "complete": bool, "missing": [str]}
_PART = {"spearman?": _NUMBER, "pearson?": _NUMBER, "pairs?": int, "accuracy?": _NUMBER}
_ANALYSES = {
    "data": str,
    "alignment": _FINITE,
    "uniformity": _FINITE,
    "positive_pairs": int,
    "histogram": {"edges": [_FINITE], "counts": {_EACH: [int]}},
    "retrieval": {"queries": int, "sentences": int, _EACH: _FINITE},
    "neighbours?": [{"query": str, "partner": str, "rank": int, "nearest": [{"sentence": str, "cosine": _FINITE}]}],
}
_RESULT = {
    "model": str,
    "mode": str,
    "tasks": {
        _EACH: {
            **{f"{measure}?": _NUMBER for measure in ("f1", *HEADLINE.values())},
            **{f"{part}?": _PART for part in ("train", "dev", "test")},
            "subsets?": {_EACH: _PART},
        }
    },
    **{key: dict.fromkeys(GROUPS, form) for key, form in _BY_GROUP.items()},
    "problems": [str],
    "pairs?": {"spearman": _NUMBER, "pearson": _NUMBER, "pairs": int},
    "analyses?": _ANALYSES,
    "encoding?": {f"{name}?": _FINITE for name in ("different", "seconds", "truncated", "unknown", "limit")},
}
_MODELS = {
    _EACH: {
        "spearman": _NUMBER,
        "interval": _PAIR,
        "difference?": _FINITE,
        "difference_interval?": _PAIR,
        "p?": _FINITE,
    }
}
_COMPARISON = {"baseline": str, "resamples": int, "tasks": {_EACH: _MODELS}, "average": (dict, type(None))}


def check_form(path: Path, results: Any, comparison: Any, *, do: str) -> None:
    """Say where a file differs from what `diffcse evaluate --json` writes.

    Args:
        path: of the file, for the error.
        results: the models of the file.
        comparison: the file's comparison, or None.
        do: what the user can do.

    Raises:
        UserError: naming the first place that differs.
    """
    fault = _fault(results, [_RESULT], "models") if results else "no models"
    if fault is None:
        fault = next((fault for result in results if (fault := _further_fault(result))), None)
    if fault is None and comparison:
        fault = _fault(comparison, _COMPARISON, "comparison")
        average = comparison.get("average") if isinstance(comparison, dict) else None
        fault = fault or (_fault(average, _MODELS, "comparison.average") if average else None)
    if fault is not None:
        raise UserError(str(path), "results of an evaluation", fault, do)


def _further_fault(result: Mapping[str, Any]) -> str | None:
    if result["mode"] not in ("test", "dev"):
        return f"mode is {result['mode']!r:.40}"
    histogram = result.get("analyses", {}).get("histogram")
    if histogram and any(len(counts) != len(histogram["edges"]) - 1 for counts in histogram["counts"].values()):
        return "histogram with other numbers of edges and counts"
    return None


def _fault(value: Any, form: Any, where: str) -> str | None:
    """Where a value differs from its form, or None."""
    if isinstance(form, dict):
        return _fault_of_object(value, form, where)
    if isinstance(form, list):
        if not isinstance(value, list) or (len(form) == 2 and len(value) != 2):
            return f"{where} is no list" if len(form) == 1 else f"{where} is no list of two"
        return next((fault for i, item in enumerate(value) if (fault := _fault(item, form[0], f"{where}.{i}"))), None)
    finite = not isinstance(value, float) or math.isfinite(value) or form is _NUMBER
    fits = isinstance(value, form) and (form is bool or not isinstance(value, bool)) and finite
    return None if fits else f"{where} is {value!r:.40}"


def _fault_of_object(value: Any, form: Mapping[Any, Any], where: str) -> str | None:
    if not isinstance(value, Mapping):
        return f"{where} is no object"
    named = {str(key).removesuffix("?"): key for key in form if key is not _EACH}
    for name, key in named.items():
        if name not in value and not key.endswith("?"):
            return f"{where} without {name}"
    forms = {name: form[named[name]] if name in named else form.get(_EACH) for name in value}
    checked = ((name, form) for name, form in forms.items() if form is not None)
    return next((fault for name, form in checked if (fault := _fault(value[name], form, f"{where}.{name}"))), None)
