"""diffcse evaluate: the paper's tables for any sentence encoder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional

import typer

from diffcse.errors import UserError

_WIDTH_OF_A_FILE = 140
"""Columns of a table that goes into a file or a pipe, where nobody's window limits it."""

if TYPE_CHECKING:
    from diffcse.config import Pooler
    from diffcse.evaluation.suite import Plan


def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="A SentenceTransformer or a plain encoder: folder or Hub name..",
            show_default=False,
        ),
    ],
    senteval: Annotated[
        Optional[Path],  # noqa: UP045  (typer reads this form on 3.10)
        typer.Option(help="Folder in SentEval's layout, the one that holds downstream/."),
    ] = None,
    tasks: Annotated[
        str, typer.Option(help="sts, transfer, all, or SentEval's task names with commas between.")
    ] = "sts",
    protocol: Annotated[
        Literal["all", "mean", "wmean"],
        typer.Option(help="STS12-16: one Spearman over all pairs (the paper's), mean of the subsets', or weighted."),
    ] = "all",
    mode: Annotated[
        Literal["test", "dev"], typer.Option(help="Test scores, or the dev scores that settings are chosen by.")
    ] = "test",
    json: Annotated[Optional[Path], typer.Option(help="Write the results here.")] = None,  # noqa: UP045
    pooler: Annotated[
        Optional[Literal["cls", "avg", "avg_top2", "avg_first_last"]],  # noqa: UP045
        typer.Option(
            help="Take the plain Transformer with this pooler: cls ([CLS] before any projector), avg, avg_top2 or "
            "avg_first_last. Default: the model's own, or cls where it has none."
        ),
    ] = None,
    details: Annotated[bool, typer.Option("--details", help="Show every subset and split too.")] = False,
    train_splits: Annotated[
        bool, typer.Option("--train-splits", help="Score the train splits of STS-B and SICK-R too, as SentEval does.")
    ] = False,
    published: Annotated[bool, typer.Option("--published", help="Show the published rows below yours.")] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")
    ] = False,
) -> None:
    """Print the paper's STS and transfer tables for a model."""
    if len(models) > 1:
        raise UserError("MODEL", "one model", len(models), "evaluate one after the other")
    if senteval is None:
        do = "name a folder in SentEval's layout, the one that holds downstream"
        raise UserError("--senteval", "given", "nothing", do)
    if json is not None:
        check_writable(json)
    from diffcse.evaluation.suite import plan, select

    planned = plan(senteval, select(tasks), mode=mode, protocol=protocol, train_splits=train_splits)
    results = run(models[0], planned, pooler=pooler, trust_remote_code=trust_remote_code)
    show([results], published=published, details=details)
    if json is not None:
        write_json(json, results)


def check_writable(path: Path) -> None:
    """Say now, not after the work, that a file can not be written there."""
    if not path.parent.is_dir():
        raise UserError(f"--json {path}", "in an existing folder", "no such folder", "make the folder first")
    if path.is_dir():
        raise UserError(f"--json {path}", "a file", "a folder", "name a file in it")


def write_json(path: Path, results: dict[str, Any]) -> None:
    """Write results whole or not at all."""
    import json

    from diffcse.files import write_whole

    try:
        write_whole(path, (json.dumps(results, indent=2, allow_nan=False) + "\n").encode())
    except OSError as error:
        raise UserError(
            f"--json {path}", "a file that can be written", error.strerror, "choose another place"
        ) from error


def run(model: str, plan: Plan, *, pooler: Pooler | None, trust_remote_code: bool) -> dict[str, Any]:
    """Load a model and evaluate it, with a progress line on stderr."""
    from rich.console import Console
    from rich.progress import Progress

    from diffcse.evaluation.load import load_encoder
    from diffcse.evaluation.suite import evaluate as evaluate_plan

    encoder = load_encoder(model, pooler=pooler, trust_remote_code=trust_remote_code)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("encoding", total=None)
        encoder.on_progress = lambda done, total: progress.update(bar, completed=done, total=total)
        on_task = lambda name: progress.update(bar, description=f"scoring {name}")  # noqa: E731
        results = evaluate_plan(encoder.encode, plan, model=model, on_task=on_task)
    results["encoding"] |= {"truncated": encoder.truncated, "limit": encoder.limit}
    return results


def show(results: list[dict[str, Any]], *, published: bool, details: bool) -> None:
    """Tables on stdout; what was left out or cut on stderr."""
    from rich.console import Console

    from diffcse.evaluation import tables

    out, err = Console(), Console(stderr=True)
    if not out.is_terminal:
        out.width = max(out.width, _WIDTH_OF_A_FILE)
    for table in tables.result_tables(results, published=published):
        out.print(table)
    for one in results:
        if details:
            out.print(tables.detail_table(one))
        for line in tables.notes(one):
            err.print(line, soft_wrap=True, markup=False, highlight=False)
