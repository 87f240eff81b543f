"""An exported graph gives the model's vectors at any shape, and never stands where it could be taken for another's."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize

from diffcse.encoding.backends import input_names, open_graph
from diffcse.encoding.encode import Encoder, EncodeSettings
from diffcse.errors import MissingExtra, UserError
from diffcse.export import export as exporting
from diffcse.export.graphs import TOOLS
from diffcse.persistence.load import load_encoder
from tests import tiny
from tests.cli.command import invoke
from tests.killing import Killed, killed_at

INSTALLED = {"onnx": ("onnx", "onnxruntime"), "openvino": ("openvino", "nncf")}
RAGGED = [*tiny.SENTENCES, "", "the", "the cat sat " * 12, "a very long text " * 40]
"""From two tokens to more than the model takes."""


def need(backend):
    for module in INSTALLED[backend]:
        pytest.importorskip(module, reason=f"needs {module}")


def saved(folder: Path, family: str = "bert", pooler: str = "avg", **changes) -> Path:
    """A model folder of the family, as training leaves it."""
    plain = tiny.save(tiny.encoder(family, **changes), folder.with_name(f"{folder.name}-plain"))
    load_encoder(plain, pooler=pooler).save(str(folder), create_model_card=False)
    return folder


def graph(folder, backend, precision="float32"):
    return Encoder(folder, backend=backend, settings=EncodeSettings(precision=precision)).encode


def exported(model, folder, backend, **more):
    return exporting.export_model(model, folder, backend, sentences=tiny.SENTENCES, **more)


def check_equal(folder, backend, atol=1e-5):
    model = load_encoder(folder)
    encoder = graph(folder, backend)
    theirs = model.encode(RAGGED, show_progress_bar=False)
    np.testing.assert_allclose(encoder(RAGGED), theirs, atol=atol)
    for one in (1, 2):  # other numbers of sentences than at the export
        np.testing.assert_allclose(encoder(RAGGED[:one]), theirs[:one], atol=atol)


@pytest.mark.parametrize(
    ("backend", "family", "pooler"),
    [
        ("onnx", "bert", "avg"),
        ("onnx", "roberta", "cls"),
        ("onnx", "distilbert", "avg_top2"),
        ("onnx", "deberta-v2", "avg_first_last"),
        ("onnx", "modernbert", "cls"),
        ("openvino", "bert", "avg_first_last"),
        ("openvino", "distilbert", "cls"),
    ],
)
def test_the_graph_gives_the_models_vectors_for_any_number_and_length(tmp_path, backend, family, pooler):
    need(backend)
    folder = saved(tmp_path / "model", family, pooler)
    (compared,) = exported(load_encoder(folder), folder, backend)
    assert compared.max_abs_difference < 1e-5
    assert compared.mean_cosine == pytest.approx(1, abs=1e-5)
    check_equal(folder, backend)


@pytest.mark.parametrize("backend", TOOLS)
def test_int8_stays_near_and_is_smaller(tmp_path, backend):
    need(backend)
    folder = saved(tmp_path / "model", hidden_size=64, intermediate_size=256)
    float32, int8 = exported(load_encoder(folder), folder, backend, int8=True)
    assert 0 < float32.max_abs_difference < int8.max_abs_difference
    assert int8.megabytes < float32.megabytes
    assert int8.lowest_cosine > 0.95
    vectors = graph(folder, backend, "int8")(tiny.SENTENCES)
    theirs = load_encoder(folder).encode(tiny.SENTENCES, show_progress_bar=False)
    cosines = (vectors * theirs).sum(1) / (np.linalg.norm(vectors, axis=1) * np.linalg.norm(theirs, axis=1))
    assert cosines.min() > 0.95
    assert cosines.min() == pytest.approx(int8.lowest_cosine, abs=1e-4)


def test_modules_behind_the_pooling_are_applied(tmp_path):
    need("onnx")
    plain = load_encoder(tiny.save(tiny.encoder(), tmp_path / "plain"))
    SentenceTransformer(modules=[*plain, Dense(16, 4), Normalize()]).save(str(tmp_path / "dense"))
    exported(load_encoder(tmp_path / "dense"), tmp_path / "dense", "onnx")
    check_equal(tmp_path / "dense", "onnx")


def test_the_graph_is_as_serving_tools_want_it(tmp_path):
    need("onnx")
    import onnxruntime

    folder = saved(tmp_path / "model")
    exported(load_encoder(folder), folder, "onnx")
    session = onnxruntime.InferenceSession(folder / "onnx" / "model.onnx")
    assert [one.name for one in session.get_inputs()] == ["input_ids", "attention_mask", "token_type_ids"]
    assert [one.name for one in session.get_outputs()] == ["last_hidden_state"]
    assert session.get_inputs()[0].shape == ["batch_size", "sequence_length"]
    assert session.get_outputs()[0].shape[2] == 16


def test_inputs_are_those_that_the_backbone_takes(tmp_path):
    assert input_names(load_encoder(tiny.save(tiny.encoder("distilbert"), tmp_path))) == ["input_ids", "attention_mask"]


def test_limits_and_counts_are_the_same_with_a_graph(tmp_path):
    need("onnx")
    folder = saved(tmp_path / "model")
    model = load_encoder(folder)
    exported(model, folder, "onnx")
    settings = EncodeSettings(normalize=True, batch_tokens=20, max_tokens=9)
    theirs = Encoder(model, backend="onnx", folder=folder, settings=settings).run(RAGGED)
    original = Encoder(model, settings=settings).run(RAGGED)
    np.testing.assert_allclose(theirs.vectors, original.vectors, atol=1e-5)
    assert theirs.truncated == original.truncated > 0


def test_a_new_folder_gets_the_model_too(tmp_path):
    need("onnx")
    model = load_encoder(saved(tmp_path / "model"))
    exported(model, tmp_path / "new", "onnx")
    check_equal(tmp_path / "new", "onnx")
    assert {path.name for path in tmp_path.iterdir()} == {"model", "model-plain", "new"}
    again = SentenceTransformer(str(tmp_path / "new")).encode(tiny.SENTENCES, show_progress_bar=False)
    np.testing.assert_allclose(again, model.encode(tiny.SENTENCES, show_progress_bar=False), atol=1e-6)


def test_an_earlier_export_is_replaced_and_one_of_other_weights_is_not_used(tmp_path):
    need("onnx")
    folder = saved(tmp_path / "model")
    exported(load_encoder(folder), folder, "onnx", int8=True)
    saved(tmp_path / "model", seed=9)  # trained again, into the same folder
    with pytest.raises(UserError, match=r"must be made from the weights next to it; got .* diffcse export"):
        graph(folder, "onnx")
    exported(load_encoder(folder), folder, "onnx")
    check_equal(folder, "onnx")
    with pytest.raises(UserError, match=r"model_quantized.onnx must be a graph made by diffcse export; .* --int8"):
        graph(folder, "onnx", "int8")
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_a_kill_leaves_the_earlier_export_in_place(tmp_path, monkeypatch):
    need("onnx")
    folder = saved(tmp_path / "model")
    exported(load_encoder(folder), folder, "onnx")

    monkeypatch.setattr(exporting, "_checked", killed_at(exporting._checked))
    with pytest.raises(Killed):
        exported(load_encoder(folder), folder, "onnx")
    check_equal(folder, "onnx")


def test_a_wrong_graph_never_gets_into_place(tmp_path, monkeypatch):
    need("onnx")
    folder = saved(tmp_path / "model")
    real = exporting.compare

    def off(*arguments):
        ours, theirs = real(*arguments)
        return ours, theirs + 0.01 * np.abs(ours).max()

    monkeypatch.setattr(exporting, "compare", off)
    with pytest.raises(UserError, match="the onnx graph must be equal to the model to rounding"):
        exported(load_encoder(folder), folder, "onnx")
    assert not (folder / "onnx").exists()
    with pytest.raises(UserError, match="the onnx graph must be equal to the model to rounding"):
        exported(load_encoder(folder), tmp_path / "new", "onnx")
    assert not (tmp_path / "new").exists()


def test_foreign_folders_are_left_alone(tmp_path):
    need("onnx")
    folder = saved(tmp_path / "model")
    model = load_encoder(folder)
    (tmp_path / "photos").mkdir()
    with pytest.raises(UserError, match="must be new, or the model's own; got a folder with something else"):
        exported(model, tmp_path / "photos", "onnx")
    with pytest.raises(UserError, match="must be new, or the model's own; got another model"):
        exported(model, saved(tmp_path / "other", seed=5), "onnx")
    with pytest.raises(UserError, match="must be in an existing folder"):
        exported(model, tmp_path / "no" / "where", "onnx")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(b"somebody's")
    with pytest.raises(UserError, match="must be absent, or an earlier export by diffcse"):
        exported(model, folder, "onnx")
    assert (folder / "onnx" / "model.onnx").read_bytes() == b"somebody's"


def test_missing_backend_is_said_first(tmp_path, monkeypatch):
    pytest.importorskip("onnx", reason="needs onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtra, match=r"pip install 'diffcse\[onnx\]'"):
        exporting.check_installed("onnx", int8=False)
    with pytest.raises(MissingExtra, match=r"OpenVINO must be installed; .*pip install 'diffcse\[openvino\]'"):
        exported(load_encoder(tiny.save(tiny.encoder(), tmp_path)), tmp_path, "openvino")


@pytest.mark.parametrize(
    ("backend", "precision", "match"),
    [
        ("onnx", "float32", r"must be a graph made by diffcse export; got no such file"),
        ("tensorrt", "float32", "backend must be one of onnx, openvino"),
        ("onnx", "fp8", "precision must be one of float32, int8"),
    ],
)
def test_what_is_not_there_is_refused(tmp_path, backend, precision, match):
    with pytest.raises(UserError, match=match):
        open_graph(None, tmp_path, backend, precision)


def run(*arguments):
    return invoke("export", *arguments)


def test_command_line(tmp_path):
    need("onnx")
    folder = saved(tmp_path / "model")
    text = tiny.write_sentences(tmp_path / "text.txt", 12)
    done = run(folder, "--to", "onnx", "--int8", "--check", text)
    assert done.exit_code == 0
    assert "model/onnx/model.onnx: float32" in done.stdout and "on 12 sentences: largest difference" in done.stdout
    assert json.loads((folder / "onnx" / "export.json").read_text())["checks"][1]["precision"] == "int8"


@pytest.mark.parametrize(("model", "folder"), [("bundled", "bundled-onnx"), ("plain", "plain-onnx")])
def test_a_model_that_cannot_hold_its_graph_gets_a_folder_of_its_own(tmp_path, monkeypatch, model, folder):
    need("onnx")
    monkeypatch.chdir(tmp_path)
    tiny.save(tiny.encoder(), tmp_path / "plain")
    text = tiny.write_sentences(tmp_path / "text.txt", 4)
    assert f"{folder}/onnx/model.onnx: float32" in run(model, "--to", "onnx", "--check", text).stdout
    check_equal(tmp_path / folder, "onnx")
    run(model, "--to", "onnx", "--check", text)  # again, over the first
    assert not (tmp_path / "plain" / "onnx").exists()
