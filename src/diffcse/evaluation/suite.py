"""The whole evaluation: choose tasks, check them, encode once, score, average.

`results` is plain data, ready for JSON: fractions from 0 to 1, unrounded, None where a number does not exist.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffcse.errors import UserError
from diffcse.evaluation import sts
from diffcse.evaluation.embed import Embedded, Encode, embed
from diffcse.evaluation.senteval import Problem, read_tasks
from diffcse.evaluation.tasks import (
    ALL_TASKS,
    GROUPS,
    HEADLINE,
    STS_TASKS,
    Group,
    Mode,
    Protocol,
    ScoredPairs,
    Task,
    has_dev,
    needed_parts,
)
from diffcse.files import jsonable


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which tasks were asked for.

    Attributes:
        names: SentEval's names in the paper's order.
        explicit: those of them that were asked for by name, not through a group.
    """

    names: tuple[str, ...]
    explicit: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What will run: everything is read and checked, nothing is encoded yet.

    Attributes:
        tasks: the tasks that can run.
        problems: what is missing and why.
        mode: test, or dev (the scores that settings are chosen by).
        protocol: how the subsets of STS12-16 become one number.
        pairs: labelled pairs that the user gave.
        analysed: STSBenchmark pairs for the analyses, of the split that the mode names.
    """

    tasks: tuple[Task, ...]
    problems: tuple[Problem, ...] = ()
    mode: Mode = "test"
    protocol: Protocol = "all"
    pairs: ScoredPairs | None = None
    analysed: ScoredPairs | None = None

    def sentences(self) -> list[str]:
        """Every sentence the plan needs, repetitions included."""
        sentences = [sentence for task in self.tasks for sentence in task.sentences(self.mode)]
        return sentences + [sentence for part in (self.pairs, self.analysed) if part for sentence in part.sentences()]


def select(text: str) -> Selection:
    """Read `sts`, `transfer`, `all`, or task names with commas between.

    >>> select("transfer").names[-2:], sorted(select("MR,STS12").explicit)
    (('TREC', 'MRPC'), ['MR', 'STS12'])
    """
    names: set[str] = set()
    explicit: set[str] = set()
    known = {name.lower(): name for name in ALL_TASKS}
    for word in (word.strip() for word in text.split(",")):
        if word in ("sts", "transfer", "all"):
            names |= {name for group, members in GROUPS.items() if word in (group, "all") for name in members}
        elif word.lower() in known:
            explicit.add(known[word.lower()])
        else:
            raise UserError("--tasks", "sts, transfer, all or task names with commas between", word, _known_names())
    return Selection(names=tuple(name for name in ALL_TASKS if name in names | explicit), explicit=frozenset(explicit))


def plan(
    folder: Path,
    selection: Selection,
    *,
    mode: Mode = "test",
    protocol: Protocol = "all",
    train_splits: bool = False,
    official_rows: bool = True,
) -> Plan:
    """Read the data of the selected tasks.

    Args:
        folder: SentEval's data folder, the one that holds `downstream`.
        selection: from `select`.
        mode: test or dev.
        protocol: all, mean or wmean.
        train_splits: score the train splits of STSBenchmark and SICKRelatedness too.
        official_rows: whether each file must have the official number of rows.

    Raises:
        UserError: a task asked for by name cannot run, or none can.
    """
    for name in sorted(selection.explicit):
        if mode == "dev" and not has_dev(name):
            raise UserError(f"--tasks {name}", "a task with a dev score", "one without", "use --mode test")
    names = [name for name in selection.names if mode == "test" or has_dev(name)]
    reading = read_tasks(folder, names, official_rows=official_rows, train_splits=train_splits)
    tasks = tuple(task for task in reading.tasks if needed_parts(task, mode))
    runnable = {task.name for task in tasks}
    for problem in reading.problems:
        if problem.task in selection.explicit - runnable or not runnable:
            raise problem.error
    return Plan(tasks=tasks, problems=reading.problems, mode=mode, protocol=protocol)


def evaluate(
    encode: Encode, plan: Plan, *, model: str = "model", on_task: Callable[[str], None] = lambda name: None
) -> dict[str, Any]:
    """Encode every sentence of the plan once and score its tasks.

    Args:
        encode: an encoder's method, sentences to (S, H).
        plan: from `plan`.
        model: name for the results.
        on_task: called with the name of each task before it is scored.
    """
    start = time.perf_counter()
    embedded = embed(encode, plan.sentences())
    seconds = time.perf_counter() - start
    return results(embedded, plan, model=model, on_task=on_task) | {"encoding": encoding(embedded, plan, seconds)}


def encoding(embedded: Embedded, plan: Plan, seconds: float) -> dict[str, Any]:
    """What the one pass through the encoder did."""
    return {"sentences": len(plan.sentences()), "different": len(embedded.row), "seconds": seconds}


def score(
    embedded: Embedded, plan: Plan, *, on_task: Callable[[str], None] = lambda name: None
) -> dict[str, dict[str, Any]]:
    """Results of each task by name, from the vectors of all sentences."""
    scores = {}
    for task in plan.tasks:
        on_task(task.name)
        start = time.perf_counter()
        scores[task.name] = _score(task, embedded, plan) | {"seconds": time.perf_counter() - start}
    return scores


def _score(task: Task, embedded: Embedded, plan: Plan) -> dict[str, Any]:
    if task.name in STS_TASKS:
        return sts.score_task(task, embedded, protocol=plan.protocol, mode=plan.mode)
    from diffcse.evaluation.transfer import score_task  # brings scikit-learn, which STS does not need

    return score_task(task, embedded, mode=plan.mode)


def results(
    embedded: Embedded, plan: Plan, *, model: str = "model", on_task: Callable[[str], None] = lambda name: None
) -> dict[str, Any]:
    """The form that is written to JSON, from the vectors of all sentences.

    `average` is over the tasks of a group that have their main number (Spearman, accuracy); where not all of them have,
    `complete` is false and `missing` names the others, since such an average cannot be compared with a published one.
    """
    scores = score(embedded, plan, on_task=on_task)
    average: dict[Group, float | None] = {}
    missing: dict[Group, list[str]] = {}
    for group in GROUPS:
        names = group_tasks(group, plan.mode)
        values = [scores[name][HEADLINE[group]] for name in names if HEADLINE[group] in scores.get(name, {})]
        average[group] = math.fsum(values) / len(values) if values else None
        missing[group] = [name for name in names if HEADLINE[group] not in scores.get(name, {})]
    content = {
        "model": model,
        "mode": plan.mode,
        "protocol": plan.protocol,
        "tasks": scores,
        "average": average,
        "complete": {group: not names for group, names in missing.items()},
        "missing": missing,
        "problems": [problem.line for problem in plan.problems],
    }
    if plan.pairs is not None:
        content["pairs"] = sts.correlate(sts.cosines(embedded, plan.pairs), plan.pairs.scores).as_dict()
    if plan.analysed is not None:
        from diffcse.evaluation.analysis import analyse  # brings transformers, which scores do not need

        content["analyses"] = analyse(embedded, plan.analysed, split=plan.mode)
    return jsonable(content)


def group_tasks(group: Group, mode: Mode) -> Sequence[str]:
    """Tasks of a table in its order; in dev mode, those with a dev score."""
    return [name for name in GROUPS[group] if mode == "test" or has_dev(name)]


def _known_names() -> str:
    return "names are " + ", ".join(ALL_TASKS)
