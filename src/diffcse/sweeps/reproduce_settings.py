"""Settings of a reproduction; the docstring under a field is its help on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from diffcse.settings import Checked

REPRODUCED = ("bert-sts", "roberta-sts", "bert-transfer", "roberta-transfer")
"""The presets with a published row."""

TEXT = "wiki1m_for_simcse.txt"
"""The published text, as the Hub names it."""

_MOST_SEEDS = 1_000


@dataclass(frozen=True, kw_only=True)
class ReproduceSettings(Checked):
    """What a reproduction takes from this machine, and how often it runs."""

    seeds: int = 1
    """Training runs, with seeds from 42; the published row is one run."""
    text: Path | None = None
    """Text to train on, one sentence per line. Default: the published million sentences, from the Hub."""
    senteval: Path | None = None
    """Folder in SentEval's layout. Default: the data are fetched into the output folder."""
    encoder: str | None = None
    """Folder of the encoder. Default: the preset's, from the Hub."""
    generator: str | None = None
    """Folder of the generator. Default: the preset's, from the Hub."""
    dry_run: bool = False
    """Run every step without a network, in minutes: the bundled models, a few steps, and a small text where none is
    given. Its figures are no reproduction."""

    def _check(self) -> None:
        rule = f"between 1 and {_MOST_SEEDS:,}"
        self._need("seeds", 1 <= self.seeds <= _MOST_SEEDS, rule, "give the number of training runs")
        has_data = self.senteval is not None or not self.dry_run
        self._need(
            "senteval", has_data, "given in a dry run, which fetches nothing", "name a folder with some STS tasks"
        )
        known = self.text is None or self.text.is_file()
        self._need("text", known, "an existing file", f"check the path; without --text, {TEXT} comes from the Hub")
