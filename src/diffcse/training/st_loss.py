"""The training module as a loss of sentence-transformers' own trainer, for people who live there.

Legend: `B` instances, `L` tokens of the padded batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from diffcse import distributed
from diffcse.config import Config
from diffcse.errors import UserError
from diffcse.persistence.card import CITATION
from diffcse.persistence.save import own_pooler
from diffcse.presets import build
from diffcse.settings import checked
from diffcse.training.batches import Collator, Example
from diffcse.training.build import build_model
from diffcse.training.checks import check_columns, check_positions, settle_padding
from diffcse.training.networks import networks_beside

_NAME = "the SentenceTransformer"


class DiffCSELoss(nn.Module):
    """Trains a SentenceTransformer in place with `SentenceTransformerTrainer`; labels are not used.

    The data have one column (sentences), two (pairs) or three (pairs with a hard negative). Projector, discriminator
    and their moments live in this loss, and **that trainer does not know parameters that live in a loss**:

    - it does not save them: a checkpoint holds the encoder alone;
    - it does not restore them: a resumed run continues with a new projector and a new discriminator, next to the old
      moments of the optimiser, and draws the masks of its first steps again;
    - it does not switch them to evaluation mode, so that BatchNorm would learn from evaluation data too (fixed
      here: each forward takes over the encoder's mode);
    - it does not clip their gradients, nor share them between processes (refused here).

    `diffcse train`, or `diffcse.train`, has none of these faults: use it wherever you can.

    Args:
        model: a Transformer with cls, mean or lasttoken pooling (or the mean of layers that `diffcse train` saves),
            nothing after it but Normalize.
        config: as `diffcse.build` makes it; None for the published settings of bert-sts. Encoder, pooler and length
            limit are the model's. Of the section `training` only `seed`, `padding_free`, `rows_at_once` and
            `gradient_checkpointing` count: the rest is the trainer's.

    Raises:
        UserError: a model of another kind, another vocabulary, or a setting that needs `diffcse train`.
    """

    def __init__(self, model: SentenceTransformer, config: Config | None = None) -> None:
        super().__init__()
        model = checked("model", model, SentenceTransformer)
        self.config = _fitted(checked("config", config, Config | None) or build(), model)
        self._networks = networks_beside(model, model.tokenizer, own_pooler(model), self.config)
        # Not `self.model`: the trainer takes what has that name for its own.
        self.training_module = build_model(self._networks, self.config)
        self._networks.restore_pooler()  # the trainer saves the model whenever it likes
        edits = self.config.edits if self.config.has_edits else None
        self.collate = Collator(model.tokenizer, edits, self.config.training.seed, self.config.views)
        self.batches = 0

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None = None) -> Tensor:
        """The loss of one batch, a scalar.

        Args:
            sentence_features: `input_ids` and `attention_mask`, (B, L) each, of every column.
            labels: not used.
        """
        features = list(sentence_features)
        self._check(len(features))
        module = self.training_module
        module.train(module.encoder.training)
        columns = [_unpadded(column) for column in features]
        rows: list[Example] = [(self.batches, place, list(ids)) for place, ids in enumerate(zip(*columns, strict=True))]
        self.batches += int(module.training)  # the masks of a batch are a function of (seed, batches, place in it)
        device = features[0]["input_ids"].device
        batch = {name: value.to(device) for name, value in self.collate(rows).items()}
        return cast(Tensor, module(**batch).loss)

    def get_config_dict(self) -> dict[str, Any]:
        """The settings, for the model card that the trainer writes."""
        return self.config.as_dict()

    @property
    def citation(self) -> str:
        """For the model card that the trainer writes."""
        return CITATION

    def _check(self, columns: int) -> None:
        if distributed.world()[1] > 1:
            do = "train with torchrun -m diffcse train"
            raise UserError("DiffCSELoss", "used in one process", f"{distributed.world()[1]} processes", do)
        if columns > 3:
            do = "keep a sentence, its positive and its hard negative"
            raise UserError("the data", "of one, two or three columns", f"{columns} columns", do)
        check_positions(self._networks, self.config)
        check_columns(columns, self.config)


def _unpadded(column: dict[str, Tensor]) -> list[NDArray[np.int64]]:
    """The token ids of each of a column's B texts."""
    masks = column["attention_mask"].bool().cpu().numpy()
    return [ids[mask] for ids, mask in zip(column["input_ids"].cpu().numpy(), masks, strict=True)]


def _fitted(config: Config, model: SentenceTransformer) -> Config:
    """The settings with what the model decides."""
    for name, value, off in (
        ("ema_decay", config.training.ema_decay, 0),
        ("edited_text", config.edits.edited_text, "same"),
        ("prompt", config.model.prompt or "empty", "empty"),
    ):
        if value != off:
            raise UserError(name, f"{off} in DiffCSELoss", value, "use diffcse train, which has it")
    if config.views.view == "neighbours":
        do = "give two spans of a document as two columns, or use diffcse train"
        raise UserError("view", "another than neighbours in DiffCSELoss, which sees no documents", "neighbours", do)
    pooler = own_pooler(model)
    limit = min(model.max_seq_length or config.training.max_tokens, model.tokenizer.model_max_length)
    training = dataclasses.replace(config.training, max_tokens=limit)
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, encoder=_NAME, pooler=pooler),
        training=settle_padding(training, on_gpu=model.device.type == "cuda"),
    )
