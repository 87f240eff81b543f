"""The verbs that use a model, from the command line's side."""

import gzip
import json
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from diffcse import DiffCSE
from diffcse.errors import UserError
from tests import tiny
from tests.cli.command import invoke as run
from tests.encoding.test_bulk import lines


@pytest.fixture
def text(tmp_path):
    return tiny.write_sentences(tmp_path / "text.txt", 30)


def test_encode_to_npy_and_parquet(tmp_path, folder, text):
    done = run("encode", text, "-o", tmp_path / "out.npy", "--model", folder)
    assert done.exit_code == 0
    assert done.stderr.strip().endswith("out.npy: 30 texts")
    vectors = np.load(tmp_path / "out.npy")
    np.testing.assert_allclose(vectors, DiffCSE(folder).encode(lines(text)), atol=1e-6)
    run("encode", text, "-o", tmp_path / "out.parquet", "--model", folder, "--dtype", "int8", "--max-tokens", "4")
    assert pq.read_table(tmp_path / "out.parquet")["text"].to_pylist() == lines(text)


def test_encode_says_what_it_cut_and_mended(tmp_path, folder):
    path = tmp_path / "text.txt.gz"
    path.write_bytes(gzip.compress(b"the cat sat on the mat\n\nthe \xff\n"))
    done = run("encode", path, "-o", tmp_path / "out.npy", "-m", folder, "--max-tokens", "4", "--no-normalize")
    assert "3 texts; cut 1 at the token limit; 1 blank; replaced bytes that are not UTF-8 in 1" in done.stderr
    assert abs(np.linalg.norm(np.load(tmp_path / "out.npy"), axis=1) - 1).max() > 0.01


def test_similarity(folder):
    done = run("similarity", "The cat sat.", "A dog ran.", "--model", folder)
    assert float(done.stdout) == pytest.approx(DiffCSE(folder).similarity("The cat sat.", "A dog ran."), abs=1e-4)


def test_index_and_search(tmp_path, folder, text):
    done = run("index", text, "-o", tmp_path / "index", "--model", folder)
    assert "30 texts; 30 rows in the index, every search is exact" in done.stderr
    result = run("search", tmp_path / "index", lines(text)[3], "-k", "2")
    assert result.stdout.splitlines()[0] == lines(text)[3]
    assert result.stdout.splitlines()[1].split(maxsplit=1) == ["1.0000", lines(text)[3]]
    assert len(result.stdout.splitlines()) == 3


def test_search_as_json_from_a_file_of_queries(tmp_path, folder, text):
    run("index", text, "-o", tmp_path / "index", "--model", folder)
    queries = tmp_path / "queries.txt"
    queries.write_text("The cat sat.\n\nA bird in the tree.\n")
    done = run("search", tmp_path / "index", "They ate fish.", "--queries", queries, "--json", "--threshold", "0.5")
    output = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["query"] for row in output] == ["They ate fish.", "The cat sat.", "A bird in the tree."]
    model = DiffCSE(folder)
    model.build_index(lines(text), use_faiss=False)
    for row in output:
        hits = model.search(row["query"], threshold=0.5)
        assert [hit["sentence"] for hit in row["results"]] == [sentence for sentence, _ in hits]
        np.testing.assert_allclose([hit["score"] for hit in row["results"]], [score for _, score in hits], atol=1e-5)


def test_search_without_a_hit_says_so(tmp_path, folder, text):
    run("index", text, "-o", tmp_path / "index", "--model", folder)
    done = run("search", tmp_path / "index", "sun", "--threshold", "1")
    assert done.stdout == "sun\n  nothing as similar as that\n"


def test_add_to_an_index(tmp_path, folder, text):
    run("index", text, "-o", tmp_path / "index", "--model", folder)
    done = run("index", text, "-o", tmp_path / "index", "--model", folder, "--add")
    assert "60 rows in the index" in done.stderr


def test_conditions_deletes_updates_and_full_text(tmp_path, folder):
    table = tmp_path / "table.csv"
    table.write_text("id,text,year\n1,the cat sat,1999\n2,the dog ran,2021\n3,a bird in the tree,2022\n")
    place = tmp_path / "index"
    run("index", table, "-o", place, "--model", folder, "--column", "text")

    def results(*options):
        done = run("search", place, "the cat sat", "--json", *options)
        return [(hit["line"], hit["columns"]["id"]) for hit in json.loads(done.stdout)["results"]]

    assert results()[0] == (1, 1)
    assert results("--where", "year > 2020", "--hybrid") in ([(2, 2), (3, 3)], [(3, 3), (2, 2)])
    assert results("-k", "1", "--hybrid") == [(1, 1)]
    table.write_text("id,text,year\n2,the cat sat,2024\n4,the cat sat,2025\n")
    done = run("index", table, "-o", place, "--model", folder, "--column", "text", "--update", "id")
    assert "2 texts; 4 rows in the index" in done.stderr
    assert sorted(results("--threshold", "0.9999")) == [(1, 1), (1, 2), (2, 4)]
    done = run("index", "-o", place, "--delete", "year >= 2024")
    assert "2 rows removed; 2 in the index" in done.stderr
    assert sorted(results()) == [(1, 1), (3, 3)]
    done = run("index", "-o", place, "--compact")
    assert "room of 3 deleted rows given back; " in done.stderr
    done = run("index", "-o", place, "--delete", "id = 1", "--compact")
    assert "1 rows removed; 1 in the index" in done.stderr and "room of 1 deleted rows" in done.stderr
    assert results() == [(3, 3)]


