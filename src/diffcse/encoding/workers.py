"""Bulk encoding on all cores or GPUs of one machine: processes that write numbered parts.

Every worker computes with one thread on a CPU, or has one GPU to itself, and a part's vectors depend on its texts
alone; so any number of workers writes the same bytes.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import multiprocessing

from diffcse.encoding.encode import Encoder
from diffcse.encoding.parts import Counts, Job, Part, encode_part
from diffcse.errors import UserError
from diffcse.settings import Checked

_AHEAD = 2
"""Parts that wait or run for each worker; memory holds no more of the text."""

_MOST = 1024
"""Workers, at most; more than any machine has cores for."""

_encoder: Encoder
"""The encoder of a worker process."""


@dataclass(frozen=True, kw_only=True)
class Workers(Checked):
    """An engine (`parts.Engine`): processes on this machine."""

    workers: int
    """Processes that encode at once: at most one for each core, or for each GPU where there are any."""

    def _check(self) -> None:
        do = "remove it to encode in one process, or give one for each core"
        self._need("workers", 1 <= self.workers <= _MOST, f"1 to {_MOST:,}", do)

    def __call__(self, encoder: Encoder, job: Job, parts: Iterator[Part]) -> Iterator[Counts]:
        """Write the parts; gives the counts of each as it is done.

        Raises:
            UserError: of a worker, or a worker that was killed.
        """
        context = multiprocessing.get_context("spawn")
        number = context.Value("i", 0)
        pool = ProcessPoolExecutor(
            self.workers, mp_context=context, initializer=_start, initargs=(number, _sent(encoder))
        )
        running: set[Future[Counts]] = set()
        try:
            for part in islice(parts, _AHEAD * self.workers):
                with _interrupts_wait():  # the first of these starts the processes
                    running.add(pool.submit(_run, job, part))
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
                running |= {pool.submit(_run, job, part) for part in islice(parts, len(done))}
        except BrokenProcessPool as error:
            do = "see that memory suffices (fewer --workers), then run the same command: it resumes"
            raise UserError("workers", "alive until the end", "one that was killed", do) from error
        finally:
            _end(pool)


@contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Ctrl-C waits for the end of the block, and never reaches processes that start in it: the parent ends them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _sent(encoder: Encoder) -> tuple[Any, ...]:
    """What a worker builds its encoder from; the weights are shared, not copied, on a CPU."""
    return encoder.model.cpu(), encoder.backend, encoder.settings, encoder.folder


def _start(number: Any, built_from: tuple[Any, ...]) -> None:
    """In a worker: one thread or one GPU."""
    global _encoder
    with number.get_lock():
        mine = number.value
        number.value += 1
    torch.set_num_threads(1)
    model, backend, settings, folder = built_from
    gpus = torch.cuda.device_count()
    device = f"cuda:{mine % gpus}" if gpus and backend == "torch" else "cpu"
    _encoder = Encoder(model, backend=backend, settings=settings, folder=folder, device=device)


def _run(job: Job, part: Part) -> Counts:
    return encode_part(_encoder, job, part)


def _end(pool: ProcessPoolExecutor) -> None:
    """End the processes now: what they are at is one part each, which the next run encodes again."""
    processes = list((pool._processes or {}).values())  # public from Python 3.14 on (kill_workers)
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.kill()
        process.join()
