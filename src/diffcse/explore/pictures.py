"""The page's pictures as HTML and SVG: pure functions from numbers and text to markup, everything a user typed escaped.

Colour never carries a number alone: each cell and token shows it too, and names it for screen readers. Ink is black or
white, whichever the background's luminance asks for, so the pictures read alike on a light and on a dark page.
"""

from __future__ import annotations

from html import escape

import numpy as np
from numpy.typing import NDArray

from diffcse.errors import UserError
from diffcse.explore.corpus import Answer
from diffcse.explore.edit_view import Seen

RGB = tuple[int, int, int]

_DOUBT: tuple[RGB, ...] = ((255, 247, 237), (253, 186, 116), (234, 88, 12), (154, 40, 8))
_ALIKE: tuple[RGB, ...] = ((236, 244, 250), (137, 190, 220), (33, 113, 181), (8, 48, 107))
_BINS = 60

CSS = """
.dc {font-size: 1rem; line-height: 1.45; overflow-wrap: anywhere}
.dc p {margin: .4rem 0}
.dc .quiet {color: var(--body-text-color); opacity: .78; font-size: .875rem}
.dc-error {border-left: 4px solid #c2410c; padding: .6rem .9rem; background: var(--background-fill-secondary)}
.dc .dc-hits {list-style: none; margin: .5rem 0; padding: 0}
.dc .dc-hits li {padding: .45rem 0; margin: 0; border-bottom: 1px solid var(--border-color-primary)}
.dc-hits .line {display: flex; gap: .75rem; align-items: baseline}
.dc-hits .score {font-variant-numeric: tabular-nums; font-weight: 600; min-width: 3.4rem}
.dc-bar {height: 6px; border-radius: 3px; background: #2171b5; margin-top: .3rem}
.dc-strip {width: 100%; height: 80px; display: block}
.dc-strip .all {fill: var(--body-text-color); opacity: .45}
.dc-strip .hit {stroke: #e8590c; stroke-width: 2; vector-effect: non-scaling-stroke}
.dc-ends {display: flex; justify-content: space-between; font-size: .8125rem; border-top: 1px solid
  var(--border-color-primary); font-variant-numeric: tabular-nums}
.dc-scroll {overflow-x: auto; max-width: 100%}
.dc table, .dc table tr {border: 0 !important}
.dc .dc-map {border-collapse: separate; border-spacing: 2px; width: auto; margin: .5rem 0; overflow-wrap: normal}
.dc .dc-map th, .dc .dc-map td {border: 0; padding: .35rem .4rem; font-size: .8125rem; text-align: center;
  font-variant-numeric: tabular-nums; min-width: 2.9rem; border-radius: 3px; white-space: nowrap}
.dc .dc-map th {font-weight: 600; min-width: 1.6rem}
.dc .dc-map tbody th {text-align: left; max-width: 22rem; overflow: hidden; text-overflow: ellipsis;
  font-weight: 400; position: sticky; left: 0; background: var(--background-fill-primary)}
@media (max-width: 640px) {.dc .dc-map tbody th {max-width: 8.5rem}}
.dc-pair {display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: 1rem; margin-top: .75rem}
.dc-panel {border: 1px solid var(--border-color-primary); border-radius: 8px; padding: .8rem 1rem; min-width: 0}
.dc h3 {margin: 0 0 .2rem !important; font-size: 1rem !important; font-weight: 600; color: var(--body-text-color)}
.dc .dc-tokens {display: flex; flex-wrap: wrap; align-items: flex-start; gap: .35rem; list-style: none;
  margin: .6rem 0 0; padding: 0}
.dc .dc-tokens li {display: flex; flex-direction: column; align-items: center; border-radius: 6px; margin: 0;
  padding: .2rem .45rem; max-width: 100%; border: 2px solid transparent}
.dc .dc-tokens li span, .dc .dc-tokens li del {color: inherit}
.dc-tokens .word {font-weight: 500}
.dc-tokens .small {font-size: .75rem; font-variant-numeric: tabular-nums}
.dc-tokens li.plain {background: var(--background-fill-secondary); color: var(--body-text-color)}
.dc .dc-tokens li.replaced {border-color: var(--body-text-color)}
.dc-legend {display: flex; flex-wrap: wrap; align-items: center; gap: .5rem; font-size: .875rem; margin-top: .6rem}
.dc-legend .ramp {width: 8rem; height: .8rem; border-radius: 3px}
.dc .dc-facts {width: auto; margin: .8rem 0; font-size: .9375rem}
.dc .dc-facts th, .dc .dc-facts td {padding: .25rem 1rem .25rem 0; text-align: left; border: 0; font-weight: 400}
.dc .dc-facts td {font-variant-numeric: tabular-nums; font-weight: 600}
.dc .dc-code {background: var(--background-fill-secondary); padding: .7rem .9rem; border-radius: 6px; overflow-x: auto;
  font-size: .875rem; color: var(--body-text-color); white-space: pre-wrap}
@media (max-width: 640px) {.gradio-container > main {padding: .75rem !important}}
footer {display: none !important}
"""
"""Style of the page; the colours that are named here and no variables of gradio's are those of the pictures."""


