"""The report page: parsed as HTML, numbers looked up in it, nothing of the data able to become markup."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from diffcse.errors import UserError
from diffcse.evaluation.compare import compare, judge
from diffcse.evaluation.embed import embed
from diffcse.evaluation.suite import Plan, plan, results, select
from diffcse.evaluation.tasks import STS_TASKS, TRANSFER_TASKS, ScoredPairs
from diffcse.reports.logs import read_runs
from diffcse.reports.report import read_report, write_report
from tests.cli.command import invoke
from tests.evaluation.layout import BagOfWords, Layout

EVIL = "<script>alert('x')</script> & <b>\"bold\"</b> ]]> $x^2$"
NAME = "bag <img src=x onerror=alert(1)> & $x^2$"
DASH = "\N{EN DASH}"
VOID = {"meta", "br", "img", "link", "input", "hr"}


@dataclass
class Page(HTMLParser):
    """What a browser would see: every element, every text, tables as rows of cells."""

    source: str
    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    open: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.source)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.texts.append(data)
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data

    def names(self) -> set[str]:
        return {tag for tag, _ in self.tags}

    def row(self, name: str) -> list[str]:
        return next(row[1:] for row in self.rows if row[0] == name)

    @property
    def text(self) -> str:
        return "\n".join(self.texts)


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    layout = Layout(tmp_path_factory.mktemp("senteval"), at_most=66).write("STS12", "STSBenchmark", "MR", "MRPC")
    path = layout.path("STS", "STSBenchmark", "sts-test.csv")
    lines = path.read_text(encoding="utf-8").splitlines()
    same = [f"g\tf\ty\t0\t5.0\t{EVIL} the dog\t{EVIL} the old dog", "g\tf\ty\t0\t5.0\ta cat sleeps\tthe cat sleeps"]
    path.write_text("\n".join([*same, *lines[2:]]) + "\n", encoding="utf-8")
    made = plan(layout.root, select("STS12,STSBenchmark,MR,MRPC"), official_rows=False)
    analysed = next(task for task in made.tasks if task.name == "STSBenchmark").parts["test"]
    assert isinstance(analysed, ScoredPairs)
    return Plan(**{**made.__dict__, "analysed": analysed, "pairs": analysed})


@pytest.fixture(scope="module")
def result(planned: Plan) -> dict[str, Any]:
    return json.loads(json.dumps(results(embed(BagOfWords().encode, planned.sentences()), planned, model=NAME)))


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training") / "runs" / "first"
    folder.mkdir(parents=True)
    lines = [{"step": step, "loss": 2.0 / step, "contrastive": 1.0 / step, "rtd": 0.3} for step in (10, 20, 30)]
    lines += [{"step": 20, "stsb": 0.61}, {"step": 30, "stsb": 0.65}, {"step": 30, "train_loss": 1.0}]
    text = "\n".join(json.dumps(line) for line in lines)
    (folder / "metrics.jsonl").write_text(text + '\n{"step": 40, "loss": NaN}\n{"step": 50, "lo')
    return folder


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory, result: dict[str, Any], run_folder: Path) -> Page:
    """The page of everything."""
    return page(tmp_path_factory.mktemp("page"), result, run_folder)


def page(tmp_path: Path, content: Any, *runs: Path) -> Page:
    (tmp_path / "r.json").write_text(json.dumps(content))
    write_report(read_report(tmp_path / "r.json", runs), tmp_path / "report.html")
    return Page((tmp_path / "report.html").read_text(encoding="utf-8"))


def test_the_numbers_of_the_results_and_the_published_ones(shown: Page, result: dict[str, Any]) -> None:
    tasks = result["tasks"]
    sts = [tasks.get(name, {}).get("spearman") for name in STS_TASKS]
    accuracy = [tasks.get(name, {}).get("accuracy") for name in TRANSFER_TASKS]
    rows = [row[1:] for row in shown.rows if row[0] == NAME]
    for values, group in ((sts, "sts"), (accuracy, "transfer")):
        cells = [DASH if value is None else f"{100 * value:.2f}" for value in values]
        assert [*cells, f"{100 * result['average'][group]:.2f}*"] in rows
    assert shown.row("DiffCSE-BERT-basepublished")[-1] == "78.49"
    published = [attributes for tag, attributes in shown.tags if tag == "tr" and attributes.get("class") == "published"]
    assert len(published) == 6 == sum("published" in row[0] for row in shown.rows)
    assert "single runs" in shown.text and "not measured here" in shown.text


def test_every_subset_recall_and_own_pairs(shown: Page, result: dict[str, Any]) -> None:
    msrpar = result["tasks"]["STS12"]["subsets"]["MSRpar"]
    expected = ["STS12", "MSRpar", f"{100 * msrpar['spearman']:.2f}", f"{100 * msrpar['pearson']:.2f}", "66"]
    assert expected in shown.rows
    assert f"{100 * result['analyses']['retrieval']['recall@1']:.2f}" in shown.text
    assert [f"{100 * result['pairs']['spearman']:.2f}", f"{100 * result['pairs']['pearson']:.2f}", "66"] in [
        row[1:] for row in shown.rows
    ]


def test_text_of_the_data_stays_text(tmp_path: Path, result: dict[str, Any]) -> None:
    folder = tmp_path / "x <script>alert(1)<script> $y$"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text(
        '{"step": 1, "loss": 1.0}\n{"step": 2, "<img src=x onerror=alert(1)>": 0.5}\n'
    )
    other = {**result, "model": "\ud800 control \x00\x1b character"}
    shown = page(tmp_path, {"models": [result, other], "comparison": None}, folder)
    assert NAME in shown.text
    assert shown.names() & {"script", "b", "img", "iframe", "link"} == set()
    assert EVIL in shown.text and "<img src=x onerror=alert(1)>" in shown.text
    assert "\x00" not in shown.source and "\ud800" not in shown.source
    assert not [name for _, attributes in shown.tags for name in attributes if name.startswith("on")]


def test_the_page_asks_nothing_of_the_network(shown: Page) -> None:
    for _, attributes in shown.tags:
        for name in ("src", "href", "srcset", "data", "action"):
            assert (attributes.get(name) or "#").startswith("#")
    assert not re.search(r"url\((?!#)|@import|//", shown.source.replace("<!doctype html>", ""))


def test_pictures_are_part_of_the_page(shown: Page) -> None:
    svgs = [attributes for tag, attributes in shown.tags if tag == "svg"]
    assert [attributes["aria-label"] for attributes in svgs] == [
        "Semantic textual similarity",
        "Transfer tasks",
        f"Histograms of cosines by gold score, {NAME}",
        "Alignment and uniformity",
        "Score that chooses the checkpoint: stsb",
        "Contrastive loss",
        "Loss of the difference prediction",
        "Training loss",
    ]
    assert all("width" not in attributes and attributes.get("viewbox") for attributes in svgs)
    names = [attributes["id"] for _, attributes in shown.tags if attributes.get("id")]
    assert len(names) == len(set(names))
    uses = [attributes["href"] for tag, attributes in shown.tags if tag == "use"]
    assert uses and all(use[1:] in names for use in uses)
    clips = set(re.findall(r"url\(#([^)]+)\)", shown.source))
    assert clips and clips <= set(names)
    style = shown.source.split("</style>")[0]
    drawn = shown.source.split("</style>")[1]
    assert "prefers-color-scheme: dark" in style and "var(--series0)" in drawn and "#0072b2" not in drawn


def test_what_is_missing_names_the_command_that_brings_it(tmp_path: Path, result: dict[str, Any]) -> None:
    bare = {key: value for key, value in result.items() if key not in ("analyses", "pairs", "encoding")}
    bare["tasks"] = {"STS12": bare["tasks"]["STS12"]}
    bare |= {"average": {"sts": 0.5, "transfer": None}, "complete": {"sts": False, "transfer": False}}
    bare["missing"] = {"sts": ["STSBenchmark"], "transfer": ["MR"]}
    bare["problems"] = ["STSBenchmark: no file", "MR: no file"]
    shown = page(tmp_path, bare)
    assert "diffcse evaluate MODEL --senteval FOLDER --tasks transfer --json RESULTS.json" in shown.text
    assert "diffcse evaluate MODEL --senteval FOLDER --analyses --json RESULTS.json" in shown.text
    assert "diffcse report RESULTS.json RUN_FOLDER -o report.html" in shown.text
    assert "50.00*" in shown.row(bare["model"]) and "without STSBenchmark" in shown.text
    assert "not scored: STSBenchmark: no file" in shown.text


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (["-o", "r.json"], "--output .* must be another file"),
        (["--figures", "r.json"], "--figures .* must be a folder"),
    ],
)
def test_results_are_not_overwritten_by_their_page(
    tmp_path: Path, result: dict[str, Any], monkeypatch: pytest.MonkeyPatch, options: list[str], rule: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("r.json").write_text(json.dumps(result))
    with pytest.raises(UserError, match=rule):
        invoke("report", "r.json", *options)
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"] and json.loads(Path("r.json").read_text())


def test_results_without_neighbours_say_so(tmp_path: Path, result: dict[str, Any]) -> None:
    analyses = {key: value for key, value in result["analyses"].items() if key != "neighbours"}
    assert "Not measured. To show the nearest neighbours, " in page(tmp_path, {**result, "analyses": analyses}).text


def test_a_comparison(tmp_path: Path, planned: Plan, result: dict[str, Any]) -> None:
    embedded = embed(BagOfWords().encode, planned.sentences())
    judged = judge(planned, embedded)
    compared = compare({"one": judged, "two": judged}, resamples=20)
    models = [{**result, "model": "one"}, {**result, "model": "two"}]
    shown = page(tmp_path, {"models": models, "comparison": compared})
    row = next(row for row in shown.rows if row[:2] == ["STS12", "two"])
    assert row[2] == f"{100 * result['tasks']['STS12']['spearman']:.2f}" and row[4] == "+0.00" and row[6] == "1.000"
    assert "paired randomisation test against one; 20 resamples" in shown.text


def test_neighbours_show_the_partner(shown: Page, result: dict[str, Any]) -> None:
    (first, second) = result["analyses"]["neighbours"]
    assert first["query"] == f"{EVIL} the dog" and first["partner"] == f"{EVIL} the old dog"
    assert second["nearest"][0]["cosine"] >= second["nearest"][1]["cosine"]
    assert sum(1 for tag, attributes in shown.tags if tag == "li" and attributes.get("class") == "partner") == 2


def test_the_same_bytes_again_and_figures_as_files(
    tmp_path: Path, shown: Page, result: dict[str, Any], run_folder: Path
) -> None:
    (tmp_path / "r.json").write_text(json.dumps(result))
    output, figures = tmp_path / "report.html", tmp_path / "figures"
    done = invoke("report", tmp_path / "r.json", run_folder, "-o", output, "--figures", figures)
    assert done.exit_code == 0 and str(output) in done.stderr
    assert output.read_text(encoding="utf-8") == shown.source
    names = {path.stem for path in figures.glob("*.svg")}
    assert {"scores-sts", "histogram-1", "alignment-uniformity", "training-contrastive"} <= names
    assert names == {path.stem for path in figures.glob("*.png")}
    assert (figures / "scores-sts.png").read_bytes()[:4] == b"\x89PNG"


EDITED = [
    ({"analyses": {"alignment": 1}}, r"models\.0\.analyses without data"),
    ({"analyses": None}, r"models\.0\.analyses is no object"),
    ({"tasks": {"STS12": 3}}, r"models\.0\.tasks\.STS12 is no object"),
    ({"tasks": {"STS12": {"spearman": "high"}}}, r"models\.0\.tasks\.STS12\.spearman is 'high'"),
    ({"pairs": {}}, r"models\.0\.pairs without spearman"),
    ({"problems": "none"}, r"models\.0\.problems is no list"),
    ({"mode": "train"}, "mode is 'train'"),
    ({"complete": {"sts": 1, "transfer": True}}, r"models\.0\.complete\.sts is 1"),
]


@pytest.mark.parametrize(("change", "fault"), EDITED)
def test_results_that_were_edited(tmp_path: Path, result: dict[str, Any], change: dict[str, Any], fault: str) -> None:
    with pytest.raises(UserError, match=f"r.json must be results of an evaluation; got {fault}; write it with"):
        page(tmp_path, {**result, **change})
    assert not (tmp_path / "report.html").exists()


def test_an_edited_comparison(tmp_path: Path, result: dict[str, Any]) -> None:
    good = {"baseline": "a", "resamples": 9, "tasks": {}, "average": None}
    for change, fault in (
        ({"average": {"a": {"spearman": 1}}}, r"comparison\.average\.a without interval"),
        ({"tasks": {"STS12": {"a": {"spearman": 1, "interval": [1]}}}}, r"interval is no list of two"),
        ({"resamples": None}, r"comparison\.resamples is None"),
    ):
        with pytest.raises(UserError, match=f"must be results of an evaluation; got .*{fault}"):
            page(tmp_path, {"models": [result], "comparison": {**good, **change}})


def test_runs_are_named_apart_and_broken_lines_skipped(tmp_path: Path, run_folder: Path) -> None:
    other = tmp_path / "others" / "first"
    shutil.copytree(run_folder, other)
    first, second = read_runs([run_folder, other])
    assert (first.name, second.name) == ("runs/first", "others/first")
    assert first.curve("loss") == ([10, 20, 30], [0.2, 0.1, pytest.approx(2 / 30)])
    assert first.lines[-1] == {"step": 40}


def test_bad_input(tmp_path: Path, result: dict[str, Any]) -> None:
    def refused(match: str, content: str | None, *runs: Path) -> None:
        path = tmp_path / "bad.json"
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_text(content)
        with pytest.raises(UserError, match=match):
            read_report(path, runs)

    refused("bad.json must be a file that can be read; got No such file.*write it with: diffcse evaluate", None)
    refused(r"bad.json must be readable \(its bad.json is not\); got Expecting.*write it with: diffcse evaluate", "{")
    for other in ("[]", "3"):
        refused(r"bad.json must be readable \(its bad.json holds no object\); got (list|int)", other)
    for other, fault in (
        ("{}", r"models\.0 without model"),
        ('{"models": []}', "no models"),
        ('{"models": 3}', "models is no list"),
        ('{"model": "x", "tasks": {}}', r"models\.0 without mode"),
    ):
        refused(f"bad.json must be results of an evaluation; got {fault}", other)
    refused("metrics.jsonl must be the log of a training run; got .*No such file", json.dumps(result), tmp_path)
    (tmp_path / "metrics.jsonl").write_text("nothing\n")
    refused("metrics.jsonl must be the log of a training run; got no line with a step", json.dumps(result), tmp_path)
    (tmp_path / "r.json").write_text(json.dumps(result))
    with pytest.raises(UserError, match=r"--output .* must be in an existing folder"):
        invoke("report", tmp_path / "r.json", "-o", tmp_path / "no" / "r.html")


@pytest.mark.skipif(not (shutil.which("chromium") or shutil.which("google-chrome")), reason="no Chromium here")
def test_a_real_browser_draws_it(tmp_path: Path, shown: Page) -> None:
    (tmp_path / "report.html").write_text(shown.source, encoding="utf-8")
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--user-data-dir={tmp_path / 'user'}",
    ]
    address = (tmp_path / "report.html").as_uri()
    done = subprocess.run([browser, *options, "--dump-dom", address], capture_output=True, timeout=120, check=True)
    dom = done.stdout.decode()
    assert dom.count("<svg") == 8 and "&lt;script&gt;alert('x')" in dom and "<script" not in dom
