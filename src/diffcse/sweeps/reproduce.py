"""The paper's own tables as a job: text, models, training, choice, evaluation, next to the published row.

Every seed is an ordinary training run in `OUTPUT/seed-N`, and its evaluation a model of `OUTPUT/results.json`, so what
is done is not repeated. Single published runs: Chuang et al. (2022), tables 1 and 2.
"""

from __future__ import annotations

import re
import shutil
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import datasets
from rich.console import Console

from diffcse.config import BUNDLED, Config
from diffcse.encoding.backends import as_device
from diffcse.encoding.encode import Encoder
from diffcse.errors import Interrupted, UserError
from diffcse.evaluation import suite
from diffcse.evaluation.criterion import stsb_dev
from diffcse.evaluation.fetch import ARCHIVE, archive_url, download, fetch, file_url
from diffcse.evaluation.tasks import GROUPS, HEADLINE, Group
from diffcse.files import disk_errors, exclusive, read_json, write_atomic, write_json
from diffcse.persistence.hub import locate
from diffcse.persistence.load import load_encoder
from diffcse.presets import build
from diffcse.progress import counting, say
from diffcse.reports.published import PUBLISHED, SOURCE, PublishedRow
from diffcse.reports.report import read_report
from diffcse.reports.table import Row, Table, difference, percent
from diffcse.reports.tables import TITLES, short_task
from diffcse.resources import GENERATOR
from diffcse.sweeps.estimate import estimate
from diffcse.sweeps.reproduce_settings import REPRODUCED, TEXT, ReproduceSettings
from diffcse.text.dataset import ReadReport, read_texts
from diffcse.text.docstrings import collect
from diffcse.training.checks import check_size, launched, settle_machine
from diffcse.training.criteria import Criterion
from diffcse.training.run_folder import is_finished
from diffcse.training.train import train

STAND_IN = "text.txt"

_SENTENCES = 1_000_000
_FIRST_SEED = 42  # of the authors' trainer, whose seed their scripts leave at its default
_STAND_IN_SENTENCES = 2_000
_DRY: dict[str, Any] = {"max_steps": 20, "eval_every_steps": 10, "save_every_steps": 10, "log_every_steps": 5}
_OURS = re.compile(rf"seed-\d+|{TEXT}|{STAND_IN}|senteval|cache|results\.json|\.lock")

Results = Mapping[str, Any]
"""One seed's evaluation, as `evaluation.suite.results` gives it."""


class Data(NamedTuple):
    """What a model is judged by."""

    plan: suite.Plan
    criterion: Criterion


class Texts(NamedTuple):
    """What a model is trained on."""

    path: Path
    rows: datasets.Dataset
    read: ReadReport

    def notes(self) -> list[str]:
        """How the text differs from the published one, which has a million sentences."""
        if self.read.kept == _SENTENCES:
            return []
        count = f"{_SENTENCES:,} sentences, this one {self.read.kept:,}"
        return [f"the published text has {count}: another text, other figures"]


def reproduce(preset: str, output: Path, settings: ReproduceSettings, *, console: Console) -> Table:
    """Train a preset as published, with one seed or several, and set its evaluation next to the published row.

    The same call resumes after an interruption; finished runs and evaluations are not repeated.

    Args:
        preset: one of `REPRODUCED`.
        output: folder for runs, results and whatever is fetched.
        settings: seeds, and what is on this machine already.
        console: where progress is shown.

    Returns:
        The table: the published row, one row per seed, their mean and spread.

    Raises:
        UserError: bad input, before anything is fetched; or no Hub, with what to bring from it and where to put it.
        Interrupted: a signal ended a training run, with a checkpoint.
    """
    published = published_row(preset)
    configs = configs_of(preset, settings)
    path = settings.text or output / (STAND_IN if settings.dry_run else TEXT)
    check_output(output, configs, path)
    check_models(configs[0], settings)
    data = None if settings.senteval is None else read_data(settings.senteval, published.group, settings.dry_run)
    with disk_errors(f"output {output}", "choose another folder"):
        output.mkdir(parents=True, exist_ok=True)
    with exclusive(output / ".lock", f"output {output}"):
        if settings.text is not None:
            read_text(path, configs[0], output)  # a bad one is refused before anything is fetched
        bring(output, path, configs[0], settings)
        if data is None:
            data = read_data(fetched(output), published.group, settings.dry_run)
        text = read_text(path, configs[0], output)
        announce(text, data, configs, output, console, dry_run=settings.dry_run)
        results = [seed_result(config, text, data, output, console) for config in configs]
    return table(published, results, notes=text.notes(), dry_run=settings.dry_run)


def published_row(preset: str) -> PublishedRow:
    """The row of the paper's tables that a preset is to reach."""
    if preset not in REPRODUCED:
        raise UserError("preset", f"one of {', '.join(REPRODUCED)}", preset, "choose one of them")
    backbone, group = preset.split("-")
    (row,) = (r for r in PUBLISHED if r.group == group and r.name.lower().startswith(f"diffcse-{backbone}-"))
    return row


