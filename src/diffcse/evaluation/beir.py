"""Judged collections in BEIR's layout (Thakur et al., 2021): corpus.jsonl, queries.jsonl and qrels/*.tsv."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

from diffcse.errors import UserError
from diffcse.evaluation.retrieval import Retrieval
from diffcse.text.opening import decode, opened, whole_lines
from diffcse.text.stream import repaired

_LAYOUT = "use a folder with corpus.jsonl, queries.jsonl and qrels/test.tsv"


def read_beir(folder: str | Path, *, split: str = "test") -> Retrieval:
    """Read a collection; queries without a positive judgment are skipped, as is usual.

    A document is its title and text, joined by a space.

    Args:
        folder: in BEIR's layout.
        split: which file of qrels/ to read.

    Raises:
        UserError: a file that is missing or malformed, an id that is unknown or used twice, or no positive judgment.
    """
    root = Path(folder)
    return read_judged(root / "corpus.jsonl", root / "queries.jsonl", root / "qrels" / f"{split}.tsv")


def read_judged(corpus: Path, queries_file: Path, qrels: Path) -> Retrieval:
    """The same from three files in that layout, wherever they are.

    Args:
        corpus: documents, an object with _id, text and perhaps title a line.
        queries_file: queries, an object with _id and text a line.
        qrels: query-id, corpus-id and score between tabs, or trec_eval's form.

    Raises:
        UserError: as `read_beir`.
    """
    documents = _texts(corpus)
    queries = _texts(queries_file)
    judged = _judgments(qrels, queries, documents)
    places = {name: place for place, name in enumerate(documents)}
    names = [name for name in queries if name in judged]
    relevant = [{places[document]: grade for document, grade in judged[name].items()} for name in names]
    return Retrieval([queries[name] for name in names], list(documents.values()), relevant)


def _texts(path: Path) -> dict[str, str]:
    """Text by id, in the file's order."""
    texts: dict[str, str] = {}
    for number, line in _lines(path):
        where = f"{path} line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(where, "a JSON object", error, "check the line") from error
        if not isinstance(row, dict) or not isinstance(row.get("text"), str) or "_id" not in row:
            raise UserError(where, "an object with _id and text", line[:60], "check the line")
        name = str(row["_id"])
        if name in texts:
            raise UserError(f"{where}: _id", "used once", name, "remove one of the lines")
        texts[name] = f"{row.get('title') or ''} {row['text']}".strip()
    if not texts:
        raise UserError(str(path), "not empty", "no lines", _LAYOUT)
    return texts


def _judgments(path: Path, queries: dict[str, str], documents: dict[str, str]) -> dict[str, dict[str, float]]:
    """Positive grades by query and document."""
    judged: dict[str, dict[str, float]] = {}
    for number, line in _lines(path):
        where, fields = f"{path} line {number}", line.split("\t")
        if len(fields) == 4:  # trec_eval's form has an unused second column
            del fields[1]
        if len(fields) != 3:
            raise UserError(where, "query-id, corpus-id and score between tabs", line[:60], "check the line")
        query, document, grade = fields[0], fields[1], _number(fields[2])
        if grade is None:
            if number == 1:  # the header
                continue
            raise UserError(f"{where}: score", "a finite number", fields[2], "check the line")
        for name, known, file in ((query, queries, "queries.jsonl"), (document, documents, "corpus.jsonl")):
            if name not in known:
                raise UserError(f"{where}: id", f"one of {file}", name, "check that the files belong together")
        if grade > 0:
            judged.setdefault(query, {})[document] = grade
    if not judged:
        raise UserError(str(path), "a file with at least one score above 0", "none", "add judgments")
    return judged


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, with their numbers; packed or not, in any Unicode encoding with a mark."""
    packed = [path.with_name(f"{path.name}{end}") for end in (".gz", ".bz2", ".xz", ".zst")]
    existing = next((each for each in (path, *packed) if each.is_file()), None)
    if existing is None:
        raise UserError(str(path), "a file", "no such file", _LAYOUT)
    with opened(existing) as file:
        for number, line in enumerate(whole_lines(file, str(existing)), 1):
            text = decode(line).rstrip("\r\n")
            if repaired(text) != text:
                got = "bytes that are not UTF-8"
                raise UserError(
                    f"{existing} line {number}", "text in UTF-8", got, "correct the line, or convert the file"
                )
            if text.strip():
                yield number, text
