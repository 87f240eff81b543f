"""Tables on a terminal, with rich; no text of a table is read as markup."""

from __future__ import annotations

from typing import Any

from rich import box
from rich import table as rich_table
from rich.console import Console
from rich.text import Text

from diffcse.reports.table import Row, Table

_WIDTH_OF_A_FILE = 140
"""Columns of a table that goes into a file or a pipe, which no window limits."""


def show(console: Console, *tables: Table) -> None:
    """Print tables; the console of a file or a pipe becomes at least 140 columns wide."""
    if not console.is_terminal:
        console.width = max(console.width, _WIDTH_OF_A_FILE)
    for table in tables:
        console.print(_rich(table))
        for note in table.notes:
            console.print(Text(note), soft_wrap=not console.is_terminal)


def _rich(table: Table) -> rich_table.Table:
    style: dict[str, Any] = {"box": box.SIMPLE_HEAD, "padding": (0, 1, 0, 0)}
    printed = rich_table.Table(title=Text(table.title), **style)
    for i, name in enumerate(table.columns):
        words = i < table.words  # which wrap where the terminal is narrow; a number in two lines would be misread
        printed.add_column(Text(name), justify="left" if words else "right", no_wrap=not words, overflow="fold")
    for row in table.full_rows():
        if row.starts_section:
            printed.add_section()
        printed.add_row(*_cells(row), style="dim" if row.kind == "published" else None)
    return printed


def _cells(row: Row) -> list[Text]:
    texts = ["-" if cell is None else cell for cell in row.cells]
    if row.kind == "published":
        texts[0] = f"published: {texts[0]}"
    return [Text(text) for text in texts]
