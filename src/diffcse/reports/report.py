"""A report: results of `diffcse evaluate --json` and training logs as one self-contained page with figures.

Published numbers stand beside measured ones and are marked as such in every table and figure. What the results do not
hold is named together with the command that brings it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffcse.errors import UserError
from diffcse.evaluation.suite import group_tasks
from diffcse.evaluation.tasks import GROUPS, HEADLINE, Group
from diffcse.files import write_atomic
from diffcse.reports import figures
from diffcse.reports.figures import Picture, Run
from diffcse.reports.page import Element, element, html, picture, printable, row, table
from diffcse.reports.published import PUBLISHED, SOURCE
from diffcse.reports.tables import percent, short_name, short_task

_TITLES: Mapping[Group, str] = {
    "sts": "Semantic textual similarity",
    "transfer": "Transfer tasks",
}
_UNITS: Mapping[Group, str] = {"sts": "Spearman × 100", "transfer": "accuracy × 100"}  # noqa: RUF001
_DASH = "–"  # noqa: RUF001
_COMMAND = "diffcse evaluate MODEL --senteval FOLDER"


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


def read_report(results: Path, folders: Sequence[Path] = ()) -> Report:
    """Read what a report needs.

    Args:
        results: written by `diffcse evaluate --json`, with --compare or without.
        folders: of training runs, each with `metrics.jsonl`.

    Raises:
        UserError: a file is missing or something else.
    """
    rule, do = "results of an evaluation", f"write it with: {_COMMAND} --json {results.name}"
    try:
        found = json.loads(results.read_bytes())
    except OSError as error:
        raise UserError(str(results), "a file that can be read", error.strerror, do) from error
    except ValueError as error:
        raise UserError(str(results), rule, f"no JSON ({error})", do) from error
    found = _clean(found)
    models = found.get("models", [found]) if isinstance(found, dict) else None
    if not isinstance(models, list) or not models or not all(_is_result(one) for one in models):
        raise UserError(str(results), rule, "other JSON", do)
    return Report(results=models, comparison=found.get("comparison"), runs=read_runs(folders))


def _clean(value: Any) -> Any:
    """The same data with every text fit to be shown."""
    if isinstance(value, dict):
        return {printable(key): _clean(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_clean(one) for one in value]
    return printable(value) if isinstance(value, str) else value


def _is_result(one: Any) -> bool:
    groups = ("average", "missing", "complete")
    return (
        isinstance(one, dict)
        and isinstance(one.get("model"), str)
        and one.get("mode") in ("test", "dev")
        and isinstance(one.get("tasks"), dict)
        and all(isinstance(one.get(key), dict) and set(GROUPS) <= set(one[key]) for key in groups)
    )


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Training logs; runs are named by as much of their path as tells them apart."""
    return [
        Run(name=printable(name), lines=_log(folder / "metrics.jsonl"))
        for name, folder in zip(_names([str(folder) for folder in folders]), folders, strict=True)
    ]


def _log(path: Path) -> list[dict[str, float]]:
    do = "give the output folder of diffcse train or diffcse pretrain"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(str(path), "the log of a training run", error, do) from error
    lines = []
    for line in text.splitlines():
        try:
            one = json.loads(line)
        except ValueError:  # cut off by a kill, or being written at this moment
            continue
        if isinstance(one, dict) and _number(one.get("step")) is not None:
            lines.append({printable(key): value for key, value in one.items() if _number(value) is not None})
    if not lines:
        raise UserError(str(path), "the log of a training run", "no line with a step", do)
    return lines


def _number(value: Any) -> float | None:
    """A finite number, or None."""
    fine = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if fine else None


