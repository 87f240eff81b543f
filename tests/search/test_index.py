"""An index folder finds what comparison with every vector finds, and is as it was before or after any fault."""

import json
import os
import sqlite3
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from diffcse.errors import MissingExtra, UserError
from diffcse.search import nearest
from diffcse.search.facts import Facts, Row
from diffcse.search.index import SentenceIndex
from diffcse.search.nearest import Codes, VectorFile, exact
from diffcse.search.rows import Changes, Rows
from diffcse.search.writing import check_model
from diffcse.vectors import exact_search, unit
from tests.killing import NO_SPACE, Killed, kill_writer, killed_at

WIDTH = 8
FACTS = Facts(dimension=WIDTH, model="some/model", fingerprint="abc")


def vectors(count, seed=0):
    return unit(np.random.default_rng(seed).standard_normal((count, WIDTH)))


def row(number):
    columns = {"year": 2000 + number % 20, "lang": "en" if number % 3 else "fr"}
    return Row(text=f"sentence number {number} ø", line=number + 1, columns=columns)


def blocks(array, start=0, size=30):
    rows = [row(number) for number in range(start, start + len(array))]
    return [(rows[i : i + size], array[i : i + size]) for i in range(0, len(array), size)]


def create(folder, array):
    return SentenceIndex.create(folder, FACTS, blocks(array))


def places(index, queries, top_k=10, **how):
    return [[hit.row for hit in hits] for hits in index.search(queries, top_k, **how)]


def test_search_is_exact_below_the_limit(tmp_path):
    array, queries = vectors(100), vectors(7, seed=1)
    create(tmp_path / "index", array)
    index = SentenceIndex(tmp_path / "index", verify=True)
    assert (len(index), index.facts.generation, index.facts.codes) == (100, 1, 0)
    scores, expected = exact_search(array, queries, 10)
    for hits, expected_scores, expected_rows in zip(index.search(queries * 3, 10), scores, expected, strict=True):
        assert [hit.row for hit in hits] == list(expected_rows)
        assert [(hit.sentence, hit.line, hit.columns) for hit in hits] == [
            (row(n).text, n + 1, row(n).columns) for n in expected_rows
        ]
        np.testing.assert_allclose([hit.score for hit in hits], expected_scores, atol=1e-5)


def test_threshold_and_top_k(tmp_path):
    array = vectors(50)
    index = create(tmp_path / "index", array)
    (hits,) = index.search(array[:1], top_k=100, threshold=0.2)
    assert len(hits) == int((array @ array[0] >= 0.2).sum())
    assert [len(hits) for hits in index.search(array[:3], top_k=2)] == [2, 2, 2]


@pytest.mark.parametrize("block", [1, 7, 16_384])
def test_exact_nearest_of_all_and_of_some_with_ties_by_place(monkeypatch, block):
    monkeypatch.setattr(nearest, "_BLOCK", block)
    array = np.concatenate([vectors(40), vectors(40)])  # every vector twice
    scores, results = exact(array, array[:5], 3)
    assert [list(f[:2]) for f in results] == [[n, n + 40] for n in range(5)]
    assert (scores[:, :2] == 1).all()
    chosen = np.arange(0, 80, 3)
    _, results = exact(array, array[:5], 4, chosen)
    _, expected = exact_search(array[chosen], array[:5], 4)
    np.testing.assert_array_equal(results, chosen[expected])
    assert exact(array[:0], array[:5], 3)[0].shape == (5, 0)


def test_above_the_limit_codes_find_nearly_all(tmp_path, small_limits):
    array, queries = vectors(3000), vectors(50, seed=1)
    index = create(tmp_path / "index", array)
    assert index.facts.codes == 3000
    assert index.facts.recall >= 0.99
    expected = exact_search(array, queries, 10)[1]
    recall = np.mean([len({*a} & {*b}) / 10 for a, b in zip(places(index, queries), expected, strict=True)])
    assert recall >= 0.95
    assert places(SentenceIndex(tmp_path / "index"), array, 1) == [[n] for n in range(3000)]


