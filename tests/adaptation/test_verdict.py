"""When the chosen form is kept: what the half that chose, the half that reports, and both together must show."""

import numpy as np
import pytest

from diffcse.adaptation.blend import START, Candidate, Form, Measured
from diffcse.adaptation.questions import KINDS, questions
from diffcse.adaptation.verdict import reach
from diffcse.evaluation.retrieval import METRICS, RetrievalScores
from diffcse.evaluation.statistics import paired
from tests.adaptation.test_questions import TEXTS

GAIN, NOISE = np.full(40, 0.1), np.resize([0.3, -0.25, 0.3, -0.25], 40)


class Still:
    """Any text becomes the same two numbers."""

    def encode(self, texts):
        return np.ones((len(texts), 2), dtype=np.float32)

    encode_query = encode_document = encode


def candidate(form, gain):
    """40 questions of each kind; the start finds its documents with 0.5."""
    mrr = 0.5 + gain
    scores = RetrievalScores(
        **dict.fromkeys(METRICS, float(mrr.mean())), queries=40, per_query=dict.fromkeys(METRICS, mrr)
    )
    against = paired(mrr, np.full(40, 0.5))
    return Candidate(
        form=form, scores=dict.fromkeys(KINDS, scores), against_start=dict.fromkeys(KINDS, against), agreement=1.0
    )


@pytest.mark.parametrize(
    ("chose", "reports", "kept"),
    [
        (GAIN, GAIN, True),
        (GAIN, NOISE, True),  # alone not beyond chance, but on the same side, and together they are
        (GAIN, -NOISE, False),
        (NOISE, GAIN, False),
        (GAIN, 10 * NOISE, False),
    ],
    ids=["both", "reports less surely", "reports worse", "was not better where it was chosen", "not together"],
)
def test_kept(chose, reports, kept):
    start, form = candidate(START, np.zeros(40)), Form(0.5, mapped=True)
    reported = Measured(questions(TEXTS, seed=0))
    reported.candidates = [start, candidate(form, reports)]
    reported.memories = {START: Still(), form: Still()}
    chosen = candidate(form, chose)
    verdict = reach([start, chosen], chosen, reported)
    assert verdict.kept is kept
    assert verdict.words().startswith("kept: the adapted model (50% of" if kept else "kept: the start")
    assert verdict.together["sentence"].difference == pytest.approx((chose.mean() + reports.mean()) / 2)
