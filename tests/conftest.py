"""What many tests start from: tiny models and texts, SentEval's layout, data that only some machines have."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import tiny
from tests.evaluation.layout import Layout


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A plain encoder with its tokenizer; nobody writes into it."""
    return tiny.save(tiny.encoder(), tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """200 different sentences of the tiny vocabulary."""
    return tiny.write_sentences(tmp_path_factory.mktemp("text") / "t.txt", 200).read_text().splitlines()


@pytest.fixture(scope="session")
def official(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """All of SentEval's tasks with the official numbers of rows; nobody writes into it."""
    return Layout(tmp_path_factory.mktemp("senteval")).write()


@pytest.fixture
def shared() -> Path:
    """Data next to the checkout; the test is skipped where there are none."""
    path = Path(__file__).parents[2] / "shared"
    if not path.is_dir():
        pytest.skip("no ../shared here")
    return path
