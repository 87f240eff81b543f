"""The Ray engine gives the rows and vectors of one machine, through the death of a worker and of the driver."""

import contextlib
import os
import signal
import sys
import threading
import time

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

from diffcse.encoding import ray_workers
from diffcse.encoding.bulk import BulkSettings, encode_file
from diffcse.encoding.encode import EncodeSettings
from diffcse.errors import MissingExtra, UserError
from diffcse.persistence.load import load_encoder
from diffcse.search.build import StoredParts, index_text
from diffcse.search.index import SentenceIndex
from tests import tiny
from tests.cli.command import invoke
from tests.killing import Killed

SETTINGS = BulkSettings(encoding=EncodeSettings(normalize=True, chunk_sentences=5))


@pytest.fixture(scope="module")
def ray():
    ray = pytest.importorskip("ray", reason="needs Ray: pip install 'diffcse[ray]'")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


@pytest.fixture
def text(tmp_path):
    path = tiny.write_sentences(tmp_path / "text.txt", 303)
    path.write_bytes(path.read_bytes() + b"\nthe \xff cat\n")  # a blank line, and bytes that are not UTF-8
    return path


def expected(text, folder, place):
    encode_file(str(text), place / "one.parquet", lambda: load_encoder(folder), SETTINGS)
    return pq.read_table(place / "one.parquet")


def run(text, output, folder, on_progress=lambda done, total: None, how=SETTINGS, **cluster):
    engine = ray_workers.Cluster(model=folder, **cluster)
    load = lambda: load_encoder(folder)  # noqa: E731
    return encode_file(str(text), output, load, how, engine=engine, on_progress=on_progress)


def workers():
    """Processes of Ray's workers that this test started."""
    processes = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if any("PartWorker" in word for word in process.cmdline()):
                processes.append(process)
    return processes


def test_a_killed_worker_loses_and_doubles_nothing(tmp_path, ray, folder, text):
    killed = []

    def kill():
        while not list((tmp_path / "out.part" / "parts").glob("*.parquet")):
            time.sleep(0.005)
        for process in workers():
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGKILL)
                killed.append(process.pid)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    seen = []
    counts = run(text, tmp_path / "out", folder, workers=1, on_progress=lambda *done: seen.append(done))
    thread.join(10)
    assert killed, "the run ended before a worker could be killed"
    assert seen[-1] == (305, 305)
    assert (counts.rows, counts.blank, counts.repaired) == (305, 1, 1)
    ours, theirs = pq.read_table(tmp_path / "out"), expected(text, folder, tmp_path)
    assert ours["text"].to_pylist() == theirs["text"].to_pylist()
    vectors = [np.array(table["vector"].to_pylist(), dtype=np.float32) for table in (ours, theirs)]
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
    assert len(list((tmp_path / "out").iterdir())) == 61
    assert not (tmp_path / "out.part").exists()


def test_a_killed_driver_goes_on_with_the_parts_it_has(tmp_path, ray, folder, text):
    def stop(done, total):
        if done > 20:
            raise Killed

    with pytest.raises(Killed):
        run(text, tmp_path / "out", folder, stop, workers=1)
    parts = tmp_path / "out.part" / "parts"
    while workers():  # Ray's own, which finish what they have begun
        time.sleep(0.1)
    before = {path.name: path.stat().st_mtime_ns for path in parts.glob("*.parquet")}
    assert len(before) >= 4
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="must be one of the same kind; got other dtype"):
        run(text, tmp_path / "out", folder, how=BulkSettings(dtype="int8"))
    content = text.read_bytes()
    text.write_bytes(content.replace(b"cat", b"dog"))
    with pytest.raises(UserError, match="must be the text that the interrupted run read; got another"):
        run(text, tmp_path / "out", folder)
    text.write_bytes(content)
    counts = run(text, tmp_path / "out", folder)
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.parquet")}
    assert {name: after[name] for name in before} == before
    assert counts.rows == 305
    assert pq.read_table(tmp_path / "out").equals(expected(text, folder, tmp_path))


def test_a_workers_fault_is_one_line(tmp_path, ray, folder, text, monkeypatch):
    monkeypatch.setattr(ray_workers, "fingerprint", lambda model: "of another model")
    with pytest.raises(UserError, match="must be the same on all machines; got another one on a worker"):
        run(text, tmp_path / "out", folder, workers=1)


def test_command_line(tmp_path, ray, folder, text):
    options = ["--model", folder, "--engine", "ray", "--workers", "1", "--dtype", "float16"]
    done = invoke("encode", text, "-o", tmp_path / "out", *options)
    assert done.exit_code == 0
    assert "305 texts; 1 blank; replaced bytes that are not UTF-8 in 1" in done.stderr
    ours = np.array(pq.read_table(tmp_path / "out")["vector"].to_pylist())
    theirs = np.array(expected(text, folder, tmp_path)["vector"].to_pylist())
    np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_without_ray(tmp_path, folder, text, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"Ray must be installed; .*pip install 'diffcse\[ray\]'"):
        run(text, tmp_path / "out", folder)


def test_no_worker_at_all():
    with pytest.raises(UserError, match="workers must be at least 1"):
        ray_workers.Cluster(workers=0)


def test_an_index_by_ray_is_that_of_one_machine(tmp_path, ray, folder, text):
    load, mine, theirs = lambda: load_encoder(folder), tmp_path / "mine", tmp_path / "theirs"
    index_text(str(text), theirs, load, model=folder, settings=SETTINGS)
    engine = ray_workers.Cluster(model=folder, workers=2)
    made, counts = index_text(str(text), mine, load, model=folder, settings=SETTINGS, engine=engine)
    other = SentenceIndex(theirs, verify=True)
    assert (len(made), counts.rows, counts.blank) == (len(other), 305, 1) == (304, 305, 1)
    np.testing.assert_allclose(made._vectors, other._vectors, atol=1e-6)
    assert made._rows.fetch(range(304)) == other._rows.fetch(range(304))
    run(text, tmp_path / "parts", folder, workers=2)
    stored, _ = index_text(
        str(text), tmp_path / "stored", load, model=folder, settings=SETTINGS, engine=StoredParts(tmp_path / "parts")
    )
    np.testing.assert_array_equal(stored._vectors, made._vectors)
