"""Word vectors from counting: which words occur near each other, factorised.

What is counted is turned into positive pointwise mutual information with a smoothed context distribution, and the
matrix is factorised (Levy and Goldberg, 2014; Levy et al., 2015). Frequent words are weighted down by a / (a + p), so
that the mean over a sentence's words is a sentence vector at once (Arora et al., 2017).

Legend: `V` vocabulary, `D` dimensions of a word vector, `S` sentences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.utils.extmath import randomized_svd

from diffcse.vectors import unit

SENTENCES_AT_ONCE = 20_000
"""Sentences whose tokens are in memory at the same time while counting."""

_ALIKE = 0.3
"""Cosine of the letter sequences of two words from which they are spelled alike."""

_LETTERS = 4
"""Shorter words are spelled like too many others to share anything."""

_OVERSAMPLES = 60
_POWER_ITERATIONS = 3


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What a text's words and pairs of words add up to.

    Attributes:
        pairs: for each window, how often word i and word j are at most that many tokens apart in a sentence,
            symmetric (V, V).
        words: how often each word occurs, (V,).
    """

    pairs: tuple[sparse.csr_array, ...]
    words: NDArray[np.int64]

    @property
    def shares(self) -> NDArray[np.float64]:
        """Share of each word in the text, (V,)."""
        return self.words / max(1, int(self.words.sum()))


