"""Every verb puts a model's own words in front of queries and of documents, and takes other words instead."""

import json
import re

import numpy as np
import pytest
from scipy.stats import pearsonr

from diffcse.adaptation.blend import Remembering
from diffcse.encoding.encode import Encoder
from diffcse.evaluation.retrieval import Retrieval, score
from diffcse.explore import app as explore_app
from diffcse.persistence.load import load_encoder
from diffcse.search.index import SentenceIndex
from tests import tiny
from tests.cli.command import diffcse

QUERY, DOCUMENT, OTHER = "the red ", "a small ", "loudly "
TEXTS = tiny.SENTENCES


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder whose model has prompts for queries, for documents, and one more."""
    loaded = load_encoder(tiny.save(tiny.encoder(), tmp_path_factory.mktemp("plain")))
    loaded.prompts = {"query": QUERY, "document": DOCUMENT, "other": OTHER}
    loaded.save(str(tmp_path_factory.mktemp("prompted") / "model"))
    return str(tmp_path_factory.getbasetemp() / "prompted0" / "model")


@pytest.fixture(scope="module")
def vectors(model):
    """Unit vectors of texts with words in front, by a plain call of the library."""
    loaded = load_encoder(model)
    return lambda words, texts: loaded.encode([words + text for text in texts], prompt="", normalize_embeddings=True)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n".join(TEXTS) + "\n")
    return path


WORDS = [
    ([], DOCUMENT),
    (["--prompt", ""], ""),
    (["--prompt", "we ate "], "we ate "),
    (["--prompt-name", "other"], OTHER),
]


@pytest.mark.parametrize(("options", "words"), WORDS)
def test_encode(tmp_path, model, vectors, text, options, words):
    assert diffcse("encode", text, "-o", tmp_path / "out.npy", "-m", model, *options).code == 0
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), vectors(words, TEXTS), atol=1e-5)


@pytest.mark.parametrize(("options", "words"), WORDS)
def test_index_keeps_the_words_and_search_uses_those_for_queries(tmp_path, model, vectors, text, options, words):
    folder = tmp_path / "index"
    assert diffcse("index", text, "-o", folder, "-m", model, *options).code == 0
    facts = SentenceIndex(folder).facts
    assert (facts.document_prompt, facts.query_prompt) == (words, QUERY)
    for more, query_words in (([], QUERY), (["--prompt", ""], ""), (["--prompt-name", "other"], OTHER)):
        done = diffcse("search", folder, "the dog", "-k", 8, "--json", *more)
        scores = {hit["sentence"]: hit["score"] for hit in json.loads(done.out)["results"]}
        expected = vectors(words, TEXTS) @ vectors(query_words, ["the dog"])[0]
        np.testing.assert_allclose([scores[each] for each in TEXTS], expected, atol=1e-5)
    refused = diffcse("index", text, "-o", folder, "-m", model, "--add", "--prompt", "not the same ")
    assert refused.code == 2 and f"must be the index's own, {words!r}; got 'not the same '" in refused.err


@pytest.mark.parametrize(
    ("options", "query", "document"),
    [([], QUERY, DOCUMENT), (["--prompt", ""], "", ""), (["--prompt", OTHER], OTHER, OTHER)],
)
def test_evaluate_on_judged_queries(tmp_path, model, vectors, options, query, document):
    (tmp_path / "qrels").mkdir()
    for name, role in (("corpus", "d"), ("queries", "q")):
        rows = (json.dumps({"_id": f"{role}{number}", "text": each}) + "\n" for number, each in enumerate(TEXTS))
        (tmp_path / f"{name}.jsonl").write_text("".join(rows))
    judged = "".join(f"q{number}\td{(number + 3) % 8}\t1\n" for number in range(8))
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    done = diffcse("evaluate", model, "--ir", tmp_path, "--json", tmp_path / "out.json", *options)
    assert done.code == 0, done.err

    class ByHand:
        encode = None

        def encode_query(self, texts):
            return vectors(query, texts)

        def encode_document(self, texts):
            return vectors(document, texts)

    expected = score(Retrieval(TEXTS, TEXTS, [{(number + 3) % 8: 1.0} for number in range(8)]), ByHand())
    content = json.loads((tmp_path / "out.json").read_text())
    assert content["retrieval"][0]["mrr"] == pytest.approx(expected.mrr)
    assert content["prompts"] == {model: {"query": query, "document": document}}
    refused = diffcse("evaluate", model, "--ir", tmp_path, "--prompt-name", "other")
    assert refused.code == 2 and "--prompt-name must be used without --ir" in refused.err


@pytest.mark.parametrize(("options", "words"), [([], ""), *WORDS[2:]])
def test_evaluate_on_pairs_has_no_prompt_unless_it_is_named(tmp_path, model, vectors, options, words):
    pairs, scores = tmp_path / "pairs.tsv", [3.0, 1.0, 2.0, 5.0, 4.0]
    rows = [f"{TEXTS[row]}\t{TEXTS[row + 1]}\t{value}\n" for row, value in enumerate(scores)]
    pairs.write_text("sentence1\tsentence2\tscore\n" + "".join(rows))
    done = diffcse("evaluate", model, "--pairs", pairs, "--json", tmp_path / "out.json", *options)
    assert done.code == 0, done.err
    content = json.loads((tmp_path / "out.json").read_text())
    rows = vectors(words, TEXTS)
    cosines = [float(rows[row] @ rows[row + 1]) for row in range(5)]
    assert content["encoding"]["prompt"] == words
    assert content["pairs"]["pearson"] == pytest.approx(pearsonr(cosines, scores).statistic, abs=1e-4)


@pytest.mark.parametrize(
    ("options", "query", "document"),
    [([], QUERY, DOCUMENT), (["--query-prompt", "", "--document-prompt", OTHER], "", OTHER)],
)
def test_mine(tmp_path, model, vectors, options, query, document):
    pairs = [(TEXTS[row], TEXTS[(row + 3) % 8]) for row in range(8)]
    source, output = tmp_path / "pairs.jsonl", tmp_path / "mined.jsonl"
    source.write_text("".join(json.dumps({"sent0": a, "sent1": b}) + "\n" for a, b in pairs))
    assert diffcse("mine", source, "-o", output, "-m", model, "--margin", "0.0001", *options).code == 0
    scores = vectors(query, TEXTS) @ vectors(document, TEXTS).T
    expected = {}
    for row in range(8):
        below = [other for other in range(8) if other not in (row, (row + 3) % 8)]
        below = [other for other in below if scores[row, other] <= 0.9999 * scores[row, (row + 3) % 8]]
        if below:
            expected[TEXTS[row]] = TEXTS[max(below, key=lambda other: scores[row, other])]
    mined = [json.loads(line) for line in output.read_text().splitlines()]
    assert {row["sent0"]: row["hard_neg"] for row in mined} == expected and expected


@pytest.mark.parametrize(("options", "words"), [([], ""), *WORDS[2:]])
def test_dedup_has_no_prompt_unless_it_is_named(tmp_path, model, vectors, text, options, words):
    output = tmp_path / "out.txt"
    assert diffcse("dedup", text, "-o", output, "-m", model, "--threshold", 0.3, *options).code == 0
    dropped = [json.loads(line) for line in (tmp_path / "out.txt.report.jsonl").read_text().splitlines()]
    rows = vectors(words, TEXTS)
    assert dropped
    for row in dropped:
        assert row["cosine"] == pytest.approx(float(rows[row["line"] - 1] @ rows[row["repeats"] - 1]), abs=1e-5)


def test_explore(monkeypatch, model, vectors, text):
    pytest.importorskip("gradio")
    served = []
    monkeypatch.setattr(explore_app, "serve", lambda answers, *rest: served.append(answers))
    assert diffcse("explore", model, "--corpus", text).code == 0
    (answers,) = served
    np.testing.assert_allclose(answers.corpus.vectors, vectors(DOCUMENT, TEXTS), atol=1e-5)
    expected = vectors(DOCUMENT, TEXTS) @ vectors(QUERY, ["the dog"])[0]
    for pasted in ("", "\n".join(TEXTS)):
        shown = re.findall(r"(-?\d\.\d\d)", re.sub(r"<(?!li|/li)[^>]*>", " ", answers.search("the dog", pasted, 8)))
        assert {f"{value:.2f}" for value in expected} <= set(shown)


def test_export(tmp_path, model, vectors):
    pytest.importorskip("onnxruntime")
    assert diffcse("export", model, "-o", tmp_path / "out", "--to", "onnx").code == 0
    encoder = Encoder(tmp_path / "out", backend="onnx")
    unit = lambda rows: rows / np.linalg.norm(rows, axis=1, keepdims=True)  # noqa: E731
    np.testing.assert_allclose(unit(encoder.encode_query(TEXTS)), vectors(QUERY, TEXTS), atol=1e-4)
    np.testing.assert_allclose(unit(encoder.encode_document(TEXTS)), vectors(DOCUMENT, TEXTS), atol=1e-4)


def test_adapt_judges_with_both(model, vectors):
    memory = Remembering(Encoder(model))
    unit = lambda rows: rows / np.linalg.norm(rows, axis=1, keepdims=True)  # noqa: E731
    np.testing.assert_allclose(unit(memory.encode_query(TEXTS)), vectors(QUERY, TEXTS), atol=1e-5)
    np.testing.assert_allclose(unit(memory.encode_document(TEXTS)), vectors(DOCUMENT, TEXTS), atol=1e-5)
