"""Bounds on what the page takes: text from a browser is checked before anything is computed."""

from __future__ import annotations

from diffcse.errors import UserError

MOST_CHARACTERS = 1_000
"""Of one sentence or query."""

MOST_PASTED = 200_000
"""Characters of a pasted text."""

MOST_PASTED_SENTENCES = 2_000
"""Lines of a pasted text to search in; they are encoded while the user waits."""

MOST_ON_MAP = 24
"""Sentences of a heat map; more do not fit on a screen."""

MOST_IN_FILE = 100_000
"""Sentences taken from a corpus file; as many are compared with a query in a blink."""


def one_sentence(text: str | None, name: str) -> str:
    r"""The text without space around it and with its lines joined.

    Args:
        text: what was typed.
        name: of the field, as the page shows it.

    Raises:
        UserError: nothing there, or too much.

    >>> one_sentence("  It rains.\n", "Sentence")
    'It rains.'
    """
    sentence = " ".join(_clean(text).split())
    if not sentence:
        raise UserError(name, "a sentence", "nothing", "type a sentence")
    if len(sentence) > MOST_CHARACTERS:
        rule = f"at most {MOST_CHARACTERS:,} characters long"
        raise UserError(name, rule, f"{len(sentence):,}", "shorten it")
    return sentence


def several_sentences(text: str | None, name: str, *, least: int = 1, most: int) -> list[str]:
    r"""The lines of a text; blank lines are skipped.

    Args:
        text: what was pasted.
        name: of the field, as the page shows it.
        least: fewest sentences.
        most: most sentences.

    Raises:
        UserError: too few or too many lines, or a line or the text too long.

    >>> several_sentences("It rains.\n\nThe sun shines.", "Sentences", least=2, most=5)
    ['It rains.', 'The sun shines.']
    """
    whole = _clean(text)
    if len(whole) > MOST_PASTED:
        raise UserError(name, f"at most {MOST_PASTED:,} characters long", f"{len(whole):,}", "paste less")
    lines = [line for line in (" ".join(line.split()) for line in whole.splitlines()) if line]
    if not least <= len(lines) <= most:
        rule = f"{least:,} to {most:,} sentences, one per line"
        raise UserError(name, rule, f"{len(lines):,}", "add some" if len(lines) < least else "leave some out")
    for number, line in enumerate(lines, 1):
        one_sentence(line, f"{name}, sentence {number}")
    return lines


def whole_number(value: object, name: str, least: int, most: int) -> int:
    """A number from a field.

    >>> whole_number(3.0, "Seed", 0, 9)
    3
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or not least <= value <= most:
        raise UserError(name, f"a whole number from {least:,} to {most:,}", value, "change it")
    return int(value)


def _clean(text: str | None) -> str:
    # A browser may send half a surrogate pair, which no tokenizer takes.
    return (text or "").encode("utf-8", "replace").decode("utf-8")
