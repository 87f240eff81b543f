import json
import math
import random
from pathlib import Path

import numpy as np
import pytest

from diffcse.errors import UserError
from diffcse.evaluation.beir import read_beir
from diffcse.evaluation.judged import compare_on, read_collections
from diffcse.evaluation.lexical import BM25, TfIdf
from diffcse.evaluation.retrieval import Retrieval, retrieval, score, spans
from tests.cli.command import invoke

PAIRS = [(f"summary {i}", f"description {i}") for i in range(50)]


class Table:
    """An encoder that looks vectors up."""

    def __init__(self, vectors: dict[str, np.ndarray]) -> None:
        self.vectors = vectors

    def encode(self, sentences: list[str], /) -> np.ndarray:
        return np.stack([self.vectors[sentence] for sentence in sentences])


def test_retrieval_of_a_perfect_a_shifted_and_a_constant_encoder() -> None:
    basis = np.eye(50, dtype=np.float32)
    perfect = {text: 3 * basis[i] for i, pair in enumerate(PAIRS) for text in pair}
    scores = retrieval(Table(perfect), PAIRS)
    assert (scores.mrr, scores.recall_at_1, scores.recall_at_10, scores.ndcg_at_10, scores.queries) == (1, 1, 1, 1, 50)
    shifted = {b: basis[i] for i, (_, b) in enumerate(PAIRS)}
    shifted |= {a: basis[i] + 2 * basis[(i + 1) % 50] for i, (a, _) in enumerate(PAIRS)}
    scores = retrieval(Table(shifted), PAIRS)
    assert (scores.mrr, scores.recall_at_1, scores.recall_at_10, scores.recall_at_100) == (0.5, 0, 1, 1)
    assert scores.ndcg_at_10 == pytest.approx(1 / math.log2(3))
    scores = retrieval(Table({text: np.ones(7) * np.pi for pair in PAIRS for text in pair}), PAIRS)
    assert scores.recall_at_10 == 0 and scores.mrr == pytest.approx(1 / 50)
    assert retrieval(Table({text: np.zeros(7) for pair in PAIRS for text in pair}), PAIRS).recall_at_1 == 0


def test_retrieval_is_a_plain_loop_over_the_pairs() -> None:
    rng = np.random.default_rng(0)
    table = {text: rng.normal(size=8).astype(np.float32) for pair in PAIRS for text in pair}
    ranks = []
    for a, own in PAIRS:
        cosine = {b: table[a] @ table[b] / np.linalg.norm(table[a]) / np.linalg.norm(table[b]) for _, b in PAIRS}
        ranks.append(1 + sum(cosine[b] > cosine[own] for _, b in PAIRS if b != own))
    scores = retrieval(Table(table), PAIRS)
    assert scores.mrr == pytest.approx(np.mean([1 / rank for rank in ranks]))
    assert scores.recall_at_1 == np.mean([rank == 1 for rank in ranks])
    assert scores.recall_at_10 == np.mean([rank <= 10 for rank in ranks])
    shuffled = random.Random(0).sample(PAIRS, len(PAIRS))
    assert retrieval(Table(table), shuffled).mrr == pytest.approx(scores.mrr)


def test_retrieval_needs_pairs_and_finite_vectors() -> None:
    table = {text: np.full(3, np.nan) for pair in PAIRS for text in pair}
    with pytest.raises(UserError, match="pairs must be at least 2; got 1"):
        retrieval(Table(table), PAIRS[:1])
    with pytest.raises(UserError, match="must be finite; got NaN or infinity"):
        retrieval(Table(table), PAIRS)


def plain_ndcg(scores: np.ndarray, grades: dict[int, float]) -> float:
    """nDCG@10 by the book, for scores without ties."""
    ranked = sorted(range(len(scores)), key=lambda place: -scores[place])[:10]
    gain = sum(grades.get(place, 0) / math.log2(rank + 2) for rank, place in enumerate(ranked))
    ideal = sorted(grades.values(), reverse=True)[:10]
    return gain / sum(grade / math.log2(rank + 2) for rank, grade in enumerate(ideal))


class Fixed:
    """Scores that are known."""

    def __init__(self, table: np.ndarray) -> None:
        self.table = table

    def scores(self, queries, documents):
        yield self.table


def test_graded_scores_are_those_of_a_plain_loop() -> None:
    rng = np.random.default_rng(1)
    table = rng.normal(size=(20, 150))
    relevant = [{int(d): float(rng.integers(1, 4)) for d in rng.choice(150, 12, replace=False)} for _ in range(20)]
    scores = score(Retrieval([f"q{i}" for i in range(20)], [f"d{i}" for i in range(150)], relevant), Fixed(table))
    np.testing.assert_allclose(
        scores.per_query["ndcg_at_10"], [plain_ndcg(row, grades) for row, grades in zip(table, relevant, strict=True)]
    )
    for number, (row, grades) in enumerate(zip(table, relevant, strict=True)):
        ranks = sorted(1 + sum(row > row[place]) for place in grades)
        assert scores.per_query["mrr"][number] == 1 / ranks[0]
        for cut in (1, 10, 100):
            assert scores.per_query[f"recall_at_{cut}"][number] == pytest.approx(sum(r <= cut for r in ranks) / 12)


def test_ties_count_against_the_encoder() -> None:
    task = Retrieval(["q"], ["a", "b", "c"], [{1: 1.0}])
    assert score(task, Fixed(np.zeros((1, 3)))).mrr == pytest.approx(1 / 3)


