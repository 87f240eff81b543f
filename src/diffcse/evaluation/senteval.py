"""Reads SentEval's folder layout: 14 tasks, each file checked, each fault one line that names file and task.

Text is what SentEval makes of it: split at white space, joined by single spaces; case is left alone (the prepared STS,
MR and SST files are lower case already). Formats and row counts: SentEval (Conneau & Kiela, 2018), in the version of
the SimCSE authors, which scores STSBenchmark and SICKRelatedness by cosine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffcse.errors import UserError
from diffcse.evaluation.tasks import ALL_TASKS, Labelled, LabelledPairs, Part, ScoredPairs, Task

_FETCH = "put SentEval's file there, or fetch all with: diffcse data fetch FOLDER"

STS_SUBSETS: Mapping[str, Mapping[str, int]] = {
    "STS12": {"MSRpar": 750, "MSRvid": 750, "SMTeuroparl": 459, "surprise.OnWN": 750, "surprise.SMTnews": 399},
    "STS13": {"FNWN": 189, "headlines": 750, "OnWN": 561},  # without SMT, whose licence keeps it out of SentEval
    "STS14": {
        "deft-forum": 450,
        "deft-news": 300,
        "headlines": 750,
        "images": 750,
        "OnWN": 750,
        "tweet-news": 750,
    },
    "STS15": {"answers-forums": 375, "answers-students": 750, "belief": 375, "headlines": 750, "images": 750},
    "STS16": {"answer-answer": 254, "headlines": 249, "plagiarism": 230, "postediting": 244, "question-question": 209},
}
"""Scored pairs of each subset (the SemEval task pages)."""

STSB_ROWS = {"train": 5749, "dev": 1500, "test": 1379}
SICK_FILES = {
    "train": ("SICK_train.txt", 4500),
    "dev": ("SICK_trial.txt", 500),
    "test": ("SICK_test_annotated.txt", 4927),
}
TWO_CLASS_FILES = {
    "MR": (("rt-polarity.pos", 5331), ("rt-polarity.neg", 5331)),
    "CR": (("custrev.pos", 2407), ("custrev.neg", 1368)),
    "MPQA": (("mpqa.pos", 3312), ("mpqa.neg", 7294)),
    "SUBJ": (("subj.objective", 5000), ("subj.subjective", 5000)),
}
"""(file of class 1, rows), (file of class 0, rows); latin-1."""

SST2_ROWS = {"train": 67349, "dev": 872, "test": 1821}
TREC_FILES = {"train": ("train_5500.label", 5452), "test": ("TREC_10.label", 500)}
TREC_CLASSES = ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM")
MRPC_ROWS = {"train": 4076, "test": 1725}


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Why a task, or a split of it, is missing.

    Attributes:
        task: SentEval's name.
        part: the split, where the rest of the task still runs; None if the whole task is missing.
        error: one sentence for the user, naming task and file.
        scored: the splits of the task that are scored without it.
    """

    task: str
    part: str | None
    error: UserError
    scored: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        """The sentence, and what is scored nevertheless."""
        rest = f"; scored without it: {self.task} {', '.join(self.scored)}" if self.scored else ""
        return f"{self.error}{rest}"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a folder gave.

    Attributes:
        tasks: the tasks that can run, in the paper's order.
        problems: why others, or parts of them, cannot.
    """

    tasks: tuple[Task, ...]
    problems: tuple[Problem, ...]


def read_tasks(
    folder: Path, names: Sequence[str] = ALL_TASKS, *, official_rows: bool = True, train_splits: bool = False
) -> Reading:
    """Read tasks; one that is absent or damaged becomes a problem and the others still come.

    Args:
        folder: SentEval's data folder, the one that holds `downstream`.
        names: SentEval's task names.
        official_rows: whether a file must have the official number of rows.
        train_splits: read the train splits of STSBenchmark and SICKRelatedness too. SentEval scores them, but no table
            shows them, and they are a good part of the sentences of the STS suite.

    Raises:
        UserError: the folder is not SentEval's, or a name is unknown.
    """
    root = _root(folder)
    for name in names:
        if name not in ALL_TASKS:
            raise UserError("task", "one of " + ", ".join(ALL_TASKS), name, "use SentEval's names")
    tasks: list[Task] = []
    problems: list[Problem] = []
    for name in (name for name in ALL_TASKS if name in names):
        try:
            task = _read(_Source(root, official_rows, train_splits), name, problems)
        except UserError as error:
            problems.append(Problem(task=name, part=None, error=error))
            continue
        if task.parts:
            tasks.append(task)
    return Reading(tasks=tuple(tasks), problems=tuple(problems))


def read_sts_benchmark(path: Path, rows: int | None = None) -> ScoredPairs:
    """Read one file of STSBenchmark (`sts-dev.csv`): the labelled data that checkpoints are chosen by.

    Args:
        path: the file.
        rows: how many rows it must have, if that is known.
    """
    return _scored(_File(path, "STSBenchmark", "utf-8"), rows, first=5, second=6, score=4, low=0.0)


def stsb_split(folder: Path, split: str) -> ScoredPairs:
    """One split of STSBenchmark (train, dev, test) in SentEval's data folder.

    Raises:
        UserError: its file is absent or damaged.
    """
    return read_sts_benchmark(_root(folder) / "STS" / "STSBenchmark" / f"sts-{split}.csv", STSB_ROWS[split])


def _root(folder: Path) -> Path:
    root = folder / "downstream"
    if not root.is_dir():
        got = "no such folder" if not folder.is_dir() else "a folder without it"
        raise UserError(f"--senteval {folder}", "a folder that holds downstream/", got, _FETCH)
    return root


@dataclass(frozen=True)
class _Source:
    """What the readers need to know."""

    root: Path
    official_rows: bool
    train_splits: bool

    def rows(self, count: int) -> int | None:
        """The number of rows a file must have."""
        return count if self.official_rows else None

    def splits(self, names: Iterable[str]) -> list[str]:
        """The splits to read of a task that is scored by cosine."""
        return [name for name in names if self.train_splits or name != "train"]


def _read(source: _Source, name: str, problems: list[Problem]) -> Task:
    if name in STS_SUBSETS:
        folder = source.root / "STS" / f"{name}-en-test"
        sizes = STS_SUBSETS[name].items()
        return Task(name=name, parts={key: _sts_subset(folder, name, key, source.rows(n)) for key, n in sizes})
    if name in _SPLIT_READERS:
        splits, read = _SPLIT_READERS[name]
        return _with_splits(name, source.splits(splits), lambda split: read(source, split), problems)
    return Task(name=name, parts=_TRANSFER_READERS.get(name, _two_class_parts)(source, name))


def _with_splits(name: str, splits: list[str], read: Callable[[str], Part], problems: list[Problem]) -> Task:
    """A task that runs on the splits it has: each is scored for itself, so a missing one hurts nothing else."""
    parts: dict[str, Part] = {}
    faults: dict[str, UserError] = {}
    for split in splits:
        try:
            parts[split] = read(split)
        except UserError as error:
            faults[split] = error
    for split, fault in faults.items():
        problems.append(Problem(task=name, part=split, error=fault, scored=tuple(parts)))
    return Task(name=name, parts=parts, absent=tuple(split for split in splits if split not in parts))


def _stsb(source: _Source, split: str) -> ScoredPairs:
    path = source.root / "STS" / "STSBenchmark" / f"sts-{split}.csv"
    return read_sts_benchmark(path, source.rows(STSB_ROWS[split]))


def _sick(source: _Source, split: str) -> ScoredPairs:
    name, count = SICK_FILES[split]
    file = _File(source.root / "SICK" / name, "SICKRelatedness", "utf-8", header=True)
    return _scored(file, source.rows(count), first=1, second=2, score=3, low=1.0)


_SPLIT_READERS: Mapping[str, tuple[Iterable[str], Callable[[_Source, str], ScoredPairs]]] = {
    "STSBenchmark": (STSB_ROWS, _stsb),
    "SICKRelatedness": (SICK_FILES, _sick),
}


def _two_class_parts(source: _Source, name: str) -> dict[str, Part]:
    positive, negative = (
        [_tidy(line) for line in _File(source.root / name / file, name, "latin-1").lines(source.rows(count))]
        for file, count in TWO_CLASS_FILES[name]
    )
    labels = np.array([1] * len(positive) + [0] * len(negative))
    return {"all": Labelled(texts=positive + negative, labels=labels)}


def _sst2_parts(source: _Source, name: str) -> dict[str, Part]:
    folder = source.root / "SST" / "binary"
    return {split: _sst2(folder / f"sentiment-{split}", source.rows(n)) for split, n in SST2_ROWS.items()}


def _trec_parts(source: _Source, name: str) -> dict[str, Part]:
    return {split: _trec(source.root / "TREC" / file, source.rows(n)) for split, (file, n) in TREC_FILES.items()}


def _mrpc_parts(source: _Source, name: str) -> dict[str, Part]:
    folder = source.root / "MRPC"
    return {split: _mrpc(folder / f"msr_paraphrase_{split}.txt", source.rows(n)) for split, n in MRPC_ROWS.items()}


_TRANSFER_READERS: Mapping[str, Callable[[_Source, str], dict[str, Part]]] = {
    "SST2": _sst2_parts,
    "TREC": _trec_parts,
    "MRPC": _mrpc_parts,
}


# --- the formats ---------------------------------------------------------------------------------------------------


def _sts_subset(folder: Path, task: str, subset: str, rows: int | None) -> ScoredPairs:
    inputs = _File(folder / f"STS.input.{subset}.txt", task, "utf-8")
    gold = _File(folder / f"STS.gs.{subset}.txt", task, "utf-8")
    pairs, marks = inputs.lines(), gold.lines()
    if len(pairs) != len(marks):
        got = f"{len(pairs)} pairs and {len(marks)} scores in {gold.path.name}"
        raise inputs.error("a pair for each score", got)
    first, second, scores = [], [], []
    for number, (pair, mark) in enumerate(zip(pairs, marks, strict=True), start=1):
        if not mark.strip():  # an empty line: nobody scored this pair
            continue
        columns = inputs.columns(pair, number, at_least=2)
        first.append(_tidy(columns[0]))
        second.append(_tidy(columns[1]))
        scores.append(gold.number(mark, number, 0.0, 5.0))
    gold.check_rows(len(scores), rows, "scored pairs")
    return ScoredPairs(first=first, second=second, scores=np.array(scores))


def _scored(file: _File, rows: int | None, *, first: int, second: int, score: int, low: float) -> ScoredPairs:
    table = file.table(rows, at_least=max(first, second, score) + 1)
    return ScoredPairs(
        first=[_tidy(row[first]) for row in table],
        second=[_tidy(row[second]) for row in table],
        scores=np.array([file.number(row[score], i, low, 5.0) for i, row in enumerate(table, start=file.first_row)]),
    )


def _sst2(path: Path, rows: int | None) -> Labelled:
    file = _File(path, "SST2", "utf-8")
    table = file.table(rows, at_least=2)
    labels = [file.label(row[1], i, ("0", "1")) for i, row in enumerate(table, start=1)]
    return Labelled(texts=[_tidy(row[0]) for row in table], labels=np.array(labels))


def _trec(path: Path, rows: int | None) -> Labelled:
    file = _File(path, "TREC", "latin-1")
    texts, labels = [], []
    for number, line in enumerate(file.lines(rows), start=1):
        coarse, colon, rest = line.strip().partition(":")
        _fine, space, question = rest.partition(" ")
        if not colon or not space:
            raise file.error("lines of COARSE:fine and a question", line, number)
        labels.append(file.label(coarse, number, TREC_CLASSES))
        texts.append(_tidy(question))
    return Labelled(texts=texts, labels=np.array(labels))


def _mrpc(path: Path, rows: int | None) -> LabelledPairs:
    file = _File(path, "MRPC", "utf-8", header=True)
    table = file.table(rows, at_least=5)
    return LabelledPairs(
        first=[_tidy(row[3]) for row in table],
        second=[_tidy(row[4]) for row in table],
        labels=np.array([file.label(row[0], i, ("0", "1")) for i, row in enumerate(table, start=file.first_row)]),
    )


def _tidy(text: str) -> str:
    return " ".join(text.split())


# --- one file ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _File:
    """A text file of a task; every fault found in it becomes a `UserError` that names both."""

    path: Path
    task: str
    encoding: str
    header: bool = False

    @property
    def first_row(self) -> int:
        """Line number of the first row of data."""
        return 2 if self.header else 1

    def error(self, rule: str, got: str, line: int | None = None) -> UserError:
        """The fault, said in one line."""
        where = f"{self.task}: {self.path}" + (f", line {line}," if line else "")
        return UserError(where, rule, got, f"{self.task} needs it; {_FETCH}")

    def lines(self, rows: int | None = None) -> list[str]:
        """The lines after the header, without their ends."""
        text = self._text()
        ways = [lines[self.header :] for lines in (text.removesuffix("\n").split("\n"), text.splitlines())]
        # SentEval cuts some files at every mark that Unicode calls a line break; the count says which cut is meant.
        lines = ways[1] if rows is not None and len(ways[0]) != rows == len(ways[1]) else ways[0]
        self.check_rows(len(lines), rows, "rows")
        return lines

    def table(self, rows: int | None, at_least: int) -> list[list[str]]:
        """The rows, cut at tabs; a double quote is a character like any other."""
        lines = enumerate(self.lines(rows), start=self.first_row)
        return [self.columns(line, number, at_least) for number, line in lines]

    def columns(self, line: str, number: int, at_least: int) -> list[str]:
        """The columns of one line."""
        columns = line.strip("\r\n").split("\t")
        if len(columns) < at_least:
            raise self.error(f"{at_least} columns with tabs between", f"{len(columns)}: {line}", number)
        return columns

    def number(self, text: str, line: int, low: float, high: float) -> float:
        """A score."""
        try:
            value = float(text)
        except ValueError:
            raise self.error(f"a score from {low:g} to {high:g}", text, line) from None
        if not low <= value <= high:
            raise self.error(f"a score from {low:g} to {high:g}", text, line)
        return value

    def label(self, text: str, line: int, classes: Sequence[str]) -> int:
        """A class, counted from 0."""
        if text.strip() not in classes:
            raise self.error("a label among " + ", ".join(classes), text, line)
        return classes.index(text.strip())

    def check_rows(self, count: int, rows: int | None, what: str) -> None:
        """Compare a count with the official one; no file may be empty."""
        if rows is not None and count != rows:
            raise self.error(f"a file of {rows} {what}", str(count))
        if not count:
            raise self.error(f"a file with {what}", "none")

    def _text(self) -> str:
        try:
            text = self.path.read_text(encoding=self.encoding)
        except FileNotFoundError:
            raise self.error("an existing file", "none") from None
        except UnicodeDecodeError as error:
            got = f"byte {error.object[error.start]:#04x} at offset {error.start}"
            raise self.error(f"{self.encoding} text", got) from None
        except OSError as error:
            raise self.error("a readable file", error.strerror or type(error).__name__) from None
        if "\0" in text:
            raise self.error("text", "NUL bytes (another encoding, or a damaged file)")
        return text