def test_vectors_that_were_encoded_before_go_straight_into_an_index(tmp_path, folder, text):
    run("encode", text, "-o", tmp_path / "parts", "--model", folder)
    done = run("index", text, "-o", tmp_path / "index", "--model", folder, "--vectors", tmp_path / "parts")
    assert "30 rows in the index" in done.stderr
    assert run("search", tmp_path / "index", lines(text)[3], "-k", "1").stdout.splitlines()[1].startswith("   1.0000")


def test_dedup(tmp_path, folder, text):
    text.write_text(text.read_text() * 2)
    done = run("dedup", text, "-o", tmp_path / "kept.txt", "--model", folder, "--threshold", "0.999")
    kept = lines(tmp_path / "kept.txt")
    report = [json.loads(line) for line in lines(tmp_path / "kept.txt.report.jsonl")]
    assert len(kept) + len(report) == 60 and len(report) >= 30
    assert f"kept {len(kept)} lines, dropped {len(report)} with a cosine of 0.999 or more" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["encode", "none.txt", "-o", "out.npy"], r"none\.txt must be an existing file"),
        (
            ["encode", "text.txt", "-o", "out.bin"],
            r"must be a file ending in \.npy or \.parquet, or a new folder; got \.bin",
        ),
        (["encode", "text.txt", "-o", "out.npy", "--max-tokens", "0"], "max_tokens must be at least 1; got 0"),
        (["encode", "text.txt", "-o", "out.npy", "--dtype", "int8", "--no-normalize"], "int8 must be used with"),
        (["encode", "text.txt", "-o", "out.npy", "--model", "./nowhere"], "must be an existing folder or a Hub name"),
        (["similarity", "a", "b", "--model", "./nowhere"], "must be an existing folder or a Hub name"),
        (["search", "nowhere", "query"], "index nowhere must be an index folder"),
        (["search", "nowhere", "query", "--prompt", "", "--prompt-name", "x"], "--prompt must be used without"),
        (["index", "-o", "nowhere"], "FILE must be the text to index; got none"),
        (["index", "-o", "nowhere", "--delete", "1"], "index nowhere must be an index folder"),
        (["index", "text.txt", "-o", "nowhere", "--delete", "1"], "--delete must be used alone"),
        (["index", "text.txt", "-o", "nowhere", "--compact"], "--compact must be used alone"),
        (
            ["index", "text.txt", "-o", "new", "--vectors", "nowhere"],
            "nowhere must be a folder of encoded parts",
        ),
        (["index", "text.txt", "-o", "new", "--vectors", "x", "--workers", "2"], "--vectors must be used without"),
        (["index", "text.txt", "-o", "new", "--address", "auto"], "--address must be used with --engine ray"),
        (["index", "text.txt", "-o", "nowhere", "--update", "id"], "index nowhere must be an index folder"),
        (["search", "nowhere", "query", "-k", "0"], "--top-k must be at least 1; got 0"),
        (["search", "nowhere", "query", "--threshold", "2"], "--threshold must be between -1 and 1"),
        (["dedup", "text.txt", "-o", "out.txt", "--threshold", "0"], "--threshold must be above 0 and at most 1"),
        (["dedup", "text.txt", "-o", "text.txt"], "must be a new file; got one that exists"),
        (["index", "none.txt", "-o", "index"], r"none\.txt must be an existing file"),
    ],
)
def test_bad_input_is_one_line(tmp_path, text, monkeypatch, arguments, match):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=match):
        run(*arguments)
    assert sorted(tmp_path.iterdir()) == before


def test_search_needs_a_query_and_the_index_its_model(tmp_path, folder, text):
    run("index", text, "-o", tmp_path / "index", "--model", folder)
    with pytest.raises(UserError, match="queries must be at least one; got none"):
        run("search", tmp_path / "index")
    other = tiny.save(tiny.encoder(seed=3), tmp_path / "other")
    with pytest.raises(UserError, match="must be used with the model that made it; got another model"):
        run("search", tmp_path / "index", "sun", "--model", other)


def test_verbs_are_declared_without_heavy_imports():
    script = (
        "import sys; from diffcse.cli import encode, similarity, index, search, dedup\n"
        "print([name for name in ('torch', 'transformers', 'faiss', 'pyarrow', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
