"""The switches of later work: each against a plain loop, off by default, and exact in a whole step."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from diffcse.method import later_work, objective
from diffcse.method.contrast import ContrastiveSide
from diffcse.method.later_work import Queue, Sentences, Step
from diffcse.presets import build
from tests import tiny
from tests.method.test_frame import collated, network


def vectors(count: int = 5, width: int = 7) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(count, width, generator=generator) for _ in range(3)]


def cos(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def test_negatives_without_dropout_by_a_plain_loop() -> None:
    z1, z2, plain = vectors()
    logits = later_work.without_dropout(objective.contrastive(z1, z2, temperature=0.1).logits, plain, temperature=0.1)
    expected = []
    for i in range(5):
        positive = math.exp(cos(z1[i], z2[i]) / 0.1)
        rest = sum(math.exp(cos(plain[i], plain[j]) / 0.1) for j in range(5) if j != i)
        expected.append(-math.log(positive / (positive + rest)))
    loss = F.cross_entropy(logits, torch.arange(5))
    assert float(loss) == pytest.approx(sum(expected) / 5, abs=1e-5)


def test_contrast_between_dimensions_by_a_plain_loop() -> None:
    z1, z2, _ = vectors()
    a, b = (((z - z.mean(0)) / (z.var(0, unbiased=False) + 1e-5).sqrt()) for z in (z1, z2))
    expected = []
    for c in range(7):
        scores = [math.exp(float(a[:, c] @ b[:, d]) / 5 / 5.0) for d in range(7)]
        expected.append(-math.log(scores[c] / sum(scores)))
    assert float(later_work.between_dimensions(z1, z2, temperature=5.0)) == pytest.approx(sum(expected) / 7, abs=1e-5)


def test_false_negatives_are_excluded_and_positives_never() -> None:
    z1, z2, z3 = vectors()
    guide = torch.eye(5)
    guide[1] = guide[0]
    logits = objective.contrastive(z1, z2, z3, temperature=0.1).logits
    got = later_work.keep_true_negatives(logits, guide, largest_cosine=0.9)
    gone = torch.isinf(got)
    assert gone.nonzero().tolist() == [[0, 1], [1, 0]]
    assert torch.equal(got[~gone], logits[~gone])


def test_ranking_by_a_plain_loop() -> None:
    z1, z2, teacher = vectors()
    expected = []
    for i in range(5):
        others = [j for j in range(5) if j != i]
        ours = torch.tensor([cos(z1[i], z2[j]) for j in others]) / 0.1
        theirs = torch.tensor([cos(teacher[i], teacher[j]) for j in others]) / 0.05
        expected.append(-float((theirs.softmax(0) * ours.log_softmax(0)).sum()))
    got = later_work.ranking(z1, z2, teacher, temperature=0.1, teacher_temperature=0.05)
    assert float(got) == pytest.approx(sum(expected) / 5, abs=1e-5)


def test_a_queue_holds_the_last_and_comes_back_from_its_state() -> None:
    queue = Queue(5, 1)
    assert queue.filled().shape == (0, 1)
    for start in range(0, 8, 2):
        queue.push(torch.tensor([[float(start)], [float(start + 1)]]))
    assert sorted(queue.filled().flatten().tolist()) == [3, 4, 5, 6, 7]
    fresh = Queue(5, 1)
    fresh.load_state_dict(queue.state_dict())
    for one in (queue, fresh):
        one.push(torch.tensor([[8.0]]))
    assert torch.equal(fresh.filled(), queue.filled())
    assert sorted(queue.filled().flatten().tolist()) == [4, 5, 6, 7, 8]
    queue.push(torch.arange(100, 108.0).unsqueeze(1))
    assert sorted(queue.filled().flatten().tolist()) == [103, 104, 105, 106, 107]


SWITCHES: dict[str, dict[str, Any]] = {
    "edits as negatives": {"edits_as": "negatives"},
    "edits as positives": {"edits_as": "positives"},
    "negatives without dropout": {"negatives_without_dropout": True},
    "dimensions": {"dimension_weight": 0.1},
    "false negatives": {"false_negative_cosine": 0.5},
    "teacher's false negatives": {"false_negative_cosine": 0.5, "teacher": "x"},
    "ranking": {"ranking_weight": 1.0, "teacher": "x"},
    "queue": {"queue_size": 8, "ema_decay": 0.9},
}


class Teacher(torch.nn.Module):
    """What a SentenceTransformer gives for features, from a tiny encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = tiny.encoder(seed=5, dropout=0.5)

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"sentence_embedding": self.encoder(**features).last_hidden_state[:, 0]}


@pytest.mark.parametrize("objective_name", ["simcse", "diffcse"])
@pytest.mark.parametrize("name", SWITCHES)
def test_each_switch_changes_the_loss_and_trains_without_its_helpers(name: str, objective_name: Any) -> None:
    settings = SWITCHES[name]
    plain_config = build(objective=objective_name, temperature=0.3)
    config = build(objective=objective_name, temperature=0.3, **settings)
    teacher = Teacher() if "teacher" in settings else None
    net, plain = network(config, teacher), network(plain_config)
    plain.load_state_dict(net.state_dict(), strict=False)
    inputs = collated(config)
    if name == "queue":
        net(**inputs)  # fills the queue
    if name == "negatives without dropout":
        _drop(net.encoder)
        _drop(plain.encoder)
    torch.manual_seed(4)
    output = net(**inputs)
    torch.manual_seed(4)
    base = plain(**{key: inputs[key] for key in collated(plain_config)})
    assert torch.isfinite(output.loss)
    assert abs(float((output.loss - base.loss).detach())) > 1e-4
    assert (output.dimensions is not None) == ("dimension_weight" in settings)
    assert (output.ranking is not None) == ("ranking_weight" in settings)
    output.loss.backward()
    frozen = ("edit.", "teacher.", "average.")
    assert all(p.grad is None for key, p in net.named_parameters() if key.startswith(frozen))
    assert [key for key, p in net.named_parameters() if p.requires_grad and p.grad is None] == []
    assert not any(key.startswith(("edit.", "teacher.")) for key in _saved(net))


