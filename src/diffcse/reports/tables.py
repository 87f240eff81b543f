"""Results as terminal tables, in the paper's order and form: x100, two decimals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from rich import box
from rich.table import Table

from diffcse.evaluation.suite import group_tasks
from diffcse.evaluation.tasks import GROUPS, HEADLINE, Group
from diffcse.reports.published import PUBLISHED, SOURCE

_SHORT = {"STSBenchmark": "STS-B", "SICKRelatedness": "SICK-R", "SST2": "SST"}
_STYLE: dict[str, Any] = {"box": box.SIMPLE_HEAD, "padding": (0, 1, 0, 0), "caption_justify": "left"}
_TITLES: Mapping[Group, str] = {"sts": "STS, Spearman x 100", "transfer": "Transfer, accuracy x 100"}


def percent(value: float | None) -> str:
    """A fraction as the paper prints it; a dash for a number that does not exist.

    >>> percent(0.78486), percent(None)
    ('78.49', '-')
    """
    return "-" if value is None else f"{100 * value:.2f}"


def short_name(model: str) -> str:
    """The end of a path, which tells models apart better than its start; a Hub name as it is.

    >>> short_name("/data/runs/diffcse/final"), short_name("org/name")
    ('diffcse/final', 'org/name')
    """
    return "/".join(PurePath(model).parts[-2:])


def short_task(name: str) -> str:
    """A task's name as the paper's tables have it.

    >>> short_task("STSBenchmark"), short_task("MR")
    ('STS-B', 'MR')
    """
    return _SHORT.get(name, name)


def result_tables(results: list[dict[str, Any]], *, published: bool = False) -> list[Table]:
    """One table for each group that has a score, a row a model.

    Args:
        results: from `suite.evaluate`, one or more models evaluated in the same way.
        published: add the published rows, marked as such.
    """
    groups = [group for group in GROUPS if any(one["tasks"].get(task) for one in results for task in GROUPS[group])]
    return [_table(group, results, published) for group in groups]


def _table(group: Group, results: list[dict[str, Any]], published: bool) -> Table:
    mode = results[0]["mode"]
    names = group_tasks(group, mode)
    title = _TITLES[group] + (" (dev)" if mode == "dev" else "")
    caption = _caption(group, results, published)
    table = Table(title=title, caption=caption, **_STYLE)
    table.add_column("model", overflow="ellipsis", no_wrap=True)
    for name in names:
        table.add_column(short_task(name), justify="right", no_wrap=True)
    table.add_column("avg", justify="right", no_wrap=True)
    for one in results:
        scores = [percent(one["tasks"].get(name, {}).get(HEADLINE[group])) for name in names]
        mark = "" if one["complete"][group] else "*"
        table.add_row(short_name(one["model"]), *scores, percent(one["average"][group]) + mark)
    if published and mode == "test":
        _add_published(table, group, names)
    return table


def _add_published(table: Table, group: Group, names: Sequence[str]) -> None:
    table.add_section()
    for row in (row for row in PUBLISHED if row.group == group):
        scores = row.by_task()
        cells = [f"{scores[name]:.2f}" if name in scores else "-" for name in names]
        table.add_row(f"published: {row.name}", *cells, f"{row.average:.2f}", style="dim")


def _caption(group: Group, results: list[dict[str, Any]], published: bool) -> str | None:
    lines = []
    missing = sorted({name for one in results for name in one["missing"][group]}, key=GROUPS[group].index)
    if missing:
        lines.append(f"* not over the whole table: without {', '.join(missing)}")
    if published:
        lines.append(f"published: {SOURCE}, single runs, not measured here")
    return "\n".join(lines) or None


def detail_table(results: dict[str, Any]) -> Table:
    """Subsets and splits of one model's STS tasks."""
    table = Table(title="Details, x 100", **_STYLE)
    for heading in ("task", "part", "Spearman", "Pearson", "pairs"):
        table.add_column(heading, justify="left" if heading in ("task", "part") else "right")
    for name, scores in results["tasks"].items():
        parts = scores.get("subsets") or {part: scores[part] for part in ("train", "dev", "test") if part in scores}
        for part, one in parts.items():
            if "spearman" in one:
                row = (percent(one["spearman"]), percent(one["pearson"]), str(one["pairs"]))
                table.add_row(short_task(name), part, *row)
    return table


