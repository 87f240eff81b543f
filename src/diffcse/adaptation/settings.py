"""Settings of an adaptation; the docstring under a field is its help on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from diffcse.settings import Checked

AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class AdaptSettings(Checked):
    """How a start is adapted to documents."""

    encoder: str = AUTO
    """Model to start from: a Hub name, a folder, `minilm` (all-MiniLM-L6-v2, from the extra of that name), `bundled`,
    or auto: minilm where that extra is installed, else bundled."""
    objective: Literal["simcse", "diffcse"] = "simcse"
    """simcse (two spans of one document attract each other, spans of others repel) or diffcse (and the edit term, which
    needs a generator with the encoder's vocabulary)."""
    generator: str = "bundled"
    """Masked language model that makes DiffCSE's edits; only used with objective diffcse."""
    lambda_weight: float = 0.005
    """Weight of the difference prediction loss; only used with objective diffcse."""
    steps: int = 0
    """Optimiser steps. More move the model further from its start, on the documents and elsewhere. 0: one pass over the
    documents, but at least 60 and at most 120."""
    learning_rate: float = 0.0
    """Peak learning rate of AdamW, which rises over the first tenth of the steps and then falls to 0. 0: 2e-5, or 1e-4
    for an encoder of fewer than three layers."""
    batch_size: int = 64
    """Documents in a step: two spans of each."""
    max_tokens: int = 64
    """Longest span (tokens) in training."""
    query_prompt: str | None = None
    """Words in front of a query (E5: `query: `), also of the questions that choose and report; the saved model keeps
    them as its prompt `query`. None: the encoder's own, if it has one; empty: none."""
    document_prompt: str | None = None
    """The same in front of a document (E5: `passage: `)."""
    read_tokens: int = 128
    """Longest document (tokens) when documents are encoded to be found; never more than the model's own limit."""
    span_sentences: int = 3
    """Most sentences of a span."""
    temperature: float = 0.05
    """Divisor of the cosines in the contrastive loss."""
    most_share: float = 0.5
    """Largest share of the trained weights in the mean of start and trained weights that is kept, above 0 to 1. The
    questions that choose resemble training, so they favour the trained weights; this bounds what is forgotten. One half
    is what Wortsman et al. (2022) advise where nothing else can choose."""
    lexical_share: float = 0.1
    """Share of BM25 in the scores that a linear map after the pooling is trained to give, 0 to 1; 0 for no map. More
    favours documents that share words with the query over those that share its meaning."""
    held_out: float = 0.3
    """Share of the documents that are not trained on: half of them choose the weights, the other half report."""
    most_held_out: int = 600
    """Most documents that are held out; more would only make the figures slower to compute."""
    seed: int = 0
    """Seed of everything that is drawn."""

    def _check(self) -> None:
        self._need("encoder", bool(self.encoder), "a name or a folder", "use auto")
        self._need("steps", self.steps >= 0, "at least 0", "leave it at its default")
        self._need("span_sentences", self.span_sentences >= 1, "at least 1", "leave it at its default")
        self._need("batch_size", self.batch_size >= 2, "at least 2", "use 64")
        for name in ("max_tokens", "read_tokens"):
            self._need(name, getattr(self, name) >= 8, "at least 8", "leave it at its default")
        self._need("temperature", self.temperature > 0, "greater than 0", "leave it at its default")
        self._need("learning_rate", self.learning_rate >= 0, "at least 0", "leave it at its default")
        self._need("lambda_weight", self.lambda_weight >= 0, "at least 0", "use 0.005")
        self._need("most_share", 0 < self.most_share <= 1, "above 0 and at most 1", "use 0.5")
        self._need("lexical_share", 0 <= self.lexical_share < 1, "at least 0 and below 1", "use 0.1")
        self._need("held_out", 0 < self.held_out < 1, "between 0 and 1", "use 0.3")
        self._need(
            "most_held_out", self.most_held_out >= 2 * LEAST_HELD_OUT, f"at least {2 * LEAST_HELD_OUT}", "use 600"
        )


def usual_steps(documents: int, batch_size: int) -> int:
    """One pass over the documents, within bounds: a few documents need several, and many saturate before.

    >>> usual_steps(900, 64), usual_steps(5000, 64), usual_steps(1_000_000, 64)
    (60, 79, 120)
    """
    return min(max(-(-documents // batch_size), 60), 120)


LEAST_HELD_OUT = 10
"""Documents that choose, and that report: with fewer no interval says anything."""
