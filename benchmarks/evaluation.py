"""Wall time and scores of the evaluation suite against a plain SentEval-style loop, same encoder, same run.

The plain loop does what SentEval does, as straightforwardly as it reads: every occurrence of a sentence is encoded, in
batches of 128 in the order of the file, task after task; cosines pair by pair; for the transfer tasks one classifier
after the other, a PyTorch layer trained by autograd and torch's Adam. Ours encodes each different sentence once for all
tasks together; that time is shared out by each task's number of sentences.

    python benchmarks/evaluation.py MODEL --senteval ../shared/senteval --tasks sts,SST2,MRPC

The nested tasks (MR, CR, SUBJ, MPQA) take the plain loop long: `--outer-folds 2` runs it on the first two of the ten
outer folds, compares on these and scales its time to ten.
"""

# ruff: noqa: NPY002 - SentEval draws from NumPy's old global stream

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer

from diffcse.encoding.encode import Encoder
from diffcse.errors import UserError
from diffcse.evaluation.embed import Embedded, embed
from diffcse.evaluation.sts import score_task as score_sts
from diffcse.evaluation.suite import Plan, plan, select
from diffcse.evaluation.tasks import STS_TASKS, ScoredPairs, Task
from diffcse.evaluation.transfer import (
    STRENGTHS,
    Design,
    Outcome,
    Samples,
    choose,
    follow_senteval,
    prepare,
)
from diffcse.persistence.load import load_encoder

