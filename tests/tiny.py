"""Tiny real networks of every family, with fixed weights and a vocabulary built here; no network, no fixtures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, BertTokenizer

WORDS = """the a cat dog sat ran on mat road in house tree and is was very red blue big small he she it they saw ate
fish bird sings loudly today tomorrow we like old new books about music river boat sky rain sun""".split()
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCABULARY = {token: i for i, token in enumerate([*SPECIAL, *WORDS, ".", ",", "##s", "##ing"])}
SENTENCES = [
    "The cat sat on the mat.",
    "A dog ran in the road today.",
    "She saw a big red house.",
    "The bird sings loudly in the old tree.",
    "We like new books about music.",
    "They ate fish.",
    "It was a very small blue boat on the river.",
    "Rain and sun in the sky tomorrow.",
]

_SIZE: dict[str, Any] = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "cls_token_id": 2,
    "sep_token_id": 3,
}
_DISTIL = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "dropout": 0.1, "attention_dropout": 0.1}
_DEBERTA = {
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_buckets": 16,
    "max_relative_positions": 32,
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
    "position_biased_input": False,
    "type_vocab_size": 0,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": {"type_vocab_size": 1},
    "xlm-roberta": {"type_vocab_size": 1},
    "distilbert": _DISTIL,
    "mpnet": {},
    "electra": {"embedding_size": 8},
    "deberta-v2": _DEBERTA,
    "modernbert": {"global_attn_every_n_layers": 2, "local_attention": 8, "reference_compile": False},
}


def config(family: str = "bert", *, dropout: float | None = None, **changes: Any) -> Any:
    """A configuration of the family; `dropout` sets every dropout it has."""
    made = AutoConfig.for_model(family, **{**_SIZE, **FAMILIES[family], **changes})
    if dropout is not None:
        for name in vars(made):
            if "dropout" in name and isinstance(getattr(made, name), float):
                setattr(made, name, dropout)
    return made


def encoder(family: str = "bert", *, seed: int = 0, dropout: float | None = None, **changes: Any) -> torch.nn.Module:
    torch.manual_seed(seed)
    return _louder(AutoModel.from_config(config(family, dropout=dropout, **changes)))


def mlm(family: str = "bert", *, seed: int = 1, dropout: float | None = None, **changes: Any) -> torch.nn.Module:
    torch.manual_seed(seed)
    return _louder(AutoModelForMaskedLM.from_config(config(family, dropout=dropout, **changes)))


def _louder(model: torch.nn.Module) -> torch.nn.Module:
    # At the usual 0.02 a two-layer network of width 16 hardly changes its input.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)
    return model


def tokenizer() -> BertTokenizer:
    return BertTokenizer(vocab=VOCABULARY, do_lower_case=True)


def save(model: torch.nn.Module, folder: Path) -> str:
    """A folder as a hub has it: model and tokenizer."""
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


def write_sentences(path: Path, count: int) -> Path:
    """A text of `count` different sentences of the tiny vocabulary."""
    lines = []
    for i in range(count):
        a, b, c = WORDS[i % 40], WORDS[(i * 7 + 3) % 40], WORDS[(i // 40 * 11 + 5) % 40]
        lines.append(f"{SENTENCES[i % len(SENTENCES)][:-1]} and {a} {b} {c}.")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def no_model() -> None:
    """In place of the loader of a model, where the input is to be checked first."""
    raise AssertionError("the model was loaded before the input was checked")
