"""Which words a model wants in front of a query, a document or any other text."""

from __future__ import annotations

import re
from typing import Literal

from sentence_transformers import SentenceTransformer

from diffcse.errors import UserError

Role = Literal["query", "document"]
"""What a text is in a search: what is looked for, or what is looked through."""

_NAMES: dict[Role, tuple[str, ...]] = {"query": ("query",), "document": ("document", "passage", "corpus")}
"""A prompt's usual names, the first that a model has wins (as in sentence-transformers 6)."""


def resolve_prompt(
    model: SentenceTransformer, role: Role | None = None, name: str | None = None, text: str | None = None
) -> str:
    """The words in front of a text, empty for none.

    Args:
        model: knows its own prompts (E5, BGE, Arctic, Qwen and others have one for queries).
        role: query or document, for the model's prompt of that name; None for the model's default prompt.
        name: one of the model's prompts, whatever the role.
        text: the words themselves; empty for no prompt at all.

    Raises:
        UserError: both a name and a text, a name that the model does not have, or several prompts for the role.
    """
    prompts = {key: value for key, value in model.prompts.items() if value}
    if text is not None:
        if name is not None:
            raise UserError("prompt", "given by name or by text", "both", "remove one of them")
        return text
    if name is not None:
        if name not in model.prompts:
            do = f"use one of {', '.join(prompts)}" if prompts else "give the words themselves (--prompt)"
            raise UserError("prompt name", "one that the model has", name, do)
        return model.prompts[name] or ""
    if role is None:
        return prompts.get(model.default_prompt_name or "", "")
    return _of_role(prompts, role)


def set_prompt(model: SentenceTransformer, role: Role, words: str) -> None:
    """Give a model its prompt for a role, in place of those that it has for it; it is saved with the model.

    Args:
        model: changed in place.
        role: query or document.
        words: in front of each text; empty for none.
    """
    for name in [name for name in model.prompts if _is_for(name, role)]:
        del model.prompts[name]
    model.prompts[_NAMES[role][0]] = words


def _of_role(prompts: dict[str, str], role: Role) -> str:
    for usual in _NAMES[role]:
        if usual in prompts:
            return prompts[usual]
    longer = [key for key in prompts if _is_for(key, role)]
    if len({prompts[key] for key in longer}) > 1:
        do = f"choose one of {', '.join(longer)} (--prompt-name)"
        raise UserError(f"the prompt for a {role}", "named where the model has several", "no name", do)
    return prompts[longer[0]] if longer else ""


def _is_for(name: str, role: Role) -> bool:
    # `query` itself and longer names such as `search_query`, `s2p_query` or `retrieval.passage`.
    return re.split(r"[^a-z0-9]", name.lower())[-1] in _NAMES[role]