def configs_of(preset: str, settings: ReproduceSettings) -> list[Config]:
    """All settings of each seed's run.

    Raises:
        UserError: several processes.
    """
    if launched() > 1:
        raise UserError("processes", "one for reproduce", launched(), "start it without torchrun")
    changes: dict[str, Any] = {"encoder": BUNDLED, "generator": BUNDLED, **_DRY} if settings.dry_run else {}
    models = {"encoder": settings.encoder, "generator": settings.generator}
    changes |= {name: value for name, value in models.items() if value is not None}
    return [build(preset=preset, seed=_FIRST_SEED + number, **changes) for number in range(settings.seeds)]


def run_folder(output: Path, config: Config) -> Path:
    """Where a seed's run is."""
    return output / f"seed-{config.training.seed}"


def check_output(output: Path, configs: Sequence[Config], text: Path) -> None:
    """The folder is new, or holds runs of these settings on this text and nothing else."""
    what, do = f"output {output}", "choose another folder"
    if output.exists() and not output.is_dir():
        raise UserError(what, "a folder", "a file", do)
    others = [path.name for path in (output.iterdir() if output.is_dir() else ()) if not _OURS.fullmatch(path.name)]
    if others:
        raise UserError(what, "new, empty or of an earlier reproduce", f"a folder with {min(others)}", do)
    for config in configs:
        folder = run_folder(output, config)
        try:
            about = read_json(folder / "diffcse.json", what=str(folder), do=do)
        except FileNotFoundError:
            continue
        fields = {name: value for section in about.get("settings", {}).values() for name, value in section.items()}
        if build(**fields) != settle_machine(config) or about.get("sources") != [str(text)]:
            raise UserError(str(folder), "a run of these settings on this text", "one of others", do)


def check_models(config: Config, settings: ReproduceSettings) -> None:
    """The models that the user named exist."""
    if settings.encoder is not None or settings.dry_run:
        locate(config.model.encoder)
    if settings.generator is not None or settings.dry_run:
        locate(config.model.generator, resource=GENERATOR)


def read_data(senteval: Path, group: Group, dry_run: bool) -> Data:
    """The tasks of the table, all of them unless in a dry run, and STS-B dev, which chooses checkpoints."""
    names = GROUPS[group]
    selection = suite.Selection(names=names, explicit=frozenset() if dry_run else frozenset(names))
    return Data(suite.plan(senteval, selection, official_rows=not dry_run), stsb_dev(senteval))


def bring(output: Path, text: Path, config: Config, settings: ReproduceSettings) -> None:
    """Fetch what is not on this machine; where a Hub is out of reach, say in one line all that it was to give.

    Args:
        output: gets the text, and SentEval's archive if it was put there by hand.
        text: where the text is or will be.
        config: names the models.
        settings: what is on this machine already.
    """
    archive = output / "senteval" / ARCHIVE
    unpacked = settings.senteval is not None or (output / "senteval" / "downstream").is_dir()
    folder = "the folder that `hf download {0} --local-dir {0}` makes, by --{1}"
    needs: list[tuple[bool, str, Callable[[], object]]] = [
        (text.is_file(), f"{file_url(TEXT)} to {text}", lambda: bring_text(text, settings.dry_run)),
        (
            settings.encoder is not None or settings.dry_run,
            folder.format(config.model.encoder, "encoder"),
            lambda: locate(config.model.encoder, config.model.revision),
        ),
        (
            settings.generator is not None or settings.dry_run,
            folder.format(config.model.generator, "generator"),
            lambda: locate(config.model.generator, config.model.revision, resource=GENERATOR),
        ),
        (unpacked or archive.is_file(), f"{archive_url()} to {archive}", lambda: download(ARCHIVE, archive)),
    ]
    absent, first = [], None
    for present, what, get in needs:
        try:
            if not present:
                get()
        except UserError as error:
            absent.append(what)
            first = first or error
    if first is not None:
        rule = "in its cache, or on a Hub that can be reached"
        raise UserError("the Hub's files", rule, first.got, f"bring {'; '.join(absent)}") from first


def bring_text(path: Path, dry_run: bool) -> None:
    """Put the published text there, or in a dry run sentences of the documentation on this machine."""
    if dry_run:
        write_atomic(path, "".join(f"{line}\n" for line in collect(limit=_STAND_IN_SENTENCES).sentences).encode())
        return
    # A copy: the cache's name for it changes with every commit of the dataset, and a run resumes by its source's name.
    with download(TEXT, path).open("rb") as content:
        write_atomic(path, lambda file: shutil.copyfileobj(content, file))


def fetched(output: Path) -> Path:
    """SentEval's data in the output folder."""
    folder = output / "senteval"
    if not (folder / "downstream").is_dir():
        fetch(folder)
    return folder


