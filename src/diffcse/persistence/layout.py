"""The small files of a model folder in the form that all tools read.

sentence-transformers 6 writes three of them in a new form and reads both. Text Embeddings Inference (router/src/lib.rs)
does not start without the old keys of `1_Pooling/config.json` and `sentence_bert_config.json`; vLLM
(transformers_utils/config.py) knows a pooling only by its old name in `modules.json`, and without it pools in another
way and says nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_OLD_NAMES = {name: f"sentence_transformers.models.{name}" for name in ("Transformer", "Pooling", "Normalize", "Dense")}
_MODES = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}


def to_classic(folder: Path, max_tokens: int | None) -> None:
    """Rewrite `modules.json`, the pooling's settings and `sentence_bert_config.json` in the old form.

    A model that takes the mean of several layers keeps the new form: these tools have no such layer, and half of a
    pooling would be worse than none.

    Args:
        folder: as `SentenceTransformer.save` left it, not yet in use.
        max_tokens: longest text, as the model was saved; None where there is no limit.
    """
    modules = _read(folder / "modules.json")
    kinds = [module["type"].rsplit(".", 1)[1] for module in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or modules[0]["path"]:
        return
    for module, kind in zip(modules, kinds, strict=True):
        module["type"] = _OLD_NAMES.get(kind, module["type"])
    _write(folder / "modules.json", modules)
    pooling = folder / modules[1]["path"] / "config.json"
    _write(pooling, _classic_pooling(_read(pooling)))
    for module, kind in zip(modules, kinds, strict=True):
        if kind == "Dense":
            dense = folder / module["path"] / "config.json"
            _write(dense, _classic_dense(_read(dense)))
    if max_tokens is not None:
        _write(folder / "sentence_bert_config.json", {"max_seq_length": max_tokens, "do_lower_case": False})


def _classic_pooling(settings: dict[str, Any]) -> dict[str, Any]:
    """The old keys for the new ones.

    >>> settings = _classic_pooling({"embedding_dimension": 8, "pooling_mode": "mean", "include_prompt": True})
    >>> [key for key, value in settings.items() if value is True]
    ['pooling_mode_mean_tokens', 'include_prompt']
    """
    chosen = settings["pooling_mode"]
    modes = [chosen] if isinstance(chosen, str) else chosen
    keys = {key: mode in modes for mode, key in _MODES.items()}
    return {
        "word_embedding_dimension": settings["embedding_dimension"],
        **keys,
        "include_prompt": settings["include_prompt"],
    }


def _classic_dense(settings: dict[str, Any]) -> dict[str, Any]:
    """Without the names of input and output, which versions before 5 refuse, where they are the usual ones.

    >>> _classic_dense({"in_features": 8, "module_input_name": "sentence_embedding"})
    {'in_features': 8}
    """
    names = ("module_input_name", "module_output_name")
    return {key: value for key, value in settings.items() if key not in names or value != "sentence_embedding"}


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
