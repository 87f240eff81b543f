"""`DiffCSE` behaves as the published package's class, without its faults."""

import json
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from diffcse import DiffCSE
from diffcse.errors import MissingExtra, UserError
from tests import tiny

QUERIES = ["The cat sat.", "A bird sings in the tree."]


@pytest.fixture
def model(folder):
    return DiffCSE(folder)


@pytest.fixture
def no_faiss(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


def test_encode_shapes_and_types(model):
    one, many = QUERIES[0], QUERIES
    assert model.encode(one).shape == (16,)
    assert model.encode(one, keepdim=True).shape == (1, 16)
    assert model.encode(many).shape == (2, 16)
    assert model.encode([]).shape == (0, 16)
    assert isinstance(model.encode(many), torch.Tensor)
    assert isinstance(model.encode(many, return_numpy=True), np.ndarray)
    assert torch.equal(model.encode(many), torch.from_numpy(model.encode(np.array(many), return_numpy=True)))


def test_encode_is_the_cls_vector_of_unit_length(model, folder):
    plain = model.model.encode(QUERIES)
    np.testing.assert_allclose(model.encode(QUERIES, normalize_to_unit=False), plain, atol=1e-5)
    expected = plain / np.linalg.norm(plain, axis=1, keepdims=True)
    np.testing.assert_allclose(model.encode(QUERIES), expected, atol=1e-5)


def test_encode_takes_the_published_arguments_by_position(model):
    # sentence, device, return_numpy, normalize_to_unit, keepdim, batch_size, max_length
    got = model.encode(QUERIES[0], "cpu", True, False, True, 1, 4)
    assert got.shape == (1, 16)
    np.testing.assert_allclose(got[0], model.encode("The cat", return_numpy=True, normalize_to_unit=False), atol=1e-5)


def test_cut_sentences_are_reported_without_their_text(model, caplog):
    model.encode([*QUERIES, "the"], max_length=4)
    assert [record.getMessage() for record in caplog.records] == ["2 of 3 sentences were cut at 4 tokens"]


def test_batch_size_does_not_matter(model):
    np.testing.assert_allclose(model.encode(tiny.SENTENCES, batch_size=1), model.encode(tiny.SENTENCES), atol=1e-6)


def forms(model, texts):
    """The three ways to name the same sentences: text, array, tensor."""
    vectors = model.encode(texts, return_numpy=True, normalize_to_unit=False) * 3.0
    return {"text": texts, "array": vectors, "tensor": torch.from_numpy(vectors)}


@pytest.mark.parametrize(("ours", "theirs"), product(["text", "array", "tensor"], repeat=2))
@pytest.mark.parametrize(("one_query", "one_key"), product([True, False], repeat=2))
def test_similarity_of_all_combinations(model, ours, theirs, one_query, one_key):
    queries, keys = QUERIES[0] if one_query else QUERIES, tiny.SENTENCES[0] if one_key else tiny.SENTENCES[:3]
    got = model.similarity(forms(model, queries)[ours], forms(model, keys)[theirs])
    left, right = model.encode(queries, keepdim=True).numpy(), model.encode(keys, keepdim=True).numpy()
    expected = np.array([[float(a @ b / (a @ a * (b @ b)) ** 0.5) for b in right] for a in left])
    if one_query:
        expected = expected[0]
    if one_query and one_key:
        assert isinstance(got, float)
        assert got == pytest.approx(expected[0], abs=1e-5)
    else:
        assert isinstance(got, np.ndarray)
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_similarity_of_a_zero_vector_is_zero(model):
    assert model.similarity(np.zeros(16), QUERIES[0]) == 0.0


def test_a_sentence_is_as_similar_to_itself_as_can_be(model):
    sentences = [f"{sentence} {word}" for sentence in tiny.SENTENCES for word in tiny.WORDS]
    scores = model.similarity(sentences, sentences)
    assert scores.max() == 1 and (np.diag(scores) == 1).all()
    assert all(model.similarity(sentence, sentence) == 1 for sentence in tiny.SENTENCES)
    for how in ({"use_faiss": False}, {"use_faiss": True}):
        model.build_index(sentences, **how)
        result = model.search(sentences, threshold=1, top_k=1)
        assert [hits[0] for hits in result] == [(sentence, 1.0) for sentence in sentences]


def test_similarity_needs_vectors_of_one_width(model):
    with pytest.raises(UserError, match="keys must be vectors of 16 numbers, as queries are; got 5"):
        model.similarity(QUERIES, np.ones((2, 5)))
    with pytest.raises(UserError, match=r"vectors must be of shape \(H,\) or \(N, H\)"):
        model.similarity(np.ones((1, 1, 16)), QUERIES)


def by_hand(model, query, sentences, threshold, top_k):
    scores = model.similarity(query, sentences)
    best = sorted(zip(sentences, scores, strict=True), key=lambda pair: -pair[1])
    return [(sentence, score) for sentence, score in best if score >= threshold][:top_k]


@pytest.mark.parametrize("how", [{"use_faiss": False}, {"use_faiss": True}, {}])
@pytest.mark.parametrize(("threshold", "top_k"), [(0.6, 5), (-1.0, 3), (0.0, 100), (1.1, 5)])
def test_search_obeys_threshold_and_top_k_for_one_query_and_for_many(model, how, threshold, top_k):
    sentences = [*tiny.SENTENCES, "The cat sat on a mat."]
    model.build_index(sentences, **how)
    result = model.search(QUERIES, threshold=threshold, top_k=top_k)
    alone = model.search(QUERIES[0], threshold=threshold, top_k=top_k)
    for query, hits in zip([*QUERIES, QUERIES[0]], [*result, alone], strict=True):
        expected = by_hand(model, query, sentences, threshold, top_k)
        assert [sentence for sentence, _ in hits] == [sentence for sentence, _ in expected]
        np.testing.assert_allclose([score for _, score in hits], [score for _, score in expected], atol=1e-5)
        assert all(type(hit) is tuple and type(hit[1]) is float for hit in hits)


def test_fast_index_finds_what_is_there(model):
    model.build_index(tiny.SENTENCES, use_faiss=True, faiss_fast=True)
    for sentence in tiny.SENTENCES:
        (best, score), *_ = model.search(sentence)
        assert best == sentence
        assert score == pytest.approx(1, abs=1e-5)


def test_search_over_nothing_finds_nothing(model):
    for faiss, fast in ((False, False), (True, False), (True, True)):
        model.build_index([], use_faiss=faiss, faiss_fast=fast)
        assert model.search(QUERIES) == [[], []]


def test_index_from_a_file(model, tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("The cat sat on the mat.  \n\nThey ate fish.\r\n", encoding="utf-8")
    model.build_index(str(path))
    assert {hit for hit, _ in model.search("fish", threshold=-1)} == {"The cat sat on the mat.", "They ate fish."}


def test_index_from_a_bad_file(model, tmp_path):
    with pytest.raises(UserError, match=r"none\.txt must be an existing file"):
        model.build_index(str(tmp_path / "none.txt"))
    (tmp_path / "latin.txt").write_bytes(b"\xef\xbb\xbfcaf\xe9\nthe cat\n")  # a byte order mark, and no UTF-8
    model.build_index(tmp_path / "latin.txt")
    assert {hit for hit, _ in model.search("fish", threshold=-1)} == {"caf\ufffd", "the cat"}


def test_build_index_takes_the_published_arguments_by_position(model):
    # sentences_or_file_path, use_faiss, faiss_fast, device, batch_size
    batches, sentences = [], [f"{sentence} {word}" for sentence in tiny.SENTENCES for word in tiny.WORDS[:8]]
    model.model[0].model.embeddings.register_forward_hook(lambda *_: batches.append(1))
    model.build_index(sentences, False, False, "cpu", 1)
    alone, few = model.search(QUERIES, threshold=-1, top_k=9), len(batches) - 1
    batches.clear()
    model.build_index(sentences, use_faiss=False, device=torch.device("cpu"), batch_size=64)
    assert few > 2 > len(batches)
    for one, other in zip(alone, model.search(QUERIES, threshold=-1, top_k=9), strict=True):
        np.testing.assert_allclose([score for _, score in one], [score for _, score in other], atol=1e-5)
    before = model.search(QUERIES)
    for bad, match in (({"device": "cuda:99"}, "device must be present"), ({"batch_size": 0}, "batch_size must be at")):
        with pytest.raises(UserError, match=match):
            model.build_index(["a"], **bad)
    assert model.search(QUERIES) == before


def test_search_before_build_index(model):
    with pytest.raises(UserError, match="search must be after build_index; got no index"):
        model.search("a")


def test_without_faiss_the_search_is_exact_and_true_is_an_error(model, no_faiss):
    model.build_index(tiny.SENTENCES)
    assert model.search(tiny.SENTENCES[2])[0][0] == tiny.SENTENCES[2]
    with pytest.raises(MissingExtra, match=r"pip install 'diffcse\[search\]'"):
        model.build_index(tiny.SENTENCES, use_faiss=True)


def test_published_constructor_arguments(folder):
    model = DiffCSE(folder, "cpu", num_cells=2, num_cells_in_search=1, pooler="cls_before_pooler")
    assert model.device == torch.device("cpu")
    assert torch.equal(model.encode(QUERIES), DiffCSE(folder).encode(QUERIES))


@pytest.mark.parametrize(
    ("device", "match"), [("abacus", "device must be one that torch knows"), ("cuda:99", "device must be present")]
)
def test_bad_device(folder, device, match):
    with pytest.raises(UserError, match=match):
        DiffCSE(folder, device=device)


# The first block is the published README's, the second shows the calls of the README that it refers to.
SNIPPETS = """
from diffcse import DiffCSE
model_bert_sts = DiffCSE("voidism/diffcse-bert-base-uncased-sts")
model_bert_trans = DiffCSE("voidism/diffcse-bert-base-uncased-trans")
model_roberta_sts = DiffCSE("voidism/diffcse-roberta-base-sts")
model_roberta_trans = DiffCSE("voidism/diffcse-roberta-base-trans")

model = model_bert_sts
embeddings = model.encode("A woman is reading.")
sentences_a = ["A woman is reading.", "A man is playing a guitar."]
sentences_b = ["He plays guitar.", "A woman is making a photo."]
similarities = model.similarity(sentences_a, sentences_b)
model.build_index(sentences_a)
results = model.search("He plays guitar.", threshold=-1)

import json, sys
ours = [each.encode(sentences_a).tolist() for each in (model_bert_sts, model_roberta_trans)]
json.dump([tuple(embeddings.shape), similarities.tolist(), results, ours], sys.stdout)
"""


def test_published_snippets_run_as_they_are(tmp_path):
    from tests.persistence.test_load import hub_cache, published

    encoders = {family: tiny.encoder(family, seed=3) for family in ("bert", "roberta")}
    for name in ("bert-base-uncased-sts", "bert-base-uncased-trans", "roberta-base-sts", "roberta-base-trans"):
        family = name.split("-")[0]
        source = published(tmp_path / name, family, encoders[family], file="pytorch_model.bin")
        environment = hub_cache(tmp_path / "cache", f"voidism/diffcse-{name}", source)
    command = [sys.executable, "-c", SNIPPETS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    shape, similarities, results, ours = json.loads(done.stdout)
    assert shape == [16]
    assert np.shape(similarities) == (2, 2)
    assert sorted(sentence for sentence, _ in results) == ["A man is playing a guitar.", "A woman is reading."]
    sentences = ["A woman is reading.", "A man is playing a guitar."]
    for family, vectors in zip(encoders, ours, strict=True):
        plain = DiffCSE(tiny.save(encoders[family], tmp_path / f"plain-{family}"))
        np.testing.assert_allclose(vectors, plain.encode(sentences), atol=1e-5)


@pytest.mark.parametrize("name", [None, "bundled"])
def test_no_name_is_the_bundled_encoder(monkeypatch, folder, name):
    monkeypatch.setattr("diffcse.persistence.hub.bundled", lambda resource: Path(folder))
    assert DiffCSE(name).encode("a").shape == (16,)
