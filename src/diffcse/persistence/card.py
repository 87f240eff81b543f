"""The model card: how the model was made, in the form that model hubs read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from diffcse import __version__
from diffcse.config import BUNDLED, MINILM, Config
from diffcse.files import json_line

CITATION = """@inproceedings{chuang2022diffcse,
  title = {{DiffCSE}: Difference-based Contrastive Learning for Sentence Embeddings},
  author = {Chuang, Yung-Sung and Dangovski, Rumen and Luo, Hongyin and Zhang, Yang and Chang, Shiyu and Soljacic, Marin
    and Li, Shang-Wen and Yih, Wen-tau and Kim, Yoon and Glass, James},
  booktitle = {Conference of the North American Chapter of the Association for Computational Linguistics},
  year = {2022}
}"""
"""The paper, as BibTeX."""


_USE = """```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("this folder")
print(model.similarity(model.encode(["A dog runs."]), model.encode(["A dog is running."])))
```
"""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """The weights that a run kept: of one step, or the mean over several.

    Attributes:
        steps: optimiser steps that they were taken at.
        score: the criterion's value of these weights; None without a criterion.
        metric: name of the criterion.
    """

    steps: tuple[int, ...]
    score: float | None = None
    metric: str | None = None

    def describe(self) -> str:
        """In words.

        >>> Kept(steps=(250,), score=0.8, metric="stsb").describe(), Kept(steps=(4, 8)).describe()
        ('step 250, stsb 0.8000', 'mean of steps 4, 8')
        """
        scored = "" if self.score is None else f", {self.metric} {self.score:.4f}"
        steps = ", ".join(map(str, self.steps))
        return f"step {steps}{scored}" if len(self.steps) == 1 else f"mean of steps {steps}{scored}"


def model_card(config: Config, kept: Kept | None, metrics: list[dict[str, Any]]) -> str:
    """README.md of a trained model.

    Args:
        config: the run's settings.
        kept: the weights that were kept; None for those of the last step.
        metrics: the run's log lines.
    """
    objective = config.objective.objective
    title = {"diffcse": "DiffCSE", "simcse": "SimCSE"}[objective] + " sentence encoder"
    return _card(title, config.model.encoder, objective, _body(title, config, kept, metrics), _results(kept))


def _card(title: str, start: str, method: str, body: str, results: list[EvalResult] | None = None) -> str:
    data = ModelCardData(
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        tags=["sentence-transformers", "sentence-similarity", "feature-extraction", method],
        base_model=_base_model(start),
        model_name=title,
        eval_results=results,
    )
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n{body}"))


def _is_local(name: str) -> bool:
    """Whether a model's name is a place on this machine, which means nothing to others and may reveal a user's name."""
    path = Path(name).expanduser()
    return name.startswith((".", "/", "~")) or "\\" in name or name.count("/") > 1 or path.exists()


def _base_model(name: str) -> str | None:
    """The start as hubs know it; None for one that they cannot know."""
    if name == MINILM:
        return "sentence-transformers/all-MiniLM-L6-v2"
    return None if name == BUNDLED or _is_local(name) else name


def publishable(name: str) -> str:
    """A model's name, without the folders of this machine."""
    return "a local folder" if name and _is_local(name) else name


def _settings(config: Config) -> dict[str, Any]:
    """The settings without the names of local folders."""
    settings = config.as_dict()
    for section, name in (("model", "encoder"), ("model", "generator"), ("extensions", "teacher")):
        settings[section][name] = publishable(settings[section][name])
    return settings


def _results(kept: Kept | None) -> list[EvalResult] | None:
    if kept is None or kept.metric != "stsb":
        return None
    result = EvalResult(
        task_type="sts",
        task_name="Semantic Textual Similarity",
        dataset_type="sts-b",
        dataset_name="STS-B",
        dataset_split="dev",
        metric_type="cosine_spearman",
        metric_name="Spearman",
        metric_value=kept.score,
    )
    return [result]


def _body(title: str, config: Config, kept: Kept | None, metrics: list[dict[str, Any]]) -> str:
    last: dict[str, Any] = next((line for line in reversed(metrics) if "loss" in line), {})
    weights = "the last step" if kept is None else kept.describe()
    if kept is not None and config.training.average_checkpoints and config.training.ema_decay:
        weights += "; each the moving average at that step"
    return f"""
# {title}

Maps a sentence to one vector (pooler `{config.model.pooler}`, before the projector). Trained without labels by
diffcse {__version__}; start: {publishable(config.model.encoder)}.

{_USE}
Kept: {weights}. Last training line:

```json
{json_line(last)}
```

## Settings

```json
{json.dumps(_settings(config), indent=2)}
```

## Citation

```bibtex
{CITATION}
```
"""


def adapted_card(start: str, words: Sequence[str], settings: Mapping[str, Any]) -> str:
    """README.md of a model from `diffcse adapt`.

    Args:
        start: the model that it was adapted from.
        words: what was read, measured and decided, a paragraph each.
        settings: of the adaptation.
    """
    title = "Sentence encoder adapted to documents"
    public = {
        name: publishable(value) if name in ("encoder", "generator") else value for name, value in settings.items()
    }
    paragraphs = "\n\n".join(words)
    body = f"""
# {title}

Adapted without labels by diffcse {__version__}; start: {publishable(start)}. `report.html` has the figures.

{paragraphs}

{_USE}
## Settings

```json
{json.dumps(public, indent=2)}
```
"""
    return _card(title, start, "diffcse", body)
