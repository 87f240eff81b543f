"""Sweeps: what is run, skipped, resumed and recorded; and the figures of the report against plain calculations."""

from __future__ import annotations

import itertools
import json
import signal
import sqlite3
import statistics
import subprocess
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from diffcse.config import Config
from diffcse.errors import UserError
from diffcse.sweeps.plan import Sweep, named_as_begun, plan_runs, read_sweep, run_sweep
from diffcse.sweeps.report import choose_metric, expected_best, flat_rows, groups, interval, pairs, plot
from diffcse.sweeps.results import Result, Results
from tests import tiny
from tests.cli.command import diffcse as command
from tests.killing import kill, run


def diffcse(*arguments: object) -> subprocess.CompletedProcess[str]:
    return run([str(argument) for argument in arguments])


def settings_file(folder: Path, *, steps: int, grid: str, runs: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    encoder = tiny.save(tiny.mlm(), folder / "encoder")
    tiny.write_sentences(folder / "text.txt", 64)
    path = folder / "sweep.toml"
    path.write_text(
        f'text = "text.txt"\n[settings]\npreset = "small"\nencoder = "{encoder}"\ngenerator = "{encoder}"\n'
        f"max_steps = {steps}\nepochs = 10000.0\nsave_every_steps = 2\nlog_every_steps = 1\n"
        f"[grid]\n{grid}\n{runs}",
        encoding="utf-8",
    )
    return path


def test_every_combination_is_one_run_and_the_same_settings_are_the_same_run():
    grid = {"objective": ["simcse", "diffcse"], "seed": [0, 1, 2]}
    runs = plan_runs({"preset": "small"}, grid, [{}, {"batch_size": 32}])
    assert len(runs) == 12 == len({run.name for run in runs})
    assert [run.config.training.seed for run in runs[:4]] == [0, 1, 2, 0]
    assert runs[6].varied == {"batch_size": 32, "objective": "simcse", "seed": 0}
    assert runs[6].config.training.batch_size == 32
    again = plan_runs({"preset": "small", "objective": "simcse"}, {"seed": [0]}, [{"batch_size": 32}])
    assert again[0].config == runs[6].config


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"grids": {}}, "one of text, senteval"),
        ({"grid": {"seed": 3}}, "a list of values"),
        ({"grid": {"seed": []}}, "a list of values"),
        ({"grid": {"sed": [1]}}, "a field of the settings"),
        ({"settings": {"temperature": -1.0}}, "greater than 0"),
        ({"runs": [{"preset": "huge"}]}, "one of bert-sts"),
    ],
)
def test_a_wrong_settings_file_is_refused_before_anything_runs(content, message):
    with pytest.raises(UserError, match=message):
        read_sweep(Path("sweep.toml"), content)


def test_paths_are_relative_to_the_settings_file(tmp_path):
    sweep = read_sweep(tmp_path / "a.toml", {"text": ["x.txt", "/y.txt"], "senteval": "data"})
    assert sweep.text == (str(tmp_path / "x.txt"), "/y.txt")
    assert sweep.senteval == tmp_path / "data"


def test_a_sweep_runs_records_failures_resumes_and_skips(tmp_path):
    """Interrupted in its first run, then resumed; one run cannot start; a third call has nothing left to do."""
    path = settings_file(
        tmp_path, steps=40, grid="seed = [0]", runs="[[runs]]\nbatch_size = 8\n[[runs]]\nbatch_size = 1000\n"
    )
    out = tmp_path / "out"
    begun = lambda: any(out.glob("runs/*/checkpoints/checkpoint-*"))  # noqa: E731
    shown = kill(["sweep", str(path), "-o", str(out)], begun, sign=signal.SIGINT)
    assert "the same command resumes" in shown
    assert all(result.scores is None for result in Results(out).all())

    second = diffcse("sweep", path, "-o", out)
    assert second.returncode == 1, second.stderr
    good, bad = Results(out).all()
    assert good.error is None and good.scores is not None and good.scores["train loss"] > 0
    assert bad.scores is None and "batch_size" in str(bad.error)
    assert "failed" in second.stderr and "batch_size" in second.stderr

    alone = diffcse(
        "train", tmp_path / "text.txt", "-o", tmp_path / "alone", "--settings", out / "logs" / f"{good.name}.toml"
    )
    assert alone.returncode == 0, alone.stderr
    weights = [load_file(folder / "model.safetensors") for folder in (out / "runs" / good.name, tmp_path / "alone")]
    assert all(bool((weights[0][name] == weights[1][name]).all()) for name in weights[1])

    written = (out / "runs" / good.name / "model.safetensors").stat().st_mtime_ns
    assert diffcse("sweep", path, "-o", out).returncode == 1
    assert (out / "runs" / good.name / "model.safetensors").stat().st_mtime_ns == written
    assert Results(out).all()[0] == good

    figures = tmp_path / "figures.json"
    output = diffcse("sweep", "report", out, "--json", figures, "--plot", tmp_path / "plot.svg")
    assert output.returncode == 0, output.stderr
    content = json.loads(figures.read_text())
    assert content["metric"] == "train loss"
    assert content["settings"][0]["scores"] == [good.scores["train loss"]]
    assert content["runs"] == [{"run": "batch_size 8", "seed": 0}]
    assert (tmp_path / "plot.svg").read_text().startswith("<?xml")


