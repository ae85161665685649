"""Measured choice: of the backends that accept a problem the fastest here, measured once and kept on disk.

What counts as one problem: its windows and channels, its sizes (about: three significant bits, so that images of every
size don't mean measuring for ever), the pass, dtype, device, the layout of images and the number of threads. The first
time it is met, every candidate computes it in turns on the very operands of the call, for a bounded time; the medians
go into a file of lines in :func:`striate.engine.cache.folder`, one JSON object each, and later processes read them
there. A file belongs to one processor, one PyTorch and one striate, which its name says.

Measuring a deep network takes up to a minute, so a process spends a quarter of a second on it, which a first call takes
longer, and then no more than a quarter of the time that goes by. What that leaves unmeasured PyTorch's kernels compute,
until there is time (:func:`resume`).

Read from the environment when striate is imported:

    STRIATE_TUNE=0             never measure: each backend's own rule chooses (``Backend.recommends``)
    STRIATE_TUNE=1             measure each problem when it is met first, however long that takes
    STRIATE_DETERMINISTIC=1    the same, so that no clock decides how sums are ordered
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from striate.engine import cache as kept
from striate.geometry import AnyProblem

#: Seconds that one candidate may be measured for, unless a single run takes longer.
BUDGET = 0.02
#: Seconds of a run from which on its time is taken once: the machine's hiccups are shorter.
LONG = 0.1
#: Runs of each candidate, at least and at most.
RUNS = 3, 15
#: A challenger has to be so much faster than the one asked first: below, noise would choose.
MARGIN = 1.1
#: Seconds that it also has to save: what its way through Python costs a model that could have been left to PyTorch.
LEAST = 5e-6


#: Seconds that a process measures for at once, and the share of the time after that.
_ALLOWANCE: float = math.inf if os.environ.get("STRIATE_TUNE") == "1" else 0.25
_SHARE = 0.25


@dataclass(frozen=True)
class Question:
    """All that a measured time depends on."""

    problem: AnyProblem
    open_: int
    dtype: torch.dtype
    device: str
    channels_last: bool
    threads: int

    def line(self) -> str:
        """The question as a line that another process asks it by."""
        name, shape, *rest = str(self.problem).split()
        batch, channels, *size = map(int, shape.split("x"))
        about = "x".join(map(str, (rounded(batch), channels, *map(rounded, size))))
        layout = "channels_last" if self.channels_last else "contiguous"
        kind = f"{str(self.dtype).removeprefix('torch.')} {layout} on {self.device}"
        return " ".join([name, about, *rest, f"| pass {self.open_} | {kind} | threads {self.threads}"])


def rounded(number: int) -> int:
    """The number rounded up to three significant bits.

    >>> [rounded(n) for n in (7, 9, 28, 57, 100, 224, 231)]
    [7, 10, 28, 64, 112, 224, 256]
    """
    step: int = 1 << max(number.bit_length() - 3, 0)
    return -(-number // step) * step


_answers: dict[str, dict[str, float]] | None = None
_lock = threading.RLock()
_fixed = 0
#: Counts what may change a choice, so that choices made before don't hold after.
generation = 0
_enabled = os.environ.get("STRIATE_TUNE") != "0" and os.environ.get("STRIATE_DETERMINISTIC") != "1"


def measuring() -> bool:
    """Whether problems that are met for the first time are measured."""
    return _enabled and not _fixed


@contextlib.contextmanager
def fixed() -> Iterator[None]:
    """While entered nothing is measured and the rule chooses, so that two runs compute the same."""
    global _fixed, generation
    _fixed += 1
    generation += 1
    try:
        yield
    finally:
        _fixed -= 1
        generation += 1


def known(question: Question) -> dict[str, float] | None:
    """Seconds a run of every candidate, if somebody has measured them on this machine."""
    return _table().get(question.line())


def measure(question: Question, candidates: dict[str, Callable[[], object]]) -> dict[str, float] | None:
    """Seconds a run of every candidate, measured now and kept; None where there is no time to measure."""
    global put_off, _spent, _begun
    # Two threads measuring would measure each other.
    with _lock:
        found = known(question)
        if found is not None and found.keys() >= candidates.keys():
            return found
        start = time.perf_counter()
        _begun = _begun or start
        if not _affordable():
            put_off = True
            return None
        times = (found or {}) | in_turns(candidates)
        _spent += time.perf_counter() - start
        _table()[question.line()] = times
        kept.append(_name(), json.dumps({"question": question.line(), "seconds": times}))
        return times


#: Whether some problem was met that there was no time to measure; when measuring began, and seconds spent on it.
put_off = False
_begun, _spent = 0.0, 0.0


def _affordable() -> bool:
    return _spent < _ALLOWANCE + _SHARE * (time.perf_counter() - _begun)


def resume() -> None:
    """Has all choices made again if some were put off and there is time now; those that are known cost a look-up."""
    global put_off, generation
    if put_off and _affordable():
        put_off = False
        generation += 1


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    """While entered every problem is measured when it is met, and those that were put off are met again."""
    global _ALLOWANCE, _begun, _spent
    allowance, _ALLOWANCE = _ALLOWANCE, math.inf
    resume()
    try:
        yield
    finally:
        _ALLOWANCE, _begun, _spent = allowance, 0.0, 0.0


def fastest(times: dict[str, float], candidates: list[str]) -> str:
    """The quickest of the candidates; an earlier one unless a later one is quicker beyond noise."""
    best = candidates[0]
    for name in candidates[1:]:
        if times[name] * MARGIN + LEAST < times[best]:
            best = name
    return best


def in_turns(candidates: dict[str, Callable[[], object]], budget: float = BUDGET) -> dict[str, float]:
    """Median seconds of each candidate, all taking turns, so that what slows the machine slows them alike.

    Each takes about ``budget`` seconds; where a single run takes long, one of each has to do.
    """
    once: dict[str, float] = {}
    for name, run in candidates.items():
        run()  # compiles, packs, allocates
        start = time.perf_counter()
        run()
        once[name] = time.perf_counter() - start
    longest = max(once.values(), default=0.0)
    if longest > LONG:
        return once
    least, most = RUNS
    turns = max(least, min(most, int(budget / max(longest, 1e-6))))
    # Short runs are repeated within a turn: a clock's tick and a cold cache would weigh too much.
    each = max(1, int(budget / most / max(longest, 1e-6)))
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(turns):
        for name, run in candidates.items():
            start = time.perf_counter()
            for _ in range(each):
                run()
            seconds[name].append((time.perf_counter() - start) / each)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def forget() -> None:
    """Forgets what this process has read or measured; the file stays. For tests, and for a moved cache folder."""
    global _answers, generation
    _answers = None
    generation += 1


def _table() -> dict[str, dict[str, float]]:
    global _answers
    with _lock:
        if _answers is None:
            _answers = {}
            for line in (kept.read(_name()) or b"").decode(errors="replace").splitlines():
                # A line cut off by a full disk, or by somebody's editor, is as good as none.
                with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
                    said = json.loads(line)
                    times = {str(name): float(seconds) for name, seconds in said["seconds"].items()}
                    if times and all(seconds > 0 for seconds in times.values()):
                        _answers[str(said["question"])] = times
        return _answers


@cache
def _name() -> str:
    from striate import __version__
    from striate.engine.llvm.codegen.isa import host

    isa = host()
    told = [__version__, str(torch.__version__), platform.machine(), _processor(), isa.name if isa else ""]
    return f"choices-{hashlib.sha256(' '.join(told).encode()).hexdigest()[:16]}.jsonl"


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return f"{line} {torch.backends.cpu.get_cpu_capability()}"
    return platform.processor()
