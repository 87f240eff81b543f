"""Results in the `model-index` metadata of a model's README.md, the form that leaderboards read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from diffcse.errors import UserError
from diffcse.evaluation.tasks import ALL_TASKS, STS_TASKS
from diffcse.files import disk_errors, write_atomic

_NAMES = {"STSBenchmark": "STS-B", "SICKRelatedness": "SICK-R"}
_MEASURES = {
    "spearman": ("cosine_spearman", "Spearman"),
    "pearson": ("cosine_pearson", "Pearson"),
    "accuracy": ("accuracy", "Accuracy"),
    "f1": ("f1", "F1"),
}


def check_card(folder: Path) -> Path:
    """The README.md that a model's results go to, before any work is done.

    Raises:
        UserError: not a folder, or a README.md whose metadata cannot be read.
    """
    if not folder.is_dir():
        do = "give a local model folder; a card on the Hub is updated by pushing the folder"
        raise UserError("--card", "used with a model folder", folder, do)
    _load(folder / "README.md")
    return folder / "README.md"


def update_card(folder: Path, results: dict[str, Any]) -> None:
    """Put results of `suite.evaluate` into README.md: the same measure of the same data is replaced, all else stays."""
    path = check_card(folder)
    card = _load(path)
    data: Any = card.data
    new = eval_results(results)
    others = [old for old in data.eval_results or [] if not any(_key(old) == _key(result) for result in new)]
    data.eval_results = sorted(others + new, key=_order)
    data.model_name = data.model_name or folder.resolve().name
    with disk_errors(f"--card {path}", "check the folder"):
        write_atomic(path, str(card).encode())


def eval_results(results: dict[str, Any]) -> list[EvalResult]:
    """Every number of the paper's tables as a result; unrounded fractions."""
    entries = []
    for name, scores in results["tasks"].items():
        splits = {results["mode"]: scores}
        if name in STS_TASKS[5:] and results["mode"] == "test" and "dev" in scores:
            splits["dev"] = scores["dev"]
        for split, numbers in splits.items():
            entries += [_result(name, split, key, numbers[key]) for key in _MEASURES if numbers.get(key) is not None]
    return entries


def _result(name: str, split: str, measure: str, value: float) -> EvalResult:
    sts = name in STS_TASKS
    label = _NAMES.get(name, name)
    metric, metric_name = _MEASURES[measure]
    return EvalResult(
        task_type="sts" if sts else "text-classification",
        task_name="Semantic Textual Similarity" if sts else "Transfer, logistic regression on frozen vectors",
        dataset_type=label.lower(),
        dataset_name=label,
        dataset_split=split,
        metric_type=metric,
        metric_name=metric_name,
        metric_value=value,
    )


def _key(result: EvalResult) -> tuple[Any, ...]:
    """What makes two results the same measure of the same data."""
    data = result.dataset_type, result.dataset_config, result.dataset_split
    return (result.task_type, *data, result.metric_type)


def _order(result: EvalResult) -> tuple[int, str]:
    """Results of other origin first, as they were; ours in the paper's order."""
    labels = [_NAMES.get(name, name).lower() for name in ALL_TASKS]
    return (
        (labels.index(result.dataset_type), result.dataset_split or "") if result.dataset_type in labels else (-1, "")
    )


def _load(path: Path) -> ModelCard:
    try:
        text = path.read_bytes().decode()
    except FileNotFoundError:
        return ModelCard(f"---\n{ModelCardData(library_name='sentence-transformers').to_yaml()}\n---\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--card {path}", "a UTF-8 text file", error, "fix or remove it") from error
    try:
        return ModelCard(text)
    except (yaml.YAMLError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"--card {path}", "a model card", error, "fix its metadata between the --- lines") from error
