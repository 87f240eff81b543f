"""The recorded numbers of the reference implementation, where the cases are available."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

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
