"""A training run from text to a model folder; `train` reads like a table of contents.

Under torchrun every process runs `train`; only the first one writes and talks.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from transformers import TrainerCallback

from diffcse.config import Config
from diffcse.method.model import trained_parts
from diffcse.persistence.card import Kept, model_card
from diffcse.persistence.save import save_folder
from diffcse.settings import as_path, checked
from diffcse.text.dataset import ReadReport
from diffcse.training.averages import swap
from diffcse.training.build import build_model, build_trainer, keep_weights, steps_of
from diffcse.training.checks import check_machine, check_positions, check_size, settle_machine
from diffcse.training.criteria import Criterion, choose_criterion
from diffcse.training.keep_weights import KeepWeights
from diffcse.training.networks import Networks, load_networks
from diffcse.training.process import own_process
from diffcse.training.run_folder import RunFolder
from diffcse.training.spans import DocumentReport
from diffcse.training.texts import Sources, Text, examples, first_sentences
from diffcse.training.trainer import SafeTrainer


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """How a run ended.

    Attributes:
        folder: where the model is, or where the unfinished run waits.
        finished: False if the run was interrupted; the same command resumes it.
        step: optimiser step it ended at.
        best: what was kept and why; None where the last step was kept, and in all but the first process.
        read: what was read and skipped; its `summary()` says it in one line.
        seconds: wall time of this call.
    """

    folder: Path
    finished: bool
    step: int
    best: Kept | None
    read: ReadReport | DocumentReport
    seconds: float


def train(
    sources: Sources,
    output: str | Path,
    config: Config,
    *,
    columns: Sequence[str] | None = None,
    criterion: Criterion | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    cache_dir: str | Path | None = None,
    console: Console | None = None,
) -> TrainResult:
    """Train on unlabelled text and save a SentenceTransformer folder; resumes an interrupted run of the same settings.

    Args:
        sources: one or more text files, tables, globs, or a Hub dataset (see `diffcse.text.dataset.read_texts`). With
            view neighbours they are read as documents (see `diffcse.text.documents.read_documents`), or are documents
            already: what `read_documents` returns, or a dataset with its columns `key` and `sentences`.
        output: folder for the model; new, empty, or holding an interrupted run of the same settings.
        config: all settings (see `diffcse.build`).
        columns: names of one (sentences), two (pairs) or three (pairs with a hard negative) columns of a table.
        criterion: what chooses the best checkpoint where labelled data are available (STS-B dev, say).
        callbacks: the Trainer's; the `model` that they are called with has the trained Transformer as `encoder`.
        cache_dir: where tokenised text is kept between runs.
        console: where progress is shown; None shows nothing.

    Raises:
        UserError: for anything wrong with the input, before the first step.
        NonFiniteLoss: for a loss that is not a number, before the optimiser step.
    """
    began, output = time.perf_counter(), as_path("output", output)
    config = settle_machine(checked("config", config, Config))
    criterion, text = checked("criterion", criterion, Criterion | None), Text.of(sources, columns, config)
    cache_dir = None if cache_dir is None else as_path("cache_dir", cache_dir)
    check_machine(config)
    run = RunFolder.look(output, config.as_dict(), text.names(), columns, defaults=Config().as_dict())
    with own_process(config.training.seed):
        networks = load_networks(config)
        check_positions(networks, config)
        config = networks.settle(config)
        rows, read = text.read(cache_dir)
        check_size(len(rows), config)
        dataset = examples(rows, networks, config, cache_dir, console)
        run.check_text(rows)
        run.check_steps(steps_of(config.training, len(dataset)))
        model = build_model(networks, config)
        run.check_space(model, config.training.average_checkpoints)
        chosen = choose_criterion(config.training, criterion, first_sentences(rows))
        run.claim(rows)  # last, so that a refused command leaves no files
        trainer = build_trainer(model, dataset, networks.tokenizer, run, config, callbacks, console)
        keep = keep_weights(chosen, networks, trainer, run, config)
        with run.writing():
            trainer.train(resume_from_checkpoint=run.last_checkpoint())
            finished, best = trainer.state.global_step >= trainer.state.max_steps, None
            if finished and trainer.args.should_save:
                best = finish(keep, trainer, networks, run, config)
        trainer.accelerator.end_training()
    seconds, step = time.perf_counter() - began, trainer.state.global_step
    return TrainResult(folder=output, finished=finished, step=step, best=best, read=read, seconds=seconds)


def finish(
    keep: KeepWeights | None, trainer: SafeTrainer, networks: Networks, run: RunFolder, config: Config
) -> Kept | None:
    """Choose the weights, write the model folder, mark the run as finished."""
    best = None if keep is None else keep.load()
    if best is None:
        swap(trainer.module)  # the moving average, if there is one, is the model
    networks.restore_pooler()
    files = {"README.md": model_card(config, best, run.read_metrics()).encode()}
    save_folder(networks.model, run.folder, files)
    if config.training.keep_discriminator:
        run.save_training_state(trained_parts(trainer.saved_state()))
    run.mark_finished()
    return best
