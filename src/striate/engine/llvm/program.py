"""Kernels in a row on memory of their own, walked by one native call.

    on every thread
        for every step
            if this thread is one of the step's: its share of the step's items
            wait for the others, if this step or the next one has more threads than one

Threads are started once for the whole walk, and what lies between two kernels is a barrier instead of Python. A step
that is too small to be shared runs on the first thread; one small step after the other needs no barrier between.

Buffers live from the first step that names them to the last. Those that live at the same time lie side by side in one
arena, others on top of each other, so that a small network's numbers stay in the caches. The arena is lent for each
call (arenas.py), mostly the same one again: its addresses are written into the tables when it is another one, those of
the inputs and results at every call.

Source of the order in which buffers find their places, the largest first: Pisarchyk & Lee, "Efficient memory management
for deep neural net inference", 2020 (arXiv:2001.03288), section 5.2.
"""

from __future__ import annotations

import ctypes
import itertools
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from striate.engine.llvm import compile as compiler
from striate.engine.llvm import launch
from striate.engine.llvm.emit import LINE
from striate.engine.llvm.isa import Isa
from striate.engine.llvm.launch import Kernel

# The header of a program's table: OpenMP's three functions and the number of steps; then for every step four words,
# its kernel's part function, its table, its threads, and whether the others are waited for after it.
_HEADER, _ENTRY = 4, 4

_WALKER = """
define internal void @steps(ptr %table, i64 %thread, i64 %threads) nounwind {
entry:
  %barrier.place = getelementptr i64, ptr %table, i64 2
  %barrier = load ptr, ptr %barrier.place
  %count.place = getelementptr i64, ptr %table, i64 3
  %count = load i64, ptr %count.place
  br label %test
test:
  %step = phi i64 [ 0, %entry ], [ %next, %done ]
  %more = icmp slt i64 %step, %count
  br i1 %more, label %body, label %end
body:
  %scaled = mul i64 %step, 4
  %offset = add i64 %scaled, 4
  %entry.place = getelementptr i64, ptr %table, i64 %offset
  %part = load ptr, ptr %entry.place
  %own.place = getelementptr i64, ptr %entry.place, i64 1
  %own = load ptr, ptr %own.place
  %wanted.place = getelementptr i64, ptr %entry.place, i64 2
  %wanted = load i64, ptr %wanted.place
  %shared = call i64 @llvm.smin.i64(i64 %wanted, i64 %threads)
  %mine = icmp slt i64 %thread, %shared
  br i1 %mine, label %work, label %wait
work:
  call void %part(ptr %own, i64 %thread, i64 %shared)
  br label %wait
wait:
  %waits.place = getelementptr i64, ptr %entry.place, i64 3
  %waits = load i64, ptr %waits.place
  %asked = icmp ne i64 %waits, 0
  %several = icmp sgt i64 %threads, 1
  %stop = and i1 %asked, %several
  br i1 %stop, label %together, label %done
together:
  call void %barrier()
  br label %done
done:
  %next = add i64 %step, 1
  br label %test
end:
  ret void
}

declare i64 @llvm.smin.i64(i64, i64)

define void @alone(ptr %table) nounwind {
  call void @steps(ptr %table, i64 0, i64 1)
  ret void
}

define void @walk(ptr %table) nounwind {
  %which = load ptr, ptr %table
  %place = getelementptr i64, ptr %table, i64 1
  %many = load ptr, ptr %place
  %thread = call i32 %which()
  %threads = call i32 %many()
  %thread.wide = sext i32 %thread to i64
  %threads.wide = sext i32 %threads to i64
  call void @steps(ptr %table, i64 %thread.wide, i64 %threads.wide)
  ret void
}
"""


@dataclass(frozen=True, eq=False)
class Buffer:
    """So many numbers, wherever the program puts them."""

    numbers: int


@dataclass(frozen=True)
class Step:
    """A kernel with its arguments, in which a buffer stands for its address. ``name`` says what it computes."""

    name: str
    kernel: Kernel
    items: int
    threads: int
    words: Sequence[int | Buffer]


