"""Packs a block of rows into a thread's scratch memory, where padding is zeros and the stride of a window is 1.

    scratch[c][r][q][m] = x[n, c, top + r, m * stride + q - before]        q < stride, zero off the input

Tap t of output column o + lane is then at phase (t * dilation) % stride, position o + lane + t * dilation // stride. So
every load in the inner loops is one whole vector, for any padding, stride and width. Packing costs a load and a store
for each input; the loops load each input several times. Masking those loads instead would make them a third slower on
AVX2, and much slower on vectors without masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from striate.engine.llvm.codegen.ir import AHEAD, LINE, Function, Number, Pointer

#: The largest stride for which numbers are deinterleaved in registers.
_MOST_DEALT = 8


@dataclass(frozen=True)
class Axis:
    """A window along one axis, for which a kernel is generated; sizes are arguments. ``before`` may be negative."""

    kernel: int
    stride: int
    before: int
    dilation: int

    def span(self, outputs: int) -> int:
        """The number of input positions from the first to the last that ``outputs`` consecutive outputs see."""
        return (outputs - 1) * self.stride + (self.kernel - 1) * self.dilation + 1

    def pitch(self, outputs: int, lanes: int) -> int:
        """The length of one phase of a packed row, so that all taps of ``outputs`` outputs can load whole vectors."""
        most = -(-outputs // lanes) * lanes + (self.kernel - 1) * self.dilation // self.stride
        return -(-most // lanes) * lanes

    def place(self, tap: int, pitch: Number) -> Number:
        """The position in a packed row that output 0 sees through a tap."""
        ahead, phase = divmod(tap * self.dilation, self.stride)
        return phase * pitch + ahead

    def seers(self, phase: int) -> list[int]:
        """The outputs that see input ``place * stride + phase``, relative to ``place``; the same for every place."""
        ahead = [phase + self.before - tap * self.dilation for tap in range(self.kernel)]
        return sorted(distance // self.stride for distance in ahead if distance % self.stride == 0)


@lru_cache(maxsize=4096)
def phase(axis: Axis, number: int) -> tuple[Axis, range]:
    """The window over the outputs for inputs ``number``, ``number + stride``, and so on; its taps, the last first.

    Without taps, no output sees such inputs.
    """
    taps = [t for t in range(axis.kernel) if (number + axis.before - t * axis.dilation) % axis.stride == 0][::-1]
    if not taps:
        return Axis(1, 1, 0, 1), range(0)
    # The last tap sees the first output: at m = 0 output (number + before - t * dilation) / stride.
    first = (number + axis.before - taps[0] * axis.dilation) // axis.stride
    between = taps[0] - taps[1] if len(taps) > 1 else 1
    step = between * axis.dilation // axis.stride if len(taps) > 1 else 1
    return Axis(len(taps), 1, -first, step), range(taps[0], taps[-1] - 1, -between)


@dataclass(frozen=True)
class Rows:
    """Packed rows of all channels of a group: ``scratch + channel * channel_size + row * row_size``."""

    scratch: Pointer
    channel_size: Number
    row_size: Number


def pack(
    f: Function,
    columns: Axis,
    x: Pointer,
    channels: Number,
    x_channel: Number,
    x_row: Number,
    top: Number,
    rows: Number,
    height: Number,
    width: Number,
    scratch: Pointer,
    pitch: Number,
    fill: str = "0.0",
) -> Rows:
    """Packs ``rows`` rows from row ``top`` on of ``channels`` planes at ``x``; ``fill`` is the value of padding."""
    padding = f.splat(fill)
    row_size = pitch * columns.stride
    channel_size = rows * row_size
    with f.loop(0, channels) as channel, f.loop(0, rows) as row:
        source = top + row
        target = scratch + (channel * channel_size + row * row_size)
        there = f.both(f.less(-1, source), f.less(source, height))
        with f.when(there):
            line = x + (channel * x_channel + source * x_row)
            pack_row(f, columns.stride, columns.before, line, width, target, pitch, padding)
        with f.when(f.negation(there)), f.loop(0, row_size, f.lanes) as place:
            f.store(padding, target + place)
    return Rows(scratch, channel_size, row_size)


def pack_across(
    f: Function,
    before: int,
    x: Pointer,
    channels: Number,
    x_column: Number,
    x_row: Number,
    top: Number,
    rows: Number,
    height: Number,
    width: Number,
    scratch: Pointer,
    pitch: Number,
) -> Rows:
    """:func:`pack` from channels last, with columns ``x_column`` apart, for a stride of 1 along the width.

    The number of channels has to be a multiple of the lanes, and rows need at least as many columns as there are lanes.
    """
    channel_size = rows * pitch
    first, seen = max(0, -before), f.smaller(width, pitch - before)
    last = seen - f.lanes
    with f.loop(0, rows) as row:
        source, line = top + row, scratch + row * pitch
        there = f.both(f.less(-1, source), f.less(source, height))
        with f.when(f.negation(there)), f.loop(0, channels) as channel, f.loop(0, pitch, f.lanes) as place:
            f.store(f.zeros(), line + (channel * channel_size + place))
        with f.when(there), f.loop(0, channels, f.lanes) as group:
            here, target = x + (source * x_row + group), line + group * channel_size
            # Clear the padding first, by whole vectors.
            with f.loop(0, f.lanes) as lane:
                cleared = target + lane * channel_size
                for at in range(0, before, f.lanes):
                    f.store(f.zeros(), cleared + at)
                with f.loop((seen + before) // f.lanes * f.lanes, pitch, f.lanes) as beyond:
                    f.store(f.zeros(), cleared + beyond)
            with f.loop(first, seen, f.lanes) as next_:
                # The last vector ends at the end of the row, and may overlap the one before.
                column = f.smaller(next_, last)
                loaded = [f.load(here + (column + i) * x_column) for i in range(f.lanes)]
                for k, made in enumerate(transposed_vectors(f, loaded)):
                    f.store(made, target + (k * channel_size + (column + before)))
    return Rows(scratch, channel_size, pitch)


def pack_row(
    f: Function,
    stride: int,
    before: Number,
    line: Pointer,
    width: Number,
    target: Pointer,
    pitch: Number,
    padding: str,
) -> None:
    """Packs ``pitch`` numbers of every phase of one row of ``width`` numbers, after ``before`` numbers of padding."""
    lanes = f.lanes
    with f.loop(0, pitch, lanes) as place:
        start = place * stride - before
        _ask(f, stride, line, start)
        free = f.both(f.less(-1, start), f.less(start + (stride * lanes - 1), width))
        for masked, condition in ((False, free), (True, f.negation(free))):
            with f.when(condition):
                for phase, value in enumerate(_phases(f, stride, line, start, width if masked else None, padding)):
                    f.store(value, target + (phase * pitch + place))


def _ask(f: Function, stride: int, line: Pointer, start: Number) -> None:
    """Prefetches later inputs, because hardware prefetchers stop at the end of a page."""
    for at in range(0, stride * f.lanes, LINE):
        f.prefetch(line + (start + (at + AHEAD)))


def _phases(f: Function, stride: int, line: Pointer, start: Number, width: Number | None, padding: str) -> list[str]:
    """For each phase, a vector of every ``stride``-th number from ``start + phase`` on."""
    if stride > _MOST_DEALT:
        every = [f.positions(start + phase, stride) for phase in range(stride)]
        return [
            f.gather(line, positions, "" if width is None else f.below(positions, width), padding)
            for positions in every
        ]
    starts = [start + part * f.lanes for part in range(stride)]
    return dealt(f, [f.load(line + at, "" if width is None else f.inside(at, width), padding) for at in starts])


def dealt(f: Function, parts: list[str]) -> list[str]:
    """Deinterleaves k vectors: vector i of the result has the numbers i, i + k, i + 2k, ..."""
    if len(parts) == 1:
        return parts
    if len(parts) % 2:
        return [_picked(f, parts, range(first, len(parts) * f.lanes, len(parts))) for first in range(len(parts))]
    halves = [
        dealt(f, [f.shuffle(*pair, range(odd, 2 * f.lanes, 2)) for pair in zip(parts[::2], parts[1::2], strict=True)])
        for odd in (0, 1)
    ]
    return [each for pair in zip(*halves, strict=True) for each in pair]


def transposed_vectors(f: Function, rows: Sequence[str]) -> list[str]:
    """Transposes a square of vectors in registers, by swapping off-diagonal blocks of growing size."""
    made, step = list(rows), 1
    while step < f.lanes:
        for i in range(f.lanes):
            if i % (2 * step) < step:
                one, other = made[i], made[i + step]
                low = [k if k % (2 * step) < step else f.lanes + k - step for k in range(f.lanes)]
                high = [k + step if k % (2 * step) < step else f.lanes + k for k in range(f.lanes)]
                made[i], made[i + step] = f.shuffle(one, other, low), f.shuffle(one, other, high)
        step *= 2
    return made


def interleaved(f: Function, parts: list[str]) -> list[str]:
    """Interleaves vectors: the first number of each, then the second number of each, ..."""
    many = len(parts)
    return [
        _picked(f, parts, [at % many * f.lanes + at // many for at in range(start, start + f.lanes)])
        for start in range(0, many * f.lanes, f.lanes)
    ]


def _picked(f: Function, parts: list[str], places: Sequence[int]) -> str:
    """A vector of the numbers at these places in the concatenation of several vectors."""
    value = parts[0]
    if list(places) != list(range(f.lanes)):
        value = f.shuffle(value, value, [place % f.lanes for place in places])
    for p, part in enumerate(parts[1:], start=1):
        lanes = [f.lanes + place % f.lanes if place // f.lanes == p else k for k, place in enumerate(places)]
        if lanes != list(range(f.lanes)):
            value = f.shuffle(value, part, lanes)
    return value


def store_row(f: Function, values: list[str], place: Pointer, room: Number, rest: int | None = None) -> None:
    """Stores consecutive vectors, at most ``room`` numbers; ``rest`` of the last vector, if that is known."""
    whole = f.less(len(values) * f.lanes - 1, room)
    with f.when(whole):
        for v, value in enumerate(values):
            f.store(value, place + v * f.lanes)
    with f.when(f.negation(whole)):
        *before, last = values
        for v, value in enumerate(values if rest is None else before):
            f.store(value, place + v * f.lanes, "" if rest is not None else f.inside(v * f.lanes, room))
        if rest is not None:
            f.store_first(last, place + len(before) * f.lanes, rest)