def message(error: UserError) -> str:
    """What a user has to change."""
    return f'<div class="dc dc-error" role="alert">{escape(str(error))}</div>'


def note(text: str) -> str:
    """A line of our own text."""
    return f'<div class="dc"><p>{escape(text)}</p></div>'


def no_discriminator(error: UserError) -> str:
    """What the third tab would show, and how to get there."""
    text = (
        "This tab shows the generator's edit of a sentence, and for each token how likely the discriminator holds it "
        "to be replaced: once with the sentence's own vector, once with another's. Training throws the discriminator "
        "away unless --keep-discriminator is given:"
    )
    commands = "diffcse train text.txt -o model --preset small --keep-discriminator\ndiffcse explore model"
    return (
        f'<div class="dc"><h3>No discriminator next to this model</h3><p>{text}</p>'
        f'<pre class="dc-code" tabindex="0">{commands}</pre><p class="quiet">{escape(str(error))}</p></div>'
    )


def hits(answer: Answer, name: str) -> str:
    """The query's place among all cosines, then the hits with their cosine as a bar."""
    items = "".join(_hit(sentence, cosine) for sentence, cosine in answer.hits)
    total = f"{len(answer.cosines):,} sentence{'s' if len(answer.cosines) != 1 else ''} in {name}"
    return (
        f'<div class="dc">{_strip(answer)}<p class="quiet">Cosine similarity of the query with {escape(total)}; '
        f'the lines in orange are the hits below.</p><ol class="dc-hits">{items}</ol></div>'
    )


def heat_map(sentences: list[str], cosines: NDArray[np.float32]) -> str:
    """A table of all pairs, coloured from the lowest cosine in it to 1."""
    count = len(sentences)
    lowest = float(cosines.min())
    head = "".join(f'<th scope="col">{column}</th>' for column in range(1, count + 1))
    rows = "".join(_map_row(row, sentences, cosines[row], lowest) for row in range(count))
    pairs = np.where(np.eye(count, dtype=bool), -np.inf, cosines)
    first, second = sorted(divmod(int(pairs.argmax()), count))
    nearest = f"Nearest pair: {first + 1} and {second + 1}, cosine {_number(pairs[first, second])}."
    return (
        f'<div class="dc"><div class="dc-scroll" tabindex="0" role="region" aria-label="Similarities of all pairs">'
        f'<table class="dc-map"><thead><tr><td></td>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
        f"{_legend(_ALIKE, _number(lowest), '1.00', 'cosine similarity')}<p>{nearest}</p></div>"
    )


def seen(what: Seen, other: str) -> str:
    """The edit, then what the discriminator says about it with either vector."""
    cut = '<p class="quiet">The end of the sentence was cut: the model was trained on shorter ones.</p>'
    own = _panel("With this sentence's vector", what, what.own)
    foreign = _panel(f"With the vector of “{_shorter(other, 60)}”", what, what.other)
    legend = _legend(_DOUBT, "0%", "100%", "probability that the token was replaced; a frame marks those that were")
    return (
        f'<div class="dc">{_edit(what)}{cut if what.truncated else ""}'
        f'<div class="dc-pair">{own}{foreign}</div>{legend}{_facts(what)}</div>'
    )


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


def _hit(sentence: str, cosine: float) -> str:
    width = 100 * max(0.0, cosine)
    return (
        f'<li><div class="line"><span class="score">{_number(cosine)}</span><span>{escape(sentence)}</span></div>'
        f'<div class="dc-bar" style="width: {width:.1f}%"></div></li>'
    )


