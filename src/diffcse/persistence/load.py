"""Any sentence encoder, loaded as a SentenceTransformer in float32.

Four forms are known: a SentenceTransformer, a plain encoder of transformers, a model2vec folder, and the authors'
published checkpoints, whose state may be that of their training class: the encoder under `bert.` or `roberta.`, next
to the discriminator, the heads and the generator.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, cast, get_args

import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    Normalize,
    Pooling,
    StaticEmbedding,
    Transformer,
    WeightedLayerPooling,
)
from sentence_transformers.sentence_transformer.modules.tokenizer import TransformersTokenizerWrapper
from tokenizers import Tokenizer
from torch import nn
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from diffcse.config import BUNDLED, Pooler
from diffcse.errors import UserError, foreign_errors
from diffcse.files import read_json
from diffcse.persistence.hub import locate
from diffcse.persistence.save import pooler_of, sentence_transformer
from diffcse.persistence.weights import LoadingReport, check_report, loading_report, published_state

log = logging.getLogger(__name__)

_KNOWN = {Transformer, Pooling, WeightedLayerPooling, Dense, Normalize, StaticEmbedding}

_PUBLISHED_POOLER = "cls_before_pooler"
"""The published package's name for what is called cls here: [CLS] before the projector."""


_MERGE = "merge the adapters into their model (merge_and_unload of peft), and save that"


