"""diffcse evaluate: the paper's tables for any sentence encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from diffcse.cli.common import DEVICE, PROMPT, PROMPT_NAME, TRUST, check_file, loader, write_results
from diffcse.errors import UserError

if TYPE_CHECKING:
    from diffcse.encoding.encode import Encoder
    from diffcse.evaluation.embed import Embedded
    from diffcse.evaluation.suite import Plan


MODELS = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL...",
        help="A SentenceTransformer or a plain encoder: folder or Hub name. Several with --compare.",
        show_default=False,
    ),
]
SENTEVAL = Annotated[Path | None, typer.Option(help="Folder in SentEval's layout, the one that holds downstream/.")]
TASKS = Annotated[str, typer.Option(help="sts, transfer, all, or SentEval's task names, with commas between.")]
PROTOCOL = Annotated[
    Literal["all", "mean", "wmean"],
    typer.Option(help="STS12-16: one Spearman over all pairs (the paper's), mean of the subsets', or weighted."),
]
MODE = Annotated[
    Literal["test", "dev"], typer.Option(help="Test scores, or the dev scores that settings are chosen by.")
]
JSON = Annotated[Path | None, typer.Option(help="Write the results here.")]
PAIRS = Annotated[
    Path | None,
    typer.Option(help="Labelled pairs of your own: .csv, .tsv, .jsonl or .parquet, in any language."),
]
COLUMNS = Annotated[str, typer.Option(help="Columns of that file: first text, second text, score.")]
IR = Annotated[
    list[Path],
    typer.Option(
        "--ir",
        help="Folder in BEIR's layout (corpus.jsonl, queries.jsonl, qrels/test.tsv): search it, next to BM25 and "
        "TF-IDF, in place of SentEval's tasks. May be given several times.",
    ),
]
COMPARE = Annotated[
    bool, typer.Option("--compare", help="Several models side by side, with intervals and a test against the first.")
]
ANALYSES = Annotated[
    bool, typer.Option("--analyses", help="Alignment, uniformity, cosines by score and retrieval on STS-B.")
]
CARD = Annotated[bool, typer.Option("--card", help="Put the results into the model folder's README.md.")]
DETAILS = Annotated[bool, typer.Option("--details", help="Show every subset and split too.")]
TRAIN_SPLITS = Annotated[
    bool, typer.Option("--train-splits", help="Score the train splits of STS-B and SICK-R too, as SentEval does.")
]
PUBLISHED = Annotated[bool, typer.Option("--published", help="Show the published rows below yours.")]
POOLER = Annotated[
    Literal["cls", "avg", "avg_top2", "avg_first_last", "last"] | None,
    typer.Option(
        help="Take the plain Transformer with this pooler: cls ([CLS] before any projector), avg, avg_top2 or "
        "avg_first_last, last. Default: the model's own, or cls where it has none."
    ),
]


def evaluate(
    models: MODELS,
    senteval: SENTEVAL = None,
    tasks: TASKS = "sts",
    protocol: PROTOCOL = "all",
    mode: MODE = "test",
    json: JSON = None,
    pairs: PAIRS = None,
    columns: COLUMNS = "sentence1,sentence2,score",
    ir: IR = [],  # noqa: B006  (typer copies it)
    compare: COMPARE = False,
    analyses: ANALYSES = False,
    card: CARD = False,
    details: DETAILS = False,
    train_splits: TRAIN_SPLITS = False,
    published: PUBLISHED = False,
    pooler: POOLER = None,
    prompt_name: PROMPT_NAME = None,
    prompt: PROMPT = None,
    device: DEVICE = None,
    trust_remote_code: TRUST = False,
) -> None:
    """Print the paper's STS and transfer tables for a model."""
    check_models(models, compare)
    check_outputs(models, json, card)
    options: dict[str, Any] = {"pooler": pooler, "device": device, "trust_remote_code": trust_remote_code}
    words = {"name": prompt_name, "text": prompt}
    if ir:
        if senteval is not None or pairs is not None:
            raise UserError("--ir", "used without --senteval and --pairs", "both", "make two runs of them")
        if prompt_name is not None:
            do = "give the words of queries and documents alike with --prompt, or leave the model its own"
            raise UserError("--prompt-name", "used without --ir", prompt_name, do)
        search_collections(models, ir, options, words, json)
        return
    how: dict[str, Any] = {"mode": mode, "protocol": protocol, "train_splits": train_splits}
    plan = make_plan(senteval, tasks, how, analyses=analyses, pairs=pairs, columns=columns)
    if compare:
        check_comparable(plan)
    runs = [run(model, encoder_of(model, options, words), plan) for model in models]
    results = [figures for figures, _ in runs]
    comparison = side_by_side(plan, models, [embedded for _, embedded in runs]) if compare else None
    show(results, comparison, published=published, details=details)
    if json is not None:
        write_results(json, results[0] if comparison is None else {"models": results, "comparison": comparison})
    if card:
        from diffcse.reports.model_index import update_card

        for model, figures in zip(models, results, strict=True):
            update_card(Path(model), figures)