@pytest.mark.parametrize("sizes", [(40, 30, 20), (90, 30, 400), (150, 10, 700), (400, 1, 1)])
def test_added_rows_are_found_like_the_first(tmp_path, small_limits, sizes):
    folder, array, ends = tmp_path / "index", vectors(sum(sizes)), np.cumsum(sizes)
    index = create(folder, array[: ends[0]])
    for generation, (start, end) in enumerate(pairwise(ends), 2):
        assert index.add(blocks(array[start:end], int(start))) == end - start
        assert (index.facts.generation, len(index)) == (generation, end)
        assert bool(index.facts.codes) == (end > 100)
        assert end - index.facts.codes <= 50 or end <= 100
    assert places(index, array, 1) == [[n] for n in range(len(array))]
    assert places(SentenceIndex(folder, verify=True), array, 1) == [[n] for n in range(len(array))]
    assert [index.sentence(n) for n in (0, len(array) - 1)] == [row(0).text, row(len(array) - 1).text]
    assert len(list(folder.glob("codes-*"))) == (len(array) > 100)


CONDITIONS = [
    ("year >= 2010", lambda n: n % 20 >= 10),
    ("year BETWEEN 2003 AND 2004 AND lang = 'fr'", lambda n: n % 20 in (3, 4) and n % 3 == 0),
    ("text LIKE '%number 1_ %' -- two digits", lambda n: 10 <= n < 20),
    ("_line <= 7", lambda n: n < 7),
    ("lang IN ('de')", lambda n: False),
]


@pytest.mark.parametrize(("where", "holds"), CONDITIONS)
@pytest.mark.parametrize("size", [90, 2000])  # below the limit, and approximate
def test_conditions_are_exact_also_after_deletes(tmp_path, small_limits, size, where, holds):
    array, queries = vectors(size), vectors(20, seed=1)
    index = create(tmp_path / "index", array)
    assert index.delete("_id % 7 = 0") == len(range(0, size, 7))
    allowed = np.array([n for n in range(size) if holds(n) and n % 7], dtype=np.int64)
    expected = exact(array, queries, 10, allowed)[1]
    results = places(index, queries, where=where)
    assert {n for near in results for n in near} <= set(allowed.tolist())
    assert [len(near) for near in results] == [min(10, len(allowed))] * 20
    recall = np.mean([len({*a} & {*b}) / max(1, len(b)) for a, b in zip(results, expected, strict=True)])
    assert recall >= 0.98 or not len(allowed)


BAD_CONDITIONS = ["yeer > 2000", "year >", "year > 2000; DELETE FROM rows", "year > 2000) --", ""]


@pytest.mark.parametrize("where", BAD_CONDITIONS)
def test_a_condition_that_is_none_is_one_line_and_changes_nothing(tmp_path, where):
    index = create(tmp_path / "index", vectors(5))
    for use in (lambda: index.search(vectors(1), where=where), lambda: index.delete(where)):
        with pytest.raises(UserError, match="--where must be a condition on text, year, lang, _line; got"):
            use()
    assert len(SentenceIndex(tmp_path / "index", verify=True)) == 5


def test_a_handle_that_has_not_searched_yet_sees_what_others_have_changed_since_it_was_opened(tmp_path):
    array = vectors(20)
    index = create(tmp_path / "index", array[:10])
    other = SentenceIndex(tmp_path / "index")
    index.add([])
    index.add(blocks(array[10:], 10))
    assert places(other, array, 1) == [[n] for n in range(20)]
    index.delete("_id >= 5")
    assert {len(near) for near in places(other, array, 10)} == {5}


def test_candidates_are_counted_again_when_the_index_has_grown(tmp_path, small_limits):
    array = vectors(4000)
    index = create(tmp_path / "index", array[:200])
    before = index.facts
    index.add(blocks(array[200:290], 200))
    assert (index.facts.codes, index.facts.measured, index.facts.candidates) == (290, 200, before.candidates)
    index.add(blocks(array[290:], 290))
    assert index.facts.measured == 4000 and index.facts.candidates > before.candidates
    assert index.facts.recall >= 0.99


def test_deleted_rows_are_gone_for_good(tmp_path, small_limits):
    array = vectors(300)
    index = create(tmp_path / "index", array)
    other = SentenceIndex(tmp_path / "index")
    assert index.delete("_line <= 150") == 150
    assert len(other) == 150
    for opened in (index, other, SentenceIndex(tmp_path / "index", verify=True)):
        assert {n for near in places(opened, array) for n in near} == set(range(150, 300))
    index.add(blocks(array[:2], 300))
    assert [near[0] for near in places(other, array[:2])] == [300, 301]
    assert index.delete("1") == 152
    assert (len(index), index.search(array[:2])) == (0, [[], []])
    with pytest.raises(KeyError):
        index.sentence(0)


