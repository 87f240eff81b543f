"""What is asked of held-out documents without labels: parts of a document look for the document that they are from.

Two kinds of questions, because a model may get better at the one and worse at the other:

- `sentence`: a sentence looks for the rest of its document; nothing of the sentence is left there.
- `keywords`: two to six telling words of that rest, in their order, look for it; nearer to what people type.

Both search the same texts, so that a model reads each of them once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer

from diffcse.adaptation.parts import Text
from diffcse.evaluation.lexical import WORD
from diffcse.evaluation.retrieval import Retrieval, spans

SENTENCE, KEYWORDS = "sentence", "keywords"
KINDS = (SENTENCE, KEYWORDS)
"""Kinds of questions; the first one is what a model must be better at to be kept."""

_FEWEST, _MOST = 2, 6
_WORD = re.compile(WORD)


def questions(documents: Sequence[Text], seed: int) -> dict[str, Retrieval]:
    """A task of each kind, with a question for every document of two sentences or more.

    Args:
        documents: held out.
        seed: draws the sentences and the words.
    """
    sentence = spans([document.sentences for document in documents], seed=seed)
    return {SENTENCE: sentence, KEYWORDS: _keywords(sentence.documents, seed)}


def _keywords(texts: list[str], seed: int) -> Retrieval:
    rng = np.random.default_rng(seed)
    asked = [(query, row) for row, query in enumerate(keywords(texts, rng)) if query]
    return Retrieval([query for query, _ in asked], texts, [{row: 1.0} for _, row in asked])


def keywords(texts: Sequence[str], rng: np.random.Generator) -> list[str]:
    """Two to six telling words of each text, in their order; empty for a text without two different words.

    Args:
        texts: also what a word's weight is counted over.
        rng: draws the words.
    """
    if not any(map(_WORD.search, texts)):
        return [""] * len(texts)
    weights = TfidfVectorizer(token_pattern=WORD, norm=None)
    weights.fit(texts)
    idf = dict(zip(weights.get_feature_names_out(), weights.idf_, strict=True))
    return [_draw(text, idf, rng) for text in texts]


def _draw(text: str, idf: dict[str, float], rng: np.random.Generator) -> str:
    """Different words of a text, likelier the rarer they are among all texts, in their order."""
    first: dict[str, int] = {}
    words = _WORD.findall(text)
    for place, word in enumerate(words):
        first.setdefault(word.lower(), place)
    if len(first) < _FEWEST:
        return ""
    # Squared, as in TF-IDF's own cosine: a word that half of the texts have is hardly ever what is looked for.
    weights: NDArray[np.float64] = np.array([idf.get(word, 1.0) ** 2 for word in first])
    count = min(int(rng.integers(_FEWEST, _MOST + 1)), len(first))
    places = np.array(list(first.values()))
    chosen = rng.choice(places, size=count, replace=False, p=weights / weights.sum())
    return " ".join(words[place] for place in sorted(chosen))
