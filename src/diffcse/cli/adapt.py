"""diffcse adapt: documents in, a model that is shown to be better on them out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from diffcse.adaptation.settings import AdaptSettings
from diffcse.cli.common import COLUMN
from diffcse.cli.options import with_fields, without_none


def adapt(
    sources: Annotated[
        list[str],
        typer.Argument(
            help="Documents: folders, globs, text, Markdown, reStructuredText and HTML files, tables with a row a "
            "document, gzip of these, or a Hub dataset name.",
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for model and report.", show_default=False)],
    column: COLUMN = None,
    ir: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder of a judged collection in BEIR's layout; its figures are reported, and decide nothing."
        ),
    ] = None,
    queries: Annotated[
        Path | None,
        typer.Option(help="Judged queries about the documents (queries.jsonl), if these are one corpus.jsonl of BEIR."),
    ] = None,
    qrels: Annotated[Path | None, typer.Option(help="The judgments of --queries (test.tsv).")] = None,
    index: Annotated[
        Path | None, typer.Option(help="Folder for an index of all documents, for: diffcse search FOLDER.")
    ] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder for text that was read.")] = None,
    **options: Any,
) -> None:
    """Adapt an encoder to documents without labels, and show whether it is better on documents that it never saw.

    The start is kept, and that is said, unless the adapted model finds more. The same command resumes an interrupted
    run.
    """
    settings = AdaptSettings(**without_none(options))
    from diffcse.adaptation.adapt import adapt as run
    from diffcse.cli.quiet import quiet_libraries
    from diffcse.progress import make_console, say

    quiet_libraries()
    console = make_console()
    judged: dict[str, Any] = {"judged": ir or [], "queries": queries, "qrels": qrels}
    how: dict[str, Any] = {"column": column, "index": index, "cache_dir": cache, **judged}
    result = run(sources, output, settings=settings, console=console, **how)
    say(console, f"model and report.html in {result.folder} ({result.seconds:.0f} s)")


with_fields(adapt, {"Adaptation": AdaptSettings})
