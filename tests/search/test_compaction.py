"""Compacting gives the room of deleted rows back, changes no result, and loses nothing when it is killed."""

import subprocess
import sys

import numpy as np
import pytest

from diffcse.errors import MissingExtra, UserError
from diffcse.search import index as index_module
from diffcse.search import nearest, writing
from diffcse.search.index import SentenceIndex
from diffcse.search.nearest import Codes, VectorFile
from diffcse.search.rows import Changes
from tests.killing import NO_SPACE, Killed, kill_writer, killed_at
from tests.search.test_index import (
    FACTS,
    WIDTH,
    blocks,
    create,
    places,
    row,
    vectors,
)

CONDITION = "_id % 3 = 0"


def alive(count):
    return [n for n in range(count) if n % 3]


@pytest.mark.parametrize("size", [60, 900])  # exact, and with codes
def test_results_ids_and_conditions_stay_and_the_room_is_given_back(tmp_path, small_limits, size):
    folder, array, queries = tmp_path / "index", vectors(size), vectors(20, seed=1)
    index = create(folder, array)
    other = SentenceIndex(folder)
    index.delete(CONDITION)
    how = [{}, {"where": "year >= 2010"}, {"words": ["number 17"] * 20}]
    before = [[index.search(queries, 5, **options) for options in how], places(index, array[alive(size)], 1)]
    database = (folder / "index.sqlite").stat().st_size
    assert index.compact() == len(range(0, size, 3))
    assert index.compact() == 0
    for opened in (index, other, SentenceIndex(folder, verify=True)):
        if size == 60:  # candidates of an approximate search differ
            assert [opened.search(queries, 5, **options) for options in how] == before[0]
        assert places(opened, array[alive(size)], 1) == before[1] == [[n] for n in alive(size)]
        assert (len(opened), opened.facts.positions) == (len(alive(size)), len(alive(size)))
        assert opened.facts.codes == (len(alive(size)) if size == 900 else 0)
    names = {path.name for path in folder.iterdir()} - {"index.sqlite", ".lock"}
    assert len(names) == (3 if size == 900 else 2)
    assert (folder / index.facts.vectors_name).stat().st_size == 4 * WIDTH * len(alive(size))
    assert (folder / "index.sqlite").stat().st_size <= database
    assert [index.sentence(n) for n in (1, size - 2)] == [row(1).text, row(size - 2).text]


@pytest.mark.parametrize("size", [60, 900])
def test_an_index_grows_shrinks_and_is_compacted_again_and_again(tmp_path, small_limits, size):
    folder, array = tmp_path / "index", vectors(4 * size)
    index, left = create(folder, array[:size]), set(range(size))
    for turn in range(1, 4):
        index.delete(f"_id % 5 = {turn}")
        left -= {n for n in left if n % 5 == turn}
        index.compact()
        start, end = turn * size, (turn + 1) * size
        assert index.facts.next_id == start
        index.add(blocks(array[start:end], start))
        left |= set(range(start, end))
        for opened in (index, SentenceIndex(folder, verify=True)):
            same = [near == [n] for near, n in zip(places(opened, array[sorted(left)], 1), sorted(left), strict=True)]
            assert np.mean(same) >= (1 if size == 60 else 0.99)
            assert {n for near in places(opened, array[:50], where="lang = 'fr'") for n in near} <= {
                n for n in left if n % 3 == 0
            }
    assert index.delete("1") == len(left)
    index.compact()
    assert (len(index), index.search(array[:2]), index.facts.positions) == (0, [[], []], 0)
    index.add(blocks(array[:30], 4 * size))
    assert places(SentenceIndex(folder, verify=True), array[:30], 1) == [[4 * size + n] for n in range(30)]


def test_vectors_keep_their_bits(tmp_path):
    index = create(tmp_path / "index", vectors(50))
    before = np.array(index._vectors)
    index.delete(CONDITION)
    index.compact()
    np.testing.assert_array_equal(index._vectors, before[alive(50)])


@pytest.mark.parametrize("rows", [3, 4])
def test_it_happens_by_itself_above_a_third(tmp_path, monkeypatch, rows):
    monkeypatch.setattr(writing, "_DEAD_ROWS", 2)
    index = create(tmp_path / "index", vectors(9))
    index.delete(f"_id < {rows}")
    assert (index.facts.positions, index.facts.purged) == ((9, 0) if rows == 3 else (5, 4))
    assert places(index, vectors(9)[rows:], 1) == [[n] for n in range(rows, 9)]


def test_ten_thousand_deleted_rows_are_too_few_to_write_the_others_anew(tmp_path):
    index = create(tmp_path / "index", vectors(90))
    index.delete("_id > 0")
    assert index.facts.positions == 90


STEPS = [
    (writing, "write_atomic"),
    (nearest, "fsync"),
    (Codes, "again"),
    (Changes, "compact"),
    (writing, "tidy"),
    (index_module.Rows, "shrink"),
]


