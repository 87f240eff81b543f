"""The model card: how the model was made, in the form that model hubs read."""

from __future__ import annotations

import json
from typing import Any, Protocol

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from diffcse import __version__
from diffcse.config import BUNDLED, Config

CITATION = """@inproceedings{chuang2022diffcse,
  title = {{DiffCSE}: Difference-based Contrastive Learning for Sentence Embeddings},
  author = {Chuang, Yung-Sung and Dangovski, Rumen and Luo, Hongyin and Zhang, Yang and Chang, Shiyu and Soljacic, Marin
    and Li, Shang-Wen and Yih, Wen-tau and Kim, Yoon and Glass, James},
  booktitle = {Conference of the North American Chapter of the Association for Computational Linguistics},
  year = {2022}
}"""
"""The paper, as BibTeX."""


class Kept(Protocol):
    """The weights that a run kept, and why."""

    @property
    def metric(self) -> str | None:
        """What they were chosen by."""
        ...

    @property
    def score(self) -> float | None:
        """Its value."""
        ...

    def describe(self) -> str:
        """A few words for the card."""
        ...


def model_card(config: Config, kept: Kept | None, metrics: list[dict[str, Any]]) -> str:
    """README.md of a trained model.

    Args:
        config: the run's settings.
        kept: the weights that were kept; None for those of the last step.
        metrics: the run's log lines.
    """
    name = {"diffcse": "DiffCSE", "simcse": "SimCSE"}[config.objective.objective]
    data = ModelCardData(
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        tags=["sentence-transformers", "sentence-similarity", "feature-extraction", config.objective.objective],
        base_model=None if config.model.encoder == BUNDLED else config.model.encoder,
        model_name=f"{name} sentence encoder",
        eval_results=_results(kept),
    )
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n{_body(name, config, kept, metrics)}"))


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


def _body(name: str, config: Config, kept: Kept | None, metrics: list[dict[str, Any]]) -> str:
    last: dict[str, Any] = next((line for line in reversed(metrics) if "loss" in line), {})
    weights = "the last step" if kept is None else kept.describe()
    if kept is not None and config.training.average_checkpoints and config.training.ema_decay:
        weights += "; each the moving average at that step"
    return f"""
# {name} sentence encoder

Maps a sentence to one vector (pooler `{config.model.pooler}`, before the projector). Trained without labels by
diffcse {__version__}; start: `{config.model.encoder}`.

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("this folder")
print(model.similarity(model.encode(["A dog runs."]), model.encode(["A dog is running."])))
```

Kept: {weights}. Last training line:

```json
{json.dumps(last)}
```

## Settings

```json
{json.dumps(config.as_dict(), indent=2)}
```

## Citation

```bibtex
{CITATION}
```
"""
