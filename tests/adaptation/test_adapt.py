"""From documents to a model folder: better models are kept, others are not, and a kill changes no bit."""

import json
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize

from diffcse.adaptation import adapt as module
from diffcse.adaptation.adapt import AdaptResult, adapt
from diffcse.adaptation.blend import START, Blends, Form, copied
from diffcse.adaptation.settings import AdaptSettings
from diffcse.encoding.encode import Encoder
from diffcse.encoding.prompts import resolve_prompt
from diffcse.errors import UserError
from diffcse.persistence.load import load_encoder
from diffcse.persistence.save import save_folder
from diffcse.resources import bundled
from diffcse.text.documents import Documents, documents_of
from diffcse.training.fingerprint import fingerprint
from tests import tiny
from tests.cli.command import invoke
from tests.killing import Killed, killed_at

LEARNING = AdaptSettings(
    encoder="bundled",
    steps=15,
    learning_rate=3e-4,
    batch_size=32,
    max_tokens=32,
    held_out=0.5,
    lexical_share=0.0,
)
TRADE = "patient hospital doctor nurse medicine clinic ward surgeon health care".split()
SUBJECTS = """river boat guitar violin castle desert rocket planet cheese bread horse eagle carpet window hammer wheel
engine forest island bridge candle mirror pencil ladder basket button jacket ticket garden market temple tunnel circus
museum stadium kitchen""".split()