def _drop(encoder: torch.nn.Module) -> None:
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5


def _saved(net: torch.nn.Module) -> set[str]:
    return set(net.state_dict()) - set(net._keys_to_ignore_on_save)


def _seen(net: torch.nn.Module, inputs: dict[str, Tensor]) -> tuple[Step, Sentences]:
    """What the contrastive side reads in a step."""
    seen: list[tuple[Step, Sentences]] = []
    handle = net.contrastive_side.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    net(**inputs)
    handle.remove()
    return seen[0]


def test_a_step_compares_negatives_without_dropout() -> None:
    config = build(objective="simcse", negatives_without_dropout=True, projector="none")
    net = network(config)
    _drop(net.encoder)
    first, second = (_seen(net, collated(config))[1] for _ in range(2))
    assert torch.equal(first.further["plain"], second.further["plain"])
    assert not torch.equal(first.views, second.views)
    assert net.encoder.training


@pytest.mark.parametrize("text", ["same", "both"])
def test_the_edit_that_is_an_example_is_the_first_views_own(text: Any) -> None:
    config = build(edits_as="positives", edited_text=text, projector="none")
    net, inputs = network(config), collated(config)
    step, sentences = _seen(net, inputs)
    views, positive = sentences.views, sentences.further["positive"]
    names = ("masked_ids", "chosen", "draws")
    rows = {name: inputs[name][:, 0] for name in names}
    rows["input_ids"] = inputs.get("aligned_ids", inputs["input_ids"])[:, 0]
    rows["attention_mask"] = inputs.get("draft_mask", inputs["attention_mask"])[:, 0]
    edited = net.edit(**rows)
    expected = net.pool(edited.input_ids.unsqueeze(1), rows["attention_mask"].unsqueeze(1))[:, 0]
    torch.testing.assert_close(positive, expected, atol=1e-5, rtol=1e-5)
    two = [net.contrast(views).loss, net.contrast(torch.stack([views[:, 0], positive], 1)).loss]
    torch.testing.assert_close(net.contrastive_side(step, sentences).loss, sum(two) / 2)


def test_cosines_are_in_float32_under_autocast() -> None:
    generator = torch.Generator().manual_seed(0)
    views, edited, plain = (torch.randn(*shape, generator=generator) for shape in ((8, 2, 16), (8, 16), (8, 16)))
    extra = {"negatives_without_dropout": True, "dimension_weight": 0.1, "edits_as": "negatives"}
    side = ContrastiveSide(build(temperature=0.3, **extra), 16)
    sentences = Sentences(views=views, further={"negative": edited, "plain": plain}, guide=views[:, 0])
    step = Step(model=None, input_ids=views, attention_mask=views, edited=None)
    exact = side(step, sentences)
    with torch.autocast("cpu", torch.bfloat16):
        assert (views[0] @ views[0].T).dtype == torch.bfloat16
        again = side(step, sentences)
        assert torch.equal(side.plain(views).logits, side.plain(views.clone()).logits)
        assert side.plain(views).logits.dtype == torch.float32
    assert torch.equal(again.loss, exact.loss)


@pytest.mark.parametrize("settings", [{"negatives_without_dropout": True}, {"edits_as": "negatives"}])
def test_in_parts_gives_the_gradient_of_the_whole(settings: dict[str, Any]) -> None:
    results = []
    for rows_at_once in (0, 3):
        config = build(rows_at_once=rows_at_once, **settings)
        net = network(config)
        net(**collated(config)).loss.backward()
        results.append({name: p.grad for name, p in net.named_parameters() if p.grad is not None})
    for name, gradient in results[0].items():
        torch.testing.assert_close(results[1][name], gradient, atol=2e-5, rtol=1e-4)


def test_the_queue_holds_projected_vectors_of_the_average_in_evaluation_mode() -> None:
    config = build(objective="simcse", queue_size=8, ema_decay=0.9)
    net = network(config)
    inputs = collated(config)
    statistics = copy.deepcopy(net.projector.state_dict())
    net(**inputs)
    held = net.contrastive_side.queue.filled()
    assert held.shape == (6, 16)
    net.eval()
    with torch.no_grad():
        expected = net.project(net.pool(inputs["input_ids"][:, :1], inputs["attention_mask"][:, :1]))[:, 0]
    torch.testing.assert_close(held, expected, atol=1e-5, rtol=1e-5)
    counted = [name for name in statistics if name.endswith("num_batches_tracked")]
    assert counted and all(int(net.projector.state_dict()[name]) == 1 for name in counted)
    net(**inputs)
    assert len(net.contrastive_side.queue.filled()) == 6  # evaluation pushes nothing
