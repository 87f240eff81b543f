"""Prose out of reStructuredText, line by line.

docutils would take the directives of Sphinx, which most .rst files use, for errors, and their words for code.
"""

from __future__ import annotations

import html
import re

from diffcse.text.prose import BULLET, Prose

_NOTES = frozenset(
    "note warning tip hint important caution attention danger error seealso versionadded versionchanged"
    " deprecated".split()
)
"""Directives whose first line may hold prose."""
_WORDS_KEPT = _NOTES | frozenset(
    "admonition topic sidebar container only function class method attribute module data exception epigraph pull-quote"
    " compound tab tab-set tab-item dropdown card glossary".split()
)
"""Directives whose body is prose."""
_CODE = frozenset(
    "code code-block sourcecode literalinclude parsed-literal highlight doctest testcode math ipython plot".split()
)
_TABLES = frozenset("table list-table csv-table autosummary".split())
_DIRECTIVE = re.compile(r"^( *)\.\. (?:\|[^|]+\| )?(?:[\w+-]+:)?([\w+-]+)::(?: (.*))?$")
_VERSION = re.compile(r"^[\d.]+")
_COMMENT = re.compile(r"^( *)\.\.(?: |$)(?!\[)")
_RULE = re.compile(r"^([=\-~^\"'`#*+.:_<>])\1{2,} *$")
_GRID = re.compile(r"^ *\+[-=+]+\+ *$")
_SIMPLE = re.compile(r"^ *=+( +=+)+ *$")
_FIELD = re.compile(r"^ *:[^:`\n]{1,60}:(?: |$)")
_ROLES = (
    (re.compile(r":[\w:+.-]{1,30}:`[~!]?([^`<]*?)(?:\s*<[^`>]*>)?`"), r"\1"),  # :func:`~name`, :ref:`words <target>`
    (re.compile(r"`([^`<>]+?)\s*<[^`>]*>`__?"), r"\1"),  # `words <address>`_
    (re.compile(r"`{1,2}([^`]+)`{1,2}_{0,2}"), r"\1"),
    (re.compile(r"(?<!\w)(\*{1,2})(\w[^*]*?)\1(?!\w)"), r"\2"),
    (re.compile(r"\s?\[[#*\w]{1,20}\]_"), ""),  # footnotes
    (re.compile(r"\|(\w[^|\n]{0,40})\|_{0,2}"), r"\1"),
)


def rst(text: str) -> Prose:
    """The blocks of a text; the first heading is its title."""
    return _Reader(text).read()


class _Reader:
    """Steps through the lines; `at` is the next one."""

    def __init__(self, text: str) -> None:
        self.lines = text.expandtabs().split("\n")
        self.at = 0
        self.paragraph: list[str] = []
        self.prose = Prose()

    def read(self) -> Prose:
        """The prose of the whole text."""
        while self.at < len(self.lines):
            if not (self._heading() or self._directive() or self._comment() or self._table() or self._doctest()):
                self._line()
        self._flush()
        return self.prose

    def _flush(self) -> None:
        self.prose.add(_plain_words(" ".join(self.paragraph)))
        self.paragraph = []

    def _line(self) -> None:
        line = self.lines[self.at]
        mark = BULLET.match(line) or _FIELD.match(line)
        if mark or not line.strip():
            self._flush()
        if words := (line[mark.end() :] if mark else line).strip():
            self.paragraph.append(words)
        self.at += 1
        if line.rstrip().endswith("::"):
            self._literal(line)

    def _literal(self, line: str) -> None:
        """Skip what is indented below a line that ends in two colons, of which one is kept."""
        last = self.paragraph.pop().removesuffix("::").rstrip()
        self.paragraph += [f"{last}:"] if last else []
        self._flush()
        before = self.at
        self._skip_body(_indent(line))
        self.prose.code += self.at > before

    def _heading(self) -> bool:
        if self.paragraph:
            return False
        line, following = self.lines[self.at], "".join(self.lines[self.at + 1 : self.at + 2])
        if _RULE.match(line):  # a transition, or the line over a heading
            self.at += 1
            return True
        if not line.strip() or not _RULE.match(following) or len(following.rstrip()) < len(line.strip()) // 2:
            return False
        words = _plain_words(line.strip())
        if self.prose.title or self.prose.blocks:
            self.prose.add(words, heading=True)
        else:
            self.prose.title = words
        self.at += 2
        return True

    def _directive(self) -> bool:
        match = _DIRECTIVE.match(self.lines[self.at])
        if match is None:
            return False
        self._flush()
        indent, name, argument = match.groups()
        self.prose.code += name in _CODE
        self.prose.tables += name in _TABLES
        self.at += 1
        if name not in _WORDS_KEPT:
            self._skip_body(len(indent))
        elif name in _NOTES and (words := _VERSION.sub("", argument or "").strip()):
            self.paragraph.append(words)
        else:
            while self.at < len(self.lines) and _FIELD.match(self.lines[self.at]):  # options
                self.at += 1
        return True

    def _comment(self) -> bool:
        match = _COMMENT.match(self.lines[self.at])
        if match is not None:
            self._flush()
            self.at += 1
            self._skip_body(len(match[1]))
        return match is not None

    def _table(self) -> bool:
        line = self.lines[self.at]
        grid, simple = _GRID.match(line), _SIMPLE.match(line)
        if not grid and not simple:
            return False
        self._flush()
        self.prose.tables += 1
        self.at += 1
        if grid:
            while self.at < len(self.lines) and self.lines[self.at].lstrip().startswith(("+", "|")):
                self.at += 1
        else:
            while self.at < len(self.lines) and not self._ends_simple_table():
                self.at += 1
            self.at += 1
        return True

    def _ends_simple_table(self) -> bool:
        after = "".join(self.lines[self.at + 1 : self.at + 2])
        return bool(_SIMPLE.match(self.lines[self.at])) and not after.strip()

    def _doctest(self) -> bool:
        if not self.lines[self.at].lstrip().startswith(">>>"):
            return False
        self._flush()
        self.prose.code += 1
        while self.at < len(self.lines) and self.lines[self.at].strip():
            self.at += 1
        return True

    def _skip_body(self, indent: int) -> None:
        """Go to the first line that is neither blank nor indented by more than `indent`."""
        at = self.at
        while at < len(self.lines) and (not self.lines[at].strip() or _indent(self.lines[at]) > indent):
            at += 1
            if self.lines[at - 1].strip():
                self.at = at


def _plain_words(text: str) -> str:
    for pattern, replacement in _ROLES:
        text = pattern.sub(replacement, text)
    return html.unescape(text)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" "))
