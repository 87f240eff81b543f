"""diffcse index: a folder that `diffcse search` finds texts in."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from diffcse.cli import common
from diffcse.cli.common import COLUMN, DEVICE, DIMS, MAX_TOKENS, MODEL, PROMPT, PROMPT_NAME, TRUST, WORKERS
from diffcse.errors import UserError

OUTPUT = Annotated[Path, typer.Option("--output", "-o", help="Folder of the index.", show_default=False)]
FILE = Annotated[
    str | None,
    typer.Argument(help=f"{common.TEXT_FILE}; - for standard input. A table's other columns are kept for conditions."),
]
ADD = Annotated[bool, typer.Option("--add", help="Append to the index that is in the folder.")]
UPDATE = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        help="Put the rows into the index that is in the folder: those with the same value in this column are "
        "replaced, the others appended.",
    ),
]
DELETE = Annotated[
    str | None,
    typer.Option(metavar="CONDITION", help='Remove the rows that meet a condition, such as "year < 2000".'),
]


def index(
    output: OUTPUT,
    file: FILE = None,
    model: MODEL = None,
    add: ADD = False,
    update: UPDATE = None,
    delete: DELETE = None,
    dims: DIMS = None,
    prompt_name: PROMPT_NAME = None,
    prompt: PROMPT = None,
    workers: WORKERS = None,
    max_tokens: MAX_TOKENS = None,
    column: COLUMN = None,
    device: DEVICE = None,
    trust_remote_code: TRUST = False,
) -> None:
    r"""Encode a text or a table into a searchable folder; the same command resumes an interrupted run.

    Up to 100,000 rows every search is exact. Larger ones get an approximate index, whose recall against exact search is
    measured and printed; it needs FAISS: pip install 'diffcse\[search]'.
    """
    from diffcse.progress import counting, make_console, say

    console = make_console()
    if delete is not None:
        _delete(console, output, delete, alone=file is None and not add and update is None)
        return
    if file is None:
        raise UserError("FILE", "the text to index", "none", "name a file, or - for standard input")
    from diffcse.encoding.bulk import BulkSettings
    from diffcse.encoding.encode import EncodeSettings
    from diffcse.encoding.prompts import resolve_prompt
    from diffcse.search.build import index_text

    how: dict[str, Any] = {"add": add, "update": update, "column": column}
    if prompt is not None or prompt_name is not None:
        how["prompt"] = lambda encoder: resolve_prompt(encoder, "document", prompt_name, prompt)
    if workers is not None:
        from diffcse.encoding.workers import Workers

        how["engine"] = Workers(workers=workers)
    settings = BulkSettings(encoding=EncodeSettings(max_tokens=max_tokens, normalize=True, dims=dims))
    load = common.loader(model, device, trust_remote_code)
    name = str(Path(model).resolve()) if model and Path(model).is_dir() else model
    with counting(console, "index") as show:
        rows, counts = index_text(file, output, load, model=name, settings=settings, on_progress=show, **how)
    with closing(rows):
        say(console, f"{output}: {common.summary(counts)}; {len(rows):,} rows in the index, {_kind(rows)}")


def _delete(console: Any, output: Path, condition: str, *, alone: bool) -> None:
    from diffcse.progress import say
    from diffcse.search.index import SentenceIndex

    if not alone:
        raise UserError("--delete", "used alone", "a text or --add or --update", "run two commands")
    with closing(SentenceIndex(output)) as index:
        removed = index.delete(condition)
        say(console, f"{output}: {removed:,} rows removed; {len(index):,} in the index")


def _kind(index: Any) -> str:
    facts = index.facts
    if not facts.codes:
        return "every search is exact"
    return f"searched approximately: recall@10 {facts.recall:.3f} against exact search"
