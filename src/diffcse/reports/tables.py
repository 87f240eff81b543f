"""Results of an evaluation as tables, in the paper's order and form: x 100, two decimals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from diffcse.evaluation.statistics import Paired
from diffcse.evaluation.suite import group_tasks
from diffcse.evaluation.tasks import ALL_TASKS, GROUPS, HEADLINE, Group
from diffcse.reports.published import PUBLISHED, SOURCE
from diffcse.reports.table import Row, Table, difference, interval, percent

Results = Mapping[str, Any]
"""What `evaluation.suite.results` gives for one model."""

_SHORT = {"STSBenchmark": "STS-B", "SICKRelatedness": "SICK-R", "SST2": "SST"}
TITLES: Mapping[Group, str] = {"sts": "STS, Spearman x 100", "transfer": "Transfer, accuracy x 100"}


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


def is_measured(group: Group, results: Sequence[Results]) -> bool:
    """Whether any model has a score of the group."""
    return any(result["tasks"].get(task) for result in results for task in GROUPS[group])


def group_table(group: Group, results: Sequence[Results], *, published: bool = False) -> Table:
    """The paper's table of a group, one row per model.

    Args:
        group: which table.
        results: one or more models evaluated in the same way.
        published: whether to add the published rows, marked as such; there are none in dev mode.
    """
    mode = results[0]["mode"]
    published = published and mode == "test"
    tasks = group_tasks(group, mode)
    rows = []
    for result in results:
        scores = [percent(result["tasks"].get(task, {}).get(HEADLINE[group])) for task in tasks]
        average = percent(result["average"][group])
        if average is not None and not result["complete"][group]:
            average += "*"
        rows.append(Row(cells=(short_name(result["model"]), *scores, average), kind="measured"))
    return Table(
        title=TITLES[group] + (" (dev)" if mode == "dev" else ""),
        columns=("model", *map(short_task, tasks), "avg"),
        rows=rows + (list(_published(group, tasks)) if published else []),
        notes=tuple(_notes(group, results, published)),
    )


def _published(group: Group, tasks: Sequence[str]) -> Iterator[Row]:
    for number, row in enumerate(row for row in PUBLISHED if row.group == group):
        scores = row.by_task()
        cells = [f"{scores[task]:.2f}" if task in scores else None for task in tasks]
        cells = [row.name, *cells, f"{row.average:.2f}"]
        yield Row(cells=tuple(cells), kind="published", starts_section=number == 0)


def _notes(group: Group, results: Sequence[Results], published: bool) -> Iterator[str]:
    missing = sorted({name for result in results for name in result["missing"][group]}, key=GROUPS[group].index)
    if missing:
        yield f"* not over the whole table: without {', '.join(missing)}"
    for result in results if group == "transfer" else ():
        if "f1" in result["tasks"].get("MRPC", {}):
            yield f"{short_name(result['model'])}: F1 of MRPC {percent(result['tasks']['MRPC']['f1']) or '-'}"
    if published:
        yield f"published: {SOURCE}, single runs, not measured here"


def detail_table(result: Results) -> Table:
    """Subsets and splits of one model's STS tasks."""
    rows = []
    for task, scores in result["tasks"].items():
        parts = scores.get("subsets") or {part: scores[part] for part in ("train", "dev", "test") if part in scores}
        for name, part in parts.items():
            if "spearman" in part:
                figures = percent(part["spearman"]), percent(part["pearson"])
                rows.append((short_task(task), name, *figures, f"{part['pairs']:,}"))
    title = f"Every subset and split, x 100, {short_name(result['model'])}"
    columns = ("task", "part", "Spearman", "Pearson", "pairs")
    return Table(title=title, columns=columns, rows=rows, words=2, folded=True)


def own_pairs_table(results: Sequence[Results]) -> Table:
    """Labelled pairs that the user gave, one row per model."""
    rows = []
    for result in results:
        pairs = result["pairs"]
        cells = (
            short_name(result["model"]),
            percent(pairs["spearman"]),
            percent(pairs["pearson"]),
            f"{pairs['pairs']:,}",
        )
        rows.append(Row(cells=cells, kind="measured"))
    return Table(title="Your own pairs, x 100", columns=("model", "Spearman", "Pearson", "pairs"), rows=rows)


