"""The main job in small: adapt the bundled model to the documentation on this machine, without labels or network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from rich.console import Console
from sentence_transformers import SentenceTransformer

from diffcse.config import BUNDLED, build
from diffcse.encoder import DiffCSE
from diffcse.errors import Interrupted, UserError
from diffcse.evaluation.retrieval import RetrievalScores, retrieval
from diffcse.files import write_atomic
from diffcse.persistence.load import load_encoder
from diffcse.reports import terminal
from diffcse.reports.table import Table
from diffcse.text.docstrings import DocText, collect
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
_SEARCHED = 10_000


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """The result of the demo.

    Attributes:
        scores: how well each encoder finds a description's next sentence in packages it was not trained on.
        model: folder of the DiffCSE model.
    """

    scores: dict[str, RetrievalScores]
    model: Path


def demo(folder: Path, *, steps: int, seed: int, console: Console) -> DemoResult:
    """Collect text, train SimCSE and DiffCSE from the same start and steps, compare, and search.

    Args:
        folder: where text and models go; what an earlier call finished there is used again.
        steps: optimiser steps of each run.
        seed: seed of both runs.
        console: where to show it.
    """
    text = documentation(folder, console)
    lines = folder / "sentences.txt"
    write_atomic(lines, "".join(f"{sentence}\n" for sentence in text.sentences).encode())
    scores = {"before: mean of token vectors": retrieval(load_encoder(BUNDLED, pooler="avg"), text.pairs)}
    for objective, name in (("simcse", "SimCSE"), ("diffcse", "DiffCSE")):
        trained = run(objective, lines, folder, steps, seed, console)
        scores[name] = retrieval(trained, text.pairs)
    terminal.show(console, scores_table(scores, steps))
    show_searches(folder / "diffcse", text, console)
    return DemoResult(scores=scores, model=folder / "diffcse")


def documentation(folder: Path, console: Console) -> DocText:
    """The text of the demo; a folder that holds something else is refused."""
    cache = folder / "documentation.json"
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not cache.is_file())):
        do = "choose another folder with --output"
        raise UserError(f"folder {folder}", "new, empty, or of an earlier demo", "something else", do)
    console.print("Reading the documentation of the installed Python packages ...")
    text = collect(limit=_MOST_SENTENCES, cache=cache)
    console.print(
        f"{len(text.sentences):,} sentences of {text.packages} packages to train on; {len(text.pairs):,} pairs of "
        f"{len(text.held_out)} other packages to test with"
    )
    return text


def run(objective: str, lines: Path, folder: Path, steps: int, seed: int, console: Console) -> SentenceTransformer:
    """Train one encoder, or load it where an earlier demo finished it."""
    output = folder / objective
    settings: dict[str, Any] = {"objective": objective, "max_steps": steps, "seed": seed}
    if not is_finished(output):
        config = build(preset="small", epochs=1000.0, **settings)  # max_steps ends the run
        result = train([lines], output, config, cache_dir=folder / "cache", console=console)
        if not result.finished:
            raise Interrupted(f"step {result.step} of {objective}")
    return load_encoder(output)


def scores_table(scores: dict[str, RetrievalScores], steps: int) -> Table:
    """The comparison."""
    pairs = next(iter(scores.values())).queries
    figures = {name: (score.mrr, score.recall_at_1, score.recall_at_10) for name, score in scores.items()}
    return Table(
        title=f"A summary finds the next sentence of its description among {pairs} (packages not trained on), x 100",
        columns=("encoder", "MRR", "recall@1", "recall@10"),
        rows=[(name, *(f"{100 * value:.1f}" for value in values)) for name, values in figures.items()],
        notes=(f"SimCSE and DiffCSE: the same start, seed and {steps} steps. MRR: mean of 1 / rank.",),
    )


def show_searches(model: Path, text: DocText, console: Console) -> None:
    """A few searches over the collected documentation."""
    encoder = DiffCSE(str(model))
    encoder.build_index(list(text.sentences[:_SEARCHED]), use_faiss=False)
    results = encoder.search(list(QUERIES), top_k=3, threshold=0.0)
    for query, hits in zip(QUERIES, results, strict=True):
        console.print(f"\n[bold]{query}[/bold]")
        for sentence, cosine in cast("list[tuple[str, float]]", hits):
            console.print(f"  {cosine:.2f}  {sentence}", markup=False, highlight=False)
    console.print(f"\nThe model: SentenceTransformer({str(model)!r})", highlight=False)
