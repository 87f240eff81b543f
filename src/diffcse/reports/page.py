"""A self-contained page from sections of tables, pictures and lists; the template is page.html.j2.

No text can become markup, whatever it holds: the template escapes all of it. No script, nothing from the network; light
and dark as the reader's system has it, and any width.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from diffcse.reports.picture import FAINT, GRID, INK, SERIES, SERIES_ON_DARK, Picture
from diffcse.reports.table import Table, printable

_SVG, _XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
_COLOURS = {INK: "--ink", FAINT: "--faint", GRID: "--line"} | {
    colour: f"--series{i}" for i, colour in enumerate(SERIES)
}
_LEFT_OUT = {f"{_SVG}{tag}" for tag in ("metadata", "style", "script")}


@dataclass(frozen=True, kw_only=True)
class Hint:
    """What is missing and the command that brings it."""

    text: str
    command: str
    kind: str = "hint"


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Pictures next to each other where the page is wide enough."""

    pictures: Sequence[Picture]
    kind: str = "figures"


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A line of a list.

    Attributes:
        text: what was found.
        mark: in front of it, such as its cosine or rank.
        highlight: whether it is the right answer.
    """

    text: str
    mark: str = ""
    highlight: bool = False


@dataclass(frozen=True, kw_only=True)
class HitList:
    """What one search found, under a title such as the query or the model."""

    title: str
    hits: Sequence[Hit]


@dataclass(frozen=True, kw_only=True)
class SideBySide:
    """Lists next to each other where the page is wide enough, under a title that may be empty."""

    lists: Sequence[HitList]
    title: str = ""
    kind: str = "lists"


Block = str | Hint | Figures | SideBySide | Table
"""Part of a section; a str is a paragraph."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading and what is below it, in this order."""

    title: str
    blocks: Sequence[Block]


def html(title: str, sections: Sequence[Section], *, intro: Sequence[str] = ()) -> bytes:
    """The whole page, `intro` in paragraphs below its title; the same bytes for the same content."""
    template = templates(Path(__file__).parent).get_template("page.html.j2")
    colours = {"light": _variables(SERIES), "dark": _variables(SERIES_ON_DARK)}
    text = template.render(title=title, sections=sections, intro=intro, kind=_kind, inline=inline, **colours)
    return text.encode() + b"\n"


@functools.cache
def templates(folder: Path) -> Environment:
    """The templates of a folder; whatever text they show is escaped and can be shown."""
    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_fit_to_show,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _variables(colours: Sequence[str]) -> str:
    return " ".join(f"--series{i}: {colour};" for i, colour in enumerate(colours))


def _kind(block: Block) -> str:
    """How the template tells blocks apart."""
    return "text" if isinstance(block, str) else "table" if isinstance(block, Table) else block.kind


def _fit_to_show(value: Any) -> Any:
    return value if isinstance(value, Markup) else printable(str(value))


def inline(picture: Picture) -> Markup:
    """A picture as an SVG element of a page, in the page's own colours."""
    svg = ElementTree.fromstring(_svg_text(picture))
    _adopt(svg, picture.name)
    for name in ("width", "height", "version"):
        svg.attrib.pop(name, None)
    svg.set("role", "img")
    svg.set("aria-label", printable(picture.title))
    return Markup(ElementTree.tostring(svg, encoding="unicode", method="html"))  # a tree cannot hold stray markup


def _svg_text(picture: Picture) -> bytes:
    if isinstance(picture.figure, str):  # needs no matplotlib
        return picture.figure.encode()
    from diffcse.reports.figures import to_svg  # brings matplotlib

    return to_svg(picture, transparent=True)


def _adopt(node: ElementTree.Element, prefix: str) -> None:
    """Make an SVG file's tree part of a page: no namespaces, ids that are unique there, the page's colours and font."""
    for child in list(node):
        if child.tag in _LEFT_OUT:
            node.remove(child)
        else:
            _adopt(child, prefix)
    node.tag = node.tag.removeprefix(_SVG)
    if node.tag == "text" and node.get("style"):
        node.set("style", re.sub(r"(font: [^']*?[\d.]+px) [^;]*", r"\1 system-ui, sans-serif", node.get("style", "")))
    for name, value in list(node.attrib.items()):
        del node.attrib[name]
        node.set(name.removeprefix(_XLINK), _adopted(name, value, prefix))


def _adopted(name: str, value: str, prefix: str) -> str:
    if name == "id":
        return f"{prefix}-{value}"
    if name == f"{_XLINK}href":
        return value.replace("#", f"#{prefix}-", 1)
    for colour, variable in _COLOURS.items():
        value = value.replace(colour, f"var({variable})")
    return value.replace("url(#", f"url(#{prefix}-")