def analyses_table(results: Sequence[Results]) -> Table:
    """Alignment, uniformity and recall on STSBenchmark, one row per model."""
    rows = []
    for result in results:
        analyses = result["analyses"]
        figures = [f"{analyses[key]:.4f}" for key in ("alignment", "uniformity")]
        recall = [percent(analyses["retrieval"].get(f"recall@{cut}")) for cut in (1, 5, 10)]
        rows.append(Row(cells=(short_name(result["model"]), *figures, *recall), kind="measured"))
    first = results[0]["analyses"]
    notes = (
        f"alignment over {first['positive_pairs']} pairs rated above 4, uniformity over all sentences: lower is better",
        f"recall x 100: {first['retrieval']['queries']} sentences look for the sentence rated 5 of 5 with them among "
        f"{first['retrieval']['sentences']:,}",
    )
    columns = ("model", "alignment", "uniformity", "recall@1", "recall@5", "recall@10")
    return Table(title=f"Analyses on {first['data']}", columns=columns, rows=rows, notes=notes)


def comparison_table(comparison: Mapping[str, Any]) -> Table:
    """Models compared: Spearman with its interval, and the difference to the first model with interval and p."""
    rows = []
    tasks = comparison["tasks"] | ({"avg": comparison["average"]} if comparison["average"] else {})
    for task, models in tasks.items():
        for number, (model, figures) in enumerate(models.items()):
            against = ("", "", "")
            if "p" in figures:
                bounds = interval(figures["difference_interval"])
                against = (difference(figures["difference"]), bounds, f"{figures['p']:.3f}")
            cells = (percent(figures["spearman"]), interval(figures["interval"]), *against)
            rows.append(Row(cells=(short_task(task), short_name(model), *cells), starts_section=number == 0))
    return Table(
        title="Comparison, Spearman x 100",
        columns=("task", "model", "Spearman", "interval", "difference", "interval", "p"),
        rows=rows,
        notes=(
            f"95% bootstrap intervals; p: paired randomisation test against {short_name(comparison['baseline'])}; "
            f"{comparison['resamples']} resamples each",
        ),
        words=2,
    )


def retrieval_table(rows: Sequence[Mapping[str, Any]], *, first: str) -> Table:
    """Judged collections: one row for each collection and system, x 100.

    Args:
        rows: as `evaluation.judged.compare_on` gives them.
        first: the system that the others are tested against.
    """
    lines, before = [], None
    for row in rows:
        bounds, against = row["interval"], row.get("against_first")
        cells = (
            row["collection"],
            short_name(row["system"]),
            f"{100 * row['ndcg_at_10']:.1f}",
            f"[{100 * bounds['low']:.1f}, {100 * bounds['high']:.1f}]",
            Paired(**against).words() if against else "",
            f"{against['p']:.3f}" if against else "",
            *(f"{100 * row[name]:.1f}" for name in ("mrr", "recall_at_10", "recall_at_100")),
        )
        lines.append(Row(cells=cells, starts_section=row["collection"] != before))
        before = row["collection"]
    note = f"95% intervals by bootstrap over queries; difference to {short_name(first)}, p of a randomisation test"
    columns = ("collection", "system", "nDCG@10", "interval", "difference", "p", "MRR", "recall@10", "recall@100")
    return Table(title="Search in judged collections, x 100", columns=columns, rows=lines, notes=(note,), words=2)


def all_tables(
    results: Sequence[Results], comparison: Mapping[str, Any] | None = None, *, published: bool, details: bool
) -> list[Table]:
    """Every table that the results have figures for, in the order of the report."""
    tables = [group_table(group, results, published=published) for group in GROUPS if is_measured(group, results)]
    tables += [table for table in map(detail_table, results) if details and table.rows]
    having = {key: [result for result in results if key in result] for key in ("pairs", "analyses")}
    tables += [own_pairs_table(having["pairs"])] if having["pairs"] else []
    tables += [comparison_table(comparison)] if comparison else []
    tables += [analyses_table(having["analyses"])] if having["analyses"] else []
    return tables


def problems(result: Results, group: Group | None = None) -> list[str]:
    """Why tasks are missing, a line each; of one group or of all."""
    names = ALL_TASKS if group is None else GROUPS[group]
    return [f"not scored: {problem}" for problem in result["problems"] if problem.split(":")[0] in names]


def notes(result: Results) -> list[str]:
    """What a reader of one model's tables must know: sentences that were cut or mean nothing to the model."""
    lines = []
    encoding = result.get("encoding", {})
    if encoding.get("truncated"):
        cut, of, limit = encoding["truncated"], encoding["different"], encoding["limit"]
        lines.append(f"{cut} of {of} different sentences were cut at the model's limit of {limit} tokens")
    if encoding.get("unknown"):
        count, of = encoding["unknown"], encoding["different"]
        lines.append(f"{count} of {of} different sentences are mostly words that this model does not know")
    return lines
