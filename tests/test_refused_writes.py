"""A full disk and a read-only folder, real ones: one clear line, exit code 2, and what was there stays as it was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from diffcse import cli
from diffcse.search.index import SentenceIndex
from diffcse.training import train as training
from diffcse.training.trainer import SafeTrainer
from tests import tiny
from tests.killing import kill

DISK = 4 * 2**20
"""Bytes; room for the tiny model and a graph of it."""


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return tiny.write_sentences(tmp_path / "text.txt", 600)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own, in memory: permission bits do not stop root, this does."""
    place = tmp_path / "disk"
    place.mkdir()
    try:
        mount("-t", "tmpfs", "-o", f"size={DISK}", "diffcse", str(place))
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the right to mount a file system in memory (root on Linux)")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def mount(*options: str) -> None:
    subprocess.run(["mount", *options], check=True, capture_output=True)


def read_only(disk: Path) -> Path:
    mount("-o", "remount,ro", str(disk))
    return disk


def fill(disk: Path, left: int) -> Path:
    """Leave so many bytes free."""
    filler = disk / "filler"
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    filler.write_bytes(bytes(free - left))
    return filler


def content(place: Path) -> dict[str, bytes]:
    """Every file but the locks, which stay."""
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if _counts(path)}


def _counts(path: Path) -> bool:
    return path.is_file() and path.name not in (".lock", "lock", "filler")


Told = Callable[..., str]


