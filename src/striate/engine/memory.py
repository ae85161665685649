"""Keeps freed memory in the process, for the next tensor.

By default the C library returns large blocks to the system when they are freed. The system then hands them out again
page by page, each with a page fault and filled with zeros. Networks free and allocate the same blocks in every step,
and for maps of some megabytes the page faults cost as much as the arithmetic.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache

#: Parameters of mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
#: The most bytes that can be kept on any machine, because mallopt takes an int.
_MOST = (1 << 31) - 1
#: Thresholds to try: older C libraries refuse more than half the heap size of a secondary thread.
_BLOCKS = (1 << 30, 1 << 25)


def keeps_memory() -> bool:
    """Whether freed memory may be kept for later (``STRIATE_KEEP_MEMORY``)."""
    return os.environ.get("STRIATE_KEEP_MEMORY", "1") != "0"


@cache
def keep_freed_memory() -> int:
    """Makes the C library keep freed memory, up to an eighth of the machine's memory and 2 GiB; returns the limit.

    The setting applies to the whole process, PyTorch's tensors included, and can't be undone. Returns 0 and changes
    nothing if ``STRIATE_KEEP_MEMORY=0``, or if the C library isn't glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is None or not keeps_memory():
        return 0
    kept = min(_MOST, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 8)
    # Blocks that come from mmap are always returned to the system, so allocate large blocks from the heap and keep its
    # end.
    if not any(mallopt(_MMAP_THRESHOLD, size) for size in _BLOCKS) or not mallopt(_TRIM_THRESHOLD, kept):
        return 0
    return kept
