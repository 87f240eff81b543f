"""diffcse encode: a text of any length to a file of vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from diffcse.cli.common import COLUMN, DEVICE, MAX_TOKENS, MODEL, TRUST, loader, progress, summary


def encode(
    file: Annotated[
        str,
        typer.Argument(
            help="Text (a sentence a line), csv, tsv, jsonl or parquet, any of them gzipped; - for standard input.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="Where to: .npy (vectors) or .parquet (texts and vectors).", show_default=False
        ),
    ],
    model: MODEL = None,
    dtype: Annotated[
        Literal["float32", "float16", "int8"],
        typer.Option(help="Type of the numbers written. int8 scales each vector by itself, which cosines do not feel."),
    ] = "float32",
    precision: Annotated[
        Literal["float32", "float16", "bfloat16"], typer.Option(help="Arithmetic of the model.")
    ] = "float32",
    normalize: Annotated[bool, typer.Option(help="Scale every vector to length 1.")] = True,
    max_tokens: MAX_TOKENS = None,
    column: COLUMN = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output, at the end.")] = False,
    device: DEVICE = None,
    trust_remote_code: TRUST = False,
) -> None:
    """Write the vector of every line; row i belongs to line i, and the same command resumes an interrupted run."""
    from rich.console import Console

    from diffcse.bulk import BulkSettings, encode_file
    from diffcse.encoding import EncodeSettings

    console = Console(stderr=True)
    encoding = EncodeSettings(max_tokens=max_tokens, precision=precision, normalize=normalize)
    settings = BulkSettings(dtype=dtype, encoding=encoding)
    with progress(console, "encode") as show:
        counts = encode_file(
            file,
            output,
            loader(model, device, trust_remote_code),
            settings,
            column=column,
            overwrite=overwrite,
            on_progress=show,
        )
    console.print(f"{output}: {summary(counts)}", soft_wrap=True, highlight=False)
