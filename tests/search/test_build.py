"""A text becomes an index that finds its sentences, also when the run is killed at any step."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffcse.encoding import parts
from diffcse.encoding.bulk import BulkSettings, encode_file
from diffcse.encoding.encode import Encoder, EncodeSettings
from diffcse.errors import UserError
from diffcse.persistence.load import load_encoder
from diffcse.search import build as indexing
from diffcse.search.build import StoredParts, TextSearch, index_text
from diffcse.search.index import SentenceIndex
from diffcse.search.rows import Changes
from tests import tiny
from tests.encoding.test_bulk import lines
from tests.killing import Killed, killed_at
from tests.text.tables import write_table

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
    opened = SentenceIndex(folder, verify=True)
    assert [opened.sentence(row) for row in range(len(opened))] == sentences
    vectors = Encoder(model, settings=EncodeSettings(normalize=True)).encode(sentences)
    best = [hits[0] for hits in opened.search(vectors, 1)]
    np.testing.assert_allclose([hit.score for hit in best], 1, atol=1e-5)
    assert {path.name for path in folder.iterdir()} <= {"index.sqlite", "vectors.f32", ".lock"}


def test_index_and_add(tmp_path, model, text):
    made, counts = index(model, text, tmp_path / "index")
    assert (len(made), counts.rows, made.facts.model) == (40, 40, "name")
    check(model, tmp_path / "index", lines(text))
    more = tmp_path / "more.txt"
    more.write_text("a bird\n\n  \nthe boat\n")
    made, counts = index(model, more, tmp_path / "index", add=True)
    assert (len(made), made.facts.generation, counts.rows, counts.blank) == (42, 2, 4, 2)
    assert [made._rows.fetch([row])[row].line for row in (40, 41)] == [1, 4]
    check(model, tmp_path / "index", [*lines(text), "a bird", "the boat"])


TABLE = [
    {"title": "one", "text": "a bird sings", "year": 1999, "price": 1.5, "code": "007"},
    {"title": "two", "text": "", "year": 2020, "price": 2.0, "code": "8"},
    {"title": "three", "text": "the boat, and the sea", "year": 2021, "price": None, "code": "9"},
]


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv", ".tsv"])
def test_the_other_columns_of_a_table_are_kept_with_their_types(tmp_path, model, suffix):
    raw = {"raw": [b"\xff"] * 3} if suffix == ".parquet" else {}
    table = write_table(tmp_path / f"table{suffix}", {name: [row[name] for row in TABLE] for name in TABLE[0]} | raw)
    made, counts = index(model, table, tmp_path / "index", column="text")
    assert (len(made), counts.rows, counts.blank) == (2, 3, 1)
    assert made.columns == ["text", "title", "year", "price", "code"]
    (hits,) = made.search(np.ones((1, made.facts.dimension), np.float32), where="year > 2000")
    expected = {name: value for name, value in TABLE[2].items() if name != "text"}
    if suffix in (".csv", ".tsv"):
        expected["price"] = ""
    assert [(hit.sentence, hit.line, dict(hit.columns)) for hit in hits] == [(TABLE[2]["text"], 3, expected)]
    table.write_text(table.read_text().replace("bird", "frog")) if suffix != ".parquet" else None
    made, _ = index(model, table, tmp_path / "index", column="text", update="title")
    assert sorted(hit.columns["title"] for hit in made.search(np.ones((1, made.facts.dimension)), 9)[0]) == [
        "one",
        "three",
    ]


def test_the_text_column_keeps_its_name(tmp_path, model):
    table = tmp_path / "table.csv"
    table.write_text("body,text\nthe cat,x\n")
    made, _ = index(model, table, tmp_path / "index", column="body")
    assert made.columns == ["body", "text"]
    assert made.search(np.ones((1, made.facts.dimension)), where="body = 'the cat' AND text = 'x'")[0][0].row == 0


def test_standard_input(tmp_path, model):
    code = (
        "from pathlib import Path; from diffcse.search.build import index_text; "
        "from diffcse.persistence.load import load_encoder; import sys\n"
        "print(len(index_text('-', Path(sys.argv[1]), lambda: load_encoder(None), model=None)[0]))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "index")]
    done = subprocess.run(command, input=b"a\n\nb\n", capture_output=True, check=True)
    assert done.stdout == b"2\n"


@pytest.mark.parametrize(
    ("add", "step", "moment"),
    [
        *[(add, "encode_texts", 0) for add in (False, True)],
        *[(add, "part", moment) for add in (False, True) for moment in (0, 1, 3)],
        *[(add, "maintain", 0) for add in (False, True)],
        *[(add, "segment", 0) for add in (False, True)],
        *[(add, "rmtree", 0) for add in (False, True)],
    ],
)
def test_a_run_killed_anywhere_resumes(tmp_path, model, text, monkeypatch, add, step, moment):
    folder, first = tmp_path / "index", tmp_path / "first.txt"
    first.write_text("the first\n")
    if add:
        index(model, first, folder)
    where, name = {
        "part": (parts, "write_atomic"),
        "rmtree": (indexing.shutil, step),
        "maintain": (SentenceIndex, step),
        "segment": (Changes, step),
    }.get(step, (indexing, step))
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


def test_bad_input_is_reported_before_the_model_is_loaded(tmp_path, model, text):
    with pytest.raises(UserError, match="must be an existing file"):
        index_text(str(tmp_path / "none.txt"), tmp_path / "index", tiny.no_model, model=None)
    with pytest.raises(UserError, match=r"must be an index folder; got no index\.sqlite"):
        index_text(str(text), tmp_path / "index", tiny.no_model, model=None, add=True)
    index(model, text, tmp_path / "index")
    with pytest.raises(UserError, match="must be a new folder; got an index; add to it"):
        index_text(str(text), tmp_path / "index", tiny.no_model, model=None)
    blank = tmp_path / "blank.txt"
    blank.write_text("\n \n")
    with pytest.raises(UserError, match="must be a text with at least one line that is not blank"):
        index(model, blank, tmp_path / "other")
    assert not (tmp_path / "other").exists()
    with pytest.raises(UserError, match="must be on a disk that can be written to; got No such file"):
        index(model, text, tmp_path / "no" / "parent")


def test_another_model_is_refused_before_anything_is_encoded(tmp_path, model, text):
    index(model, text, tmp_path / "index")
    other = load_encoder(tiny.save(tiny.encoder(seed=4), tmp_path / "other"))
    with pytest.raises(UserError, match="must be used with the model that made it; got another model; use name"):
        index(other, text, tmp_path / "index", add=True)


def prompted(place, **prompts):
    model = load_encoder(tiny.save(tiny.encoder(), place))
    model.prompts = prompts
    return model


def test_the_prompts_of_the_index_are_used_for_what_is_added_and_searched(tmp_path, text):
    model = prompted(tmp_path / "model", query="the cat ", document="a dog ")
    made, _ = index(model, text, tmp_path / "index")
    assert (made.facts.document_prompt, made.facts.query_prompt) == ("a dog ", "the cat ")
    documents = Encoder(model, settings=EncodeSettings(normalize=True, prompt="a dog ")).encode(lines(text))
    np.testing.assert_allclose(made._vectors, documents, atol=1e-6)
    model.prompts = {}  # as after a change of the model's settings
    query = Encoder(model, settings=EncodeSettings(normalize=True, prompt="the cat ")).encode(["sat"])
    expected = (documents @ query[0]).max()
    assert TextSearch(made, model).search(["sat"], 1)[0][0].score == pytest.approx(expected, abs=1e-5)
    bare = Encoder(model, settings=EncodeSettings(normalize=True, prompt="")).encode(["sat"])
    results = TextSearch(made, model, prompt="").search(["sat"], 1)[0][0].score
    assert results == pytest.approx((documents @ bare[0]).max(), abs=1e-5) != pytest.approx(expected, abs=1e-5)
    index(model, text, tmp_path / "index", add=True)
    np.testing.assert_allclose(SentenceIndex(tmp_path / "index")._vectors[40:], documents, atol=1e-6)
    with pytest.raises(UserError, match="the prompt of added texts must be the index's own, 'a dog '; got 'x'"):
        index(model, text, tmp_path / "index", add=True, prompt=lambda model: "x")


def test_a_model_with_several_prompts_for_queries_must_know_which(tmp_path, text):
    model = prompted(tmp_path / "model", web_query="the ", code_query="a ")
    made, _ = index(model, text, tmp_path / "index")
    assert made.facts.query_prompt is None
    with pytest.raises(UserError, match="the prompt for a query must be named where the model has several"):
        TextSearch(made, model)
    assert TextSearch(made, model, name="code_query").prompt == "a "


def test_fewer_dimensions(tmp_path, model, text):
    settings = BulkSettings(encoding=EncodeSettings(normalize=True, dims=5))
    how = {"model": None, "settings": settings}
    index_text(str(text), tmp_path / "index", lambda: model, **how)
    index(model, text, tmp_path / "index", add=True)
    opened = SentenceIndex(tmp_path / "index", verify=True)
    assert (opened.facts.dimension, len(opened)) == (5, 80)
    sentence = lines(text)[7]
    assert TextSearch(opened, model).search([sentence], 1)[0][0].score == pytest.approx(1, abs=1e-5)
    with pytest.raises(UserError, match="dims must be the index's own, 5; got 3"):
        settings = BulkSettings(encoding=EncodeSettings(normalize=True, dims=3))
        index_text(str(text), tmp_path / "index", lambda: model, model=None, add=True, settings=settings)


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("t.txt", b"\n \n\t\n", r"t.txt must be a text with at least one line that is not blank; got none"),
        ("t.csv", b"text,_id\na cat,1\n", r"column '_id' must be another name than _id and _line; got that name"),
        ("t.csv", b"text,n,n\na cat,1,2\n", r"t.csv: column n must be one column; got 2 of that name; rename one"),
    ],
)
def test_a_text_that_is_refused_leaves_nothing_and_loads_no_model(tmp_path, name, content, line):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=line):
        index(None, tmp_path / name, tmp_path / "index", column="text" if name == "t.csv" else None)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_columns_without_a_name_and_tables_of_text_alone(tmp_path, model):
    (tmp_path / "pandas.csv").write_text(",text,\n0,the cat sat,\n1,a dog,\n")  # as DataFrame.to_csv writes it
    made, _ = index(model, tmp_path / "pandas.csv", tmp_path / "one", column="text")
    assert [made._rows.fetch([row])[row].columns for row in (0, 1)] == [{}, {}]
    pq.write_table(pa.table({"text": ["the cat sat", "a dog"]}), tmp_path / "text.parquet")
    made, _ = index(model, tmp_path / "text.parquet", tmp_path / "two")
    check(model, tmp_path / "two", ["the cat sat", "a dog"])


def test_a_wrong_key_is_refused_before_the_text_is_encoded(tmp_path, model, text):
    index(model, text, tmp_path / "index")
    with pytest.raises(UserError, match="--update must be one of the columns text; got id; name a column of the index"):
        index(None, text, tmp_path / "index", update="id")
    assert not (tmp_path / "index" / "building").exists()


def test_a_resumed_addition_is_not_lost_when_rows_were_deleted_meanwhile(tmp_path, model, text, monkeypatch):
    folder, first = tmp_path / "index", tmp_path / "first.txt"
    first.write_text("the first\nthe second\n")
    index(model, first, folder)
    with monkeypatch.context() as patch:
        patch.setattr(Changes, "segment", killed_at(Changes.segment, 0))
        with pytest.raises(Killed):
            index(model, text, folder, add=True)
    SentenceIndex(folder).delete("_line = 2")
    made, _ = index(model, text, folder, add=True)
    assert [made.sentence(n) for n in made._rows.where("1")] == ["the first", *lines(text)]


@pytest.fixture
def parts_of_text(tmp_path, model, text):
    encode_file(str(text), tmp_path / "parts", lambda: model, SETTINGS)
    return tmp_path / "parts"


def no_encoding(*args):
    raise AssertionError("encoded although the vectors are there")


@pytest.mark.parametrize("links", [True, False])
def test_stored_parts_become_an_index_without_encoding(tmp_path, model, text, parts_of_text, monkeypatch, links):
    before = {path.name: path.read_bytes() for path in parts_of_text.iterdir()}
    index(model, text, tmp_path / "expected")
    monkeypatch.setattr(Encoder, "chunk", no_encoding)
    monkeypatch.setattr(Encoder, "groups", no_encoding)
    if not links:
        monkeypatch.setattr(
            type(text), "hardlink_to", killed_at(type(text).hardlink_to, error=OSError(95, "not supported"))
        )
    made, counts = index(model, text, tmp_path / "index", engine=StoredParts(parts_of_text))
    assert (len(made), counts.rows) == (40, 40)
    assert (tmp_path / "index" / "vectors.f32").read_bytes() == (tmp_path / "expected" / "vectors.f32").read_bytes()
    check_rows = [made._rows.fetch([n])[n] for n in range(40)]
    assert check_rows == [SentenceIndex(tmp_path / "expected")._rows.fetch([n])[n] for n in range(40)]
    assert {path.name: path.read_bytes() for path in parts_of_text.iterdir()} == before
    assert {path.name for path in (tmp_path / "index").iterdir()} == {"index.sqlite", "vectors.f32", ".lock"}


@pytest.mark.parametrize("how", ["text", "shorter text", "model", "options", "missing"])
def test_stored_parts_of_something_else_are_refused(tmp_path, model, text, parts_of_text, how):
    settings, other = SETTINGS, model
    if how == "text":
        text.write_text(text.read_text().replace("cat", "dog"))
    elif how == "shorter text":
        text.write_text("".join(f"{line}\n" for line in lines(text)[:7]))
    elif how == "model":
        other = load_encoder(tiny.save(tiny.encoder(seed=4), tmp_path / "other"))
    elif how == "options":
        settings = BulkSettings(encoding=EncodeSettings(normalize=True, chunk_sentences=7, max_tokens=5))
    else:
        (parts_of_text / "part-000000003.parquet").unlink()
    with pytest.raises(UserError, match=r"vectors .* must be of the same text, model and options; got another part-"):
        index_text(
            str(text),
            tmp_path / "index",
            lambda: other,
            model=None,
            settings=settings,
            engine=StoredParts(parts_of_text),
        )
    with pytest.raises(UserError, match=r"must be (a finished index|an index folder)"):
        SentenceIndex(tmp_path / "index")


def test_no_parts(tmp_path):
    with pytest.raises(UserError, match="must be a folder of encoded parts; got no part in it"):
        StoredParts(tmp_path)


def test_a_run_over_stored_parts_that_was_killed_resumes(tmp_path, model, text, parts_of_text, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(indexing, "_link", killed_at(indexing._link, 3))
        with pytest.raises(Killed):
            index(model, text, tmp_path / "index", engine=StoredParts(parts_of_text))
    index(model, text, tmp_path / "index", engine=StoredParts(parts_of_text))
    check(model, tmp_path / "index", lines(text))
