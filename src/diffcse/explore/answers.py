"""What the page answers to each of its buttons: text in, a picture or a message out. No gradio here."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from diffcse.errors import UserError
from diffcse.explore import limits, pictures
from diffcse.explore.corpus import Corpus, Embed, cosine_table, make_corpus, search
from diffcse.explore.edit_view import TrainedParts, has_discriminator, load_parts, look

MOST_HITS = 50
MOST_SEED = 1_000_000

Method = TypeVar("Method", bound=Callable[..., str])

_ONE_AT_A_TIME = threading.Lock()
"""The packed forward pass switches a model's attention for a while, which another thread must not see."""

SENTENCES = (
    "A man is playing a guitar on the street.",
    "Someone performs music in public.",
    "A musician plays the violin in a concert hall.",
    "The river flooded the fields after the storm.",
    "Heavy rain caused the river to rise.",
    "The storm did not flood the fields.",
    "The museum opens at nine in the morning.",
    "Visitors can enter the museum from 9 a.m.",
    "She was elected president of the university in 1998.",
    "The university lost its president in 1998.",
    "A train connects the two cities every hour.",
    "The company sells small electric cars.",
)
"""What the page shows before anything is typed."""


def or_message(method: Method) -> Method:
    """The method's picture, or what the user has to change."""

    @functools.wraps(method)
    def answer(*args: object) -> str:
        """The answer, or the error in words; one question at a time."""
        try:
            with _ONE_AT_A_TIME:
                return method(*args)
        except UserError as error:
            return pictures.message(error)

    return answer  # type: ignore[return-value]


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The page's three answers for one model.

    Attributes:
        embed: the encoder.
        query: the same with the model's prompt for queries; None for `embed`.
        document: the same with its prompt for documents; None for `embed`.
        corpus: what is searched unless a text is pasted.
        parts: encoder, generator and discriminator; None where the model has no discriminator.
        lacking: why `parts` is None.
    """

    embed: Embed
    corpus: Corpus
    query: Embed | None = None
    document: Embed | None = None
    parts: TrainedParts | None = None
    lacking: UserError | None = None
    _pasted: dict[str, Corpus] = field(default_factory=dict, repr=False)

    @or_message
    def search(self, query: str | None, pasted: str | None, top_k: float) -> str:
        """The sentences nearest to a query.

        Args:
            query: what is looked for.
            pasted: sentences to search instead of the corpus, one per line; empty for the corpus.
            top_k: how many.
        """
        query = limits.one_sentence(query, "Query")
        count = limits.whole_number(top_k, "Number of hits", 1, MOST_HITS)
        corpus = self._corpus_of(pasted)
        return pictures.hits(search(corpus, query, self.query or self.embed, count), corpus.name)

    @or_message
    def heat_map(self, text: str | None) -> str:
        """Similarities of all pairs of some sentences, one per line."""
        sentences = limits.several_sentences(text, "Sentences", least=2, most=limits.MOST_ON_MAP)
        return pictures.heat_map(sentences, cosine_table(sentences, self.embed))

    @or_message
    def sees(self, sentence: str | None, other: str | None, seed: float) -> str:
        """The edit of a sentence, and what the discriminator says with its vector and with another's.

        Args:
            sentence: what is edited.
            other: whose vector is given the second time.
            seed: decides what is masked.
        """
        if self.parts is None:
            raise self.lacking or UserError("model", "one with its discriminator", "none", "train one")
        ours = limits.one_sentence(sentence, "Sentence")
        theirs = limits.one_sentence(other, "Other sentence")
        number = limits.whole_number(seed, "Seed", 0, MOST_SEED)
        return pictures.seen(look(self.parts, ours, theirs, number), theirs)

    def _corpus_of(self, pasted: str | None) -> Corpus:
        """The pasted sentences with their vectors, or the corpus; the text pasted last is not encoded again."""
        if not (pasted or "").strip():
            return self.corpus
        key = str(pasted)
        if key not in self._pasted:
            sentences = limits.several_sentences(pasted, "Your sentences", most=limits.MOST_PASTED_SENTENCES)
            corpus = make_corpus("your text", sentences, self.document or self.embed)
            self._pasted.clear()
            self._pasted[key] = corpus
        return self._pasted[key]


def make_answers(
    model: str | None, embed: Embed, corpus: Corpus | None, *, query: Embed | None = None, document: Embed | None = None
) -> Answers:
    """Load what the page needs besides the encoder.

    Args:
        model: folder or name of the model, None for the bundled one.
        embed: that model as a function.
        corpus: what to search; None for a few examples.
        query: the model with its prompt for queries; None for `embed`.
        document: the model with its prompt for documents, which the corpus was encoded with; None for `embed`.
    """
    chosen = corpus or make_corpus("the page's examples", list(SENTENCES), document or embed)
    answers = Answers(embed=embed, corpus=chosen, query=query, document=document)
    if model is None or not Path(model).is_dir() or not has_discriminator(model):
        name = model or "bundled"
        do = (
            "train one: diffcse train text.txt -o model --preset small --keep-discriminator, then diffcse explore model"
        )
        lacking = UserError(f"model {name}", "one that was kept with its discriminator", "an encoder alone", do)
        return replace(answers, lacking=lacking)
    try:
        return replace(answers, parts=load_parts(model))
    except UserError as error:  # a generator out of reach, say: search and map work all the same
        return replace(answers, lacking=error)
