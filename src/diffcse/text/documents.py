"""Documents, each a list of sentences: folders, files, tables, Hub datasets, standard input or Python strings.

Everything that is dropped on the way is counted. `find_documents` says what a document is, `clean_documents` what is
left of it.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa

from diffcse.errors import UserError
from diffcse.files import digest
from diffcse.settings import as_names, checked, field_docs
from diffcse.text.cache import cached
from diffcse.text.clean_documents import clean
from diffcse.text.find_documents import RawDocument, Unit, document_columns, find_documents, raw_documents
from diffcse.text.standard_input import spooled

_VERSION = 2  # of what this file and its neighbours make of a text; a new number makes old cache entries unused


@dataclass(frozen=True, kw_only=True)
class DocumentCounts:
    """What became of everything that was read; the docstring of a field is the sentence that says it."""

    documents: int = 0
    """documents are left."""
    sentences: int = 0
    """sentences are left in them."""
    files: int = 0
    """files, or Hub datasets, were read."""
    by_paragraph: int = 0
    """of the .txt files hold one document per paragraph (blank lines between them)."""
    by_line: int = 0
    """of the .txt files hold one document per line (no blank lines in them)."""
    hidden: int = 0
    """hidden files and folders (a name that begins with a dot) were skipped."""
    binary: int = 0
    """files were skipped because they are binary, whatever their name says."""
    other_formats: int = 0
    """files were skipped because the end of their name is none that is read."""
    empty: int = 0
    """documents were dropped because nothing was left of them."""
    equal: int = 0
    """documents were dropped because an earlier one is equal but for case and white space."""
    near_duplicates: int = 0
    """documents were dropped because an earlier one has nearly the same words."""
    repaired: int = 0
    """documents hold bytes that are not UTF-8; each such byte became a replacement character."""
    nul: int = 0
    """documents lost the NUL characters that they held."""
    cut: int = 0
    """documents were cut after 1,048,576 characters."""
    code_blocks: int = 0
    """blocks of code were removed."""
    tables: int = 0
    """tables were removed."""
    repeated_sentences: int = 0
    """sentences were removed that more than 1% of the documents have; the first document keeps each."""
    only_repeated: int = 0
    """documents were dropped because they held nothing but such sentences."""

    def lines(self) -> list[str]:
        """A sentence for each count that is not zero.

        >>> DocumentCounts(documents=2, sentences=9, files=1).lines()
        ['2 documents are left.', '9 sentences are left in them.', '1 files, or Hub datasets, were read.']
        """
        return [
            f"{getattr(self, name):,} {text}" for name, text in field_docs(type(self)).items() if getattr(self, name)
        ]


@dataclass(frozen=True, kw_only=True)
class Documents:
    """Documents, memory-mapped.

    Attributes:
        dataset: one row per document: `key`, a digest of its sentences but for case and white space; `title`, which
            may be empty and is not among the sentences; `sentences`; `origin`, such as `file.md:12`. Documentation of
            packages has `group`, too.
        counts: what was read and dropped.
    """

    dataset: datasets.Dataset
    counts: DocumentCounts

    def at_least(self, number: int) -> Documents:
        """Itself.

        Raises:
            UserError: there are fewer than `number` documents.
        """
        if len(self.dataset) < number:
            got = " ".join(self.counts.lines()) or "none"
            raise UserError("the documents", f"at least {number:,} different ones", got, "name more files")
        return self


def read_documents(
    sources: str | Path | Sequence[str | Path],
    *,
    column: str | None = None,
    unit: Unit = "auto",
    near_duplicates: float | None = 0.9,
    language: str = "en",
    cache_dir: str | Path | None = None,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Documents:
    """Documents of files, in the order of their names, whatever order the disk gives.

    A .md, .rst or .html file is a document. So is a .txt file among others, unless it is longer than a million
    characters; a .txt file alone (or a long one) holds one document per paragraph, with blank lines between them, or
    without any blank line one document per line. A row of a .csv, .tsv, .jsonl, .json or .parquet file is a document;
    its column `title`, if there is one, is the title. All may be packed.

    Args:
        sources: files, folders (read with all that is below), globs, Hub datasets (`owner/name:split`), or `-` for
            plain text on standard input.
        column: text column of tables; unless given, the first of `text`, `document`, `content`, `body`, `abstract`
            and `sentence`, or the only one that is no title.
        unit: what is a document in a .txt file, other than by the rule above.
        near_duplicates: a document that shares this much of its word triples with an earlier one is dropped (Jaccard
            similarity, 0 to 1); None or 0 drops equal ones only.
        language: whose abbreviations do not end a sentence (ISO 639); sentence marks of all scripts are known.
        cache_dir: folder of the cache; `diffcse` in the cache of `datasets` unless given.
        on_progress: called with the number of documents read; not at all where the cache has them.

    Raises:
        UserError: for a source that is missing, damaged or binary, a column that is wrong, or a setting out of range.
    """
    unit = checked("unit", unit, Unit)
    names = as_names("sources", sources)
    counts: Counter[str] = Counter()
    with spooled(names) as paths:
        files = find_documents(paths, counts)
        columns = [document_columns(source, column) for source in files]
        if column and files and not any(columns):
            raise UserError("column", "used with files that have columns", column, "remove it")
        key = [[source.name, source.identity] for source in files], column, unit
        counts["files"] = len(files)
        raw = raw_documents(files, columns, unit, counts)
        return build_documents(
            raw,
            key=list(key),
            counts=counts,
            near_duplicates=near_duplicates,
            language=language,
            cache_dir=cache_dir,
            on_progress=on_progress,
        )


def documents_of(
    texts: Sequence[str],
    *,
    titles: Sequence[str] | None = None,
    near_duplicates: float | None = 0.9,
    language: str = "en",
    cache_dir: str | Path | None = None,
) -> Documents:
    """Documents of Python strings (and a title of each), cleaned as `read_documents` does with plain text.

    The other arguments are as there.

    Raises:
        UserError: something that is no list of strings, or as many titles as texts are not given.
    """
    for name, value in (("texts", texts), ("titles", titles or [])):
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise UserError(name, "a list of strings", type(value).__name__, "put a string for each document in a list")
        for number, text in enumerate(value):
            if not isinstance(text, str):
                raise UserError(f"{name}[{number}]", "text", repr(text)[:60], "give strings only")
    if titles is not None and len(titles) != len(texts):
        raise UserError("titles", f"as many as texts, {len(texts):,}", f"{len(titles):,}", "give one for each text")
    raw = (
        RawDocument(text, f"texts[{number}]", title=titles[number] if titles else "")
        for number, text in enumerate(texts)
    )
    return build_documents(
        raw,
        key=[digest([list(texts), list(titles or [])])],
        near_duplicates=near_duplicates,
        language=language,
        cache_dir=cache_dir,
    )


def build_documents(
    raw: Iterable[RawDocument],
    *,
    key: list[Any],
    counts: Counter[str] | None = None,
    near_duplicates: float | None,
    language: str,
    cache_dir: str | Path | None,
    on_progress: Callable[[int], None] = lambda done: None,
    grouped: bool = False,
) -> Documents:
    """Clean, split and deduplicate documents, and keep them in the cache.

    Args:
        raw: not touched where the cache has the result.
        key: everything that `raw` depends on.
        counts: what was counted before, and, while `raw` is read, by it.
        near_duplicates: as in `read_documents`.
        language: as in `read_documents`.
        cache_dir: as in `read_documents`.
        on_progress: as in `read_documents`.
        grouped: keep the column `group`.
    """
    threshold = float(near_duplicates or 0)
    if not 0 <= threshold <= 1:
        raise UserError("near_duplicates", "between 0 and 1", near_duplicates, "use 0.9, or None for equal ones only")
    counts = Counter() if counts is None else counts
    schema = pa.schema([("key", pa.string()), ("title", pa.string()), ("sentences", pa.list_(pa.string()))])
    schema = schema.append(pa.field("origin", pa.string()))
    schema = schema.append(pa.field("group", pa.string())) if grouped else schema

    def write(folder: Path) -> dict[str, Any]:
        clean(_reported(raw, on_progress), folder, schema, threshold=threshold, language=language, counts=counts)
        return {"rows": counts["documents"], "counts": dict(counts)}

    software = [version("sentencex"), version("rensa"), version("selectolax"), version("markdown-it-py")]
    whole_key = ["documents", _VERSION, software, unicodedata.unidata_version, key, threshold, language, grouped]
    dataset, facts = cached(cache_dir, whole_key, write)
    return Documents(dataset=dataset, counts=DocumentCounts(**facts["counts"]))


def _reported(raw: Iterable[RawDocument], on_progress: Callable[[int], None]) -> Iterator[RawDocument]:
    for number, document in enumerate(raw, 1):
        yield document
        if number % 1000 == 0:
            on_progress(number)
