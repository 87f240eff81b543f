"""The page's pictures as HTML and SVG: numbers and colours from here, markup from pictures.html.j2, all text escaped.

Colour never carries a number alone: each cell and token shows it too, and names it for screen readers. Ink is black or
white, whichever the background's luminance asks for, so the pictures read alike on a light and on a dark page.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffcse.errors import UserError
from diffcse.explore.corpus import Answer
from diffcse.explore.edit_view import Seen
from diffcse.reports.page import templates

RGB = tuple[int, int, int]

_DOUBT: tuple[RGB, ...] = ((255, 247, 237), (253, 186, 116), (234, 88, 12), (154, 40, 8))
_ALIKE: tuple[RGB, ...] = ((236, 244, 250), (137, 190, 220), (33, 113, 181), (8, 48, 107))
_BINS = 60
_HERE = Path(__file__).parent

CSS = (_HERE / "page.css").read_text(encoding="utf-8")
"""Style of the page; the colours that are named there and no variables of gradio's are those of the pictures."""


def message(error: UserError) -> str:
    """What a user has to change."""
    return _drawn("message", error)


def no_discriminator(error: UserError) -> str:
    """What the third tab would show, and how to get there."""
    return _drawn("no_discriminator", error)


def hits(answer: Answer, name: str) -> str:
    """The query's place among all cosines, then the hits with their cosine as a bar."""
    rows = [(sentence, _number(cosine), f"{100 * max(0.0, cosine):.1f}") for sentence, cosine in answer.hits]
    total = f"{len(answer.cosines):,} sentence{'s' if len(answer.cosines) != 1 else ''} in {name}"
    return _drawn("hits", _strip(answer), total, rows)


def heat_map(sentences: list[str], cosines: NDArray[np.float32]) -> str:
    """A table of all pairs, coloured from the lowest cosine in it to 1."""
    lowest = float(cosines.min())
    span = max(1e-6, 1 - lowest)
    rows = [
        (sentence, [(_number(value), *colour((float(value) - lowest) / span, _ALIKE)) for value in row])
        for sentence, row in zip(sentences, cosines, strict=True)
    ]
    pairs = np.where(np.eye(len(sentences), dtype=bool), -np.inf, cosines)
    first, second = sorted(divmod(int(pairs.argmax()), len(sentences)))
    nearest = f"Nearest pair: {first + 1} and {second + 1}, cosine {_number(pairs[first, second])}."
    return _drawn("heat_map", rows, _legend(_ALIKE, _number(lowest), "1.00", "cosine similarity"), nearest)


def seen(what: Seen, other: str) -> str:
    """The edit, then what the discriminator says about it with either vector."""
    parts = zip(what.tokens, what.masked, what.edited, what.replaced, strict=True)
    tokens = [dict(zip(("original", "masked", "edited", "replaced"), part, strict=True)) for part in parts]
    counts = (
        f"{sum(what.masked)} of {len(what.tokens)} tokens were masked; the generator's reading differs at "
        f"{sum(what.replaced)}."
    )
    panels = [
        ("With this sentence's vector", _cells(what, what.own)),
        (f"With the vector of “{_shorter(other, 60)}”", _cells(what, what.other)),
    ]
    legend = _legend(_DOUBT, "0%", "100%", "probability that the token was replaced; a frame marks those that were")
    return _drawn("seen", tokens, counts, what.truncated, panels, legend, _means(what))


def colour(value: float, ramp: tuple[RGB, ...]) -> tuple[str, str]:
    """Background and ink for a value between 0 and 1.

    >>> colour(0.0, ((255, 255, 255), (0, 0, 0))), colour(1.0, ((255, 255, 255), (0, 0, 0)))
    (('#ffffff', '#000000'), ('#000000', '#ffffff'))
    """
    place = float(np.clip(value, 0, 1)) * (len(ramp) - 1)
    left = min(int(place), len(ramp) - 2)
    mixed = [round(a + (b - a) * (place - left)) for a, b in zip(ramp[left], ramp[left + 1], strict=True)]
    light = luminance((mixed[0], mixed[1], mixed[2]))
    # The ink with the larger contrast (WCAG 2): never below 4.58 to 1.
    ink = "#000000" if (light + 0.05) / 0.05 >= 1.05 / (light + 0.05) else "#ffffff"
    return "#" + "".join(f"{part:02x}" for part in mixed), ink


def luminance(rgb: RGB) -> float:
    """Relative luminance of an sRGB colour, 0 to 1 (WCAG 2)."""
    linear = [part / 3294.6 if part <= 10 else ((part / 255 + 0.055) / 1.055) ** 2.4 for part in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _drawn(macro: str, *arguments: Any) -> str:
    return str(getattr(templates(_HERE).get_template("pictures.html.j2").module, macro)(*arguments))


def _strip(answer: Answer) -> dict[str, Any]:
    """A histogram of all cosines with a line at each hit, 600 wide and 80 high."""
    low = min(float(np.floor(answer.cosines.min() * 10) / 10), 0.9)
    counts, edges = np.histogram(np.clip(answer.cosines, low, 1), bins=_BINS, range=(low, 1))
    across, shares = 600 / (1 - low), counts / counts.max()
    lowest, highest = _number(answer.cosines.min()), _number(answer.cosines.max())
    return {
        "label": f"Histogram of {len(answer.cosines):,} cosines, from {lowest} to {highest}",
        "bars": [((edge - low) * across, 66 * share) for edge, share in zip(edges, shares, strict=False) if share],
        "width": f"{600 / _BINS - 1:.1f}",
        "places": [min((cosine - low) * across, 599) for _, cosine in answer.hits],
        "low": _number(low),
    }


def _cells(what: Seen, probability: tuple[float, ...]) -> list[tuple[Any, ...]]:
    rows = zip(what.edited, what.replaced, probability, strict=True)
    return [(token, replaced, f"{value:.0%}", *colour(value, _DOUBT)) for token, replaced, value in rows]


def _means(what: Seen) -> list[tuple[str, ...]]:
    """Mean probabilities at replaced and at original tokens."""
    where = np.array(what.replaced)
    return [
        (name, *(f"{np.array(values)[part].mean():.0%}" for values in (what.own, what.other)))
        for name, part in (("replaced tokens", where), ("kept tokens", ~where))
        if part.any()
    ]


def _legend(ramp: tuple[RGB, ...], low: str, high: str, text: str) -> dict[str, str]:
    stops = ", ".join(f"rgb({red}, {green}, {blue})" for red, green, blue in ramp)
    return {"stops": stops, "low": low, "high": high, "text": text}


def _shorter(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _number(value: float) -> str:
    """Two decimals, with a minus sign that screen readers know and without a negative zero."""
    return f"{value:.2f}".replace("-0.00", "0.00").replace("-", "\u2212")
