# ruff: noqa: NPY002 - SentEval draws from NumPy's old global stream
import copy

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from sklearn.model_selection import StratifiedKFold
from torch import nn

from diffcse.evaluation.embed import Embedded, embed
from diffcse.evaluation.senteval import read_tasks
from diffcse.evaluation.tasks import Labelled, LabelledPairs, Task
from diffcse.evaluation.transfer import (
    STRENGTHS,
    Samples,
    by_folds,
    choose,
    f1,
    follow_senteval,
    prepare,
    samples,
    score_task,
    stratified,
)
from tests.evaluation.layout import BagOfWords, Layout

NAMES = ("MR", "SST2", "TREC", "MRPC")


class Reference:
    """SentEval's classifier, written down plainly in PyTorch: one fit at a time, autograd, torch's optimiser."""

    def __init__(self, features: int, classes: int, l2: float, *, fast: bool) -> None:
        np.random.seed(1111)
        torch.manual_seed(1111)
        self.model = nn.Linear(features, classes)
        method = torch.optim.RMSprop if fast else torch.optim.Adam
        self.optimiser = method(self.model.parameters(), weight_decay=l2)
        self.batch, self.patience, self.block = (128, 3, 2) if fast else (64, 5, 4)

    def fit(self, x: np.ndarray, y: np.ndarray, dev: tuple[np.ndarray, np.ndarray] | None = None) -> float:
        if dev is None:
            order = np.random.permutation(len(x))
            cut = int(0.05 * len(x))
            dev = x[order[:cut]], y[order[:cut]]
            x, y = x[order[cut:]], y[order[cut:]]
        rows, labels = torch.tensor(x, dtype=torch.float32), torch.tensor(y)
        best, failures, epochs, stop = -1.0, 0, 0, False
        while not stop and epochs <= 200:
            for _ in range(self.block):
                order = np.random.permutation(len(x))
                for start in range(0, len(x), self.batch):
                    rows_now = torch.from_numpy(order[start : start + self.batch])
                    loss = nn.functional.cross_entropy(self.model(rows[rows_now]), labels[rows_now])
                    self.optimiser.zero_grad()
                    loss.backward()
                    self.optimiser.step()
            epochs += self.block
            accuracy = float((self.predict(dev[0]) == dev[1]).mean())
            if accuracy > best:
                best, kept = accuracy, copy.deepcopy(self.model)
            else:
                stop = failures >= self.patience
                failures += 1
        self.model = kept
        return best

    def predict(self, x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return self.model(torch.tensor(x, dtype=torch.float32)).argmax(1).numpy()


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Task]:
    root = tmp_path_factory.mktemp("data")
    Layout(root, at_most=90).write(*NAMES)
    return {task.name: task for task in read_tasks(root, NAMES, official_rows=False).tasks}


def split(data: Samples) -> tuple[np.ndarray, np.ndarray]:
    return data.features, data.labels


def folds(y: np.ndarray, k: int):
    return StratifiedKFold(n_splits=k, shuffle=True, random_state=1111).split(y[:, None], y)


def tuned_plainly(x: np.ndarray, y: np.ndarray, k: int, *, fast: bool = False):
    """SentEval's cross-validation, one fit after the other."""
    classes, scores = int(y.max()) + 1, []
    for l2 in STRENGTHS:
        right = [Reference(x.shape[1], classes, l2, fast=fast).fit(x[a], y[a], (x[b], y[b])) for a, b in folds(y, k)]
        scores.append(np.mean(right))
    best = int(np.argmax([round(100 * score, 2) for score in scores]))
    final = Reference(x.shape[1], classes, STRENGTHS[best], fast=fast)
    final.fit(x, y)
    return STRENGTHS[best], scores[best], final


def vectors(*texts: str) -> Embedded:
    rng = np.random.default_rng(0)
    return Embedded(row={text: i for i, text in enumerate(texts)}, vectors=rng.normal(size=(len(texts), 3)))


def test_samples_are_sorted_by_length_and_label() -> None:
    texts = ["a b", "c", "d e", "f"]
    embedded = vectors(*texts)
    results = samples(Labelled(texts=texts, labels=np.array([1, 1, 0, 0])), embedded)
    assert results.labels.tolist() == [0, 1, 0, 1]
    np.testing.assert_array_equal(results.features, embedded(["f", "c", "d e", "a b"]))


def test_pairs_become_difference_and_product_sorted_by_both_lengths() -> None:
    embedded = vectors("a b", "c", "d e f", "g")
    pairs = LabelledPairs(first=["a b", "c", "c"], second=["c", "d e f", "g"], labels=np.array([1, 0, 1]))
    results = samples(pairs, embedded)
    assert results.labels.tolist() == [1, 0, 1]
    u, v = embedded(["c", "c", "a b"]), embedded(["g", "d e f", "c"])
    np.testing.assert_array_equal(results.features, np.hstack([np.abs(u - v), u * v]))


def test_nested_folds_equal_a_plain_loop(tasks: dict[str, Task]) -> None:
    embedded = embed(BagOfWords().encode, tasks["MR"].sentences())
    x, y = split(samples(tasks["MR"].parts["all"], embedded))
    plain = [tuned_plainly(x[train], y[train], 5, fast=True) for train, _ in folds(y, 5)]
    results = score_task(tasks["MR"], embedded, mode="dev")
    assert results["l2"] == [l2 for l2, _, _ in plain]
    assert results["accuracy"] == pytest.approx(np.mean([dev for _, dev, _ in plain]), abs=1e-12)


