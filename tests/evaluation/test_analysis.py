import functools
from pathlib import Path

import numpy as np
import pytest

from diffcse.errors import UserError
from diffcse.evaluation.analysis import analyse, histogram, retrieval
from diffcse.evaluation.embed import embed
from diffcse.evaluation.senteval import stsb_split
from diffcse.evaluation.tasks import ScoredPairs
from diffcse.vectors import unit
from tests.evaluation.layout import BagOfWords

UNIT = functools.partial(unit, dtype=np.float64)
PAIRS = ScoredPairs(
    first=["the dog", "a cat", "red moon", "old man"],
    second=["the dog runs", "a dog", "moon red", "water"],
    scores=np.array([4.5, 2.0, 5.0, 0.0]),
)


def test_alignment_and_uniformity_are_the_formulas() -> None:
    embedded = embed(BagOfWords().encode, PAIRS.sentences())
    results = analyse(embedded, PAIRS)
    vectors = UNIT(embedded(PAIRS.sentences()))
    positives = [(vectors[i], vectors[i + 4]) for i in (0, 2)]
    assert results["alignment"] == pytest.approx(np.mean([np.linalg.norm(a - b) ** 2 for a, b in positives]))
    potential = [np.exp(-2 * np.linalg.norm(vectors[i] - vectors[j]) ** 2) for i in range(8) for j in range(i)]
    assert results["uniformity"] == pytest.approx(np.log(np.mean(potential)))
    assert results["positive_pairs"] == 2 and results["data"] == "STSBenchmark test"


def test_histogram_counts_every_pair_once_in_its_range() -> None:
    similarity = np.array([-1.0, 0.04, 0.06, 1.0, 1.0000001, 0.5])
    results = histogram(similarity, np.array([0.0, 0.99, 1.0, 4.0, 5.0, 3.2]))
    counts = {level: np.array(row) for level, row in results["counts"].items()}
    assert {level: int(row.sum()) for level, row in counts.items()} == {
        "0-1": 2,
        "1-2": 1,
        "2-3": 0,
        "3-4": 1,
        "4-5": 2,
    }
    assert counts["4-5"][-1] == 2 and counts["0-1"][0] == 1
    assert len(results["edges"]) == len(counts["0-1"]) + 1 and results["edges"][0] == -1 and results["edges"][-1] == 1


def test_retrieval_is_a_plain_ranking() -> None:
    rng = np.random.default_rng(0)
    first, second = UNIT(rng.normal(size=(30, 4))), UNIT(rng.normal(size=(30, 4)))
    second[:10] = UNIT(first[:10] + 0.6 * rng.normal(size=(10, 4)))
    same = np.arange(30) < 10
    corpus = np.vstack([first, second])
    ranks = []
    for i in range(10):
        for query, expected in ((i, i + 30), (i + 30, i)):
            order = [j for j in np.argsort(-(corpus @ corpus[query])) if j != query]
            ranks.append(order.index(expected))
    results = retrieval(first, second, same)
    for cut in (1, 5, 10):
        assert results[f"recall@{cut}"] == np.mean([rank < cut for rank in ranks])
    assert (results["queries"], results["sentences"]) == (20, 60)


def test_retrieval_takes_no_harm_from_copies() -> None:
    first = UNIT(np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    second = UNIT(np.array([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]]))
    assert retrieval(first, second, np.array([True, False, False]))["recall@1"] == 1.0


def test_pairs_without_high_scores_are_refused() -> None:
    low = ScoredPairs(first=["a"], second=["b"], scores=np.array([4.2]))
    with pytest.raises(UserError, match="must be rated up to 5; got 1 above 4 and 0 at 5"):
        analyse(embed(BagOfWords().encode, ["a", "b"]), low)


def test_the_papers_retrieval_set(shared: Path) -> None:
    pairs = stsb_split(shared / "senteval", "test")
    rng = np.random.default_rng(0)
    results = analyse(embed(lambda sentences: rng.normal(size=(len(sentences), 8)), pairs.sentences()), pairs)
    assert results["retrieval"]["queries"] == 2 * 97 and results["retrieval"]["sentences"] == 2758
    assert sum(map(sum, results["histogram"]["counts"].values())) == 1379
