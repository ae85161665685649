"""Timing that can be believed on a noisy machine, and a record of where it was taken.

Contestants take turns within one process, so that whatever slows the machine slows them alike; what is reported is the
median of their times and the median of the ratios within a turn, with quartiles.
"""

from __future__ import annotations

import datetime
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Times:
    """Seconds a call of each contestant, a row a turn."""

    seconds: dict[str, list[float]]

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])

    def ratio(self, name: str, to: str) -> tuple[float, float, float]:
        """How many times as long ``to`` takes as ``name``: lower quartile, median, upper quartile over the turns."""
        ratios = [b / a for a, b in zip(self.seconds[name], self.seconds[to], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        return low, middle, high


def in_turns(
    contestants: Mapping[str, Callable[[], object]], turns: int = 15, least: float = 0.02, rest: float = 0.0
) -> Times:
    """Times every contestant once a turn, each time for at least ``least`` seconds.

    ``rest`` is a pause before each: threads of another runtime may spin for a while after their last call.
    """
    calls = {}
    for name, run in contestants.items():
        run()  # first calls allocate, choose and cache
        start = time.perf_counter()
        run()
        calls[name] = max(1, int(least / max(time.perf_counter() - start, 1e-9)))
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    order = list(contestants.items())
    for _ in range(turns):
        order.reverse()  # who comes after whom leaves its traces in the caches
        for name, run in order:
            if rest:
                time.sleep(rest)
                run()
            start = time.perf_counter()
            for _ in range(calls[name]):
                run()
            seconds[name].append((time.perf_counter() - start) / calls[name])
    return Times(seconds)


def circumstances() -> dict[str, str]:
    """Where and with what a figure was measured."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "processor": _processor(),
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()}, {torch.backends.cpu.get_cpu_capability()}"
    return platform.processor() or platform.machine()
