"""What is held out is never trained on, whatever the order and the grouping of the documents."""

import datasets
import pytest

from diffcse.adaptation.parts import split
from diffcse.adaptation.settings import AdaptSettings
from diffcse.errors import UserError


def documents(count=60, *, groups=0, shared="", single=0):
    """Documents of three sentences each, all different; the first `single` of one."""
    sentences = [
        [
            f"Number {n} opens the text with words.",
            f"Then it is about subject {n} for a while.",
            f"End of {n} here now.",
        ]
        for n in range(count)
    ]
    sentences = [each[:1] if n < single else each for n, each in enumerate(sentences)]
    rows = {"key": [f"{n:04d}" for n in range(count)], "title": [""] * count}
    rows["sentences"] = [[*each, shared] if shared else each for each in sentences]
    if groups:
        rows["group"] = [f"package{n % groups}" for n in range(count)]
    return datasets.Dataset.from_dict(rows)


def sides(parts):
    """Numbers of the documents that train, choose and report."""
    texts = [parts.training["sentences"], *([text.sentences for text in s] for s in (parts.choosing, parts.reporting))]
    return [{int(sentences[0].split()[1]) for sentences in side} for side in texts]


def test_every_document_has_one_side():
    training, choosing, reporting = sides(split(documents(200), AdaptSettings()))
    assert (len(training), len(choosing), len(reporting)) == (140, 30, 30)
    assert len(training | choosing | reporting) == 200


def test_the_order_of_the_documents_decides_nothing():
    text = documents(100)
    first = sides(split(text, AdaptSettings()))
    assert sides(split(text.shuffle(seed=3), AdaptSettings())) == first
    assert sides(split(text, AdaptSettings(seed=1))) != first


def test_a_group_is_on_one_side():
    groups = [{number % 20 for number in side} for side in sides(split(documents(200, groups=20), AdaptSettings()))]
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]


def test_a_sentence_of_a_held_out_document_is_not_trained_on():
    parts = split(documents(100, shared="This line stands in every single document."), AdaptSettings())
    assert parts.shared == len(parts.training) == 70
    assert not any("every single document" in text for row in parts.training["sentences"] for text in row)


def test_documents_of_one_sentence_are_counted_and_not_trained_on():
    parts = split(documents(100, single=30), AdaptSettings())
    assert parts.single == 30
    assert all(len(text.sentences) > 1 for text in (*parts.choosing, *parts.reporting))
    assert all(len(sentences) > 1 for sentences in parts.training["sentences"])
    assert any("30 documents of one sentence" in line for line in parts.lines())


def test_no_more_is_held_out_than_asked_for():
    parts = split(documents(1000), AdaptSettings(most_held_out=50))
    assert (len(parts.choosing), len(parts.reporting)) == (25, 25)


@pytest.mark.parametrize(
    ("text", "got"),
    [
        (documents(39), "got 39 of 39 documents"),
        (documents(80, single=50), "got 30 of 80 documents"),
        (documents(1), "got 1 of 1 documents"),
    ],
)
def test_too_few_documents_are_refused(text, got):
    with pytest.raises(UserError, match=got):
        split(text, AdaptSettings())


def test_one_group_cannot_be_held_out():
    with pytest.raises(UserError, match="groups of documents must be enough to hold some out"):
        split(documents(100, groups=1), AdaptSettings())
