"""One table, two printers: the same cells, and no text of the user becomes markup."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from diffcse.reports import terminal
from diffcse.reports.page import Figures, Hit, HitList, Section, SideBySide, html
from diffcse.reports.picture import Picture
from diffcse.reports.table import Row, Table
from tests.reports.test_report import Page

TABLE = Table(
    title="Scores of [red]mine[/red]",
    columns=("model", "STS-B", "avg"),
    rows=[
        ("runs/[bold]a[/bold] <b>", "71.20", None),
        Row(cells=("BERT", "80.59", "78.49"), kind="published", starts_section=True),
    ],
    notes=("[i]x[/i] & <i>y</i>",),
)


def shown(width: int, **options: Any) -> list[str]:
    out = io.StringIO()
    terminal.show(Console(file=out, width=width, **options), TABLE)
    return [line.strip() for line in out.getvalue().splitlines() if line.strip()]


def test_a_terminal_shows_the_text_as_it_is() -> None:
    lines = shown(100)
    assert lines[0] == "Scores of [red]mine[/red]" and lines[-1] == "[i]x[/i] & <i>y</i>"
    assert lines[1].split() == ["model", "STS-B", "avg"]
    assert lines[3].split() == ["runs/[bold]a[/bold]", "<b>", "71.20", "-"]
    assert lines[4].split() == ["published:", "BERT", "80.59", "78.49"]


def test_a_narrow_terminal_wraps_words_and_no_number() -> None:
    text = "\n".join(shown(24, force_terminal=True, no_color=True))
    assert "71.20" in text and "80.59" in text and "78.49" in text
    assert "71.20" in "\n".join(shown(24))  # a file is as wide as it must be


def test_a_page_shows_the_same_cells() -> None:
    page = Page(html("T", [Section(title="S", blocks=[TABLE])]).decode())
    assert page.rows == [
        ["model", "STS-B", "avg"],
        ["runs/[bold]a[/bold] <b>", "71.20", "\N{EN DASH}"],
        ["BERTpublished", "80.59", "78.49"],
    ]
    assert "Scores of [red]mine[/red]" in page.texts and "[i]x[/i] & <i>y</i>" in page.texts


def test_lists_side_by_side_and_svg_text_without_matplotlib() -> None:
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9" viewBox="0 0 9 9"><script>alert(1)</script>'
        '<path id="p" fill="#0072b2" clip-path="url(#p)"/></svg>'
    )
    lists = [
        HitList(title="before", hits=[Hit(text="a <i>hit</i>", mark="0.50")]),
        HitList(title="after", hits=[Hit(text="right", mark="0.90", highlight=True)]),
    ]
    blocks = [
        "A note with \x00.",
        SideBySide(title="what is <x>?", lists=lists),
        Figures(pictures=[Picture(name="one", title="a & b", figure=svg), Picture(name="two", title="c", figure=svg)]),
    ]
    page = Page(html("T", [Section(title="S", blocks=blocks)], intro=["first"]).decode())
    assert page.names() & {"script", "i", "x"} == set()
    for text in ("what is <x>?", "a <i>hit</i>", "0.50", "first", "A note with \N{REPLACEMENT CHARACTER}."):
        assert text in page.texts
    assert [a.get("class") for tag, a in page.tags if tag == "li"] == [None, "partner"]
    assert [a["aria-label"] for tag, a in page.tags if tag == "svg"] == ["a & b", "c"]
    paths = [a for tag, a in page.tags if tag == "path"]
    assert [(a["id"], a["fill"], a["clip-path"]) for a in paths] == [
        (f"{name}-p", "var(--series0)", f"url(#{name}-p)") for name in ("one", "two")
    ]


def test_a_row_of_another_length_is_a_fault_of_ours() -> None:
    with pytest.raises(AssertionError, match="two"):
        Table(title="two", columns=("a", "b"), rows=[("only one",)])
