"""A picture and the colours of all pictures; a page exchanges them for those of a dark background."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, FAINT, GRID = "#222222", "#777777", "#dddddd"
SERIES = ("#0072b2", "#d55e00", "#009e73", "#aa4499", "#8c6d00", "#3399cc")
"""Told apart by people with any colour vision (after Okabe & Ito, 2008)."""

SERIES_ON_DARK = ("#5db5ec", "#f28e4b", "#3fc79a", "#d98fd0", "#d3b34a", "#8fd0f5")
"""The same, in the same order, on a dark background."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure and what is said about it.

    Attributes:
        name: of its files, and of its parts on a page; different for each picture of a page.
        title: what it shows, for those who do not see it.
        figure: of matplotlib, or the text of an SVG file.
    """

    name: str
    title: str
    figure: Figure | str