@pytest.fixture
def diffcse(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Told:
    """Runs a verb as the command does; gives what it said, and checks how it ended."""

    def run(*arguments: object, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["diffcse", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        message = capfd.readouterr()
        assert (ended.value.code or 0) == code, message.err
        if code:
            assert message.err.count("diffcse: ") == 1
            assert "Traceback" not in message.err
            assert len(message.err.strip().splitlines()) == 1, message.err
        return message.err

    return run


def test_a_full_disk_leaves_an_index_as_it_was(disk, text, folder, diffcse):
    pytest.importorskip("faiss")
    place, first = disk / "index", text.with_name("first.txt")
    first.write_text("the first\n")
    diffcse("index", first, "-o", place, "--model", folder)
    before = content(place)
    for left in (0, 20_000, 90_000):  # for nothing, for fewer parts than needed, for the parts and not the index
        filler = fill(disk, left)
        message = diffcse("index", text, "-o", place, "--model", folder, "--add", code=2)
        assert (
            "on a disk with 76.8 kB free; got " if left == 20_000 else "No space left on device; make room"
        ) in message
        assert {name: data for name, data in content(place).items() if not name.startswith("building")} == before
        assert len(SentenceIndex(place)) == 1
        filler.unlink()
    diffcse("index", text, "-o", place, "--model", folder, "--add")
    assert len(SentenceIndex(place)) == 601


def test_a_read_only_index_stays_as_it_was(disk, text, folder, diffcse):
    pytest.importorskip("faiss")
    place, first = disk / "index", text.with_name("first.txt")
    first.write_text("the first\n")
    diffcse("index", first, "-o", place, "--model", folder)
    before = content(read_only(disk))
    for arguments in (("-o", place, "--add"), ("-o", disk / "other")):
        message = diffcse("index", text, *arguments, "--model", folder, code=2)
        assert "must be on a disk that can be written to; got Read-only file system" in message
    assert content(disk) == before
    assert len(SentenceIndex(place)) == 1


def test_a_file_in_place_of_the_folder_is_left_alone(text, tmp_path, folder, diffcse):
    pytest.importorskip("faiss")
    occupied = tmp_path / "taken"
    occupied.write_text("years of work")
    message = diffcse("index", text, "-o", occupied, "--model", folder, code=2)
    assert f"index {occupied} must be a new or empty folder; got a file" in message
    message = diffcse("export", folder, "--to", "onnx", "-o", occupied, code=2)
    assert f"folder {occupied} must be new, or the model's own; got a file" in message
    message = diffcse("dedup", text, "-o", occupied / "kept.txt", "--model", folder, code=2)
    assert "must be in an existing folder" in message
    assert occupied.read_text() == "years of work"


def test_a_full_disk_leaves_the_texts_of_dedup_as_they_were(disk, text, folder, diffcse):
    kept, report = disk / "kept.txt", disk / "kept.txt.report.jsonl"
    kept.write_text("old\n")
    report.write_text("{}\n")
    for left in (0, 4096, 16_384):
        filler = fill(disk, left)
        message = diffcse("dedup", text, "-o", kept, "--model", folder, "--threshold", 0.99, "--overwrite", code=2)
        assert "must be on a disk that can be written to; got No space left on device; make room" in message
        assert content(disk) == {kept.name: b"old\n", report.name: b"{}\n"}
        filler.unlink()
    diffcse("dedup", text, "-o", kept, "--model", folder, "--threshold", 0.99, "--overwrite")
    assert len(kept.read_text().splitlines()) + len(report.read_text().splitlines()) == 600
    assert sorted(path.name for path in disk.iterdir()) == [kept.name, report.name]


def test_a_read_only_folder_is_reported_by_dedup(disk, text, folder, diffcse):
    (disk / "kept.txt").write_text("old\n")
    read_only(disk)
    message = diffcse("dedup", text, "-o", disk / "kept.txt", "--model", folder, "--overwrite", code=2)
    assert "kept.txt must be in a folder that you may write to" in message
    assert content(disk) == {"kept.txt": b"old\n"}


@pytest.mark.parametrize("backend", ["onnx", pytest.param("openvino", marks=pytest.mark.slow)])
def test_a_full_or_read_only_disk_leaves_a_model_folder_as_it_was(disk, folder, diffcse, backend):
    pytest.importorskip({"onnx": "onnxruntime", "openvino": "openvino"}[backend])
    place = disk / "model"
    diffcse("export", folder, "--to", backend, "-o", place)
    before = content(place)
    filler = fill(disk, 20_000)
    message = diffcse("export", place, "--to", backend, code=2)
    assert f"folder {place} must be on a disk that can be written to; got " in message
    assert content(place) == before
    if backend == "openvino":
        return  # it leaves the file open that it could not write, and so the disk cannot be made read-only
    filler.unlink()
    read_only(disk)
    message = diffcse("export", place, "--to", backend, code=2)
    assert "must be on a disk that can be written to; got Read-only file system" in message
    assert content(place) == before


def test_a_new_model_folder_on_a_full_disk_is_not_begun(disk, folder, diffcse):
    pytest.importorskip("onnxruntime")
    for left in (0, 20_000):
        filler = fill(disk, left)
        message = diffcse("export", folder, "--to", "onnx", "-o", disk / "new", code=2)
        assert "new must be on a disk that can be written to; got " in message
        assert "No space left on device" in message
        assert list(disk.iterdir()) == [filler]
        filler.unlink()


@pytest.mark.parametrize("step", [2, 4, "end"])
def test_a_disk_that_fills_up_under_a_training_run_loses_nothing(disk, folder, diffcse, monkeypatch, tmp_path, step):
    text = tiny.write_sentences(tmp_path / "few.txt", 64)
    steps = ["--max-steps", 4, "--save-every-steps", 2, "--batch-size", 8, "--average-checkpoints", 2]
    options = ["--objective", "simcse", "--encoder", folder, "--cache", tmp_path / "cache", "--eval-every-steps", 2]
    command = ["train", text, *steps, *options, "--output"]
    diffcse(*command, tmp_path / "whole")
    with monkeypatch.context() as patch:
        if step == "end":
            patch.setattr(training, "save_folder", filling_first(training.save_folder, disk, lambda *_: True))
        else:
            save = SafeTrainer._save_checkpoint
            patch.setattr(
                SafeTrainer, "_save_checkpoint", filling_first(save, disk, lambda t: t.state.global_step == step)
            )
        message = diffcse(*command, disk / "m", code=2)
    assert "must be on a disk that can be written to; got" in message
    assert "make room, then give the same command: it resumes from the last checkpoint" in message
    (disk / "filler").unlink()
    diffcse(*command, disk / "m")
    assert (disk / "m" / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()


def filling_first(save: Callable[..., Any], disk: Path, when: Callable[..., bool]) -> Callable[..., Any]:
    """The very function, on a disk that is full by the time it is called."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if when(*args[:1]):
            fill(disk, 4096)
        return save(*args, **kwargs)

    return wrapper


def test_dedup_killed_by_sigkill_and_run_again_gives_the_same_files(tmp_path, folder, diffcse):
    text = tiny.write_sentences(tmp_path / "text.txt", 4000)
    whole, output = tmp_path / "whole" / "kept.txt", tmp_path / "killed" / "kept.txt"
    whole.parent.mkdir()
    output.parent.mkdir()
    arguments = ["dedup", str(text), "--model", folder, "--threshold", "0.99", "-o"]
    diffcse(*arguments, whole)
    growing = output.parent / "kept.txt.report.jsonl.part" / "lines"
    kill([*arguments, str(output)], lambda: growing.is_file() and growing.stat().st_size > 0)
    assert not output.exists()
    diffcse(*arguments, output)
    assert content(output.parent) == content(whole.parent)
    assert sorted(path.name for path in output.parent.iterdir()) == ["kept.txt", "kept.txt.report.jsonl"]
    assert json.loads((output.parent / "kept.txt.report.jsonl").read_text().splitlines()[0])["cosine"] >= 0.99
