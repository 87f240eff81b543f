"""Sentences in memory with their vectors: what the page searches in and what its heat map compares.

Legend: `N` sentences, `H` hidden.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from diffcse.errors import UserError
from diffcse.explore.limits import MOST_IN_FILE
from diffcse.text.stream import open_texts, readable
from diffcse.vectors import Vectors, exact_search, unit

log = logging.getLogger(__name__)


class Embed(Protocol):
    """Anything that turns N sentences into vectors (N, H)."""

    def __call__(self, sentences: list[str], /) -> Vectors:
        """Vectors (N, H) of any length."""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Sentences with their unit vectors.

    Attributes:
        name: where they come from.
        sentences: N of them.
        vectors: (N, H).
        left_out: the source holds more sentences than were taken.
    """

    name: str
    sentences: list[str]
    vectors: Vectors
    left_out: bool = False


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The result of a search.

    Attributes:
        query: the sentence looked for.
        hits: (sentence, cosine), best first.
        cosines: of the query with every sentence of the corpus, (N,).
    """

    query: str
    hits: list[tuple[str, float]]
    cosines: NDArray[np.float32]


def make_corpus(name: str, sentences: list[str], embed: Embed, *, left_out: bool = False) -> Corpus:
    """Encode the sentences."""
    return Corpus(name=name, sentences=sentences, vectors=unit(embed(sentences)), left_out=left_out)


def read_corpus(source: str, embed: Embed, *, column: str | None = None) -> Corpus:
    """The sentences of a file as `diffcse.text.stream.open_texts` reads it, `MOST_IN_FILE` at most.

    Raises:
        UserError: missing, unreadable, or without text.
    """
    texts = open_texts(source, column=column, skip_blank=True)
    lines, damaged = readable(islice(texts, MOST_IN_FILE + 1))
    if not lines:
        raise UserError(f"--corpus {source}", "a text with at least one line", "an empty file", "give another file")
    if damaged:
        log.warning("%s: replaced bytes that are not UTF-8 in %d of %d texts", source, damaged, len(lines))
    first = lines[:MOST_IN_FILE]
    return make_corpus(source, first, embed, left_out=len(lines) > len(first))


def search(corpus: Corpus, query: str, embed: Embed, top_k: int) -> Answer:
    """The sentences nearest to a query, by comparison with every one."""
    vector = unit(embed([query]))
    scores, rows = exact_search(corpus.vectors, vector, top_k)
    hits = [(corpus.sentences[row], float(score)) for score, row in zip(scores[0], rows[0], strict=True)]
    return Answer(query=query, hits=hits, cosines=corpus.vectors @ vector[0])


def cosine_table(sentences: list[str], embed: Embed) -> Vectors:
    """Cosines of all pairs, (N, N)."""
    vectors = unit(embed(sentences))
    return np.clip(vectors @ vectors.T, -1, 1)
