"""An index folder finds what comparison with every vector finds, and is whole or as it was after any fault."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from diffcse.errors import MissingExtra, UserError
from diffcse.search import index as index_module
from diffcse.search import manifest as index_manifest
from diffcse.search.index import SentenceIndex, add_to_index, create_index
from diffcse.vectors import exact_search, unit

pytest.importorskip("faiss")
WIDTH = 8


def vectors(count, seed=0):
    return unit(np.random.default_rng(seed).standard_normal((count, WIDTH)))


def texts(count, start=0):
    return [f"sentence number {row} ø" for row in range(start, start + count)]


def blocks(array, start=0, size=30):
    names = texts(len(array), start)
    return [(names[i : i + size], array[i : i + size]) for i in range(0, len(array), size)]


def create(folder, array, **kwargs):
    facts = {"rows": len(array), "dimension": WIDTH, "model": "some/model", "fingerprint": "abc"}
    return create_index(folder, blocks(array), **{**facts, **kwargs})


def add(folder, array, start):
    return add_to_index(folder, blocks(array, start), rows=len(array), fingerprint="abc")


def found(index, queries, top_k=10):
    return [[hit.row for hit in hits] for hits in index.search(queries, top_k)]


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


@pytest.fixture
def small_limits(monkeypatch):
    monkeypatch.setattr(index_module, "FLAT_LIMIT", 100)


def test_search_is_exact_below_the_limit(tmp_path):
    array, queries = vectors(100), vectors(7, seed=1)
    manifest = create(tmp_path / "index", array)
    index = SentenceIndex(tmp_path / "index")
    assert (manifest.kind, manifest.rows, len(index), index.manifest) == ("flat", 100, 100, manifest)
    scores, rows = exact_search(array, queries, 10)
    for hits, expected_scores, expected_rows in zip(index.search(queries * 3, 10), scores, rows, strict=True):
        assert [hit.row for hit in hits] == list(expected_rows)
        assert [hit.sentence for hit in hits] == [texts(100)[row] for row in expected_rows]
        np.testing.assert_allclose([hit.score for hit in hits], expected_scores, atol=1e-5)


def test_threshold_and_top_k(tmp_path):
    array = vectors(50)
    create(tmp_path / "index", array)
    index = SentenceIndex(tmp_path / "index")
    (hits,) = index.search(array[:1], top_k=100, threshold=0.2)
    assert len(hits) == int((array @ array[0] >= 0.2).sum())
    assert [len(hits) for hits in index.search(array[:3], top_k=2)] == [2, 2, 2]


def test_graph_above_the_limit_finds_nearly_all(tmp_path, small_limits):
    array, queries = vectors(3000), vectors(50, seed=1)
    assert create(tmp_path / "index", array).kind == "hnsw"
    index = SentenceIndex(tmp_path / "index")
    _, rows = exact_search(array, queries, 10)
    recall = np.mean([len({*one} & {*other}) / 10 for one, other in zip(found(index, queries), rows, strict=True)])
    assert 0.95 < recall <= 1
    assert found(index, array, 1) == [[row] for row in range(3000)]


@pytest.mark.parametrize("sizes", [(40, 30, 20), (90, 30, 400), (150, 10, 700), (400, 1, 1)])
def test_added_sentences_are_found_like_the_first(tmp_path, small_limits, sizes):
    folder, array = tmp_path / "index", vectors(sum(sizes))
    ends = np.cumsum(sizes)
    create(folder, array[: ends[0]])
    for number, (start, end) in enumerate(pairwise(ends), 2):
        manifest = add(folder, array[start:end], int(start))
        assert (manifest.generation, manifest.rows) == (number, end)
        assert manifest.kind == ("hnsw" if end > 100 else "flat")
    index = SentenceIndex(folder)
    assert found(index, array, 1) == [[row] for row in range(len(array))]
    assert [index.sentence(row) for row in range(len(array))] == texts(len(array))
    assert {path.name for path in folder.iterdir()} == index.manifest.files() | {"manifest.json", ".lock"}


def test_many_small_additions_do_not_leave_many_files(tmp_path, monkeypatch):
    monkeypatch.setattr(index_module, "_MOST_PARTS", 3)
    folder, array = tmp_path / "index", vectors(20)
    create(folder, array[:10])
    for row in range(10, 20):
        manifest = add(folder, array[row : row + 1], row)
        assert len(manifest.sentences) <= 3
    index = SentenceIndex(folder)
    assert [index.sentence(row) for row in range(20)] == texts(20)


class Killed(BaseException):
    """Ends a run as SIGKILL would."""


def kill(*args, **kwargs):
    raise Killed


STEPS = ["_graph", "_write_sentences", "_write_vectors", "sync", "Part.of", "write_atomic"]


@pytest.mark.parametrize("step", STEPS)
def test_a_kill_while_adding_leaves_the_old_index_and_the_next_try_works(tmp_path, small_limits, monkeypatch, step):
    folder, array = tmp_path / "index", vectors(300)
    create(folder, array[:90])
    before = SentenceIndex(folder)
    with monkeypatch.context() as patch:
        if step == "Part.of":
            patch.setattr(index_module.Part, "of", kill)
        elif step == "write_atomic":
            patch.setattr(index_manifest, step, kill)
        else:
            patch.setattr(index_module, step, kill)
        with pytest.raises(Killed):
            add(folder, array[90:], 90)
    assert found(SentenceIndex(folder), array[:90], 1) == [[row] for row in range(90)]
    add(folder, array[90:], 90)
    assert found(SentenceIndex(folder), array, 1) == [[row] for row in range(300)]
    assert found(before, array[:90], 1) == [[row] for row in range(90)]  # opened before: still the old one
    assert len(list(folder.glob("*.faiss"))) == 1


@pytest.mark.parametrize("step", STEPS[1:])
def test_a_kill_while_creating_leaves_no_index_and_the_next_try_works(tmp_path, monkeypatch, step):
    folder, array = tmp_path / "index", vectors(50)
    with monkeypatch.context() as patch:
        if step == "Part.of":
            patch.setattr(index_module.Part, "of", kill)
        else:
            patch.setattr(index_manifest if step == "write_atomic" else index_module, step, kill)
        with pytest.raises(Killed):
            create(folder, array)
    with pytest.raises(UserError, match=r"must be an index folder; got no manifest\.json in it"):
        SentenceIndex(folder)
    create(folder, array)
    assert found(SentenceIndex(folder), array, 1) == [[row] for row in range(50)]


def damage(folder: Path, how: str) -> None:
    texts_file, vectors_file = next(folder.glob("*.arrow")), next(folder.glob("*.faiss"))
    manifest = folder / "manifest.json"
    fields = json.loads(manifest.read_text())
    if how == "flipped vectors":
        raw = bytearray(vectors_file.read_bytes())
        raw[len(raw) // 2] ^= 1
        vectors_file.write_bytes(raw)
    elif how == "cut sentences":
        texts_file.write_bytes(texts_file.read_bytes()[:-10])
    elif how == "no vectors":
        vectors_file.unlink()
    elif how == "cut manifest":
        manifest.write_text(manifest.read_text()[:50])
    elif how == "newer":
        manifest.write_text(json.dumps(fields | {"version": 99}))
    elif how == "foreign":
        manifest.write_text(json.dumps({"name": "web app"}))
    elif how == "missing field":
        manifest.write_text(json.dumps({name: value for name, value in fields.items() if name != "dimension"}))
    elif how == "contradiction":
        fields["sentences"][0]["rows"] = 7
        manifest.write_text(json.dumps(fields))
    elif how == "way out":
        fields["vectors"]["file"] = f"../{folder.name}/{vectors_file.name}"
        manifest.write_text(json.dumps(fields))


@pytest.mark.parametrize(
    ("how", "match"),
    [
        ("flipped vectors", r"must be whole; got other content in vectors-000001\.faiss"),
        ("cut sentences", r"must be whole; got sentences-000001\.arrow of"),
        ("no vectors", r"must be whole; got no vectors-000001\.faiss"),
        ("cut manifest", "must be whole; got "),
        ("newer", "must be of version 1; got 99; update diffcse"),
        ("foreign", r"must be an index folder of diffcse; got another manifest\.json"),
        ("missing field", "must be whole; got a manifest without its fields"),
        ("contradiction", "must be whole; got a manifest that contradicts itself"),
        ("way out", r"must be whole; got a file named \.\./"),
    ],
)
def test_a_damaged_folder_is_told(tmp_path, how, match):
    folder = tmp_path / "index"
    create(folder, vectors(50))
    damage(folder, how)
    before = content(folder)
    with pytest.raises(UserError, match=match):
        SentenceIndex(folder)
    with pytest.raises(UserError, match=match):
        add(folder, vectors(5), 50)
    assert content(folder) == before


def test_files_that_match_their_digests_and_still_are_none(tmp_path):
    create(tmp_path / "index", vectors(50))
    manifest = tmp_path / "index" / "manifest.json"
    fields = json.loads(manifest.read_text())
    for part, end in ((fields["vectors"], "faiss"), (fields["sentences"][0], "arrow")):
        path = next((tmp_path / "index").glob(f"*.{end}"))
        good = path.read_bytes()
        path.write_bytes(good[: len(good) // 2])
        damaged = index_manifest.Part.of(path, part["rows"])
        changed = json.loads(json.dumps(fields))
        (changed["vectors"] if end == "faiss" else changed["sentences"][0]).update(damaged.__dict__)
        manifest.write_text(json.dumps(changed))
        with pytest.raises(UserError, match=f"must be whole; got .*{end} that .* cannot read"):
            SentenceIndex(tmp_path / "index")
        path.write_bytes(good)


def test_content_check_can_be_left_out(tmp_path):
    create(tmp_path / "index", vectors(50))
    damage(tmp_path / "index", "flipped vectors")
    assert len(SentenceIndex(tmp_path / "index", verify=False)) == 50


@pytest.mark.parametrize("name", ["nowhere", "file"])
def test_no_index_there(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="must be an index folder"):
        SentenceIndex(tmp_path / name)


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match=r"must be a new or empty folder; got thesis\.tex in it"):
        create(tmp_path, vectors(5))
    create(tmp_path / "index", vectors(5))
    with pytest.raises(UserError, match="must be a new folder; got an index; add to it"):
        create(tmp_path / "index", vectors(5))


def test_vectors_of_another_model_are_refused(tmp_path):
    create(tmp_path / "index", vectors(5))
    with pytest.raises(UserError, match="must be used with the model that made it; got another model; use some/model"):
        add_to_index(tmp_path / "index", blocks(vectors(2)), rows=2, fingerprint="xyz")


def test_one_writer_at_a_time(tmp_path):
    create(tmp_path / "index", vectors(5))
    with FileLock(tmp_path / "index" / ".lock"), pytest.raises(UserError, match="must be written by one process"):
        add(tmp_path / "index", vectors(5), 5)


def test_a_full_disk_leaves_the_old_index(tmp_path, monkeypatch):
    folder, array = tmp_path / "index", vectors(50)
    create(folder, array[:40])

    def full(path):
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(index_module, "sync", full)
        with pytest.raises(UserError, match=r"got No space left on device; .* what was in the index still is"):
            add(folder, array[40:], 40)
    assert found(SentenceIndex(folder), array[:40], 1) == [[row] for row in range(40)]


def test_bad_queries(tmp_path):
    create(tmp_path / "index", vectors(5))
    index = SentenceIndex(tmp_path / "index")
    with pytest.raises(UserError, match=r"queries must be vectors of 8 numbers; got \(1, 3\)"):
        index.search(np.ones((1, 3), dtype=np.float32))
    with pytest.raises(UserError, match="top_k must be at least 1"):
        index.search(vectors(1), top_k=0)


def test_faiss_is_an_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtra, match=r"FAISS must be installed; .*pip install 'diffcse\[search\]'"):
        create(tmp_path / "index", vectors(5))
    assert not (tmp_path / "index").exists()


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux's account of mapped memory")
def test_vectors_are_mapped_not_loaded(tmp_path):
    create(tmp_path / "index", vectors(20_000))
    script = (
        "import sys; from diffcse.search.index import SentenceIndex; index = SentenceIndex(sys.argv[1])\n"
        "maps = open('/proc/self/maps').read(); print('.faiss' in maps, '.arrow' in maps, len(index))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "index")], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["True", "True", "20000"]
