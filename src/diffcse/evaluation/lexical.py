"""What counting words finds, to hold against any encoder: TF-IDF and BM25.

Legend: `Q` queries, `D` documents, `V` words, `b` queries of a block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

from diffcse.text.prose import UNSPACED

STOP_WORDS = tuple(
    "a an and are as at be but by for if in into is it no not of on or such that the their then there these they this "
    "to was will with".split()
)
"""Lucene's 33 English words."""

WORD = rf"[{UNSPACED}]|[^\W{UNSPACED}]+"
"""A word, or a single character in scripts that are written without spaces."""

_K1, _B = 1.2, 0.75
"""How soon further times of a word count for nothing, and how much a document's length does; the usual values."""
_BLOCK_VALUES = 2**24


class TfIdf:
    """Cosine of TF-IDF vectors (scikit-learn's, lower-cased, l2 norm)."""

    def scores(self, queries: Sequence[str], documents: Sequence[str]) -> Iterator[NDArray[np.float64]]:
        """Scores of every query against every document, in blocks (b, D)."""
        words = TfidfVectorizer(token_pattern=WORD)
        weights = _fit(words, documents)
        return _blocks(words.transform(queries), weights) if weights is not None else _zeros(queries, documents)


class BM25:
    """Okapi BM25 (Robertson et al., 1994), with Lucene's idf, which is never negative, and its stop words."""

    def scores(self, queries: Sequence[str], documents: Sequence[str]) -> Iterator[NDArray[np.float64]]:
        """Scores of every query against every document, in blocks (b, D)."""
        words = CountVectorizer(token_pattern=WORD, stop_words=list(STOP_WORDS))
        counts = _fit(words, documents)
        return _blocks(words.transform(queries), _bm25(counts)) if counts is not None else _zeros(queries, documents)


def _bm25(counts: Any) -> Any:
    """What each word (V) of each document (D) adds to the score of a query that has it once."""
    entries = sparse.coo_array(counts, dtype=np.float64)
    lengths = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    found_in = np.bincount(entries.col, minlength=counts.shape[1])  # (V,), documents with the word
    idf = np.log1p((len(lengths) - found_in + 0.5) / (found_in + 0.5))
    # A word counts less each further time, and less in a document that is longer than the mean.
    saturation = _K1 * (1 - _B + _B * lengths / lengths.mean())
    values = idf[entries.col] * entries.data * (_K1 + 1) / (entries.data + saturation[entries.row])
    return sparse.csr_array((values, (entries.row, entries.col)), shape=counts.shape)


def _fit(words: CountVectorizer, documents: Sequence[str]) -> Any:
    """Matrix (D, V); None where no document has a word, which scikit-learn refuses."""
    analyse = words.build_analyzer()
    return words.fit_transform(documents) if any(analyse(document) for document in documents) else None


def _blocks(queries: Any, documents: Any) -> Iterator[NDArray[np.float64]]:
    size = max(_BLOCK_VALUES // documents.shape[0], 1)
    for start in range(0, queries.shape[0], size):
        yield (queries[start : start + size] @ documents.T).toarray()


def _zeros(queries: Sequence[str], documents: Sequence[str]) -> Iterator[NDArray[np.float64]]:
    for _ in queries:
        yield np.zeros((1, len(documents)))
