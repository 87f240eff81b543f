"""Stands for the C library's own thresholds of what goes back to the system: 5 to 8% of a training step.

Freed memory of a step stays with the process, that of a long stream goes back (151 MB less after 450,000 sentences).
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator

# Parameters of mallopt in <malloc.h>. Free memory at the heap's end above the first threshold is given back; a block
# above the second one is mapped from the system each time it is asked for.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST, _NEVER = (1 << 31) - 1, -1
_USUAL_TRIM, _USUAL_MMAP = 64 << 20, 32 << 20
"""Where glibc's thresholds, which rise by themselves, end up in a process that works with large tensors."""


@contextlib.contextmanager
def freed_memory_kept() -> Iterator[None]:
    """The C library returns no memory to the system inside the context, and all that is free at its end.

    If it were returned after each step, every page of some gigabytes would cost a page fault and be zeroed again, about
    a tenth of a step's time (docs/performance.md). Where the C library is not glibc nothing changes.
    """
    library = _glibc()
    if library is not None:
        library.mallopt(_MMAP_THRESHOLD, _LARGEST)
        library.mallopt(_TRIM_THRESHOLD, _NEVER)
    try:
        yield
    finally:
        if library is not None:
            library.mallopt(_MMAP_THRESHOLD, _USUAL_MMAP)
            library.mallopt(_TRIM_THRESHOLD, _USUAL_TRIM)
            give_back()


def give_back() -> None:
    """Give the system all pages that hold nothing; nothing happens where the C library is not glibc.

    Buffers whose size changes leave holes in the heap, so a long stream of batches would take ever more memory
    (docs/performance.md).
    """
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None