def test_update_replaces_rows_with_the_same_key_and_adds_the_others(tmp_path):
    folder, array = tmp_path / "index", vectors(8)
    keyed = [Row(text=f"text {n}", line=n, columns={"id": n}) for n in range(4)]
    index = SentenceIndex.create(folder, FACTS, [(keyed, array[:4])])
    new = [Row(text=f"new {n}", line=n, columns={"id": key}) for n, key in enumerate((1, 3, 9, 9))]
    assert index.add([(new, array[4:])], key="id") == 4
    (hits,) = index.search(array[:1], 10)
    assert sorted((hit.columns["id"], hit.sentence) for hit in hits) == [
        (0, "text 0"),
        (1, "new 0"),
        (2, "text 2"),
        (3, "new 1"),
        (9, "new 3"),
    ]
    with pytest.raises(UserError, match="--update must be one of the columns text, id; got name"):
        index.add([], key="name")


def test_values_of_every_kind(tmp_path):
    import datetime
    import decimal

    values = {
        "whole": 2**40,
        "huge": 2**70,
        "real": 0.5,
        "nan": float("nan"),
        "yes": True,
        "none": None,
        "day": datetime.date(2026, 1, 2),
        "when": datetime.datetime(2026, 1, 2, 3, 4),
        "price": decimal.Decimal("1.5"),
        "list": ["a", {"b": 1}],
        "numpy": np.float32(0.25),
        "surrogate": "a\udcffb",
        'odd "name"; --': "x",
    }
    expected = values | {
        "huge": str(2**70),
        "nan": None,
        "yes": 1,
        "day": "2026-01-02",
        "when": "2026-01-02T03:04:00",
        "price": 1.5,
        "list": '["a", {"b": 1}]',
        "numpy": 0.25,
        "surrogate": "a\ufffdb",
    }
    index = SentenceIndex.create(tmp_path / "index", FACTS, [([Row(text="t", line=1, columns=values)], vectors(1))])
    assert index.search(vectors(1), where="day < '2026-02' AND whole > 1e12")[0][0].columns == expected
    with pytest.raises(UserError, match="column '_ID' must be another name than _id and _line"):
        index.add([([Row(text="t", line=1, columns={"_ID": 1})], vectors(1))])


def test_hybrid_joins_the_two_rankings(tmp_path):
    texts = ["the cat sat", "a rare word: zebra", "the dog ran", "the cat ran", "un café noir"]
    rows = [Row(text=text, line=n, columns={"n": n}) for n, text in enumerate(texts)]
    array = vectors(5)
    index = SentenceIndex.create(tmp_path / "index", FACTS, [(rows, array)])
    (hits,) = index.search(array[2:3], 5, words=["ZEBRA!"])
    near = [hit.row for hit in index.search(array[2:3], 5)[0]]
    expected = {n: 1 / (60 + near.index(n) + 1) for n in range(5)}
    expected[1] += 1 / 61
    assert [hit.row for hit in hits] == sorted(expected, key=lambda n: -expected[n])
    assert {hit.row: hit.fused for hit in hits} == pytest.approx(expected)
    assert {hit.row: hit.score for hit in hits} == pytest.approx(dict(enumerate(array @ array[2])), abs=1e-6)
    assert index._rows.full_text("cafe", 5) == [4]
    assert index._rows.full_text("cat", 5, "n > 0") == [3]
    assert index._rows.full_text('"; NOT (', 5) == []
    index.delete("n = 4")
    assert index._rows.full_text("cafe", 5) == []


@pytest.mark.parametrize(
    ("where", "step"),
    [
        (nearest, "fsync"),
        (Rows, "changing"),
        (Changes, "segment"),
        (Codes, "grown"),
        (Rows, "set_codes"),
    ],
)
def test_a_kill_while_adding_loses_nothing_and_the_next_try_works(tmp_path, small_limits, monkeypatch, where, step):
    folder, array = tmp_path / "index", vectors(300)
    index = create(folder, array[:90])
    with monkeypatch.context() as patch:
        patch.setattr(where, step, killed_at(getattr(where, step)))
        with pytest.raises(Killed):
            index.add(blocks(array[90:], 90))
    index = SentenceIndex(folder, verify=True)
    committed = 300 if where in (Codes,) or step == "set_codes" else 90
    assert len(index) == committed
    assert places(index, array[:90], 1) == [[n] for n in range(90)]
    index.add(blocks(array[committed:], committed))
    assert places(index, array, 1) == [[n] for n in range(300)]
    assert len(SentenceIndex(folder, verify=True)) == 300


