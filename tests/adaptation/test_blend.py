"""Means of weights, and the rule by which the start is kept."""

import numpy as np
import pytest
import torch

from diffcse.adaptation.blend import Candidate, Form, Remembering, agreement, better, choose, mean_weights, shares
from diffcse.adaptation.questions import KEYWORDS, SENTENCE
from diffcse.errors import UserError
from diffcse.evaluation.retrieval import METRICS, RetrievalScores
from diffcse.evaluation.statistics import Paired


def scores(mrr):
    return RetrievalScores(**dict.fromkeys(METRICS, mrr), queries=1, per_query={n: np.array([mrr]) for n in METRICS})


def difference(low, high):
    return Paired(difference=(low + high) / 2, low=low, high=high, p=0.5)


def candidate(share, mrr, sentence, keywords=(-0.01, 0.01)):
    return Candidate(
        form=Form(share),
        scores={SENTENCE: scores(mrr), KEYWORDS: scores(mrr)},
        against_start={SENTENCE: difference(*sentence), KEYWORDS: difference(*keywords)},
        agreement=0.9,
    )


START = candidate(0.0, 0.4, (0.0, 0.0))
BROKEN = Candidate(form=Form(1.0), scores={}, against_start={}, agreement=0.0)


@pytest.mark.parametrize(
    ("blends", "share", "better"),
    [
        ([candidate(0.25, 0.5, (0.01, 0.2)), candidate(0.5, 0.6, (0.02, 0.3))], 0.5, True),
        ([candidate(0.25, 0.5, (0.01, 0.2)), candidate(0.5, 0.6, (0.02, 0.3), keywords=(-0.2, -0.1))], 0.25, True),
        ([candidate(0.25, 0.41, (-0.01, 0.2)), candidate(0.5, 0.3, (-0.2, -0.1))], 0.25, False),
        ([candidate(0.25, 0.5, (0.01, 0.2)), BROKEN], 0.25, True),
    ],
    ids=["the best of two", "worse at keywords", "none is better", "vectors that are not finite"],
)
def test_choice(blends, share, better):
    chosen = choose([START, *blends])
    assert (chosen.form.share, chosen.better) == (share, better)


def test_training_that_broke_the_model_is_said():
    with pytest.raises(UserError, match="learning_rate must be low enough for finite vectors"):
        choose([START, BROKEN])


def test_mean_of_weights():
    start = {"w": torch.tensor([0.0, 2.0]), "positions": torch.tensor([1, 2])}
    trained = {"w": torch.tensor([1.0, 4.0]), "positions": torch.tensor([3, 4])}
    mixed = mean_weights(start, trained, 0.25)
    assert mixed["w"].tolist() == [0.25, 2.5] and mixed["positions"].tolist() == [3, 4]
    assert mean_weights(start, trained, 0.0) is start and mean_weights(start, trained, 1.0) is trained


def test_shares_end_at_the_largest():
    assert shares(1.0) == [0.125, 0.25, 0.5, 0.75, 1.0]
    assert shares(0.1) == [0.1]


class Letters:
    """Counts letters; remembers what it was asked."""

    def __init__(self, letters):
        self.letters, self.asked = letters, []
        self.model, self.prompts, self.default_prompt_name = self, {}, None

    def encode(self, texts, *, prompt=None):
        self.asked += texts
        return np.array([[1 + text.count(letter) for letter in self.letters] for text in texts], dtype=np.float32)


def test_a_text_is_encoded_once():
    encoder = Letters("ab")
    memory = Remembering(encoder)
    first, second = memory.encode_document(["a", "b", "a"]), memory.encode_document(["b"])
    assert encoder.asked == ["a", "b"] and (first[1] == second[0]).all() and (first[0] == first[2]).all()


def test_agreement_is_the_share_of_common_neighbours():
    texts = ["aaa", "aab", "bbb", "bba", "ccc", "cca"]
    memory = Remembering(Letters("abc"))
    assert agreement(memory, Remembering(Letters("bca")), texts, count=2) == 1.0  # the same numbers in another order
    assert agreement(memory, Remembering(Letters("c")), texts, count=1) < 1.0


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        ({SENTENCE: difference(0.01, 0.1), KEYWORDS: difference(-0.1, 0.01)}, True),
        ({SENTENCE: difference(-0.01, 0.1), KEYWORDS: difference(0.1, 0.2)}, False),
        ({SENTENCE: difference(0.01, 0.1), KEYWORDS: difference(-0.1, -0.01)}, False),
        ({}, False),
    ],
    ids=["beyond chance", "by chance", "worse at keywords", "not finite"],
)
def test_better_is_beyond_chance_at_sentences_and_not_worse_at_keywords(differences, expected):
    assert better(differences) is expected
