"""Fixtures of the search room."""

import pytest

from diffcse.search import index as index_module
from diffcse.search import nearest


@pytest.fixture
def small_limits(monkeypatch):
    """Codes are made from 100 rows on, and grow every 50."""
    pytest.importorskip("faiss")
    monkeypatch.setattr(nearest, "EXACT_LIMIT", 100)
    monkeypatch.setattr(index_module, "_TAIL", 50)
