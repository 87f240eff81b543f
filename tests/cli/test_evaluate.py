"""diffcse evaluate from the command line's side."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard
from scipy.stats import spearmanr
from typer.testing import Result

from diffcse.encoding.encode import Encoder
from diffcse.errors import UserError
from diffcse.evaluation.senteval import read_tasks
from diffcse.evaluation.transfer import FOLDS
from diffcse.persistence.load import load_encoder
from tests import tiny
from tests.cli.command import invoke
from tests.evaluation.layout import Layout


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Layout(tmp_path_factory.mktemp("senteval")).write("STS13", "STSBenchmark", "SICKRelatedness", "CR").root


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.save(tiny.encoder(), tmp_path_factory.mktemp("models") / "first")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.save(tiny.encoder(seed=5), tmp_path_factory.mktemp("models") / "second")


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails a test in which a model is loaded: everything must have been checked before."""
    monkeypatch.setattr("diffcse.persistence.load.load_encoder", lambda *_, **__: pytest.fail("a model was loaded"))


def run(*arguments: object) -> Result:
    done = invoke("evaluate", *arguments)
    assert done.exit_code == 0, done.output
    return done


def refused(match: str, *arguments: object) -> None:
    with pytest.raises(UserError, match=match):
        invoke("evaluate", *arguments)


def test_the_table_and_the_json(data: Path, model: str, tmp_path: Path) -> None:
    done = run(model, "--senteval", data, "--tasks", "sts", "--json", tmp_path / "r.json")
    results = json.loads((tmp_path / "r.json").read_text())
    assert results["model"] == model
    assert set(results["tasks"]) == {"STS13", "STSBenchmark", "SICKRelatedness"}
    for shown in ("STS13", "STSBenchmark", "SICKRelatedness"):
        assert f"{100 * results['tasks'][shown]['spearman']:.2f}" in done.stdout
    mean = np.mean([task["spearman"] for task in results["tasks"].values()])
    assert results["average"]["sts"] == pytest.approx(mean, abs=1e-12)
    assert f"{100 * mean:.2f}*" in done.stdout and "without STS12, STS14, STS15, STS16" in done.stdout
    header = next(line for line in done.stdout.splitlines() if "STS12" in line)
    assert header.split() == ["model", "STS12", "STS13", "STS14", "STS15", "STS16", "STS-B", "SICK-R", "avg"]
    assert "not scored: STS12: " in done.stderr and "STS.input.MSRpar.txt" in done.stderr
    assert results["encoding"]["truncated"] == 0 and results["encoding"]["limit"] == 64


def test_the_numbers_are_those_of_the_model(data: Path, model: str, tmp_path: Path) -> None:
    run(model, "--senteval", data, "--tasks", "STSBenchmark", "--pooler", "avg", "--json", tmp_path / "r.json")
    pairs = read_tasks(data, ["STSBenchmark"]).tasks[0].parts["test"]
    encode = Encoder(load_encoder(model, pooler="avg")).encode
    similarity = [
        u @ v / np.linalg.norm(u) / np.linalg.norm(v)
        for u, v in zip(encode(pairs.first), encode(pairs.second), strict=True)
    ]
    found = json.loads((tmp_path / "r.json").read_text())["tasks"]["STSBenchmark"]["spearman"]
    assert found == pytest.approx(spearmanr(similarity, pairs.scores).statistic, abs=2e-3)  # nearly equal sentences tie


def test_transfer_and_published_rows(data: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FOLDS, "test", 2)  # ten folds in ten would take minutes
    done = run(model, "--senteval", data, "--tasks", "CR,STS13", "--published")
    lines = done.stdout.splitlines()
    assert any("published: DiffCSE-BERT-base" in line and "78.49" in line for line in lines)
    assert any("published: DiffCSE-RoBERTa-base" in line and "87.04" in line for line in lines)
    assert "single runs, not measured here" in done.stdout
    assert "published" not in run(model, "--senteval", data, "--tasks", "STS13").stdout


def test_dev_mode_details_and_train_splits(data: Path, model: str) -> None:
    done = run(model, "--senteval", data, "--mode", "dev", "--details", "--train-splits")
    assert "(dev)" in done.stdout and "STS13" not in done.stdout
    assert not any(line.split()[:2] == ["STS-B", "test"] for line in done.stdout.splitlines())
    done = run(model, "--senteval", data, "--tasks", "STSBenchmark", "--details", "--train-splits")
    assert any(line.split()[:2] == ["STS-B", "train"] for line in done.stdout.splitlines())


def test_own_pairs_alone_and_next_to_tasks(data: Path, model: str, tmp_path: Path) -> None:
    rows = [f"{a},{b},{i % 5}" for i, (a, b) in enumerate(zip(tiny.WORDS, tiny.WORDS[1:], strict=False))]
    (tmp_path / "p.csv").write_text("left,right,gold\n" + "\n".join(rows))
    options = ("--pairs", tmp_path / "p.csv", "--columns", "left, right ,gold", "--json", tmp_path / "r.json")
    assert "Your own pairs, x 100" in run(model, *options).stdout
    alone = json.loads((tmp_path / "r.json").read_text())
    assert alone["tasks"] == {} and set(alone["pairs"]) == {"spearman", "pearson", "pairs"}
    run(model, *options, "--senteval", data, "--tasks", "STS13")
    beside = json.loads((tmp_path / "r.json").read_text())
    assert beside["pairs"]["spearman"] == pytest.approx(alone["pairs"]["spearman"], abs=1e-6)
    assert "STS13" in beside["tasks"]


