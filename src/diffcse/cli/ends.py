"""How a command ends: the one place where an exception becomes one line and an exit code.

| code | the command |
|---|---|
| 0 | did what was asked |
| 1 | found a fault: ours (a traceback), a loss that is not finite, a failed run of a sweep, damaged evaluation data |
| 2 | refused its input, in one line: WHAT must be RULE; got VALUE; do THIS |
| 130 | was interrupted by Ctrl-C or SIGTERM, in one line that says what the same command does next |
| 141 | lost the reader of its output (`diffcse search ... | head -1`) and ended without a word, as `cat` and `git` do |
"""

from __future__ import annotations

import errno
import io
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import typer

from diffcse.cli.usage import UsageError, as_user_error, shows_help
from diffcse.errors import Interrupted, NonFiniteLoss, UserError, one_line

FAULT, REFUSED, INTERRUPTED, NO_READER = 1, 2, 130, 141

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""What a verb that writes a file says itself, with the file's name; from standard output it comes here."""

_PATHS = (errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.ELOOP)
"""What any look at a path that a user names may meet."""

_COMPILED = re.compile(r"[\\/](torch|numpy|scipy|sklearn|pandas|pyarrow|faiss)[\\/]")
"""Files of packages that abort, or raise an error of their own, when they are interrupted while they are imported."""

_RESUMES = ("train", "pretrain", "adapt", "demo", "encode", "index", "sweep", "ablate", "data")
"""Verbs that keep what was done before an interruption."""


_NO_WORKING_FOLDER = UserError("working folder", "one that exists", "a deleted one", "change to another folder")


def run(command: Any, arguments: Sequence[str]) -> int:
    """Run a verb; what a user can fix is one line on standard error, never a traceback.

    Args:
        command: the click command of the app.
        arguments: the words after `diffcse`.

    Returns:
        The exit code.

    Raises:
        Exception: a fault of ours, for Python to show.
    """
    try:
        code = _invoke(command, arguments)
        if sys.stdout is not None:
            sys.stdout.flush()  # a full disk or a closed pipe shows here at the latest
    except BrokenPipeError:
        _drop_output()
        return NO_READER
    except OSError as error:
        _drop_output()
        if not _has_working_folder():
            return _say(_NO_WORKING_FOLDER, REFUSED)
        if error.errno in _PATHS and error.filename is not None:
            do = "check its length and permissions"
            return _say(UserError(str(error.filename), "a path that you can use", error.strerror, do), REFUSED)
        if error.errno not in _DISK:
            raise
        do = "make room, or send the output elsewhere"
        return _say(UserError("output", "in a place that can be written to", error.strerror, do), REFUSED)
    return code


def _invoke(command: Any, arguments: Sequence[str]) -> int:
    if not _has_working_folder():  # libraries end in errors of their own, and MKL ends the process
        return _say(_NO_WORKING_FOLDER, REFUSED)
    # Not command.main(): it prints usage errors on several lines and gives a closed pipe and Ctrl-C codes of its own.
    try:
        with command.make_context("diffcse", list(arguments)) as context:
            command.invoke(context)
    except typer.Exit as end:
        return int(end.exit_code)
    except UsageError as error:
        return REFUSED if shows_help(error) else _say(as_user_error(error), REFUSED)
    except UserError as error:
        return _say(error, REFUSED)
    except Interrupted as stopped:
        return _say(stopped, INTERRUPTED)
    except (KeyboardInterrupt, typer.Abort) as error:
        resumes = bool(arguments) and arguments[0] in _RESUMES
        where = f"at {error}" if str(error) else "before the end"
        return _say(f"stopped {where}; the same command {'resumes' if resumes else 'starts again'}", INTERRUPTED)
    except NonFiniteLoss as error:
        return _say(error, FAULT)
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # what rich makes of it
            return NO_READER
        raise
    return 0


def _has_working_folder() -> bool:
    """Whether relative paths mean anything; another process may delete the folder at any time."""
    try:
        Path.cwd()
    except OSError:
        return False
    return True


def _say(what: object, code: int) -> int:
    # Under torchrun all processes stop together, so the first one says it; any one of them may meet bad input.
    first = os.environ.get("RANK", "0") == "0"
    if sys.stderr is not None and (first or code != INTERRUPTED):
        try:
            sys.stderr.write(f"diffcse: {one_line(str(what))}\n")
        except OSError:  # nobody reads it, and the code says enough
            _drop_output()
    return code


def _drop_output() -> None:
    """Turn streams that cannot be written to into ones that go nowhere, or Python's last flush fails loudly."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with Path(os.devnull).open("wb") as nowhere:
                os.dup2(nowhere.fileno(), stream.fileno())


def replace_missing_characters() -> None:
    """Let a terminal or file whose encoding lacks a character show `?` for it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def stop_on_signals() -> None:
    """Let SIGTERM end a verb as Ctrl-C does; schedulers and containers send it before they kill."""
    if threading.current_thread() is not threading.main_thread():
        return
    handler = _interrupting(os.getpid())
    signal.signal(signal.SIGTERM, handler)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # `nohup` and the like ignore it
        signal.signal(signal.SIGINT, handler)


def _interrupting(process: int) -> Callable[[int, Any], None]:
    waiting = False

    def interrupt(number: int, frame: Any) -> None:
        """End the verb, after the import of a compiled module if one is under way."""
        nonlocal waiting
        if os.getpid() != process:
            # A forked worker inherits the handler; it has nothing to save, and its parent may want to be rid of it.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif _importing(frame) and hasattr(signal, "setitimer") and (not waiting or number == signal.SIGALRM):
            # Compiled modules may abort the process if they are interrupted while they are loaded, so look again soon.
            waiting = True
            signal.signal(signal.SIGALRM, interrupt)
            signal.setitimer(signal.ITIMER_REAL, 0.05)
        else:
            raise KeyboardInterrupt

    return interrupt


def _importing(frame: Any) -> bool:
    """Whether an import of compiled modules was interrupted, or the import system itself; others can be interrupted.

    The import system has callbacks of weak references, and Python drops an exception that is raised in one of them.
    """
    files = []
    while frame is not None:
        files.append(frame.f_code.co_filename)
        frame = frame.f_back
    of_imports = [file.startswith("<frozen importlib") for file in files]
    return of_imports[:1] == [True] or (any(map(_COMPILED.search, files)) and any(of_imports))
