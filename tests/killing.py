"""Runs that are killed while they work, and the proof that they were."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diffcse.training.callbacks import GracefulStop

PATIENCE = 300
"""Seconds until a run that does not get where it should be is an error of the test."""


def environment() -> dict[str, str]:
    """One thread and no network, so that bits can be compared."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def started(arguments: list[str], processes: int = 1) -> list[str]:
    """The command line of `diffcse` in one process, or in several under torchrun."""
    torchrun = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    return [sys.executable, "-m", *(torchrun if processes > 1 else []), "diffcse", *arguments]


def run(arguments: list[str], *, processes: int = 1) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    command = started(arguments, processes)
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=4 * PATIENCE)


def kill(
    arguments: list[str], when: Callable[[], bool], *, processes: int = 1, sign: signal.Signals = signal.SIGKILL
) -> str:
    """Start the command and end it with a signal as soon as `when` says so; asserts that this is how it ended.

    Returns:
        What it wrote to standard error.
    """
    with tempfile.TemporaryFile("w+") as errors:
        child = subprocess.Popen(
            started(arguments, processes),
            env=environment(),
            stderr=errors,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            # A shell starts what runs in its background with SIGINT ignored, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        until = time.monotonic() + PATIENCE
        while not when():
            assert child.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < until, "the run did not get where it was to be killed"
            time.sleep(0.002)
        left = workers(child.pid)
        os.killpg(child.pid, sign)
        for pid in left if sign == signal.SIGKILL else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, sign)
        code = child.wait(PATIENCE)
        errors.seek(0)
        message = errors.read()
    assert code == (-signal.SIGKILL if sign == signal.SIGKILL else 130), f"the run ended otherwise: {message}"
    return message


class Killed(BaseException):
    """Ends a run in this process as SIGKILL would: no handler of the code under test runs on it."""


NO_SPACE = OSError(28, os.strerror(28))


def killed_at(
    call: Callable[..., Any], moment: int = 0, error: BaseException | type[BaseException] = Killed
) -> Callable[..., Any]:
    """A wrapper that lets `call` run `moment` times and then ends the run, or raises another error."""
    left = iter(range(moment))

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if next(left, None) is None:
            raise error
        return call(*args, **kwargs)

    return wrapper


def ctrl_c_at(patch: pytest.MonkeyPatch, step: int) -> None:
    """Let Ctrl-C come at the end of that step of a training in this process."""
    original = GracefulStop.on_step_end

    def stop(self: GracefulStop, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == step:
            signal.raise_signal(signal.SIGINT)
        original(self, args, state, control)

    patch.setattr(GracefulStop, "on_step_end", stop)


def workers(pid: int) -> list[int]:
    """Processes that torchrun started; each leads a group of its own, so that they outlive torchrun."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(word) for word in children.read_text().split()] if children.exists() else []


def logged(output: Path) -> int:
    """The newest step in a run's log; -1 before there is a log."""
    file = output / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else None
    return -1 if lines is None else max((json.loads(line)["step"] for line in lines if line.endswith("}")), default=0)


def checkpoints(output: Path) -> list[int]:
    """Steps of the complete checkpoints."""
    files = output.glob("checkpoints/checkpoint-*/complete.json")
    return sorted(int(file.parent.name.removeprefix("checkpoint-")) for file in files)


def assert_unfinished(output: Path) -> None:
    """The run's folder says that there is more to do."""
    assert not json.loads((output / "diffcse.json").read_text())["finished"]


def kill_writer(work: Callable[..., None], folder: Path, seconds: float) -> int:
    """Let another process work on a folder, and kill it after its first commit; asserts that it was killed.

    Args:
        work: called with the folder and a connection through which it tells a number after each commit.
        folder: to work on.
        seconds: after the first commit.

    Returns:
        The last number that it told.
    """
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(folder, send))
    process.start()
    committed: int = receive.recv()
    time.sleep(seconds)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL, "the process ended before it was killed"
    while receive.poll():
        committed = receive.recv()
    return committed
