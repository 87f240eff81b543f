"""What a run changes in the process that it runs in, and puts back."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
from collections.abc import Iterator

import numpy as np
import torch
from transformers import set_seed

from diffcse.kernels.memory import freed_memory_kept


@contextlib.contextmanager
def own_process(seed: int) -> Iterator[None]:
    """Seeded generators, numbers below 1e-38 taken for 0 and freed memory kept, while the context lasts.

    Afterwards the caller has its random states, its treatment of such numbers and its signal handlers back. Of the C
    library's memory only the thresholds cannot be read; they are left where glibc itself takes them in time.
    """
    # What set_seed seeds is the generator that everybody shares, the legacy one.
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    flushed = flushes_denormals()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    set_seed(seed)
    torch.set_flush_denormal(True)
    try:
        with freed_memory_kept():
            yield
    finally:
        torch.set_flush_denormal(flushed)
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
        if threading.current_thread() is threading.main_thread():  # only it may set handlers
            for number, handler in handlers.items():
                signal.signal(number, handler)


def flushes_denormals() -> bool:
    """Whether this thread takes numbers too small for the normal form for 0; torch only sets it."""
    return bool(torch.tensor([1e-310], dtype=torch.float64).mul(1.0).item() == 0)
