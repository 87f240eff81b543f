"""Prose out of Markdown, reStructuredText, HTML and plain text: blocks for the sentence splitter.

Code blocks and tables are removed and counted; links, roles and emphasis leave their words.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator
from typing import Literal

from markdown_it import MarkdownIt
from markdown_it.token import Token
from selectolax.lexbor import LexborHTMLParser, LexborNode

from diffcse.text.prose import BULLET, Prose
from diffcse.text.rst import rst

Kind = Literal["plain", "markdown", "rst", "html"]


def prose_of(text: str, kind: Kind) -> Prose:
    """The blocks, the title (front matter, the first top heading, <title>) and the counts of what was removed."""
    return _READERS[kind](text)


# Plain text

_FENCED = re.compile(r"^ *(```|~~~).*?(?:^ *\1[`~]* *$|\Z)", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"!?\[([^\][]+)\]\((?:https?://|/|\.|#)[^()\s]*\)")


def _plain(text: str) -> Prose:
    prose = Prose()
    text, prose.code = _FENCED.subn("\n\n", text)
    text = _LINK.sub(r"\1", html.unescape(text))
    paragraph: list[str] = []
    for line in [*text.split("\n"), ""]:
        bullet = BULLET.match(line)
        if not line.strip() or bullet:
            prose.add(" ".join(paragraph))
            paragraph = []
        paragraph.append(line[bullet.end() :] if bullet else line)
    prose.add(" ".join(paragraph))
    return prose


# Markdown

_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(.*?)\n(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
_FRONT_TITLE = re.compile(r"^title:[ \t]*[\"']?(.*?)[\"']?[ \t]*$", re.MULTILINE)
_FENCE_MARK = re.compile(r"^ *:::.*$", re.MULTILINE)  # containers of several dialects
_MYST_ROLE = re.compile(r"\{[\w:+-]+\}(?=`)")
_MARKDOWN = MarkdownIt("commonmark", {"maxNesting": 100}).enable(["table", "strikethrough"])


def _markdown(text: str) -> Prose:
    prose = Prose()
    if front := _FRONT_MATTER.match(text):
        named = _FRONT_TITLE.search(front[1])
        prose.title = named[1] if named else ""
        text = text[front.end() :]
    inside: dict[str, str] = {}  # the tags of the table and the heading that are open
    for token in _MARKDOWN.parse(_MYST_ROLE.sub("", _FENCE_MARK.sub("", text))):
        what, _, edge = token.type.partition("_")
        if what in ("table", "heading"):
            inside = {**inside, what: token.tag if edge == "open" else ""}
            prose.tables += token.type == "table_open"
        elif token.type in ("fence", "code_block"):
            prose.code += 1
        elif token.type == "html_block":
            prose.take(_html(token.content))
        elif token.type == "inline" and not inside.get("table"):
            _add_words(prose, _inline(token), inside.get("heading", ""))
    return prose


def _add_words(prose: Prose, words: str, heading: str) -> None:
    words = " ".join(words.split())
    if heading == "h1" and not prose.title:
        prose.title = words
    elif not heading or words != prose.title:
        prose.add(words, heading=bool(heading))


def _inline(token: Token) -> str:
    inline = {"text", "code_inline", "text_special"}
    breaks = {"softbreak", "hardbreak"}
    return "".join(t.content if t.type in inline else " " if t.type in breaks else "" for t in token.children or ())


# HTML

_NO_TEXT = "script,style,noscript,template,nav,footer,aside,form,svg,button,select,iframe,object,head>*:not(title)"
_LAYOUT = 400  # characters; a table with a longer cell sets the page, and its text is the page's
_INLINE = frozenset(
    "a abbr acronym b bdi bdo big cite code data del dfn em font i ins kbd label mark q s samp small span strike strong"
    " sub sup time tt u var wbr".split()
)


def _html(text: str) -> Prose:
    prose = Prose()
    tree = LexborHTMLParser(text)
    for node in tree.css(_NO_TEXT):
        node.decompose()
    prose.code = _removed(tree.css("pre"))
    prose.tables = _removed([node for node in tree.css("table") if not _is_layout(node)])
    heading = tree.css_first("h1")
    named = tree.css_first("title") or heading
    prose.title = " ".join(named.text().split()) if named is not None else ""
    for tag, words in _html_blocks(tree):
        if tag != "title" and (tag != "h1" or " ".join(words.split()) != prose.title):
            prose.add(words, heading=re.fullmatch(r"h[1-6]", tag) is not None)
    return prose


def _removed(nodes: list[LexborNode]) -> int:
    for node in nodes:
        node.decompose()
    return len(nodes)


def _is_layout(table: LexborNode) -> bool:
    return any(len(cell.text()) > _LAYOUT for cell in table.css("td"))


def _html_blocks(tree: LexborHTMLParser) -> Iterator[tuple[str, str]]:
    """(tag, text) of each run of text inside one block element."""
    if tree.root is None:
        return
    place: tuple[int, str] = (0, "")
    words: list[str] = []
    for node in tree.root.traverse(include_text=True):
        if node.tag == "br":
            words.append(" ")
        if node.tag != "-text":
            continue
        block = node.parent
        while block is not None and block.tag in _INLINE:
            block = block.parent
        here = (block.mem_id, block.tag or "") if block is not None else (0, "")
        if here != place:
            yield place[1], "".join(words)
            place, words = here, []
        words.append(node.text(deep=False))
    yield place[1], "".join(words)


_READERS: dict[Kind, Callable[[str], Prose]] = {
    "plain": _plain,
    "markdown": _markdown,
    "rst": rst,
    "html": _html,
}
