"""Measures which implementation of a problem is fastest on this machine, and stores the times on disk.

Times belong to a problem's windows and channels, its sizes (rounded to three significant bits, so that varying image
sizes don't lead to endless measuring), the pass, dtype, device, layout of images and number of threads. When a process
first meets a problem, all candidates compute it in turns on the operands of that call, for a bounded time. The medians
are appended to a file in :func:`striate.engine.cache.folder`, one JSON object per line, and later processes read them.
The name of the file contains a digest of the processor and the versions of PyTorch and striate.

Measuring a deep network takes up to a minute. So a process measures for no more than a quarter of the time that has
passed since it met the first problem, and a first call measures hardly anything. PyTorch's kernels compute the problems
that aren't measured yet (:func:`resume`).

Read from the environment when striate is imported:

    STRIATE_TUNE=0             never measure: each backend's own rule chooses (``Backend.recommends``)
    STRIATE_TUNE=1             measure each problem when it is first met, without a time limit
    STRIATE_DETERMINISTIC=1    never measure, so that the order of sums doesn't depend on a clock
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
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from striate.engine import cache as kept
from striate.engine import compilation
from striate.geometry import AnyProblem

#: The time in seconds for measuring one candidate, unless a single run takes longer.
BUDGET = 0.02
#: Runs of this many seconds or more are timed only once, because disturbances are shorter.
LONG = 0.1
#: The least and the largest number of runs of each candidate.
RUNS = 3, 15
#: A candidate replaces the default only if it is faster by this factor; less may be noise.
MARGIN = 1.1
#: The seconds that it has to save in addition: the cost of Python dispatch, which PyTorch's kernels don't have.
LEAST = 5e-6


#: While so many kernels wait to be compiled, no more problems are prepared for measuring.
_BACKLOG = 4
#: Seconds that a process may spend on measuring at any time, and the share of the elapsed time that it may in addition.
_ALLOWANCE: float = math.inf if os.environ.get("STRIATE_TUNE") == "1" else 0.0
_SHARE = 0.25


@dataclass(frozen=True)
class TimingKey:
    """The key of measured times: everything that they depend on."""

    problem: AnyProblem
    open_: int
    dtype: torch.dtype
    device: str
    channels_last: bool
    threads: int

    def line(self) -> str:
        """The key as a line in the file, with rounded sizes."""
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
#: A counter that is part of the key of cached choices; raising it makes them invalid.
generation = 0
_enabled = os.environ.get("STRIATE_TUNE") != "0" and os.environ.get("STRIATE_DETERMINISTIC") != "1"


def measuring() -> bool:
    """Whether new problems are measured."""
    return _enabled and not _fixed


@contextlib.contextmanager
def fixed() -> Iterator[None]:
    """A context in which nothing is measured and the rule chooses, so that runs are reproducible."""
    global _fixed, generation
    _fixed += 1
    generation += 1
    try:
        yield
    finally:
        _fixed -= 1
        generation += 1


def known(key: TimingKey) -> dict[str, float] | None:
    """Seconds per run of every candidate if they have been measured on this machine, else None."""
    return _table().get(key.line())


def measure(key: TimingKey, candidates: dict[str, Callable[[], object]]) -> dict[str, float] | None:
    """Seconds per run of every candidate, measured now and stored; None if there is no time to measure."""
    global put_off, _spent, _begun
    # Two threads that measure at the same time would slow each other down.
    with _lock:
        found = known(key)
        if found is not None and found.keys() >= candidates.keys():
            return found
        start = time.perf_counter()
        _begun = _begun or start
        ready = patient() or (_affordable() and compilation.backlog < _BACKLOG and _compiled(candidates.values()))
        if not ready:
            put_off = True
            _spent += time.perf_counter() - start
            return None
        times = (found or {}) | in_turns(candidates)
        _spent += time.perf_counter() - start
        _table()[key.line()] = times
        kept.append(_name(), json.dumps({"question": key.line(), "seconds": times}))
        return times


def _compiled(runs: Iterable[Callable[[], object]]) -> bool:
    """Whether all kernels of these runs are compiled; if not, they are compiled in the background."""
    done = True
    with compilation.without_waiting():
        for run in runs:
            try:
                run()
            except compilation.NotCompiledError:
                done = False
    return done


#: Whether a problem was met without time to measure it; the time when measuring began, and the seconds spent on it.
put_off = False
_begun, _spent = 0.0, 0.0


def patient() -> bool:
    """Whether calls wait until everything that they meet is compiled and measured (``STRIATE_TUNE=1``)."""
    return math.isinf(_ALLOWANCE)


def _affordable() -> bool:
    return _spent < _ALLOWANCE + _SHARE * (time.perf_counter() - _begun)


def resume() -> None:
    """Invalidates all choices if some couldn't be measured and there is time now; measured problems cost a look-up."""
    global put_off, generation
    if put_off and _affordable():
        put_off = False
        generation += 1


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    """A context in which every new problem is measured at once, also those that had been postponed."""
    global _ALLOWANCE, _begun, _spent
    allowance, _ALLOWANCE = _ALLOWANCE, math.inf
    resume()
    try:
        yield
    finally:
        _ALLOWANCE, _begun, _spent = allowance, 0.0, 0.0


def fastest(times: dict[str, float], candidates: list[str]) -> str:
    """The fastest candidate; a later one wins only if it is faster by more than noise."""
    best = candidates[0]
    for name in candidates[1:]:
        if times[name] * MARGIN + LEAST < times[best]:
            best = name
    return best


def in_turns(candidates: dict[str, Callable[[], object]], budget: float = BUDGET) -> dict[str, float]:
    """Median seconds of each candidate; candidates run in turns, so a disturbance slows them alike.

    Each candidate takes about ``budget`` seconds; if a single run takes long, each is timed once.
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
    # Repeat short runs within a turn; otherwise the clock's resolution and cold caches would distort the time.
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
    """Clears the times in memory; the file stays. For tests, and if the cache folder has moved."""
    global _answers, generation
    _answers = None
    generation += 1


def _table() -> dict[str, dict[str, float]]:
    global _answers
    with _lock:
        if _answers is None:
            _answers = {}
            for line in (kept.read(_name()) or b"").decode(errors="replace").splitlines():
                # Skip lines that are incomplete (a full disk) or edited.
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