def test_analyses(data: Path, model: str, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "data").write("STSBenchmark")
    path = layout.path("STS", "STSBenchmark", "sts-test.csv")
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(["g\tf\ty\t0\t5.000\tthe dog\tthe old dog", *lines[1:]]) + "\n", encoding="utf-8")
    done = run(model, "--senteval", layout.root, "--tasks", "STSBenchmark", "--analyses", "--json", tmp_path / "r.json")
    found = json.loads((tmp_path / "r.json").read_text())["analyses"]
    assert "alignment" in done.stdout and "recall@10" in done.stdout
    assert [one["partner"] for one in found["neighbours"]] == ["the old dog"]
    assert found["retrieval"]["sentences"] == 2758 and found["uniformity"] < 0 < found["alignment"]


def test_compare(data: Path, model: str, other: str, tmp_path: Path) -> None:
    done = run(
        model, "--compare", other, "--senteval", data, "--tasks", "STS13,STSBenchmark", "--json", tmp_path / "r.json"
    )
    found = json.loads((tmp_path / "r.json").read_text())
    assert [one["model"] for one in found["models"]] == [model, other]
    assert found["comparison"]["baseline"] == model
    for task in ("STS13", "STSBenchmark"):
        first, second = (one["tasks"][task]["spearman"] for one in found["models"])
        assert found["comparison"]["tasks"][task][other]["difference"] == pytest.approx(second - first, abs=1e-9)
    assert "Comparison" in done.stdout and "avg" in done.stdout


def test_the_card_of_the_folder(data: Path, model: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    run(folder, "--senteval", data, "--tasks", "STS13", "--card")
    once = (folder / "README.md").read_bytes()
    (result, _) = ModelCard.load(folder / "README.md").data.eval_results
    assert (result.dataset_name, result.metric_name) == ("STS13", "Spearman")
    run(folder, "--senteval", data, "--tasks", "STS13", "--card")
    assert (folder / "README.md").read_bytes() == once


@pytest.mark.usefixtures("unread")
def test_everything_is_checked_before_a_model_is_loaded(data: Path, model: str, other: str, tmp_path: Path) -> None:
    refused("--senteval must be given", model)
    refused("--senteval .* must be a folder that holds downstream/", model, "--senteval", tmp_path)
    refused("--tasks must be sts, transfer, all", model, "--senteval", data, "--tasks", "STS17")
    refused("STS12: .* must be an existing file", model, "--senteval", data, "--tasks", "sts,STS12")
    refused("MR: .* must be an existing file", model, "--senteval", data, "--tasks", "MR")
    refused("--json .* must be in an existing folder", model, "--senteval", data, "--json", tmp_path / "no" / "r.json")
    refused("--json .* must be a file", model, "--senteval", data, "--json", tmp_path)
    refused("--card must be used with a model folder", "org/name", "--senteval", data, "--card")
    refused("p.csv must be an existing file or a glob", model, "--pairs", tmp_path / "p.csv")
    refused("MODEL must be one model; got 2; put --compare", model, other, "--senteval", data)
    refused("--compare must be given two different models", model, "--compare", "--senteval", data)
    refused("--compare must be given each model once", model, other, model, "--compare", "--senteval", data)
    refused("a task with a dev score", model, "--senteval", data, "--tasks", "STS13", "--mode", "dev")
    (tmp_path / "p.csv").write_text("sentence1,sentence2,score\na,b,1\nc,d,2\n")
    refused("--senteval must be given", model, "--pairs", tmp_path / "p.csv", "--analyses")


@pytest.mark.usefixtures("unread")
def test_transfer_tasks_alone_can_not_be_compared(data: Path, model: str, other: str) -> None:
    refused(
        "--compare must be used with tasks that have Spearman",
        model,
        other,
        "--compare",
        "--senteval",
        data,
        "--tasks",
        "CR",
    )


def test_a_split_that_is_missing_is_named_and_the_others_are_scored(data: Path, model: str, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "data").write("SICKRelatedness")
    layout.path("SICK", "SICK_test_annotated.txt").unlink()
    options = ("--senteval", layout.root, "--tasks", "SICKRelatedness", "--json", tmp_path / "r.json")
    message = run(model, *options).stderr
    assert "SICK_test_annotated.txt must be an existing file" in message and "diffcse data fetch" in message
    assert "scored without it: SICKRelatedness dev" in message
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["tasks"]["SICKRelatedness"]["dev"]["pairs"] == 500 and found["missing"]["sts"][-1] == "SICKRelatedness"


def test_a_model_that_is_not_there(data: Path, tmp_path: Path) -> None:
    refused("must be an existing folder or a Hub name", tmp_path / "x", "--senteval", data, "--tasks", "STS13")
