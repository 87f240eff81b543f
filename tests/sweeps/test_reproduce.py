"""`diffcse reproduce`: the whole way with tiny models, an interruption, the published row, and what is refused."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from transformers import TrainerCallback

from diffcse.encoding.encode import Encoder
from diffcse.evaluation import fetch, suite
from diffcse.evaluation.tasks import STS_TASKS
from diffcse.persistence.load import load_encoder
from diffcse.presets import build
from diffcse.sweeps import reproduce
from diffcse.sweeps.reproduce_settings import REPRODUCED, TEXT, ReproduceSettings
from tests import tiny
from tests.cli.command import Ended, diffcse
from tests.evaluation.layout import Layout
from tests.evaluation.server import Hub, serving

BERT = "72.28 84.43 76.47 83.90 80.54 80.59 71.23 78.49".split()


@dataclass(frozen=True)
class Inputs:
    """What stands in for the Hub."""

    text: Path
    model: Path
    senteval: Path

    def words(self) -> list[object]:
        models = ["--encoder", self.model, "--generator", self.model]
        return ["--text", self.text, "--senteval", self.senteval, *models]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """130 sentences, which is four steps of 64; STS-B as large as it is, the other tasks small or absent."""
    root = tmp_path_factory.mktemp("inputs")
    tiny.save(tiny.mlm(), root / "model")
    Layout(root / "senteval").write("STSBenchmark")
    Layout(root / "senteval", at_most=30).write("STS12", "SICKRelatedness")
    return Inputs(tiny.write_sentences(root / "text.txt", 130), root / "model", root / "senteval")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def row(ended: Ended, name: str) -> list[str]:
    """The numbers of a row of the table."""
    (line,) = (line for line in ended.out.splitlines() if line.strip().startswith(f"{name} "))
    return line.split()[-8:]


def stop_in(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Let Ctrl-C come in the second step of a seed."""

    class Stop(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if args.seed == seed and state.global_step == 1:
                os.kill(os.getpid(), signal.SIGINT)

    real = reproduce.train
    monkeypatch.setattr(reproduce, "train", lambda *a, **k: real(*a, callbacks=[Stop()], **k))


def test_a_dry_run_goes_the_whole_way_and_resumes(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    command = ["reproduce", "bert-sts", "-o", out, "--dry-run", "--seeds", 2, *inputs.words()]
    with monkeypatch.context() as patch:
        stop_in(patch, 43)
        stopped = diffcse(*command)
    assert stopped.code == 130 and "stopped at step 2 of seed 43; the same command resumes" in stopped.err
    assert "the published text has 1,000,000 sentences, this one 130" in stopped.err
    assert "4 steps of" in stopped.err and " looks at STS-B dev of" in stopped.err and "for 2 seeds" in stopped.err
    first = (out / "seed-42" / "model.safetensors").stat().st_mtime_ns

    done = diffcse(*command)
    assert done.code == 0, done.err
    assert "seed 42: trained" in done.err and "a seed" in done.err and "for 2 seeds" not in done.err
    assert (out / "seed-42" / "model.safetensors").stat().st_mtime_ns == first
    assert row(done, "published: DiffCSE") == BERT and "published: DiffCSE-BERT-base, Chuang et al. (2022)" in done.out
    assert "dry run: no reproduction" in done.out and "difference" not in done.out
    assert "the measured average is without STS13, STS14, STS15, STS16" in done.out

    models = json.loads((out / "results.json").read_text())["models"]
    plan = suite.plan(inputs.senteval, suite.Selection(names=STS_TASKS), official_rows=False)
    for number, seed in enumerate((42, 43)):
        encoder = load_encoder(out / f"seed-{seed}")
        expected = suite.evaluate(lambda texts, e=encoder: Encoder(e).encode(texts), plan)
        scores = [expected["tasks"][name]["spearman"] for name in ("STS12", "STSBenchmark", "SICKRelatedness")]
        shown = row(done, f"seed-{seed}")
        assert [shown[i] for i in (0, 5, 6)] == [f"{100 * score:.2f}" for score in scores]
        assert shown[7] == f"{100 * sum(scores) / 3:.2f}" and shown[1:5] == ["-"] * 4
        assert models[number]["model"] == f"seed-{seed}"
    averages = [model["average"]["sts"] for model in models]
    assert row(done, "mean")[7] == f"{50 * sum(averages):.2f}"
    assert row(done, "spread")[7] == f"{100 * abs(averages[0] - averages[1]) / 2**0.5:.2f}"

    settings = {"encoder": str(inputs.model), "generator": str(inputs.model), **reproduce._DRY}
    ordinary = build(preset="bert-sts", seed=43, **settings)
    reproduce.train([inputs.text], tmp_path / "alone", ordinary, criterion=reproduce.stsb_dev(inputs.senteval))
    resumed, alone = (load_file(place / "model.safetensors") for place in (out / "seed-43", tmp_path / "alone"))
    assert all(bool((resumed[name] == alone[name]).all()) for name in alone)

    monkeypatch.setattr(reproduce, "train", None)
    monkeypatch.setattr(suite, "evaluate", None)
    again = diffcse(*command)
    assert (again.code, again.out) == (0, done.out) and "steps of" not in again.err
    other = diffcse("reproduce", "roberta-sts", *command[2:])
    assert other.code == 2 and "seed-42 must be a run of these settings on this text; got one of others" in other.err


def test_the_published_text_comes_from_the_hub(
    inputs: Inputs, official: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    models = ["--encoder", inputs.model, "--generator", inputs.model]
    command = ["reproduce", "bert-sts", "-o", tmp_path / "out", "--senteval", official.root, *models]
    with serving(Hub(inputs.text.read_bytes())) as site:
        monkeypatch.setattr(fetch, "ENDPOINT", site.url)
        done = diffcse(*command)
    assert done.code == 0, done.err
    assert (tmp_path / "out" / TEXT).read_bytes() == inputs.text.read_bytes()
    measured, against = row(done, "seed-42"), row(done, "difference")
    for value, published, difference in zip(measured, BERT, against, strict=True):
        assert float(difference) == pytest.approx(float(value) - float(published), abs=0.011)
    assert "mean" not in done.out and "dry run" not in done.out


@pytest.mark.parametrize(("preset", "average"), zip(REPRODUCED, (78.49, 78.21, 86.86, 87.04), strict=True))
def test_each_preset_has_its_published_row_and_is_trained_as_published(preset: str, average: float) -> None:
    assert reproduce.published_row(preset).average == average
    configs = reproduce.configs_of(preset, ReproduceSettings(seeds=2))
    assert configs == [build(preset=preset, seed=42), build(preset=preset, seed=43)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["bert-sts", "--seeds", "0"], "seeds must be between 1 and 1,000; got 0"),
        (["small"], "preset must be one of bert-sts, roberta-sts, bert-transfer, roberta-transfer; got small"),
        (["bert-sts", "--dry-run"], "senteval must be given in a dry run, which fetches nothing; got None"),
        (["bert-sts", "--senteval", "nowhere"], "--senteval nowhere must be a folder that holds downstream/"),
        (["bert-sts", "--senteval", "SENTEVAL"], "must be a file of 750 scored pairs; got 30; STS12 needs it"),
        (["bert-sts", "--text", "nowhere.txt"], "text must be an existing file; got nowhere.txt"),
        (["bert-sts", "--encoder", "./nowhere"], "model ./nowhere must be an existing folder or a Hub name"),
        (["bert-sts", "--generator", "./nowhere"], "model ./nowhere must be an existing folder or a Hub name"),
    ],
)
def test_bad_input_is_refused_before_anything_is_fetched(
    words: list[str], message: str, inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reproduce, "download", None)
    given = [inputs.senteval if word == "SENTEVAL" else word for word in words]
    ended = diffcse("reproduce", *given, "-o", tmp_path / "out")
    assert ended.code == 2 and message in ended.err and ended.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_else_and_a_small_text_are_refused(inputs: Inputs, tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("mine")
    ended = diffcse("reproduce", "bert-sts", "-o", tmp_path, "--dry-run", *inputs.words())
    assert ended.code == 2 and "must be new, empty or of an earlier reproduce; got a folder with notes.md" in ended.err
    small = tiny.write_sentences(tmp_path / "small.txt", 63)
    ended = diffcse("reproduce", "bert-sts", "-o", tmp_path / "out", "--text", small)  # with no Hub to reach
    assert ended.code == 2 and "batch_size must be at most the number of sentences (63)" in ended.err


def test_without_a_hub_one_line_says_what_to_bring_and_where(tmp_path: Path) -> None:
    ended = diffcse("reproduce", "roberta-sts", "-o", tmp_path / "out")
    assert ended.code == 2 and ended.err.count("\n") == 1
    archive = tmp_path / "out" / "senteval" / "senteval.tar"
    for part in (
        "the Hub's files must be in its cache, or on a Hub that can be reached; got HF_HUB_OFFLINE is set; bring http",
        f"datasets-for-simcse/resolve/main/{TEXT} to {tmp_path / 'out' / TEXT}; ",
        "`hf download roberta-base --local-dir roberta-base` makes, by --encoder; ",
        "`hf download distilroberta-base --local-dir distilroberta-base` makes, by --generator; ",
        f"resolve/main/senteval.tar to {archive}\n",
    ):
        assert part in ended.err
    assert not (tmp_path / "out" / TEXT).exists()
