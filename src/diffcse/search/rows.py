"""Texts and columns of an index in SQLite: conditions, full-text search, and what the index says about itself.

A row's `_id` never changes, and a deleted row's is not used again. Vectors stand in the order of the ids; an id is the
place of its vector in the vector file until the index is compacted.
SQLite makes each change atomic and durable, so a row is there if and only if its vector is on the disk.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from diffcse.errors import UserError
from diffcse.search.columns import SORTED, stored
from diffcse.search.facts import Facts, Ids, Row
from diffcse.search.words import TOKENIZER, as_words, terms

NAME = "index.sqlite"
ID, LINE = "_id", "_line"
_OWN = (ID, LINE)
_VERSION, _READABLE = 3, (2, 3)
"""Of the folder. 1 was a folder of FAISS and Arrow files with a manifest.json; 2 could not be compacted."""

_BATCH = 900
_MOST_COMMON = 0.1
"""Words in more than this share of the rows say little in a full-text search, and cost most of its time."""


class Rows:
    """The database of an index folder.

    Raises:
        UserError: no index there, one of another version, or a damaged one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if (folder / "manifest.json").is_file() and not (folder / NAME).is_file():
            got, do = "one by an older version", "index the text again into a new folder: diffcse index TEXT -o FOLDER"
            raise UserError(f"index {folder}", "one by this version of diffcse", got, do)
        if not (folder / NAME).is_file():
            do = "name a folder that diffcse index has made"
            raise UserError(f"index {folder}", "an index folder", f"no {NAME} in it", do)
        self.db = _connect(folder)
        self.facts = self.read_facts()

    @staticmethod
    def create(folder: Path, facts: Facts) -> None:
        """Make the empty database of a new index, atomically."""
        with _refusals(folder):
            db = _connect(folder)
            with db:
                db.execute("BEGIN IMMEDIATE")
                text = _quoted(facts.text_column)
                for statement in (
                    "CREATE TABLE IF NOT EXISTS facts (content TEXT)",
                    f"CREATE TABLE IF NOT EXISTS rows ({ID} INTEGER PRIMARY KEY, {LINE} INTEGER, {text} TEXT)",
                    f"CREATE TABLE IF NOT EXISTS dead ({ID} INTEGER PRIMARY KEY)",
                    "CREATE TABLE IF NOT EXISTS segments (start INTEGER PRIMARY KEY, rows INTEGER, digest TEXT)",
                    "CREATE VIRTUAL TABLE IF NOT EXISTS words USING "
                    f"fts5({text}, content='rows', content_rowid='{ID}', tokenize='{TOKENIZER}')",
                    "CREATE VIRTUAL TABLE IF NOT EXISTS frequencies USING fts5vocab('words', 'row')",
                ):
                    db.execute(statement)
                _write_facts(db, dataclasses.replace(facts, pairs=True))
            db.close()

    def read_facts(self) -> Facts:
        """The facts as they are on the disk now."""
        try:
            content = json.loads(self.db.execute("SELECT content FROM facts").fetchone()[0])
            version = content.pop("version")
            if version in _READABLE:
                return Facts(**content)
        except (sqlite3.DatabaseError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise damaged(self.folder, f"{NAME} that cannot be read ({error})") from error
        do = "update diffcse, or index the text again"
        raise UserError(f"index {self.folder}", f"of version {_VERSION}", version, do)

    def close(self) -> None:
        """Let go of the file."""
        self.db.close()

    def changed(self) -> bool:
        """Whether another connection has written since the last call."""
        version = self.db.execute("PRAGMA data_version").fetchone()[0]
        before, self._data_version = getattr(self, "_data_version", version), version
        return bool(version != before)

    def __len__(self) -> int:
        return int(self.facts.positions - self.db.execute("SELECT count(*) FROM dead").fetchone()[0])

    def dead(self) -> Ids:
        """Ids of deleted rows."""
        return _ids(self.db.execute(f"SELECT {ID} FROM dead ORDER BY {ID}"))

    def columns(self) -> list[str]:
        """Names of all columns but our own, the text's first."""
        return [name for _, name, *_ in self.db.execute("PRAGMA table_info(rows)") if name not in _OWN]

    def where(self, condition: str) -> Ids:
        """Ids of the rows that meet a condition, in order.

        Args:
            condition: an SQL expression over the columns, such as `year > 2020 AND title LIKE 'A%'`.

        Raises:
            UserError: it is no such expression.
        """
        with self._condition(condition):
            return _ids(self.db.execute(f"SELECT {ID} FROM rows WHERE ({condition}\n) ORDER BY {ID}"))

    def fetch(self, ids: Sequence[int]) -> dict[int, Row]:
        """The rows of these ids; deleted ones are missing."""
        text, *others = self.columns()
        names = ", ".join(map(_quoted, (ID, LINE, text, *others)))
        rows = {}
        for batch in _batches(ids):
            marks = ", ".join("?" * len(batch))
            for key, line, content, *values in self.db.execute(
                f"SELECT {names} FROM rows WHERE {ID} IN ({marks})", batch
            ):
                rows[key] = Row(text=content, line=line, columns=dict(zip(others, values, strict=True)))
        return rows

    def full_text(self, query: str, count: int, condition: str | None = None) -> list[int]:
        """Ids of the rows that share words with a query, best first (BM25).

        Args:
            query: plain text; every other character than letters and digits separates words.
            count: most rows.
            condition: as for `where`.
        """
        asked = terms(query, self.facts.pairs)
        match = " OR ".join(asked[word] for word in self._telling(asked))
        if not match:
            return []
        only = f"AND rowid IN (SELECT {ID} FROM rows WHERE ({condition}\n))" if condition else ""
        with self._condition(condition or ""):
            cursor = self.db.execute(
                f"SELECT rowid FROM words WHERE words MATCH ? {only} ORDER BY rank, rowid LIMIT ?", (match, count)
            )
            return [int(key) for (key,) in cursor]

    def _telling(self, words: Iterable[str]) -> list[str]:
        """The words without those that stand in very many rows, unless all do."""
        every = list(words)
        most = _MOST_COMMON * len(self)
        frequency = "SELECT doc FROM frequencies WHERE term = ?"
        rare = [w for w in every if ((self.db.execute(frequency, (w.lower(),)).fetchone() or (0,))[0]) <= most]
        return rare or every

    @contextmanager
    def _condition(self, condition: str) -> Iterator[None]:
        """Nothing is written while a user's expression is evaluated; its faults become one line."""
        self.db.execute("PRAGMA query_only = ON")
        try:
            yield
        except (sqlite3.Error, sqlite3.Warning) as error:
            rule = f"a condition on {', '.join((*self.columns(), LINE))}"
            got = f"{condition!r} ({error})"
            raise UserError(
                "--where", rule, got, "write it as in SQL, such as \"year > 2020 AND title LIKE 'A%'\""
            ) from error
        finally:
            self.db.execute("PRAGMA query_only = OFF")

    @contextmanager
    def changing(self) -> Iterator[Changes]:
        """One atomic, durable change; an exception undoes it."""
        with _refusals(self.folder), self.db:
            self.db.execute("BEGIN IMMEDIATE")
            self.facts = self.read_facts()
            changes = Changes(self)
            yield changes
            self.facts = dataclasses.replace(changes.facts, generation=changes.facts.generation + 1)
            _write_facts(self.db, self.facts)

    def set_codes(self, **facts: Any) -> None:
        """Note what the approximate index holds, once its file is on the disk."""
        with _refusals(self.folder), self.db:
            self.db.execute("BEGIN IMMEDIATE")
            self.facts = dataclasses.replace(self.read_facts(), **facts)
            _write_facts(self.db, self.facts)

    def shrink(self) -> None:
        """Give the room of deleted rows back to the disk; SQLite rewrites its file, a page at a time."""
        with _refusals(self.folder):
            self.db.execute("INSERT INTO words (words) VALUES ('optimize')")
            self.db.execute("VACUUM")

    def check(self) -> None:
        """Read the whole database.

        Raises:
            UserError: it is damaged.
        """
        with reading(self.folder):
            (verdict,) = self.db.execute("PRAGMA integrity_check(1)").fetchone()
        if verdict != "ok":
            raise damaged(self.folder, f"{NAME} with a fault ({verdict})")

    def segments(self) -> list[tuple[int, int, str]]:
        """First place, number and digest of the vectors of each addition."""
        return list(self.db.execute("SELECT start, rows, digest FROM segments ORDER BY start"))


class Changes:
    """What one change does to the database, in a transaction; facts are written at its end."""

    def __init__(self, rows: Rows) -> None:
        self.rows, self.facts = rows, rows.facts

    def insert(self, rows: Iterable[Row]) -> int:
        """Add rows after the others; returns their number."""
        start = self.facts.next_id
        for names, group in itertools.groupby(rows, key=lambda row: tuple(row.columns)):
            self._insert(names, list(group))
        return self.facts.next_id - start

    def _insert(self, names: tuple[str, ...], rows: list[Row]) -> None:
        """Rows with the same columns."""
        db, start, text = self.rows.db, self.facts.next_id, self.facts.text_column
        known = {name.casefold() for name in self.rows.columns()}
        for name in names:
            if name.casefold() not in known:
                check_name(name)
                db.execute(f"ALTER TABLE rows ADD COLUMN {_quoted(name)}")
                known.add(name.casefold())
                if isinstance(next((v for row in rows if (v := row.columns[name]) is not None), None), SORTED):
                    db.execute(f"CREATE INDEX {_quoted(f'by {name}')} ON rows ({_quoted(name)})")
        columns, marks = ", ".join(map(_quoted, (ID, LINE, text, *names))), ", ".join("?" * (3 + len(names)))
        values = ((key, row.line, row.text, *map(stored, row.columns.values())) for key, row in enumerate(rows, start))
        db.executemany(f"INSERT INTO rows ({columns}) VALUES ({marks})", values)
        words = ((key, as_words(row.text) if self.facts.pairs else row.text) for key, row in enumerate(rows, start))
        db.executemany(f"INSERT INTO words (rowid, {_quoted(text)}) VALUES (?, ?)", words)
        self.facts = dataclasses.replace(self.facts, positions=self.facts.positions + len(rows))

    def segment(self, start: int, digest: str) -> None:
        """Note the digest of the vectors from `start` on."""
        if rows := self.facts.positions - start:
            self.rows.db.execute("INSERT INTO segments (start, rows, digest) VALUES (?, ?, ?)", (start, rows, digest))

    def delete(self, ids: Ids) -> None:
        """Remove rows."""
        text, db = _quoted(self.facts.text_column), self.rows.db
        words = f"as_words({text})" if self.facts.pairs else text
        for batch in _batches(ids.tolist()):
            chosen = f"WHERE {ID} IN ({', '.join('?' * len(batch))})"
            remove = f"INSERT INTO words (words, rowid, {text}) SELECT 'delete', {ID}, {words} FROM rows {chosen}"
            db.execute(remove, batch)
            db.execute(f"INSERT INTO dead SELECT {ID} FROM rows {chosen}", batch)
            db.execute(f"DELETE FROM rows {chosen}", batch)

    def compact(self, facts: Facts, digest: str) -> None:
        """Take a vector file without the deleted rows into use, whose facts and digest these are."""
        for table in ("dead", "segments"):
            self.rows.db.execute(f"DELETE FROM {table}")
        self.facts = facts
        self.segment(0, digest)

    def same(self, key: str, values: Iterable[Any]) -> Ids:
        """Ids of the rows whose column `key` has one of the values."""
        db = self.rows.db
        db.execute("CREATE TEMP TABLE IF NOT EXISTS wanted (value)")
        db.execute("DELETE FROM wanted")
        db.executemany("INSERT INTO wanted VALUES (?)", ((stored(value),) for value in values))
        chosen = f"SELECT {ID} FROM rows WHERE {_quoted(key)} IN (SELECT value FROM wanted) ORDER BY {ID}"
        return _ids(db.execute(chosen))


def damaged(folder: Path, got: Any) -> UserError:
    """The error of an index folder with a fault in it."""
    return UserError(f"index {folder}", "undamaged", got, "index the text again, or restore the folder")


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Turn what SQLite says of a damaged database into one line."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise damaged(folder, f"{NAME} that SQLite cannot read ({error})") from error


def _connect(folder: Path) -> sqlite3.Connection:
    with reading(folder):
        db = sqlite3.connect(folder / NAME, timeout=60, isolation_level=None, check_same_thread=False)
        db.execute("PRAGMA synchronous = FULL")  # a commit returns when it is on the disk
        db.create_function("as_words", 1, as_words, deterministic=True)
        db.execute("PRAGMA cache_size = -65536")  # KiB
    return db


@contextmanager
def _refusals(folder: Path) -> Iterator[None]:
    """A full disk, a read-only folder and the like become one line."""
    with reading(folder):
        try:
            yield
        except sqlite3.OperationalError as error:
            do = "make room or permission and try again; what was in the index still is"
            raise UserError(f"index {folder}", "on a disk that can be written to", error, do) from error


def _write_facts(db: sqlite3.Connection, facts: Facts) -> None:
    db.execute("DELETE FROM facts")
    content = json.dumps({"version": _VERSION, **dataclasses.asdict(facts)})
    db.execute("INSERT INTO facts VALUES (?)", (content,))


def _ids(cursor: Iterable[tuple[int]]) -> Ids:
    return np.fromiter((key for (key,) in cursor), dtype=np.int64)


def _batches(ids: Sequence[int]) -> Iterator[list[int]]:
    for start in range(0, len(ids), _BATCH):
        yield [int(key) for key in ids[start : start + _BATCH]]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def check_name(name: str) -> None:
    """Refuse a column's name that the index needs itself, or that a condition could not use.

    Raises:
        UserError: saying which.
    """
    if name.casefold() in _OWN or not name or "\0" in name:
        rule = f"another name than {' and '.join(_OWN)}"
        raise UserError(f"column {name!r}", rule, "that name", "rename it in the file")