class Program:
    """Steps made ready to run, on ``threads`` threads at most; every call passes ``sources`` and ``results``."""

    def __init__(
        self, steps: Sequence[Step], sources: Sequence[Buffer], results: Sequence[Buffer], isa: Isa, threads: int
    ) -> None:
        self.steps = tuple(steps)
        passed = [*sources, *results]
        self.numbers, offsets = arranged(steps, set(passed))
        openmp = launch.openmp()
        self.threads = 1 if openmp is None else min(threads, max((step.threads for step in steps), default=1))
        flat: list[int] = []
        starts: list[int] = []
        places: dict[Buffer, list[int]] = {buffer: [] for buffer in passed}
        #: Words that hold an address in the arena, each with its distance in bytes from the arena's first number.
        self._inside: list[tuple[int, int]] = []
        for step in steps:
            starts.append(len(flat))
            flat += [0, 0, step.items]
            for word in step.words:
                if isinstance(word, int):
                    flat.append(word)
                    continue
                if word in places:
                    places[word].append(len(flat))
                else:
                    self._inside.append((len(flat), 4 * offsets[word]))
                flat.append(0)
        self._words, self._base = array("q", flat), 0
        self._passed = [places[buffer] for buffer in passed]
        own = self._words.buffer_info()[0]
        self._tables = [own + 8 * start for start in starts]
        header = [openmp.which, openmp.many, openmp.barrier] if openmp is not None else [0, 0, 0]
        entries = []
        for step, following, table in itertools.zip_longest(steps, steps[1:], self._tables):
            waits = following is not None and max(step.threads, following.threads) > 1
            entries += [step.kernel.part, table, step.threads, int(waits)]
        self._table = array("q", [*header, len(steps), *entries])
        self._place = self._table.buffer_info()[0]
        self._start = None if openmp is None else openmp.start
        self._alone, self._walk = _walker(isa)

    def __call__(self, passed: Sequence[int], arena: int, alone: bool = False) -> None:
        """Runs all steps, ``alone`` on one thread. One call at a time.

        ``passed``: the addresses of sources and results, in their order. ``arena``: that of memory for ``numbers``
        numbers, at the start of a cache line.
        """
        words = self._words
        if arena != self._base:
            for place, offset in self._inside:
                words[place] = arena + offset
            self._base = arena
        for places, address in zip(self._passed, passed, strict=True):
            for place in places:
                words[place] = address
        if not alone and self._start is not None and min(self.threads, launch.threads()) > 1:
            self._start(self._walk, self._place, self.threads, 0)
        else:
            self._alone(self._place)


def arranged(steps: Sequence[Step], elsewhere: set[Buffer]) -> tuple[int, dict[Buffer, int]]:
    """How many numbers an arena needs, and where in it every buffer lies that isn't elsewhere."""
    lives: dict[Buffer, tuple[int, int]] = {}
    for at, step in enumerate(steps):
        for word in step.words:
            if not isinstance(word, int) and word not in elsewhere:
                lives[word] = (lives.get(word, (at, at))[0], at)
    offsets: dict[Buffer, int] = {}
    total = 0
    for buffer in sorted(lives, key=lambda each: -each.numbers):
        first, last = lives[buffer]
        taken = sorted(
            (offsets[other], offsets[other] + _rounded(other.numbers))
            for other in offsets
            if lives[other][0] <= last and first <= lives[other][1]
        )
        offset = 0
        for start, stop in taken:
            if offset + _rounded(buffer.numbers) <= start:
                break
            offset = max(offset, stop)
        offsets[buffer] = offset
        total = max(total, offset + _rounded(buffer.numbers))
    return total, offsets


def _rounded(numbers: int) -> int:
    """Whole lines of the cache: no two threads write into the same line of two buffers."""
    return -(-numbers // LINE) * LINE


@cache
def _walker(isa: Isa) -> tuple[ctypes._CFunctionType, int]:
    """What walks on the calling thread, and the address of what every one of several threads walks."""
    alone, walk = compiler.link(_WALKER, isa, ("alone", "walk"))
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(alone), walk