def _strip(answer: Answer) -> str:
    """A histogram of all cosines with a line at each hit."""
    low = min(float(np.floor(answer.cosines.min() * 10) / 10), 0.9)
    counts, edges = np.histogram(np.clip(answer.cosines, low, 1), bins=_BINS, range=(low, 1))
    across, width = 600 / (1 - low), 600 / _BINS
    bars = "".join(
        f'<rect class="all" x="{(edge - low) * across:.1f}" width="{width - 1:.1f}" y="{66 - 66 * share:.1f}" '
        f'height="{66 * share:.1f}"/>'
        for edge, share in zip(edges, counts / counts.max(), strict=False)
        if share
    )
    places = [min((cosine - low) * across, 599) for _, cosine in answer.hits]
    lines = "".join(f'<line class="hit" x1="{x:.1f}" x2="{x:.1f}" y1="58" y2="80"/>' for x in places)
    ends = f"<span>{_number(low)}</span><span>cosine similarity</span><span>1.00</span>"
    lowest, highest = _number(answer.cosines.min()), _number(answer.cosines.max())
    label = f"Histogram of {len(answer.cosines):,} cosines, from {lowest} to {highest}"
    picture = f'<svg class="dc-strip" viewBox="0 0 600 80" preserveAspectRatio="none" role="img" aria-label="{label}">'
    return f'{picture}{bars}{lines}</svg><div class="dc-ends">{ends}</div>'


def _map_row(row: int, sentences: list[str], cosines: NDArray[np.float32], lowest: float) -> str:
    cells = []
    for column, cosine in enumerate(cosines):
        back, ink = colour((float(cosine) - lowest) / max(1e-6, 1 - lowest), _ALIKE)
        title = f"{row + 1} and {column + 1}: {_number(cosine)}"
        cells.append(f'<td style="background: {back}; color: {ink}" title="{title}">{_number(cosine)}</td>')
    whole = escape(sentences[row])
    return f'<tr><th scope="row" title="{whole}"><b>{row + 1}</b> {whole}</th>{"".join(cells)}</tr>'


def _edit(what: Seen) -> str:
    items = []
    for token, masked, edited, replaced in zip(what.tokens, what.masked, what.edited, what.replaced, strict=True):
        below = f"<del>{escape(token)}</del>" if replaced else ("masked, found" if masked else "&nbsp;")
        kind = "replaced" if replaced else "plain"
        words = f'<span class="word">{escape(edited)}</span><span class="small">{below}</span>'
        items.append(f'<li class="plain {kind}">{words}</li>')
    changed, masked_count = sum(what.replaced), sum(what.masked)
    text = f"{masked_count} of {len(what.tokens)} tokens were masked; the generator's reading differs at {changed}."
    head = f'<h3>The edit, token by token</h3><p class="quiet">{text}</p>'
    return f'{head}<ol class="dc-tokens">{"".join(items)}</ol>'


def _panel(title: str, what: Seen, probability: tuple[float, ...]) -> str:
    items = []
    for token, replaced, value in zip(what.edited, what.replaced, probability, strict=True):
        back, ink = colour(value, _DOUBT)
        label = f"{value:.0%}" + (", was replaced" if replaced else "")
        items.append(
            f'<li class="{"replaced" if replaced else "kept"}" style="background: {back}; color: {ink}" '
            f'title="{label}"><span class="word">{escape(token)}</span><span class="small">{value:.0%}</span></li>'
        )
    return f'<div class="dc-panel"><h3>{escape(title)}</h3><ol class="dc-tokens">{"".join(items)}</ol></div>'


def _facts(what: Seen) -> str:
    """Mean probabilities at replaced and at kept tokens."""
    where = np.array(what.replaced)
    rows = []
    for name, chosen in (("replaced tokens", where), ("kept tokens", ~where)):
        if chosen.any():
            means = [f"{np.array(values)[chosen].mean():.0%}" for values in (what.own, what.other)]
            rows.append(f'<tr><th scope="row">{name}</th><td>{means[0]}</td><td>{means[1]}</td></tr>')
    head = '<tr><th>mean probability at</th><th scope="col">own vector</th><th scope="col">other vector</th></tr>'
    return f'<table class="dc-facts"><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table>'


def _legend(ramp: tuple[RGB, ...], low: str, high: str, text: str) -> str:
    stops = ", ".join(f"rgb({red}, {green}, {blue})" for red, green, blue in ramp)
    bar = f'<span class="ramp" style="background: linear-gradient(to right, {stops})"></span>'
    return f'<div class="dc-legend"><span>{low}</span>{bar}<span>{high}</span><span>{escape(text)}</span></div>'


def _shorter(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _number(value: float) -> str:
    """Two decimals, with a minus sign that screen readers know and without a negative zero."""
    return f"{value:.2f}".replace("-0.00", "0.00").replace("-", "\u2212")
