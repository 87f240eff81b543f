"""A small BERT that starts as a good mean of word vectors, from plain text and a tokenizer, in minutes.

Every sentence encoder averages something; this one begins with weighted word vectors from co-occurrence
(`word_vectors`) in its embedding layer and with layers that add nothing yet, so that mean pooling gives the
weighted mean of the word vectors, up to LayerNorm; only the first layer's attention already takes weight from words
that say again what others in the sentence say. Training can only start from there.

Legend: `V` vocabulary, `D` dimensions of a word vector, `H` hidden = D + 4.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from sentence_transformers.sentence_transformer.modules import Transformer
from transformers import AutoTokenizer, BertConfig, BertModel

from diffcse import __version__
from diffcse.errors import UserError
from diffcse.files import json_bytes
from diffcse.persistence.hub import locate
from diffcse.persistence.load import model_errors
from diffcse.persistence.save import save_folder, sentence_transformer
from diffcse.pretraining.config import CooccurConfig
from diffcse.pretraining.word_vectors import (
    Counts,
    HalvesFound,
    count,
    halves_found,
    positive_pmi,
    share_spelling,
    split_marks,
    token_ids,
    word_weights,
)
from diffcse.pretraining.word_vectors import word_vectors as factorise
from diffcse.pretraining.wordpiece import unknown_note
from diffcse.progress import counting, say
from diffcse.resources import GENERATOR
from diffcse.training.run_folder import RunFolder

_EXTRA = 4
"""Dimensions next to a word vector's: +c and -c for every token, then +m and -m for [CLS] alone; see `build_start`."""

_SHARPNESS = 2.0
"""Factor of the products of word vectors in `weigh_redundancy`'s scores; small, so that exp is near its tangent."""

_SINK = 100.0
"""Weight of [CLS] in that softmax in words, so that the others' sum is hardly normalised."""


@dataclass(frozen=True, kw_only=True)
class CooccurResult:
    """What was counted and how the vectors do on sentences that were not.

    Attributes:
        tokens: tokens counted.
        pairs: different pairs of words seen within the broad window.
        held_out: half of a held-out sentence's words finding the other half.
    """

    tokens: int
    pairs: int
    held_out: HalvesFound


def cooccur(
    sentences: Sequence[str], output: str | Path, config: CooccurConfig, *, console: Console | None = None
) -> CooccurResult:
    """Count, factorise, and save a SentenceTransformer folder with mean pooling; the same call gives the same bytes.

    The first `config.held_out` sentences are not counted; they measure the result.

    Args:
        sentences: plain text, one sentence each.
        output: a new or empty folder.
        config: all settings.
        console: where progress is shown; None shows nothing.

    Raises:
        UserError: for too little text, a tokenizer that cannot be used, or a folder that holds something else.
    """
    if len(sentences) <= config.held_out:
        raise UserError("text", f"more than {config.held_out} sentences (held_out)", len(sentences), "lower held_out")
    tokenizer = fitting_tokenizer(config)
    run = RunFolder.look(Path(output), dataclasses.asdict(config), [f"{len(sentences)} sentences"])
    counted = _count(sentences[config.held_out :], tokenizer, config, console)
    say(console, unknown_note(counted.words, tokenizer))
    say(console, f"factorising {counted.pairs[-1].nnz:,} pairs of {int((counted.words > 0).sum()):,} words")
    vectors = weighted_vectors(counted, tokenizer.convert_ids_to_tokens(range(len(tokenizer))), config)
    vectors[sorted(set(tokenizer.all_special_ids))] = 0
    rows = token_ids(sentences[: config.held_out], tokenizer) if config.held_out else []
    held_out = halves_found(vectors, rows, config.seed)
    result = CooccurResult(tokens=int(counted.words.sum()), pairs=counted.pairs[-1].nnz, held_out=held_out)
    start = build_start(vectors, tokenizer, config)
    run.claim()  # last: counting leaves nothing to resume from
    save(start, tokenizer, run, result)
    return result


