"""diffcse search: the rows of an index that are nearest to queries."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffcse.cli.common import DEVICE, MODEL, PROMPT, PROMPT_NAME, TRUST, loader, warn_unknown
from diffcse.errors import UserError

if TYPE_CHECKING:
    from diffcse.search.index import Hit


FOLDER = Annotated[
    str,
    typer.Argument(
        help="What diffcse index wrote, or published: of s3://bucket/index, what changed is copied to this machine.",
        show_default=False,
    ),
]
QUERIES = Annotated[
    list[str] | None, typer.Argument(metavar="[QUERY]...", help="Sentences to look for.", show_default=False)
]
QUERIES_FILE = Annotated[
    str | None, typer.Option("--queries", help="File of further queries, one per line; - for standard input.")
]
WHERE = Annotated[
    str | None,
    typer.Option(
        metavar="CONDITION",
        help="Only rows that meet a condition on the index's columns, as in SQL: \"year > 2020 AND lang = 'en'\".",
    ),
]
HYBRID = Annotated[
    bool, typer.Option("--hybrid", help="Let a full-text search of the same words decide with the vectors.")
]
VERIFY = Annotated[
    bool, typer.Option("--verify/--no-verify", help="Read all of the index and compare it with its digests.")
]


def search(
    folder: FOLDER,
    queries: QUERIES = None,
    queries_file: QUERIES_FILE = None,
    top_k: Annotated[int, typer.Option("--top-k", "-k", help="Most rows of a query.")] = 5,
    threshold: Annotated[float, typer.Option(help="Smallest cosine similarity, -1 to 1.")] = -1.0,
    where: WHERE = None,
    hybrid: HYBRID = False,
    json: Annotated[bool, typer.Option("--json", help="Print a JSON object per query.")] = False,
    verify: VERIFY = False,
    model: MODEL = None,
    prompt_name: PROMPT_NAME = None,
    prompt: PROMPT = None,
    device: DEVICE = None,
    trust_remote_code: TRUST = False,
) -> None:
    """Print the nearest rows of each query with their cosine similarity, best first.

    The index knows its model and the words that belong in front of a query; --model tells where that model is now.
    """
    if top_k < 1:
        raise UserError("--top-k", "at least 1", top_k, "use 5")
    if not -1 <= threshold <= 1:
        raise UserError("--threshold", "between -1 and 1", threshold, "use 0.6")
    if prompt is not None and prompt_name is not None:
        raise UserError("--prompt", "used without --prompt-name", "both", "remove one of them")
    from diffcse.search.build import TextSearch
    from diffcse.search.index import SentenceIndex
    from diffcse.text.stream import open_texts, readable

    with closing(SentenceIndex(_local(folder), verify=verify)) as index:
        texts = list(queries or ())
        if queries_file is not None:
            more, damaged = readable(open_texts(queries_file, skip_blank=True))
            texts += more
            if damaged:
                typer.echo(f"{queries_file}: replaced bytes that are not UTF-8 in {damaged:,}", err=True)
        if not texts:
            raise UserError("queries", "at least one", "none", "name some after the folder, or a file with --queries")
        if where is not None:
            index.check_condition(where)
        encoder = loader(model or index.facts.model, device, trust_remote_code)()
        searching = TextSearch(index, encoder, prompt=prompt, name=prompt_name)
        results = searching.search(texts, top_k, threshold, where=where, hybrid=hybrid)
    if searching.unknown:
        warn_unknown(searching.unknown, len(texts))
    for query, hits in zip(texts, results, strict=True):
        typer.echo(_as_json(query, hits) if json else _as_text(query, hits))


def _local(folder: str) -> Path:
    from diffcse.search.remote import fetch, is_remote

    return fetch(folder) if is_remote(folder) else Path(folder)


def _as_json(query: str, hits: list[Hit]) -> str:
    from diffcse.files import json_line

    return json_line({"query": query, "results": [_result(hit) for hit in hits]})


def _result(hit: Hit) -> dict[str, Any]:
    result = {"sentence": hit.sentence, "score": hit.score, "row": hit.row, "line": hit.line}
    if hit.fused is not None:
        result["fused"] = hit.fused
    return result | ({"columns": dict(hit.columns)} if hit.columns else {})


def _as_text(query: str, hits: list[Hit]) -> str:
    rows = [f"  {hit.score:7.4f}  {hit.sentence}" for hit in hits] or ["  nothing as similar as that"]
    return "\n".join([query, *rows])
