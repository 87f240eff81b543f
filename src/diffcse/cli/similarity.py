"""diffcse similarity: how alike two sentences are."""

from __future__ import annotations

from typing import Annotated

import typer

from diffcse.cli.common import DEVICE, MODEL, TRUST, loader, warn_unknown


def similarity(
    first: Annotated[str, typer.Argument(metavar="A", help="A sentence.", show_default=False)],
    second: Annotated[str, typer.Argument(metavar="B", help="Another.", show_default=False)],
    model: MODEL = None,
    device: DEVICE = None,
    trust_remote_code: TRUST = False,
) -> None:
    """Print the cosine similarity of two sentences, -1 to 1."""
    from diffcse.encoding.encode import Encoder
    from diffcse.vectors import cosines

    encoder = Encoder(loader(model, device, trust_remote_code)())
    vectors = encoder.encode([first, second])
    typer.echo(f"{float(cosines(vectors[:1], vectors[1:])[0, 0]):.4f}")
    if encoder.unknown:
        warn_unknown(encoder.unknown, 2)
