"""Sentences of a document, in any language, with `sentencex` (Wikimedia's rules for about 300 languages).

Marked-up text comes as blocks (paragraphs, list items, headings), since no sentence crosses from one to the next.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import sentencex

from diffcse.text.prose import SPACE_ENDS, UNSPACED, Block

_LEAST_WORDS = 3
_MOST_WORDS = 100
_UNSPACED_WORD = 30
"""Characters; a longer run without a space (an address, a line of base64) is cut into runs of this length."""
_PIECE = 5_000
"""Characters that the splitter gets at once: some of its rules take time that grows with the square of the length."""

_UNSPACED = re.compile(f"[{UNSPACED}\U00020000-\U0003ffff]")  # with the rare characters of Chinese
_SPACE_ENDS = re.compile(f"[{SPACE_ENDS}]")


def split_sentences(blocks: Iterable[Block], language: str = "en") -> list[str]:
    """The sentences of a document, without empty ones; every character but white space is kept.

    A heading joins the sentence after it and a fragment of fewer than 3 words the one before it, so that each is long
    enough to mean something; a sentence of more than 100 words is cut there. Two letters of a script without spaces
    count as a word.

    Args:
        blocks: the document.
        language: whose abbreviations are known (ISO 639, such as "de"); sentence marks of all scripts always are.

    >>> split_sentences([Block("A title", heading=True), Block("It works, e.g. here. See Fig. 3. Yes.")])
    ['A title It works, e.g. here.', 'See Fig. 3. Yes.']
    """
    sentences: list[str] = []
    waiting = ""  # a heading, or a fragment at the start
    for block in blocks:
        for sentence in _split(" ".join(block.text.split()), language):
            whole = f"{waiting} {sentence}".lstrip()
            if block.heading:
                waiting = whole
            elif not sentences and words(whole) < _LEAST_WORDS:
                waiting = whole
            elif words(whole) < _LEAST_WORDS:
                sentences[-1] += f" {whole}"
                waiting = ""
            else:
                sentences.append(whole)
                waiting = ""
    if waiting:
        sentences[-1:] = [f"{sentences[-1]} {waiting}" if sentences else waiting]
    return [piece for sentence in sentences for piece in _cut(sentence)]


def words(text: str) -> int:
    """Words of a text; two letters of a script without spaces are one.

    >>> words("Three words here"), words("今天天气很好。")
    (3, 4)
    """
    unspaced = len(_UNSPACED.findall(text)) if not text.isascii() else 0
    return len(text.split()) + unspaced // 2


def _split(text: str, language: str) -> Iterator[str]:
    for piece in _pieces(text):
        for sentence in sentencex.segment(language, piece):
            if len(_SPACE_ENDS.findall(sentence)) * 2 > len(sentence):
                yield from sentence.split()
            elif sentence := sentence.strip():
                yield sentence


def _pieces(text: str) -> Iterator[str]:
    while len(text) > _PIECE:
        end = max(text.rfind(mark, 0, _PIECE) for mark in (". ", "。", "! ", "? ")) + 1
        end = end or text.rfind(" ", 0, _PIECE) + 1 or _PIECE
        yield text[:end]
        text = text[end:]
    yield text


def _cut(sentence: str) -> Iterator[str]:
    """Pieces of at most `_MOST_WORDS` words."""
    if words(sentence) <= _MOST_WORDS and len(sentence) <= _MOST_WORDS * 10:
        yield sentence
        return
    piece, length = "", 0
    for word in re.findall(rf"\S{{1,{_UNSPACED_WORD}}}\s?", sentence):
        count = words(word)
        if length + count > _MOST_WORDS:
            yield piece.strip()
            piece, length = "", 0
        piece += word
        length += count
    yield piece.strip()
