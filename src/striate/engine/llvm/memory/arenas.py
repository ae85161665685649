"""Memory that programs compute in, lent for the length of a call and shared by all of them.

A program needs its arena only while it runs, so programs of many models and image sizes take turns on one. Two that run
at the same time, in two threads, get one each. An arena is as large as the largest living program has asked for; when
that program is gone, larger arenas are freed. ``STRIATE_KEEP_MEMORY=0`` frees every arena after the call.
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
    """A pool of at most ``most`` bytes. :meth:`reserve` says what a program needs, calls borrow and give back."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._lock = threading.Lock()
        self._free: list[Arena] = []
        self._bytes = 0
        self._keeps = True
        #: What the largest living program needs.
        self._most = -1
        #: What living programs need, by the number that each was given, and those that have been freed since.
        self._needs: dict[int, int] = {}
        self._numbered = itertools.count()
        self._gone: deque[int] = deque()

    @property
    def bytes(self) -> int:
        """Bytes of all arenas, lent or free."""
        return self._bytes

    def fits(self, numbers: int) -> bool:
        """Whether an arena of so many numbers may be made at all."""
        return 4 * numbers <= self.most

    def reserve(self, program: object, numbers: int) -> None:
        """Keeps arenas of so many numbers for as long as ``program`` lives."""
        number = next(self._numbered)
        with self._held():
            self._needs[number] = numbers
        weakref.finalize(program, self._released, number).atexit = False

    def borrow(self, numbers: int) -> Arena | None:
        """An arena of at least so many numbers; None where that would be more memory than all may take."""
        # Without the lock: lists take and give one item at a time by themselves, and this list stays the same object.
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
            self._keeps = keeps_memory()  # reading the environment takes as long as all else that a call does here
            free = self._taken()
            found = next((each for each in free if each.numbers >= numbers), None)
            if found is not None:
                self._free.extend(each for each in free if each is not found)
                return found
            # They are all too small: the new one takes their place.
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
        """All free arenas, which are so no longer."""
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
        # The garbage collector may call this within any line of the methods above, whose thread then has the lock.
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


#: The process's.
ARENAS: Final = Arenas(1 << 29)