def further_tables(results: dict[str, Any], *, details: bool = False) -> list[Table]:
    """What one model has beside the main tables: every part, the user's own pairs, the analyses."""
    tables = [detail_table(results)] if details else []
    rows: list[tuple[str, str]] = []
    if "pairs" in results:
        one = results["pairs"]
        rows += [("Spearman x 100", percent(one["spearman"])), ("Pearson x 100", percent(one["pearson"]))]
        tables.append(_two_columns(f"Own pairs ({one['pairs']}), {short_name(results['model'])}", rows))
    if "analyses" in results:
        one = results["analyses"]
        rows = [("alignment (lower is better)", f"{one['alignment']:.4f}")]
        rows += [("uniformity (lower is better)", f"{one['uniformity']:.4f}")]
        rows += [
            (f"{key} x 100", percent(value)) for key, value in one["retrieval"].items() if key.startswith("recall")
        ]
        tables.append(_two_columns(f"Analyses on {one['data']}, {short_name(results['model'])}", rows))
    return tables


def comparison_table(comparison: dict[str, Any]) -> Table:
    """Models side by side: Spearman with its interval, and the difference to the first model with interval and p."""
    base = short_name(comparison["baseline"])
    caption = (
        f"95% bootstrap intervals; p: paired randomisation test against {base}, {comparison['resamples']} resamples"
    )
    table = Table(title="Comparison, Spearman x 100", caption=caption, **_STYLE)
    for heading in ("task", "model", "Spearman", "interval", "difference", "interval", "p"):
        table.add_column(heading, justify="left" if heading in ("task", "model") else "right", no_wrap=True)
    tasks = comparison["tasks"] | ({"avg": comparison["average"]} if comparison["average"] else {})
    for task, models in tasks.items():
        for model, one in models.items():
            cells = [percent(one["spearman"]), _interval(one["interval"])]
            if "p" in one:
                cells += [f"{100 * one['difference']:+.2f}", _interval(one["difference_interval"]), f"{one['p']:.3f}"]
            table.add_row(short_task(task), short_name(model), *cells)
        table.add_section()
    return table


def retrieval_table(rows: Sequence[dict[str, Any]], *, first: str) -> Table:
    """Judged collections: one row for each collection and system, x 100.

    Args:
        rows: as `evaluation.judged.compare_on` gives them.
        first: the system that the others are tested against.
    """
    caption = f"95% intervals by bootstrap over queries; difference to {short_name(first)}, p of a randomisation test"
    table = Table(title="Search in judged collections, x 100", caption=caption, **_STYLE)
    table.add_column("collection")
    table.add_column("system", overflow="ellipsis", no_wrap=True)
    for name in ("nDCG@10", "interval", "difference", "p", "MRR", "recall@10", "recall@100"):
        table.add_column(name, justify="right", no_wrap=True)
    before = None
    for row in rows:
        against, interval = row.get("against_first"), row["interval"]
        difference = f"{100 * against['difference']:+.1f}" if against else ""
        if against:
            difference += f" [{100 * against['low']:+.1f}, {100 * against['high']:+.1f}]"
        table.add_row(
            row["collection"] if row["collection"] != before else "",
            short_name(row["system"]),
            f"{100 * row['ndcg_at_10']:.1f}",
            f"[{100 * interval['low']:.1f}, {100 * interval['high']:.1f}]".replace("[", r"\["),
            difference.replace("[", r"\["),
            f"{against['p']:.3f}" if against else "",
            *(f"{100 * row[name]:.1f}" for name in ("mrr", "recall_at_10", "recall_at_100")),
        )
        before = row["collection"]
    return table


def _two_columns(title: str, rows: Sequence[tuple[str, str]]) -> Table:
    table = Table(title=title, show_header=False, **_STYLE)
    table.add_column()
    table.add_column(justify="right")
    for row in rows:
        table.add_row(*row)
    return table


def _interval(bounds: Sequence[float]) -> str:
    return f"{100 * bounds[0]:.2f} to {100 * bounds[1]:.2f}"


def notes(results: dict[str, Any]) -> list[str]:
    """What a reader of the tables must know: tasks left out, sentences cut."""
    lines = [f"left out: {problem}" for problem in results["problems"]]
    encoding = results.get("encoding", {})
    if encoding.get("truncated"):
        cut, of, limit = encoding["truncated"], encoding["different"], encoding["limit"]
        lines.append(f"{cut} of {of} different sentences were cut at the model's limit of {limit} tokens")
    if encoding.get("unknown"):
        count, of = encoding["unknown"], encoding["different"]
        lines.append(f"{count} of {of} different sentences are mostly words that this model does not know")
    return lines