def texts(count: int = 400) -> list[str]:
    """Documents of five sentences: words of their own subject among words of the trade, which say nothing."""
    rng = random.Random(1)
    documents = []
    for _ in range(count):
        subject = rng.sample(SUBJECTS, 4)
        sentences = [rng.choices(subject, k=2) + rng.choices(TRADE, k=7) for _ in range(5)]
        documents.append(" ".join(f"{' '.join(rng.sample(words, 9)).capitalize()}." for words in sentences))
    return documents


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Documents:
    return documents_of(texts(), cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def result(documents: Documents, tmp_path_factory: pytest.TempPathFactory) -> AdaptResult:
    return run(documents, tmp_path_factory.mktemp("adapted") / "model")


def run(documents: Documents, output: Path, **changes: Any) -> AdaptResult:
    return adapt(documents, output, settings=replace(LEARNING, **changes))


@pytest.mark.parametrize(
    ("options", "query", "document"),
    [
        ({}, "looking for: ", ""),
        ({"query_prompt": "query: ", "document_prompt": "passage: "}, "query: ", "passage: "),
        ({"query_prompt": ""}, "", ""),
    ],
)
def test_prompts_judge_and_are_saved(
    documents: Documents, tmp_path: Path, options: dict[str, str], query: str, document: str, monkeypatch: Any
) -> None:
    start = load_encoder("bundled")
    start.prompts = {"search_query": "looking for: "}
    start.save(str(tmp_path / "start"))
    seen, plain = set(), Encoder.encode
    monkeypatch.setattr(Encoder, "encode", lambda *a, **k: (seen.add(k.get("prompt")), plain(*a, **k))[1])
    result = run(documents, tmp_path / "model", encoder=str(tmp_path / "start"), steps=2, **options)
    assert seen - {None} == {query, document}
    saved = load_encoder(str(result.folder))
    assert (resolve_prompt(saved, "query"), resolve_prompt(saved, "document")) == (query, document)


def test_a_better_model_is_kept_and_everybody_can_load_it(result: AdaptResult) -> None:
    assert result.adapted and result.verdict.adapted.against_start["sentence"].low > 0
    model = SentenceTransformer(str(result.folder), device="cpu")
    assert model.encode(["the cat sat"]).shape == (1, 576)
    assert {"report.html", "adapt.json", "README.md"} <= {path.name for path in result.folder.iterdir()}
    assert not (result.folder / "checkpoints").exists()


def test_the_figures_are_those_of_the_model_in_the_folder(result: AdaptResult) -> None:
    report = json.loads((result.folder / "adapt.json").read_text())
    assert report["kept"] == "adapted"
    assert report["reporting"]["adapted"]["sentence"]["mrr"] == result.verdict.adapted.scores["sentence"].mrr
    assert report["reporting"]["adapted"]["sentence"]["mrr"] > report["reporting"]["start"]["sentence"]["mrr"]
    assert {"BM25", "TF-IDF"} <= set(report["reporting"])


def test_the_report_shows_the_decision_and_the_searches(result: AdaptResult) -> None:
    page = (result.folder / "report.html").read_text()
    assert result.verdict.words().split(",")[0] in page
    assert result.verdict.searches and result.verdict.searches[0].question in page


def test_the_start_is_kept_where_nothing_was_learnt(documents: Documents, tmp_path: Path) -> None:
    result = run(documents, tmp_path / "m", steps=1, learning_rate=1e-9)
    assert not result.adapted and "kept: the start" in result.verdict.words()
    kept, before = (
        SentenceTransformer(str(folder), device="cpu").state_dict() for folder in (tmp_path / "m", bundled())
    )
    assert all(torch.equal(kept[name], value) for name, value in before.items())
    assert json.loads((tmp_path / "m" / "adapt.json").read_text())["kept"] == "start"


def test_the_lexical_map_is_a_module_that_every_tool_knows(documents: Documents, tmp_path: Path) -> None:
    """And what it was trained for shows on documents that it never saw, in the model that was saved."""
    result = run(documents, tmp_path / "m", steps=1, learning_rate=1e-9, lexical_share=0.3)
    assert result.adapted and result.verdict.chosen.form.mapped
    kinds = [module["type"] for module in json.loads((tmp_path / "m" / "modules.json").read_text())]
    assert [kind.split(".")[-1] for kind in kinds] == ["Transformer", "Pooling", "Dense"]
    assert kinds[-1] == "sentence_transformers.models.Dense"
    sentences = ["river boat", "the guitar and a violin, in the ward", "castle"]
    theirs = SentenceTransformer(str(tmp_path / "m"), device="cpu").encode(sentences)
    assert theirs.shape == (3, 576)
    assert torch.allclose(
        torch.from_numpy(Encoder(tmp_path / "m").encode(sentences)), torch.from_numpy(theirs), atol=1e-5
    )
    report = json.loads((tmp_path / "m" / "adapt.json").read_text())
    assert report["mapped"] and report["reporting"]["adapted"]["against_start"]["sentence"]["low"] > 0


def test_a_start_with_dense_keeps_it_below_the_lexical_map(documents: Documents, tmp_path: Path) -> None:
    plain = load_encoder(tiny.save(tiny.encoder(), tmp_path / "plain"))
    start = tmp_path / "start"
    SentenceTransformer(modules=[*plain, Dense(16, 8), Normalize()]).save(str(start))
    assert run(documents, tmp_path / "m", encoder=str(start), steps=2, lexical_share=0.5).folder == tmp_path / "m"
    assert SentenceTransformer(str(tmp_path / "m"), device="cpu").encode(["a cat"]).shape == (1, 8)
    model = load_encoder(start)
    before = Encoder(model).encode(["a cat"])
    blends = Blends(Encoder(model), copied(load_encoder(start)))
    blends.map = torch.randn(8, 8)
    blends.set(Form(0.5, mapped=True))
    assert [type(each).__name__ for each in model] == ["Transformer", "Pooling", "Dense", "Dense", "Normalize"]
    (tmp_path / "mapped").mkdir()
    save_folder(model, tmp_path / "mapped", {})
    mapped = torch.from_numpy(before) @ blends.map.T
    other = load_encoder(tmp_path / "mapped")
    torch.testing.assert_close(torch.from_numpy(Encoder(other).encode(["a cat"])), mapped / mapped.norm())
    blends.set(START)
    assert (Encoder(model).encode(["a cat"]) == before).all()


@pytest.mark.parametrize("where", ["_verdict", "save_folder"])
def test_killed_after_training_it_resumes_with_the_same_bits(
    result: AdaptResult, documents: Documents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(module, where, killed_at(getattr(module, where)))
        run(documents, tmp_path / "m")
    resumed = run(documents, tmp_path / "m")
    assert fingerprint(tmp_path / "m").weights == fingerprint(result.folder).weights
    assert resumed.verdict.words() == result.verdict.words()


def test_the_documents_become_searchable(documents: Documents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the run is killed between the index and its end."""
    settings = replace(LEARNING, steps=1)
    how: dict[str, Any] = {"settings": settings, "index": tmp_path / "index"}
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(module.RunFolder, "mark_finished", killed_at(module.RunFolder.mark_finished))
        adapt(documents, tmp_path / "m", **how)
    adapt(documents, tmp_path / "m", **how)
    text = documents.dataset[7]["sentences"]
    results = invoke("search", tmp_path / "index", " ".join(text), "-k", 1)
    assert results.exit_code == 0 and text[0] in results.output
    with pytest.raises(UserError, match="a new folder"):
        adapt(documents, tmp_path / "other", **how)
    assert not (tmp_path / "other").exists()


def test_other_settings_do_not_resume(documents: Documents, tmp_path: Path, result: AdaptResult) -> None:
    with pytest.raises(UserError, match="a new folder or an interrupted run; got a finished run"):
        run(documents, result.folder)


def test_judged_queries_are_reported(documents: Documents, tmp_path: Path) -> None:
    folder = tmp_path / "judged"
    (folder / "qrels").mkdir(parents=True)
    corpus = [{"_id": f"d{n}", "title": "", "text": text} for n, text in enumerate(texts(20))]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in corpus))
    (folder / "queries.jsonl").write_text('{"_id": "q", "text": "cat dog"}\n')
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td3\t1\n")
    settings = replace(LEARNING, steps=2)
    result = adapt(documents, tmp_path / "m", settings=settings, judged=[folder])
    assert [row["system"] for row in result.judged] == ["start", "adapted", "BM25", "TF-IDF"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--queries", "queries.jsonl"], "--qrels must be given together with the other one; got only one of the two"),
        (["--qrels", "q.tsv"], "--queries must be given together with the other one; got only one of the two"),
        (["--queries", "queries.jsonl", "--qrels", "none.tsv"], "none.tsv must be a file; got no such file"),
        (["--queries", "queries.jsonl", "--qrels", "empty.tsv"], "at least one score above 0; got none"),
        (["more.txt", "--queries", "queries.jsonl", "--qrels", "q.tsv"], "sources must be one corpus.jsonl in BEIR's"),
    ],
    ids=["queries alone", "judgments alone", "no file", "no judgments", "two sources"],
)
def test_judged_queries_are_checked_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("corpus.jsonl").write_text('{"_id": "d", "text": "a b"}\n{"_id": "e", "text": "c d"}\n')
    Path("queries.jsonl").write_text('{"_id": "q", "text": "cat dog"}\n')
    Path("empty.tsv").write_text("query-id\tcorpus-id\tscore\n")
    Path("q.tsv").write_text("q\td\t1\n")
    with pytest.raises(UserError, match=re.escape(words)):
        invoke("adapt", "corpus.jsonl", *options, "-o", "m")
    assert not Path("m").exists()


def test_judged_queries_about_the_documents_themselves(tmp_path: Path) -> None:
    corpus = [{"_id": f"d{n}", "title": "", "text": text} for n, text in enumerate(texts(120))]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in corpus))
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "cat dog"}\n')
    (tmp_path / "test.tsv").write_text("q\td3\t1\n")
    files = {"queries": tmp_path / "queries.jsonl", "qrels": tmp_path / "test.tsv"}
    result = adapt(tmp_path / "corpus.jsonl", tmp_path / "m", settings=replace(LEARNING, steps=1), **files)
    assert {row["collection"] for row in result.judged} == {"corpus"}


def test_other_documents_do_not_resume(documents: Documents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(module, "_verdict", killed_at(module._verdict))
        run(documents, tmp_path / "m", steps=1)
    others = documents_of(texts(200), cache_dir=tmp_path)
    with pytest.raises(UserError, match="an interrupted run on this text; got one on other text"):
        run(others, tmp_path / "m", steps=1)


def test_a_refused_training_leaves_nothing_in_the_way(documents: Documents, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a model that can be loaded"):
        run(documents, tmp_path / "m", objective="diffcse", generator=str(tmp_path))
    assert not (tmp_path / "m").exists()
    assert run(documents, tmp_path / "m", steps=1).folder == tmp_path / "m"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "must be"),
        ("Only one document here. It has two sentences.", "documents must be at least 40 different ones"),
        ("\n\n".join(["The same text. Again and again."] * 60), "documents must be at least 40 different ones"),
    ],
    ids=["nothing", "one document", "all equal"],
)
def test_too_little_text_is_one_line_and_leaves_nothing(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "text.txt").write_text(content)
    with pytest.raises(UserError, match=re.escape(words)):
        invoke("adapt", tmp_path / "text.txt", "-o", tmp_path / "m", "--encoder", "bundled")
    assert not (tmp_path / "m").exists()
