"""A report: results of `diffcse evaluate --json` and training logs as one self-contained page with figures.

Published numbers are next to measured ones and marked as such in every table and figure. What the results do not
hold is named together with the command that brings it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffcse.errors import UserError
from diffcse.evaluation.suite import group_tasks
from diffcse.evaluation.tasks import GROUPS, HEADLINE, Group
from diffcse.files import disk_errors, read_json, write_atomic
from diffcse.reports import figures, tables
from diffcse.reports.form import check_form
from diffcse.reports.logs import Run, finite, names_apart, read_runs
from diffcse.reports.page import Block, Figures, Hint, Hit, HitList, Section, SideBySide, html
from diffcse.reports.picture import Picture
from diffcse.reports.published import PUBLISHED
from diffcse.reports.table import printable
from diffcse.reports.tables import short_name, short_task

_TITLES: Mapping[Group, str] = {"sts": "Semantic textual similarity", "transfer": "Transfer tasks"}
_UNITS: Mapping[Group, str] = {"sts": "Spearman x 100", "transfer": "accuracy x 100"}
_COMMAND = "diffcse evaluate MODEL --senteval FOLDER"
_PROTOCOLS = {"all": "one correlation over all pairs of a task", "mean": "mean over subsets", "wmean": "weighted mean"}


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a report is made from.

    Attributes:
        results: one model or more, as `suite.results` gives them.
        comparison: of the models, if they were compared.
        runs: training logs.
    """

    results: Sequence[Mapping[str, Any]] = field(repr=False)
    comparison: Mapping[str, Any] | None = field(default=None, repr=False)
    runs: Sequence[Run] = ()


def read_report(path: Path, folders: Sequence[Path] = ()) -> Report:
    """Read what a report needs.

    Args:
        path: written by `diffcse evaluate --json`, with --compare or without.
        folders: of training runs, each with `metrics.jsonl`.

    Raises:
        UserError: a file is missing or something else.
    """
    do = f"write it with: {_COMMAND} --json {path.name}"
    try:
        content = _clean(read_json(path, what=str(path), do=do))
    except FileNotFoundError as error:
        raise UserError(str(path), "a file that can be read", error.strerror, do) from error
    results = content.get("models", [content])
    check_form(path, results, content.get("comparison"), do=do)
    return Report(results=results, comparison=content.get("comparison"), runs=read_runs(folders))


