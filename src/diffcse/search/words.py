"""Words of a text as a full-text search counts them, also where a script puts no spaces between words.

SQLite's tokenizer cuts at spaces and punctuation. Chinese, Japanese, Thai, Lao, Khmer and Burmese have none between
words, so their runs are indexed as overlapping pairs of characters, as Lucene's CJK analyzer does: no dictionary, the
same for every language, and a word of two or more characters is found wherever it stands.
"""

from __future__ import annotations

import itertools
import re
import unicodedata

TOKENIZER = "unicode61 categories ''L* N* Co Mn Mc''"
"""SQLite's, with the vowel signs and tone marks that belong to the letters of Indic and Thai words."""

_UNSPACED = (
    "\u0e01-\u0e3a\u0e40-\u0e4e"  # Thai
    "\u0e81-\u0ece\u0edc-\u0edf"  # Lao
    "\u1000-\u103f\u1050-\u109f"  # Burmese
    "\u1780-\u17d3"  # Khmer
    "\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # kana
    "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
)
_RUN = re.compile(f"[{_UNSPACED}]+")
_WORD = re.compile(r"\w+")


def as_words(text: str) -> str:
    """The text with runs of scripts without spaces as pairs of characters, for the tokenizer.

    The last character of a run stands alone: every character then begins exactly one word, so that a query of one
    character finds it by its prefix.

    >>> as_words("in 東京都 now")
    'in  東京 京都 都  now'
    """
    return _RUN.sub(lambda run: f" {' '.join(_pairs(run[0]))} ", text)


def terms(query: str, pairs: bool) -> dict[str, str]:
    """The words of a query, and how each is asked for in SQLite's full-text language.

    Args:
        query: plain text; every other character than letters, their marks and digits separates words.
        pairs: whether the index has runs of scripts without spaces as pairs.

    >>> terms("Tokyo, 東京都 の", pairs=True)
    {'Tokyo': '"Tokyo"', '東京': '"東京"', '京都': '"京都"', 'の': '"の" *'}
    """
    if not pairs:
        return {word: f'"{word}"' for word in _WORD.findall(query)}
    every: dict[str, str] = {}
    for word in "".join(char if _in_word(char) else " " for char in query).split():
        for run in re.split(f"([{_UNSPACED}]+)", word):
            if not _RUN.match(run):
                every |= {run: f'"{run}"'} if run else {}
            elif len(parts := _pairs(run)) == 1:
                every[run] = f'"{run}" *'
            else:
                every |= {part: f'"{part}"' for part in parts[:-1]}
    return every


def _pairs(run: str) -> list[str]:
    """Overlapping pairs of characters, each with its marks, and the last character."""
    characters: list[str] = []
    for char in run:
        if characters and unicodedata.category(char).startswith("M"):
            characters[-1] += char
        else:
            characters.append(char)
    return [*map("".join, itertools.pairwise(characters)), characters[-1]]


def _in_word(char: str) -> bool:
    return char.isalnum() or unicodedata.category(char).startswith("M")
