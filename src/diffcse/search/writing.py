"""Changes of an index folder: additions and compaction, durable and atomic.

Legend: `H` numbers of a vector.

Files are written first and named in the database's facts by the commit, so a kill leaves the index as it was or as it
is afterwards; what no facts name is removed by the next writer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffcse.errors import UserError
from diffcse.files import disk_errors, exclusive, write_atomic
from diffcse.search import nearest, rows
from diffcse.search.facts import Facts, Ids, Row
from diffcse.search.nearest import Codes, VectorFile, exact
from diffcse.search.rows import Changes, Rows, damaged
from diffcse.vectors import Vectors, unit

Blocks = Iterable[tuple[Sequence[Row], Vectors]]
"""Rows and their vectors (n, H), block by block."""

LOCK, BUILDING = ".lock", "building"

_DATA = ("vectors*.f32", "ids-*.npy", "codes-*.faiss", ".ids-*.part", ".codes-*.part")
_DEAD_SHARE, _DEAD_ROWS = 1 / 3, 10_000
_TRIALS, _NEAREST, _RECALL = 100, 10, 0.99
_GROWTH = 1.5
"""More vectors need more candidates; they are counted again when there are so many times as many."""
_CANDIDATES = (100, 200, 400, 800, 1_600, 3_200)


def check_new(folder: Path) -> None:
    """Refuse a folder that holds an index or foreign files."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"index {folder}", "a new or empty folder", "a file", "choose another name")
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if rows.NAME in names:
        with closing(Rows(folder)) as database:
            if database.facts.generation:
                raise UserError(f"index {folder}", "a new folder", "an index", "add to it, or choose another folder")
    elif "manifest.json" in names:
        Rows(folder)
    ours = {LOCK, BUILDING, rows.NAME, f"{rows.NAME}-journal", "vectors.f32"}
    if foreign := sorted(names - ours):
        raise UserError(f"index {folder}", "a new or empty folder", f"{foreign[0]} in it", "choose another folder")


def check_model(folder: Path, facts: Facts, fingerprint: str) -> None:
    """Refuse vectors of another encoder than the index's."""
    if facts.fingerprint != fingerprint:
        do = f"use {facts.model or 'the bundled model'} as it was then, or make the index again"
        raise UserError(f"index {folder}", "used with the model that made it", "another model", do)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Be the only writer of the folder, which is made where it is missing; a full disk and the like become one line."""
    do = "make room or permission and try again; what was in the index still is"
    with disk_errors(f"index {folder}", do):
        folder.mkdir(exist_ok=True)
        with exclusive(folder / LOCK, f"index {folder}"):
            yield


def append(database: Rows, blocks: Blocks, key: str | None = None) -> int:
    """Add rows, in place of those with the same value in the column `key`; gives their number."""
    facts = database.read_facts()
    tidy(database.folder, facts)
    file = VectorFile(database.folder, facts)
    try:
        with database.changing() as change:

            def inserted() -> Iterator[Vectors]:
                """Unit vectors of the blocks, each after its rows were inserted."""
                for block, vectors in blocks:
                    _insert(change, block, key)
                    yield unit(vectors)

            # First the vectors: the commit says that they are there.
            change.segment(facts.positions, file.append(facts.positions, inserted()))
            change.facts = dataclasses.replace(change.facts, additions=facts.additions + 1)
    except Exception:
        file.cut(facts.positions)
        raise
    return int(database.facts.positions - facts.positions)


def _insert(change: Changes, block: Sequence[Row], key: str | None) -> None:
    """Insert a block's rows in place of those with the same key; of several in the block, the last counts."""
    if key is None:
        change.insert(block)
        return
    values = [row.columns.get(key, row.text if key == change.facts.text_column else None) for row in block]
    change.delete(change.same(key, values))
    start = change.facts.next_id
    change.insert(block)
    last = {value: place for place, value in enumerate(values)}
    earlier = [start + place for place, value in enumerate(values) if last[value] != place]
    change.delete(np.array(earlier, dtype=np.int64))


