"""The main job on text that every machine has: adapt a model to the documentation on it, without labels or network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from diffcse.adaptation.adapt import adapt, start_name, usual_rate
from diffcse.adaptation.settings import AdaptSettings
from diffcse.config import BUNDLED
from diffcse.encoder import DiffCSE
from diffcse.encoding.encode import Encoder
from diffcse.errors import Interrupted, UserError
from diffcse.evaluation.lexical import TfIdf
from diffcse.evaluation.retrieval import RetrievalScores, retrieval
from diffcse.evaluation.statistics import bootstrap, paired
from diffcse.files import read_json, write_atomic
from diffcse.persistence.load import load_encoder
from diffcse.presets import build
from diffcse.progress import say
from diffcse.reports import terminal
from diffcse.reports.table import Table
from diffcse.text.docstrings import DocText, collect, docstring_documents, is_held_out
from diffcse.text.documents import Documents
from diffcse.training.run_folder import is_finished
from diffcse.training.train import train

QUERIES = (
    "How do I read a file line by line?",
    "Convert a date to a string.",
    "Stop a thread that is still running.",
    "Compute the mean of an array along an axis.",
    "Raised when the input is not valid.",
)
"""What the demo looks for in the documentation."""

_MOST_SENTENCES = 40_000
_MOST_DOCSTRINGS = 20_000
_SEARCHED = 5_000
_SHOWN = 2


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """The result of the demo.

    Attributes:
        scores: by system, how well a summary finds the next sentence of its description, in packages that no system was
            trained on.
        model: folder of the adapted model and its report.
    """

    scores: dict[str, RetrievalScores]
    model: Path


def demo(folder: Path, *, encoder: str, steps: int, seed: int, console: Console) -> DemoResult:
    """Adapt a model to the documentation, compare it with SimCSE and DiffCSE from the same start, and search.

    Args:
        folder: where text and models go; what an earlier call finished there is used again.
        encoder: the start, as in `AdaptSettings`.
        steps: optimiser steps of each run; 0 for as many as `adapt` takes.
        seed: seed of everything.
        console: where to show it.
    """
    start = start_name(encoder)
    text, documents = documentation(folder, console)
    scores = {"TF-IDF": retrieval(TfIdf(), text.pairs), "start": _scores(start, text)}
    adapted = folder / "adapted"
    if not is_finished(adapted):
        settings = AdaptSettings(encoder=start, steps=steps, seed=seed)
        adapt(documents, adapted, settings=settings, cache_dir=folder / "cache", console=console)
    steps = steps or int(
        read_json(adapted / "adapt.json", what="the demo's report", do="remove the folder")["settings"]["steps"]
    )
    for objective, name in twins(start):
        scores[name] = _scores(run(objective, start, folder, steps, seed, console), text)
    scores["diffcse adapt"] = _scores(str(adapted), text)
    terminal.show(console, scores_table(scores, start, steps))
    show_searches({"start": start, "adapted": str(adapted)}, text, console)
    say(console, f"\nThe report: {adapted / 'report.html'}")
    say(console, f"The model: SentenceTransformer({str(adapted)!r})")
    return DemoResult(scores=scores, model=adapted)


def twins(start: str) -> list[tuple[str, str]]:
    """What to compare with; DiffCSE needs a generator with the start's vocabulary, which comes with one start."""
    simcse = [("simcse", "SimCSE")]
    return [*simcse, ("diffcse", "DiffCSE")] if start == BUNDLED else simcse


def documentation(folder: Path, console: Console) -> tuple[DocText, Documents]:
    """The text of the demo: sentences, pairs, and documents of the packages that the pairs are not from.

    Raises:
        UserError: a folder that holds something else.
    """
    cache = folder / "documentation.json"
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not cache.is_file())):
        do = "choose another folder with --output"
        raise UserError(f"folder {folder}", "new, empty, or of an earlier demo", "something else", do)
    say(console, "Reading the documentation of the installed Python packages ...")
    text = collect(limit=_MOST_SENTENCES, cache=cache)
    write_atomic(folder / "sentences.txt", "".join(f"{sentence}\n" for sentence in text.sentences).encode())
    documents = docstring_documents(limit=_MOST_DOCSTRINGS, cache_dir=folder / "cache")
    rows = [row for row, group in enumerate(documents.dataset["group"]) if not is_held_out(group)]
    say(
        console,
        f"{len(rows):,} docstrings of packages to train on; {len(text.pairs):,} pairs of {len(text.held_out)} other "
        "packages to test with",
    )
    return text, replace(documents, dataset=documents.dataset.select(rows))


def run(objective: str, start: str, folder: Path, steps: int, seed: int, console: Console) -> str:
    """Train an encoder on single sentences, or find the one that an earlier demo finished; gives its folder."""
    output = folder / objective
    rate = usual_rate(load_encoder(start))
    settings: dict[str, Any] = {"objective": objective, "max_steps": steps, "seed": seed, "learning_rate": rate}
    if not is_finished(output):
        config = build(preset="small", encoder=start, epochs=1000.0, **settings)  # max_steps ends the run
        result = train(folder / "sentences.txt", output, config, cache_dir=folder / "cache", console=console)
        if not result.finished:
            raise Interrupted(f"step {result.step} of {objective}")
    return str(output)


def scores_table(scores: dict[str, RetrievalScores], start: str, steps: int) -> Table:
    """The comparison, with intervals and paired differences."""
    first, rows = scores["start"].per_query["mrr"], []
    for name, score in scores.items():
        mean, against = bootstrap(score.per_query["mrr"]), paired(score.per_query["mrr"], first)
        interval = f"[{100 * mean.low:.1f}, {100 * mean.high:.1f}]"
        figures = f"{100 * score.mrr:.1f}", interval, f"{100 * score.recall_at_10:.1f}"
        rows.append((name, *figures, "" if name == "start" else against.words()))
    pairs = scores["start"].queries
    return Table(
        title=f"A summary finds the next sentence of its description among {pairs:,}, x 100 (packages not trained on)",
        columns=("", "MRR", "95% interval", "recall@10", "against start"),
        rows=rows,
        notes=(f"Start: {start}. {steps} steps each, from the same seed. MRR: mean of 1 / rank.",),
    )


def show_searches(models: dict[str, str], text: DocText, console: Console) -> None:
    """A few searches over the collected documentation, by each model."""
    results: dict[str, Any] = {}
    for name, folder in models.items():
        encoder = DiffCSE(folder)
        encoder.build_index(list(text.sentences[:_SEARCHED]), use_faiss=False)
        results[name] = encoder.search(list(QUERIES), top_k=_SHOWN, threshold=-1.0)
    for number, query in enumerate(QUERIES):
        say(console, f"\n{query}")
        for name, hits in results.items():
            for sentence, cosine in hits[number]:
                say(console, f"  {name:8} {cosine:.2f}  {sentence}")


def _scores(model: str, text: DocText) -> RetrievalScores:
    return retrieval(Encoder(load_encoder(model)), text.pairs)