def test_spans_are_cut_out_of_their_documents() -> None:
    documents = [[f"document {d} sentence {s}." for s in range(4)] for d in range(5)] + [["Only one."]]
    task = spans(documents, sentences=2, seed=3)
    assert len(task.queries) == 5 and len(task.documents) == 6
    for query, grades in zip(task.queries, task.relevant, strict=True):
        (place,) = grades
        assert query.startswith(f"document {place} ") and query not in task.documents[place]
        assert len(task.documents[place].split(".")) == 3  # the two sentences that are left
    assert spans(documents, sentences=2, seed=3).queries == task.queries
    with pytest.raises(UserError, match="documents must be longer than 1 sentences"):
        spans([["One."], ["Two."]])


def test_bm25_is_the_formula_on_a_tiny_corpus() -> None:
    documents = ["the cat sat", "cat cat mat", "dog"]
    (block,) = BM25().scores(["cat"], documents)
    lengths, counts = [2, 3, 1], [1, 2, 0]  # without the stop word
    idf = math.log(1 + (3 - 2 + 0.5) / (2 + 0.5))
    expected = [
        idf * n * 2.2 / (n + 1.2 * (0.25 + 0.75 * length / 2)) for n, length in zip(counts, lengths, strict=True)
    ]
    np.testing.assert_allclose(block[0], expected)
    (cosines,) = TfIdf().scores(["cat mat"], documents)
    assert cosines[0].argmax() == 1 and cosines[0][2] == 0
    assert sum(map(len, BM25().scores(["x", "y"], ["", "!"]))) == 2  # no words at all: nothing is found


PUBLISHED_BM25 = {"cranfield": 0.500, "cacm": 0.411, "nfcorpus": 0.307, "stackfaq": 0.667}


@pytest.mark.parametrize("name", PUBLISHED_BM25)
def test_bm25_finds_what_others_measured(shared: Path, name: str) -> None:
    assert score(read_beir(shared / "ir" / name), BM25()).ndcg_at_10 == pytest.approx(PUBLISHED_BM25[name], abs=0.012)


def collection(folder: Path, qrels: str = "q1\td2\t1\n") -> Path:
    (folder / "qrels").mkdir(parents=True)
    rows = [{"_id": "d1", "title": "Cats", "text": "A cat sleeps."}, {"_id": "d2", "title": "", "text": "Dogs bark."}]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "queries.jsonl").write_text(json.dumps({"_id": "q1", "text": "What do dogs do?"}) + "\n")
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + qrels)
    return folder


def test_a_collection_is_read(tmp_path: Path) -> None:
    task = read_beir(collection(tmp_path / "c", "q1\td2\t2\nq1\td1\t0\n"))
    assert task.queries == ["What do dogs do?"]
    assert task.documents == ["Cats A cat sleeps.", "Dogs bark."]
    assert task.relevant == [{1: 2.0}]


@pytest.mark.parametrize(
    ("qrels", "message"),
    [
        ("", r"test\.tsv must be a file with at least one score above 0; got none"),
        ("q1\td2\t0\n", r"at least one score above 0; got none"),
        ("q1\td9\t1\n", r"line 2: id must be one of corpus\.jsonl; got d9"),
        ("q9\td1\t1\n", r"line 2: id must be one of queries\.jsonl; got q9"),
        ("q1\td2\n", r"line 2 must be query-id, corpus-id and score between tabs"),
        ("q1\td2\tmany\n", r"line 2: score must be a finite number; got many"),
        ("q1\td2\tnan\n", r"line 2: score must be a finite number; got nan"),
    ],
)
def test_bad_judgments_are_one_line(tmp_path: Path, qrels: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_beir(collection(tmp_path / "c", qrels))


def test_two_folders_of_one_name_are_refused(tmp_path: Path) -> None:
    folders = [collection(tmp_path / part / "c") for part in ("a", "b")]
    with pytest.raises(UserError, match="a folder of another name; got a second c"):
        read_collections(folders)


def test_the_table_tests_every_system_against_the_first(tmp_path: Path) -> None:
    tasks = read_collections([collection(tmp_path / "c")])
    vectors = {"What do dogs do?": [1.0, 0], "Dogs bark.": [1.0, 0.1], "Cats A cat sleeps.": [0, 1.0]}
    worse = {**vectors, "Dogs bark.": [-1.0, 0]}
    table = [Table({text: np.array(v) for text, v in t.items()}) for t in (vectors, worse)]
    rows = compare_on(tasks, {"good": table[0], "bad": table[1]})
    assert [row["system"] for row in rows] == ["good", "bad", "BM25", "TF-IDF"]
    assert [row["mrr"] for row in rows] == [1, 0.5, 1, 1]
    assert "against_first" not in rows[0]
    assert rows[1]["against_first"]["difference"] == pytest.approx(1 / math.log2(3) - 1)


def test_the_command_searches_a_collection(tmp_path: Path) -> None:
    folder, out = collection(tmp_path / "c"), tmp_path / "out.json"
    ran = invoke("evaluate", "bundled", "--ir", folder, "--json", out)
    assert ran.exit_code == 0, ran.output
    assert "nDCG@10" in ran.output and "BM25" in ran.output
    rows = json.loads(out.read_text())["retrieval"]
    assert rows[0]["collection"] == "c" and rows[0]["ndcg_at_10"] == 1
    with pytest.raises(UserError, match="--ir must be used without"):
        invoke("evaluate", "bundled", "--ir", folder, "--pairs", "x.csv")
