"""Freed memory is kept while asked for, and given back at the end."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import resource, torch
from pathlib import Path
from diffcse.kernels.memory import freed_memory_kept

def step():
    "Page faults of making and freeing 8 tensors of 48 MB, which glibc by itself maps anew each time."
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = []
    for _ in range(4):
        held.append(torch.ones(12_000_000))
        held.append(held[-1] * 2)
    del held
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

step()
plain = step()
with freed_memory_kept():
    # Where the blocks lie decides whether an aligned one fits into the hole of another, so a step may need a new page.
    kept, held = min(step() for _ in range(6)), resident()
print(plain, kept, held - resident(), step())
"""

HOLES = """
import resource, torch
from pathlib import Path
from diffcse.kernels.memory import give_back

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

blocks = [torch.ones(16_000) for _ in range(4000)]
last = blocks[-1]  # so that the heap's end is in use
del blocks
before = resident()
give_back()
print(before - resident(), float(last.sum()))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_freed_memory_is_used_again_and_given_back():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    plain, kept, given_back, after = map(int, done.stdout.split())
    assert kept < plain / 10
    assert given_back > 300_000_000
    assert after > 10 * kept


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_holes_in_the_heap_are_given_back():
    done = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True)
    given_back, kept = map(float, done.stdout.split())
    assert given_back > 200_000_000
    assert kept == 16_000