def read_text(path: Path, config: Config, output: Path) -> Texts:
    """The sentences, through the cache in the output folder; at least a batch of them."""
    text = Texts(path, *read_texts([path], cache_dir=output / "cache"))
    check_size(len(text.rows), config)
    return text


def announce(
    text: Texts, data: Data, configs: Sequence[Config], output: Path, console: Console, *, dry_run: bool
) -> None:
    """Say what was read, how it differs from what was published, and how long the training will take."""
    if dry_run:
        say(console, f"dry run: at most {_DRY['max_steps']} steps with stand-ins; its figures are no reproduction")
    say(console, "; ".join([text.read.summary(), *text.notes()]))
    missing = [config for config in configs if not is_finished(run_folder(output, config))]
    if missing:
        say(console, estimate(text.rows, data.criterion, missing, output / "cache"))


def seed_result(config: Config, text: Texts, data: Data, output: Path, console: Console) -> Results:
    """A seed's evaluation, after its training; what an earlier call did is not done again."""
    train_seed(config, text, output, data.criterion, console)
    return evaluated(run_folder(output, config), data.plan, output / "results.json", console)


def train_seed(config: Config, text: Texts, output: Path, criterion: Criterion, console: Console) -> None:
    """Train a seed's run, resume it, or say that it is finished.

    Raises:
        Interrupted: the run was asked to stop.
    """
    folder, seed = run_folder(output, config), config.training.seed
    if is_finished(folder):
        say(console, f"seed {seed}: trained")
        return
    say(console, f"seed {seed}: training")
    result = train([text.path], folder, config, criterion=criterion, cache_dir=output / "cache", console=console)
    if not result.finished:
        raise Interrupted(f"step {result.step} of seed {seed}")


def evaluated(folder: Path, plan: suite.Plan, path: Path, console: Console) -> Results:
    """A seed's evaluation: from `path` if it is in there for the same tasks, else computed now and added."""
    former = list(read_report(path).results) if path.is_file() else []
    for result in former:
        if result["model"] == folder.name and set(result["tasks"]) == {task.name for task in plan.tasks}:
            return result
    encoder = Encoder(load_encoder(folder).to(as_device(None)))
    with counting(console, f"encoding by {folder.name}") as advance:
        result = suite.evaluate(
            lambda sentences: encoder.encode(sentences, on_progress=advance), plan, model=folder.name
        )
    others = [other for other in former if other["model"] != folder.name]
    write_json(path, {"models": [*others, result]})
    return result


def table(published: PublishedRow, results: Sequence[Results], *, notes: Sequence[str], dry_run: bool) -> Table:
    """The published row, one row per seed, and of several their mean and spread.

    Args:
        published: of the paper.
        results: of each seed, in order.
        notes: about the text.
        dry_run: say that this is no reproduction, and subtract nothing.
    """
    group, names = published.group, GROUPS[published.group]
    scores = [[*(_score(result, name, group) for name in names), result["average"][group]] for result in results]
    reached = [published.by_task()[name] for name in names] + [published.average]
    rows = [Row(cells=("DiffCSE", *(f"{value:.2f}" for value in reached)), kind="published")]
    for result, values in zip(results, scores, strict=True):
        rows.append(Row(cells=(result["model"], *map(percent, values)), kind="measured"))
    columns = [[value for value in column if value is not None] for column in zip(*scores, strict=True)]
    means = [statistics.mean(column) if column else None for column in columns]
    if len(results) > 1:
        spread = [percent(statistics.stdev(column)) if len(column) > 1 else None for column in columns]
        rows += [Row(cells=("mean", *map(percent, means)), kind="measured"), Row(cells=("spread", *spread))]
    if not dry_run:
        pairs = zip(means, reached, strict=True)
        against = [None if mean is None else difference(mean - value / 100) for mean, value in pairs]
        rows.append(Row(cells=("difference", *against)))
    return Table(
        title=TITLES[group] + (", dry run: no reproduction" if dry_run else ""),
        columns=("", *map(short_task, names), "avg"),
        rows=rows,
        notes=(f"published: {published.name}, {SOURCE}, a single run", *_notes(results, group, dry_run), *notes),
    )


def _score(result: Results, task: str, group: Group) -> float | None:
    score: float | None = result["tasks"].get(task, {}).get(HEADLINE[group])
    return score


def _notes(results: Sequence[Results], group: Group, dry_run: bool) -> list[str]:
    notes = []
    if len(results) > 1:
        notes.append(f"spread: standard deviation over {len(results)} seeds")
    absent = results[0]["missing"][group]
    if absent:
        notes.append(f"the measured average is without {', '.join(map(short_task, absent))}")
    if dry_run:
        notes.append("dry run: stand-ins trained for a few steps; these figures say nothing about the published ones")
    return notes