def fitting_tokenizer(config: CooccurConfig) -> Any:
    """The tokenizer of the settings, whose vocabulary must be larger than the vectors are wide.

    Raises:
        UserError: it cannot be used.
    """
    tokenizer = load_tokenizer(config.tokenizer)
    if config.hidden_size - _EXTRA >= len(tokenizer):
        rule = f"below the vocabulary's size ({len(tokenizer)})"
        raise UserError("hidden_size", rule, config.hidden_size, "lower hidden_size")
    return tokenizer


def load_tokenizer(name: str) -> Any:
    """The tokenizer whose words are counted: a masked language model's that later makes the edits."""
    folder = locate(name, resource=GENERATOR)
    with model_errors(name):
        tokenizer = AutoTokenizer.from_pretrained(folder)
    for special in ("pad_token", "cls_token"):
        if getattr(tokenizer, special) is None:
            do = "use a masked language model's tokenizer"
            raise UserError(f"tokenizer {name}", f"one with a {special}", "none", do)
    return tokenizer


def _count(sentences: Sequence[str], tokenizer: Any, config: CooccurConfig, console: Console | None) -> Counts:
    windows = (config.narrow_window, config.broad_window)
    with counting(console, "counting", len(sentences)) as show:
        return count(sentences, tokenizer, windows, on_progress=show)


def weighted_vectors(counted: Counts, tokens: Sequence[str], config: CooccurConfig) -> NDArray[np.float64]:
    """Weighted word vectors (V, D) from the sum of the windows' matrices.

    A narrow window says what can take a word's place, a broad one what a text is about; the sum keeps both.
    """
    narrow, broad = (positive_pmi(pairs, config.context_smoothing) for pairs in counted.pairs)
    vectors = factorise(narrow + broad, config.hidden_size - _EXTRA, config.singular_power, config.seed)
    vectors = share_spelling(vectors, tokens, config.spelling)
    weights = word_weights(counted.shares, config.frequency_scale)
    return vectors * np.where(split_marks(tokens)[1], config.continuation_weight * weights, weights)[:, None]


def build_start(vectors: NDArray[np.float64], tokenizer: Any, config: CooccurConfig) -> BertModel:
    """A BERT whose mean over tokens is the mean of `vectors`, until it is trained.

    LayerNorm would make every token vector equally long and so undo the weights. Two further dimensions hold +c and -c
    for every token, through the token type embedding: they dominate the norm, so the others keep their proportions to
    within w / sqrt(w^2 + 2). Two more mark [CLS]. The last LayerNorm multiplies these four by 0. The layers' output
    projections are 0 but for `weigh_redundancy`, so that each layer is the identity at first, as in residual networks
    that are hard to train otherwise (Goyal et al., 2017, section 5.1); positions are 0 too, and all of them learn.

    Args:
        vectors: weighted word vectors (V, D), at most of length 1.
        tokenizer: theirs.
        config: gives layers, heads and lengths.
    """
    torch.manual_seed(config.seed)
    size = vectors.shape[1]
    settings = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden_size,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        intermediate_size=config.intermediate_size,
        max_position_embeddings=config.max_length,
        type_vocab_size=1,
        # Of the first layer's scores two halves are subtracted; a score that is dropped would count for all it cancels.
        attention_probs_dropout_prob=0.0 if config.redundancy else 0.1,
        pad_token_id=tokenizer.pad_token_id,
    )
    model: Any = BertModel(settings, add_pooling_layer=False)
    scale = settings.initializer_range * np.sqrt(config.hidden_size)  # entries as large as BERT's own at the start
    words, types = model.embeddings.word_embeddings.weight, model.embeddings.token_type_embeddings.weight
    with torch.no_grad():
        words.zero_()
        words[:, :size] = torch.from_numpy(vectors * scale).to(words.dtype)
        types.zero_()
        types[0, size : size + 2] = torch.tensor([scale, -scale], dtype=types.dtype)
        words[tokenizer.cls_token_id, size + 2 :] = torch.tensor([scale, -scale], dtype=words.dtype)
        model.embeddings.position_embeddings.weight.zero_()
        for layer in model.encoder.layer:
            layer.attention.output.dense.weight.zero_()
            layer.output.dense.weight.zero_()
        model.encoder.layer[-1].output.LayerNorm.weight[size:] = 0
        if config.redundancy:
            weigh_redundancy(model.encoder.layer[0].attention, size, config.redundancy)
    built: BertModel = model.eval()
    return built


