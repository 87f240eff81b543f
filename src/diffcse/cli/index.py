"""diffcse index: a folder that `diffcse search` finds sentences in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffcse.cli.common import COLUMN, DEVICE, MAX_TOKENS, MODEL, TRUST, loader, summary


def index(
    file: Annotated[
        str,
        typer.Argument(
            help="Text (a sentence a line), csv, tsv, jsonl, json or parquet, "
            "packed (gz, bz2, xz, zst) or not; - for standard input.",
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the index.", show_default=False)],
    model: MODEL = None,
    add: Annotated[bool, typer.Option("--add", help="Append to the index that is in the folder.")] = False,
    max_tokens: MAX_TOKENS = None,
    column: COLUMN = None,
    device: DEVICE = None,
    trust_remote_code: TRUST = False,
) -> None:
    r"""Encode the lines of a text, blank ones left out, into a searchable folder; the same command resumes.

    Needs FAISS: pip install 'diffcse\[search]'.
    """
    from diffcse.encoding.bulk import BulkSettings
    from diffcse.encoding.encode import EncodeSettings
    from diffcse.progress import counting, make_console, say
    from diffcse.search.build import index_text

    console = make_console()
    name = str(Path(model).resolve()) if model and Path(model).is_dir() else model
    settings = BulkSettings(encoding=EncodeSettings(max_tokens=max_tokens, normalize=True))
    with counting(console, "index") as show:
        manifest, counts = index_text(
            file,
            output,
            loader(model, device, trust_remote_code),
            model=name,
            add=add,
            column=column,
            settings=settings,
            on_progress=show,
        )
    kind = {
        "flat": "flat (every search is exact)",
        "hnsw": "a graph of neighbours (a search is fast and finds nearly all)",
    }[manifest.kind]
    text = f"{output}: {summary(counts)}; {manifest.rows:,} in the index, {kind}"
    say(console, text)
