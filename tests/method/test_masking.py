"""Masking: its shares, its independence of everything but (seed, epoch, example, view)."""

from __future__ import annotations

import numpy as np
import pytest

from diffcse.method.masking import IGNORE, mask_tokens, uniforms

RULES = {"special_ids": np.array([0, 1, 2, 3, 4]), "mask_id": 4, "vocab_size": 1000}


def _long(ratio: float, **more: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    ids = np.random.default_rng(0).integers(5, 1000, size=200_000)
    masked = mask_tokens(ids, uniforms(1, 0, 0, 0, len(ids)), ratio=ratio, **RULES, **more)
    return ids, masked.input_ids, masked.labels


@pytest.mark.parametrize("ratio", [0.15, 0.3, 0.5])
def test_shares_are_those_of_bert(ratio: float) -> None:
    ids, masked, labels = _long(ratio)
    chosen = labels != IGNORE
    assert chosen.mean() == pytest.approx(ratio, abs=0.005)
    assert (masked[chosen] == 4).mean() == pytest.approx(0.8, abs=0.01)
    assert (masked[chosen] == ids[chosen]).mean() == pytest.approx(0.1, abs=0.01)
    assert (masked[~chosen] == ids[~chosen]).all()
    assert (labels[chosen] == ids[chosen]).all()


def test_always_mask_leaves_no_other_replacement() -> None:
    ids, masked, labels = _long(0.3, always_mask=True)
    assert (masked[labels != IGNORE] == 4).all()
    assert (masked[labels == IGNORE] == ids[labels == IGNORE]).all()


def test_special_tokens_are_never_chosen_and_random_words_may_be_special() -> None:
    ids = np.tile([0, 1, 2, 3, 4, 50], 50_000)
    masked = mask_tokens(ids, uniforms(1, 0, 0, 0, len(ids)), ratio=0.9, **RULES)
    assert (masked.labels[ids < 5] == IGNORE).all()
    assert (masked.input_ids[ids < 5] == ids[ids < 5]).all()
    drawn = masked.input_ids[(ids == 50) & (masked.input_ids != 50)]
    assert set(range(4)) <= set(drawn.tolist())
    assert drawn.max() <= 999


def test_random_words_cover_the_vocabulary_evenly() -> None:
    ids, masked, labels = _long(0.9)
    drawn = masked[(labels != IGNORE) & (masked != 4) & (masked != ids)]
    counts = np.bincount(drawn // 100, minlength=10) / len(drawn)
    assert counts == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("other", [(2, 0, 7, 0), (1, 1, 7, 0), (1, 0, 8, 0), (1, 0, 7, 1)])
def test_every_coordinate_changes_the_numbers(other: tuple[int, int, int, int]) -> None:
    assert not np.intersect1d(uniforms(1, 0, 7, 0, 50), uniforms(*other, 50)).size
