"""Continued masked language modelling: an existing encoder learns the words of your text.

The result is the same encoder (its pooling, Normalize and prompts) and a masked language model in one folder, so it
serves as a start and, with its own vocabulary, as the generator that DiffCSE's edits need.

Legend: `M` masked tokens of a batch, `H` hidden, `V` vocabulary.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Transformer
from torch import nn
from transformers import AutoModelForMaskedLM, PreTrainedModel

from diffcse.errors import UserError
from diffcse.persistence.load import load_encoder, model_errors, quietly
from diffcse.persistence.save import save_folder
from diffcse.training.networks import check_tokenizer


@dataclass(frozen=True, kw_only=True)
class Start:
    """What is trained on.

    Attributes:
        model: the encoder as a SentenceTransformer; its weights are those of `mlm`.
        mlm: the encoder with a head that predicts tokens.
        own_head: whether the checkpoint had that head; if not, it predicts through the input embeddings.
    """

    model: SentenceTransformer
    mlm: PreTrainedModel
    own_head: bool

    @property
    def tokenizer(self) -> Any:
        """The encoder's."""
        return self.model.tokenizer


def load_start(name: str, seed: int) -> Start:
    """An encoder with a head for masked language modelling.

    A head that the checkpoint lacks is new but for its output layer, which is tied to the input embeddings; `seed`
    draws it.

    Raises:
        UserError: a model that cannot be loaded, one without [MASK], or of a family without such a head.
    """
    model = load_encoder(name)
    if not isinstance(model[0], Transformer):
        kind = type(model[0]).__name__
        raise UserError(f"encoder {name}", "a Transformer", kind, "choose a model that masked words can be shown to")
    check_tokenizer(model.tokenizer, name)
    transformer = cast(Transformer, model[0])
    backbone = transformer.model
    with model_errors(name), quietly(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mlm, info = AutoModelForMaskedLM.from_pretrained(
            backbone.config._name_or_path, dtype=torch.float32, output_loading_info=True
        )
    base = mlm.base_model
    # What the encoder is, whatever form its checkpoint has; the pooling layer of BERT-like models stays out.
    base.load_state_dict(backbone.state_dict(), strict=False)
    transformer.model = base
    lacking = [key for key in info["missing_keys"] if not key.startswith(f"{mlm.base_model_prefix}.")]
    return Start(model=model, mlm=mlm, own_head=not lacking)


def save_start(start: Start, folder: Path, extra: dict[str, bytes]) -> None:
    """The SentenceTransformer folder of the encoder, whose weights and config.json hold the head as well."""
    with tempfile.TemporaryDirectory() as place:
        start.mlm.save_pretrained(place)
        both = {name: (Path(place) / name).read_bytes() for name in ("model.safetensors", "config.json")}
    save_folder(start.model, folder, {**both, **extra})


def texts_of(documents: Any, tokenizer: Any | None, max_length: int) -> list[str]:
    """Texts of about `max_length` tokens at most, consecutive sentences of one document; without a tokenizer sentences.

    Args:
        documents: a dataset with the column `sentences`.
        tokenizer: counts the tokens; None if it does not exist yet.
        max_length: tokens of a text, special ones included.
    """
    texts: list[str] = []
    for batch in documents.with_format(None).iter(1000):
        for sentences in batch["sentences"]:
            if tokenizer is None:
                texts += sentences
                continue
            room = max_length - tokenizer.num_special_tokens_to_add()
            lengths = [len(ids) for ids in tokenizer(sentences, add_special_tokens=False)["input_ids"]]
            texts += _packed(sentences, lengths, room)
    return texts


def _packed(sentences: Sequence[str], lengths: Sequence[int], room: int) -> Iterator[str]:
    """Consecutive sentences joined while they fit into `room` tokens; a longer sentence stays alone.

    >>> list(_packed(["a", "b", "c", "d"], [2, 2, 9, 1], 4))
    ['a b', 'c', 'd']
    """
    joined: list[str] = []
    used = 0
    for sentence, length in zip(sentences, lengths, strict=True):
        if joined and used + length > room:
            yield " ".join(joined)
            joined, used = [], 0
        joined.append(sentence)
        used += length
    if joined:
        yield " ".join(joined)


def logits_at(mlm: Any, input_ids: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Logits at some positions, (M, V), with gradient; the output layer gets no other rows.

    Args:
        mlm: any masked language model.
        input_ids: (B, L) without padding.
        where: indices of the positions in the flattened batch, (M,).
    """
    layer = mlm.get_output_embeddings()
    if not isinstance(layer, nn.Linear):  # a head that is not one linear layer
        return cast(torch.Tensor, mlm(input_ids=input_ids).logits.flatten(0, 1)[where])
    # A vocabulary is much wider than the model: nearly all of a step would be logits that nobody asks for.
    handle = layer.register_forward_pre_hook(lambda _, inputs: (inputs[0].flatten(0, 1)[where],))
    try:
        return cast(torch.Tensor, mlm(input_ids=input_ids).logits)
    finally:
        handle.remove()
