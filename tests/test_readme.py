"""The README's Python runs; its commands are tested with those of the docs (test_docs)."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests import tiny

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)( training)?\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("source", [text for kind, trains, text in BLOCKS if kind == "python" and not trains])
def test_python_blocks_run(source: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(source, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip()


def test_the_training_block_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (block,) = (text for _, trains, text in BLOCKS if trains)
    short = block.replace("max_steps=200", "max_steps=1, batch_size=8")
    assert short != block
    monkeypatch.chdir(tmp_path)
    tiny.write_sentences(tmp_path / "sentences.txt", 16)
    exec(compile(short, "README.md", "exec"), {})
    assert capsys.readouterr().out == "16 sentences from 1 file\n"
    assert json.loads((tmp_path / "model" / "diffcse.json").read_text())["finished"]
