"""docs/evaluation.md: its commands and options exist, its JSON is the results' form, its pictures are there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from diffcse.cli import app
from diffcse.evaluation.suite import evaluate, plan, select
from tests.evaluation.layout import BagOfWords, Layout

PAGE = Path(__file__).parents[2] / "docs" / "evaluation.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)[^\n]*\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
COMMANDS = [line for kind, text in BLOCKS if kind == "console" for line in text.splitlines() if "diffcse " in line]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_and_their_options_exist(command: str) -> None:
    words = command.split("diffcse ")[1].split()
    verb = words[:2] if words[0] == "data" else words[:1]
    told = CliRunner().invoke(app, [*verb, "--help"], env={"COLUMNS": "300", "TERM": "dumb"})
    assert told.exit_code == 0
    for option in (word for word in words if word.startswith("-")):
        assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", told.output), option


def test_the_json_is_of_the_form_of_the_results(tmp_path: Path) -> None:
    (shown,) = (json.loads(text) for kind, text in BLOCKS if kind == "json")
    layout = Layout(tmp_path, at_most=60).write("STS12", "STSBenchmark", "MR", "MRPC")
    planned = plan(layout.root, select("STS12,STSBenchmark,MR,MRPC"), official_rows=False)
    _subset(shown, evaluate(BagOfWords().encode, planned), optional={"pairs", "analyses", "truncated", "limit"})


def _subset(shown: Any, found: Any, optional: set[str]) -> None:
    """Every key that is shown is found, as deep as it is shown."""
    if isinstance(shown, dict):
        for key in shown.keys() - optional:
            assert key in found
            _subset(shown[key], found[key], optional if key != "tasks" else set())


def test_pictures_are_there_and_small() -> None:
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", TEXT)
    assert pictures
    for picture in pictures:
        assert 1_000 < (PAGE.parent / picture).stat().st_size < 300_000
