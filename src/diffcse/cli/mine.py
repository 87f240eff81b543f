"""diffcse mine: hard negatives for pairs of texts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from diffcse.cli.common import DEVICE, MODEL, TRUST, loader
from diffcse.errors import UserError


def mine(
    file: Annotated[
        str,
        typer.Argument(help="Pairs: csv, tsv, jsonl, json or parquet with two columns of text.", show_default=False),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Three columns for diffcse train: .jsonl or .parquet.", show_default=False),
    ],
    columns: Annotated[
        str | None, typer.Option(help="The two columns, separated by a comma. Default: sent0,sent1, or the only two.")
    ] = None,
    count: Annotated[int, typer.Option(help="Negatives of a pair, each a row.")] = 1,
    skip: Annotated[int, typer.Option(help="Nearest texts that are passed over, as they may be positives too.")] = 0,
    margin: Annotated[
        float, typer.Option(help="A negative is at most 1 - MARGIN times as similar as the positive.")
    ] = 0.05,
    query_prompt: Annotated[
        str | None,
        typer.Option(help="Words in front of the first text of a pair. Default: the model's own for queries."),
    ] = None,
    document_prompt: Annotated[
        str | None,
        typer.Option(help="Words in front of the second. Default: the model's own for documents."),
    ] = None,
    model: MODEL = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    device: DEVICE = None,
    trust_remote_code: TRUST = False,
) -> None:
    """Find for each pair a text that is near to the first and not its partner, into a file that diffcse train takes.

    Negatives come from the second texts of all pairs.
    """
    for name, value, least in (("--count", count, 1), ("--skip", skip, 0)):
        if value < least:
            raise UserError(name, f"at least {least}", value, "give a larger number")
    if not 0 <= margin < 1:
        raise UserError("--margin", "at least 0 and below 1", margin, "use 0.05")
    names = None if columns is None else tuple(name.strip() for name in columns.split(","))
    if names is not None and len(names) != 2:
        raise UserError("--columns", "two names separated by a comma", columns, "name both columns")
    from diffcse.progress import make_console, say
    from diffcse.search.mine import mine_file

    encoder = loader(model, device, trust_remote_code)()
    prompts = {"query_prompt": query_prompt, "document_prompt": document_prompt}
    how: dict[str, Any] = {"count": count, "skip": skip, "margin": margin, "overwrite": overwrite, **prompts}
    mined = mine_file(file, output, encoder, columns=names, **how)
    say(make_console(), f"{output}: {mined.rows:,} rows from {mined.read.summary()}")
