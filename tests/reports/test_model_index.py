from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from diffcse.errors import UserError
from diffcse.reports.model_index import check_card, eval_results, update_card

RESULTS: dict[str, Any] = {
    "mode": "test",
    "tasks": {
        "STS12": {"spearman": 0.7228, "pearson": 0.7, "pairs": 3108},
        "STSBenchmark": {"spearman": 0.8, "pearson": 0.81, "dev": {"spearman": 0.85, "pearson": 0.84}},
        "SICKRelatedness": {"dev": {"spearman": 0.7, "pearson": 0.6}, "absent": ["test"]},
        "MR": {"accuracy": 0.8269, "dev": {"accuracy": 0.83}},
        "MRPC": {"accuracy": 0.75, "f1": 0.81, "dev": {"accuracy": 0.74}},
        "STS13": {"spearman": None, "pearson": None},
    },
}
README = """---
library_name: sentence-transformers
license: mit
tags:
- mine
model-index:
- name: my model
  results:
  - task:
      type: retrieval
    dataset:
      type: other
      name: Other
    metrics:
    - type: ndcg
      value: 0.5
  - task:
      type: sts
    dataset:
      type: sts-b
      name: STS-B
      split: dev
    metrics:
    - type: cosine_spearman
      value: 0.1
---

# My model

Words of mine, with ünïcode.
"""


def numbers(folder: Path) -> dict[tuple[str, str | None, str], float]:
    card = ModelCard.load(folder / "README.md")
    return {(one.dataset_type, one.dataset_split, one.metric_type): one.metric_value for one in card.data.eval_results}


def test_every_number_lands_unrounded(tmp_path: Path) -> None:
    update_card(tmp_path, RESULTS)
    assert numbers(tmp_path) == {
        ("sts12", "test", "cosine_spearman"): 0.7228,
        ("sts12", "test", "cosine_pearson"): 0.7,
        ("sts-b", "test", "cosine_spearman"): 0.8,
        ("sts-b", "test", "cosine_pearson"): 0.81,
        ("sts-b", "dev", "cosine_spearman"): 0.85,
        ("sts-b", "dev", "cosine_pearson"): 0.84,
        ("sick-r", "dev", "cosine_spearman"): 0.7,
        ("sick-r", "dev", "cosine_pearson"): 0.6,
        ("mr", "test", "accuracy"): 0.8269,
        ("mrpc", "test", "accuracy"): 0.75,
        ("mrpc", "test", "f1"): 0.81,
    }
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.model_name == tmp_path.name and card.data.library_name == "sentence-transformers"


def test_twice_is_once(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(README, encoding="utf-8")
    update_card(tmp_path, RESULTS)
    once = (tmp_path / "README.md").read_bytes()
    update_card(tmp_path, RESULTS)
    assert (tmp_path / "README.md").read_bytes() == once


def test_what_was_there_stays_and_the_same_measure_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(README, encoding="utf-8")
    update_card(tmp_path, RESULTS)
    results = numbers(tmp_path)
    assert results[("other", None, "ndcg")] == 0.5 and results[("sts-b", "dev", "cosine_spearman")] == 0.85
    assert len(results) == 12
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.model_name == "my model" and card.data.tags == ["mine"] and card.data.license == "mit"
    assert card.text.strip() == "# My model\n\nWords of mine, with ünïcode."


def test_new_numbers_replace_old_ones(tmp_path: Path) -> None:
    update_card(tmp_path, RESULTS)
    update_card(tmp_path, {"mode": "test", "tasks": {"MR": {"accuracy": 0.9}}})
    assert numbers(tmp_path)[("mr", "test", "accuracy")] == 0.9 and len(numbers(tmp_path)) == 11


def test_dev_results_are_marked_as_dev() -> None:
    results = eval_results({"mode": "dev", "tasks": {"STSBenchmark": {"spearman": 0.8, "dev": {"spearman": 0.8}}}})
    assert [(one.dataset_split, one.metric_value) for one in results] == [("dev", 0.8)]


def test_a_card_needs_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--card must be used with a model folder; got org/name"):
        check_card(Path("org/name"))
    with pytest.raises(UserError, match="--card must be used with a model folder"):
        check_card(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"\xff\xfe", "a UTF-8 text file"),
        (b"---\nkey: [1, 2\n---\n", "a model card"),
        (b"---\n- a\n---\n", "a model card"),
    ],
)
def test_a_damaged_card(tmp_path: Path, content: bytes, rule: str) -> None:
    (tmp_path / "README.md").write_bytes(content)
    with pytest.raises(UserError, match=f"README.md must be {rule}"):
        check_card(tmp_path)
    assert (tmp_path / "README.md").read_bytes() == content
