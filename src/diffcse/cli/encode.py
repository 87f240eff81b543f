"""diffcse encode: a text of any length to a file of vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

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

FILE = Annotated[
    str,
    typer.Argument(help=f"{common.TEXT_FILE}; - for standard input.", show_default=False),
]
OUTPUT = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        help="Where to: .npy (vectors), .parquet (texts and vectors), or a new folder of Parquet parts.",
        show_default=False,
    ),
]
DTYPE = Annotated[
    Literal["float32", "float16", "int8"],
    typer.Option(help="Type of the numbers written. int8 scales each vector by itself, which cosines do not feel."),
]
PRECISION = Annotated[
    Literal["float32", "float16", "bfloat16", "int8"],
    typer.Option(help="Arithmetic of the model. float16 and bfloat16 with torch, int8 with an exported graph."),
]
BACKEND = Annotated[
    Literal["torch", "onnx", "openvino"],
    typer.Option(help="What runs the model; onnx and openvino run what diffcse export put into its folder."),
]


def encode(
    file: FILE,
    output: OUTPUT,
    model: MODEL = None,
    dtype: DTYPE = "float32",
    precision: PRECISION = "float32",
    backend: BACKEND = "torch",
    engine: ENGINE = "local",
    address: ADDRESS = None,
    workers: WORKERS = None,
    normalize: Annotated[bool, typer.Option(help="Scale every vector to length 1.")] = True,
    dims: DIMS = None,
    prompt_name: PROMPT_NAME = None,
    prompt: PROMPT = None,
    max_tokens: MAX_TOKENS = None,
    column: COLUMN = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output, at the end.")] = False,
    device: DEVICE = None,
    trust_remote_code: TRUST = False,
) -> None:
    """Write the vector of every line; row i belongs to line i, and the same command resumes an interrupted run."""
    from diffcse.encoding.bulk import BulkSettings, encode_file
    from diffcse.encoding.encode import EncodeSettings
    from diffcse.encoding.prompts import resolve_prompt
    from diffcse.progress import counting, make_console, say

    if engine == "ray" and backend != "torch":
        raise UserError("--backend", "torch with --engine ray", backend, "remove --backend")
    console = make_console()
    load = common.loader(model, device, trust_remote_code)
    run: dict[str, Any] = {"column": column, "overwrite": overwrite, "folder": model}
    run["engine"] = common.bulk_engine(engine, address, workers, model, trust_remote_code)
    encoding = EncodeSettings(max_tokens=max_tokens, precision=precision, normalize=normalize, dims=dims)
    settings = BulkSettings(dtype=dtype, encoding=encoding, backend=backend)
    with counting(console, "encode") as show:
        words = lambda encoder: resolve_prompt(encoder, "document", prompt_name, prompt)  # noqa: E731
        counts = encode_file(file, output, load, settings, prompt=words, on_progress=show, **run)
    say(console, f"{output}: {common.summary(counts)}")
