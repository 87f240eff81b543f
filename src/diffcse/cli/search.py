"""diffcse search: the sentences of an index that are nearest to queries."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diffcse.cli.common import DEVICE, MODEL, TRUST, loader
from diffcse.errors import UserError

if TYPE_CHECKING:
    from diffcse.search.index import Hit


def search(
    folder: Annotated[Path, typer.Argument(help="What diffcse index made.", show_default=False)],
    queries: Annotated[
        list[str] | None,
        typer.Argument(metavar="[QUERY]...", help="Sentences to look for.", show_default=False),
    ] = None,
    queries_file: Annotated[
        str | None,
        typer.Option("--queries", help="File of further queries, one a line; - for standard input."),
    ] = None,
    top_k: Annotated[int, typer.Option("--top-k", "-k", help="Most sentences of a query.")] = 5,
    threshold: Annotated[float, typer.Option(help="Smallest cosine similarity, -1 to 1.")] = -1.0,
    json: Annotated[bool, typer.Option("--json", help="Print a JSON object a query.")] = False,
    verify: Annotated[bool, typer.Option(help="Compare the content of the index's files with their digests.")] = True,
    model: MODEL = None,
    device: DEVICE = None,
    trust_remote_code: TRUST = False,
) -> None:
    """Print the nearest sentences of each query with their cosine similarity, best first.

    The index knows its model; --model tells where that model is now.
    """
    if top_k < 1:
        raise UserError("--top-k", "at least 1", top_k, "use 5")
    if not -1 <= threshold <= 1:
        raise UserError("--threshold", "between -1 and 1", threshold, "use 0.6")
    from diffcse.encoding.encode import Encoder, EncodeSettings
    from diffcse.persistence.load import fingerprint
    from diffcse.search.index import SentenceIndex, check_model
    from diffcse.text.stream import open_texts

    index = SentenceIndex(folder, verify=verify)
    wanted = list(queries or ())
    if queries_file is not None:
        wanted += open_texts(queries_file, skip_blank=True)
    if not wanted:
        raise UserError("queries", "given", "none", "name some after the folder, or a file with --queries")
    encoder = loader(model or index.manifest.model, device, trust_remote_code)()
    check_model(folder, index.manifest, fingerprint(encoder))
    vectors = Encoder(encoder, settings=EncodeSettings(normalize=True)).encode_query(wanted)
    for query, hits in zip(wanted, index.search(vectors, top_k, threshold), strict=True):
        typer.echo(_as_json(query, hits) if json else _as_text(query, hits))


def _as_json(query: str, hits: list[Hit]) -> str:
    from diffcse.files import json_line

    found = [{"sentence": hit.sentence, "score": hit.score, "row": hit.row} for hit in hits]
    return json_line({"query": query, "results": found})


def _as_text(query: str, hits: list[Hit]) -> str:
    rows = [f"  {hit.score:7.4f}  {hit.sentence}" for hit in hits] or ["  nothing as similar as that"]
    return "\n".join([query, *rows])
