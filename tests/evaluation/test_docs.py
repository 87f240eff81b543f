"""docs/evaluation.md: its JSON is the form of the results."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from diffcse.evaluation.suite import evaluate, plan, select
from tests.evaluation.layout import BagOfWords, Layout

PAGE = Path(__file__).parents[2] / "docs" / "evaluation.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)[^\n]*\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def test_the_json_is_of_the_form_of_the_results(tmp_path: Path) -> None:
    (shown,) = (json.loads(text) for kind, text in BLOCKS if kind == "json")
    layout = Layout(tmp_path, at_most=60).write("STS12", "STSBenchmark", "MR", "MRPC")
    planned = plan(layout.root, select("STS12,STSBenchmark,MR,MRPC"), official_rows=False)
    _subset(shown, evaluate(BagOfWords().encode, planned), optional={"pairs", "analyses", "truncated", "limit"})


def _subset(shown: Any, results: Any, optional: set[str]) -> None:
    """Every key that is shown is found, as deep as it is shown."""
    if isinstance(shown, dict):
        for key in shown.keys() - optional:
            assert key in results
            _subset(shown[key], results[key], optional if key != "tasks" else set())
