"""A linear map after the pooling that adds to the vectors what counting words knows about these documents.

Sentence vectors and BM25 find different documents, and the mean of both scores usually finds more than either. The map
W is trained so that vectors alone give that mean: with question q, document d, the encoder's cosine and BM25's score
brought to the cosine's mean and spread over all documents of q,

    target(q, d) = (1 - a) cos(q, d) + a bm25(q, d)
    loss = KL(softmax(target / t) || softmax(cos(Wq, Wd) / t)) + |W - I|^2 / H

The second term holds the map to the identity, since a few thousand questions are fewer than its H^2 numbers. The
encoder is frozen, so every text is read once, and a few hundred steps take seconds. Distilling a lexical ranking into
vectors: SPAR (Chen et al., 2022); questions from the documents themselves, as in the inverse cloze task.

Legend: `Q` questions, `D` documents, `H` hidden, `b` questions of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from diffcse.adaptation.questions import keywords
from diffcse.encoding.encode import Encoder
from diffcse.evaluation.lexical import BM25
from diffcse.vectors import unit

MOST_DOCUMENTS = 3000
"""Documents that the map is trained on; more would only make it slower."""

_STEPS, _BATCH, _RATE, _PULL = 200, 128, 3e-4, 1.0
"""Chosen without judgments, by the loss of questions about documents that the map was not trained on (LOG.md)."""
_BLOCK = 512  # texts between two moves of the progress bar

Float = NDArray[np.float32]


def drawn(documents: Dataset, seed: int) -> list[list[str]]:
    """Sentences of the documents that the map is trained on: all, or some that `seed` draws where there are many."""
    count = min(len(documents), MOST_DOCUMENTS)
    rows = np.sort(np.random.default_rng(seed).permutation(len(documents))[:count])
    sentences: list[list[str]] = documents.select(rows)["sentences"][:]
    return sentences


def pseudo_questions(documents: Sequence[Sequence[str]], seed: int) -> list[str]:
    """Three questions of each document: its first sentence (or title), any of its sentences, a few telling words.

    A document without two different words has no telling words, and gives two.
    """
    rng = np.random.default_rng(seed)
    first = [sentences[0] for sentences in documents]
    any_sentence = [sentences[int(rng.integers(len(sentences)))] for sentences in documents]
    telling = keywords([" ".join(sentences) for sentences in documents], rng)
    return [*first, *any_sentence, *filter(None, telling)]


def fit(
    encoder: Encoder,
    documents: Sequence[Sequence[str]],
    *,
    share: float,
    temperature: float,
    seed: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Train the map of an encoder on documents.

    Args:
        encoder: frozen.
        documents: the sentences of each; a list of one sentence is a document too.
        share: of BM25 in the target, the `a` of the formula, 0 to 1.
        temperature: divisor of the scores.
        seed: draws questions and batches.
        on_progress: called with how many of how many texts and steps are done.

    Returns:
        W, shape (H, H): a vector v becomes W v.
    """
    texts, questions = [" ".join(sentences) for sentences in documents], pseudo_questions(documents, seed)
    total = len(texts) + len(questions) + _STEPS

    def show(done: int) -> None:
        if on_progress is not None:
            on_progress(done, total)

    d = _in_blocks(texts, encoder.encode_document, show, 0)
    q = _in_blocks(questions, encoder.encode_query, show, len(texts))
    target = torch.from_numpy(targets(q @ d.T, questions, texts, share) / temperature)
    return _trained(
        torch.from_numpy(q), torch.from_numpy(d), target, temperature, seed, lambda step: show(total - _STEPS + step)
    )


def targets(cosines: Float, questions: Sequence[str], texts: Sequence[str], share: float) -> Float:
    """The mean of the cosines (Q, D) and BM25's scores, each question's scores having the cosines' mean and spread."""
    words = np.concatenate(list(BM25().scores(questions, texts))).astype(np.float32)
    words -= words.mean(axis=1, keepdims=True)
    words /= words.std(axis=1, keepdims=True) + 1e-9  # a question without any known word keeps its cosines' order
    words *= cosines.std(axis=1, keepdims=True)
    words += cosines.mean(axis=1, keepdims=True)
    return (1 - share) * cosines + share * words


def _trained(
    q: Tensor, d: Tensor, target: Tensor, temperature: float, seed: int, on_step: Callable[[int], None]
) -> Tensor:
    """W (H, H) for questions q (Q, H) and documents d (D, H) of unit length, and their target (Q, D)."""
    # Begins as the identity: an untrained map changes nothing, and few steps stay near it.
    identity = torch.eye(q.shape[1])
    w = identity.clone().requires_grad_()
    optimiser = torch.optim.AdamW([w], lr=_RATE, weight_decay=0.0)
    rng = np.random.default_rng(seed)
    for step in range(1, _STEPS + 1):
        rows = torch.from_numpy(rng.integers(0, len(q), _BATCH))
        ours = functional.normalize(q[rows] @ w.T, dim=1) @ functional.normalize(d @ w.T, dim=1).T  # (b, D)
        goal = target[rows].softmax(dim=1)
        loss = functional.kl_div((ours / temperature).log_softmax(dim=1), goal, reduction="batchmean")
        loss = loss + _PULL * (w - identity).square().sum() / len(w)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        on_step(step)
    return w.detach()


def _in_blocks(
    texts: Sequence[str], encode: Callable[[list[str]], Float], show: Callable[[int], None], before: int
) -> Float:
    """Unit vectors (N, H) of the texts, with progress."""
    blocks = []
    for start in range(0, len(texts), _BLOCK):
        block = list(texts[start : start + _BLOCK])
        blocks.append(unit(encode(block), np.float32))
        show(before + start + len(block))
    return np.concatenate(blocks)