def _clean(value: Any) -> Any:
    """The same data with every text fit to be shown."""
    if isinstance(value, dict):
        return {printable(key): _clean(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_clean(item) for item in value]
    return printable(value) if isinstance(value, str) else value


def write_report(report: Report, output: Path, folder: Path | None = None) -> None:
    """Write the page, and each figure as SVG and PNG if a folder is given.

    Args:
        report: from `read_report`.
        output: the page.
        folder: for the figures; created if it is missing.

    Raises:
        UserError: a place cannot be written.
    """
    pictures = draw(report)
    content = page(report, pictures)
    with disk_errors(f"--output {output}", "choose another place"):
        write_atomic(output, content)
    if folder is not None:
        with disk_errors(f"--figures {folder}", "choose another place"):
            folder.mkdir(parents=True, exist_ok=True)
            for picture in (picture for group in pictures.values() for picture in group):
                write_atomic(folder / f"{picture.name}.svg", figures.to_svg(picture))
                write_atomic(folder / f"{picture.name}.png", figures.to_png(picture))


def draw(report: Report) -> dict[str, list[Picture]]:
    """Every figure that the report has data for, by section."""
    names = names_apart([short_name(result["model"]) for result in report.results])
    analysed = [(name, r["analyses"]) for name, r in zip(names, report.results, strict=True) if "analyses" in r]
    points = [(name, analyses["alignment"], analyses["uniformity"]) for name, analyses in analysed]
    histograms = [
        figures.histogram(f"histogram-{i}", name, analyses["histogram"])
        for i, (name, analyses) in enumerate(analysed, 1)
    ]
    return {
        "sts": _drawn_scores("sts", report),
        "transfer": _drawn_scores("transfer", report),
        "training": figures.training(report.runs),
        "analyses": histograms + ([figures.alignment_uniformity(points)] if points else []),
    }


def _drawn_scores(group: Group, report: Report) -> list[Picture]:
    mode = report.results[0]["mode"]
    tasks = group_tasks(group, mode)
    rows = [(short_name(result["model"]), _points(result, group, tasks), False) for result in report.results]
    if not any(value is not None for _, values, _ in rows for value in values):
        return []
    if mode == "test":
        for published in (row for row in PUBLISHED if row.group == group and row.scores):
            rows.append((f"{published.name} (published)", [*published.by_task().values(), published.average], True))
    labels = [*map(short_task, tasks), "average"]
    return [figures.scores(f"scores-{group}", _TITLES[group], _UNITS[group], labels, rows)]


def _points(result: Mapping[str, Any], group: Group, tasks: Sequence[str]) -> list[float | None]:
    values = [finite(result["tasks"].get(task, {}).get(HEADLINE[group])) for task in tasks]
    average = finite(result["average"][group]) if result["complete"][group] else None
    return [None if value is None else 100 * value for value in (*values, average)]


def page(report: Report, pictures: Mapping[str, Sequence[Picture]]) -> bytes:
    """The whole page."""
    results, having = report.results, {key: [r for r in report.results if key in r] for key in ("pairs", "analyses")}
    sections = [Section(title=_TITLES[group], blocks=_scores(group, results, pictures[group])) for group in GROUPS]
    if having["pairs"]:
        sections.append(Section(title="Your own pairs", blocks=[tables.own_pairs_table(having["pairs"])]))
    if report.comparison:
        sections.append(Section(title="Comparison", blocks=[tables.comparison_table(report.comparison)]))
    analyses = _analyses(having["analyses"], pictures["analyses"])
    sections.append(Section(title="Alignment, uniformity and retrieval", blocks=analyses))
    sections.append(Section(title="Training", blocks=_training(pictures["training"])))
    title = "Evaluation of " + ", ".join(short_name(result["model"]) for result in results)
    return html(title, sections, intro=list(_intro(results)))


def _intro(results: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    protocol = results[0].get("protocol")
    yield f"Mode {results[0]['mode']}. STS12-16: {_PROTOCOLS.get(str(protocol), protocol)}. Made by diffcse report."
    for result in results:
        name, encoding = short_name(result["model"]), result.get("encoding")
        if encoding:
            different, seconds = encoding.get("different", 0), encoding.get("seconds", 0.0)
            yield f"{name}: {different:,} different sentences encoded in {seconds:.1f} s."
        yield from (f"{name}: {line}" for line in tables.notes(result))


def _scores(group: Group, results: Sequence[Mapping[str, Any]], pictures: Sequence[Picture]) -> list[Block]:
    if not tables.is_measured(group, results):
        return [_not_measured("fill this table", f"--tasks {group}")]
    details = [table for table in map(tables.detail_table, results) if group == "sts" and table.rows]
    missing = dict.fromkeys(line for result in results for line in tables.problems(result, group))
    return [tables.group_table(group, results, published=True), *missing, Figures(pictures=pictures), *details]


def _analyses(results: Sequence[Mapping[str, Any]], pictures: Sequence[Picture]) -> list[Block]:
    if not results:
        return [_not_measured("fill this section", "--analyses")]
    blocks: list[Block] = [tables.analyses_table(results), Figures(pictures=pictures)]
    for result in results:
        blocks += _neighbours(result)
    return blocks


def _neighbours(result: Mapping[str, Any]) -> list[Block]:
    title = f"Nearest neighbours, {short_name(result['model'])}"
    if not result["analyses"].get("neighbours"):
        return [_not_measured(f"show the {title[0].lower()}{title[1:]}", "--analyses")]
    note = (
        "In colour: the sentence that people rated 5 of 5 with the query; its rank where it is not among the nearest."
    )
    lists = [_nearest(query) for query in result["analyses"]["neighbours"]]
    return [SideBySide(title=title, lists=lists), note]


def _nearest(query: Mapping[str, Any]) -> HitList:
    partner = query["partner"]
    hits = [
        Hit(text=near["sentence"], mark=f"{near['cosine']:.2f}", highlight=near["sentence"] == partner)
        for near in query["nearest"]
    ]
    if not any(hit.highlight for hit in hits):
        hits.append(Hit(text=partner, mark=f"#{query['rank']}", highlight=True))
    return HitList(title=query["query"], hits=hits)


def _training(pictures: Sequence[Picture]) -> list[Block]:
    if pictures:
        return [Figures(pictures=pictures)]
    command = "diffcse report RESULTS.json RUN_FOLDER -o report.html"
    return [Hint(text="No run was given. To draw its curves:", command=command)]


def _not_measured(what: str, options: str) -> Hint:
    return Hint(text=f"Not measured. To {what}:", command=f"{_COMMAND} {options} --json RESULTS.json")
