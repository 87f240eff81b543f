"""The commands of README and docs/ exist with the options that the pages give them; pictures and targets are there."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from diffcse.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {page.name: page.read_text(encoding="utf-8") for page in PAGES}
CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def lines(pattern: str) -> Iterator[str]:
    """What follows the pattern in the pages' console blocks, without comments."""
    for text in TEXTS.values():
        for block in CONSOLE.findall(text):
            for line in block.replace("\\\n", " ").splitlines():
                results = re.match(pattern, line.split("#")[0].strip())
                if results:
                    yield results[1]


COMMANDS = sorted(set(lines(r"(?:\.venv/bin/|torchrun .*-m )?diffcse (.+)")))


def help_of(words: list[str]) -> str:
    """The help of the verb that a command begins with; `diffcse sweep SETTINGS` means `diffcse sweep run SETTINGS`."""
    message = ""
    for verb in ([words[0]], words[:2], [words[0], "run"]):
        done = CliRunner().invoke(app, [*verb, "--help"], env={"COLUMNS": "300", "TERM": "dumb"})
        message = done.output if done.exit_code == 0 else message
        if message and "COMMAND" not in message:
            break
    return message


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_and_their_options_exist(command: str) -> None:
    words = command.split()
    message = help_of(words)
    assert message, f"no such verb: {words[0]}"
    for option in (word for word in words if word.startswith("-") and len(word) > 1):
        assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", message), option


def test_every_verb_is_shown_somewhere() -> None:
    shown = "\n".join([*(f"diffcse {command}" for command in COMMANDS), *TEXTS.values()])
    for verb in typer.main.get_command(app).commands:
        assert f"diffcse {verb}" in shown or f"make {verb}" in shown, verb


@pytest.mark.parametrize("target", sorted(set(lines(r"make (\w+)"))))
def test_make_makes_what_the_pages_say(target: str) -> None:
    done = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {"demo": "diffcse demo", "test": "-m pytest"}[target] in done.stdout


@pytest.mark.parametrize("name", [name for name, text in TEXTS.items() if "](images/" in text])
def test_pictures_are_there_and_small(name: str) -> None:
    for picture in re.findall(r"!\[[^\]]+\]\((images/[^)]+)\)", TEXTS[name]):
        assert 1_000 < (ROOT / "docs" / picture).stat().st_size < 700_000
