"""The training module: encoder, projector, discriminator and the frozen generator; its forward returns the losses.

Legend: `B` instances of this process, `S` sentences of an instance (2, or 3 with hard negatives), `D` drafts of an
instance, `N` rows in the order instance 0 sentence 0, instance 0 sentence 1, ...; `L` tokens of the padded batch, `K`
of the padded drafts, `H` hidden.
"""

from __future__ import annotations

import contextlib
import copy
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

from diffcse import distributed
from diffcse.config import Config, Pooler
from diffcse.kernels import gradient_cache, packing
from diffcse.kernels.dropout import quicken
from diffcse.method import objective, pooling
from diffcse.method.contrast import ContrastiveSide, Terms
from diffcse.method.discriminator import Discriminator
from diffcse.method.edits import EditedBatch, MlmEdit
from diffcse.method.later_work import Sentences, Step, evaluating
from diffcse.method.predictors import build_predictor
from diffcse.settings import checked

Edited = tuple[EditedBatch, Tensor]
"""The edits of a batch and their mask, (N, K)."""


@dataclass
class StepOutput(ModelOutput):
    """Scalars of one step; a term that the settings do not use is None.

    Attributes:
        loss: what is minimised, with gradient.
        contrastive: the contrastive term.
        rtd: the difference prediction term, before its weight.
        positive_cosine: mean cosine of the positive pairs.
        negative_cosine: mean cosine of the other in-batch pairs.
        replaced_share: share of the real tokens that the edit replaced.
        replaced_accuracy: share of the replaced tokens that the discriminator finds.
        original_accuracy: share of the original tokens that it leaves alone.
        token_accuracy: share of the tokens that it predicts, if the predictor is a language model.
        dimensions: the contrast between dimensions, before its weight.
        ranking: the distillation of the teacher's ranking, before its weight.
    """

    loss: Tensor | None = None
    contrastive: Tensor | None = None
    rtd: Tensor | None = None
    positive_cosine: Tensor | None = None
    negative_cosine: Tensor | None = None
    replaced_share: Tensor | None = None
    replaced_accuracy: Tensor | None = None
    original_accuracy: Tensor | None = None
    token_accuracy: Tensor | None = None
    dimensions: Tensor | None = None
    ranking: Tensor | None = None


