"""diffcse index: a folder that `diffcse search` finds texts in."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from diffcse.cli import common
from diffcse.cli.common import (
    ADDRESS,
    COLUMN,
    DEVICE,
    DIMS,
    ENGINE,
    MAX_TOKENS,
    MODEL,
    PROMPT,
    PROMPT_NAME,
    TRUST,
    WORKERS,
)
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
VECTORS = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Encode nothing: take the vectors from the folder that diffcse encode wrote for the same file with the "
        "same model and options, on this machine or with --engine ray.",
        show_default=False,
    ),
]
COMPACT = Annotated[
    bool,
    typer.Option(
        "--compact",
        help="Give the room of deleted rows back to the disk. The vectors are rewritten without them when more "
        "than a third of them, and 10,000, are of deleted rows.",
    ),
]
PUBLISH = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Put the index, as it is now, on object storage, such as s3://bucket/index, where diffcse search finds "
        "it; files that have not changed are not sent again.",
        show_default=False,
    ),
]


def index(
    output: OUTPUT,
    file: FILE = None,
    model: MODEL = None,
    add: ADD = False,
    update: UPDATE = None,
    delete: DELETE = None,
    compact: COMPACT = False,
    publish: PUBLISH = None,
    dims: DIMS = None,
    prompt_name: PROMPT_NAME = None,
    prompt: PROMPT = None,
    engine: ENGINE = "local",
    address: ADDRESS = None,
    workers: WORKERS = None,
    vectors: VECTORS = None,
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
    if delete is not None or compact or publish is not None:
        if file is not None or add or update is not None:
            option = "--delete" if delete is not None else "--compact" if compact else "--publish"
            raise UserError(option, "used alone", "a text or --add or --update", "run two commands")
        _shrink(console, output, delete, compact=compact)
        if publish is not None:
            _publish(console, output, publish)
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
    if vectors is not None:
        how["engine"] = _stored(vectors, alone=engine == "local" and address is None and workers is None)
    else:
        how["engine"] = common.bulk_engine(engine, address, workers, model, trust_remote_code)
    settings = BulkSettings(encoding=EncodeSettings(max_tokens=max_tokens, normalize=True, dims=dims))
    load = common.loader(model, device, trust_remote_code)
    name = str(Path(model).resolve()) if model and Path(model).is_dir() else model
    with counting(console, "index") as show:
        rows, counts = index_text(file, output, load, model=name, settings=settings, on_progress=show, **how)
    with closing(rows):
        say(console, f"{output}: {common.summary(counts)}; {len(rows):,} rows in the index, {_kind(rows)}")


def _stored(folder: Path, *, alone: bool) -> Any:
    from diffcse.search.build import StoredParts

    if not alone:
        raise UserError("--vectors", "used without --engine, --address and --workers", "one of them", "remove it")
    return StoredParts(folder)


def _publish(console: Any, output: Path, url: str) -> None:
    from rich.filesize import decimal

    from diffcse.progress import say
    from diffcse.search.remote import publish

    size, sent = publish(output, url)
    say(console, f"{url}: {decimal(size)} published, {decimal(sent)} of them sent")


def _shrink(console: Any, output: Path, delete: str | None, *, compact: bool) -> None:
    """Remove rows, give back their room, or both."""
    from rich.filesize import decimal

    from diffcse.progress import say
    from diffcse.search.index import SentenceIndex

    with closing(SentenceIndex(output)) as index:
        if delete is not None:
            removed = index.delete(delete)
            say(console, f"{output}: {removed:,} rows removed; {len(index):,} in the index")
        if compact:
            before = _size(output)
            vectors = index.compact()
            sizes = f"{decimal(before)} before, {decimal(_size(output))} now"
            say(console, f"{output}: room of {vectors:,} deleted rows given back; {sizes}")


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def _kind(index: Any) -> str:
    facts = index.facts
    if not facts.codes:
        return "every search is exact"
    return f"searched approximately: recall@10 {facts.recall:.3f} against exact search"
