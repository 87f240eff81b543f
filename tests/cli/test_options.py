"""Every option and argument of every verb with odd values, found by looking at the command itself.

What a verb reads does not exist here, so that nothing is computed: this is about the command line's own part, the
order of its checks and its one line.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import COMMAND, diffcse

ODD = ["", "-1", "nan", "1e400", "9" * 30, "nosuch\n\x1b[31m", "[x] " + "ü" * 300, "/", "\0"]


def verbs(command: Any = COMMAND, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every verb under its words, those of groups too."""
    for name, verb in command.commands.items():
        if hasattr(verb, "commands"):
            yield from verbs(verb, (*path, name))
        else:
            yield (*path, name), verb


def words(parameter: Any, value: str) -> list[str]:
    """How the command line gives a value to a parameter."""
    if parameter.param_type_name == "argument":
        return [value]
    flag = max(parameter.opts, key=len)
    return [f"{flag}={value}"] if parameter.is_flag else [flag, value]


def inputs(path: tuple[str, ...], verb: Any) -> Iterator[list[str]]:
    """Each parameter with each odd value, the others as they must be."""
    parameters = [parameter for parameter in verb.params if parameter.name != "help"]
    usual = {parameter.name: words(parameter, "nowhere") for parameter in parameters if parameter.required}
    usual |= {"to": ["--to", "onnx"]} if "to" in usual else {}
    for parameter in parameters:
        for value in ODD:
            given = {**usual, parameter.name: words(parameter, value)}
            yield [*path, *(word for part in given.values() for word in part)]


VERBS = dict(verbs())


class BegunError(Exception):
    """A verb found nothing wrong and began what nothing here could end."""


def begin(*_: Any, **__: Any) -> None:
    """In the place of a server, a download and a demonstration."""
    raise BegunError


@pytest.mark.parametrize("path", VERBS, ids=" ".join)
def test_odd_values_end_in_one_line(path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)  # a name that no file has may be a Hub dataset's
    for place in ("explore.app.serve", "demo.demo.demo", "evaluation.fetch.fetch"):
        monkeypatch.setattr(f"diffcse.{place}", begin)
    count = 0
    for arguments in inputs(path, VERBS[path]):
        count += 1
        try:
            ended = diffcse(*arguments)
        except BegunError:
            continue
        if path == ("similarity",) and "nowhere" in arguments and ended.code == 0:
            continue  # every text is a sentence
        assert ended.code == 2, arguments
        assert ended.err.startswith("diffcse: ") and ended.err.count("\n") == 1, arguments
        assert "\x1b" not in ended.err and " must be " in ended.err and "; got " in ended.err, ended.err
        assert list(tmp_path.iterdir()) == [], arguments
    assert count == len(ODD) * sum(parameter.name != "help" for parameter in VERBS[path].params)
