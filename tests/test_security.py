"""Nothing that comes with a model is run: no pickle, no code, unless the user asks for the code."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense

import diffcse
from diffcse.config import ModelConfig
from diffcse.errors import UserError
from diffcse.persistence.load import load_encoder
from diffcse.training.networks import load_generator
from tests import tiny

SOURCES = sorted(Path(diffcse.__file__).parent.rglob("*.py"))


class Attack:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


def pickled(folder: Path, state: object) -> Path:
    """The folder's weights in the old pickled file, and no others."""
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    return folder


def sentence_transformer(folder: Path, *more: torch.nn.Module) -> Path:
    plain = load_encoder(tiny.save(tiny.encoder(), folder.with_name(f"{folder.name}-plain")))
    SentenceTransformer(modules=[*plain, *more]).save(str(folder), create_model_card=False)
    return folder


@pytest.mark.parametrize("inside", [None, "", "2_Dense"], ids=["an encoder alone", "a model", "its dense layer"])
def test_a_pickle_is_not_run(tmp_path, inside):
    folder = tmp_path / "model"
    tiny.save(tiny.encoder(), folder) if inside is None else sentence_transformer(folder, Dense(16, 4))
    pickled(folder / (inside or ""), {"linear.weight": Attack(tmp_path / "attacked")})
    with pytest.raises(UserError, match="must be a model that can be loaded"):
        load_encoder(folder)
    assert not (tmp_path / "attacked").exists()


def test_the_attack_would_work(tmp_path):
    torch.save({"a": Attack(tmp_path / "attacked")}, tmp_path / "file")
    torch.load(tmp_path / "file", weights_only=False)
    assert (tmp_path / "attacked").exists()


def test_tensors_alone_in_an_old_file_are_read(tmp_path):
    folder = sentence_transformer(tmp_path / "model")
    before = load_encoder(folder)
    pickled(folder, before[0].model.state_dict())
    after = load_encoder(folder)
    np.testing.assert_array_equal(after.encode(tiny.SENTENCES), before.encode(tiny.SENTENCES))


def test_training_reads_no_old_file_at_all(tmp_path):
    tiny.save(tiny.mlm(), tmp_path)
    pickled(tmp_path, tiny.mlm().state_dict())
    with pytest.raises(UserError, match=r"must be a model that can be loaded; got .*safetensors"):
        load_generator(ModelConfig(generator=str(tmp_path)))


def test_code_of_a_configuration_needs_permission(tmp_path):
    tiny.save(tiny.encoder(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModel": "own.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(UserError, match="read the code that comes with it, then set trust_remote_code"):
        load_encoder(tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_no_source_unpickles(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {word.arg: ast.unparse(word.value) for word in node.keywords}
        assert not name.startswith(("pickle.load", "pickle.Unpickler", "cloudpickle.", "dill.", "joblib.load"))
        assert name not in ("eval", "exec", "os.system")
        if name == "torch.load":
            assert given["weights_only"] == "True"
        assert given.get("allow_pickle", "False") == "False"
        assert given.get("trust_remote_code", "False") != "True"
        assert given.get("shell", "False") == "False"