def test_a_run_keeps_the_name_that_an_older_version_gave_it(tmp_path):
    """The older version knew neither `prompt` nor this digest; a run with another value of it is another run."""
    first, other = plan_runs({"preset": "small"}, {"seed": [0, 1]}, [{}])
    settings = first.config.as_dict()
    del settings["model"]["prompt"]
    older = tmp_path / "seed=0-0123abcd"
    older.mkdir()
    (older / "diffcse.json").write_text(json.dumps({"settings": settings}))
    assert [run.name for run in named_as_begun((first, other), tmp_path)] == [older.name, other.name]

    (prompted,) = plan_runs(
        {"preset": "small"}, {"seed": [0]}, [{"prompt": '"{sentence}" means [MASK]', "pooler": "last"}]
    )
    assert named_as_begun((prompted,), tmp_path) == [prompted]

    settings["model"]["a_setting_of_the_future"] = 1
    (older / "diffcse.json").write_text(json.dumps({"settings": settings}))
    assert named_as_begun((first,), tmp_path) == [first]


def results(scores: dict[str, list[float]]) -> list[Result]:
    return [
        Result(name=f"{setting}-{seed}", settings={"objective": setting, "seed": seed}, scores={"dev": value})
        for setting, values in scores.items()
        for seed, value in enumerate(values)
    ]


def test_the_expected_best_is_the_mean_over_all_subsets():
    scores = np.random.default_rng(0).random(7)
    for k in range(1, 8):
        oracle = statistics.mean(max(chosen) for chosen in itertools.combinations(scores.tolist(), k))
        assert expected_best(scores, k) == pytest.approx(oracle)


def test_groups_and_pairs_of_a_known_table():
    rows = [*results({"simcse": [0.5, 0.6, 0.7, 0.4], "diffcse": [0.52, 0.63, 0.71, 0.45]})]
    rows.append(Result(name="x", settings={"objective": "diffcse", "seed": 9}, error="it broke"))
    simcse, diffcse_ = groups(rows, "dev")
    assert simcse.name == "objective simcse" and simcse.failed == 0 and diffcse_.failed == 1
    assert simcse.mean == pytest.approx(0.55)
    assert simcse.deviation == pytest.approx(statistics.stdev([0.5, 0.6, 0.7, 0.4]))
    assert simcse.interval is not None and 0.4 < simcse.interval[0] < 0.55 < simcse.interval[1] < 0.7
    (paired,) = pairs([simcse, diffcse_], simcse)
    assert paired.seeds == 4 and paired.difference == pytest.approx(0.0275)
    assert paired.interval is not None and paired.interval[0] > 0
    assert paired.p == pytest.approx(2 / 2**4)  # all 16 sign flips: only the data and their mirror are as extreme


def test_a_pair_has_only_the_seeds_of_both():
    rows = [row for row in results({"a": [0.1, 0.2, 0.3], "b": [0.2, 0.1, 0.9]}) if row.name != "b-2"]
    first, second = groups(rows, "dev")
    (paired,) = pairs([first, second], first)
    assert paired.seeds == 2 and paired.difference == pytest.approx(0.0)
    assert paired.interval is None


def test_few_runs_have_no_interval():
    assert interval(np.array([0.1, 0.2])) is None


def test_test_scores_choose_nothing_unless_asked_for():
    rows = [Result(name="a", settings={}, scores={"STSBenchmark": 0.9, "STSBenchmark dev": 0.8, "train loss": 1.0})]
    assert choose_metric(rows, None) == "STSBenchmark dev"
    assert choose_metric(rows, "STSBenchmark") == "STSBenchmark"
    with pytest.raises(UserError, match="one of STSBenchmark, STSBenchmark dev, train loss"):
        choose_metric(rows, "STS99")
    with pytest.raises(UserError, match="with a finished run"):
        choose_metric([Result(name="a", settings={})], None)
    with pytest.raises(UserError, match="that has scores; got 1 without any score; name --senteval"):
        choose_metric([Result(name="a", settings={}, scores={})], None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": ("nosuch.txt",)}, r"nosuch\.txt must be an existing file or a glob"),
        ({"text": ("-",)}, "text must be files, which every run reads anew; got standard input"),
        ({"columns": "text"}, "columns must be used with tables"),
        ({"encoder": "./nosuch"}, r"model \./nosuch must be an existing folder"),
        (
            {"objective": "diffcse", "generator": "./nosuch"},
            r"model \./nosuch must be an existing folder",
        ),
    ],
)
def test_what_no_run_could_read_is_refused_before_the_first(change, message, tmp_path):
    text = tiny.write_sentences(tmp_path / "text.txt", 30)
    fields = {name: value for name, value in change.items() if name in ("text", "columns")}
    settings = {name: value for name, value in change.items() if name not in fields}
    runs = plan_runs({"preset": "small", "objective": "simcse", **settings}, {"seed": [0, 1]}, [{}])
    sweep = Sweep(**{"text": (str(text),), "runs": runs, **fields})
    with pytest.raises(UserError, match=message):
        run_sweep(sweep, tmp_path / "out", score=lambda folder: {})
    assert not (tmp_path / "out").exists()