@pytest.mark.parametrize("step", ["fsync", "segment"])
def test_a_kill_while_creating_leaves_no_index_and_the_next_try_works(tmp_path, monkeypatch, step):
    folder, array = tmp_path / "index", vectors(50)
    with monkeypatch.context() as patch:
        where = nearest if step == "fsync" else Changes
        patch.setattr(where, step, killed_at(getattr(where, step)))
        with pytest.raises(Killed):
            create(folder, array)
    with pytest.raises(UserError, match="must be a finished index; got one whose making was interrupted"):
        SentenceIndex(folder)
    create(folder, array)
    assert places(SentenceIndex(folder, verify=True), array, 1) == [[n] for n in range(50)]


def _add_for_ever(folder, said):
    index = SentenceIndex(folder)
    while True:
        start = index.facts.positions
        index.add(blocks(vectors(20, seed=start), start))
        if start % 60 == 0:
            index.delete(f"_id = {start}")
        said.send(index.facts.positions)


def test_sigkill_at_any_moment_loses_nothing_committed(tmp_path):
    folder = tmp_path / "index"
    create(folder, vectors(20))
    for attempt in range(8):
        committed = kill_writer(_add_for_ever, folder, 0.003 * attempt)
        index = SentenceIndex(folder, verify=True)
        positions = index.facts.positions
        assert positions >= committed
        assert positions % 20 == 0
        array = np.concatenate([vectors(20), *(vectors(20, seed=start) for start in range(20, positions, 20))])
        np.testing.assert_array_equal(np.asarray(index._vectors), unit(array))
        assert {n for n in range(positions) if n not in index._rows.dead()} == set(index._rows.where("1").tolist())


def test_vectors_are_on_the_disk_before_their_rows_are_committed(tmp_path, monkeypatch):
    index, order = create(tmp_path / "index", vectors(5)), []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (order.append("fsync"), fsync(descriptor)))
    index._rows.db.set_trace_callback(lambda statement: order.append(statement.split()[0]))
    index.add(blocks(vectors(5), 5))
    assert order.index("fsync") < order.index("COMMIT")
    assert index._rows.db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL: a commit waits for the disk


def damage(folder: Path, how: str) -> None:
    vector_file, database = folder / "vectors.f32", folder / "index.sqlite"
    if how == "flipped vectors":
        raw = bytearray(vector_file.read_bytes())
        raw[len(raw) // 2] ^= 1
        vector_file.write_bytes(raw)
    elif how == "cut vectors":
        vector_file.write_bytes(vector_file.read_bytes()[:-10])
    elif how == "no vectors":
        vector_file.unlink()
    elif how == "no codes":
        next(folder.glob("codes-*")).unlink()
    elif how == "cut codes":
        path = next(folder.glob("codes-*"))
        path.write_bytes(path.read_bytes()[:1000])
    elif how == "no database":
        database.write_text("years of work, but no SQLite")
    elif how == "foreign":
        database.unlink()
        with sqlite3.connect(database) as db:
            db.execute("CREATE TABLE webapp (name TEXT)")
    else:
        with sqlite3.connect(database) as db:
            facts = json.loads(db.execute("SELECT content FROM facts").fetchone()[0])
            if how == "newer":
                facts["version"] = 99
            else:
                del facts["dimension"]
            db.execute("UPDATE facts SET content = ?", (json.dumps(facts),))


@pytest.mark.parametrize(
    ("how", "match"),
    [
        ("flipped vectors", r"must be undamaged; got other content in vectors\.f32"),
        ("cut vectors", r"must be undamaged; got vectors\.f32 of 9,590 bytes, fewer than 9,600"),
        ("no vectors", r"must be undamaged; got no vectors\.f32"),
        ("no codes", r"must be undamaged; got no codes-000000000300\.faiss"),
        ("cut codes", r"must be undamaged; got codes-000000000300\.faiss that FAISS cannot read"),
        ("no database", r"must be undamaged; got index\.sqlite that .*cannot"),
        ("foreign", r"must be undamaged; got index\.sqlite that cannot be read \(no such table: facts\)"),
        ("newer", "must be of version 3; got 99; update diffcse"),
        ("missing field", r"must be undamaged; got index\.sqlite that cannot be read"),
    ],
)
def test_a_damaged_folder_is_named(tmp_path, small_limits, how, match):
    folder = tmp_path / "index"
    create(folder, vectors(300))
    damage(folder, how)
    with pytest.raises(UserError, match=match):
        SentenceIndex(folder, verify=True)


@pytest.mark.parametrize("name", ["nowhere", "file"])
def test_no_index_there(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="must be an index folder"):
        SentenceIndex(tmp_path / name)


def test_an_older_versions_folder_is_refused_in_one_line(tmp_path):
    (tmp_path / "manifest.json").write_text('{"format": "diffcse-index", "version": 1}')
    with pytest.raises(
        UserError, match="got one by an older version; index the text again into a new folder: diffcse index TEXT"
    ):
        SentenceIndex(tmp_path)
    with pytest.raises(UserError, match="got one by an older version"):
        create(tmp_path, vectors(5))


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match=r"must be a new or empty folder; got thesis\.tex in it"):
        create(tmp_path, vectors(5))
    create(tmp_path / "index", vectors(5))
    with pytest.raises(UserError, match="must be a new folder; got an index; add to it"):
        create(tmp_path / "index", vectors(5))


