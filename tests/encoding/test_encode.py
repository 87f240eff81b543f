"""The fast loop gives sentence-transformers' own vectors, in order, whatever the batches and chunks."""

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, StaticEmbedding

from diffcse.encoding import encode as encoding
from diffcse.encoding.backends import torch_forward
from diffcse.encoding.encode import Encoder, EncodeSettings, batches, chunks
from diffcse.encoding.tokenise import Tokeniser
from diffcse.errors import UserError
from diffcse.persistence.load import load_encoder
from tests import tiny

TEXTS = [*tiny.SENTENCES, "", " ", "the", "the cat sat on a mat " * 30, "unknownword", "été [MASK] the", "a\nb\tc\0"]


def model(tmp_path, family="bert", pooler=None):
    return load_encoder(tiny.save(tiny.encoder(family), tmp_path / family), pooler=pooler)


@pytest.fixture
def bert(tmp_path):
    return model(tmp_path)


def vectors_of(bert, texts, settings=None):
    return (chunk.vectors for chunk in Encoder(bert).chunks(texts, settings=settings))


def many(count):
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(tiny.WORDS, size=rng.integers(1, 20))) for _ in range(count)]


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("pooler", ["cls", "avg", "avg_top2", "avg_first_last", "last"])
def test_equals_sentence_transformers(tmp_path, family, pooler):
    encoder = model(tmp_path, family, pooler)
    expected = encoder.encode(TEXTS, show_progress_bar=False)
    got = Encoder(encoder, settings=EncodeSettings(batch_tokens=64)).run(TEXTS)
    np.testing.assert_allclose(got.vectors, expected, atol=1e-5)
    assert got.vectors.dtype == np.float32


def test_modules_behind_the_pooling_take_part(bert):
    torch.manual_seed(0)
    longer = SentenceTransformer(modules=[*bert, Dense(16, 4), Normalize()])
    expected = longer.encode(TEXTS, show_progress_bar=False)
    np.testing.assert_allclose(Encoder(longer).encode(TEXTS), expected, atol=1e-6)


@pytest.mark.parametrize("batch_tokens", [1, 20, 100, 10_000])
@pytest.mark.parametrize("chunk_sentences", [1, 7, 1000])
def test_batches_and_chunks_do_not_matter(bert, batch_tokens, chunk_sentences):
    texts = many(40)
    one_by_one = np.stack([bert.encode(text) for text in texts])
    settings = EncodeSettings(batch_tokens=batch_tokens, chunk_sentences=chunk_sentences)
    np.testing.assert_allclose(Encoder(bert, settings=settings).encode(texts), one_by_one, atol=1e-5)
    np.testing.assert_allclose(np.concatenate(list(vectors_of(bert, iter(texts), settings))), one_by_one, atol=1e-5)


def test_work_that_starts_at_a_chunk_is_bit_identical(bert):
    texts = many(50)
    settings = EncodeSettings(chunk_sentences=10)
    whole = Encoder(bert, settings=settings).encode(texts)
    assert (Encoder(bert, settings=settings).encode(texts[20:]) == whole[20:]).all()
    assert (Encoder(bert, settings=settings).encode(texts) == whole).all()


def test_a_stream_is_read_at_most_two_chunks_ahead(bert):
    read = 0

    def endless():
        nonlocal read
        while True:
            read += 1
            yield "the cat sat"

    stream = vectors_of(bert, endless(), EncodeSettings(chunk_sentences=10))
    for done in range(1, 6):
        assert next(stream).shape == (10, 16)
        assert read <= 10 * (done + 1)
    stream.close()


def test_a_fault_of_the_stream_reaches_the_caller_after_what_came_before(bert):
    def faulty():
        yield from many(25)
        raise RuntimeError("the source broke")

    arrays = []
    with pytest.raises(RuntimeError, match="the source broke"):
        arrays.extend(vectors_of(bert, faulty(), EncodeSettings(chunk_sentences=10)))
    assert len(arrays) == 1  # the second chunk was still on its way


def test_progress_counts_sentences(bert):
    seen = []
    Encoder(bert, settings=EncodeSettings(chunk_sentences=10)).run(
        many(25), on_progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(10, 25), (20, 25), (25, 25)]


def test_nothing_gives_no_rows(bert):
    assert Encoder(bert).encode([]).shape == (0, 16)
    assert list(vectors_of(bert, [])) == []


@pytest.mark.parametrize("limit", [3, 5, 10, None])
def test_truncated_sentences_are_counted(bert, limit):
    texts = [*many(30), "the " * 62, "the " * 63]  # with [CLS] and [SEP] 64, the model's limit, and 65
    lengths = [len(ids) for ids in tiny.tokenizer()(texts)["input_ids"]]
    got = Encoder(bert, settings=EncodeSettings(max_tokens=limit)).run(texts)
    assert got.truncated == sum(length > (limit or 64) for length in lengths)
    expected = bert.encode(texts, processing_kwargs={"text": {"max_length": limit}} if limit else None)
    np.testing.assert_allclose(got.vectors, expected, atol=1e-5)


