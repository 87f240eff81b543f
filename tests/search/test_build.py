"""A text becomes an index that finds its sentences, also when the run is killed at any step."""

import numpy as np
import pytest

from diffcse.encoding import parts
from diffcse.encoding.bulk import BulkSettings
from diffcse.encoding.encode import EncodeSettings, encode
from diffcse.errors import UserError
from diffcse.persistence.load import load_encoder
from diffcse.search import build as indexing
from diffcse.search.build import index_text
from diffcse.search.index import SentenceIndex
from tests import tiny
from tests.encoding.test_bulk import Killed, killed_at, lines

pytest.importorskip("faiss")
SETTINGS = BulkSettings(encoding=EncodeSettings(normalize=True, chunk_sentences=7))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_encoder(tiny.save(tiny.encoder(), tmp_path_factory.mktemp("model")))


@pytest.fixture
def text(tmp_path):
    return tiny.write_sentences(tmp_path / "text.txt", 40)


def index(model, text, folder, **kwargs):
    return index_text(str(text), folder, lambda: model, model="name", settings=SETTINGS, **kwargs)


def check(model, folder, sentences):
    opened = SentenceIndex(folder)
    assert [opened.sentence(row) for row in range(len(opened))] == sentences
    vectors = encode(model, sentences, EncodeSettings(normalize=True)).vectors
    best = [hits[0] for hits in opened.search(vectors, 1)]
    np.testing.assert_allclose([hit.score for hit in best], 1, atol=1e-5)
    assert sorted(path.suffix for path in folder.iterdir() if path.name != ".lock")[-1] == ".json"
    assert not (folder / "building").exists()


def test_index_and_add(tmp_path, model, text):
    manifest, counts = index(model, text, tmp_path / "index")
    assert (manifest.rows, counts.rows, manifest.model) == (40, 40, "name")
    check(model, tmp_path / "index", lines(text))
    more = tmp_path / "more.txt"
    more.write_text("a bird\n\n  \nthe boat\n")
    manifest, counts = index(model, more, tmp_path / "index", add=True)
    assert (manifest.rows, manifest.generation) == (42, 2)
    check(model, tmp_path / "index", [*lines(text), "a bird", "the boat"])


@pytest.mark.parametrize(
    ("add", "step", "moment"),
    [
        *[(add, "encode_texts", 0) for add in (False, True)],
        *[(add, "part", moment) for add in (False, True) for moment in (0, 1, 3)],
        (False, "create_index", 0),
        (True, "add_to_index", 0),
        *[(add, "rmtree", 0) for add in (False, True)],
    ],
)
def test_a_run_killed_anywhere_resumes(tmp_path, model, text, monkeypatch, add, step, moment):
    folder, first = tmp_path / "index", tmp_path / "first.txt"
    first.write_text("the first\n")
    if add:
        index(model, first, folder)
    where, name = {"part": (parts, "write_atomic"), "rmtree": (indexing.shutil, step)}.get(step, (indexing, step))
    with monkeypatch.context() as patch:
        patch.setattr(where, name, killed_at(getattr(where, name), moment))
        with pytest.raises(Killed):
            index(model, text, folder, add=add)
    index(model, text, folder, add=add)
    check(model, folder, [*(["the first"] if add else []), *lines(text)])


def test_after_a_kill_at_the_very_end_another_text_is_added_all_the_same(tmp_path, model, text, monkeypatch):
    folder, more = tmp_path / "index", tmp_path / "more.txt"
    more.write_text("the boat\n")
    with monkeypatch.context() as patch:
        patch.setattr(indexing.shutil, "rmtree", killed_at(indexing.shutil.rmtree, 0))
        with pytest.raises(Killed):
            index(model, text, folder)
    index(model, more, folder, add=True)
    check(model, folder, [*lines(text), "the boat"])


def no_model():
    raise AssertionError("the model was loaded before the input was checked")


def test_bad_input_is_told_before_the_model_is_loaded(tmp_path, model, text):
    with pytest.raises(UserError, match="must be an existing file"):
        index_text(str(tmp_path / "none.txt"), tmp_path / "index", no_model, model=None)
    with pytest.raises(UserError, match="must be an index folder; got no manifest"):
        index_text(str(text), tmp_path / "index", no_model, model=None, add=True)
    index(model, text, tmp_path / "index")
    with pytest.raises(UserError, match="must be a new folder; got an index; add to it"):
        index_text(str(text), tmp_path / "index", no_model, model=None)
    blank = tmp_path / "blank.txt"
    blank.write_text("\n \n")
    with pytest.raises(UserError, match="must be a text with at least one line"):
        index_text(str(blank), tmp_path / "other", no_model, model=None)
    with pytest.raises(UserError, match="must be on a disk that can be written to; got No such file"):
        index(model, text, tmp_path / "no" / "parent")


def test_another_model_is_refused_before_anything_is_encoded(tmp_path, model, text):
    index(model, text, tmp_path / "index")
    other = load_encoder(tiny.save(tiny.encoder(seed=4), tmp_path / "other"))
    with pytest.raises(UserError, match="must be used with the model that made it; got another model; use name"):
        index(other, text, tmp_path / "index", add=True)
