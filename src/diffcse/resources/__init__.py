"""The models that come with the package, one folder each."""

from __future__ import annotations

from pathlib import Path

from diffcse.errors import UserError

DEFAULT_ENCODER = "default_encoder"
"""Sentence encoder that is used where no name is given, and that training starts from by the name `bundled`: a
SentenceTransformer folder."""

GENERATOR = "generator"
"""Small masked language model with the same vocabulary, which makes the edits by the name `bundled`."""


def bundled(resource: str = DEFAULT_ENCODER) -> Path:
    """Folder of a bundled model, `DEFAULT_ENCODER` or `GENERATOR`.

    Raises:
        UserError: this copy of the package was built without that model.
    """
    folder = Path(__file__).parent / resource
    if not (folder / "config.json").is_file():
        rule, do = f"in this copy of the package (resources/{resource})", "reinstall diffcse, or name a model folder"
        raise UserError("the bundled model", rule, "nothing there", do)
    return folder