def _names(paths: Sequence[str]) -> list[str]:
    """The ends of paths, as short as they can be and still be different."""
    parts = [Path(path).resolve().parts if Path(path).exists() else (path,) for path in paths]
    for length in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(one[-length:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    return list(paths)


def write_report(report: Report, output: Path, folder: Path | None = None) -> None:
    """Write the page, and each figure as SVG and PNG if a folder is given.

    Args:
        report: from `read_report`.
        output: the page.
        folder: for the figures; made where it is missing.

    Raises:
        UserError: a place can not be written.
    """
    try:
        pictures = draw(report)
        content = page(report, pictures)
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:  # edited, or of another version
        rule, do = "as diffcse evaluate --json writes them", "evaluate again with this version"
        raise UserError("the results", rule, f"{type(error).__name__}: {error}", do) from error
    try:
        write_atomic(output, content)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            for one in (one for group in pictures.values() for one in group):
                write_atomic(folder / f"{one.name}.svg", figures.to_svg(one))
                write_atomic(folder / f"{one.name}.png", figures.to_png(one))
    except OSError as error:
        do = "choose another place"
        raise UserError(str(error.filename or output), "a place that can be written", error.strerror, do) from error


def draw(report: Report) -> dict[str, list[Picture]]:
    """Every figure that the report has data for, by section."""
    names = _names([short_name(one["model"]) for one in report.results])
    analysed = [(name, one["analyses"]) for name, one in zip(names, report.results, strict=True) if "analyses" in one]
    points = [(name, one["alignment"], one["uniformity"]) for name, one in analysed]
    return {
        "sts": list(_drawn_scores("sts", report)),
        "transfer": list(_drawn_scores("transfer", report)),
        "training": figures.training(report.runs),
        "analyses": [
            figures.histogram(f"histogram-{i}", name, one["histogram"]) for i, (name, one) in enumerate(analysed, 1)
        ]
        + ([figures.alignment_uniformity(points)] if points else []),
    }


def _drawn_scores(group: Group, report: Report) -> Iterator[Picture]:
    mode = report.results[0]["mode"]
    tasks = group_tasks(group, mode)
    rows = [(short_name(one["model"]), _points(one, group, tasks), False) for one in report.results]
    if not any(value is not None for _, values, _ in rows for value in values):
        return
    if mode == "test":
        for one in (one for one in PUBLISHED if one.group == group and one.scores):
            rows.append((f"{one.name} (published)", [*one.by_task().values(), one.average], True))
    labels = [*map(short_task, tasks), "average"]
    yield figures.scores(f"scores-{group}", _TITLES[group], _UNITS[group], labels, rows)


def _points(one: Mapping[str, Any], group: Group, tasks: Sequence[str]) -> list[float | None]:
    values = [_number(one["tasks"].get(task, {}).get(HEADLINE[group])) for task in tasks]
    average = _number(one["average"][group]) if one["complete"][group] else None
    return [None if value is None else 100 * value for value in (*values, average)]


def page(report: Report, pictures: Mapping[str, Sequence[Picture]]) -> bytes:
    """The whole page."""
    title = "Evaluation of " + ", ".join(short_name(one["model"]) for one in report.results)
    sections = [
        *_head(report, title),
        *_tables("sts", report, pictures["sts"]),
        *_tables("transfer", report, pictures["transfer"]),
        *_own_pairs(report),
        *_comparison(report),
        *_analyses(report, pictures["analyses"]),
        *_training(pictures["training"]),
    ]
    return html(title, sections)


def _head(report: Report, title: str) -> Iterator[Element]:
    first = report.results[0]
    yield element("h1", title)
    how = {"all": "one correlation over all pairs of a task", "mean": "mean over subsets", "wmean": "weighted mean"}
    protocol = how.get(str(first.get("protocol")), str(first.get("protocol")))
    yield element("p", f"Mode {first['mode']}. STS12-16: {protocol}. Made by ", element("code", "diffcse report"), ".")
    for one in report.results:
        encoding = one.get("encoding", {})
        if encoding:
            different, seconds = encoding.get("different", 0), encoding.get("seconds", 0.0)
            cut = f", {encoding['truncated']:,} cut at {encoding['limit']} tokens" if encoding.get("truncated") else ""
            text = f"{short_name(one['model'])}: {different:,} different sentences encoded in {seconds:.1f} s{cut}."
            yield element("p", text, cls="note")


def _tables(group: Group, report: Report, pictures: Sequence[Picture]) -> Iterator[Element]:
    results, mode = report.results, report.results[0]["mode"]
    tasks = group_tasks(group, mode)
    yield element("h2", f"{_TITLES[group]}, {_UNITS[group]}" + (" (dev)" if mode == "dev" else ""))
    if not any(one["tasks"].get(task) for one in results for task in tasks):
        yield _hint("Not measured. To fill this table:", f"{_COMMAND} --tasks {group} --json RESULTS.json")
        return
    rows = []
    for one in results:
        scores = [_shown(one["tasks"].get(task, {}).get(HEADLINE[group])) for task in tasks]
        mark = "" if one["complete"][group] else "*"
        rows.append(row(short_name(one["model"]), [*scores, _shown(one["average"][group]) + mark], "measured"))
    if mode == "test":
        rows += _published_rows(group, tasks)
    yield table(["", *map(short_task, tasks), "avg"], rows)
    remarks = element("div", *(element("p", text, cls="note") for text in _remarks(group, results)))
    yield element("div", *(picture(one) for one in pictures), remarks, cls="figures")
    details = _subset_table(results) if group == "sts" else None
    if details is not None:
        yield element("details", element("summary", "Every subset and split"), details)


def _published_rows(group: Group, tasks: Sequence[str]) -> list[Element]:
    rows = []
    for one in (one for one in PUBLISHED if one.group == group):
        scores = one.by_task()
        cells = [f"{scores[task]:.2f}" if task in scores else _DASH for task in tasks]
        name = element("span", one.name, element("span", "published", cls="mark"))
        rows.append(row(name, [*cells, f"{one.average:.2f}"], "published"))
    return rows


def _remarks(group: Group, results: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    missing = sorted({name for one in results for name in one["missing"][group]}, key=GROUPS[group].index)
    if missing:
        yield f"* not over the whole table: without {', '.join(map(short_task, missing))}."
    if results[0]["mode"] == "test":
        yield f"Rows marked published: {SOURCE}, single runs with BERT-base and RoBERTa-base; not measured here."
    for one in results:
        found = one["tasks"].get("MRPC", {})
        if group == "transfer" and "f1" in found:
            yield f"{short_name(one['model'])}: F1 of MRPC {_shown(found['f1'])}."
    kinds = {scores["classifier"] for one in results for scores in one["tasks"].values() if "classifier" in scores}
    if group == "transfer" and kinds:
        yield f"Classifier: {', '.join(sorted(map(str, kinds)))}."
    problems = {problem for one in results for problem in one.get("problems", [])}
    for problem in sorted(problem for problem in problems if problem.split(":")[0] in GROUPS[group]):
        yield f"Left out: {problem}."


def _subset_table(results: Sequence[Mapping[str, Any]]) -> Element | None:
    rows = []
    for one in results:
        for task, scores in one["tasks"].items():
            parts = scores.get("subsets") or {name: scores[name] for name in ("train", "dev", "test") if name in scores}
            for name, part in parts.items():
                if "spearman" in part:
                    cells = [short_task(task), name, _shown(part["spearman"]), _shown(part["pearson"])]
                    rows.append(row(short_name(one["model"]), [*cells, f"{part['pairs']:,}"], words=2))
    return table(["model", "task", "part", "Spearman", "Pearson", "pairs"], rows, words=2) if rows else None


def _own_pairs(report: Report) -> Iterator[Element]:
    having = [one for one in report.results if "pairs" in one]
    if not having:
        return
    yield element("h2", "Pairs of one's own")
    rows = []
    for one in having:
        found = one["pairs"]
        cells = [_shown(found["spearman"]), _shown(found["pearson"]), f"{found['pairs']:,}"]
        rows.append(row(short_name(one["model"]), cells, "measured"))
    yield table(["model", "Spearman × 100", "Pearson × 100", "pairs"], rows)  # noqa: RUF001


def _comparison(report: Report) -> Iterator[Element]:
    found = report.comparison
    if not found:
        return
    yield element("h2", "Comparison, Spearman × 100")  # noqa: RUF001
    base, resamples = short_name(found["baseline"]), found["resamples"]
    rows = []
    for task, models in (found["tasks"] | ({"average": found["average"]} if found["average"] else {})).items():
        for model, one in models.items():
            cells = [short_name(model), _shown(one["spearman"]), _interval(one["interval"])]
            if "p" in one:
                difference = f"{100 * one['difference']:+.2f}"
                cells += [difference, _interval(one["difference_interval"]), f"{one['p']:.3f}"]
            rows.append(row(short_task(task), cells + [""] * (6 - len(cells)), words=1))
    yield table(["task", "model", "Spearman", "interval", "difference", "interval", "p"], rows, words=1)
    text = f"95% bootstrap intervals; p: paired randomisation test against {base}; {resamples} resamples each."
    yield element("p", text, cls="note")


def _analyses(report: Report, pictures: Sequence[Picture]) -> Iterator[Element]:
    having = [one for one in report.results if "analyses" in one]
    yield element("h2", "Alignment, uniformity and retrieval")
    if not having:
        yield _hint("Not measured. To fill this section:", f"{_COMMAND} --analyses --json RESULTS.json")
        return
    rows = []
    for one in having:
        found = one["analyses"]
        cells = [f"{found['alignment']:.3f}", f"{found['uniformity']:.3f}"]
        recall = [_shown(found["retrieval"].get(f"recall@{cut}")) for cut in (1, 5, 10)]
        rows.append(row(short_name(one["model"]), [*cells, *recall], "measured"))
    yield table(["", "alignment", "uniformity", "R@1", "R@5", "R@10"], rows)
    found = having[0]["analyses"]
    retrieval = found["retrieval"]
    text = (
        f"{found['data']}. Alignment over {found['positive_pairs']} pairs rated above 4, uniformity over all "
        f"sentences: both lower is better. R@k × 100: {retrieval['queries']} sentences look for the one rated "  # noqa: RUF001
        f"5 of 5 with them among {retrieval['sentences']:,}."
    )
    yield element("p", text, cls="note")
    yield from _figures(pictures)
    for one in having:
        yield from _neighbours(one)


def _neighbours(one: Mapping[str, Any]) -> Iterator[Element]:
    yield element("h3", f"Nearest neighbours, {short_name(one['model'])}")
    if not one["analyses"].get("neighbours"):
        yield _hint("These results hold none. To bring them:", f"{_COMMAND} --analyses --json RESULTS.json")
        return
    text = (
        "In colour: the sentence that people rated 5 of 5 with the query; its place where it is not among the nearest."
    )
    yield element("p", text, cls="note")
    queries = []
    for query in one["analyses"]["neighbours"]:
        nearest = []
        for near in query["nearest"]:
            cosine = element("span", f"{near['cosine']:.2f}")
            right = near["sentence"] == query["partner"]
            nearest.append(element("li", cosine, element("div", near["sentence"]), cls="partner" if right else ""))
        if not any(near["sentence"] == query["partner"] for near in query["nearest"]):
            rank = element("span", f"#{query['rank']}")
            nearest.append(element("li", rank, element("div", query["partner"]), cls="partner"))
        queries.append(element("section", element("strong", query["query"]), element("ol", *nearest), cls="query"))
    yield element("div", *queries, cls="queries")


def _training(pictures: Sequence[Picture]) -> Iterator[Element]:
    yield element("h2", "Training")
    if not pictures:
        yield _hint("No run was given. To draw its curves:", "diffcse report RESULTS.json RUN_FOLDER -o report.html")
        return
    yield from _figures(pictures)


def _figures(pictures: Sequence[Picture]) -> Iterator[Element]:
    if pictures:
        yield element("div", *(picture(one) for one in pictures), cls="figures")


def _hint(text: str, command: str) -> Element:
    return element("p", f"{text} ", element("code", command), cls="hint")


def _shown(value: Any) -> str:
    number = _number(value)
    return _DASH if number is None else percent(number)


def _interval(bounds: Sequence[float]) -> str:
    return f"{100 * bounds[0]:.2f} to {100 * bounds[1]:.2f}"