@pytest.mark.parametrize(("where", "step"), STEPS)
def test_a_kill_at_any_step_loses_nothing(tmp_path, small_limits, monkeypatch, where, step):
    folder, array = tmp_path / "index", vectors(900)
    index = create(folder, array)
    index.delete(CONDITION)
    with monkeypatch.context() as patch:
        if step == "tidy":  # the one after the commit
            patch.setattr(writing, step, lambda folder, facts: killed_at(print)() if facts.compacted else None)
        else:
            patch.setattr(where, step, killed_at(getattr(where, step)))
        with pytest.raises(Killed):
            index.compact()
    index = SentenceIndex(folder, verify=True)
    assert places(index, array[alive(900)], 1) == [[n] for n in alive(900)]
    index.add(blocks(array[:1], 900))
    index.compact()
    assert places(SentenceIndex(folder, verify=True), array[alive(900)][1:], 1) == [[n] for n in alive(900)[1:]]
    assert len([path for path in folder.iterdir() if path.name != ".lock"]) == 4


def test_a_full_disk_leaves_the_index_as_it_was(tmp_path, monkeypatch):
    folder, array = tmp_path / "index", vectors(50)
    index = create(folder, array)
    index.delete(CONDITION)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(VectorFile, "append", killed_at(VectorFile.append, error=NO_SPACE))
    with pytest.raises(UserError, match=r"got No space left on device; .* what was in the index still is"):
        index.compact()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert places(index, array[alive(50)], 1) == [[n] for n in alive(50)]


def _change_for_ever(folder, said):
    index = SentenceIndex(folder)
    while True:
        start = index.facts.next_id
        index.add(blocks(vectors(20, seed=start), start))
        index.delete(f"_id BETWEEN {start} AND {start + 4}")
        said.send(index.facts.next_id)
        index.compact()


def test_sigkill_at_any_moment_loses_nothing_committed(tmp_path):
    folder = tmp_path / "index"
    create(folder, vectors(20))
    compacted = set()
    for attempt in range(10):
        committed = kill_writer(_change_for_ever, folder, 0.02 * attempt)
        index = SentenceIndex(folder, verify=True)
        compacted.add(index.facts.compacted)
        assert index.facts.next_id >= committed and index.facts.next_id % 20 == 0
        last = index.facts.next_id - 20  # the killed one: its rows are there, with or without those to be deleted
        ids = index._rows.where("1").tolist()
        certain = [n for n in range(last) if n < 20 or n % 20 > 4]
        assert [n for n in ids if n < last] == certain
        assert [n for n in ids if n >= last] in (list(range(last, last + 20)), list(range(last + 5, last + 20)))
        expected = np.concatenate([vectors(20), *(vectors(20, seed=start) for start in range(20, last + 20, 20))])[ids]
        assert places(index, expected, 1) == [[n] for n in ids]
        index.delete(f"_id >= 20 AND _id BETWEEN {last} AND {last + 4}")
    assert len(compacted) > 1


def test_a_reader_that_opens_while_another_compacts_finds_the_new_files(tmp_path, monkeypatch):
    folder, array = tmp_path / "index", vectors(50)
    index = create(folder, array)
    index.delete(CONDITION)
    real = VectorFile.open
    calls = []

    def compacted_first(self, count):
        if not calls:
            calls.append(count)
            index.compact()
        return real(self, count)

    monkeypatch.setattr(VectorFile, "open", compacted_first)
    assert places(SentenceIndex(folder), array[alive(50)], 1) == [[n] for n in alive(50)]
    assert calls == [50]


@pytest.mark.parametrize("content", [None, b"", b"not numpy"])
def test_a_damaged_file_of_ids_is_named(tmp_path, content):
    index = create(tmp_path / "index", vectors(50))
    index.delete(CONDITION)
    index.compact()
    path = tmp_path / "index" / index.facts.ids_name
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(UserError, match=rf"must be undamaged; got {path.name} that cannot be read"):
        SentenceIndex(tmp_path / "index")


def test_other_ids_are_found_when_all_is_read(tmp_path):
    index = create(tmp_path / "index", vectors(50))
    index.delete(CONDITION)
    index.compact()
    path = tmp_path / "index" / index.facts.ids_name
    ids = np.load(path)
    ids[3] -= 1
    np.save(path, ids)
    with pytest.raises(UserError, match="must be undamaged; got rows without vectors"):
        SentenceIndex(tmp_path / "index", verify=True)


def test_without_faiss_rows_are_deleted_and_compacting_says_what_is_missing(tmp_path, small_limits, monkeypatch):
    monkeypatch.setattr(writing, "_DEAD_ROWS", 2)
    create(tmp_path / "index", vectors(600))
    monkeypatch.setitem(sys.modules, "faiss", None)
    index = SentenceIndex(tmp_path / "index")
    assert index.delete("_id % 2 = 0") == 300
    assert (len(index), index.facts.compacted) == (300, 0)
    with pytest.raises(MissingExtra, match="FAISS must be installed"):
        index.compact()


def test_memory_does_not_grow_with_the_vectors(tmp_path):
    wide, count = 256, 60_000  # 61 MB of vectors
    facts = FACTS.__class__(dimension=wide, model=None, fingerprint="abc")
    numbers = np.random.default_rng(0).standard_normal((2000, wide)).astype(np.float32)
    many = ([row(n) for n in range(start, start + 2000)] for start in range(0, count, 2000))
    SentenceIndex.create(tmp_path / "index", facts, ((rows, numbers) for rows in many)).delete("_id % 5 = 0")
    script = (
        "import resource, sys; from diffcse.search.index import SentenceIndex; index = SentenceIndex(sys.argv[1])\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; assert index.compact() == 12_000\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "index")], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 45_000  # KiB: a block of 17 MB, its half, and pages of the database