def test_vectors_of_another_model_are_refused(tmp_path):
    with pytest.raises(UserError, match="must be used with the model that made it; got another model; use some/model"):
        check_model(tmp_path, FACTS, "xyz")


def test_one_writer_at_a_time(tmp_path):
    index = create(tmp_path / "index", vectors(5))
    with FileLock(tmp_path / "index" / ".lock"), pytest.raises(UserError, match="must be written by one process"):
        index.add(blocks(vectors(5), 5))
    with FileLock(tmp_path / "index" / ".lock"), pytest.raises(UserError, match="must be written by one process"):
        index.delete("1")


def test_a_full_disk_leaves_the_index_as_it_was(tmp_path, monkeypatch):
    folder, array = tmp_path / "index", vectors(50)
    index = create(folder, array[:40])
    with monkeypatch.context() as patch:
        patch.setattr(VectorFile, "append", killed_at(VectorFile.append, error=NO_SPACE))
        with pytest.raises(UserError, match=r"got No space left on device; .* what was in the index still is"):
            index.add(blocks(array[40:], 40))
    assert places(SentenceIndex(folder, verify=True), array[:40], 1) == [[n] for n in range(40)]


def test_bad_queries(tmp_path):
    index = create(tmp_path / "index", vectors(5))
    with pytest.raises(UserError, match=r"queries must be vectors of 8 numbers; got \(1, 3\)"):
        index.search(np.ones((1, 3), dtype=np.float32))
    with pytest.raises(UserError, match="top_k must be at least 1"):
        index.search(vectors(1), top_k=0)


def test_faiss_is_an_extra_that_only_large_indexes_need(tmp_path, small_limits, monkeypatch):
    array = vectors(300)
    index = create(tmp_path / "index", array[:90])
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "faiss", None)
        assert places(SentenceIndex(tmp_path / "index"), array[:90], 1) == [[n] for n in range(90)]
        with pytest.raises(MissingExtra, match=r"FAISS must be installed; .*pip install 'diffcse\[search\]'"):
            index.add(blocks(array[90:], 90))
        assert places(SentenceIndex(tmp_path / "index"), array, 1) == [
            [n] for n in range(300)
        ]  # added, searched exactly
    index = SentenceIndex(tmp_path / "index")
    index.maintain()
    assert index.facts.codes == 300


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's account of mapped memory")
def test_vectors_are_mapped_not_loaded(tmp_path):
    create(tmp_path / "index", vectors(20_000))
    script = (
        "import sys; from diffcse.search.index import SentenceIndex; index = SentenceIndex(sys.argv[1])\n"
        "print('vectors.f32' in open('/proc/self/maps').read(), len(index), 'faiss' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "index")], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["True", "20000", "False"]
