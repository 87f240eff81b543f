"""The commands of the pages in docs/ exist, with the options that the pages give them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from diffcse.cli import app

PAGES = sorted((Path(__file__).parents[1] / "docs").glob("*.md"))
BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMANDS = [
    f"diffcse {line.split('#')[0].split('diffcse ', 1)[1]}"
    for page in PAGES
    for block in BLOCK.findall(page.read_text(encoding="utf-8"))
    for line in block.replace("\\\n", " ").splitlines()
    if re.match(r"(\.venv/bin/|torchrun .*-m )?diffcse ", line)
]


def test_there_are_commands():
    assert len(COMMANDS) > 3


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_and_their_options_exist(command):
    words = command.split()[1:]
    verbs = [word for word in words[:2] if re.fullmatch("[a-z]+", word)]
    told = CliRunner().invoke(app, [*verbs[:1], "--help"], env={"COLUMNS": "300", "TERM": "dumb"})
    if "COMMAND" in told.output:  # a group, such as diffcse data
        named = verbs if len(verbs) > 1 else [*verbs, "run"]  # what `diffcse sweep SETTINGS` means
        told = CliRunner().invoke(app, [*named, "--help"], env={"COLUMNS": "300", "TERM": "dumb"})
    assert told.exit_code == 0
    for option in (word for word in words if word.startswith("-") and len(word) > 1):
        assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", told.output), option
