"""Times a problem with each backend on this machine, and compares the times with the roofline.

The roofline (Williams, Waterman & Patterson, "Roofline: an insightful visual performance model", CACM 52(4), 2009): a
pass can't be faster than its operations at the processor's peak, nor than moving its operands and result at the
bandwidth of the memory. Both limits are measured here, on the current number of threads.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor

from striate.engine import tuning
from striate.engine.backends import Backend, Pass, table
from striate.engine.layout import laid_out
from striate.errors import OperandError
from striate.geometry import ConvShape, PoolShape, Problem, parse


@dataclass(frozen=True)
class Roofline:
    """The measured limits of a machine on a number of threads: floating-point operations and bytes per second."""

    flops: float
    bandwidth: float
    threads: int = 1

    @property
    def ridge(self) -> float:
        """The arithmetic intensity, in operations per byte, below which memory is the limit."""
        return self.flops / self.bandwidth

    def seconds(self, flops: float, bytes_: float) -> float:
        """The least time for this many operations and bytes."""
        return max(flops / self.flops, bytes_ / self.bandwidth)


@dataclass(frozen=True)
class PassTiming:
    """One pass of a problem: median seconds of the backends that accept it, and why the others refuse."""

    open_: Pass
    flops: int  #: of the definition, without multiplications by padding; a comparison counts as one
    bytes_: int  #: operands read once, the result written once
    seconds: dict[str, float]
    refusals: dict[str, str]


@dataclass(frozen=True)
class Timing:
    """All passes of a problem on this machine."""

    problem: Problem
    dtype: torch.dtype
    channels_last: bool
    roofline: Roofline
    passes: tuple[PassTiming, ...]

    def share(self, pass_: PassTiming, name: str) -> float:
        """The share of the roofline's speed that a backend reaches, 1 at the roofline; see :meth:`above` for more."""
        return self.roofline.seconds(pass_.flops, pass_.bytes_) / pass_.seconds[name]

    def above(self, pass_: PassTiming, name: str) -> str:
        """Why a backend is faster than the roofline, if it is by half a percent or more; otherwise ""."""
        if round(100 * self.share(pass_, name)) <= 100:
            return ""
        if pass_.bytes_ / self.roofline.bandwidth >= pass_.flops / self.roofline.flops:
            cache, moved = last_level_cache(), pass_.bytes_
            if moved <= cache:
                held = f"operands and result, {_megabytes(moved)}, stay in the processor's cache of {_megabytes(cache)}"
                return f"{held}, which is faster than memory"
            if moved <= 4 * cache:
                held = f"of operands and result, {_megabytes(moved)}, a part stays in the processor's cache"
                return f"{held} of {_megabytes(cache)}, which is faster than memory"
            return "memory was faster than in the copy that measured it, which writes as much as it reads"
        if name in table() and not table()[name].local:
            return "takes fewer multiplications than the definition, by which operations are counted"
        if isinstance(self.problem, PoolShape):
            return "takes fewer operations than the definition, by which they are counted: one axis after the other"
        if self.dtype.itemsize < 4:
            return f"the peak was measured in float32, and the processor computes faster in {_word(self.dtype)}"
        return "the processor computed faster than while its peak was measured, in a product of matrices of 1024x1024"

    def to_dict(self) -> dict[str, object]:
        """For JSON; times in seconds, rates in operations and bytes a second."""
        return {
            "problem": str(self.problem),
            "dtype": _word(self.dtype),
            "layout": "channels_last" if self.channels_last else "contiguous",
            "threads": self.roofline.threads,
            "peak_flops": self.roofline.flops,
            "bandwidth": self.roofline.bandwidth,
            "passes": {
                each.open_.name.lower(): {
                    "flops": each.flops,
                    "bytes": each.bytes_,
                    "seconds": each.seconds,
                    "share_of_roofline": {name: self.share(each, name) for name in each.seconds},
                    "above_roofline": {name: why for name in each.seconds if (why := self.above(each, name))},
                    "refusals": each.refusals,
                }
                for each in self.passes
            },
        }


def time_problem(problem: Problem | str, dtype: torch.dtype = torch.float32, channels_last: bool = False) -> Timing:
    """Times every pass of a problem on the CPU with every backend that competes for it, on random operands.

    Raises:
        GeometryError: a line that isn't a problem's.
        OperandError: a dtype that isn't floating-point.

    >>> timing = time_problem("conv1d 1x1x100 1x1x3")
    >>> [each.open_.name for each in timing.passes]
    ['OUTPUT', 'INPUT_GRAD', 'WEIGHT_GRAD']
    """
    known = parse(problem) if isinstance(problem, str) else problem
    if not dtype.is_floating_point:
        raise OperandError("time_problem", f"got {dtype}", "needed a floating-point dtype")
    passes = []
    for open_, runs in _runs(known, dtype, channels_last):
        refusals: dict[str, str] = {}
        candidates: dict[str, Callable[[], object]] = {}
        for name, backend in table().items():
            refusal = backend.refusal(known, open_, dtype, "cpu")
            if refusal is not None:
                refusals[name] = refusal
            elif backend.competes:
                candidates[name] = runs(backend)
        seconds = tuning.in_turns(candidates)
        passes.append(PassTiming(open_, flops(known), moved(known, open_) * dtype.itemsize, seconds, refusals))
    return Timing(known, dtype, channels_last, roofline(torch.get_num_threads()), tuple(passes))


