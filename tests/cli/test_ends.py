"""How a command ends: exit codes, one line for what a user did, nothing for a reader that went away."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from diffcse.cli import ends
from diffcse.errors import Interrupted, NonFiniteLoss, UserError
from tests.cli.command import COMMAND as CLI
from tests.cli.command import diffcse

app = typer.Typer()


@app.command()
def end(how: str) -> None:
    """End in one of the ways."""
    ways = {
        "well": None,
        "refused": UserError("a\nb", "good", "x" * 500, "do this"),
        "interrupted": Interrupted("step 7"),
        "diverged": NonFiniteLoss("the loss is not finite"),
        "fault": ZeroDivisionError("ours"),
        "code": typer.Exit(1),
        "Ctrl-C": KeyboardInterrupt(),
        "on-the-way": KeyboardInterrupt("encode, 3 of 9"),
    }
    if how == "without-folder":
        Path.cwd().rmdir()
        Path("a").resolve()
    if how == "SIGTERM":
        signal.raise_signal(signal.SIGTERM)
    if (way := ways[how]) is not None:
        raise way


@app.command()
def train() -> None:
    """A verb that keeps what it did."""
    raise KeyboardInterrupt


COMMAND = typer.main.get_command(app)


@pytest.fixture
def sigterm() -> Iterator[None]:
    former = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # an earlier test of this process may have changed it
    ends.stop_on_signals()
    yield
    for number, handler in former.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("sigterm")
@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["end", "well"], 0, ""),
        (["end", "code"], 1, ""),
        (["end", "refused"], 2, f"diffcse: a\\nb must be good; got {'x' * 119}…; do this\n"),
        (["end", "interrupted"], 130, "diffcse: stopped at step 7; the same command resumes\n"),
        (["end", "Ctrl-C"], 130, "diffcse: stopped before the end; the same command starts again\n"),
        (["end", "on-the-way"], 130, "diffcse: stopped at encode, 3 of 9; the same command starts again\n"),
        (["end", "SIGTERM"], 130, "diffcse: stopped before the end; the same command starts again\n"),
        (["train"], 130, "diffcse: stopped before the end; the same command resumes\n"),
        (["end", "diverged"], 1, "diffcse: the loss is not finite\n"),
    ],
)
def test_every_end_has_its_code_and_one_line(
    arguments: list[str], code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ends.run(COMMAND, arguments) == code
    assert capsys.readouterr() == ("", line)


@pytest.mark.usefixtures("sigterm")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_import_is_not_interrupted(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch would abort the process; the interruption comes as soon as the import is done."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "loaded_slowly.py").write_text(
        f"import signal, time\nsignal.raise_signal({number})\ntime.sleep(0.1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "torch")
    with pytest.raises(KeyboardInterrupt):
        import loaded_slowly  # type: ignore[import-not-found]  # noqa: F401

        time.sleep(5)
    assert "loaded_slowly" in sys.modules
    del sys.modules["loaded_slowly"]


@pytest.mark.usefixtures("sigterm")
def test_an_interruption_in_a_callback_of_the_import_system_is_not_lost() -> None:
    """Python drops what a weak reference's callback raises; the import system frees its locks in one."""

    class Lock:
        pass

    code = compile("def freed(reference): signal.raise_signal(signal.SIGINT)", "<frozen importlib._bootstrap>", "exec")
    names: dict[str, Any] = {"signal": signal}
    exec(code, names)
    lock = Lock()
    reference = weakref.ref(lock, names["freed"])
    with pytest.raises(KeyboardInterrupt):
        del lock
        time.sleep(5)
    assert reference() is None


@pytest.mark.usefixtures("sigterm")
def test_a_second_signal_does_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    twice = "import signal\n" + "signal.raise_signal(signal.SIGINT)\n" * 2 + "raise AssertionError\n"
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "asked_twice.py").write_text(twice)
    monkeypatch.syspath_prepend(tmp_path / "torch")
    with pytest.raises(KeyboardInterrupt):
        import asked_twice  # type: ignore[import-not-found]  # noqa: F401
    signal.setitimer(signal.ITIMER_REAL, 0)


