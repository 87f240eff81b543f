"""What is shown while rows are counted: a bar on a terminal, a line for long work elsewhere, nothing for done work."""

from __future__ import annotations

import io
import re
from pathlib import Path

import datasets
import pytest
from rich.console import Console

import diffcse
from diffcse.progress import counting, make_console, say
from diffcse.text.dataset import tokenise
from tests import tiny

PACKAGE = Path(diffcse.__file__).parent


def shown(total: int, *, terminal: bool, calls: int = 2) -> str:
    out = io.StringIO()
    with counting(Console(file=out, force_terminal=terminal, width=80), "tokenise", total) as update:
        for call in range(calls):
            update((call + 1) * total // calls)
    return out.getvalue()


def test_long_work_is_announced_where_no_bar_can_be_shown():
    assert shown(1_000_000, terminal=False) == "tokenise: 1,000,000 rows\n"
    assert shown(1_000, terminal=False) == ""


def test_a_terminal_shows_how_much_is_done_and_leaves_no_trace():
    drawn = shown(1_000, terminal=True)
    last = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", drawn).split("\r")[-2]
    assert re.search(r"^tokenise .*1000/1000 .*left", last)
    assert drawn.endswith("\x1b[2K")  # the line is erased


def test_work_that_is_done_shows_nothing():
    assert shown(1_000, terminal=True, calls=0) == ""


def test_parts_of_work_are_named_and_a_total_may_come_late():
    out = io.StringIO()
    with counting(Console(file=out, force_terminal=True, width=80), "scoring") as counter:
        counter.name("scoring [STS12]")
        counter(3, 20)
    assert "scoring [STS12]" in out.getvalue() and "3/20" in out.getvalue()
    with counting(None, "nothing") as counter:
        counter.name("to show")
        counter(1)


def test_an_interruption_says_how_far_the_work_was():
    with pytest.raises(KeyboardInterrupt, match=r"^encode, 1,000 of 2,000$"), counting(None, "encode") as counter:
        counter(1_000, 2_000)
        raise KeyboardInterrupt


def test_text_is_printed_as_it_is(capsys):
    """Brackets are no markup and codes no emoji, on our console and on one that a caller brought."""
    text = "runs/[bold]2[/bold] [/] :dog: " + "12345 " * 60
    for console in (make_console(stderr=False), Console(force_terminal=True, width=40)):
        say(console, text)
        assert capsys.readouterr().out == f"{text}\n"
    make_console(stderr=False).print("[red]x :dog:")
    assert capsys.readouterr().out == "[red]x :dog:\n"
    say(make_console(quiet=True), text)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("construction", [r"\bConsole\(", r"\bProgress\(", r"\.status\("])
def test_consoles_and_bars_are_made_in_one_place(construction):
    files = [path for path in PACKAGE.rglob("*.py") if re.search(construction, path.read_text(encoding="utf-8"))]
    assert [path.name for path in files] == ([] if "status" in construction else ["progress.py"])


def test_tokenising_tells_how_far_it_is_and_the_cache_tells_nothing(tmp_path):
    rows = datasets.Dataset.from_dict({"text0": tiny.SENTENCES * 5})
    output: list[int] = []
    settings = {"max_tokens": 16, "cache_dir": tmp_path, "on_progress": output.append}
    assert len(tokenise(rows, tiny.tokenizer(), **settings)) == 40
    assert output[-1] == 40 and output == sorted(output)
    output.clear()
    assert len(tokenise(rows, tiny.tokenizer(), **settings)) == 40
    assert output == []
