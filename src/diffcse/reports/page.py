"""A self-contained page as a tree of elements; text in a tree can not become markup, whatever it holds.

One style sheet for light and dark and for any width; no script, nothing from the network.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from xml.etree import ElementTree

from diffcse.reports import figures

Element = ElementTree.Element

_SVG, _XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
_COLOURS = {figures.INK: "--ink", figures.FAINT: "--faint", figures.GRID: "--line"} | {
    colour: f"--series{i}" for i, colour in enumerate(figures.SERIES)
}
_DARK = ("#5db5ec", "#f28e4b", "#3fc79a", "#d98fd0", "#d3b34a", "#8fd0f5")

_STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1d2329; --faint: #5d6770; --line: #d9dee3;
  --panel: #f6f8fa; --accent: #00558c; LIGHT }
@media (prefers-color-scheme: dark) { :root { --paper: #14181c; --ink: #e6e9ec; --faint: #a3adb6; --line: #343c44;
  --panel: #1c2228; --accent: #7cc4f2; DARK } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, "Segoe UI", Roboto,
  "Helvetica Neue", Arial, "DejaVu Sans", sans-serif; overflow-wrap: anywhere; }
main { max-width: 1120px; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; padding-top: .8rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.2rem 0 .4rem; }
p { margin: .4rem 0; max-width: 46rem; }
.note, figcaption, .hint { color: var(--faint); font-size: .88rem; }
.hint { border-left: 3px solid var(--line); padding-left: .7rem; }
code { font: .86em/1.4 ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; background: var(--panel);
  padding: .1em .3em; border-radius: 4px; }
.scroll { overflow-x: auto; margin: .6rem 0; background:
  linear-gradient(to left, var(--paper) 40%, transparent) right / 3rem 100% no-repeat local,
  linear-gradient(to left, var(--line), transparent) right / 1.2rem 100% no-repeat scroll; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
thead th { color: var(--faint); font-weight: 600; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: var(--paper);
  max-width: 20rem; min-width: 7.5rem; white-space: normal; padding-left: 0; font-weight: 400; }
td.text, th.text { text-align: left; }
td.text { white-space: normal; min-width: 6rem; max-width: 20rem; }
thead th:first-child { font-weight: 600; }
tr.measured th, tr.measured td { font-weight: 650; }
tr.published th, tr.published td { color: var(--faint); font-weight: 400; }
.mark { font-size: .72rem; border: 1px solid var(--line); border-radius: 9px; padding: .02rem .4rem;
  margin-left: .4rem; color: var(--faint); display: inline-block; line-height: 1.3; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); gap: 1rem; }
figure { margin: 0; padding: .6rem; background: var(--panel); border-radius: 8px; min-width: 0; }
figure svg { display: block; width: 100%; height: auto; max-width: 460px; margin: 0 auto; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
.queries { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); gap: 1rem; }
.query { background: var(--panel); border-radius: 8px; padding: .7rem .9rem; }
.query ol { list-style: none; margin: .4rem 0 0; padding: 0; font-size: .9rem; }
.query li { display: flex; gap: .7rem; padding: .25rem 0; border-top: 1px solid var(--line); }
.query li span { color: var(--faint); font-variant-numeric: tabular-nums; flex: none; }
.query li.partner { color: var(--accent); font-weight: 600; }
details { margin: .6rem 0; }
summary { cursor: pointer; color: var(--accent); }
@media (max-width: 640px) { main { padding: 1rem .8rem 3rem; } h1 { font-size: 1.4rem; }
  table { font-size: .84rem; } th, td { padding: .3rem .4rem; } th:first-child, td:first-child { max-width: 8.5rem; }
  .mark { margin-left: .15rem; } }
@media print { details > * { display: block; } }
"""