def count(
    sentences: Sequence[str],
    tokenizer: Any,
    windows: tuple[int, ...],
    *,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Counts:
    """Count words and pairs; memory is bounded by the vocabulary and one part of the text, not by the text.

    Args:
        sentences: plain text; a pair never crosses the end of a sentence.
        tokenizer: gives the token ids; no special tokens are added.
        windows: largest distances (tokens), rising.
        on_progress: called with the number of sentences that are done.
    """
    size = len(tokenizer)
    pairs = [sparse.csr_array((size, size), dtype=np.int64) for _ in windows]
    words = np.zeros(size, dtype=np.int64)
    for start in range(0, len(sentences), SENTENCES_AT_ONCE):
        rows = token_ids(sentences[start : start + SENTENCES_AT_ONCE], tokenizer)
        ids = np.concatenate(rows)
        sentence = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
        words += np.bincount(ids, minlength=size)
        near = 0
        for i, far in enumerate(windows):
            pairs[i] = pairs[i] + _pairs(ids, sentence, near + 1, far, size)
            near = far
        on_progress(start + len(rows))
    # So far each window holds only what the narrower ones do not, and only j to the right of i.
    wider = [sum(pairs[1 : i + 1], start=pairs[0]) for i in range(len(windows))]
    return Counts(pairs=tuple((matrix + matrix.T).tocsr() for matrix in wider), words=words)


def token_ids(sentences: Sequence[str], tokenizer: Any) -> list[NDArray[np.int64]]:
    """Token ids of each sentence, without special tokens."""
    encoded = tokenizer(list(sentences), add_special_tokens=False, return_attention_mask=False, verbose=False)
    return [np.asarray(row, dtype=np.int64) for row in encoded["input_ids"]]


def _pairs(ids: NDArray[np.int64], sentence: NDArray[np.int64], first: int, last: int, size: int) -> sparse.csr_array:
    left, right = [ids[:0]], [ids[:0]]
    for distance in range(first, last + 1):
        together = sentence[:-distance] == sentence[distance:]
        left.append(ids[:-distance][together])
        right.append(ids[distance:][together])
    rows, columns = np.concatenate(left), np.concatenate(right)
    return sparse.coo_array((np.ones(len(rows), dtype=np.int64), (rows, columns)), shape=(size, size)).tocsr()


def positive_pmi(pairs: sparse.csr_array, smoothing: float) -> sparse.csr_array:
    """max(0, log(P(i, j) / (P(i) P_s(j)))) where P_s(j) is P(j) ** s, normalised; (V, V), sparse.

    Levy et al. (2015), section 3.2: s = 0.75 keeps rare contexts from looking too telling.

    Args:
        pairs: counts (V, V).
        smoothing: the exponent s.
    """
    entries = pairs.tocoo()
    total = np.maximum(pairs.sum(axis=1), 1).astype(np.float64)
    context = total**smoothing
    context /= context.sum()
    pmi = np.log(entries.data / total[entries.row] / context[entries.col])
    mask = pmi > 0
    where = (entries.row[mask], entries.col[mask])
    return sparse.coo_array((pmi[mask], where), shape=pairs.shape).tocsr()


def word_vectors(matrix: sparse.csr_array, dimensions: int, singular_power: float, seed: int) -> NDArray[np.float64]:
    """Unit vectors (V, D) of the words: the left singular vectors times the singular values to some power.

    Power 0 and below do better than 1, the plain factorisation (Levy et al., 2015, section 3.3). A word that was never
    seen has the zero vector.

    Args:
        matrix: (V, V).
        dimensions: D, below V.
        singular_power: exponent of the singular values; -1 makes every dimension count alike in a cosine of words.
        seed: of the randomised factorisation (Halko et al., 2011).
    """
    u, s, _ = randomized_svd(
        matrix, dimensions, n_oversamples=_OVERSAMPLES, n_iter=_POWER_ITERATIONS, random_state=seed
    )
    real = s > 1e-6 * s[0]
    vectors = np.where(real, u * np.where(real, s, 1.0) ** singular_power, 0.0)
    seen = np.diff(matrix.indptr) > 0  # an empty row comes out as rounding noise, not as 0
    return np.where(seen[:, None], unit(vectors, np.float64), 0.0)


def word_weights(shares: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    """Weights a / (a + p) of the words, (V,): near 1 for rare words, near 0 for the most frequent (Arora et al., 2017).

    >>> word_weights(np.array([0.0, 0.001, 0.039]), 0.001).tolist()
    [1.0, 0.5, 0.025]
    """
    return scale / (scale + shares)


def split_marks(tokens: Sequence[str]) -> tuple[list[str], NDArray[np.bool_]]:
    """Each token's letters, and whether it continues a word.

    WordPiece marks what continues a word, byte pairs and SentencePiece what begins one.

    >>> letters, continues = split_marks(["play", "##ing"])
    >>> letters, continues.tolist()
    (['play', 'ing'], [False, True])
    """
    begins = any(token.startswith(("\u0120", "\u2581")) for token in tokens)
    continues = [not token.startswith(("\u0120", "\u2581")) if begins else token.startswith("##") for token in tokens]
    return [token.lstrip("\u0120\u2581").removeprefix("##") for token in tokens], np.array(continues)


def share_spelling(vectors: NDArray[np.float64], tokens: Sequence[str], weight: float) -> NDArray[np.float64]:
    """Unit vectors (V, D) to which words that are spelled alike have added their mean direction.

    A text too small for counts is not too small for letters (Bojanowski et al., 2017, learn such a sum). Words are
    compared by the sequences of 3 to 6 letters in them, each weighted by how rare it is. Short words, pieces that go on
    with a word and words without a vector take no part.

    Args:
        vectors: unit vectors (V, D), zero for words that were never seen.
        tokens: the vocabulary, with the tokenizer's marks.
        weight: of the others' mean direction, relative to the word's own vector.
    """
    letters, continues = split_marks(tokens)
    seen = np.linalg.norm(vectors, axis=1) > 0
    whole = [len(word) >= _LETTERS and word.isalpha() for word in letters]
    places = np.flatnonzero(np.array(whole) & ~continues & seen)
    if weight == 0 or len(places) < 2:
        return vectors
    profiles = TfidfVectorizer(analyzer="char", ngram_range=(3, 6), lowercase=False, sublinear_tf=True).fit_transform(
        [f"^{letters[i]}$" for i in places]
    )
    alike = sparse.coo_array(profiles @ profiles.T)
    mask = (alike.data > _ALIKE) & (alike.row != alike.col)
    relatives = sparse.coo_array((alike.data[mask], (alike.row[mask], alike.col[mask])), shape=alike.shape).tocsr()
    shared = vectors.copy()
    shared[places] = unit(vectors[places] + weight * unit(relatives @ vectors[places], np.float64), np.float64)
    return shared


@dataclass(frozen=True, kw_only=True)
class HalvesFound:
    """How well half of a sentence's words find the other half; a measure without labels.

    Attributes:
        share: sentences whose other half is the nearest of all, 0 to 1.
        sentences: how many took part.
    """

    share: float
    sentences: int


def halves_found(vectors: NDArray[np.float64], rows: Sequence[NDArray[np.int64]], seed: int) -> HalvesFound:
    """Split each sentence's words into two random halves and look for the one with the other, among all sentences.

    Args:
        vectors: weighted word vectors (V, D).
        rows: token ids of each sentence; those below 4 tokens are skipped.
        seed: of the split.
    """
    rng = np.random.default_rng(seed)
    halves: tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]] = ([], [])
    for row in rows:
        if len(row) >= 4:
            order = rng.permutation(row)
            for half, ids in zip(halves, (order[: len(row) // 2], order[len(row) // 2 :]), strict=True):
                half.append(vectors[ids].sum(0))
    if not halves[0]:
        return HalvesFound(share=0.0, sentences=0)
    first, second = (unit(np.stack(half), np.float64) for half in halves)  # (S, D)
    nearest = (first @ second.T).argmax(1)
    return HalvesFound(share=float((nearest == np.arange(len(first))).mean()), sentences=len(first))
