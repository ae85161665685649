"""Memory that is freed stays with the process, for the next tensor.

The C library hands large blocks back to the system when they are freed, and the system hands them out again page by
page, each with a fault and filled with zeros. Networks free and ask for the same blocks in every step, and for maps of
some megabytes the faults cost as much as the arithmetic.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache

#: From mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
#: The most that is kept, whatever the machine has: mallopt takes an int.
_MOST = (1 << 31) - 1
#: Older C libraries refuse thresholds beyond half of the heap that a thread other than the first one gets.
_BLOCKS = (1 << 30, 1 << 25)


def keeps_memory() -> bool:
    """Whether memory that nobody uses now may be kept for later (``STRIATE_KEEP_MEMORY``)."""
    return os.environ.get("STRIATE_KEEP_MEMORY", "1") != "0"


@cache
def keep_freed_memory() -> int:
    """Has the C library keep freed memory, up to an eighth of the machine's and 2 GiB; returns how many bytes.

    It counts for the whole process, PyTorch's tensors included, and can't be taken back. 0 where it isn't done: with
    ``STRIATE_KEEP_MEMORY=0``, or where the C library isn't glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is None or not keeps_memory():
        return 0
    kept = min(_MOST, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 8)
    # Blocks of their own (mmap) always go back; so they come from the heap, whose end is kept.
    if not any(mallopt(_MMAP_THRESHOLD, size) for size in _BLOCKS) or not mallopt(_TRIM_THRESHOLD, kept):
        return 0
    return kept
