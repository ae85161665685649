"""Programs: sequences of kernels on an arena, run by one native call, with calls of PyTorch's operators in between.

    on every thread
        for every step
            if the step uses this thread: compute its share of the step's work items
            wait at a barrier, if this step or the next one uses more than one thread

Threads are started once for the whole walk, and a barrier instead of Python separates two kernels. A step that is too
small to be divided runs on the first thread; no barrier is needed between two such steps.

A buffer is alive from the first to the last step that uses it. Buffers that are alive at the same time have separate
places in one arena, others may overlap, so that a small network's numbers stay in the caches. Each call borrows an
arena (memory/arenas.py), usually the same one as before. The addresses of buffers are written into the kernels' tables
when the arena changes; the addresses of inputs and results are written at every call.

An operator without a kernel is a foreign step (:class:`Foreign`): a PyTorch operator, called on tensors over the
program's memory. PyTorch allocates its results, whose addresses are then written into the tables of the kernels that
follow. The kernels between two foreign steps are one walk.

Source of the placement of buffers, the largest first: Pisarchyk & Lee, "Efficient memory management for deep neural net
inference", 2020 (arXiv:2001.03288), section 5.2.
"""

from __future__ import annotations

import ctypes
import itertools
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from striate.engine import openmp
from striate.engine.llvm.codegen import launch, machine_code
from striate.engine.llvm.codegen.ir import LINE
from striate.engine.llvm.codegen.isa import Isa
from striate.engine.llvm.codegen.launch import Kernel
from striate.engine.llvm.memory.arenas import Arena

# The header of a program's table has three OpenMP functions and the number of steps. Then each step has four words: its
# kernel's part function, its table, its number of threads, and whether a barrier follows.
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
    """Memory for ``numbers`` numbers, placed by the program."""

    numbers: int


@dataclass(frozen=True)
class Step:
    """A kernel with its arguments, in which a buffer stands for its address; ``name`` describes the step."""

    name: str
    kernel: Kernel
    items: int
    threads: int
    words: Sequence[int | Buffer]


@dataclass(frozen=True)
class Operand:
    """A tensor of a foreign step: a view of a buffer, with shape, strides and first number."""

    buffer: Buffer
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    start: int = 0


@dataclass(frozen=True)
class Foreign:
    """A PyTorch operator; in its arguments, operands stand for tensors.

    ``results`` has, for each resulting tensor, its buffer with the shape and strides that later steps rely on; None for
    unused results. ``copied``: whether the results are views of an operand, so that they have to be copied.
    """

    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: tuple[Operand | None, ...]
    copied: bool = False

    @property
    def operands(self) -> list[Operand]:
        return [each for each in tree_leaves((self.args, self.kwargs)) if isinstance(each, Operand)]