class DiffCSEModel(nn.Module):
    """Everything that is trained, and the generator that is not.

    Args:
        encoder: a Transformer with an `embeddings` module.
        edit: makes x''; None if nothing is edited.
        config: the whole run's settings; the model reads `model`, `objective`, `extensions` and what `training` says
            about memory.
        teacher: frozen sentence encoder in sentence-transformers' form; None unless the settings name one.
        dense: layers of the start behind its pooling; None where it has none.
    """

    def __init__(
        self,
        encoder: PreTrainedModel,
        edit: MlmEdit | None,
        config: Config,
        teacher: nn.Module | None = None,
        dense: pooling.DenseLayers | None = None,
    ) -> None:
        super().__init__()
        encoder, config = checked("encoder", encoder, nn.Module), checked("config", config, Config)
        edit = checked("edit", edit, MlmEdit | None)
        self.settings = config.objective
        # A plain backbone has no pooling of its own; a SentenceTransformer's has been put into the settings by now.
        self.pooler: Pooler = "cls" if config.model.pooler == "auto" else config.model.pooler
        self.rows_at_once = config.training.rows_at_once
        self.padding_free = config.training.padding_free is not False  # not decided: as on a CPU
        packing.require_attention_dropout(encoder)  # the discriminator is a copy
        self.encoder = without_pooler(encoder)
        self.dense = dense
        self.width = int(encoder.config.hidden_size) if dense is None else dense.width
        self.projector = pooling.build_projector(config.model.projector, self.width)
        self.predictor = build_predictor(config.objective)
        self.edit = edit if config.has_edits else None
        self.discriminator = self._build_discriminator(config) if config.objective.objective == "diffcse" else None
        quicken(self)
        # Frozen; `diffcse.training.averages` moves it. It is a submodule so that checkpoints hold it.
        averaged = config.training.ema_decay > 0
        self.average = copy.deepcopy(self.encoder).requires_grad_(False) if averaged else None
        self.contrastive_side = ContrastiveSide(config, self.width)
        self.teacher = None if teacher is None else teacher.requires_grad_(False).eval()
        # Generator and teacher never change, so checkpoints need not hold them.
        self._keys_to_ignore_on_save = [name for name in self.state_dict() if name.startswith(("edit.", "teacher."))]

    def _build_discriminator(self, config: Config) -> Discriminator:
        """A second Transformer, a copy of the encoder's or the generator's checkpoint; thrown away after training."""
        start: PreTrainedModel = self.encoder
        if config.model.discriminator == "generator":
            assert self.edit is not None and self.edit.generator is not None
            start = without_pooler(cast(PreTrainedModel, self.edit.generator.mlm.base_model))
        backbone = copy.deepcopy(start).requires_grad_(True)
        # Where the mean runs over padding too, so must the discriminator: what it says there enters the loss.
        everywhere = config.objective.predictor == "rtd" and config.objective.rtd_average == "padded"
        return Discriminator(
            backbone,
            self.predictor.head(backbone),
            sentence_size=self.width,
            padding_free=self.padding_free,
            padding_asked=everywhere,
        )

    def train(self, mode: bool = True) -> DiffCSEModel:
        """The mode of everything but the teacher, which always evaluates."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, identity: Tensor | None = None, **drafts: Tensor
    ) -> StepOutput:
        """The losses of one batch.

        Args:
            input_ids: (B, S, L).
            attention_mask: (B, S, L), 1 at real tokens.
            identity: (B, I) int64; instances that share a number are no negatives of each other (view neighbours).
            drafts: `masked_ids`, `chosen` and `draws` of shape (B, D, K), D = S times the texts that are edited; and
                `aligned_ids` and `draft_mask` (B, D, K) where these differ from the ids and the mask.
        """
        edited = self._edit_all(input_ids, attention_mask, drafts)  # x'' (section 3)
        step = Step(model=self, input_ids=input_ids, attention_mask=attention_mask, edited=edited, identity=identity)
        pooled = self.pool(input_ids, attention_mask)  # h and h+, each with its own dropout masks, (B, S, H)
        further = {name: rows for later in self.contrastive_side.later for name, rows in later.rows(step).items()}
        # Gathered before the projector: BatchNorm and the in-batch negatives then see the batch of all processes.
        everyone = distributed.gather_with_gradient(torch.cat([pooled, *further.values()], dim=1))
        projected = self.project(everyone)  # (W*B, S + further, H)
        # Equation 1, and what later papers add to it.
        output = _output(self.contrastive_side(step, self._sentences(step, everyone, projected, list(further))))
        if self.discriminator is not None and edited is not None:
            condition = projected if self.settings.conditioning == "projected" else everyone
            local = distributed.own_rows(condition[:, : input_ids.shape[1]], len(input_ids))
            rtd, figures = self._difference(self.discriminator, local, *edited)  # equation 3
            # Not detached: through the vectors that the discriminator reads, rtd trains the encoder too (equation 4).
            loss = objective.total(cast(Tensor, output.loss), rtd, self.settings.lambda_weight)
            for name, value in {"rtd": rtd.detach(), "loss": loss, **figures}.items():
                output[name] = value
        return output

    def contrast(self, projected: Tensor) -> objective.Contrast:
        """The published contrastive term of (B, S, H) vectors."""
        return self.contrastive_side.plain(projected)

    def checkpoint_layers(self) -> None:
        """Keep only each layer's input for the backward pass, in the encoder and in the discriminator."""
        packing.checkpoint_layers(self.encoder, padding_free=self.padding_free)
        if self.discriminator is not None:
            packing.checkpoint_layers(self.discriminator.backbone, padding_free=self.discriminator.padding_free)

    def tie_weights(self) -> None:
        """Called by the Trainer after it loaded a checkpoint without the generator; nothing here shares weights."""

    def pool(self, input_ids: Tensor, attention_mask: Tensor, *, dropout: bool = True) -> Tensor:
        """Sentence vectors before the projector, (B, S, H) from ids (B, S, L)."""

        def encode(ids: Tensor, mask: Tensor) -> Tensor:
            """Sentence vectors (N, H) of ids and mask (N, L)."""
            # In here, since gradient caching calls this function again in the backward pass.
            with contextlib.nullcontext() if dropout else evaluating(self.encoder):
                return pooling.encode(self.encoder, ids, mask, self.pooler, padding_free=self.padding_free)

        rows = {"ids": input_ids.flatten(0, 1), "mask": attention_mask.flatten(0, 1)}
        pooled = gradient_cache.concatenated(encode, rows, self.rows_at_once)
        return (pooled if self.dense is None else self.dense(pooled)).unflatten(0, input_ids.shape[:2])

    def project(self, pooled: Tensor) -> Tensor:
        """Through the projector, all views of a batch together (BatchNorm sees them as one), (B, S, H)."""
        return self.projector(pooled.flatten(0, 1)).unflatten(0, pooled.shape[:2])

    def _sentences(self, step: Step, everyone: Tensor, projected: Tensor, further: list[str]) -> Sentences:
        """The vectors of all processes by what they are for."""
        views = step.input_ids.shape[1]
        guide = everyone[:, 0].detach()
        if self.teacher is not None:
            features = {"input_ids": step.input_ids[:, 0], "attention_mask": step.attention_mask[:, 0]}
            with torch.no_grad():
                guide = distributed.gather_with_gradient(self.teacher(features)["sentence_embedding"])
        others = dict(zip(further, projected[:, views:].unbind(1), strict=True))
        identity = None if step.identity is None else distributed.gather_with_gradient(step.identity)
        return Sentences(views=projected[:, :views], further=others, guide=guide, identity=identity)

    def _edit_all(self, input_ids: Tensor, attention_mask: Tensor, drafts: dict[str, Tensor]) -> Edited | None:
        """The drafts filled in: edits and their mask, N rows in the order instance, text, view; None without edits."""
        if self.edit is None:
            return None
        rows = {"input_ids": input_ids, "attention_mask": attention_mask, **drafts}
        if "aligned_ids" in rows:  # insertion and deletion: x'' is longer or shorter than x
            rows["input_ids"], rows["attention_mask"] = rows.pop("aligned_ids"), rows.pop("draft_mask")
        rows = {name: self._chosen_views(value, input_ids.shape[1]).flatten(0, 1) for name, value in rows.items()}
        rows = self._pad_alike(rows)
        return self.edit(**rows), rows["attention_mask"]

    def _chosen_views(self, drafts: Tensor, views: int) -> Tensor:
        """(B, D, ...) of the views that are edited: all, or the first of each text."""
        return drafts if self.settings.edited_views == "all" else drafts[:, ::views]

    def _difference(
        self, discriminator: Discriminator, sentence: Tensor, edited: EditedBatch, mask: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The difference prediction term of every edit (N, K), given its own view's vector of `sentence` (B, S, H).

        Returns:
            The term, scalar, before its weight; and the shares that are logged.
        """
        vectors = self._chosen_views(sentence, sentence.shape[1])
        texts = len(mask) // (vectors.shape[0] * vectors.shape[1])
        # The edits of one instance are ordered by text, then by view, so its views repeat once a text.
        vectors = vectors.repeat(1, texts, 1).flatten(0, 1)
        # A mean over all positions of all processes: each part of the batch adds its sum over this one count.
        count = distributed.mean_count(self.predictor.count(edited, mask).float()).clamp(min=1e-6)
        seen: list[dict[str, Tensor]] = []

        def loss(vectors: Tensor, mask: Tensor, **fields: Tensor) -> Tensor:
            """What some of the rows add to the term."""
            part = EditedBatch(**fields)
            where = self.predictor.where(part, mask)
            answers = discriminator(part.input_ids, mask, vectors, where).float()
            seen.append(self.predictor.figures(answers, part, mask))
            return self.predictor.loss(answers, part, mask, count)

        rows = {"mask": mask, **vars(edited)}
        trained = [weight for weight in discriminator.parameters() if weight.requires_grad]
        rtd = gradient_cache.summed(loss, vectors, rows, trained, self.rows_at_once, count)
        shares = {name: torch.stack([figures[name] for figures in seen]).sum(0) for name in seen[0]}
        return rtd, {name: part / whole.clamp(min=1) for name, (part, whole) in shares.items()}

    def _pad_alike(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """Pad to the longest row of all processes: the reference's mean counts the padding of the whole batch."""
        length = rows["input_ids"].shape[1]
        extra = distributed.longest(length, rows["input_ids"].device) - length
        if not extra or self.settings.rtd_average != "padded":
            return rows
        return {name: F.pad(value, (0, extra)) for name, value in rows.items()}


def _output(terms: Terms) -> StepOutput:
    return StepOutput(
        loss=terms.loss,
        contrastive=terms.contrast.detach(),
        positive_cosine=terms.plain.positive_cosine,
        negative_cosine=terms.plain.negative_cosine,
        **{name: term.detach() for name, term in terms.further.items()},
    )


def without_pooler(backbone: PreTrainedModel) -> PreTrainedModel:
    """Drop the unused pooling layer of BERT-like models: it would get no gradient, which DDP refuses."""
    if getattr(backbone, "pooler", None) is not None:
        backbone.register_module("pooler", None)
    return backbone


def trained_parts(state: dict[str, Any]) -> dict[str, Any]:
    """Projector and discriminator of a training state, for `--keep-discriminator`."""
    return {name: value for name, value in state.items() if name.startswith(("projector.", "discriminator."))}
