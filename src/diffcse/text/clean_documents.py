"""What is left of documents: two passes over Arrow files, which keep memory low.

The first cleans and splits the documents and drops repeated ones; the second drops sentences that many documents have.
"""

from __future__ import annotations

import hashlib
import re
import sys
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from diffcse.text.cache import batches, write_arrow
from diffcse.text.find_documents import LONGEST, RawDocument
from diffcse.text.markup import prose_of
from diffcse.text.near_duplicates import distinct
from diffcse.text.sentences import split_sentences
from diffcse.text.stream import repaired
from diffcse.text.tables import NUL

_REPEATED_SHARE, _REPEATED_LEAST = 0.01, 10
"""A sentence is boilerplate in more than this share of the documents, and in at least this many."""
_TITLE_MARKS = ".:!?|-\u2013\u2014"
_TITLE_END = re.compile(rf"\s*(?:[{re.escape(_TITLE_MARKS)}]|\n|\Z)")


class _Document(NamedTuple):
    key: str
    title: str
    sentences: list[str]
    origin: str
    group: str


def clean(
    raw: Iterable[RawDocument],
    folder: Path,
    schema: pa.Schema,
    *,
    threshold: float,
    language: str,
    counts: Counter[str],
) -> None:
    """Write `data.arrow`: the documents without markup, boilerplate and repetitions, each cut into its sentences.

    Args:
        raw: read once.
        folder: gets the file, and for a while that of the first pass.
        schema: the columns of the file.
        threshold: Jaccard similarity from which a document repeats an earlier one; 0 drops equal ones only.
        language: of `split_sentences`.
        counts: what was dropped is added here, under the names of `DocumentCounts`.
    """
    parts, numbers = folder / "parts.arrow", array("Q")
    documents = _distinct(_cleaned(raw, language, counts), threshold, counts)
    _write(parts, schema, _numbered(documents, numbers, counts))
    repeated = _repeated(numbers, counts["first_pass"])
    del numbers
    _write(folder / "data.arrow", schema, _without(_read(parts), repeated, counts))
    parts.unlink()
    del counts["first_pass"]


# The first pass: clean, split, drop repeated documents


def _cleaned(raw: Iterable[RawDocument], language: str, counts: Counter[str]) -> Iterator[_Document]:
    for document in raw:
        text, title = document.text[:LONGEST], " ".join(_clean(document.title).split())
        clean = _clean(text)
        counts["cut"] += len(text) < len(document.text)
        counts["repaired"] += "\ufffd" in clean and "\ufffd" not in text
        counts["nul"] += "\0" in text or NUL in text
        prose = prose_of(_after_title(clean, title), document.kind)
        counts["code_blocks"] += prose.code
        counts["tables"] += prose.tables
        title = title or prose.title
        sentences = split_sentences(prose.blocks, language)
        if not sentences:
            sentences, title = ([title] if title else []), ""
        if not sentences:
            counts["empty"] += 1
            continue
        whole = " ".join(unicodedata.normalize("NFKC", " ".join(sentences)).casefold().split())
        key = hashlib.sha256(whole.encode()).hexdigest()[:32]
        origin = repaired(document.origin)  # a file's name need not be UTF-8
        yield _Document(key, title, sentences, origin, document.group)


def _clean(text: str) -> str:
    return repaired(text.replace("\0", "").replace(NUL, "")).replace("\r\n", "\n").replace("\r", "\n")


def _after_title(text: str, title: str) -> str:
    """The text without its own title in front of it, unless that begins a sentence."""
    if not title:
        return text
    match = re.match(r"\s*" + r"\s+".join(map(re.escape, title.split())), text, re.IGNORECASE)
    if match and (title[-1] in ".:!?" or _TITLE_END.match(text, match.end())):
        return text[match.end() :].lstrip(" \t\n" + _TITLE_MARKS)
    return text


def _distinct(documents: Iterable[_Document], threshold: float, counts: Counter[str]) -> Iterator[_Document]:
    seen: set[bytes] = set()

    def different() -> Iterator[tuple[_Document, str]]:
        """Documents that no earlier one is equal or nearly equal to."""
        for document in documents:
            if (key := bytes.fromhex(document.key)) in seen:
                counts["equal"] += 1
            else:
                seen.add(key)
                yield document, " ".join(document.sentences)

    if not threshold:
        yield from (document for document, _ in different())
        return
    for document, new in distinct(different(), threshold):
        if new:
            yield document
        else:
            counts["near_duplicates"] += 1


def _numbered(documents: Iterable[_Document], numbers: array[int], counts: Counter[str]) -> Iterator[_Document]:
    """The documents, while a number for each of their different sentences is noted."""
    for document in documents:
        counts["first_pass"] += 1
        numbers.extend({_number(sentence) for sentence in document.sentences})
        yield document


# The second pass: drop repeated sentences


def _number(sentence: str) -> int:
    return int.from_bytes(hashlib.blake2b(sentence.casefold().encode(), digest_size=8).digest(), sys.byteorder)


def _repeated(numbers: array[int], documents: int) -> set[int]:
    """The numbers of the sentences that too many documents have; takes 16 bytes a sentence."""
    ordered = np.frombuffer(numbers, dtype=np.uint64) if len(numbers) else np.zeros(0, np.uint64)
    values, times = np.unique(ordered, return_counts=True)
    return set(values[times >= max(_REPEATED_LEAST, int(_REPEATED_SHARE * documents) + 1)].tolist())


def _without(documents: Iterable[_Document], repeated: set[int], counts: Counter[str]) -> Iterator[_Document]:
    seen: set[int] = set()
    for document in documents:
        rest = []
        for sentence in document.sentences:
            number = _number(sentence) if repeated else 0
            if number in repeated and number in seen:
                counts["repeated_sentences"] += 1
            else:
                rest.append(sentence)
                seen.update({number} & repeated)
        if rest:
            counts["documents"] += 1
            counts["sentences"] += len(rest)
            yield document._replace(sentences=rest)
        else:
            counts["only_repeated"] += 1


def _write(path: Path, schema: pa.Schema, documents: Iterable[_Document]) -> None:
    def columns(batch: list[_Document]) -> list[Any]:
        return [[getattr(document, name) for document in batch] for name in schema.names]

    groups = batches(documents, lambda document: sum(map(len, document.sentences)))
    write_arrow(path, schema, (columns(batch) for batch in groups))


def _read(path: Path) -> Iterator[_Document]:
    with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as stream:
        for batch in stream:
            for row in batch.to_pylist():
                yield _Document(**{"group": "", **row})
