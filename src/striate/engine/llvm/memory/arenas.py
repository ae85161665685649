"""A pool of arenas, the memory that programs compute in; a program borrows one for each call.

A program needs its arena only while it runs, so programs of many models and image sizes share one. Two programs running
at the same time, in two threads, get one each. The pool keeps arenas up to the size that the largest living program
has reserved; when that program is garbage collected, larger arenas are freed. ``STRIATE_KEEP_MEMORY=0`` frees every
arena after the call.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from striate.engine import fresh
from striate.engine.llvm.codegen.ir import LINE
from striate.engine.memory import keeps_memory


@dataclass(frozen=True, eq=False, slots=True)
class Arena:
    memory: Tensor
    numbers: int
    address: int  #: of its first number, at the start of a cache line


class Arenas:
    """A pool of at most ``most`` bytes: programs :meth:`reserve` a size, calls :meth:`borrow` and :meth:`give_back`."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._lock = threading.Lock()
        self._free: list[Arena] = []
        self._bytes = 0
        self._keeps = True
        #: The size that the largest living program needs.
        self._most = -1
        #: The sizes that living programs need, by their ids; the ids of programs that have been freed since.
        self._needs: dict[int, int] = {}
        self._numbered = itertools.count()
        self._gone: deque[int] = deque()

    @property
    def bytes(self) -> int:
        """Bytes of all arenas, borrowed or free."""
        return self._bytes

    def fits(self, numbers: int) -> bool:
        """Whether an arena of this size fits into the pool."""
        return 4 * numbers <= self.most

    def reserve(self, program: object, numbers: int) -> None:
        """Keeps arenas of this size in the pool for as long as ``program`` lives."""
        number = next(self._numbered)
        with self._held():
            self._needs[number] = numbers
        weakref.finalize(program, self._released, number).atexit = False

    def borrow(self, numbers: int) -> Arena | None:
        """An arena of at least this size; None if it would exceed the limit of the pool."""
        # No lock: list.pop and list.append are atomic, and this list is never replaced.
        try:
            arena = self._free.pop()
        except IndexError:
            return self._new(numbers)
        if arena.numbers >= numbers:
            return arena
        self._free.append(arena)
        return self._new(numbers)

    def _new(self, numbers: int) -> Arena | None:
        with self._held():
            self._keeps = keeps_memory()  # read here and not in every call, because reading the environment is slow
            free = self._taken()
            found = next((each for each in free if each.numbers >= numbers), None)
            if found is not None:
                self._free.extend(each for each in free if each is not found)
                return found
            # All free arenas are too small: the new one replaces them.
            self._bytes -= sum(4 * each.numbers for each in free)
            if self._bytes + 4 * numbers > self.most:
                return None
            self._bytes += 4 * numbers
        with torch.inference_mode(False):
            memory = fresh.empty(numbers + LINE)
        return Arena(memory, numbers, -(-memory.data_ptr() // 64) * 64)

    def give_back(self, arena: Arena) -> None:
        if not self._keeps:
            with self._held():
                self._bytes -= 4 * arena.numbers
            return
        self._free.append(arena)
        if self._gone or arena.numbers > self._most:
            with self._held():
                pass

    def _taken(self) -> list[Arena]:
        """Removes and returns all free arenas."""
        taken = []
        with suppress(IndexError):
            while True:
                taken.append(self._free.pop())
        return taken

    @contextmanager
    def _held(self) -> Iterator[None]:
        with self._lock:
            yield
            self._trim()

    def _released(self, program: int) -> None:
        # The garbage collector may call this during any method above, in a thread that already holds the lock.
        self._gone.append(program)
        if self._lock.acquire(blocking=False):
            try:
                self._trim()
            finally:
                self._lock.release()

    def _trim(self) -> None:
        """Frees arenas larger than any living program needs."""
        while self._gone:
            self._needs.pop(self._gone.popleft(), None)
        most = self._most = max(self._needs.values(), default=-1)
        for arena in self._taken():
            if arena.numbers <= most:
                self._free.append(arena)
            else:
                self._bytes -= 4 * arena.numbers


#: The pool of the process.
ARENAS: Final = Arenas(1 << 29)
