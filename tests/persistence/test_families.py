"""Models of the families that people use: each encodes as sentence-transformers does, and trains or is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

from diffcse.encoding.encode import Encoder
from diffcse.errors import UserError
from diffcse.method import pooling
from diffcse.persistence.load import load_encoder
from diffcse.persistence.save import own_pooler
from diffcse.presets import build
from diffcse.training.train import train
from tests import tiny
from tests.persistence import families

ALL = families.TRAINED | {name: save for name, (save, _) in families.REFUSED.items()}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The folder of a family, saved when it is first asked for."""
    place, saved = tmp_path_factory.mktemp("families"), {}

    def folder(family) -> Path:
        if family not in saved:
            model = place / str(len(saved)) / "model"
            model.parent.mkdir()
            ALL[family](model)
            saved[family] = model
        return saved[family]

    return folder


def texts(family):
    return families.JAPANESE * 4 if "Japanese" in family else tiny.SENTENCES


def by_library(folder, family):
    """The vectors of sentence-transformers' own encode, one text at a time: some decoders read padding too."""
    if (folder / "modules.json").is_file():
        model = SentenceTransformer(str(folder), device="cpu")
    else:  # a plain encoder, which is [CLS] here and a mean there
        transformer = Transformer(str(folder))
        cls = Pooling(transformer.get_embedding_dimension(), pooling_mode="cls")
        model = SentenceTransformer(modules=[transformer, cls], device="cpu")
    return model.encode(texts(family), batch_size=1)


def check_equal(vectors, expected):
    np.testing.assert_allclose(vectors, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("family", [family for family in ALL if "authors" not in family])  # no library reads theirs
def test_encodes_as_sentence_transformers_does(folders, family):
    folder = folders(family)
    check_equal(Encoder(folder).encode(texts(family)), by_library(folder, family))


@pytest.mark.parametrize("family", families.TRAINED)
def test_trains_and_the_saved_model_is_plain(folders, tmp_path, family):
    start, lines = load_encoder(folders(family)), tmp_path / "text.txt"
    before = Encoder(start).encode(texts(family))
    lines.write_text("\n".join(texts(family) * 2), encoding="utf-8")
    settings = {"preset": "small", "objective": "simcse", "batch_size": 4, "max_steps": 2, "learning_rate": 1e-2}
    config = build(**settings, encoder=str(folders(family)))
    assert train([lines], tmp_path / "model", config, cache_dir=tmp_path / "cache").finished
    model = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    assert [type(module) for module in model] == [type(module) for module in start]
    assert model.prompts == start.prompts and model.default_prompt_name == start.default_prompt_name
    assert model.max_seq_length == start.max_seq_length
    vectors = model.encode(texts(family), batch_size=1)
    check_equal(Encoder(tmp_path / "model").encode(texts(family)), vectors)
    assert np.abs(vectors - before).max() > 1e-3 * np.abs(before).max()  # it was trained


@pytest.mark.parametrize("family", families.REFUSED)
def test_is_refused_before_the_text_is_read(folders, tmp_path, family):
    config = build(preset="small", objective="simcse", encoder=str(folders(family)))
    with pytest.raises(UserError, match=families.REFUSED[family][1]) as refusal:
        train([tmp_path / "no text.txt"], tmp_path / "model", config)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "model").exists()


def test_adapters_apart_from_their_model_are_refused(tmp_path):
    families._lora(tmp_path / "model", merged=False)
    with pytest.raises(UserError, match=r"adapters are merged; got adapter_config\.json; merge the adapters into"):
        load_encoder(tmp_path / "model")
    (tmp_path / "model" / "modules.json").unlink()
    with pytest.raises(UserError, match="must be a model folder; got adapters alone; merge the adapters into"):
        load_encoder(tmp_path / "model")


@pytest.mark.parametrize("version", [1, 2, 3, 5])
def test_older_layouts_give_the_vectors_of_todays(folders, version):
    family = f"sentence-transformers {version}"
    check_equal(Encoder(folders(family)).encode(tiny.SENTENCES), Encoder(folders("MiniLM")).encode(tiny.SENTENCES))
    assert load_encoder(folders(family)).max_seq_length == 60
    assert load_encoder(folders(family)).prompts["query"] == ("" if version <= 2 else "find: ")


@pytest.mark.parametrize("family", ["GPT-2", "Qwen3-Embedding", "T5", "XLM-R"])
def test_training_pads_on_the_right_and_still_pools_what_the_saved_model_pools(folders, family):
    model = load_encoder(folders(family))
    batch = model.tokenizer(tiny.SENTENCES, padding=True, padding_side="right", return_tensors="pt")
    ids, mask = batch["input_ids"], batch["attention_mask"]
    with torch.no_grad():
        vectors = pooling.encode(model[0].model, ids, mask, own_pooler(model, family))
        if isinstance(model[-1], Normalize):
            vectors = torch.nn.functional.normalize(vectors)
    check_equal(vectors.numpy(), by_library(folders(family), family))
