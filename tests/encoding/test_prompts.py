"""The words in front of a text: by role, by name, by themselves."""

import numpy as np
import pytest

from diffcse import DiffCSE
from diffcse.encoding.encode import Encoder
from diffcse.encoding.prompts import resolve_prompt
from diffcse.errors import UserError
from diffcse.persistence.load import load_encoder
from tests import tiny


@pytest.fixture
def model(tmp_path):
    return load_encoder(tiny.save(tiny.encoder(), tmp_path / "model"))


E5 = {"query": "query: ", "passage": "passage: "}


@pytest.mark.parametrize(
    ("prompts", "default", "role", "expected"),
    [
        ({}, None, "query", ""),
        ({}, None, None, ""),
        (E5, None, "query", "query: "),
        (E5, None, "document", "passage: "),
        (E5, None, None, ""),
        (E5, "passage", None, "passage: "),
        ({"query": "q ", "document": ""}, None, "document", ""),
        ({"query": "q ", "document": "d ", "passage": "p "}, None, "document", "d "),
        ({"search_query": "search_query: ", "search_document": "search_document: "}, None, "query", "search_query: "),
        ({"retrieval.query": "r ", "text-matching": "m "}, None, "query", "r "),
        ({"STS": "s "}, "STS", "query", ""),  # as in sentence-transformers 6: no fall-back to the default prompt
        ({"STS": "s "}, "STS", None, "s "),
    ],
)
def test_by_role(model, prompts, default, role, expected):
    model.prompts, model.default_prompt_name = prompts, default
    assert resolve_prompt(model, role) == expected


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [("passage", None, "passage: "), (None, "say: ", "say: "), (None, "", "")],
)
def test_by_name_or_by_itself(model, name, text, expected):
    model.prompts = E5
    assert resolve_prompt(model, "query", name, text) == expected


@pytest.mark.parametrize(
    ("prompts", "name", "text", "match"),
    [
        (E5, "query", "q", "prompt must be given by name or by text; got both"),
        (E5, "sts", None, "prompt name must be one that the model has; got sts; use one of query, passage"),
        ({}, "sts", None, "prompt name must be one that the model has; got sts; give the words themselves"),
        ({"s2p_query": "a", "s2s_query": "b"}, None, None, "choose one of s2p_query, s2s_query"),
    ],
)
def test_refusals(model, prompts, name, text, match):
    model.prompts = prompts
    with pytest.raises(UserError, match=match):
        resolve_prompt(model, "query", name, text)


def test_queries_and_documents_as_sentence_transformers_encodes_them(model, tmp_path):
    model.prompts = {"query": "the red ", "document": "a small "}
    model.save(str(tmp_path / "prompted"))
    loaded = load_encoder(tmp_path / "prompted")
    queries, documents = loaded.encode_query(tiny.SENTENCES), loaded.encode_document(tiny.SENTENCES)
    np.testing.assert_allclose(Encoder(loaded).encode_query(tiny.SENTENCES), queries, atol=1e-5)
    np.testing.assert_allclose(Encoder(loaded).encode_document(tiny.SENTENCES), documents, atol=1e-5)
    ours = DiffCSE(tmp_path / "prompted")
    for got, expected in ((ours.encode_query, queries), (ours.encode_document, documents)):
        np.testing.assert_allclose(got(tiny.SENTENCES, return_numpy=True, normalize_to_unit=False), expected, atol=1e-5)
    ours.build_index(tiny.SENTENCES, use_faiss=False)
    hits = dict(ours.search(tiny.SENTENCES[0], threshold=-1, top_k=8))
    expected = loaded.similarity(queries[:1], documents)[0].tolist()
    np.testing.assert_allclose([hits[sentence] for sentence in tiny.SENTENCES], expected, atol=1e-5)
