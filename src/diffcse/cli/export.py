"""diffcse export: a model for ONNX Runtime or OpenVINO, checked against the original."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

from diffcse.cli.common import TRUST
from diffcse.errors import UserError


def export(
    model: Annotated[str, typer.Argument(help="Folder or Hub name of the encoder, or bundled.", show_default=False)],
    to: Annotated[
        Literal["onnx", "openvino"],
        typer.Option(help="What shall run it: ONNX Runtime or OpenVINO.", show_default=False),
    ],
    int8: Annotated[
        bool, typer.Option("--int8", help="An int8 graph beside the float32 one; prints how far it is off.")
    ] = False,
    output: Annotated[
        Optional[Path],  # noqa: UP045  (typer reads this form on 3.10)
        typer.Option("--output", "-o", help="A new folder for the model and the graph. Default: MODEL itself."),
    ] = None,
    check: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Text to compare on, a sentence a line (the first 1,000). Default: Python's documentation."),
    ] = None,
    trust_remote_code: TRUST = False,
) -> None:
    """Write onnx/ or openvino/ into a model folder, where serving tools look, if its vectors are the original's."""
    from rich.console import Console

    from diffcse.cli.quiet import quiet_libraries
    from diffcse.export.export import export_model
    from diffcse.export.graphs import check_installed
    from diffcse.persistence.load import load_encoder

    check_installed(to, int8=int8)
    folder = _folder(model, output)
    sentences = None if check is None else _lines(check)
    quiet_libraries()
    found = export_model(
        load_encoder(model, trust_remote_code=trust_remote_code), folder, to, int8=int8, sentences=sentences
    )
    console = Console(highlight=False)
    for one in found:
        console.print(f"{folder / one.file}: {one.precision}, {one.megabytes:.1f} MB", soft_wrap=True)
        told = f"largest difference {one.max_abs_difference:.1e}, mean cosine {one.mean_cosine:.6f}"
        console.print(f"  on {one.sentences} sentences: {told}, lowest {one.lowest_cosine:.6f}", soft_wrap=True)


def _folder(model: str, output: Path | None) -> Path:
    if output is not None:
        return output
    if not Path(model).expanduser().is_dir():
        do = "name a new folder for the model and the graph"
        raise UserError("--output", "given for a model that is not a folder of yours", "nothing", do)
    if not (Path(model).expanduser() / "modules.json").is_file():
        do = "name a new folder: its pooling has to be written down too"
        raise UserError("--output", "given for a plain encoder", "nothing", do)
    return Path(model).expanduser()


def _lines(path: Path) -> list[str]:
    from itertools import islice

    from diffcse.text.stream import open_texts

    return list(islice(open_texts(str(path), skip_blank=True), 1000))
