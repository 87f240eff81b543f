import numpy as np
import pytest
import torch
from diffcse.evaluation.load import load_encoder
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding
from transformers import AutoModel, AutoTokenizer

from diffcse.encoding.encode import Encoder
from diffcse.errors import UserError
from diffcse.method import pooling
from diffcse.persistence.load import load_encoder as load_model
from tests import tiny

POOLERS = ("cls", "avg", "avg_top2", "avg_first_last", "last")


def pooled(folder: str, pooler: str) -> np.ndarray:
    """The definition, sentence by sentence, from the plain Transformer."""
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    rows = []
    with torch.inference_mode():
        for sentence in tiny.SENTENCES:
            ids = tokenizer(sentence, return_tensors="pt")
            rows.append(pooling.encode(model, ids["input_ids"], ids["attention_mask"], pooler)[0].numpy())
    return np.stack(rows)


@pytest.mark.parametrize("pooler", POOLERS)
def test_poolers_of_a_plain_encoder(folder: str, pooler: str) -> None:
    encoder = load_encoder(folder, pooler=pooler)
    np.testing.assert_allclose(encoder.encode(tiny.SENTENCES), pooled(folder, pooler), atol=1e-5)


def test_a_plain_encoder_gives_cls(folder: str) -> None:
    np.testing.assert_allclose(load_encoder(folder).encode(tiny.SENTENCES), pooled(folder, "cls"), atol=1e-5)


def test_a_sentence_transformer_is_taken_as_it_is_unless_a_pooler_is_named(folder: str, tmp_path) -> None:
    model = load_model(folder, pooler="avg")
    model.save(str(tmp_path / "st"))
    loaded = load_encoder(str(tmp_path / "st"))
    np.testing.assert_allclose(loaded.encode(tiny.SENTENCES), pooled(folder, "avg"), atol=1e-5)
    again = load_encoder(str(tmp_path / "st"), pooler="cls")
    np.testing.assert_allclose(again.encode(tiny.SENTENCES), pooled(folder, "cls"), atol=1e-5)


def test_modules_behind_the_pooling_take_part(folder: str) -> None:
    model = load_model(folder)
    model.append(Normalize())
    vectors = Encoder(model).encode(tiny.SENTENCES)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_cut_sentences_are_counted_and_only_at_the_limit(folder: str) -> None:
    encoder = load_encoder(folder)
    assert encoder.limit == 64
    encoder.encode(["the cat sat", " ".join(["cat"] * 62), " ".join(["cat"] * 63)])
    assert encoder.truncated == 1
    encoder.encode([" ".join(["dog"] * 80)])
    assert encoder.truncated == 2


def test_progress_ends_at_the_whole(folder: str) -> None:
    seen: list[tuple[int, int]] = []
    load_encoder(folder).encode(tiny.SENTENCES, on_progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(tiny.SENTENCES), len(tiny.SENTENCES))


def test_models_that_need_their_own_way_get_it(folder: str) -> None:
    static = SentenceTransformer(modules=[StaticEmbedding(tiny.tokenizer(), embedding_dim=8)])
    np.testing.assert_array_equal(Encoder(static).encode(tiny.SENTENCES), static.encode(tiny.SENTENCES))
    prompted = load_model(folder)
    prompted.prompts, prompted.default_prompt_name = {"sts": "the cat "}, "sts"
    encoder = Encoder(prompted)
    np.testing.assert_allclose(encoder.encode(["sat"]), load_encoder(folder).encode(["the cat sat"]), atol=1e-5)
    encoder.encode([" ".join(["dog"] * 80)])
    assert encoder.truncated == 1


def test_a_model_that_is_not_there(tmp_path) -> None:
    with pytest.raises(UserError, match="must be an existing folder or a Hub name; got no such folder"):
        load_encoder(str(tmp_path / "nothing"))


def test_a_device_that_is_not_there(folder: str) -> None:
    with pytest.raises(UserError, match="device must be one that torch knows"):
        load_encoder(folder, device="abacus")
