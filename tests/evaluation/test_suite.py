import json
from pathlib import Path

import numpy as np
import pytest

from diffcse.errors import UserError
from diffcse.evaluation.criterion import stsb_dev
from diffcse.evaluation.suite import evaluate, plan, select
from diffcse.evaluation.tasks import ALL_TASKS, STS_TASKS, TRANSFER_TASKS
from diffcse.files import jsonable
from tests.evaluation.layout import BagOfWords, Layout


@pytest.fixture
def small(tmp_path: Path) -> Layout:
    return Layout(tmp_path, at_most=90).write()


def run(layout: Layout, tasks: str, **options):
    encoder = BagOfWords()
    results = evaluate(encoder.encode, plan(layout.root, select(tasks), official_rows=False, **options), model="bag")
    return encoder, results


def test_every_sentence_is_encoded_once_over_all_tasks(small: Layout) -> None:
    encoder, results = run(small, "all")
    (call,) = encoder.calls
    assert len(call) == len(set(call)) == results["encoding"]["different"] < results["encoding"]["sentences"]


def test_the_results_of_all_tasks(small: Layout) -> None:
    _, results = run(small, "all")
    assert list(results["tasks"]) == list(ALL_TASKS)
    assert results["complete"] == {"sts": True, "transfer": True}
    assert results["missing"] == {"sts": [], "transfer": []} and results["problems"] == []
    for group, names, number in (("sts", STS_TASKS, "spearman"), ("transfer", TRANSFER_TASKS, "accuracy")):
        values = [results["tasks"][name][number] for name in names]
        assert results["average"][group] == pytest.approx(np.mean(values), abs=1e-12)
        assert all(-1 <= value <= 1 for value in values)
    assert 0 <= results["tasks"]["MRPC"]["f1"] <= 1
    assert set(results["tasks"]["STS12"]["subsets"]["MSRpar"]) == {"spearman", "pearson", "pairs"}
    assert json.loads(json.dumps(results, allow_nan=False)) == results


def test_the_same_twice(small: Layout) -> None:
    first, second = (run(small, "all")[1] for _ in range(2))
    for results in (first, second):
        del results["encoding"]["seconds"]
        for task in results["tasks"].values():
            del task["seconds"]
    assert first == second


def test_an_incomplete_group_says_so(small: Layout) -> None:
    small.path("STS", "STS14-en-test", "STS.gs.OnWN.txt").unlink()
    small.path("SICK", "SICK_test_annotated.txt").unlink()
    _, results = run(small, "sts")
    assert results["complete"] == {"sts": False, "transfer": False}
    assert results["missing"]["sts"] == ["STS14", "SICKRelatedness"]
    assert results["missing"]["transfer"] == list(TRANSFER_TASKS)
    ran = [name for name in STS_TASKS if name not in ("STS14", "SICKRelatedness")]
    assert results["average"]["sts"] == pytest.approx(np.mean([results["tasks"][name]["spearman"] for name in ran]))
    assert results["average"]["transfer"] is None
    assert "STS14" not in results["tasks"] and results["tasks"]["SICKRelatedness"]["absent"] == ["test"]
    assert [line.split(":")[0] for line in results["problems"]] == ["STS14", "SICKRelatedness"]


def test_dev_mode_looks_at_no_test_sentence(small: Layout) -> None:
    encoder, results = run(small, "all", mode="dev")
    assert list(results["tasks"]) == [*STS_TASKS[5:], *TRANSFER_TASKS]
    assert results["complete"] == {"sts": True, "transfer": True}
    seen = set(encoder.calls[0])
    tests = {
        task.name: task.parts["test"].sentences()
        for task in plan(small.root, select("all"), official_rows=False).tasks
        if "test" in task.parts
    }
    assert sum(sentence in seen for sentences in tests.values() for sentence in sentences) < 0.2 * sum(
        map(len, tests.values())
    )
    for name in TRANSFER_TASKS:
        assert results["tasks"][name]["accuracy"] == results["tasks"][name]["dev"]["accuracy"]


def test_a_constant_encoder_gives_null(small: Layout) -> None:
    planned = plan(small.root, select("STS12"), official_rows=False)
    results = evaluate(lambda sentences: np.ones((len(sentences), 2)), planned)
    assert results["tasks"]["STS12"]["spearman"] is None and results["average"]["sts"] is None
    assert results["missing"]["sts"] == [name for name in STS_TASKS if name != "STS12"]


def test_select() -> None:
    assert select("all").names == ALL_TASKS and not select("all").explicit
    assert select("sts").names == STS_TASKS
    both = select("mrpc, sts")
    assert both.names == (*STS_TASKS, "MRPC") and both.explicit == {"MRPC"}


@pytest.mark.parametrize("text", ["", "STS17", "sts,,MR", "stss"])
def test_select_refuses_other_names(text: str) -> None:
    with pytest.raises(
        UserError, match=r"--tasks must be sts, transfer, all or task names.*; got .*; names are STS12, "
    ):
        select(text)


def test_a_task_asked_for_by_name_must_run(small: Layout) -> None:
    small.path("MR", "rt-polarity.pos").unlink()
    assert "MR" not in {task.name for task in plan(small.root, select("transfer"), official_rows=False).tasks}
    for tasks in ("MR", "sts,MR"):
        with pytest.raises(UserError, match=r"MR: .*rt-polarity.pos must be an existing file"):
            plan(small.root, select(tasks), official_rows=False)


def test_no_task_that_can_run_is_an_error(tmp_path: Path) -> None:
    layout = Layout(tmp_path, at_most=10).write("MR")
    with pytest.raises(UserError, match=r"STS12: .* must be an existing file"):
        plan(layout.root, select("sts"))


def test_a_task_without_dev_scores_in_dev_mode(small: Layout) -> None:
    with pytest.raises(UserError, match=r"--tasks STS13 must be a task with a dev score; .*use --mode test"):
        plan(small.root, select("STS13"), mode="dev", official_rows=False)


def test_train_splits_on_request(small: Layout) -> None:
    assert "train" not in run(small, "STSBenchmark")[1]["tasks"]["STSBenchmark"]
    assert run(small, "STSBenchmark", train_splits=True)[1]["tasks"]["STSBenchmark"]["train"]["pairs"] == 90


def test_jsonable() -> None:
    assert jsonable({"a": [1.0, float("nan")], "b": (float("inf"), "x", 2)}) == {"a": [1.0, None], "b": [None, "x", 2]}


def test_the_training_criterion_is_the_suites_dev_score(tmp_path: Path) -> None:
    layout = Layout(tmp_path).write("STSBenchmark")
    criterion = stsb_dev(layout.root)
    results = evaluate(BagOfWords().encode, plan(layout.root, select("STSBenchmark"), mode="dev"))
    assert criterion.name == "stsb"
    assert criterion.score(BagOfWords().encode) == results["tasks"]["STSBenchmark"]["spearman"]