def weigh_redundancy(layer: Any, size: int, strength: float) -> None:
    """Make attention divide each token's vector by 1 + strength * r, r being its product with the sentence's sum.

    A word that comes twice, or next to words like it, is said once; a plain mean counts it every time. The heads look
    at D / heads dimensions each. Half of them score words by being alike, half by being unlike, and all of them score
    [CLS] so high that the others share little: the difference of what the two halves find next to [CLS] is r, to second
    order. It is added to +c and -c, and the LayerNorm after the attention divides by them.

    Args:
        layer: attention of a BERT whose hidden vectors are as `build_start` makes them.
        size: D.
        strength: of the redundancy.
    """
    scores, hidden = layer.self, size + _EXTRA
    heads, width = int(scores.num_attention_heads), int(scores.attention_head_size)
    plus, minus, mark = size, size + 1, size + 2
    marked = hidden**0.5 / 2  # what LayerNorm makes of the mark of [CLS]
    root = width**0.25  # scores are divided by the square root of the width
    sharp = root * (2 * heads * _SHARPNESS / hidden) ** 0.5
    for linear in (scores.query, scores.key, scores.value, layer.output.dense):
        linear.weight.zero_()
        linear.bias.zero_()
    for head, dims in enumerate(np.array_split(np.arange(size), heads)):
        sign, first, last = (-1) ** head, head * width, (head + 1) * width - 1
        for row, dim in enumerate(dims[: width - 1], start=first):
            scores.query.weight[row, dim], scores.key.weight[row, dim] = sharp, sign * sharp
        scores.query.bias[last] = root * np.log(_SINK) ** 0.5
        scores.key.weight[last, mark] = root * np.log(_SINK) ** 0.5 / marked
        scores.value.bias[first], scores.value.weight[first, mark] = 1.0, -1.0 / marked  # 1 for every token but [CLS]
        scale = sign * strength * (hidden / 2) ** 0.5 * _SINK / (heads * _SHARPNESS)
        layer.output.dense.weight[plus, first], layer.output.dense.weight[minus, first] = scale, -scale


def save(model: BertModel, tokenizer: Any, run: RunFolder, result: CooccurResult) -> None:
    """The model in half precision as a SentenceTransformer folder with mean pooling, and its settings."""
    with tempfile.TemporaryDirectory() as part:
        model.half().save_pretrained(part)
        tokenizer.save_pretrained(part)
        transformer = Transformer(part, model_kwargs={"dtype": torch.float16})
        files = {
            "README.md": card(run.about["settings"], result).encode(),
            "held_out.json": json_bytes(dataclasses.asdict(result)),
        }
        save_folder(sentence_transformer(transformer, "avg"), run.folder, files)
    run.mark_finished()


def card(settings: dict[str, Any], result: CooccurResult) -> str:
    """README.md of the folder."""
    halves, measured = result.held_out, ""
    if halves.sentences:
        measured = f""" Half of a
held-out sentence's words finds the other half among {halves.sentences:,} sentences in
{100 * halves.share:.1f}% of the cases."""
    return f"""---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [sentence-transformers, sentence-similarity, feature-extraction]
---

# Sentence encoder from word co-occurrence

A BERT whose mean over tokens is the weighted mean of word vectors from co-occurrence, with less weight for words that
say again what others in the sentence say: a start for DiffCSE and a sentence encoder by itself. Made without labels by
`diffcse cooccur` {__version__} from {result.tokens:,} tokens ({result.pairs:,} different pairs of words).{measured}

```json
{json.dumps(settings, indent=2)}
```

Method: positive pointwise mutual information (Levy and Goldberg, 2014; Levy et al., 2015), truncated singular value
decomposition (Halko et al., 2011), frequency weights (Arora et al., 2017), directions shared by words that are spelled
alike, redundancy through the first layer's attention.
"""
