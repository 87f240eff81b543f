"""Processes of one machine write the bytes of one worker, whatever their number and whichever is killed."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch

from diffcse.encoding.bulk import BulkSettings, encode_file
from diffcse.encoding.encode import EncodeSettings
from diffcse.encoding.workers import Workers
from diffcse.errors import UserError
from diffcse.persistence.load import load_encoder
from tests import tiny

SETTINGS = BulkSettings(encoding=EncodeSettings(normalize=True, chunk_sentences=7))
COMMAND = """
import sys
from diffcse.cli import main
from diffcse.encoding.encode import EncodeSettings
EncodeSettings.__init__.__kwdefaults__["chunk_sentences"] = 7
main()
"""


@pytest.fixture
def text(tmp_path):
    return tiny.write_sentences(tmp_path / "text.txt", 60)


def run(text, output, folder, workers, **more):
    engine = Workers(workers=workers)
    return encode_file(str(text), output, lambda: load_encoder(folder), SETTINGS, engine=engine, **more)


def test_any_number_of_workers_writes_the_same_bytes_and_a_killed_one_is_one_line(tmp_path, folder, text):
    counts = run(text, tmp_path / "one.parquet", folder, 1)
    assert counts.rows == 60
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a worker
    assert encode_file(str(text), tmp_path / "none.parquet", lambda: load_encoder(folder), SETTINGS) == counts
    torch.set_num_threads(threads)
    assert (tmp_path / "none.parquet").read_bytes() == (tmp_path / "one.parquet").read_bytes()

    def kill(done, total):
        if done:
            for child in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):  # one that has just ended
                    if "spawn_main" in " ".join(child.cmdline()):
                        child.send_signal(signal.SIGKILL)

    with pytest.raises(UserError, match=r"workers must be alive until the end; got one that was killed; .* resumes"):
        run(text, tmp_path / "two.parquet", folder, 2, on_progress=kill)
    done = list((tmp_path / "two.parquet.part" / "parts").glob("part-*"))
    assert 0 < len(done) < 9
    assert run(text, tmp_path / "two.parquet", folder, 2) == counts
    assert (tmp_path / "two.parquet").read_bytes() == (tmp_path / "one.parquet").read_bytes()


def ends(group):
    """Whether every process of a group is gone within a few seconds; multiprocessing's own tracker is the last."""
    for _ in range(500):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("workers", [(), ("--workers", "2")])
def test_ctrl_c_ends_with_130_and_no_process_left_and_the_same_command_resumes(tmp_path, folder, workers):
    text = tiny.write_sentences(tmp_path / "text.txt", 3000)
    arguments = ["encode", str(text), "-o", str(tmp_path / "out.npy"), "--model", folder, *workers]
    command = [sys.executable, "-c", COMMAND, *arguments]
    heard = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731 - a background shell's children ignore it
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=heard)
    parts = tmp_path / "out.npy.part" / "parts"
    while process.poll() is None and len(list(parts.glob("part-*"))) < 2:
        time.sleep(0.01)
    assert process.poll() is None, "the run ended before it could be interrupted"
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    line = r"diffcse: stopped at encode, \d+ of 3,000; the same command resumes"
    assert process.returncode == 130 and re.fullmatch(line, said.strip())
    assert ends(process.pid), "a process of the run is still there"
    before = len(list(parts.glob("part-*")))
    assert 2 <= before < 429 and not (tmp_path / "out.npy").exists()
    subprocess.run(command, check=True, capture_output=True)
    assert (tmp_path / "out.npy").exists() and not parts.exists()


def test_a_fault_of_a_worker_reaches_the_caller(tmp_path, folder, text):
    with pytest.raises(UserError, match="max_tokens must be at least 3"):
        engine = Workers(workers=1)
        settings = BulkSettings(encoding=EncodeSettings(normalize=True, max_tokens=2))
        encode_file(str(text), tmp_path / "out.npy", lambda: load_encoder(folder), settings, engine=engine)
    assert not (tmp_path / "out.npy.part").exists()