def test_one_outer_fold_of_ten_equals_a_plain_loop(tasks: dict[str, Task]) -> None:
    embedded = embed(BagOfWords().encode, tasks["MR"].sentences())
    data, designs = prepare(tasks["MR"], embedded, "test")
    assert len(designs) == 10
    train, test = next(iter(folds(data.labels, 10)))
    l2, dev, model = tuned_plainly(data.features[train], data.labels[train], 10)
    outcome = follow_senteval(data, designs[0])
    assert (outcome.l2, outcome.dev) == (l2, pytest.approx(dev, abs=1e-12))
    np.testing.assert_array_equal(outcome.predicted, model.predict(data.features[test]))


@pytest.mark.parametrize("name", ["TREC", "MRPC"])
def test_folds_of_the_training_part_equal_a_plain_loop(tasks: dict[str, Task], name: str) -> None:
    embedded = embed(BagOfWords().encode, tasks[name].sentences())
    results = score_task(tasks[name], embedded)
    train, test = (split(samples(tasks[name].parts[part], embedded)) for part in ("train", "test"))
    l2, dev, model = tuned_plainly(*train, 10)
    predicted = model.predict(test[0])
    assert results["l2"] == [l2]
    assert results["dev"]["accuracy"] == pytest.approx(dev, abs=1e-12)
    assert results["accuracy"] == (predicted == test[1]).mean()
    if name == "MRPC":
        assert results["f1"] == pytest.approx(f1_score(test[1], predicted), abs=1e-12)


@pytest.mark.parametrize("mode", ["test", "dev"])
def test_sst2_is_tuned_on_dev(tasks: dict[str, Task], mode: str) -> None:
    embedded = embed(BagOfWords().encode, tasks["SST2"].sentences())
    results = score_task(tasks["SST2"], embedded, mode=mode)
    train, dev, test = (split(samples(tasks["SST2"].parts[part], embedded)) for part in ("train", "dev", "test"))
    models, scores = [], []
    for l2 in STRENGTHS:
        models.append(Reference(train[0].shape[1], 2, l2, fast=mode == "dev"))
        scores.append(models[-1].fit(*train, dev))
    best = int(np.argmax([round(100 * score, 2) for score in scores]))
    assert results["l2"] == [STRENGTHS[best]] and results["dev"]["accuracy"] == scores[best]
    target = scores[best] if mode == "dev" else (models[best].predict(test[0]) == test[1]).mean()
    assert results["accuracy"] == target


def test_the_users_random_numbers_stay_as_they_are(tasks: dict[str, Task]) -> None:
    embedded = embed(BagOfWords().encode, tasks["SST2"].sentences())
    torch.manual_seed(7)
    np.random.seed(7)
    expected = torch.rand(3), np.random.rand(3)
    torch.manual_seed(7)
    np.random.seed(7)
    score_task(tasks["SST2"], embedded)
    assert torch.equal(torch.rand(3), expected[0])
    np.testing.assert_array_equal(np.random.rand(3), expected[1])


def test_no_test_row_is_learnt_from_or_tuned_on() -> None:
    labels = np.random.default_rng(0).integers(0, 2, 200)
    for train, test in stratified(labels, 10):
        one = by_folds(labels, train, test, "test")
        assert not set(one.test) & set(one.train) and set(one.test) | set(one.train) == set(range(200))
        for learn, check in one.tuning:
            assert not (set(learn) | set(check)) & set(one.test)
            assert not set(learn) & set(check) and set(learn) | set(check) == set(one.train)


def test_test_labels_do_not_leak() -> None:
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(120, 5)).astype(np.float32), rng.integers(0, 2, 120)
    train, test = next(iter(stratified(labels, 5)))
    one = by_folds(labels, train, test, "test")
    flipped = labels.copy()
    flipped[test] = 1 - flipped[test]
    outcomes = []
    for known in (labels, flipped):
        data = Samples(features=features, labels=known)
        outcomes.append(follow_senteval(data, one))
    before, after = outcomes
    assert (before.l2, before.dev) == (after.l2, after.dev)
    np.testing.assert_array_equal(before.predicted, after.predicted)


def test_labels_of_noise_are_not_found() -> None:
    """The nested score of labels that have nothing to do with the vectors stays near chance; a leak would raise it."""
    rng = np.random.default_rng(1)
    texts = [f"t{i}" for i in range(600)]
    embedded = Embedded(row={text: i for i, text in enumerate(texts)}, vectors=rng.normal(size=(600, 60)))
    task = Task(name="MR", parts={"all": Labelled(texts=texts, labels=rng.integers(0, 2, 600))})
    assert abs(score_task(task, embedded)["accuracy"] - 0.5) < 0.07


def test_a_tie_takes_the_weaker_strength() -> None:
    assert choose(np.array([0.5, 0.70001, 0.70004, 0.6])) == (1, 0.70001)


def test_strengths_are_sentevals() -> None:
    assert STRENGTHS == (1e-5, 1e-4, 1e-3, 1e-2)


@pytest.mark.parametrize(("predicted", "truth"), [([1, 1, 0], [1, 0, 1]), ([0, 0, 0], [0, 1, 1]), ([0, 0], [0, 0])])
def test_f1_is_scikit_learns(predicted: list[int], truth: list[int]) -> None:
    expected = f1_score(truth, predicted, zero_division=0.0)
    assert f1(np.array(predicted), np.array(truth)) == pytest.approx(expected)
