"""Runs a kernel on PyTorch's own threads.

PyTorch's CPU build loads GNU's OpenMP runtime. ``GOMP_parallel(function, data, threads, flags)`` starts a function on
the threads that PyTorch's kernels run on, in a few microseconds and without the GIL (source: libgomp's manual,
"Implementing PARALLEL construct"). If that runtime isn't found, Python threads are used.

A kernel computes a range of work items. Thread t of m computes items t * items / m to (t + 1) * items / m. So for a
given number of threads, an item always runs on the same thread, and the order of sums is fixed.
"""

from __future__ import annotations

import ctypes
import os
from array import array
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, cached_property
from typing import Any

import torch

from striate.engine import openmp, tuning
from striate.engine.llvm.codegen import machine_code
from striate.engine.llvm.codegen.compiler import Job
from striate.engine.llvm.codegen.ir import Function
from striate.engine.llvm.codegen.isa import Isa

# The first three words of a kernel's table belong to the launcher: two OpenMP functions and the number of work items.
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
    """The IR of a kernel and of the two functions that start it."""
    return function.text() + _WRAPPER.format(name=function.name)


class Kernel:
    """A compiled kernel; its arguments are passed by the names under which its generator reads them.

    Attributes:
        arguments: these names, in the kernel's order.
    """

    def __init__(self, function: Function, isa: Isa) -> None:
        self.name, self.ir, self._isa = function.name, module(function), isa
        self.arguments = tuple(function.arguments)
        self._names = frozenset(self.arguments)

    def request(self) -> bool:
        """Whether the kernel is compiled; if not, it will be, in the background."""
        return "_addresses" in vars(self) or self._job.request()

    @cached_property
    def _job(self) -> Job:
        return machine_code.job(self.ir, self._isa)

    @cached_property
    def _addresses(self) -> tuple[int, ...]:
        return machine_code.link(self.ir, self._isa, ("part", "outlined"))

    @property
    def part(self) -> int:
        """The address of ``void part(ptr table, i64 thread, i64 threads)``, which computes a thread's share of items.

        Raises:
            NotCompiledError: see :func:`striate.engine.llvm.codegen.machine_code.code`.
        """
        return self._addresses[0]

    @property
    def outlined(self) -> int:
        """The address of ``void outlined(ptr table)``, which OpenMP starts on every thread."""
        return self._addresses[1]

    @cached_property
    def _part(self) -> Any:
        return _PART(self.part)

    def __call__(self, items: int, threads: int, /, **arguments: int) -> None:
        """Computes all work items on at most ``threads`` threads."""
        self.bound((), items, threads, **arguments)()

    def words(self, /, **arguments: Any) -> list[Any]:
        """The arguments in the kernel's order.

        Raises:
            TypeError: an argument is missing, or the kernel has none of this name.
        """
        if arguments.keys() != self._names:
            missing, unknown = self._names - arguments.keys(), arguments.keys() - self._names
            raise TypeError(f"kernel {self.name}: missing {sorted(missing)}, unknown {sorted(unknown)}")
        return [arguments[name] for name in self.arguments]

    def bound(self, free: Sequence[str], items: int, threads: int, /, **arguments: int) -> Start:
        """Binds all arguments except the addresses named ``free``, which each call passes in this order."""
        words = self.words(**arguments, **dict.fromkeys(free, 0))
        return Start(self, words, items, max(1, min(threads, items)), [self.arguments.index(name) for name in free])

    def by_hand(self, table: int, threads: int) -> None:
        """Runs the work items of ``table`` without OpenMP."""
        if threads == 1:
            self._part(table, 0, 1)
            return
        others = [_pool().submit(self._part, table, thread, threads) for thread in range(1, threads)]
        self._part(table, 0, threads)
        for other in others:
            other.result()


class Start:
    """A kernel with its arguments bound, except the addresses at some ``places``, which each call passes."""

    __slots__ = ("_kernel", "_outlined", "_places", "_run", "_table", "_threads")

    def __init__(self, kernel: Kernel, words: Sequence[int], items: int, threads: int, places: Sequence[int]) -> None:
        runtime = openmp.runtime() if threads > 1 else None
        self._outlined = kernel.outlined
        own = (0, 0) if runtime is None else (runtime.which, runtime.many)
        self._table = array("q", [*own, items, *words])  # four times as fast to fill as a ctypes array
        self._kernel, self._threads, self._places = kernel, threads, [_OWN + place for place in places]
        self._run = None if runtime is None else runtime.start

    def __call__(self, *addresses: int) -> None:
        table = self._table[:]  # a copy for each call, since several threads may call at the same time
        for place, address in zip(self._places, addresses, strict=False):  # strict would take 0.15 us longer
            table[place] = address
        if self._run is not None:
            self._run(self._outlined, table.buffer_info()[0], self._threads, 0)
        else:
            self._kernel.by_hand(table.buffer_info()[0], self._threads)


_PART = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)


def threads() -> int:
    """The number of threads for kernels: PyTorch's setting, or 1 in a forked child, which has no OpenMP threads."""
    return 1 if _forked else torch.get_num_threads()


_forked = False


def _after_fork() -> None:
    # A child has none of its parent's threads, and GNU's runtime would wait for them forever.
    global _forked
    _forked = True
    tuning.generation += 1  # contractions that were prepared for several threads are prepared again


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, (os.cpu_count() or 2) - 1), thread_name_prefix="striate")
