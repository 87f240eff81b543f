"""What every long run here shares: complete checkpoints, exact resume, a stop on bad numbers.

`SafeTrainer` is `transformers.Trainer` with five additions. The order of examples is a function of (seed, epoch); a
checkpoint counts only once it is complete; a non-finite loss stops the run before the optimiser step; what the model
reports next to its loss is averaged on the device between two log lines; and batches are sent to a GPU without a wait,
so that the question for the finite loss is the only one of a step.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from diffcse.errors import NonFiniteLoss, foreign_errors
from diffcse.files import fsync_folder, write_json
from diffcse.kernels.waits import send_and_remember

COMPLETE = "complete.json"
"""Written last into a checkpoint; a checkpoint without it is half-written and is never resumed from."""

_REMOVE = "remove that folder, and the same command resumes from the one before it or begins again"

_LEAST = {
    **{"epoch": 0, "total_flos": 0, "num_input_tokens_seen": 0},
    **{"max_steps": 1, "logging_steps": 1, "save_steps": 1, "train_batch_size": 1},
}
"""Smallest value of each number in a checkpoint's state that the Trainer calculates with."""


class EpochOrder(Sampler[tuple[int, int]]):
    """Yields (epoch, example) pairs of `size` examples in an order that is a function of (seed, epoch).

    The epoch travels with the example, so a data worker needs no state to know it.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed, self.epoch = size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.size)
        return ((self.epoch, int(i)) for i in order)

    def __len__(self) -> int:
        return self.size


class SafeTrainer(Trainer):
    """`transformers.Trainer` whose checkpoints are complete, whose resume is exact and which stops on bad numbers.

    Args:
        model: module whose forward returns a mapping with `loss` and any number of scalar tensors next to it.
        args: the Trainer's settings.
        dataset: examples, addressed by what `order` yields.
        order: a sampler with `set_epoch`; one that yields lists is used as a batch sampler.
        collate: makes a batch of the examples.
        callbacks: the Trainer's callbacks.
        learning_rates: peak learning rate of the parameters whose name begins so, where it is not that of `args`.
    """

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        *,
        dataset: Dataset[Any],
        order: Sampler[Any],
        collate: Callable[[list[Any]], dict[str, Tensor]],
        callbacks: list[TrainerCallback],
        learning_rates: Mapping[str, float] | None = None,
    ) -> None:
        self.order = order
        self.learning_rates = learning_rates or {}
        self._sums: dict[str, Tensor] = {}
        self._steps_summed = 0
        self.module, self.dataset = model, dataset
        super().__init__(model, args, data_collator=collate, train_dataset=dataset, callbacks=callbacks)
        self.remove_callback(PrinterCallback)  # it writes to standard output; our own display does not
        self.add_callback(_FollowEpoch(order))
        self.add_callback(_StopOnBadNumbers(self))
        self.last_terms: Mapping[str, Tensor] = {}

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Examples in the order of (seed, epoch), split over processes by Accelerate."""
        batched = hasattr(self.order, "batch_tokens")
        how: dict[str, Any] = (
            {"batch_sampler": self.order}
            if batched
            else {"sampler": self.order, "batch_size": self._train_batch_size, "drop_last": True}
        )
        loader = DataLoader(
            self.dataset,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory and torch.cuda.is_available(),
            **how,
        )
        return self.accelerator.prepare(loader, device_placement=[False])  # `_prepare_inputs` sends the batches

    def _prepare_inputs(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        # The base class's copy waits for the device, and the model would ask for the lengths and masks once more.
        return {name: send_and_remember(value, self.args.device) for name, value in inputs.items()}

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The Trainer's optimiser; what has its own learning rate goes into its own groups."""
        if self.optimizer is not None:
            return self.optimizer
        optimizer = super().create_optimizer(model)
        for start, rate in self.learning_rates.items():
            if rate != self.args.learning_rate:
                named = self.module.named_parameters()
                _set_rate(optimizer, {id(parameter) for name, parameter in named if name.startswith(start)}, rate)
        return optimizer

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        read_state(Path(resume_from_checkpoint))
        with whole_checkpoint(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with whole_checkpoint(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with whole_checkpoint(checkpoint):
            super()._load_rng_state(checkpoint)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor | Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        """One forward; keeps the sums of everything it reports for the next log line."""
        terms: Mapping[str, Tensor] = model(**inputs)
        self.last_terms = {name: value.detach() for name, value in terms.items()}
        for name, value in self.last_terms.items():
            if name != "loss":
                self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value
        self._steps_summed += 1
        return (terms["loss"], terms) if return_outputs else terms["loss"]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the averages since the last line to a training line."""
        if "loss" in logs and self._steps_summed:
            logs |= {name: (total / self._steps_summed).item() for name, total in self._sums.items()}
            self._sums, self._steps_summed = {}, 0
        super().log(logs, start_time)

    def report(self, logs: dict[str, float]) -> None:
        """Log a line of your own between two steps; the training line that may be due at this step stays due."""
        due = self.control.should_log
        self.log(logs)
        self.control.should_log = due

    def saved_state(self) -> dict[str, Tensor]:
        """What a checkpoint holds of the model: all but tied weights and a frozen generator, as the module says."""
        left_out = set(getattr(self.module, "_keys_to_ignore_on_save", None) or ())
        return untied({name: value for name, value in self.module.state_dict().items() if name not in left_out})

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        super()._save(output_dir, self.saved_state() if state_dict is None else state_dict)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
            fsync_folder(folder)
            write_json(folder / COMPLETE, {"step": self.state.global_step})


def untied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same values, with separate memory for each name: safetensors refuses a table under two names (T5)."""
    seen: set[int] = set()
    for name, value in state.items():
        if value.numel() and value.data_ptr() in seen:
            state[name] = value.clone()
        seen.add(value.data_ptr())
    return state


def _set_rate(optimizer: torch.optim.Optimizer, chosen: set[int], rate: float) -> None:
    """Move the parameters with these identities into groups with another learning rate, all else kept."""
    for group in list(optimizer.param_groups):
        moved = [parameter for parameter in group["params"] if id(parameter) in chosen]
        if moved:
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in chosen]
            optimizer.add_param_group({**group, "params": moved, "lr": rate})


def last_checkpoint(folder: Path, *, remove_broken: bool = False) -> Path | None:
    """The newest complete checkpoint in `folder`, or None.

    Args:
        folder: where the run writes its checkpoints.
        remove_broken: delete newer, half-written ones, so that they are written again from scratch.
    """
    checkpoints = [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    for path in sorted(checkpoints, key=lambda path: int(path.name.removeprefix("checkpoint-")), reverse=True):
        if (path / COMPLETE).is_file():
            return path
        if remove_broken:
            shutil.rmtree(path)
    return None


def whole_checkpoint(
    path: str | Path | None, what: str = "checkpoint", do: str = _REMOVE
) -> AbstractContextManager[None]:
    """`foreign_errors` for a damaged checkpoint, or something else that a run left."""
    return foreign_errors(f"{what} {path}", "whole", lambda _: do)


def read_state(checkpoint: Path) -> TrainerState:
    """Where the run was when it wrote a checkpoint; the Trainer itself takes values of any type, and fails later.

    Raises:
        UserError: no such file, or values that no run writes.
    """
    with whole_checkpoint(checkpoint):
        state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        step = int(checkpoint.name.removeprefix("checkpoint-"))
        wrong = [name for name, least in _LEAST.items() if not _is_number(name, getattr(state, name), least)]
        wrong += ["global_step"] * (type(state.global_step) is not int or state.global_step != step)
        wrong += ["log_history"] * (not isinstance(state.log_history, list))
        wrong += ["stateful_callbacks"] * ("TrainerControl" not in state.stateful_callbacks)
        wrong += ["best_model_checkpoint"] * (state.best_model_checkpoint is not None)  # we choose by ourselves
        for name in wrong:
            raise ValueError(f"a {TRAINER_STATE_NAME} with {name} {getattr(state, name)!r}")
    return state


def _is_number(name: str, value: Any, least: int) -> bool:
    kinds = (int, float) if name in ("epoch", "total_flos") else (int,)
    return type(value) in kinds and least <= value < math.inf


class _FollowEpoch(TrainerCallback):
    # Under DDP with a resume in the middle of an epoch, Accelerate's set_epoch does not reach our sampler through the
    # two wrappers around it, so the epoch is set here, from the trainer's own state.
    def __init__(self, order: Any) -> None:
        self.order = order

    def on_epoch_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Give the order of the sentences the epoch that begins."""
        self.order.set_epoch(int(state.epoch or 0))


class _StopOnBadNumbers(TrainerCallback):
    def __init__(self, trainer: SafeTrainer) -> None:
        self.trainer = trainer

    def on_pre_optimizer_step(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Stop before the optimiser sees a loss that is not finite."""
        terms = self.trainer.last_terms
        # One question for all terms: each answer waits for the device.
        if terms and not bool(torch.isfinite(torch.stack([value.float() for value in terms.values()])).all()):
            bad = [name for name, value in terms.items() if not bool(torch.isfinite(value))]
            step = state.global_step + 1
            raise NonFiniteLoss(
                f"every term of the loss must be finite; got {' and '.join(bad)} not finite at step {step}; lower the "
                f"learning rate or look at the batch; the weights from before step {step} are untouched"
            )
