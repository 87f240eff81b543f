"""What an adaptation reports: tables for the terminal, report.html, adapt.json and the model's README.md."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from diffcse import __version__
from diffcse.adaptation.blend import START, Candidate
from diffcse.adaptation.questions import KEYWORDS, SENTENCE
from diffcse.adaptation.settings import AdaptSettings
from diffcse.adaptation.verdict import Hit, Search, Verdict
from diffcse.evaluation.judged import Row
from diffcse.evaluation.retrieval import RetrievalScores
from diffcse.evaluation.statistics import bootstrap
from diffcse.files import json_bytes
from diffcse.persistence import card
from diffcse.reports import page as html
from diffcse.reports.figures import training
from diffcse.reports.logs import read_runs
from diffcse.reports.table import Row as TableRow
from diffcse.reports.table import Table
from diffcse.reports.tables import retrieval_table

_HOW_TO_READ = (
    "A sentence of a document looks for the rest of it (keywords: a few words of that rest do). MRR: mean of 1 / rank "
    "of the right document. A difference whose 95% interval does not reach 0 is not chance. No text of these documents "
    "was trained on, and nothing was chosen by them."
)


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that is written about an adaptation.

    Attributes:
        verdict: the figures.
        judged: of judged collections, if any.
        settings: of the run.
        notes: what was read and held out.
    """

    verdict: Verdict
    judged: tuple[Row, ...]
    settings: AdaptSettings
    notes: tuple[str, ...]

    def tables(self) -> list[Table]:
        """The main table, and that of judged queries where there are any."""
        return [self._main(), *([retrieval_table(self.judged, first="start")] if self.judged else [])]

    def files(self, training: Path) -> dict[str, bytes]:
        """Content of the files next to the model, by name; `training` is the folder of the training run."""
        return {
            "report.html": self._html(training),
            "adapt.json": json_bytes(self.as_json()),
            "README.md": self._card().encode(),
        }

    def as_json(self) -> dict[str, Any]:
        """All figures as plain data; fractions from 0 to 1."""
        verdict = self.verdict
        return {
            "diffcse": __version__,
            "kept": "adapted" if verdict.kept else "start",
            **asdict(verdict.chosen.form),
            "settings": asdict(self.settings) | {"encoder": card.publishable(self.settings.encoder)},
            "together": {kind: asdict(difference) for kind, difference in verdict.together.items()},
            "reporting": {"start": _plain(verdict.start), "adapted": _plain(verdict.adapted)}
            | {name: {kind: _figures(scores) for kind, scores in of.items()} for name, of in verdict.lexical.items()},
            "choosing": [_plain(candidate) for candidate in verdict.candidates],
            "judged": list(self.judged),
            "notes": list(self.notes),
        }

    def _main(self) -> Table:
        verdict = self.verdict
        same = f"{verdict.adapted.agreement:.0%}"
        rows = [TableRow(cells=(name, *_cells(scores, None))) for name, scores in verdict.lexical.items()]
        for name, candidate, is_kept in (
            ("start", verdict.start, not verdict.kept),
            ("adapted", verdict.adapted, verdict.kept),
        ):
            cells = (f"{name}, kept" if is_kept else name, *_cells(candidate.scores, candidate))
            rows.append(TableRow(cells=cells, kind="measured" if is_kept else ""))
        return Table(
            title=f"Questions from {verdict.documents:,} documents that were not trained on, x 100",
            columns=_COLUMNS,
            rows=rows,
            notes=(
                _HOW_TO_READ,
                f"Of the ten documents nearest to a document by the start, {same} are so by the adapted model too.",
            ),
        )

    def _choosing(self) -> Table:
        rows = []
        for candidate in self.verdict.candidates:
            name, chosen = candidate.form.words(), candidate.form == self.verdict.chosen.form
            cells = (f"{name}, chosen" if chosen else name, *_cells(candidate.scores, candidate))
            rows.append(TableRow(cells=(*cells, _one(candidate.agreement)), kind="measured" if chosen else ""))
        return Table(
            title="Forms of the model, on the held-out documents that choose, x 100",
            columns=(*_COLUMNS, "same neighbours"),
            rows=rows,
            folded=True,
        )

    def _html(self, training_folder: Path) -> bytes:
        verdict, curves = self.verdict, html.Figures(pictures=training(read_runs([training_folder])))
        sections = [
            html.Section(title="Is it better?", blocks=(verdict.words(), *self.tables(), self._choosing())),
            html.Section(title="Searches that changed most", blocks=tuple(map(_side_by_side, verdict.searches)))
            if verdict.searches
            else html.Section(title="Searches", blocks=("No search found its document at another rank.",)),
            html.Section(title="Training", blocks=(curves,)),
            html.Section(title="Documents", blocks=self.notes),
        ]
        start = card.publishable(self.settings.encoder)
        return html.html(
            "Adapted to your documents", sections, intro=(f"Start: {start}. Made by diffcse {__version__}.",)
        )

    def _card(self) -> str:
        words = [self.verdict.words() + ".", *self.notes]
        return card.adapted_card(self.settings.encoder, words, asdict(self.settings))


_COLUMNS = ("", "MRR", "95% interval", "recall@10", "against start", "keywords: MRR", "against start ")


def _cells(scores: Mapping[str, RetrievalScores], candidate: Candidate | None) -> tuple[str | None, ...]:
    """Figures of one system; without differences for the start itself and for what counts words."""
    if not scores:
        return ("not finite", *[None] * 5)
    sentence, keywords = scores[SENTENCE], scores[KEYWORDS]
    mean = bootstrap(sentence.per_query["mrr"])
    against = [""] * 2
    if candidate is not None and candidate.form != START:
        against = [candidate.against_start[kind].words() for kind in (SENTENCE, KEYWORDS)]
    interval = f"[{_one(mean.low)}, {_one(mean.high)}]"
    return _one(sentence.mrr), interval, _one(sentence.recall_at_10), against[0], _one(keywords.mrr), against[1]


def _one(value: float) -> str:
    return f"{100 * value:.1f}"


def _side_by_side(search: Search) -> html.SideBySide:
    lists = [
        html.HitList(title=f"{name}: rank {rank}", hits=tuple(map(_hit, hits)))
        for name, rank, hits in zip(("start", "adapted"), search.ranks, (search.before, search.after), strict=True)
    ]
    return html.SideBySide(title=search.question, lists=tuple(lists))


def _hit(hit: Hit) -> html.Hit:
    text = textwrap.shorten(hit.text, 300, placeholder=" …")
    return html.Hit(text=text, mark=f"{hit.cosine:.2f}", highlight=hit.right)


def _plain(candidate: Candidate) -> dict[str, Any]:
    return {
        **asdict(candidate.form),
        "agreement": candidate.agreement,
        **{kind: _figures(scores) for kind, scores in candidate.scores.items()},
        "against_start": {kind: asdict(difference) for kind, difference in candidate.against_start.items()},
    }


def _figures(scores: RetrievalScores) -> dict[str, float]:
    return {name: value for name, value in vars(scores).items() if name != "per_query"}