def encoder_of(model: str, options: Any, words: Any) -> Encoder:
    """The model, with words of the user's choice in front of every text, if there are any."""
    from diffcse.encoding.encode import Encoder, EncodeSettings
    from diffcse.encoding.prompts import resolve_prompt

    loaded = loader(model, **options)()
    prompt = resolve_prompt(loaded, **words) if any(word is not None for word in words.values()) else None
    return Encoder(loaded, settings=EncodeSettings(prompt=prompt))


def search_collections(
    models: Sequence[str], folders: Sequence[Path], options: Any, words: Any, json: Path | None
) -> None:
    """How well the models find the relevant documents of judged queries."""
    from diffcse.encoding.prompts import resolve_prompt
    from diffcse.evaluation.judged import compare_on, read_collections
    from diffcse.progress import counting, make_console
    from diffcse.reports import tables, terminal

    collections = read_collections(folders)
    encoders = {model: encoder_of(model, options, words) for model in models}
    prompts = {
        model: {role: resolve_prompt(encoder.model, role, text=words["text"]) for role in ("query", "document")}
        for model, encoder in encoders.items()
    }
    with counting(make_console(), "searching") as counter:
        rows = compare_on(collections, encoders, lambda what: counter.name(f"searching {what}"))
    terminal.show(make_console(stderr=False), tables.retrieval_table(rows, first=models[0]))
    if json is not None:
        write_results(json, {"retrieval": rows, "prompts": prompts})


def check_models(models: Sequence[str], compare: bool) -> None:
    """One model, or at least two different ones to compare."""
    if compare and len(set(models)) < 2:
        raise UserError("--compare", "given two different models or more", ", ".join(models), "name another one")
    if not compare and len(models) > 1:
        raise UserError("MODEL", "one model", len(models), "put --compare before several")
    if len(set(models)) < len(models):
        raise UserError("--compare", "given each model once", ", ".join(models), "remove the repeated one")


def check_outputs(models: Sequence[str], json: Path | None, card: bool) -> None:
    """Say now, not after the work, that something cannot be written."""
    check_file("--json", json)
    if card:
        from diffcse.reports.model_index import check_card

        for model in models:
            check_card(Path(model))


def make_plan(
    senteval: Path | None, tasks: str, how: dict[str, Any], *, analyses: bool, pairs: Path | None, columns: str
) -> Plan:
    """Read and check all data; without --senteval, the user's own pairs are the only task."""
    from dataclasses import replace

    from diffcse.evaluation import suite
    from diffcse.evaluation.pairs import read_pairs
    from diffcse.evaluation.senteval import stsb_split

    selection, plan = suite.select(tasks), suite.Plan(tasks=())
    if senteval is not None:
        plan = suite.plan(senteval, selection, **how)
        plan = replace(plan, analysed=stsb_split(senteval, plan.mode) if analyses else None)
    elif pairs is None or analyses:
        do = "name a folder in SentEval's layout, the one that holds downstream"
        raise UserError("--senteval", "given", "nothing", do)
    if pairs is None:
        return plan
    return replace(plan, pairs=read_pairs(pairs, [name.strip() for name in columns.split(",")]))


def check_comparable(plan: Plan) -> None:
    """Something must have pairs to draw again."""
    from diffcse.evaluation.tasks import STS_TASKS

    if plan.pairs is None and not any(task.name in STS_TASKS for task in plan.tasks):
        do = "add STS tasks or --pairs; transfer tasks have no pairs to draw again"
        raise UserError("--compare", "used with tasks that have Spearman", "none of them", do)


def run(model: str, encoder: Encoder, plan: Plan) -> tuple[dict[str, Any], Embedded]:
    """Evaluate one model; says on stderr how far it is."""
    import time

    from diffcse.encoding.prompts import resolve_prompt
    from diffcse.evaluation.embed import embed
    from diffcse.evaluation.suite import encoding, results
    from diffcse.progress import counting, make_console

    err, start = make_console(), time.perf_counter()
    with counting(err, "encoding") as advance:
        embedded = embed(lambda sentences: encoder.encode(sentences, on_progress=advance), plan.sentences())
    about = encoding(embedded, plan, time.perf_counter() - start)
    about |= {"truncated": encoder.truncated, "limit": encoder.limit, "unknown": encoder.unknown}
    about["prompt"] = resolve_prompt(encoder.model, text=encoder.settings.prompt)
    with counting(err, "scoring") as counter:
        scored = results(embedded, plan, model=model, on_task=lambda name: counter.name(f"scoring {name}"))
    return scored | {"encoding": about}, embedded


def side_by_side(plan: Plan, models: Sequence[str], embedded: Sequence[Embedded]) -> dict[str, Any]:
    """Intervals and tests over the plan's STS tasks and the user's pairs."""
    from diffcse.evaluation.compare import compare, judge

    return compare({model: judge(plan, vectors) for model, vectors in zip(models, embedded, strict=True)})


def show(results: list[dict[str, Any]], comparison: dict[str, Any] | None, *, published: bool, details: bool) -> None:
    """Tables on stdout; what was skipped or cut on stderr."""
    from diffcse.progress import make_console, say
    from diffcse.reports import tables, terminal

    terminal.show(
        make_console(stderr=False), *tables.all_tables(results, comparison, published=published, details=details)
    )
    for result in results:
        for line in [*tables.problems(result), *tables.notes(result)]:
            say(make_console(), line)
