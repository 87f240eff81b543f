"""The script for a GPU runs from end to end on a CPU, with tiny networks."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

from tests import tiny

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("gpu")
    for name in ("gpu", "train_step"):
        sys.modules.pop(name, None)


def test_the_script_checks_times_and_writes(gpu: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, out = tiny.write_sentences(tmp_path / "text.txt", 40), tmp_path / "gpu.json"
    options = ["gpu.py", "--device", "cpu", "--smoke", "--text", str(text), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", options)
    assert gpu.main() == 0
    results = json.loads(out.read_text())
    assert len(results["checks"]) == 5 and all(check["holds"] for check in results["checks"].values())
    assert results["times"].keys() == gpu.SIDES.keys()
    assert results["results"]["over plain fp32"] > 0 and results["results"].keys() == results["goals"].keys()


def test_without_a_gpu_it_says_so(gpu: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    assert gpu.main() == 0
    assert "no CUDA GPU here" in capsys.readouterr().out
