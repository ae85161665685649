"""GNU's OpenMP runtime, whose threads PyTorch's CPU build computes on."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch


class Runtime(NamedTuple):
    """The function that starts threads, and the addresses of functions that kernels call.

    Args:
        start: ``GOMP_parallel``.
        which: the address of ``omp_get_thread_num``.
        many: the address of ``omp_get_num_threads``.
        barrier: the address of ``GOMP_barrier``.
    """

    start: Any
    which: int
    many: int
    barrier: int


@cache
def runtime() -> Runtime | None:
    """The OpenMP runtime of PyTorch's kernels, or None."""
    if not sys.platform.startswith("linux"):
        return None
    with open("/proc/self/maps") as maps:
        loaded = {line.split(maxsplit=5)[5].strip() for line in maps if "libgomp" in line}
    # Other libraries, for example scikit-learn, may have loaded a runtime of their own.
    found = {path for path in loaded if Path(torch.__file__).parent in Path(path).parents} or loaded
    if len(found) != 1:
        return None  # none, or several and it is unknown which one PyTorch uses
    library = ctypes.CDLL(found.pop())
    start = library.GOMP_parallel
    start.argtypes, start.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
    names = ("omp_get_thread_num", "omp_get_num_threads", "GOMP_barrier")
    return Runtime(start, *(ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0 for name in names))
