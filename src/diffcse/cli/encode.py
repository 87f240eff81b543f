"""diffcse encode: a text of any length to a file of vectors."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from diffcse.cli.common import COLUMN, DEVICE, MAX_TOKENS, MODEL, TRUST, loader, progress, summary
from diffcse.errors import UserError


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
            "--output",
            "-o",
            help="Where to: .npy (vectors) or .parquet (texts and vectors); with --engine ray a folder of Parquet.",
            show_default=False,
        ),
    ],
    model: MODEL = None,
    dtype: Annotated[
        Literal["float32", "float16", "int8"],
        typer.Option(help="Type of the numbers written. int8 scales each vector by itself, which cosines do not feel."),
    ] = "float32",
    precision: Annotated[
        Literal["float32", "float16", "bfloat16", "int8"],
        typer.Option(help="Arithmetic of the model. float16 and bfloat16 with torch, int8 with an exported graph."),
    ] = "float32",
    backend: Annotated[
        Literal["torch", "onnx", "openvino"],
        typer.Option(help="What runs the model; onnx and openvino run what diffcse export put into its folder."),
    ] = "torch",
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="This process, or the workers of a Ray cluster.")
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(help="Of a running Ray cluster. Default: one on this machine, for this run."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Most Ray workers. Default: one a GPU, or one a core.", min=1),
    ] = None,
    normalize: Annotated[bool, typer.Option(help="Scale every vector to length 1.")] = True,
    max_tokens: MAX_TOKENS = None,
    column: COLUMN = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output, at the end.")] = False,
    device: DEVICE = None,
    trust_remote_code: TRUST = False,
) -> None:
    """Write the vector of every line; row i belongs to line i, and the same command resumes an interrupted run."""
    from rich.console import Console

    from diffcse.encoding.bulk import BulkSettings
    from diffcse.encoding.encode import EncodeSettings

    _check(backend, engine, overwrite)
    console = Console(stderr=True)
    load = loader(model, device, trust_remote_code)
    encoding = EncodeSettings(max_tokens=max_tokens, precision=precision, normalize=normalize)
    settings = BulkSettings(dtype=dtype, encoding=encoding, backend=backend)
    with progress(console, "encode") as show:
        if engine == "ray":
            run = partial(_on_ray, address=address, workers=workers, trust=trust_remote_code)
        else:
            run = partial(_here, load=load, overwrite=overwrite)
        counts = run(file, output, model, settings, column=column, on_progress=show)
    console.print(f"{output}: {summary(counts)}", soft_wrap=True, highlight=False, markup=False)


def _here(file: str, output: Path, model: str | None, settings: Any, *, load: Any, **more: Any) -> Any:
    from diffcse.encoding.bulk import encode_file

    return encode_file(file, output, load, settings, folder=model, **more)


def _on_ray(
    file: str, output: Path, model: str | None, settings: Any, *, address: Any, workers: Any, trust: bool, **more: Any
) -> Any:
    from diffcse.encoding.ray_workers import Cluster, encode_on_ray

    cluster = Cluster(address=address, workers=workers)
    return encode_on_ray(file, output, model, settings, cluster=cluster, trust_remote_code=trust, **more)


def _check(backend: str, engine: str, overwrite: bool) -> None:
    if engine == "ray" and backend != "torch":
        raise UserError("--backend", "torch with --engine ray", backend, "remove --backend")
    if engine == "ray" and overwrite:
        do = "remove it, or name a new output folder"
        raise UserError("--overwrite", "absent with --engine ray", "it", do)
