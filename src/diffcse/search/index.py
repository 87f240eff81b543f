"""A searchable index in one folder: texts and columns in SQLite, vectors in a file, both written durably.

Legend: `N` indexed rows, `Q` queries, `K` neighbours, `H` numbers of a vector.

A change first writes its vectors after the existing ones and then commits its rows; whatever a kill or a power cut
leaves after the committed vectors is overwritten by the next change. Up to `nearest.EXACT_LIMIT` rows, or rows that
meet the condition, a search compares with every vector; above, codes find candidates that are compared exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffcse.errors import MissingExtra, UserError
from diffcse.search import nearest
from diffcse.search.facts import Facts, Ids
from diffcse.search.nearest import Codes, VectorFile, exact
from diffcse.search.rows import Rows, damaged, reading
from diffcse.search.writing import (
    Blocks,
    all_ids,
    append,
    check_new,
    compact,
    enlarge_codes,
    worth_compacting,
    writing,
)
from diffcse.vectors import Vectors, unit

_TAIL = 2_000
"""Most vectors that are not coded yet; every search compares with them."""

_MOST_CANDIDATES = 100_000
_CONDITIONS = 8
_GATHERED = 5
"""How much longer an exact search takes for a row when rows are picked out and not read in order."""
_FUSION = 60
"""Of reciprocal rank fusion: a row's score is the sum of 1 / (60 + rank) over both lists (Cormack et al., 2009)."""


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A row that a search found.

    Attributes:
        sentence: its text.
        score: cosine similarity to the query.
        row: its id, from 0; it stays the same, and is not used again when the row is deleted.
        line: its number in the text that it came from, from 1.
        columns: its other columns.
        fused: of a hybrid search, what the results are ordered by.
    """

    sentence: str
    score: float
    row: int
    line: int
    columns: Mapping[str, Any] = field(default_factory=dict)
    fused: float | None = None


class SentenceIndex:
    """An index folder, opened for searching and for changes; another process's changes are seen by the next search.

    Args:
        folder: what `SentenceIndex.create` or `diffcse index` made.
        verify: read all of it and compare the vectors with their digests, instead of looking at sizes only.

    Raises:
        UserError: no index there, one of an older version, or a damaged one.
    """

    def __init__(self, folder: str | Path, *, verify: bool = False) -> None:
        self.folder = Path(folder)
        self._rows = Rows(self.folder)
        if not self.facts.generation:
            do = "run the command that was making it again: it resumes"
            raise UserError(f"index {folder}", "a finished index", "one whose making was interrupted", do)
        with reading(self.folder):
            self._load()
        if verify:
            self._verify()

    @classmethod
    def create(cls, folder: str | Path, facts: Facts, blocks: Blocks) -> SentenceIndex:
        """Make an index of the blocks in a new or empty folder; it counts once it is complete.

        Raises:
            UserError: the folder holds something else, or cannot be written to.
        """
        target = Path(folder)
        check_new(target)
        with writing(target):
            Rows.create(target, facts)
            with closing(Rows(target)) as database:
                append(database, blocks)
        index = cls(target)
        index.maintain()
        return index

    @property
    def facts(self) -> Facts:
        """What the index says about itself."""
        return self._rows.facts

    @property
    def columns(self) -> list[str]:
        """Names of the columns, the text's first."""
        return self._rows.columns()

    def __len__(self) -> int:
        return len(self._rows)

    def search(
        self,
        queries: Vectors,
        top_k: int = 5,
        threshold: float = -1.0,
        *,
        where: str | None = None,
        words: Sequence[str] | None = None,
    ) -> list[list[Hit]]:
        """The nearest rows of each query, best first.

        Args:
            queries: (Q, H); their lengths do not matter.
            top_k: most hits of a query.
            threshold: smallest cosine similarity of a hit, -1 to 1.
            where: only rows that meet this condition, an SQL expression over the columns and `_line`.
            words: the Q queries as text, for a hybrid search: the order is that of the vectors and that of a
                full-text search (BM25), joined by reciprocal rank fusion.

        Raises:
            UserError: vectors of another width, or a condition that is none.
        """
        if queries.ndim != 2 or queries.shape[1] != self.facts.dimension:
            do = "encode them with the index's model"
            raise UserError("queries", f"vectors of {self.facts.dimension} numbers", queries.shape, do)
        if top_k < 1:
            raise UserError("top_k", "at least 1", top_k, "use 5")
        if self._rows.changed():
            self._load()
        queries = unit(queries)
        most = top_k if words is None else max(50, 4 * top_k)
        scores, places = self._nearest(queries, most, None if where is None else self._meeting(where))
        if words is None:
            return [self._hits(s, p, threshold) for s, p in zip(scores, places, strict=True)]
        return [
            self._hybrid(query, text, near, top_k, threshold, where)
            for query, text, near in zip(queries, words, places, strict=True)
        ]

    def check_key(self, key: str) -> None:
        """Refuse a column for updates that the index has not.

        Raises:
            UserError: naming those that it has.
        """
        if key.casefold() not in {name.casefold() for name in self.columns}:
            rule = f"one of the columns {', '.join(self.columns)}"
            raise UserError("--update", rule, key, "name a column of the index")

    def add(self, blocks: Blocks, *, key: str | None = None) -> int:
        """Append rows; a reader sees the index as it was or as it is afterwards.

        Args:
            blocks: the rows.
            key: a column; rows that have a new row's value in it are replaced.

        Returns:
            How many rows were added.

        Raises:
            UserError: another writer at work, or a disk that cannot be written to.
        """
        if key is not None:
            self.check_key(key)
        with writing(self.folder):
            added = append(self._rows, blocks, key)
        self._load()
        self.maintain()
        return added

    def delete(self, where: str) -> int:
        """Remove the rows that meet a condition (as for `search`); gives their number."""
        with writing(self.folder):
            chosen = self._rows.where(where)
            if len(chosen):
                with self._rows.changing() as change:
                    change.delete(chosen)
        self._load()
        with suppress(MissingExtra):  # of an approximate index, on a machine without FAISS
            self._compact_where_worth_it()
        return len(chosen)

    def compact(self) -> int:
        """Give the room of deleted rows back to the disk; gives how many they were.

        Ids of rows stay. A kill on the way loses nothing. The disk must have room for the vectors that are left, and
        for the database, once more.

        Raises:
            UserError: another writer at work, or a disk that is full.
            MissingExtra: the index has codes, and FAISS is not installed.
        """
        with writing(self.folder):
            removed = compact(self._rows)
            self._rows.shrink()
        self._load()
        self.maintain()
        return removed

    def check_condition(self, where: str) -> None:
        """Refuse a condition that is none, before anything is encoded for it.

        Raises:
            UserError: no SQL expression over the columns.
        """
        self._rows.where(f"({where}\n) AND 0")

    def close(self) -> None:
        """Let go of the files; the index cannot be used afterwards."""
        self._rows.close()

    def sentence(self, row: int) -> str:
        """The text of a row.

        Raises:
            KeyError: there is no such row, or it was deleted.
        """
        return self._rows.fetch([row])[row].text

    def maintain(self) -> None:
        """Make or enlarge the codes where the index has outgrown them; a kill on the way loses nothing."""
        self._compact_where_worth_it()
        facts = self.facts
        behind = facts.positions - facts.codes
        if facts.positions <= nearest.EXACT_LIMIT or (facts.codes and behind <= _TAIL):
            return
        with writing(self.folder):
            enlarge_codes(self._rows)
        self._load()

    def _compact_where_worth_it(self) -> None:
        """Without SQLite's file, whose free pages the next rows fill."""
        if worth_compacting(self.facts, self.facts.positions - len(self)):
            with writing(self.folder):
                compact(self._rows)
            self._load()

    def _load(self) -> None:
        """Everything that a search needs in memory, as of the facts."""
        self._rows.changed()  # from here on
        while True:
            facts = self._rows.facts = self._rows.read_facts()
            try:
                self._open(facts)
                return
            except UserError:
                if facts == self._rows.read_facts():  # else another process has just compacted the index
                    raise

    def _open(self, facts: Facts) -> None:
        self._vectors = VectorFile(self.folder, facts).open(facts.positions)
        self._ids = all_ids(self.folder, facts) if facts.compacted else None
        dead = self._places(self._rows.dead())
        self._alive: NDArray[np.bool_] | None = None
        self._alive_places: Ids | None = None
        if len(dead):
            self._alive = np.ones(facts.positions, dtype=np.bool_)
            self._alive[dead] = False
            self._alive_places = np.flatnonzero(self._alive)
        self._conditions: dict[str, Ids] = {}
        self._codes = None
        if facts.codes:
            with suppress(MissingExtra):  # every search is exact then
                self._codes = Codes.read(self.folder, facts)

    def _places(self, ids: Ids) -> Ids:
        """Where the vectors of rows are in the vector file; rows that were added after the last look are left out."""
        ids = ids[ids < self.facts.next_id]
        return ids if self._ids is None else np.searchsorted(self._ids, ids)

    def _verify(self) -> None:
        self._rows.check()
        VectorFile(self.folder, self.facts).check(self._rows.segments())
        ids = all_ids(self.folder, self.facts)
        if not np.array_equal(ids if self._alive is None else ids[self._alive], self._rows.where("1")):
            raise damaged(self.folder, "rows without vectors, or vectors without rows")

    def _meeting(self, where: str) -> Ids:
        """Places of the rows that meet a condition; the last few conditions are remembered until the index changes."""
        if where not in self._conditions:
            if len(self._conditions) == _CONDITIONS:
                self._conditions.clear()
            self._conditions[where] = self._places(self._rows.where(where))
        return self._conditions[where]

    def _nearest(self, queries: Vectors, top_k: int, allowed: Ids | None) -> tuple[Iterable[Vectors], Iterable[Ids]]:
        places = self._alive_places if allowed is None else allowed
        count = self.facts.positions if places is None else len(places)
        few = nearest.EXACT_LIMIT if allowed is None else nearest.EXACT_LIMIT / _GATHERED
        if self._codes is None or count <= few:
            return exact(self._vectors, queries, top_k, places)
        mask = self._alive
        if allowed is not None:
            mask = np.zeros(self.facts.positions, dtype=np.bool_)
            mask[allowed] = True
        results = [self._approximate(self._codes, query[None], top_k, mask, count) for query in queries]
        return [scores[0] for scores, _ in results], [places[0] for _, places in results]

    def _approximate(
        self, codes: Codes, query: Vectors, top_k: int, mask: NDArray[np.bool_] | None, count: int
    ) -> tuple[Vectors, Ids]:
        """Candidates by their codes, and the vectors that are not coded yet, compared exactly."""
        least = max(self.facts.candidates, 4 * top_k)
        asked = least * codes.count // count if mask is not None else least
        while True:
            places = codes.candidates(query, asked)[0]
            places = places[places >= 0] if mask is None else places[mask[places]]
            if len(places) >= min(least, count) or asked >= codes.count:
                break
            asked *= 4
            if asked > _MOST_CANDIDATES:  # the rows that meet the condition are far from the query
                return exact(self._vectors, query, top_k, None if mask is None else np.flatnonzero(mask))
        tail = np.arange(codes.count, self.facts.positions)
        tail = tail if mask is None else tail[mask[tail]]
        return exact(self._vectors, query, top_k, np.sort(np.concatenate([places, tail])))

    def _hits(
        self, scores: Vectors, places: Ids, threshold: float, fused: Mapping[int, float] | None = None
    ) -> list[Hit]:
        ids = places if self._ids is None else self._ids[places]
        near = [(float(score), int(key)) for score, key in zip(scores, ids, strict=True) if score >= threshold]
        stored = self._rows.fetch([key for _, key in near])
        return [
            Hit(
                sentence=stored[key].text,
                score=score,
                row=key,
                line=stored[key].line,
                columns=stored[key].columns,
                fused=None if fused is None else fused[key],
            )
            for score, key in near
            if key in stored  # else another process has just deleted it
        ]

    def _hybrid(
        self, query: Vectors, text: str, near: Ids, top_k: int, threshold: float, where: str | None
    ) -> list[Hit]:
        fused: dict[int, float] = {}
        by_vector = near if self._ids is None else self._ids[near]
        for ranking in (by_vector, self._rows.full_text(text, max(50, 4 * top_k), where)):
            for rank, key in enumerate(ranking, 1):
                fused[int(key)] = fused.get(int(key), 0.0) + 1 / (_FUSION + rank)
        best = self._places(np.array(sorted(fused, key=lambda key: (-fused[key], key)), dtype=np.int64))
        scores = nearest.picked_products(self._vectors, best, query[None])[0]
        return self._hits(scores, best, threshold, fused)[:top_k]