@pytest.mark.parametrize("when", ["before", "on the way"])
def test_a_working_folder_that_is_gone_is_one_line(
    when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    if when == "before":
        Path.cwd().rmdir()
    assert ends.run(COMMAND, ["end", "without-folder"]) == 2
    line = "diffcse: working folder must be one that exists; got a deleted one; change to another folder\n"
    assert capsys.readouterr() == ("", line)


def test_a_fault_of_ours_is_shown_as_one() -> None:
    with pytest.raises(ZeroDivisionError, match="ours"):
        ends.run(COMMAND, ["end", "fault"])


def test_under_torchrun_the_first_process_says_that_it_stopped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert ends.run(COMMAND, ["end", "interrupted"]) == 130
    assert ends.run(COMMAND, ["end", "refused"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["train"], "SOURCES must be given; got nothing; see diffcse train --help"),
        (["train", "x"], "--output must be given; got nothing; see diffcse train --help"),
        (["evaluate"], "MODEL must be given; got nothing; see diffcse evaluate --help"),
        (["trian"], "command must be one of diffcse's; got trian; use train or pretrain"),
        (["data", "x"], "command must be one of diffcse's; got x; see diffcse data --help"),
        (["--nope"], "--nope must be an option of this verb; got an unknown one; see diffcse --help"),
        (
            ["train", "x", "--batchsize", "3"],
            "--batchsize must be an option of this verb; got an unknown one; use --batch-size",
        ),
        (["train", "x", "-o"], "-o must be followed by a value; got nothing; add the value"),
        (["train", "x", "-o", "m", "--padding-free=3"], "--padding-free must be given without a value; got one; "),
        (["similarity", "a", "b", "c"], "arguments must be no more than the verb takes; got c; see "),
        (["train", "x", "-o", "m", "--batch-size", "1.5"], "--batch-size must be a whole number; got '1.5'; see "),
        (["train", "x", "-o", "m", "--batch-size", ""], "--batch-size must be a whole number; got ''; see "),
        (["train", "x", "-o", "m", "--temperature", "x"], "--temperature must be a number; got 'x'; see "),
        (["train", "x", "-o", "m", "--fidelity", "x"], "--fidelity must be one of reference, paper; got x; choose"),
        (["train", "x", "-o", "m", "--edit", "\x1b[31m\n"], "--edit must be one of replacement, insertion, deletion, "),
        (["train", "x", "-o", "m\0"], "--output must be valid; got embedded null byte; see diffcse train --help"),
        (["explore", "--port", "0"], "--port must be at least 1; got 0; see diffcse explore --help"),
        (["explore", "--port", "9" * 9], "--port must be at most 65535; got 999999999; see diffcse explore --help"),
    ],
)
def test_usage_errors_are_one_line_of_ours(arguments: list[str], line: str) -> None:
    ended = diffcse(*arguments)
    assert ended.code == 2
    assert ended.out == ""
    assert ended.err.startswith(f"diffcse: {line}")
    assert ended.err.count("\n") == 1 and ended.err.replace("\n", "").isprintable()


def test_help_and_no_arguments_show_the_help() -> None:
    assert diffcse("train", "--help").code == 0
    for arguments in ([], ["sweep"], ["data"]):
        ended = diffcse(*arguments)
        assert ended.code == 2 and "Usage: diffcse" in ended.out and ended.err == ""


def test_a_reader_that_goes_away_ends_the_command_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(os.fdopen(writing, "wb"), encoding="utf-8"))
    monkeypatch.setattr("sys.stderr", err := io.StringIO())
    assert ends.run(COMMAND, ["end", "well"]) == 0
    sys.stdout.write("a line\n")
    assert ends.run(COMMAND, ["end", "well"]) == 141
    assert err.getvalue() == ""


def test_the_process_ends_like_cat() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "diffcse", "train", "--help"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_the_output_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Path("/dev/full").open("w") as out:
        monkeypatch.setattr("sys.stdout", out)
        out.write("a line\n")
        assert ends.run(COMMAND, ["end", "well"]) == 2
        line = "diffcse: output must be in a place that can be written to; got No space left on device; make room"
        assert capsys.readouterr().err.startswith(line)


def test_a_device_that_is_not_there_is_refused_while_options_are_read() -> None:
    """In every verb that takes one, whatever else is wrong; `meta` holds no numbers."""
    verbs = {name: verb for name, verb in CLI.commands.items() if any(p.name == "device" for p in verb.params)}
    assert {"encode", "evaluate", "index", "search", "dedup", "similarity", "explore"} <= set(verbs)
    for name, verb in verbs.items():
        given = [word for parameter in verb.params for word in required(parameter)]
        for device in ("cuda:99", "meta", "hpu:7", "abacus", ""):
            ended = diffcse(name, *given, "--device", device)
            assert ended.code == 2, (name, device)
            assert ended.err.startswith("diffcse: device must be "), ended.err
            assert ended.err.count("\n") == 1


def required(parameter: Any) -> list[str]:
    """Words that give a parameter that must be given a value; none of them exists."""
    if not parameter.required:
        return []
    return ["nowhere"] if parameter.param_type_name == "argument" else [parameter.opts[0], "nowhere"]
