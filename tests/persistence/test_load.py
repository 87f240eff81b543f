"""Every form that a sentence encoder comes in gives the vectors of the backbone inside it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize
from transformers.utils import logging as transformers_logging

from diffcse.errors import UserError
from diffcse.method import pooling
from diffcse.persistence.load import load_encoder
from diffcse.resources import bundled
from tests import tiny

POOLERS = ("cls", "avg", "avg_top2", "avg_first_last", "last")


def by_hand(backbone, pooler="cls"):
    """The vectors of tiny.SENTENCES by the pooler that training uses."""
    batch = tiny.tokenizer()(tiny.SENTENCES, padding=True, return_tensors="pt")
    with torch.no_grad():
        return pooling.encode(backbone.eval(), batch["input_ids"], batch["attention_mask"], pooler).numpy()


def vectors(model):
    return model.encode(tiny.SENTENCES, show_progress_bar=False)


def drop_weights(folder: Path, part: str) -> None:
    path = folder / "model.safetensors"
    save_file({name: value for name, value in load_file(path).items() if part not in name}, path, {"format": "pt"})


def published(folder: Path, family: str, encoder: torch.nn.Module, *, file: str) -> Path:
    """A folder as the authors' trainer leaves it: their class's state, with an encoder, a discriminator and heads."""
    tiny.save(encoder, folder)
    (folder / "model.safetensors").unlink()
    aux, generator = tiny.encoder(family, seed=7), tiny.mlm("distilbert", seed=8)
    state = {f"{family}.{name}": value for name, value in encoder.state_dict().items() if "pooler" not in name}
    state |= {f"aux_bert.{name}": value for name, value in aux.state_dict().items()}
    state |= {f"discriminator.{name}": value for name, value in aux.state_dict().items()}
    state |= {f"generator.{name}": value.clone() for name, value in generator.state_dict().items()}
    state |= {"lm_head.bias": torch.ones(5), "electra_head.weight": torch.ones(2, 16)}
    state |= {"mlp.net.0.weight": torch.ones(32, 16)}
    state = {name: value.contiguous() for name, value in state.items()}
    if file.endswith(".bin"):
        torch.save(state, folder / file)
    else:
        save_file({name: value.clone() for name, value in state.items()}, folder / file, {"format": "pt"})
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"architectures": [f"{family.capitalize()}ForCL"]}))
    return folder


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("pooler", POOLERS)
def test_plain_encoder_gives_its_pooled_layers_and_survives_saving(tmp_path, family, pooler):
    backbone = tiny.encoder(family)
    model = load_encoder(tiny.save(backbone, tmp_path / "plain"), pooler=pooler)
    np.testing.assert_allclose(vectors(model), by_hand(backbone, pooler), atol=1e-5)
    model.save(str(tmp_path / "saved"), create_model_card=False)
    again = load_encoder(tmp_path / "saved")
    assert (vectors(again) == vectors(model)).all()
    assert not again.training


def test_pooler_defaults_to_cls_and_knows_the_published_name(tmp_path):
    folder = tiny.save(tiny.encoder(), tmp_path)
    first = vectors(load_encoder(folder))
    assert (first == vectors(load_encoder(folder, pooler="cls"))).all()
    assert (first == vectors(load_encoder(folder, pooler="cls_before_pooler"))).all()


def test_masked_language_model_loads_as_its_encoder(tmp_path):
    network = tiny.mlm("bert")
    np.testing.assert_allclose(vectors(load_encoder(tiny.save(network, tmp_path))), by_hand(network.bert), atol=1e-5)


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.safetensors"])
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_authors_training_state_loads_as_the_encoder_before_the_projector(tmp_path, family, file):
    encoder = tiny.encoder(family, seed=3)
    model = load_encoder(published(tmp_path, family, encoder, file=file))
    np.testing.assert_allclose(vectors(model), by_hand(encoder), atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_authors_published_plain_state_in_bin(tmp_path, family):
    encoder = tiny.encoder(family, seed=3)
    tiny.save(encoder, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(encoder.state_dict(), tmp_path / "pytorch_model.bin")
    np.testing.assert_allclose(vectors(load_encoder(tmp_path)), by_hand(encoder), atol=1e-5)


def test_authors_state_without_a_layer_is_refused(tmp_path):
    folder = published(tmp_path, "bert", tiny.encoder(), file="model.safetensors")
    drop_weights(folder, "bert.encoder.layer.1")
    with pytest.raises(
        UserError, match=r"weights in .* must be complete; got 16 of them missing, such as encoder\.layer\.1"
    ):
        load_encoder(folder)


def test_plain_state_without_a_layer_is_refused(tmp_path):
    tiny.save(tiny.encoder(), tmp_path)
    drop_weights(tmp_path, "layer.1")
    with pytest.raises(UserError, match=r"must be complete; got 16 of them missing, such as encoder\.layer\.1"):
        load_encoder(tmp_path)


def test_half_precision_folder_loads_in_float32(tmp_path):
    backbone = tiny.encoder()
    load_encoder(tiny.save(backbone, tmp_path / "plain")).half().save(str(tmp_path / "half"))
    stored = load_file(tmp_path / "half" / "model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float16}
    model = load_encoder(tmp_path / "half")
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    rounded = tiny.encoder()
    rounded.load_state_dict({name: value.half().float() for name, value in backbone.state_dict().items()})
    np.testing.assert_allclose(vectors(model), by_hand(rounded), atol=1e-5)


def test_loading_leaves_the_random_generator_and_the_verbosity_alone(tmp_path):
    tiny.save(tiny.encoder(), tmp_path)
    drop_weights(tmp_path, "pooler")
    torch.manual_seed(5)
    before, level = torch.get_rng_state(), transformers_logging.get_verbosity()
    first, second = load_encoder(tmp_path), load_encoder(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert transformers_logging.get_verbosity() == level
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


def test_code_in_a_folder_needs_permission(tmp_path):
    load_encoder(tiny.save(tiny.encoder(), tmp_path / "plain")).save(str(tmp_path / "model"))
    listing = tmp_path / "model" / "modules.json"
    modules = json.loads(listing.read_text())
    modules[1]["type"] = "own.Own"
    listing.write_text(json.dumps(modules))
    (tmp_path / "model" / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(UserError, match="read the code that comes with it, then set trust_remote_code"):
        load_encoder(tmp_path / "model")
    assert not (tmp_path / "ran").exists()


def test_pooler_replaces_a_sentence_transformers_own(tmp_path):
    backbone = tiny.encoder()
    load_encoder(tiny.save(backbone, tmp_path / "plain"), pooler="avg").save(str(tmp_path / "avg"))
    np.testing.assert_allclose(vectors(load_encoder(tmp_path / "avg")), by_hand(backbone, "avg"), atol=1e-5)
    np.testing.assert_allclose(vectors(load_encoder(tmp_path / "avg", pooler="cls")), by_hand(backbone), atol=1e-5)


def test_dense_is_kept_behind_another_pooler(tmp_path):
    plain = load_encoder(tiny.save(tiny.encoder(), tmp_path / "plain"))
    SentenceTransformer(modules=[*plain, Dense(16, 4), Normalize()]).save(str(tmp_path / "dense"))
    assert vectors(load_encoder(tmp_path / "dense")).shape == (len(tiny.SENTENCES), 4)
    other = load_encoder(tmp_path / "dense", pooler="cls")
    assert [type(module).__name__ for module in other] == ["Transformer", "Pooling", "Dense", "Normalize"]
    assert vectors(other).shape == (len(tiny.SENTENCES), 4) and other[1].pooling_mode == "cls"


def test_longest_sentence_fits_the_table_of_positions(tmp_path):
    for family, room in (("bert", 64), ("roberta", 63)):
        model = load_encoder(tiny.save(tiny.encoder(family), tmp_path / family))
        assert model.max_seq_length == room
        assert np.isfinite(model.encode(["the cat " * 100])).all()


def broken(folder: Path, how: str) -> Path:
    tiny.save(tiny.encoder(), folder)
    weights = folder / "model.safetensors"
    if how == "no weights":
        weights.unlink()
    elif how == "cut weights":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif how == "no tokenizer":
        for path in [*folder.glob("tokenizer*"), *folder.glob("vocab*")]:
            path.unlink()
    elif how == "no json":
        (folder / "config.json").write_text("{")
    elif how == "other size":
        settings = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(settings | {"hidden_size": 8}))
    return folder


@pytest.mark.parametrize("how", ["no weights", "cut weights", "no json", "other size"])
def test_damaged_folder_is_one_line(tmp_path, how):
    match = r"must be a model that can be loaded; got .*check that the folder"
    if how == "no json":
        match = r"must be readable \(its config\.json is not\); got Expecting property name .*; get the folder again"
    with pytest.raises(UserError, match=match) as caught:
        load_encoder(broken(tmp_path, how))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("folder", "changes", "got"),
    [
        ("2_Dense", {"module_input_name": "9"}, "'9'"),
        ("2_Dense", {"module_output_name": 9}, "9 as the name of an input or output"),
        ("2_Dense", {"in_features": "16"}, ".*"),
        ("2_Dense", {"out_features": None}, ".*"),
        ("2_Dense", {"use_residual": [1]}, ".*"),
        ("2_Dense", {"activation_function": "torch.nn.GLU"}, r"a vector of shape \(1, 2\) .* its settings say 4"),
        ("3_Normalize", {"module_input_name": []}, ".*"),
        ("3_Normalize", {"module_input_name": 9}, "9 as the name of an input or output"),
        ("3_Normalize", {"module_output_name": {}}, ".*"),
    ],
)
def test_settings_of_a_module_that_do_not_fit_are_one_line(tmp_path, folder, changes, got):
    plain = load_encoder(tiny.save(tiny.encoder(), tmp_path / "plain"))
    SentenceTransformer(modules=[*plain, Dense(16, 4), Normalize()]).save(str(tmp_path / "dense"))
    settings = tmp_path / "dense" / folder / "config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | changes))
    line = f"dense must be a model that can be loaded; got {got}.*; check that"
    with pytest.raises(UserError, match=line) as refusal:
        load_encoder(tmp_path / "dense")
    assert "\n" not in str(refusal.value)


def test_tokenizer_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(UserError, match="tokenizer must be one with a vocabulary; got special tokens only"):
        load_encoder(broken(tmp_path / "none", "no tokenizer"))
    with pytest.raises(UserError, match="tokenizer must be one with ids below 20, the rows of the embedding table"):
        load_encoder(tiny.save(tiny.encoder(vocab_size=20), tmp_path / "small"))


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("./nowhere", "must be an existing folder or a Hub name; got no such folder"),
        ("a/b/c", "must be an existing folder or a Hub name; got no such folder"),
        ("", "must be an existing folder or a Hub name; got no such folder"),
        ("two words", "hub or its cache has; got Repo id must"),
    ],
)
def test_bad_name_is_one_line(name, match):
    with pytest.raises(UserError, match=f"(?i){match}"):
        load_encoder(name)


def test_file_or_empty_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="must be a model folder; got a folder without config"):
        load_encoder(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="must be a folder or a Hub name; got a file"):
        load_encoder(tmp_path / "file")


def test_unknown_pooler(tmp_path):
    with pytest.raises(UserError, match="pooler must be one of cls, avg"):
        load_encoder(tmp_path, pooler="max")


def test_a_model_that_is_not_bundled():
    with pytest.raises(UserError, match=r"bundled model must be in this copy of the package \(resources/nothing\)"):
        bundled("nothing")


def hub_cache(root: Path, name: str, source: Path) -> dict[str, str]:
    """A Hub cache that holds the folder under that name, and the environment that uses it without a network."""
    repository = root / f"models--{name.replace('/', '--')}"
    shutil.copytree(source, repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    return {**os.environ, "HF_HUB_CACHE": str(root), "HF_HUB_OFFLINE": "1"}


def test_hub_name_from_the_cache_and_a_missing_one_offline(tmp_path):
    encoder = tiny.encoder("bert", seed=3)
    source = published(tmp_path / "source", "bert", encoder, file="pytorch_model.bin")
    environment = hub_cache(tmp_path / "cache", "voidism/diffcse-bert-base-uncased-sts", source)
    script = (
        "import numpy, sys; from diffcse.persistence.load import load_encoder; from tests import tiny\n"
        "model = load_encoder('voidism/diffcse-bert-base-uncased-sts')\n"
        "numpy.save(sys.argv[1], model.encode(tiny.SENTENCES))\n"
        "try: load_encoder('voidism/other')\n"
        "except ValueError as error: print(error)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "out.npy")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), by_hand(encoder), atol=1e-5)
    assert "offline, download it elsewhere (hf download voidism/other) and give the folder" in done.stdout
    assert len(done.stdout.splitlines()) == 1