_SENTEVAL = Path(__file__).parents[2] / "shared" / "senteval"
_BATCH = 128

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table; the keys of `--json`. Scores are fractions: Spearman, or accuracy."""

    task: str
    seconds_ours: float
    seconds_plain: float
    ratio: float
    score_ours: float | None
    score_plain: float | None
    outer_folds_of_plain: str


def main() -> None:
    """Time every task that is here and print the table."""
    options = _options()
    try:
        model = load_encoder(options.model)
        planned = plan(options.senteval, select(options.tasks))
    except UserError as error:
        sys.exit(f"benchmarks/evaluation.py: {error}")
    notes = Console(stderr=True)
    for problem in planned.problems:
        notes.print(f"left out: {problem.line}", soft_wrap=True, markup=False)
    rows = measure(model, planned, options.outer_folds, notes)
    machine = f"{torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}, {platform.machine()}"
    notes.print(f"{options.model or 'bundled'}; {machine}; torch {torch.__version__}", soft_wrap=True)
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
    else:
        Console(width=140).print(_table(rows))


def measure(model: SentenceTransformer, planned: Plan, outer_folds: int, notes: Console) -> list[Row]:
    """Both ways over all tasks of the plan.

    Args:
        model: the encoder.
        planned: tasks that are here.
        outer_folds: how many outer folds of nested tasks the plain loop runs on.
        notes: where it is said how far this is.
    """
    notes.print("encoding every sentence once")
    embedded, seconds = _timed(lambda: embed(Encoder(model).encode, planned.sentences()))
    each = seconds / len(planned.sentences())
    rows = []
    for task in planned.tasks:
        notes.print(task.name)
        ours = each * len(task.sentences())
        if task.name in STS_TASKS:
            rows.append(_sts_row(model, task, embedded, ours))
        else:
            rows.append(_transfer_row(model, task, embedded, ours, outer_folds))
    suite = [row for row in rows if row.task in STS_TASKS]
    return rows + ([_sum("STS together", suite)] if len(suite) > 1 else [])


def _sts_row(model: SentenceTransformer, task: Task, embedded: Embedded, encoding: float) -> Row:
    found, scoring = _timed(lambda: score_sts(task, embedded))
    plain, seconds = _timed(lambda: plain_sts(model, task))
    ours = encoding + scoring
    return Row(
        task=task.name,
        seconds_ours=ours,
        seconds_plain=seconds,
        ratio=seconds / ours,
        score_ours=found.get("spearman"),
        score_plain=plain,
        outer_folds_of_plain="",
    )


def _transfer_row(model: SentenceTransformer, task: Task, embedded: Embedded, encoding: float, folds: int) -> Row:
    data, designs = prepare(task, embedded, "test")
    ours, seconds = _timed(lambda: [follow_senteval(data, design) for design in designs])
    some = designs[:folds]
    plain, seconds_plain = _timed(lambda: [plain_classifier(data, design) for design in some])
    _, encoding_plain = _timed(lambda: plain_encode(model, task.sentences()))
    seconds_plain = encoding_plain + seconds_plain * len(designs) / len(some)
    return Row(
        task=task.name,
        seconds_ours=encoding + seconds,
        seconds_plain=seconds_plain,
        ratio=seconds_plain / (encoding + seconds),
        score_ours=_accuracy(data, some, ours),
        score_plain=_accuracy(data, some, plain),
        outer_folds_of_plain=f"{len(some)} of {len(designs)}" if len(designs) > 1 else "",
    )


def _accuracy(data: Samples, designs: Iterable[Design], outcomes: Iterable[Outcome]) -> float:
    """Mean over the designs; outcomes beyond them are left out."""
    pairs = zip(designs, outcomes, strict=False)
    return float(np.mean([(outcome.predicted == data.labels[design.test]).mean() for design, outcome in pairs]))


def _sum(name: str, rows: list[Row]) -> Row:
    ours, plain = sum(row.seconds_ours for row in rows), sum(row.seconds_plain for row in rows)
    scores = [(row.score_ours, row.score_plain) for row in rows]
    both = [(a, b) for a, b in scores if a is not None and b is not None]
    return Row(
        task=name,
        seconds_ours=ours,
        seconds_plain=plain,
        ratio=plain / ours,
        score_ours=float(np.mean([a for a, _ in both])) if both else None,
        score_plain=float(np.mean([b for _, b in both])) if both else None,
        outer_folds_of_plain="",
    )


# --- the plain loop ------------------------------------------------------------------------------------------------


def plain_encode(model: SentenceTransformer, sentences: list[str]) -> NDArray[np.float32]:
    """Every occurrence, in batches of 128 as they come."""
    batches = [sentences[start : start + _BATCH] for start in range(0, len(sentences), _BATCH)]
    return np.vstack([model.encode(batch, batch_size=_BATCH, show_progress_bar=False) for batch in batches])


def plain_sts(model: SentenceTransformer, task: Task) -> float | None:
    """Spearman over all pairs of STS12-16, of the test split of the others; every part is encoded, as in SentEval."""
    similarity: dict[str, list[float]] = {}
    gold: dict[str, list[float]] = {}
    for name, pairs in task.parts.items():
        assert isinstance(pairs, ScoredPairs)
        first, second = plain_encode(model, pairs.first), plain_encode(model, pairs.second)
        cosine = [u @ v / (np.linalg.norm(u) * np.linalg.norm(v)) for u, v in zip(first, second, strict=True)]
        similarity[name], gold[name] = np.nan_to_num(cosine).tolist(), pairs.scores.tolist()
    wanted = list(task.parts) if task.name in STS_TASKS[:5] else [name for name in task.parts if name == "test"]
    if not wanted:
        return None
    together = [np.concatenate([values[name] for name in wanted]) for values in (similarity, gold)]
    return float(spearmanr(*together).statistic)


def plain_classifier(data: Samples, design: Design) -> Outcome:
    """Tune by trying each strength on each fold, then learn and test: one fit at a time."""
    x, y = data.features, data.labels
    accuracy, fits = [], []
    for l2 in STRENGTHS:
        right = []
        for learn, check in design.tuning:
            fit = PlainClassifier(x.shape[1], int(y.max()) + 1, l2)
            right.append(fit.fit(x[learn], y[learn], (x[check], y[check])))
            fits.append(fit)
        accuracy.append(np.mean(right))
    best, dev = choose(np.array(accuracy))
    final = fits[best]
    if design.train is not None:
        final = PlainClassifier(x.shape[1], int(y.max()) + 1, STRENGTHS[best])
        final.fit(x[design.train], y[design.train], None)
    return Outcome(l2=STRENGTHS[best], dev=dev, predicted=final.predict(x[design.test]))


class PlainClassifier:
    """Softmax regression by torch's Adam, stopped early, as SentEval trains it."""

    def __init__(self, features: int, classes: int, l2: float) -> None:
        np.random.seed(1111)
        torch.manual_seed(1111)
        self.layer = torch.nn.Linear(features, classes)
        self.optimiser = torch.optim.Adam(self.layer.parameters(), weight_decay=l2)

    def fit(self, x: Any, y: Any, dev: tuple[Any, Any] | None) -> float:
        """Train in blocks of four epochs until the sixth look at the held-out rows that is no better."""
        if dev is None:
            order = np.random.permutation(len(x))
            cut = int(0.05 * len(x))
            dev, x, y = (x[order[:cut]], y[order[:cut]]), x[order[cut:]], y[order[cut:]]
        rows, labels = torch.tensor(x, dtype=torch.float32), torch.tensor(y)
        best, kept, failures, epochs = -1.0, self.layer, 0, 0
        while failures <= 5 and epochs <= 200:
            for _ in range(4):
                self._epoch(rows, labels)
            epochs += 4
            accuracy = float((self.predict(dev[0]) == dev[1]).mean())
            if accuracy > best:
                best, kept = accuracy, copy.deepcopy(self.layer)
            else:
                failures += 1
        self.layer = kept
        return best

    def _epoch(self, rows: torch.Tensor, labels: torch.Tensor) -> None:
        order = torch.from_numpy(np.random.permutation(len(rows)))
        for chosen in order.split(64):
            loss = torch.nn.functional.cross_entropy(self.layer(rows[chosen]), labels[chosen])
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()

    @torch.no_grad()
    def predict(self, x: Any) -> NDArray[np.int64]:
        """Classes of rows (N, D): (N,)."""
        return self.layer(torch.tensor(x, dtype=torch.float32)).argmax(dim=1).numpy()


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def _table(rows: list[Row]) -> Table:
    table = Table(title="Evaluation: ours and a plain SentEval-style loop")
    table.add_column("task", no_wrap=True)
    for heading in ("ours s", "plain s", "ratio", "ours", "plain", "difference"):
        table.add_column(heading, justify="right")
    table.add_column("outer folds of plain")
    for row in rows:
        table.add_row(
            row.task,
            f"{row.seconds_ours:.1f}",
            f"{row.seconds_plain:.1f}",
            f"{row.ratio:.1f}",
            *_compared(row.score_ours, row.score_plain),
            row.outer_folds_of_plain,
        )
    return table


def _compared(ours: float | None, plain: float | None) -> tuple[str, str, str]:
    return _points(ours), _points(plain), _difference(ours, plain)


def _points(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}"


def _difference(a: float | None, b: float | None) -> str:
    return "" if a is None or b is None else f"{100 * (a - b):+.3f}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Evaluation suite against a plain SentEval-style loop.")
    parser.add_argument("model", nargs="?", help="folder or Hub name; default: the encoder of the package")
    parser.add_argument("--senteval", type=Path, default=_SENTEVAL, help="folder in SentEval's layout")
    parser.add_argument("--tasks", default="sts,MRPC", help="sts, transfer, all or task names, with commas between")
    parser.add_argument("--outer-folds", type=int, default=10, help="outer folds of nested tasks for the plain loop")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
