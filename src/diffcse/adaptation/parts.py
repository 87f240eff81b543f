"""Which documents are trained on, which choose the weights, and which report: no text is on two sides.

A document's side depends on the hash of its text (or of its group, where documents come in groups) and on the seed, so
that it does not depend on the order of the files.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from diffcse.adaptation.settings import LEAST_HELD_OUT, AdaptSettings
from diffcse.errors import UserError

_LEAST_WORDS = 4
"""Shorter sentences ("See also.") occur in many documents and tell nothing apart."""
_LETTERS = re.compile(r"\W+")


@dataclass(frozen=True, kw_only=True)
class Text:
    """A held-out document.

    Attributes:
        sentences: all of it, the title first.
    """

    sentences: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Documents by what they are for.

    Attributes:
        training: columns key and sentences.
        choosing: decide which weights are kept.
        reporting: the final figures; nothing is decided by them but whether the start is kept.
        single: documents of one sentence, which have no two spans and are not trained on.
        corpus: all documents that are not held out, those of one sentence too; columns key and sentences.
        shared: sentences that were taken out of training documents because a held-out document has them too.
    """

    training: Dataset
    choosing: tuple[Text, ...]
    reporting: tuple[Text, ...]
    single: int
    corpus: Dataset
    shared: int

    def lines(self) -> list[str]:
        """What is where, in words."""
        held_out = f"{len(self.choosing):,} held out to choose by, {len(self.reporting):,} to report on"
        lines = [f"{len(self.training):,} documents to train on; {held_out}"]
        if self.single:
            lines.append(f"{self.single:,} documents of one sentence are not trained on: they have no two spans")
        if self.shared:
            lines.append(f"{self.shared:,} sentences are not trained on, because held-out documents have them too")
        return lines


def split(documents: Dataset, settings: AdaptSettings) -> Parts:
    """Hold some documents out; those of one group (column `group`, where there is one) stay together.

    Args:
        documents: columns key, title, sentences, and perhaps group; all different. A title counts as a sentence.
        settings: how many, and the seed.

    Raises:
        UserError: too few documents of two sentences or more.
    """
    documents = documents.map(_titled, batched=True)
    lengths = [len(sentences) for sentences in documents["sentences"]]
    several = [row for row, length in enumerate(lengths) if length > 1]
    _check(len(several), len(documents))
    groups = documents["group"] if "group" in documents.column_names else documents["key"]
    count = min(round(settings.held_out * len(several)), settings.most_held_out)
    count = max(count, 2 * LEAST_HELD_OUT) // 2
    choosing, reporting = _drawn(several, groups, count, settings.seed)
    names = {groups[row] for row in (*choosing, *reporting)}
    texts = {row: _text(documents[row]) for row in (*choosing, *reporting)}
    held_out = {_letters(sentence) for text in texts.values() for sentence in _long(text.sentences)}
    rows = [row for row, group in enumerate(groups) if group not in names]
    training, shared = _without(documents.select(rows).select_columns(["key", "sentences"]), held_out)
    usable = [row for row, sentences in enumerate(training["sentences"]) if len(sentences) > 1]
    if len(usable) < 2:
        raise UserError("documents to train on", "at least 2", len(usable), "add documents, or lower held_out")
    return Parts(
        training=training.select(usable),
        choosing=tuple(texts[row] for row in choosing),
        reporting=tuple(texts[row] for row in reporting),
        single=len(training) - len(usable),
        corpus=training,
        shared=shared,
    )


def _check(several: int, documents: int) -> None:
    least = 4 * LEAST_HELD_OUT
    if several < least:
        rule = f"at least {least} different ones of two sentences or more"
        got = f"{several} of {documents} documents"
        raise UserError("documents", rule, got, "add documents; short texts alone are for: diffcse train")


def _drawn(rows: list[int], groups: Iterable[Any], count: int, seed: int) -> tuple[list[int], list[int]]:
    """Two lists of about `count` rows each, a group entirely in one of them."""
    groups = list(groups)
    members: dict[Any, list[int]] = {}
    for row in rows:
        members.setdefault(groups[row], []).append(row)
    order = sorted(members, key=lambda name: _place(str(name), seed))
    drawn: tuple[list[int], list[int]] = ([], [])
    left = len(rows) - 2 * LEAST_HELD_OUT  # what must stay for training
    for name in order:
        side = drawn[len(drawn[0]) >= count]
        if len(drawn[1]) >= count:
            break
        if len(members[name]) <= min(left, 2 * count):  # a group that is too large stays in training
            side += members[name][: count - len(side)]
            left -= len(members[name])
    if min(map(len, drawn)) < LEAST_HELD_OUT:
        got = f"{len(members)} groups, the largest of {max(map(len, members.values()))}"
        raise UserError("groups of documents", "enough to hold some out", got, "give documents of more groups")
    return drawn


def _place(name: str, seed: int) -> str:
    return hashlib.sha256(f"{seed} {name}".encode()).hexdigest()


def _titled(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    titles = batch.get("title") or [""] * len(batch["sentences"])
    return {
        "sentences": [[title, *rest] if title else rest for title, rest in zip(titles, batch["sentences"], strict=True)]
    }


def _text(row: dict[str, Any]) -> Text:
    return Text(sentences=tuple(row["sentences"]))


def _without(documents: Dataset, held_out: set[str]) -> tuple[Dataset, int]:
    """Training documents without the sentences of held-out ones, and how many sentences that were."""

    def clean(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """A batch without the held-out sentences, and how many of them it had."""
        sentences = [[s for s in document if _letters(s) not in held_out] for document in batch["sentences"]]
        before = zip(batch["sentences"], sentences, strict=True)
        return {"sentences": sentences, "taken": [len(document) - len(rest) for document, rest in before]}

    cleaned = documents.map(clean, batched=True)
    taken = sum(cleaned["taken"])
    keep = [row for row, sentences in enumerate(cleaned["sentences"]) if sentences]
    return cleaned.remove_columns("taken").select(keep), taken


def _long(sentences: Iterable[str]) -> Iterable[str]:
    return (sentence for sentence in sentences if len(sentence.split()) >= _LEAST_WORDS or len(sentence) > 30)


def _letters(sentence: str) -> str:
    return _LETTERS.sub(" ", sentence).strip().lower()
