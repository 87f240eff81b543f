"""Where documents come from: which files of a folder are read, and what a document is in each."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from diffcse.errors import UserError
from diffcse.text.markup import Kind
from diffcse.text.opening import suffix_of
from diffcse.text.sources import FORMATS, Source, TextFile, find_sources
from diffcse.text.tables import ParquetFile, no_text

Unit = Literal["auto", "file", "paragraph", "line"]

LONGEST = 2**20
"""Characters of a document; the rest is cut off. A .txt file that is longer is more than one document."""

_KINDS: Mapping[str, Kind] = {
    ".txt": "plain",
    ".md": "markdown",
    ".markdown": "markdown",
    ".rst": "rst",
    ".html": "html",
    ".htm": "html",
}
_FORMATS = FORMATS | dict.fromkeys(_KINDS, TextFile)
_COLUMNS = ("text", "document", "content", "body", "abstract", "sentence")


class RawDocument(NamedTuple):
    """A document as it was read."""

    text: str
    origin: str
    kind: Kind = "plain"
    title: str = ""
    group: str = ""


def find_documents(paths: Sequence[str | Path | TextFile], counts: Counter[str]) -> list[Source]:
    """The sources that the user named, and those below folders that can be read; the others are counted."""
    sources: dict[Source, None] = {}
    for each in paths:
        if str(each) == "":  # an unset variable of a shell; as a path it would be the current folder
            raise UserError("sources", "names of files or folders", "an empty name", "name one; . is this folder")
        if isinstance(each, TextFile):
            sources[each] = None
        elif several := _several(Path(each).expanduser()):
            sources |= dict.fromkeys(source for path in several for source in _readable(path, counts))
        else:
            sources |= dict.fromkeys(_named(each))
    if not sources:
        rule = "files that hold text" if paths else "at least one file, folder, glob or Hub dataset"
        got = ", ".join(f"{number:,} {name.replace('_', ' ')}" for name, number in counts.items() if number) or "none"
        raise UserError("sources", rule, got, f"name files that end in {', '.join(_FORMATS)}")
    return list(sources)


def _named(each: str | Path) -> Iterator[Source]:
    for source in find_sources([each], _FORMATS):
        if _is_binary(source):
            raise UserError(source.name, "text", "binary data (NUL bytes)", "name a text file")
        yield source


def _is_folder(path: Path) -> bool:
    return os.path.isdir(path)  # noqa: PTH112 - unlike Path.is_dir, it does not raise where a folder may not be entered


def _several(pattern: Path) -> list[Path]:
    """The folder of that name, or all that a glob matches; none if a file or nothing has the name."""
    if os.path.exists(pattern):  # noqa: PTH110 - as above
        return [pattern] if _is_folder(pattern) else []
    return sorted(map(Path, glob.glob(str(pattern), recursive=True)))  # noqa: PTH207 - takes absolute patterns


def _readable(path: Path, counts: Counter[str]) -> Iterator[Source]:
    """The sources in a folder and below, or the one of a file; what is skipped is counted."""
    if _is_folder(path):
        for inner in _below(path, counts):
            yield from _readable(inner, counts)
    elif suffix_of(path) not in _FORMATS or not path.is_file():
        counts["other_formats"] += 1
    else:
        (source,) = find_sources([path], _FORMATS)
        if _is_binary(source):
            counts["binary"] += 1
        else:
            yield source


def _below(folder: Path, counts: Counter[str]) -> Iterator[Path]:
    def refused(error: OSError) -> None:
        raise UserError(str(error.filename), "a folder that you may read", error.strerror, "change its permissions")

    for place, folders, files in os.walk(folder, onerror=refused):
        counts["hidden"] += sum(name.startswith(".") for name in (*folders, *files))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, name) for name in sorted(files) if not name.startswith("."))


def _is_binary(source: Source) -> bool:
    """Whether a text file's head holds NUL; a byte order mark of UTF-16 or UTF-32 explains them."""
    if not hasattr(source, "head") or isinstance(source, ParquetFile):
        return False
    head: bytes = source.head()
    return b"\0" in head and not head.startswith((b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff"))


# Reading them


def document_columns(source: Source, column: str | None) -> tuple[str, ...]:
    """The column of text and, if there is one, of titles; none of a text file."""
    known = source.columns()
    if known is None:
        return ()
    texts = [name for name, is_text in known.items() if is_text]
    titles = [name for name in texts if name.lower() == "title" and name != column]
    if column is None:
        if not texts:
            raise no_text(source.name, known)
        others = [name for name in texts if name not in titles]
        usual = [name for name in _COLUMNS if name in texts] or (others if len(others) == 1 else [])
        if not usual:
            do = "name the column of text with column (--column)"
            raise UserError(f"{source.name}: column", "named where several could be meant", ", ".join(known), do)
        column = usual[0]
    if column not in known:
        raise UserError(f"{source.name}: column", f"among {', '.join(known)}", column, "choose from these")
    if not known[column]:
        raise UserError(f"{source.name}: column {column}", "text", "another type", "choose a column that holds text")
    return (column, *titles[:1])


def raw_documents(
    sources: Sequence[Source], columns: Sequence[tuple[str, ...]], unit: Unit, counts: Counter[str]
) -> Iterator[RawDocument]:
    """Every document as it stands.

    Args:
        sources: from `find_documents`.
        columns: of each, from `document_columns`.
        unit: what is a document in a .txt file.
        counts: how many .txt files hold one document per paragraph or line.
    """
    for source, names in zip(sources, columns, strict=True):
        if names:
            for number, (text, *title) in source.rows(names, 4 * (LONGEST + 2)):
                yield RawDocument(text or "", f"{source.name}:{number}", title=(title[0] or "") if title else "")
        else:
            assert isinstance(source, TextFile)
            kind = _KINDS[suffix_of(source.path)]
            alone = len(sources) == 1 and kind == "plain"
            yield from _of_text_file(source, kind, unit if kind == "plain" else "file", alone, counts)


def _of_text_file(source: TextFile, kind: Kind, unit: Unit, alone: bool, counts: Counter[str]) -> Iterator[RawDocument]:
    lines = ((number, row[0] or "") for number, row in source.rows(("",), 4 * (LONGEST + 2)))
    head, ended = _head(lines)
    if unit == "file" or (unit == "auto" and ended and not alone):
        yield RawDocument("\n".join(text for _, text in head), source.name, kind)
        return
    filled = [bool(text.strip()) for _, text in head]
    inner = filled[filled.index(True) : len(filled) - filled[::-1].index(True)] if any(filled) else []
    by_line = unit == "line" or (unit == "auto" and all(inner))
    counts["by_line" if by_line else "by_paragraph"] += 1
    for number, text in _paragraphs([*head], lines, by_line):
        yield RawDocument(text, f"{source.name}:{number}", kind)


def _head(lines: Iterator[tuple[int, str]]) -> tuple[list[tuple[int, str]], bool]:
    """The lines of the first `LONGEST` characters, and whether there are no more."""
    head, characters = [], 0
    for line in lines:
        head.append(line)
        characters += len(line[1]) + 1
        if characters > LONGEST + 1:
            return head, False
    return head, True


def _paragraphs(
    head: list[tuple[int, str]], rest: Iterator[tuple[int, str]], by_line: bool
) -> Iterator[tuple[int, str]]:
    """First line and text of each paragraph, or of each line that is not blank."""
    paragraph: list[str] = []
    start = 0
    for lines in (head, rest):
        for number, text in lines:
            if text.strip():
                start = start if paragraph else number
                paragraph.append(text)
            if paragraph and (by_line or not text.strip()):
                yield start, "\n".join(paragraph)
                paragraph = []
    if paragraph:
        yield start, "\n".join(paragraph)
