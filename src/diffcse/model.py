"""The training module: encoder, projector, discriminator and the frozen generator; its forward returns the losses.

Legend: `B` instances of this process, `S` sentences of an instance (2, or 3 with hard negatives), `N = B*S` rows in the
order instance 0 sentence 0, instance 0 sentence 1, ...; `L` tokens of the padded batch, `H` hidden.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

from diffcse import distributed, objective, packing, pooling
from diffcse.config import Config
from diffcse.discriminator import Discriminator
from diffcse.edits import MlmEdit


@dataclass
class StepOutput(ModelOutput):
    """Scalars of one step; what does not apply is absent.

    Attributes:
        loss: what is minimised, with gradient.
        contrastive: the contrastive term.
        rtd: the difference prediction term, before its weight.
        positive_cosine: mean cosine of the positive pairs.
        negative_cosine: mean cosine of the other in-batch pairs.
        replaced_share: share of the real tokens that the edit replaced.
        replaced_accuracy: share of the replaced tokens that the discriminator finds.
        original_accuracy: share of the original tokens that it leaves alone.
    """

    loss: Tensor | None = None
    contrastive: Tensor | None = None
    rtd: Tensor | None = None
    positive_cosine: Tensor | None = None
    negative_cosine: Tensor | None = None
    replaced_share: Tensor | None = None
    replaced_accuracy: Tensor | None = None
    original_accuracy: Tensor | None = None


class DiffCSEModel(nn.Module):
    """Everything that is trained, and the generator that is not.

    Args:
        encoder: a Transformer with an `embeddings` module.
        edit: makes x''; None for objective simcse.
        config: the whole run's settings; the model reads `model`, `objective` and what `training` says about memory.
    """

    def __init__(self, encoder: PreTrainedModel, edit: MlmEdit | None, config: Config) -> None:
        super().__init__()
        self.settings, self.pooler = config.objective, config.model.pooler
        self.rows_at_once, padding_free = config.training.rows_at_once, config.training.padding_free
        self.encoder = without_pooler(encoder)
        self.padding_free = padding_free
        self.projector = pooling.build_projector(config.model.projector, encoder.config.hidden_size)
        with_edits = config.objective.objective == "diffcse"
        # The second Transformer starts as a copy of the encoder's checkpoint and is thrown away after training.
        # Where the mean runs over padding too, so must the discriminator: what it says there enters the loss.
        real_only = padding_free and config.objective.rtd_average == "real"
        self.discriminator = Discriminator(copy.deepcopy(self.encoder), padding_free=real_only) if with_edits else None
        self.edit = edit if with_edits else None
        # Frozen, and moved by `diffcse.averaging`; here so that checkpoints hold it.
        averaged = config.training.ema_decay > 0
        self.average = copy.deepcopy(self.encoder).requires_grad_(False) if averaged else None
        # The generator never changes, so checkpoints need not hold it.
        self._keys_to_ignore_on_save = [name for name in self.state_dict() if name.startswith("edit.")]

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **masked: Tensor) -> StepOutput:
        """The losses of one batch.

        Args:
            input_ids: (B, S, L).
            attention_mask: (B, S, L), 1 at real tokens.
            masked: `masked_ids`, `chosen` and `draws` of shape (B, S, L) for `MlmEdit`; not used for simcse.
        """
        pooled = self.pool(input_ids, attention_mask)  # (B, S, H)
        # Gathered before the projector: BatchNorm and the in-batch negatives then see the batch of all processes.
        everyone = distributed.gather_with_gradient(pooled)
        projected = self.project(everyone)
        contrast = self.contrast(projected)
        output = StepOutput(
            loss=contrast.loss,
            contrastive=contrast.loss.detach(),
            positive_cosine=contrast.positive_cosine,
            negative_cosine=contrast.negative_cosine,
        )
        if self.discriminator is None:
            return output
        sentence = projected if self.settings.conditioning == "projected" else everyone
        sentence = distributed.own_rows(sentence, len(input_ids))
        rows = {"input_ids": input_ids, "attention_mask": attention_mask, **masked}
        return self._add_difference(output, contrast.loss, sentence, rows)

    def checkpoint_layers(self) -> None:
        """Keep only each layer's input for the backward pass, in the encoder and in the discriminator."""
        packing.checkpoint_layers(self.encoder, padding_free=self.padding_free)
        if self.discriminator is not None:
            packing.checkpoint_layers(self.discriminator.backbone, padding_free=self.discriminator.padding_free)

    def tie_weights(self) -> None:
        """Called by the Trainer after it loaded a checkpoint without the generator; nothing here shares weights."""

    def pool(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Sentence vectors before the projector, (B, S, H) from ids (B, S, L)."""

        def encode(ids: Tensor, mask: Tensor) -> Tensor:
            return pooling.encode(self.encoder, ids, mask, self.pooler, padding_free=self.padding_free)

        rows = self._in_parts(encode, input_ids.flatten(0, 1), attention_mask.flatten(0, 1))
        return rows.unflatten(0, input_ids.shape[:2])

    def _in_parts(self, network: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """`network` of all rows, a part at a time if memory is short; a part's activations are made again backward.

        The whole batch's vectors are there before the loss is, so the gradient is the whole batch's (Gao et al., 2021).
        """
        if not self.rows_at_once or self.rows_at_once >= len(inputs[0]) or not torch.is_grad_enabled():
            return network(*inputs)
        parts = zip(*(rows.split(self.rows_at_once) for rows in inputs), strict=True)
        return torch.cat([checkpoint(network, *part, use_reentrant=False) for part in parts])

    def project(self, pooled: Tensor) -> Tensor:
        """Through the projector, all views of a batch together (BatchNorm sees them as one), (B, S, H)."""
        return self.projector(pooled.flatten(0, 1)).unflatten(0, pooled.shape[:2])

    def contrast(self, projected: Tensor) -> objective.Contrast:
        """The contrastive term of (B, S, H) vectors, in float32 whatever the precision of the forward pass."""
        z1, z2, *z3 = projected.float().unbind(1)
        return objective.contrastive(
            z1,
            z2,
            *z3,
            temperature=self.settings.temperature,
            hard_negative_weight=self.settings.hard_negative_weight,
        )

    def _add_difference(
        self, output: StepOutput, contrastive: Tensor, sentence: Tensor, rows: dict[str, Tensor]
    ) -> StepOutput:
        assert self.edit is not None and self.discriminator is not None
        views = slice(None) if self.settings.edited_views == "all" else slice(0, 1)
        rows = self._pad_alike({name: value[:, views].flatten(0, 1) for name, value in rows.items()})
        edited = self.edit(**rows)
        mask = rows["attention_mask"]
        vectors = sentence[:, views].flatten(0, 1)
        logits = self._in_parts(self.discriminator, edited.input_ids, mask, vectors).float()  # (N, L, 2)
        rtd = self.difference(logits, edited.replaced, mask)
        output["rtd"] = rtd.detach()
        output["loss"] = objective.total(contrastive, rtd, self.settings.lambda_weight)
        for name, value in vars(objective.detection(logits.detach(), edited.replaced, mask)).items():
            output[name] = value
        return output

    def difference(self, logits: Tensor, replaced: Tensor, attention_mask: Tensor) -> Tensor:
        """The difference prediction term of logits (N, L, 2), averaged as the settings say."""
        if self.settings.rtd_average == "padded":
            return objective.replaced_token_detection(logits, replaced, counted=replaced.new_ones(replaced.shape))
        count = attention_mask.sum()
        # Processes hold different numbers of real tokens; DDP's plain mean over them must become a mean over tokens.
        share = count / distributed.mean_count(count.float())
        return objective.replaced_token_detection(logits, replaced, counted=attention_mask) * share

    def _pad_alike(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """Pad to the longest row of all processes: the reference's mean counts the padding of the whole batch."""
        length = rows["input_ids"].shape[1]
        extra = distributed.longest(length, rows["input_ids"].device) - length
        if not extra or self.settings.rtd_average != "padded":
            return rows
        return {name: F.pad(value, (0, extra)) for name, value in rows.items()}


def without_pooler(backbone: PreTrainedModel) -> PreTrainedModel:
    """Drop the unused pooling layer of BERT-like models: it would get no gradient, which DDP refuses."""
    if getattr(backbone, "pooler", None) is not None:
        backbone.register_module("pooler", None)
    return backbone


def trained_parts(state: dict[str, Any]) -> dict[str, Any]:
    """Projector and discriminator of a training state, for `--keep-discriminator`."""
    return {name: value for name, value in state.items() if name.startswith(("projector.", "discriminator."))}
