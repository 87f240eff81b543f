"""diffcse encode with an exported graph, and what it refuses to combine."""

import json

import numpy as np
import pytest

from diffcse import DiffCSE
from diffcse.errors import UserError
from diffcse.persistence.load import load_encoder
from tests import tiny
from tests.cli.command import invoke


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    pytest.importorskip("onnx", reason="needs onnx")
    from diffcse.export.export import export_model

    model = load_encoder(tiny.save(tiny.encoder(), tmp_path_factory.mktemp("plain")))
    export_model(model, place := tmp_path_factory.mktemp("m") / "model", "onnx", int8=True, sentences=tiny.SENTENCES)
    return place


@pytest.fixture
def text(tmp_path):
    return tiny.write_sentences(tmp_path / "text.txt", 30)


def run(*arguments):
    return invoke("encode", *arguments)


def test_graphs_give_the_vectors_of_the_model(tmp_path, folder, text):
    for name, options in (("torch", ()), ("fp32", ("--backend", "onnx")), ("int8", ("--precision", "int8"))):
        backend = ("--backend", "onnx") if name == "int8" else ()
        done = run(text, "-o", tmp_path / f"{name}.npy", "--model", folder, *options, *backend)
        assert done.exit_code == 0
    torch, fp32, int8 = (np.load(tmp_path / f"{name}.npy") for name in ("torch", "fp32", "int8"))
    np.testing.assert_allclose(fp32, torch, atol=1e-5)
    assert (torch * int8).sum(1).min() > 0.95
    assert np.abs(torch - int8).max() > 1e-5
    np.testing.assert_allclose(DiffCSE(folder, backend="onnx").encode(text.read_text().splitlines()), torch, atol=1e-5)
    np.testing.assert_array_equal(
        DiffCSE(folder, backend="onnx", int8=True).encode("They ate fish.") == DiffCSE(folder).encode("They ate fish."),
        False,
    )


def test_an_interrupted_run_resumes_with_the_same_backend_only(tmp_path, folder, text):
    (tmp_path / "out.npy.part").mkdir()
    run(text, "-o", tmp_path / "whole.npy", "--model", folder)
    job = {"version": 2, "dtype": "float32", "backend": "torch", "texts": False}
    (tmp_path / "out.npy.part" / "job.json").write_text(json.dumps(job))
    with pytest.raises(UserError, match=r"must be one of the same kind; got other backend, "):
        run(text, "-o", tmp_path / "out.npy", "--model", folder, "--backend", "onnx")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (
            ("--precision", "int8"),
            "precision must be one of float32, float16, bfloat16 with backend torch; got int8",
        ),
        (
            ("--backend", "onnx", "--precision", "float16"),
            "precision must be one of float32, int8 with backend onnx",
        ),
        (("--backend", "onnx", "--engine", "ray"), "--backend must be torch with --engine ray; got onnx"),
        (("--address", "auto"), "--address must be used with --engine ray; got --engine local"),
        (("--workers", "0"), "workers must be 1 to 1,024; got 0"),
        (("--dims", "17"), "dims must be between 1 and 16, the model's width; got 17"),
    ],
)
def test_what_does_not_go_together(tmp_path, text, folder, options, match):
    with pytest.raises(UserError, match=match):
        run(text, "-o", tmp_path / "out.npy", "--model", folder, *options)
