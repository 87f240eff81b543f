from pathlib import Path

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from diffcse.evaluation.embed import embed
from diffcse.evaluation.senteval import read_tasks
from diffcse.evaluation.sts import correlate, cosine, cosines, score_pairs, score_task
from diffcse.evaluation.tasks import ScoredPairs, Task
from tests.evaluation.layout import BagOfWords, Layout


def as_senteval_does(encoder: BagOfWords, task: Task) -> dict[str, dict[str, object]]:
    """The reference's loop, pair by pair in float32, on samples sorted by length."""
    results: dict[str, dict[str, object]] = {}
    all_found, all_gold = [], []
    for name, pairs in task.parts.items():
        assert isinstance(pairs, ScoredPairs)
        rows = sorted(
            zip(pairs.first, pairs.second, pairs.scores, strict=True),
            key=lambda z: (len(z[0].split()), len(z[1].split())),
        )
        plain = []
        for first, second, _ in rows:
            u, v = encoder.encode([first])[0], encoder.encode([second])[0]
            with np.errstate(invalid="ignore"):
                plain.append(np.nan_to_num(np.dot(u, v) / (np.linalg.norm(u) * np.linalg.norm(v))))
        gold = [score for _, _, score in rows]
        results[name] = {"spearman": spearmanr(plain, gold)[0], "pearson": pearsonr(plain, gold)[0], "n": len(gold)}
        all_found += plain
        all_gold += gold
    sizes = [one["n"] for one in results.values()]
    summary: dict[str, object] = {}
    for measure, of in (("spearman", spearmanr), ("pearson", pearsonr)):
        values = [one[measure] for one in results.values()]
        summary[measure] = {
            "all": of(all_found, all_gold)[0],
            "mean": np.mean(values),
            "wmean": np.average(values, weights=sizes),
        }
    return {**results, "all": summary}


@pytest.fixture
def tasks(tmp_path: Path) -> dict[str, Task]:
    layout = Layout(tmp_path, at_most=60).write()
    # the words of no encoder here: a zero vector, whose cosine SentEval takes for 0
    path = layout.path("STS", "STS12-en-test", "STS.input.MSRvid.txt")
    path.write_text("zzz\tthe dog\n" + "".join(path.read_text(encoding="utf-8").splitlines(True)[1:]), encoding="utf-8")
    reading = read_tasks(tmp_path, official_rows=False, train_splits=True)
    return {task.name: task for task in reading.tasks}


@pytest.mark.parametrize("name", ["STS12", "STS13", "STS14", "STS15", "STS16"])
@pytest.mark.parametrize("protocol", ["all", "mean", "wmean"])
def test_subsets_and_protocols_equal_sentevals(tasks: dict[str, Task], name: str, protocol: str) -> None:
    encoder = BagOfWords()
    expected = as_senteval_does(encoder, tasks[name])
    result = score_task(tasks[name], embed(encoder.encode, tasks[name].sentences()), protocol=protocol)
    for measure in ("spearman", "pearson"):
        assert result[measure] == pytest.approx(expected["all"][measure][protocol], abs=1e-12)
        for other in ("all", "mean", "wmean"):
            assert result[other][measure] == pytest.approx(expected["all"][measure][other], abs=1e-12)
        for subset, one in result["subsets"].items():
            assert one[measure] == pytest.approx(expected[subset][measure], abs=1e-12)
    assert list(result["subsets"]) == list(tasks[name].parts)
    assert result["pairs"] == sum(one["pairs"] for one in result["subsets"].values())


@pytest.mark.parametrize("name", ["STSBenchmark", "SICKRelatedness"])
def test_splits_are_scored_each_for_itself(tasks: dict[str, Task], name: str) -> None:
    encoder = BagOfWords()
    expected = as_senteval_does(encoder, tasks[name])
    embedded = embed(encoder.encode, tasks[name].sentences())
    result = score_task(tasks[name], embedded)
    assert result["spearman"] == result["test"]["spearman"]
    for split in ("train", "dev", "test"):
        assert result[split]["spearman"] == pytest.approx(expected[split]["spearman"], abs=1e-12)
    dev = score_task(tasks[name], embedded, mode="dev")
    assert dev["spearman"] == result["dev"]["spearman"] and "test" not in dev


def test_without_its_test_split_a_task_has_no_main_number(tasks: dict[str, Task]) -> None:
    whole = tasks["SICKRelatedness"]
    task = Task(name=whole.name, parts={"dev": whole.parts["dev"]}, absent=("test",))
    result = score_task(task, embed(BagOfWords().encode, task.sentences()))
    assert "spearman" not in result and result["absent"] == ["test"] and result["dev"]["pairs"] == 60


def test_the_protocols_differ(tasks: dict[str, Task]) -> None:
    result = score_task(tasks["STS12"], embed(BagOfWords().encode, tasks["STS12"].sentences()))
    assert len({result[protocol]["spearman"] for protocol in ("all", "mean")}) == 2


def test_cosine_of_no_length_is_zero_and_scale_does_not_matter() -> None:
    a = np.array([[0.0, 0.0], [3.0, 4.0], [1.0, 0.0]], dtype=np.float32)
    b = np.array([[1.0, 2.0], [6.0, 8.0], [-2.0, 0.0]], dtype=np.float32)
    np.testing.assert_array_equal(cosine(a, b), [0.0, 1.0, -1.0])


def test_a_constant_encoder_has_no_correlation(tasks: dict[str, Task], recwarn: pytest.WarningsRecorder) -> None:
    result = score_task(tasks["STS13"], embed(lambda s: np.ones((len(s), 3)), tasks["STS13"].sentences()))
    assert np.isnan(result["spearman"]) and np.isnan(result["subsets"]["FNWN"]["pearson"])
    assert not recwarn.list


def test_one_pair_has_no_correlation() -> None:
    assert np.isnan(correlate(np.array([0.5]), np.array([1.0])).spearman)


def test_score_pairs_is_scipys_on_the_cosines(tasks: dict[str, Task]) -> None:
    pairs = tasks["STSBenchmark"].parts["dev"]
    assert isinstance(pairs, ScoredPairs)
    encoder = BagOfWords()
    result = score_pairs(encoder.encode, pairs)
    similarity = cosines(embed(encoder.encode, pairs.sentences()), pairs)
    assert result.spearman == spearmanr(similarity, pairs.scores).statistic
    assert result.pairs == 60 and len(encoder.calls[0]) == len(set(pairs.sentences()))