class Program:
    """A runnable sequence of steps, on at most ``threads`` threads; every call passes ``sources`` and ``results``."""

    def __init__(
        self,
        steps: Sequence[Step | Foreign],
        sources: Sequence[Buffer],
        results: Sequence[Buffer],
        isa: Isa,
        threads: int,
    ) -> None:
        self.steps = tuple(steps)
        kernels = [step for step in steps if isinstance(step, Step)]
        foreign = [step for step in steps if isinstance(step, Foreign)]
        passed = [*sources, *results]
        made = [each.buffer for step in foreign for each in step.results if each is not None]
        self.numbers, self._offsets = arranged(steps, {*passed, *made})
        runtime = openmp.runtime()
        self.threads = 1 if runtime is None else min(threads, max((step.threads for step in kernels), default=1))
        flat: list[int] = []
        starts: list[int] = []
        places: dict[Buffer, list[int]] = {buffer: [] for buffer in (*passed, *made)}
        #: Words that hold an address in the arena, each with its offset in bytes.
        self._inside: list[tuple[int, int]] = []
        for step in kernels:
            starts.append(len(flat))
            flat += [0, 0, step.items]
            for word in step.words:
                if isinstance(word, int):
                    flat.append(word)
                    continue
                if word in places:
                    places[word].append(len(flat))
                else:
                    self._inside.append((len(flat), 4 * self._offsets[word]))
                flat.append(0)
        self._words, self._base = array("q", flat), 0
        self._buffers, self._places = passed, places
        #: For each result, whether a PyTorch operator allocates it.
        self.foreign_results = [buffer in made for buffer in results]
        own = self._words.buffer_info()[0]
        header = [runtime.which, runtime.many, runtime.barrier] if runtime is not None else [0, 0, 0]
        tables = iter([own + 8 * start for start in starts])
        self._header = header
        self._walks: list[array[int] | Foreign] = []
        #: For each tensor that PyTorch allocates, the last walk that uses it.
        last: dict[Buffer, int] = {}
        for is_foreign, some in itertools.groupby(steps, lambda step: isinstance(step, Foreign)):
            group = list(some)
            if not is_foreign:
                self._walks.append(self._table([each for each in group if isinstance(each, Step)], tables))
            for one in group:
                if isinstance(one, Foreign):
                    self._walks.append(one)
                    last |= {each.buffer: len(self._walks) - 1 for each in one.results if each is not None}
                last |= {each: len(self._walks) - 1 for each in named(one) if each in last}
        self._over: list[list[Buffer]] = [[] for _ in self._walks]
        for buffer, at in last.items():
            if buffer not in passed:
                self._over[at].append(buffer)
        only = self._walks[0] if len(self._walks) == 1 else None
        self._whole = None if isinstance(only, Foreign) else only
        self._start = None if runtime is None else runtime.start
        self._alone, self._walk = _walker(isa)

    def _table(self, steps: list[Step], tables: Iterator[int]) -> array[int]:
        entries = []
        for step, following in itertools.zip_longest(steps, steps[1:]):
            waits = following is not None and max(step.threads, following.threads) > 1
            entries += [step.kernel.part, next(tables), step.threads, int(waits)]
        return array("q", [*self._header, len(steps), *entries])

    def __call__(self, passed: list[Tensor | None], arena: Arena, alone: bool = False) -> None:
        """Runs all steps; with ``alone`` on one thread. Calls must not overlap.

        ``passed``: sources and results, in order. Results that PyTorch operators allocate are None, and the call fills
        them in. ``arena``: memory for ``numbers`` numbers.
        """
        words = self._words
        if arena.address != self._base:
            for place, offset in self._inside:
                words[place] = arena.address + offset
            self._base = arena.address
        for buffer, tensor in zip(self._buffers, passed, strict=True):
            if tensor is not None:
                address = tensor.data_ptr()
                for place in self._places[buffer]:
                    words[place] = address
        together = not alone and self._start is not None and min(self.threads, launch.threads()) > 1
        if self._whole is not None:
            self._run(self._whole, together)
            return
        known = {buffer: each for buffer, each in zip(self._buffers, passed, strict=True) if each is not None}
        for walk, over in zip(self._walks, self._over, strict=True):
            if isinstance(walk, Foreign):
                self._call(walk, known, arena)
            else:
                self._run(walk, together)
            for buffer in over:
                del known[buffer]
        passed[:] = [known[buffer] for buffer in self._buffers]

    def _run(self, table: array[int], together: bool) -> None:
        if together and self._start is not None:
            self._start(self._walk, table.buffer_info()[0], self.threads, 0)
        else:
            self._alone(table.buffer_info()[0])

    def _call(self, step: Foreign, known: dict[Buffer, Tensor], arena: Arena) -> None:
        """Calls a PyTorch operator, and adds its results to ``known``."""

        def tensor(operand: Operand) -> Tensor:
            held = known.get(operand.buffer)
            if held is not None:
                start = held.storage_offset() + operand.start
                return held.as_strided(operand.shape, operand.stride, start)
            start = (arena.address - arena.memory.data_ptr()) // 4 + self._offsets[operand.buffer] + operand.start
            return arena.memory.as_strided(operand.shape, operand.stride, start)

        args, kwargs = tree_map_only(Operand, tensor, (step.args, step.kwargs))
        made = [each for each in tree_leaves(step.function(*args, **kwargs)) if isinstance(each, Tensor)]
        for result, wanted in zip(made, step.results, strict=True):
            if wanted is None:
                continue
            if step.copied or result.stride() != wanted.stride:
                # PyTorch may choose any layout for its results, but later steps rely on one.
                result = torch.empty_strided(wanted.shape, wanted.stride, dtype=result.dtype).copy_(result)
            known[wanted.buffer] = result
            for place in self._places[wanted.buffer]:
                self._words[place] = result.data_ptr()


def named(step: Step | Foreign) -> list[Buffer]:
    """The buffers that a step reads, and for a kernel those that it writes."""
    if isinstance(step, Foreign):
        return [each.buffer for each in step.operands]
    return [word for word in step.words if isinstance(word, Buffer)]


def arranged(steps: Sequence[Step | Foreign], elsewhere: set[Buffer]) -> tuple[int, dict[Buffer, int]]:
    """The size of the arena in numbers, and the offset in it of every buffer that isn't ``elsewhere``."""
    lives: dict[Buffer, tuple[int, int]] = {}
    for at, step in enumerate(steps):
        for buffer in named(step):
            if buffer not in elsewhere:
                lives[buffer] = (lives.get(buffer, (at, at))[0], at)
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
    """Rounds up to whole cache lines, so that threads writing to different buffers never share a line."""
    return -(-numbers // LINE) * LINE


@cache
def _walker(isa: Isa) -> tuple[ctypes._CFunctionType, int]:
    """The function that runs a program on the calling thread, and the address of the one for several threads."""
    alone, walk = machine_code.link(_WALKER, isa, ("alone", "walk"))
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(alone), walk
