"""diffcse export: a model for ONNX Runtime or OpenVINO, checked against the original."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from diffcse.cli.common import TRUST


def export(
    model: Annotated[str, typer.Argument(help="Folder or Hub name of the encoder, or bundled.", show_default=False)],
    to: Annotated[
        Literal["onnx", "openvino"],
        typer.Option(help="What shall run it: ONNX Runtime or OpenVINO.", show_default=False),
    ],
    int8: Annotated[
        bool, typer.Option("--int8", help="Also an int8 graph; prints how far its vectors are from the original's.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="A new folder for the model and the graph. Default: a SentenceTransformer folder itself, for other "
            "models ./MODEL-onnx or ./MODEL-openvino.",
        ),
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option(help="Text to compare on, one sentence per line (first 1,000). Default: Python's documentation."),
    ] = None,
    trust_remote_code: TRUST = False,
) -> None:
    """Write onnx/ or openvino/ into a model folder, where serving tools look, if its vectors are the original's."""
    from diffcse.cli.quiet import quiet_libraries
    from diffcse.export.export import export_model
    from diffcse.export.graphs import check_installed
    from diffcse.persistence.load import load_encoder
    from diffcse.progress import make_console, say

    check_installed(to, int8=int8)
    folder = _folder(model, output, to)
    sentences = None if check is None else _lines(check)
    quiet_libraries()
    encoder = load_encoder(model, trust_remote_code=trust_remote_code)
    console = make_console(stderr=False)
    for graph in export_model(encoder, folder, to, int8=int8, sentences=sentences):
        say(console, f"{folder / graph.file}: {graph.precision}, {graph.megabytes:.1f} MB")
        figures = f"largest difference {graph.max_abs_difference:.1e}, mean cosine {graph.mean_cosine:.6f}"
        say(console, f"  on {graph.sentences} sentences: {figures}, lowest {graph.lowest_cosine:.6f}")


def _folder(model: str, output: Path | None, to: str) -> Path:
    """Where the graph goes: into a SentenceTransformer folder, else into a new folder in the one we are in.

    >>> str(_folder("sentence-transformers/all-MiniLM-L6-v2", None, "onnx"))
    'all-MiniLM-L6-v2-onnx'
    """
    if output is not None:
        return output
    place = Path(model).expanduser()
    # A model of the Hub or of a package is not ours to write into; a plain encoder's pooling has to be written down.
    return place if (place / "modules.json").is_file() else Path(f"{place.absolute().name}-{to}")


def _lines(path: Path) -> list[str]:
    from itertools import islice

    from diffcse.text.stream import open_texts, repaired

    return [repaired(text) for text in islice(open_texts(str(path), skip_blank=True), 1000)]