def test_a_plot_is_a_picture_of_the_kind_that_its_name_says(tmp_path):
    found = groups(results({"simcse": [0.5, 0.6, 0.7], "diffcse": [0.5]}), "dev")
    plot(found, "dev", tmp_path / "a.png", {"objective simcse": 55.0})
    assert (tmp_path / "a.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with pytest.raises(UserError, match=r"a \.png, \.svg or \.pdf file"):
        plot(found, "dev", tmp_path / "a.txt")


def test_results_survive_a_reopening_and_a_foreign_file_is_refused(tmp_path):
    first = Results(tmp_path)
    first.plan("b", {"seed": 1})
    first.plan("a", {"seed": 2})
    first.record("b", scores={"dev": 0.5}, seconds=2.0, error=None)
    first.record("a", scores={}, seconds=1.0, error="it broke")
    again = Results(tmp_path)
    again.plan("b", {"seed": 3})  # known: stays as it is
    good, bad = again.all()
    assert good == Result(name="b", settings={"seed": 1}, scores={"dev": 0.5}, seconds=2.0)
    assert bad == Result(name="a", settings={"seed": 2}, seconds=1.0, error="it broke")
    assert again.is_done("b") and not again.is_done("a")
    (tmp_path / "scores" / "a.json").write_text("no JSON")
    with pytest.raises(UserError, match=r"scores/a.json must be readable"):
        again.all()
    (tmp_path / "scores" / "a.json").write_text("{}")
    with pytest.raises(UserError, match=r"scores/a.json must be the scores of a run; got 'number'"):
        again.all()


def test_the_results_of_an_older_version_are_taken_over(tmp_path):
    columns = "name TEXT PRIMARY KEY, settings TEXT NOT NULL, scores TEXT, seconds REAL NOT NULL DEFAULT 0, error TEXT"
    with sqlite3.connect(tmp_path / "results.sqlite") as connection:
        connection.execute(f"CREATE TABLE runs ({columns})")
        rows = [("z", '{"seed": 0}', '{"dev": 0.5}', 2.0, None), ("a", '{"seed": 1}', None, 1.0, "it broke")]
        connection.executemany("INSERT INTO runs VALUES (?, ?, ?, ?, ?)", rows)
    connection.close()
    expected = [
        Result(name="z", settings={"seed": 0}, scores={"dev": 0.5}, seconds=2.0),
        Result(name="a", settings={"seed": 1}, seconds=1.0, error="it broke"),
    ]
    assert Results(tmp_path).all() == expected == Results(tmp_path).all()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "results.sqlite").write_text("no database, and long enough to be read as one" * 10)
    with pytest.raises(UserError, match="the results file of a sweep"):
        Results(tmp_path / "foreign")


def test_a_run_is_named_by_what_differs_from_the_defaults():
    (plain,) = plan_runs({}, {}, [{}])
    (named,) = plan_runs({}, {}, [{"temperature": Config().objective.temperature}])
    assert named.name == f"temperature=0.05-{plain.name}"  # a setting at its default changes no digest


def test_the_rows_of_a_report_are_flat():
    rows = flat_rows([*results({"simcse": [0.5]}), Result(name="x", settings={}, error="it broke")])
    assert rows == [{"run": "objective simcse", "seed": 0, "dev": 0.5}]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--json", "no/figures.json"], "--json no/figures.json must be in an existing folder; got no such folder"),
        (["--plot", "figures.bmp"], "--plot figures.bmp must be a file ending in .png or .svg or .pdf; got .bmp"),
        (["--plot", "."], "--plot . must be a file; got a folder"),
        (["--output", "text.txt"], "output text.txt must be a folder; got a file"),
    ],
)
def test_ablate_looks_at_its_outputs_before_the_runs(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny.write_sentences(tmp_path / "text.txt", 8)
    words = ["ablate", "objective", "text.txt", "--preset", "small", "--output", "out", *words]
    ended = command(*words)
    assert (ended.code, ended.err.count("\n")) == (2, 1) and ended.err.startswith(f"diffcse: {message}")
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]
