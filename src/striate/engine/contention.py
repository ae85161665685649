"""Lets PyTorch's idle threads sleep while other programs want the processors.

A thread of GNU's OpenMP that waits, for the other threads or for the next operation, spins for some milliseconds before
it sleeps. On an idle machine this saves the time to wake it. Beside other busy programs, spinning threads occupy the
processors that the threads they wait for need, and everything takes several times as long (``python -m benchmarks
beside``).

The runtime reads the number of spins from the environment, once. But while there are more OpenMP threads than
processors, it spins 100 times instead of 300,000 (libgomp's manual, ``GOMP_SPINCOUNT``). So while others compete, this
module holds a team of sleeping OpenMP threads: two where PyTorch has a thread for each processor. The threads that
compute, and so all results, stay the same.

The kernel's scheduler counts how long a thread was ready but had to wait for a processor
(``/proc/PID/task/TID/schedstat``; Documentation/scheduler/sched-stats.rst). Others compete if this grows.
"""

from __future__ import annotations

import ctypes
import math
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch

from striate.engine import openmp

#: Seconds between two looks at the scheduler's counts, and the share of time that looking may take.
_INTERVAL, _SHARE = 0.2, 0.005
#: Seconds that the threads of this process wait for processors, in a second: at least so many when others compete, at
#: most so many when they no longer do. Alone these are 0.00 to 0.03, beside one busy process 0.4 or more.
_COMPETING, _ALONE = 0.2, 0.1
_TASKS: Final = Path("/proc/self/task")


def look() -> None:
    """Adapts the waiting of threads to other programs, if it is time to; otherwise takes a tenth of a microsecond."""
    if time.perf_counter() >= _contention.due:
        _contention.look()


def expect() -> None:
    """Lets waiting threads sleep from now on, because this process itself is about to keep a processor busy."""
    _contention.expect()


class Contention:
    """How much other programs compete for the processors, and what is done about it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._at, self._waited = 0.0, dict[str, int]()
        self._team: Team | None = None
        #: When to look again, in seconds of :func:`time.perf_counter`; infinite where there is nothing to adapt.
        self.due = 0.0 if self._may_adapt() else math.inf

    @staticmethod
    def _may_adapt() -> bool:
        # Users who set one of these variables have decided how threads wait.
        return _TASKS.is_dir() and "OMP_WAIT_POLICY" not in os.environ and "GOMP_SPINCOUNT" not in os.environ

    @property
    def competing(self) -> bool:
        """Whether other programs competed at the last look."""
        return self._team is not None

    def look(self) -> None:
        """Compares the scheduler's counts with those of the last look."""
        if not self._lock.acquire(blocking=False):
            return  # another thread is looking
        try:
            now = time.perf_counter()
            waited = waits()
            if not waited or openmp.runtime() is None:
                self.due = math.inf
                return
            if self._waited:
                grown = sum(count - self._waited.get(task, 0) for task, count in waited.items())
                self._adapt(grown * 1e-9 / (now - self._at))
            self._at, self._waited = now, dict(waited)
            self.due = now + max(_INTERVAL, (time.perf_counter() - now) / _SHARE)
        finally:
            self._lock.release()

    def expect(self) -> None:
        """Adapts now, instead of when others are found to compete; undone when they don't."""
        with self._lock:
            if self._team is None and not math.isinf(self.due) and _has_threads():
                self._team = Team()
                self._at, self._waited = time.perf_counter(), dict(waits())
                self.due = self._at + _INTERVAL

    def _adapt(self, waiting: float) -> None:
        if self._team is None and waiting > _COMPETING and _has_threads():
            self._team = Team()
        elif self._team is not None and waiting < _ALONE:
            self._team.leave()
            self._team = None


class Team:
    """Sleeping OpenMP threads, so many that with PyTorch's there are more than processors.

    They belong to a thread and end with it.
    """

    def __init__(self) -> None:
        self._left = threading.Event()
        started = threading.Event()
        self._thread = threading.Thread(target=self._hold, args=(started,), name="striate-team", daemon=True)
        self._thread.start()
        started.wait()

    def _hold(self, started: threading.Event) -> None:
        runtime = openmp.runtime()
        assert runtime is not None
        # A function that any thread may call and that does nothing: free(NULL).
        nothing = ctypes.cast(ctypes.CDLL(None).free, ctypes.c_void_p)
        # The thread that starts a team is one of its members, and isn't counted.
        missing = len(os.sched_getaffinity(0)) + 1 - torch.get_num_threads()
        runtime.start(nothing, None, max(missing, 1) + 1, 0)
        started.set()
        self._left.wait()

    def leave(self) -> None:
        """Ends the threads."""
        self._left.set()
        self._thread.join()


def _has_threads() -> bool:
    """Whether PyTorch has threads that wait for each other."""
    return torch.get_num_threads() > 1 and openmp.runtime() is not None


def waits() -> Mapping[str, int]:
    """For each thread of this process how long it was ready to run but waited for a processor, nanoseconds.

    Empty if the kernel doesn't count this.
    """
    found: dict[str, int] = {}
    try:
        for task in os.listdir(_TASKS):
            try:
                found[task] = int((_TASKS / task / "schedstat").read_text().split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue  # the thread has ended meanwhile
    except (OSError, ValueError, IndexError):
        return {}
    return found


_contention = Contention()


def _after_fork() -> None:
    # A child has none of its parent's threads, so no team either; kernels run on one thread there.
    global _contention
    _contention = Contention()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