def test_the_models_tokenizer_and_mode_stay_as_they_are(bert):
    before = bert.tokenizer.backend_tokenizer.to_str()
    bert.train()
    first = Encoder(bert).encode(TEXTS)
    assert bert.training and bert.tokenizer.backend_tokenizer.to_str() == before
    bert.eval()
    assert (Encoder(bert).encode(TEXTS) == first).all()  # dropout was off all the same
    assert not bert.training


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_lower_precision_only_when_asked(bert, precision):
    exact = Encoder(bert).encode(TEXTS)
    rough = Encoder(bert, settings=EncodeSettings(precision=precision)).encode(TEXTS)
    assert rough.dtype == np.float32
    assert 0 < abs(rough - exact).max() < 0.2
    assert {parameter.dtype for parameter in bert.parameters()} == {torch.float32}


def test_normalize_gives_unit_vectors_of_the_same_direction(bert):
    plain, scaled = Encoder(bert).encode(TEXTS), Encoder(bert, settings=EncodeSettings(normalize=True)).encode(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(scaled, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(plain / np.linalg.norm(plain, axis=1, keepdims=True), scaled, atol=1e-6)


def test_forward_can_be_replaced_and_sees_bounded_batches(bert):
    texts, sizes = many(40), []

    def one_by_one(encoder, batch):
        assert batch.lengths.sum() == len(batch.input_ids)
        assert (np.diff(batch.lengths) <= 0).all()
        sizes.append(len(batch.lengths) * batch.lengths.max())
        starts = np.cumsum([0, *batch.lengths[:-1]])
        rows = [batch.input_ids[start : start + n] for start, n in zip(starts, batch.lengths, strict=True)]
        alone = [type(batch)(input_ids=row, lengths=np.array([len(row)])) for row in rows]
        return torch.cat([torch_forward(encoder, each) for each in alone])

    got = Encoder(bert, backend=one_by_one, settings=EncodeSettings(batch_tokens=60)).encode(texts)
    np.testing.assert_allclose(got, Encoder(bert).encode(texts), atol=1e-5)
    assert max(sizes) <= 60 and len(sizes) > 1


def test_a_stream_gives_free_memory_back_after_each_chunk(bert, monkeypatch):
    seen = []
    monkeypatch.setattr(encoding, "give_back", lambda: seen.append(done))
    done = 0
    for vectors in vectors_of(bert, many(40), EncodeSettings(chunk_sentences=10)):
        done += len(vectors)
    assert seen == [10, 20, 30]  # the last chunk's goes with the process


def test_batches_cover_every_row_within_the_budget():
    rng = np.random.default_rng(1)
    lengths = -np.sort(-rng.integers(1, 50, 300))
    cuts = list(batches(lengths, 200))
    assert [row for cut in cuts for row in range(300)[cut]] == list(range(300))
    assert all(len(lengths[cut]) * lengths[cut].max() <= 200 for cut in cuts)
    assert [len(lengths[cut]) for cut in batches(np.array([500, 400]), 200)] == [1, 1]


def test_chunks_end_early_at_many_characters():
    groups = list(chunks(["a" * 5, "b" * 5, "c"], EncodeSettings(chunk_characters=10)))
    assert groups == [["a" * 5, "b" * 5], ["c"]]


def test_bad_sentences_are_named(bert):
    with pytest.raises(UserError, match="sentence 2 must be text; got int"):
        Encoder(bert).run(["a", "b", 3])
    with pytest.raises(UserError, match="sentence 1 of its chunk must be Unicode text; got a lone surrogate"):
        Encoder(bert).run(["a", "b\udc80"])


@pytest.mark.parametrize("name", ["max_tokens", "batch_tokens", "chunk_sentences", "chunk_characters"])
def test_settings_are_positive(name):
    with pytest.raises(UserError, match=f"{name} must be at least 1; got 0"):
        EncodeSettings(**{name: 0})


@pytest.mark.parametrize(
    ("backend", "precision", "match"),
    [
        ("torch", "int4", "precision must be one of float32, float16, bfloat16, int8; got int4"),
        ("torch", "int8", "precision must be one of float32, float16, bfloat16 with backend torch; got int8"),
        ("onnx", "float16", "precision must be one of float32, int8 with backend onnx; got float16"),
    ],
)
def test_settings_name_a_precision_that_the_backend_has(bert, backend, precision, match):
    with pytest.raises(UserError, match=match):
        Encoder(bert, backend=backend, settings=EncodeSettings(precision=precision))


def test_limit_leaves_room_for_a_word(bert):
    with pytest.raises(UserError, match="max_tokens must be at least 3; got 2"):
        Tokeniser(bert, 2)


def test_vectors_that_are_not_finite_are_refused(bert):
    with torch.no_grad():
        bert[0].model.embeddings.word_embeddings.weight[tiny.VOCABULARY["cat"]] = float("nan")
    with pytest.raises(UserError, match="sentence vectors must be finite; got NaN or infinity in 1 of 2"):
        Encoder(bert).run(["the dog", "the cat"])


def test_a_models_default_prompt_is_used_unless_another_is_named(bert):
    plain = Encoder(bert).encode(["the dog", "red the dog"])
    bert.prompts, bert.default_prompt_name = {"sts": "red "}, "sts"
    np.testing.assert_allclose(Encoder(bert).encode("the dog"), plain[1:], atol=1e-6)
    np.testing.assert_allclose(Encoder(bert).encode("the dog"), bert.encode(["the dog"]), atol=1e-5)
    np.testing.assert_allclose(Encoder(bert).encode("the dog", prompt=""), plain[:1], atol=1e-6)
    np.testing.assert_allclose(
        Encoder(bert, settings=EncodeSettings(prompt="red ")).encode(["the dog"]), plain[1:], atol=1e-6
    )


def test_one_call_or_many_and_no_thread_for_a_small_input(bert, monkeypatch):
    encoder, texts = Encoder(bert), many(5)
    expected = Encoder(bert).encode(texts)
    monkeypatch.setattr(encoding, "ThreadPoolExecutor", None)
    copied = []
    monkeypatch.setattr(encoding, "Tokeniser", lambda *args: copied.append(1) or Tokeniser(*args))
    for text, row in zip(texts, expected, strict=True):
        np.testing.assert_allclose(encoder.encode(text)[0], row, atol=1e-6)
    assert copied == [1]


def test_texts_of_mostly_unknown_words_are_marked_and_counted(bert):
    texts = ["the cat", "qwx", "the qwx", "qwx zzz the", "", "喵"]
    encoder = Encoder(bert)
    assert encoder.run(texts).unknown.tolist() == [False, True, False, True, False, True]
    assert (encoder.texts, encoder.unknown) == (6, 3)


def test_word_vectors_and_models_that_know_their_prompt_go_through_the_library(bert):
    static = SentenceTransformer(modules=[StaticEmbedding(tiny.tokenizer(), embedding_dim=8)])
    encoder = Encoder(static, settings=EncodeSettings(normalize=True, dims=4, chunk_sentences=3))
    got = encoder.run([*tiny.SENTENCES, "qwx zzz"])
    expected = static.encode([*tiny.SENTENCES, "qwx zzz"])[:, :4]
    np.testing.assert_allclose(got.vectors, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-6)
    assert got.unknown.tolist() == [False] * 8 + [True] and encoder.width == 4
    bert[1].include_prompt = False
    bert.prompts = {"query": "the red "}
    np.testing.assert_allclose(
        Encoder(bert).encode_query(tiny.SENTENCES), bert.encode(tiny.SENTENCES, prompt_name="query"), atol=1e-6
    )


@pytest.mark.parametrize("dims", [0, 17])
def test_dims_are_those_of_the_model(bert, dims):
    with pytest.raises(UserError, match="dims must be"):
        Encoder(bert, settings=EncodeSettings(dims=dims))


class Table:
    """As pandas.DataFrame, which gives its columns' names when it is iterated."""

    columns = ("text",)

    def __iter__(self):
        return iter(self.columns)


@pytest.mark.parametrize(
    ("sentences", "got"),
    [
        (Table(), "a Table; give the column of text"),
        ({"a": 1}, "a dict"),
        (None, "None"),
        (3, "a int"),
        ({"a"}, "a set"),
        (b"a", "a bytes"),
        (np.array([["a"]]), "an array of 2 dimensions"),
        (np.array("a"), "an array of 0 dimensions"),
    ],
)
def test_what_is_no_list_of_sentences_is_refused_in_one_line(bert, sentences, got):
    with pytest.raises(UserError, match=rf"sentences must be a string or several of them \(.*\); got {got}"):
        Encoder(bert).encode(sentences)


def test_generators_arrays_tuples_and_columns_are_lists(bert):
    expected = Encoder(bert).encode(tiny.SENTENCES)
    series = pytest.importorskip("pandas").Series(tiny.SENTENCES, index=range(5, 13))
    for form in (tuple(tiny.SENTENCES), iter(tiny.SENTENCES), np.array(tiny.SENTENCES), series):
        assert (Encoder(bert).encode(form) == expected).all()
    with pytest.raises(UserError, match="sentence 1 must be text; got float"):
        Encoder(bert).encode(np.array(["a", np.nan], dtype=object))


def test_word_vectors_have_no_limit_which_json_can_say(bert):
    static = SentenceTransformer(modules=[StaticEmbedding(tiny.tokenizer(), embedding_dim=8)])
    assert static.max_seq_length == float("inf")
    assert Encoder(static).limit is None
    assert Encoder(static, settings=EncodeSettings(max_tokens=7)).limit == 7