def load_encoder(
    name_or_folder: str | os.PathLike[str] | None,
    *,
    pooler: str | None = None,
    trust_remote_code: bool = False,
    revision: str | None = None,
) -> SentenceTransformer:
    """Load a sentence encoder, in float32, on the CPU, in eval mode.

    Args:
        name_or_folder: a folder or a Hub name of a SentenceTransformer, a plain encoder, a model2vec model or a
            published checkpoint; `minilm` for all-MiniLM-L6-v2; None or `bundled` for the encoder that comes with the
            package.
        pooler: cls ([CLS] before any projector), avg, avg_top2, avg_first_last or last; `cls_before_pooler`, the
            published name, means cls. None: a SentenceTransformer's own, else cls. The log says which pooling it
            replaces.
        trust_remote_code: run code that comes with the model.
        revision: branch, tag or commit of a Hub model.

    Raises:
        UserError: no such model, out of reach, damaged, or weights that are missing in it or that it does not use.
    """
    chosen = known_pooler(pooler)
    folder = locate(name_or_folder, revision, trust_remote_code=trust_remote_code)
    name = BUNDLED if name_or_folder is None else str(name_or_folder)
    _check_folder(name, folder)
    # A pooling layer that the checkpoint lacks is drawn at random: always the same, and not from the user's generator.
    with quietly(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = _settings(name, folder, "config.json")
        if _is_model2vec(config):
            model = _load_model2vec(name, folder, config)
        elif (folder / "modules.json").is_file():
            model = _load_sentence_transformer(name, folder, trust_remote_code)
        else:
            model = sentence_transformer(_load_plain(name, folder, trust_remote_code), chosen or "cls")
            log.info("%s: pooler %s", name, chosen or "cls")
    _check_tokenizer(model, name)
    _limit_length(model)
    _check_encodes(model, name)
    return (model if chosen is None else _with_pooler(model, chosen, name)).eval()


def _check_folder(name: str, folder: Path) -> None:
    if any((folder / file).is_file() for file in ("config.json", "modules.json")):
        return
    got, do = "a folder without config.json", "give the folder that holds config.json or modules.json"
    if (folder / "adapter_config.json").is_file():
        got, do = "adapters alone", _MERGE
    raise UserError(f"model {name}", "a model folder", got, do)


def known_pooler(pooler: str | None) -> Pooler | None:
    """The pooler under the name that it has here.

    >>> known_pooler("cls_before_pooler")
    'cls'
    """
    if isinstance(pooler, str) and pooler == _PUBLISHED_POOLER:
        return "cls"
    if pooler is not None and (not isinstance(pooler, str) or pooler not in get_args(Pooler)):
        raise UserError("pooler", f"one of {', '.join(get_args(Pooler))}", pooler, "remove it for the model's own")
    return pooler  # type: ignore[return-value]


def fingerprint(model: SentenceTransformer) -> str:
    """A digest of everything that decides which vector a text gets: weights, modules, vocabulary and length limit."""
    digest = hashlib.sha256()
    for module in model:
        settings = getattr(module, "get_config_dict", dict)
        digest.update(json.dumps([type(module).__name__, settings()], sort_keys=True, default=str).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(
            value.detach().cpu().contiguous().view(torch.uint8).numpy() if value.ndim else str(value).encode()
        )
    vocabulary = _vocabulary(getattr(model[0], "tokenizer", None))
    digest.update(json.dumps([vocabulary, model.max_seq_length]).encode())
    return digest.hexdigest()[:32]


def _vocabulary(tokenizer: Any) -> Any:
    """What a tokenizer of any library knows, as plain data."""
    if isinstance(tokenizer, Tokenizer):
        return tokenizer.to_str()
    if isinstance(tokenizer, TransformersTokenizerWrapper):
        tokenizer = tokenizer.tokenizer
    if isinstance(tokenizer, PreTrainedTokenizerBase):
        return sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    return getattr(tokenizer, "word2idx", None)


def model_errors(name: str) -> AbstractContextManager[None]:
    """`foreign_errors` for the files of model `name`."""

    def advice(error: Exception) -> str:
        if "trust_remote_code" in str(error):
            return "read the code that comes with it, then set trust_remote_code"
        if "peft" in str(error).lower():
            return _MERGE
        if isinstance(error, ImportError):
            return "install what is missing"
        return "check that the folder holds config.json, a tokenizer and complete weights"

    return foreign_errors(f"model {name}", "a model that can be loaded", advice)


@contextmanager
def quietly() -> Iterator[None]:
    """No progress bars and no tables of unused weights, which `check_report` checks."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


def _is_model2vec(config: dict[str, Any]) -> bool:
    """Whether model2vec saved the folder; sentence-transformers reads only some of those."""
    return config.get("model_type") == "model2vec" or config.get("architectures") == ["StaticModel"]


def _load_model2vec(name: str, folder: Path, config: dict[str, Any]) -> SentenceTransformer:
    """A row for each token, folded from a smaller table and weights where the vocabulary was quantised.

    model2vec itself excludes unknown tokens from the mean; sentence-transformers, as here, includes them.
    """
    with model_errors(name):
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        state = load_file(folder / "model.safetensors")
        rows = state["embeddings"].float()
        rows = rows[state["mapping"].long()] if "mapping" in state else rows
        rows = rows * state["weights"].float()[:, None] if "weights" in state else rows
        static = StaticEmbedding(tokenizer, embedding_weights=rows)
    return SentenceTransformer(modules=[static, *([Normalize()] if config.get("normalize") else [])], device="cpu")


def _load_sentence_transformer(name: str, folder: Path, trust_remote_code: bool) -> SentenceTransformer:
    with model_errors(name):
        listing = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        places = [folder / module["path"] for module in listing]
    _check_modules(name, folder, places, trust_remote_code)
    with model_errors(name):
        model = SentenceTransformer(
            str(folder),
            device="cpu",
            trust_remote_code=trust_remote_code,
            local_files_only=True,
            model_kwargs={"dtype": torch.float32},
        )
        reports = {
            place: loading_report(module.model, place)
            for module, place in zip(model, places, strict=True)
            if isinstance(module, Transformer)
        }
    for place, report in reports.items():
        check_report(report, place)
    return model.float()  # modules next to the Transformer keep the type that they were saved in


def _check_modules(name: str, folder: Path, places: list[Path], trust_remote_code: bool) -> None:
    """Refuse what sentence-transformers would load as something else and only warn.

    Raises:
        UserError: a model that is no sentence encoder, adapters apart from their model, or an activation that would be
            replaced.
    """
    kind = _settings(name, folder, "config_sentence_transformers.json").get("model_type", "SentenceTransformer")
    if kind != "SentenceTransformer":
        raise UserError(f"model {name}", "a SentenceTransformer", f"a {kind}", "give a sentence encoder")
    for place in places:
        if (place / "adapter_config.json").is_file():
            raise UserError(f"model {name}", "one whose adapters are merged", "adapter_config.json", _MERGE)
        activation = str(_settings(name, place, "config.json").get("activation_function", "torch."))
        if place != folder and not activation.startswith("torch.") and not trust_remote_code:
            do = "read the code that comes with it, then set trust_remote_code"
            raise UserError(f"model {name}: {place.name}", "a module with an activation of torch", activation, do)


def _check_encodes(model: SentenceTransformer, name: str) -> None:
    """Refuse modules that do not fit each other: libraries read settings of any type and fail at the first text."""
    if not {type(module) for module in model} <= _KNOWN or len(model) < 2:
        return  # other modules may want other input than text
    with model_errors(name), torch.no_grad():  # not inference_mode: what a model caches there cannot be trained with
        strange = [key for module in model for key in _names(module) if not isinstance(key, str)]
        if strange:
            raise ValueError(f"{strange[0]!r} as the name of an input or output")
        # Models of characters shorten their input fourfold, so one letter is too short for them.
        shape = model(model.preprocess(["a text to try"]))["sentence_embedding"].shape
        width = model.get_embedding_dimension()
        if model.truncate_dim is None and shape != (1, width):
            raise ValueError(f"a vector of shape {tuple(shape)} for one text where its settings say {width}")


def _names(module: nn.Module) -> list[Any]:
    """Of the features that a module reads and writes."""
    return [getattr(module, name, "") for name in ("module_input_name", "module_output_name")]


def _settings(name: str, folder: Path, file: str) -> dict[str, Any]:
    """The content of a JSON file of a model folder; empty where there is none."""
    try:
        return read_json(folder / file, what=f"model {name}", do="get the folder again")
    except FileNotFoundError:
        return {}


def _with_pooler(model: SentenceTransformer, pooler: Pooler, name: str) -> SentenceTransformer:
    """The model with its pooling replaced."""
    kinds = [type(module) for module in model]
    if kinds[0] is not Transformer or set(kinds[1:]) - {Pooling, WeightedLayerPooling, Dense, Normalize}:
        got = ", ".join(kind.__name__ for kind in kinds)
        raise UserError("pooler", "used with a Transformer, a pooling and Normalize at most", got, "remove it")
    before = pooler_of(model)
    if before == pooler:
        return model
    log.warning("%s: pooler %s replaces its own, %s", name, pooler, before or model[-1])
    return sentence_transformer(cast(Transformer, model[0]), pooler, like=model)


def _load_plain(name: str, folder: Path, trust_remote_code: bool) -> Transformer:
    """The Transformer module of a plain encoder or a published checkpoint."""
    trust = {"trust_remote_code": trust_remote_code}
    kwargs = {"dtype": torch.float32, **trust}
    with model_errors(name):
        state = published_state(folder)
        transformer = Transformer(str(folder), model_kwargs=kwargs, config_kwargs=trust, processor_kwargs=trust)
        backbone: Any = transformer.model
        if state is None:
            report = loading_report(backbone, folder)
        else:
            report = LoadingReport(missing=backbone.load_state_dict(state, strict=False).missing_keys, unused=[])
    check_report(report, folder)
    return transformer


def _check_tokenizer(model: SentenceTransformer, name: str) -> None:
    """A folder without a vocabulary loads with an empty one, and every word would be the same unknown word."""
    if not isinstance(model[0], Transformer):
        return
    tokenizer, do = model.tokenizer, "add the files of the tokenizer that the model was trained with"
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise UserError(f"model {name}", "one that reads text", "no tokenizer", do)
    room = _rows(model[0].model)
    if room is None:
        return
    vocabulary = tokenizer.get_vocab()
    if set(vocabulary) <= set(tokenizer.all_special_tokens):
        raise UserError(f"model {name}: tokenizer", "one with a vocabulary", "special tokens only", do)
    if max(vocabulary.values()) >= room:
        rule = f"one with ids below {room}, the rows of the embedding table"
        raise UserError(f"model {name}: tokenizer", rule, max(vocabulary.values()), do)


def _rows(backbone: Any) -> int | None:
    """Rows of the embedding table; None where there is none (CANINE hashes characters)."""
    try:
        return getattr(backbone.get_input_embeddings(), "num_embeddings", None)
    except NotImplementedError:
        return None


def _limit_length(model: SentenceTransformer) -> None:
    """Never more tokens than the table of positions has room for."""
    if model.max_seq_length is not None and (room := _table_of_positions(model)) is not None:
        model.max_seq_length = min(model.max_seq_length, room)


def positions(network: nn.Module) -> int:
    """The most tokens that a network of transformers can read, as far as it says so."""
    said = getattr(network.config, "max_position_embeddings", None) or 1 << 30
    return _table_of_positions(network) or said


def _table_of_positions(network: nn.Module) -> int | None:
    for name, part in network.named_modules():
        if name.endswith("embeddings.position_embeddings") and isinstance(part, nn.Embedding):
            # RoBERTa's family counts from after its padding id.
            return part.num_embeddings - (0 if part.padding_idx is None else part.padding_idx + 1)
    return None
