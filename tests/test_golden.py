"""The recorded numbers of the reference implementation, where the cases are available."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.golden import small_run
from tests.golden.make import write_case
from tests.golden.replay import main, replay

CASES = sorted(path.parent for path in Path(__file__).parents[2].glob("shared/golden/*/case.json"))


@pytest.mark.skipif(not CASES, reason="the golden cases are not next to this checkout (../shared/golden)")
@pytest.mark.parametrize("case", CASES, ids=lambda path: path.name)
def test_case_replays_within_its_tolerances(case: Path) -> None:
    lines = list(replay(case))
    assert [line for line in lines if not line.holds] == []
    assert len(lines) > 10


@pytest.mark.skipif(not CASES, reason="the golden cases are not next to this checkout (../shared/golden)")
def test_replay_fails_when_a_number_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in CASES[0].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    scalars = (tmp_path / "scalars.json").read_text()
    (tmp_path / "scalars.json").write_text(
        scalars.replace('"rtd_loss": 0.', '"rtd_loss": 1.').replace('"rtd_loss": 1.2', '"rtd_loss": 2.2')
    )
    assert main([str(tmp_path)]) == 1
    assert "FAIL" in capsys.readouterr().out
    assert main([]) == 2


def test_a_case_without_replaced_token_detection_replays_although_its_weights_hold_the_unused_parts(
    tmp_path: Path,
) -> None:
    write_case(tmp_path)
    assert any(name.startswith("generator.") for name in load_file(tmp_path / "weights.safetensors"))
    lines = list(replay(tmp_path))
    assert [line for line in lines if not line.holds] == []
    assert {"total_loss", "gradients of encoder", "loss over 20 steps", "weights after 20 steps"} <= {
        line.name for line in lines
    }
    assert not any("discriminator" in line.name for line in lines)


RECORDED = json.loads(small_run.FILE.read_text())


@pytest.mark.parametrize("name", small_run.RUNS)
def test_a_small_run_has_the_recorded_losses(name: str) -> None:
    """If training was meant to change: python -m tests.golden.small_run --write, and say so in the commit."""
    results = small_run.run(small_run.RUNS[name])
    bits = RECORDED["machine"] == small_run.machine()
    assert small_run.differences(RECORDED["runs"][name], results, bits=bits) == []


def test_a_changed_loss_norm_or_bit_is_named() -> None:
    recorded = RECORDED["runs"]["reference"]
    changed = copy.deepcopy(recorded)
    changed["losses"][1]["rtd"] += 1e-3
    changed["norm"] *= 1.001
    lines = small_run.differences(recorded, changed, bits=True)
    assert [line.split(" is ")[0] for line in lines] == ["step 2: rtd", "the weights' norm"]
    assert small_run.differences(recorded, recorded | {"sha256": "0"}, bits=False) == []
    assert len(small_run.differences(recorded, recorded | {"sha256": "0"}, bits=True)) == 1
