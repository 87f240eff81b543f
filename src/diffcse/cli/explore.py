"""diffcse explore: a page to look inside a model."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from diffcse.cli.common import COLUMN, DEVICE, TRUST, loader, warn_unknown


def explore(
    model: Annotated[
        str | None,
        typer.Argument(help="Folder or Hub name of the encoder. Default: the one in the package.", show_default=False),
    ] = None,
    corpus: Annotated[
        str | None,
        typer.Option(help="Text to search in: a .txt (one sentence per line) or a table; its first 100,000 sentences."),
    ] = None,
    column: COLUMN = None,
    host: Annotated[str, typer.Option(help="Address to listen at; the default is reached from this machine only.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="Port to listen at.", min=1, max=65535)] = 7860,
    device: DEVICE = None,
    trust_remote_code: TRUST = False,
) -> None:
    """Open a page with a search, a map of similarities, and what the discriminator sees of an edited sentence.

    The last needs a model that was trained with --keep-discriminator.
    """
    from diffcse.explore.app import check_address, import_gradio, is_loopback, serve

    import_gradio()
    check_address(host, port)
    from diffcse.encoding.encode import Encoder
    from diffcse.explore.answers import make_answers
    from diffcse.explore.corpus import read_corpus
    from diffcse.progress import counting, make_console, say

    console = make_console()
    encoder = Encoder(loader(model, device, trust_remote_code)())
    with counting(console, "corpus") as show:
        embed = partial(encoder.encode_document, on_progress=show)
        searched = None if corpus is None else read_corpus(corpus, embed, column=column)
    if encoder.unknown:
        warn_unknown(encoder.unknown, encoder.texts)
    answers = make_answers(
        model, encoder.encode, searched, query=encoder.encode_query, document=encoder.encode_document
    )
    if not is_loopback(host):
        say(console, f"{host} can be reached by other machines, and the page asks for no password")
    say(console, f"http://{host}:{port}  (Ctrl-C ends it)")
    name = Path(model).resolve().name if model is not None and Path(model).is_dir() else model
    serve(answers, f"diffcse: {name or 'the bundled model'}", host, port)
