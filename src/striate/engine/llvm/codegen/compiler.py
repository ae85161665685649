"""Compiles modules in a background thread, one after the other: LLVM's bindings compile one at a time anyway.

A thread that waits for a module goes first (:func:`urgent`). Without that, each of its calls of LLVM would wait for one
of the background thread's.

The thread isn't a daemon, because a process must not end in the middle of LLVM. It ends after the module that it is
compiling if the main thread has ended, and when nothing is left to compile.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

from striate.engine import compilation, contention


class Job:
    """A module that is to be compiled.

    Args:
        make: compiles the module.
        code: its machine code, if it is known already.
    """

    def __init__(self, make: Callable[[], bytes], code: bytes | None = None) -> None:
        self._make, self._lock, self._code = make, threading.Lock(), code
        self._requested = self._failed = False

    def request(self) -> bool:
        """Whether :meth:`code` needn't compile the module; if it has to, the background thread will do it.

        After a failure :meth:`code` raises the error again, so there is nothing to wait for.
        """
        if self._code is None and not self._requested:
            self._requested = True
            compile_later(self)
        return self._code is not None or self._failed

    def attempt(self) -> None:
        """Compiles the module; an error is left to :meth:`code`."""
        try:
            self.code()
        except Exception:
            self._failed = True

    def code(self) -> bytes:
        """The machine code; compiles it now unless that was done. Waits while another thread compiles it."""
        if self._code is None:
            with self._lock:
                if self._code is None:
                    self._code = self._make()
        return self._code


_busy = threading.RLock()
_urgent: set[object] = set()


@contextlib.contextmanager
def urgent() -> Iterator[None]:
    """A context in which the background thread doesn't use LLVM; it may have to finish a module first."""
    token = object()
    _urgent.add(token)
    try:
        with _busy:
            yield
    finally:
        _urgent.discard(token)


_jobs: deque[Job] = deque()
_lock = threading.Lock()
_worker: threading.Thread | None = None


def compile_later(job: Job) -> None:
    """Leaves a job to the background thread."""
    global _worker
    with _lock:
        _jobs.append(job)
        compilation.backlog = len(_jobs)
        if _worker is not None:
            return
        _worker = threading.Thread(target=_work, name="striate-compiler")
        try:
            _worker.start()
        except RuntimeError:
            # The system allows no more threads, or the process is ending.
            _worker, compilation.backlog = None, 0
            _jobs.clear()
        else:
            contention.expect()
            return
    with urgent():
        job.attempt()


def _work() -> None:
    global _worker
    while True:
        with _lock:
            if not _jobs or not threading.main_thread().is_alive():
                _worker = None
                return
            job = _jobs.popleft()
            compilation.backlog = len(_jobs)
        while _urgent:
            time.sleep(0.002)
        with _busy:
            job.attempt()


def _before_fork() -> None:
    # A child must not inherit a lock of LLVM's that the background thread holds.
    _urgent.add(_before_fork)
    _busy.acquire()


def _after_fork_in_parent() -> None:
    _busy.release()
    _urgent.discard(_before_fork)


def _after_fork_in_child() -> None:
    # A child has no background thread.
    global _lock, _busy, _worker
    _lock, _busy, _worker = threading.Lock(), threading.RLock(), None
    _jobs.clear()
    compilation.backlog = 0
    _urgent.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
