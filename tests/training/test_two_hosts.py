"""Two torchrun agents, as on two machines, train what one process trains."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.killing import environment
from tests.training.test_train import assert_same, command, place, run

__all__ = ["place"]  # a fixture, shared with the tests of training


@pytest.mark.slow
def test_two_agents_equal_one_process(place: Path, tmp_path: Path) -> None:
    done = run(command(place, tmp_path / "of-1", dropout=False))
    assert done.returncode == 0, done.stderr
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    agent = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--rdzv-id=diffcse"]
    agent += ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--local-addr=127.0.0.1", "-m", "diffcse"]
    start = [*agent, *command(place, tmp_path / "of-2", dropout=False)]
    agents = [
        subprocess.Popen(start, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        for one in agents:
            _, errors = one.communicate(timeout=400)
            assert one.returncode == 0, errors
    finally:
        for one in agents:
            one.kill()
    assert_same(tmp_path / "of-1", tmp_path / "of-2", atol=2e-5)