_Runs = Callable[[Backend], Callable[[], object]]


def _runs(problem: Problem, dtype: torch.dtype, channels_last: bool) -> list[tuple[Pass, _Runs]]:
    """For each pass, a function that prepares a run with a backend."""

    def image(shape: tuple[int, ...]) -> Tensor:
        return laid_out(torch.randn(shape, dtype=dtype), channels_last)

    x, g = image(problem.input_shape), image(problem.output_shape)
    if isinstance(problem, ConvShape):
        shape, w = problem, torch.randn(problem.weight_shape, dtype=dtype)
        return [
            (open_, partial(_contraction, shape, open_, first, second, channels_last))
            for open_, first, second in (
                (Pass.OUTPUT, x, w),
                (Pass.INPUT_GRAD, w, g),
                (Pass.WEIGHT_GRAD, x, g),
            )
        ]
    pool: PoolShape = problem
    if pool.kind == "avg":
        return [
            (Pass.OUTPUT, lambda backend: partial(backend.average, pool, Pass.OUTPUT, x, channels_last)),
            (Pass.INPUT_GRAD, lambda backend: partial(backend.average, pool, Pass.INPUT_GRAD, g, channels_last)),
        ]
    indices = table()["aten"].maximum(pool, x)[1]
    return [
        (Pass.OUTPUT, lambda backend: partial(backend.largest, pool, x)),
        (Pass.POSITIONS, lambda backend: partial(backend.maximum, pool, x)),
        (Pass.INPUT_GRAD, lambda backend: partial(backend.maximum_grad, pool, indices, g, channels_last)),
    ]


def _contraction(
    shape: ConvShape, open_: Pass, first: Tensor, second: Tensor, channels_last: bool, backend: Backend
) -> Callable[[], Tensor]:
    return partial(backend.ready(shape, open_, first, second, None, channels_last), first, second, None)


def flops(problem: Problem) -> int:
    """Operations of one pass by its definition, without those on padding; a comparison counts as one."""
    if isinstance(problem, ConvShape):
        return 2 * problem.in_bounds_macs
    return torch.Size(problem.output_shape).numel() * torch.Size(problem.kernel).numel()


def moved(problem: Problem, open_: Pass) -> int:
    """Numbers that a pass reads or writes: input, output, weight; for POSITIONS and the gradient of max pooling also
    the positions.
    """
    total = torch.Size(problem.input_shape).numel() + torch.Size(problem.output_shape).numel()
    if isinstance(problem, ConvShape):
        return total + torch.Size(problem.weight_shape).numel()
    positions = problem.kind == "max" and open_ is not Pass.OUTPUT
    return total + (torch.Size(problem.output_shape).numel() if positions else 0)


@cache
def last_level_cache() -> int:
    """Bytes of the processor's largest cache as Linux reports them; on other systems 8 MiB."""
    sizes = []
    for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        with suppress(OSError, ValueError):
            sizes.append(int(file.read_text().strip().removesuffix("K")) << 10)
    return max(sizes, default=1 << 23)


def _megabytes(bytes_: int) -> str:
    return f"{bytes_ / 1e6:.3g} MB"


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@cache
def roofline(threads: int) -> Roofline:
    """Measures the machine's limits on this many threads, once per process; takes about half a second.

    The peak is the speed of a large float32 matrix product. The bandwidth is that of a copy far larger than the caches,
    and counts the bytes read and the bytes written.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        a, b, c = (torch.randn(1024, 1024) for _ in range(3))
        product = _quickest(lambda: torch.mm(a, b, out=c))
        source, target = torch.ones(1 << 25), torch.empty(1 << 25)
        copy = _quickest(lambda: target.copy_(source))
    finally:
        torch.set_num_threads(before)
    return Roofline(2 * 1024**3 / product, 2 * source.numel() * source.element_size() / copy, threads)


def _quickest(run: Callable[[], object], times: int = 8) -> float:
    run()
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    # A limit is what an undisturbed machine reaches, so use the faster half of the runs.
    return statistics.median(sorted(taken)[: times // 2])
