"""Running a kernel on PyTorch's own threads.

PyTorch's CPU build brings GNU's OpenMP runtime into the process. ``GOMP_parallel(function, data, threads, flags)``
starts a function on its threads, which are the ones that PyTorch's kernels run on, in a few microseconds and without
the GIL (source: libgomp's manual, "Implementing PARALLEL construct"). Where that runtime isn't found, Python threads
do the same.

A kernel does a range of work items; thread t of m does items t * items / m to (t + 1) * items / m, so for a given
number of threads it is always the same thread that does an item, and sums have one order.
"""

from __future__ import annotations

import ctypes
import os
import sys
from array import array
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from striate.engine import tuning
from striate.engine.llvm.codegen import machine_code
from striate.engine.llvm.codegen.ir import Function
from striate.engine.llvm.codegen.isa import Isa

# The first three words of a kernel's table are the launcher's: OpenMP's two functions and the number of work items.
_OWN = 3

_WRAPPER = """
define void @part(ptr %table, i64 %thread, i64 %threads) nounwind {{
  %place = getelementptr i64, ptr %table, i64 2
  %items = load i64, ptr %place
  %arguments = getelementptr i64, ptr %table, i64 3
  %scaled = mul i64 %items, %thread
  %first = sdiv i64 %scaled, %threads
  %next = add i64 %scaled, %items
  %last = sdiv i64 %next, %threads
  call void @{name}(ptr %arguments, i64 %first, i64 %last, i64 %thread)
  ret void
}}

define void @outlined(ptr %table) nounwind {{
  %which = load ptr, ptr %table
  %place = getelementptr i64, ptr %table, i64 1
  %many = load ptr, ptr %place
  %thread = call i32 %which()
  %threads = call i32 %many()
  %thread.wide = sext i32 %thread to i64
  %threads.wide = sext i32 %threads to i64
  call void @part(ptr %table, i64 %thread.wide, i64 %threads.wide)
  ret void
}}
"""


def module(function: Function) -> str:
    """A kernel with the two functions that it is started by."""
    return function.text() + _WRAPPER.format(name=function.name)


class Kernel:
    """A compiled kernel. Calling it does all work items and returns when they are done."""

    def __init__(self, function: Function, isa: Isa) -> None:
        self.name, self.ir = function.name, module(function)
        #: The address of ``void part(ptr table, i64 thread, i64 threads)``, which does a thread's share of the items.
        self.part, self.outlined = machine_code.link(self.ir, isa, ("part", "outlined"))
        self._part = _PART(self.part)

    def __call__(self, items: int, words: Sequence[int], threads: int) -> None:
        """Runs on ``threads`` threads at most; ``words`` are the kernel's arguments."""
        self.start(words, 0, items, threads)()

    def start(self, words: Sequence[int], addresses: int, items: int, threads: int, after: int = 0) -> Start:
        """The kernel ready to be run but for so many ``addresses``, which come after so many of its other ``words``."""
        words = [*words[:after], *[0] * addresses, *words[after:]]
        return Start(self, words, items, max(1, min(threads, items)), after)

    def by_hand(self, table: int, threads: int) -> None:
        """Runs the shares that ``table`` tells of without OpenMP."""
        if threads == 1:
            self._part(table, 0, 1)
            return
        others = [_pool().submit(self._part, table, thread, threads) for thread in range(1, threads)]
        self._part(table, 0, threads)
        for other in others:
            other.result()


class Start:
    """A kernel with its arguments, but for the addresses that every call brings, from word ``first`` on."""

    __slots__ = ("_first", "_kernel", "_run", "_table", "_threads")

    def __init__(self, kernel: Kernel, words: Sequence[int], items: int, threads: int, first: int) -> None:
        runtime = openmp() if threads > 1 else None
        own = (0, 0) if runtime is None else (runtime.which, runtime.many)
        self._table = array("q", [*own, items, *words])  # filled in a quarter of the time that ctypes' arrays take
        self._kernel, self._threads, self._first = kernel, threads, _OWN + first
        self._run = None if runtime is None else runtime.start

    def __call__(self, *addresses: int) -> None:
        table = self._table[:]  # a call's own, since threads may call at the same time
        for place, address in enumerate(addresses, self._first):
            table[place] = address
        if self._run is not None:
            self._run(self._kernel.outlined, table.buffer_info()[0], self._threads, 0)
        else:
            self._kernel.by_hand(table.buffer_info()[0], self._threads)


_PART = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)


def threads() -> int:
    """How many threads a kernel may use now: PyTorch's setting; one in a forked child, where OpenMP's are gone."""
    return 1 if _forked else torch.get_num_threads()


_forked = False


def _after_fork() -> None:
    # A child has none of its parent's threads, and GNU's runtime waits for them for ever.
    global _forked
    _forked = True
    tuning.generation += 1  # what was made ready for several threads is made again


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class OpenMP(NamedTuple):
    """GNU's runtime: what starts threads, and the addresses of what they call to know who they are and to wait."""

    start: Any
    which: int
    many: int
    barrier: int


@cache
def openmp() -> OpenMP | None:
    """The runtime that PyTorch's kernels run on, or None."""
    if not sys.platform.startswith("linux"):
        return None
    with open("/proc/self/maps") as maps:
        loaded = {line.split(maxsplit=5)[5].strip() for line in maps if "libgomp" in line}
    # Other libraries, scikit-learn for one, may have brought a runtime of their own.
    found = {path for path in loaded if Path(torch.__file__).parent in Path(path).parents} or loaded
    if len(found) != 1:
        return None  # none, or more than one and no telling which is PyTorch's
    library = ctypes.CDLL(found.pop())
    start = library.GOMP_parallel
    start.argtypes, start.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
    names = ("omp_get_thread_num", "omp_get_num_threads", "GOMP_barrier")
    return OpenMP(start, *(ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0 for name in names))


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, (os.cpu_count() or 2) - 1), thread_name_prefix="striate")
