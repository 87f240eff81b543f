"""Numbers from the literature, to stand next to measured numbers; single runs, as percentages with two decimals."""

from __future__ import annotations

from dataclasses import dataclass

from diffcse.evaluation.tasks import GROUPS, Group

SOURCE = "Chuang et al. (2022), tables 1 and 2"


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """One row of a published table.

    Attributes:
        name: backbone and method.
        group: which table.
        scores: x100, in the order of the table's tasks; None where only the average is quoted here.
        average: x100, as printed.
    """

    name: str
    group: Group
    scores: tuple[float, ...] | None
    average: float

    def by_task(self) -> dict[str, float]:
        """Scores by SentEval's task name."""
        return dict(zip(GROUPS[self.group], self.scores or (), strict=False))


PUBLISHED = (
    PublishedRow(
        name="DiffCSE-BERT-base",
        group="sts",
        scores=(72.28, 84.43, 76.47, 83.90, 80.54, 80.59, 71.23),
        average=78.49,
    ),
    PublishedRow(
        name="DiffCSE-RoBERTa-base",
        group="sts",
        scores=(70.05, 83.43, 75.49, 82.81, 82.12, 82.38, 71.19),
        average=78.21,
    ),
    PublishedRow(name="SimCSE-BERT-base", group="sts", scores=None, average=76.25),
    PublishedRow(name="SimCSE-RoBERTa-base", group="sts", scores=None, average=76.57),
    PublishedRow(
        name="DiffCSE-BERT-base",
        group="transfer",
        scores=(82.69, 87.23, 95.23, 89.28, 86.60, 90.40, 76.58),
        average=86.86,
    ),
    PublishedRow(
        name="DiffCSE-RoBERTa-base",
        group="transfer",
        scores=(82.82, 88.61, 94.32, 87.71, 88.63, 90.40, 76.81),
        average=87.04,
    ),
)