def element(tag: str, *content: Element | str, **attributes: str) -> Element:
    """An element with text and elements in it; `cls` stands for the attribute `class`.

    >>> ElementTree.tostring(element("td", "a < b", element("b", "!"), cls="text"))
    b'<td class="text">a &lt; b<b>!</b></td>'
    """
    attributes = {name: value for name, value in attributes.items() if value or name != "cls"}
    made = Element(tag, {name.replace("cls", "class").replace("_", "-"): value for name, value in attributes.items()})
    for one in content:
        if isinstance(one, Element):
            made.append(one)
        elif len(made):
            made[-1].tail = (made[-1].tail or "") + printable(one)
        else:
            made.text = (made.text or "") + printable(one)
    return made


def table(heads: Iterable[str], rows: Iterable[Element], words: int = 0) -> Element:
    """A table that scrolls by itself where it is wider than the page, its first column staying in sight.

    Args:
        heads: of the columns.
        rows: from `row`.
        words: how many columns after the first hold words.
    """
    kinds = [element("th", text, scope="col", cls="text" if i <= words else "") for i, text in enumerate(heads)]
    head = element("thead", element("tr", *kinds))
    return element("div", element("table", head, element("tbody", *rows)), cls="scroll", tabindex="0")


def row(name: Element | str, cells: Iterable[str], kind: str = "", words: int = 0) -> Element:
    """A row whose first cell is its heading.

    Args:
        name: the heading.
        cells: the rest.
        kind: `measured`, `published` or nothing.
        words: how many of the cells are words, which begin at the left and may break.
    """
    made = [element("td", text, cls="text" if i < words else "") for i, text in enumerate(cells)]
    return element("tr", element("th", name, scope="row"), *made, cls=kind)


def picture(one: figures.Picture) -> Element:
    """A figure inside the page, in the page's own colours."""
    svg = ElementTree.fromstring(figures.to_svg(one, transparent=True))
    box = [float(number) for number in svg.get("viewBox", "0 0 1 1").split()]
    _adopt(svg, one.name)
    for name in ("width", "height", "version"):
        svg.attrib.pop(name, None)
    svg.set("viewBox", " ".join(f"{number:g}" for number in box))
    svg.set("role", "img")
    svg.set("aria-label", one.title)
    return element("figure", svg)


def _adopt(node: Element, prefix: str) -> None:
    """Make an SVG file's tree part of a page: no namespaces, names of its own, colours by name, no style of its own."""
    for child in list(node):
        if child.tag in (f"{_SVG}metadata", f"{_SVG}style"):
            node.remove(child)
        else:
            _adopt(child, prefix)
    node.tag = node.tag.removeprefix(_SVG)
    if node.tag == "text" and node.get("style"):
        node.set("style", re.sub(r"(font: [^']*?[\d.]+px) [^;]*", r"\1 system-ui, sans-serif", node.get("style", "")))
    for name, value in list(node.attrib.items()):
        del node.attrib[name]
        node.set(name.removeprefix(_XLINK), _own(name, value, prefix))


def _own(name: str, value: str, prefix: str) -> str:
    if name == "id":
        return f"{prefix}-{value}"
    if name == f"{_XLINK}href":
        return value.replace("#", f"#{prefix}-", 1)
    for colour, variable in _COLOURS.items():
        value = value.replace(colour, f"var({variable})")
    return value.replace("url(#", f"url(#{prefix}-")


def html(title: str, sections: Iterable[Element]) -> bytes:
    """The whole page."""
    names = [f"--series{i}: " for i in range(len(figures.SERIES))]
    light = "; ".join(name + colour for name, colour in zip(names, figures.SERIES, strict=True))
    dark = "; ".join(name + colour for name, colour in zip(names, _DARK, strict=True))
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", _STYLE.replace("LIGHT", light).replace("DARK", dark)),
    )
    page = element("html", head, element("body", element("main", *sections)), lang="en")
    return b"<!doctype html>\n" + ElementTree.tostring(page, encoding="utf-8", method="html") + b"\n"


def printable(text: str) -> str:
    """Without the control characters and lone surrogates that no page and no figure can hold."""
    return re.sub("[^\t\n\r\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\N{REPLACEMENT CHARACTER}", text)