def enlarge_codes(database: Rows) -> None:
    """Code the vectors that are not coded yet, and measure how many candidates a search needs among so many."""
    facts = database.read_facts()
    codes = Codes.grown(database.folder, facts)
    if codes.count > _GROWTH * facts.measured:
        candidates, recall = _calibrated(codes, database)
        facts = dataclasses.replace(facts, candidates=candidates, recall=recall, measured=codes.count)
    database.set_codes(codes=codes.count, candidates=facts.candidates, recall=facts.recall, measured=facts.measured)
    tidy(database.folder, database.facts)


def _calibrated(codes: Codes, database: Rows) -> tuple[int, float]:
    """How many candidates find 99% of the ten nearest of stored vectors, and the share that they find."""
    file = VectorFile(database.folder, database.facts)
    places = np.linspace(0, codes.count - 1, _TRIALS).astype(np.int64)
    queries = file.open(codes.count)[places]
    truth = exact(file.blocks(0, codes.count), queries, _NEAREST)[1]
    for count in _CANDIDATES:
        results = codes.candidates(queries, count)
        recall = float(np.mean([np.isin(t, r).mean() for t, r in zip(truth, results, strict=True)]))
        if recall >= _RECALL:
            break
    return count, recall


def worth_compacting(facts: Facts, dead: int) -> bool:
    """Whether so many rows are deleted that the rest can be rewritten in less time than the deletions took."""
    return dead > max(_DEAD_ROWS, _DEAD_SHARE * facts.positions)


def compact(database: Rows) -> int:
    """Write the vectors of the rows that are left to a new file, with codes for them; gives how many went.

    Memory holds a block of vectors, the codes, and 9 bytes a row.
    """
    folder, facts, dead = database.folder, database.read_facts(), database.dead()
    tidy(folder, facts)
    if not len(dead):
        return 0
    ids = all_ids(folder, facts)
    kept = np.ones(facts.positions, dtype=np.bool_)
    kept[np.searchsorted(ids, dead)] = False
    after = dataclasses.replace(
        facts, compacted=facts.generation + 1, purged=facts.purged + len(dead), positions=int(kept.sum())
    )
    if after.positions <= nearest.EXACT_LIMIT or not facts.codes:
        after = dataclasses.replace(after, codes=0, candidates=0, recall=None, measured=0)
    else:
        after = dataclasses.replace(after, codes=after.positions)
    codes = Codes.read(folder, facts) if after.codes else None
    try:
        write_atomic(folder / after.ids_name, lambda file: np.save(file, ids[kept]))
        digest = VectorFile(folder, after).append(0, _chosen(VectorFile(folder, facts), kept))
        if codes is not None:
            codes.again(folder, after)
        with database.changing() as change:
            change.compact(after, digest)
    except Exception:
        tidy(folder, facts)
        raise
    tidy(folder, after)
    return len(dead)


def _chosen(file: VectorFile, kept: NDArray[np.bool_]) -> Iterator[Vectors]:
    place = 0
    for block in file.blocks(0, len(kept)):
        yield block[kept[place : place + len(block)]]
        place += len(block)


def all_ids(folder: Path, facts: Facts) -> Ids:
    """The id of each vector in the vector file, in order.

    Raises:
        UserError: the file that compacting wrote is missing or damaged.
    """
    if not facts.compacted:
        return np.arange(facts.positions)
    try:
        ids = np.load(folder / facts.ids_name, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise damaged(folder, f"{facts.ids_name} that cannot be read ({error})") from error
    return np.concatenate([ids, np.arange(len(ids), facts.positions) + facts.purged])


def tidy(folder: Path, facts: Facts) -> None:
    """Remove files of vectors that the facts do not name: of a run that was killed, or from before a change."""
    ours = {facts.vectors_name, facts.ids_name, facts.codes_name}
    for path in folder.iterdir():
        if path.name not in ours and any(fnmatch(path.name, pattern) for pattern in _DATA):
            with suppress(OSError):  # Windows keeps a file that a reader has open; the next writer removes it
                path.unlink()
