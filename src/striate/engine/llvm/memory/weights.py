"""Packs weights in the order in which a kernel multiplies by them.

    for every item: a block of L output channels of a group, one for each lane
        packed[0][lane] = bias[lane]
        for a, for b, for c: the terms of a sum (input channels and taps, in the kernel's order)
            packed[1 + (a * B + b) * C + c][lane] = weight[group, lane, a, b, c]          0 beyond the last channel

Strides are arguments, so flipping a kernel, selecting every other tap and swapping the channels cost nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import NamedTuple

from torch import Tensor

from striate.engine import fresh
from striate.engine.llvm.codegen import launch
from striate.engine.llvm.codegen.ir import Function, Int, Number, Pointer
from striate.engine.llvm.codegen.isa import Isa
from striate.engine.llvm.codegen.launch import Kernel, Start
from striate.engine.llvm.memory.rows import transposed_vectors

#: With fewer numbers, one thread is faster than several.
_ALONE = 1 << 14
#: The three axes of the terms of a sum, the outermost first.
_TERMS = "abc"


class Weights(NamedTuple):
    """A view of a weight: sizes and strides of (group, output, input, kernel row, kernel column)."""

    tensor: Tensor
    offset: int
    sizes: tuple[int, int, int, int, int]
    strides: tuple[int, int, int, int, int]

    @classmethod
    def of(cls, weight: Tensor, groups: int, transposed: bool = False) -> Weights:
        """The view of a weight (C_out, C_in / groups, ...); ``transposed`` swaps input and output channels."""
        if weight.dim() == 3:
            weight = weight.unsqueeze(2)
        outer, inner, rows, columns = weight.shape
        first, second, row, column = weight.stride()
        outer //= groups
        channels = ((outer, first), (inner, second))
        (out, out_stride), (into, into_stride) = channels[::-1] if transposed else channels
        sizes = (groups, out, into, rows, columns)
        return cls(weight, 0, sizes, (outer * first, out_stride, into_stride, row, column))

    def taps(self, rows: range, columns: range) -> Weights:
        """The view of some taps, in the given order."""
        group, outer, inner, row, column = self.strides
        offset = self.offset + rows.start * row + columns.start * column
        strides = (group, outer, inner, row * rows.step, column * columns.step)
        return Weights(self.tensor, offset, (*self.sizes[:3], len(rows), len(columns)), strides)


@cache
def _kernel(isa: Isa) -> Kernel:
    f = Function("pack_weights", isa)
    weight, bias, packed, biased = f.pointer("weight"), f.pointer("bias"), f.pointer("packed"), f.size("biased")
    blocks, outer, lanes = f.size("blocks"), f.size("outer"), f.size("lanes")
    group_stride, outer_stride = f.size("weight_group"), f.size("weight_outer")
    sizes, strides = [f.size(f"terms_{axis}") for axis in _TERMS], [f.size(f"weight_{axis}") for axis in _TERMS]
    block_size = (sizes[0] * sizes[1] * sizes[2] + 1) * lanes

    def put(place: Number, value: str) -> None:
        f.line(f"store float {value}, ptr {(packed + place).text}")

    def one_by_one(source: Pointer, term: Number, start: Number, here: Number) -> None:
        with f.loop(start, here) as lane:
            put(term + lane, f.scalar(source + lane * outer_stride))
        with f.loop(here, lanes) as lane:
            put(term + lane, "0.0")

    def in_squares(source: Pointer, first: Number, channels: Number, terms: Number) -> None:
        """Transposes squares of contiguous terms by channels in registers."""
        with f.loop(0, terms, f.lanes) as c, f.loop(0, channels, f.lanes) as lane:
            rows = [f.load(source + ((lane + i) * outer_stride + c)) for i in range(f.lanes)]
            for i, made in enumerate(transposed_vectors(f, rows)):
                f.store(made, packed + (first + (c + i) * lanes + lane))

    with f.loop(f.first, f.last) as item:
        group, start = item // blocks, item % blocks * lanes
        here = f.smaller(outer - start, lanes)
        base = item * block_size
        with f.loop(0, lanes) as lane:
            put(base + lane, "0.0")
        with f.when(f.less(0, biased)), f.loop(0, here) as lane:
            put(base + lane, f.scalar(bias + (group * outer + start + lane)))
        from_ = weight + (group * group_stride + start * outer_stride)
        whole = here // f.lanes * f.lanes
        side_by_side = f.same(outer_stride, 1)
        with f.loop(0, sizes[0]) as a, f.loop(0, sizes[1]) as b:
            first = base + ((a * sizes[1] + b) * sizes[2] + 1) * lanes
            source = from_ + (a * strides[0] + b * strides[1])
            # The number of terms that are copied by vectors; channels beyond whole vectors are copied one by one.
            copied = f.variable("0", "i64")
            with f.when(side_by_side):
                copied.set(str(sizes[2]))
                with f.loop(0, sizes[2]) as c, f.loop(0, whole, f.lanes) as lane:
                    f.store(f.load(source + (c * strides[2] + lane)), packed + (first + c * lanes + lane))
            with f.when(f.both(f.negation(side_by_side), f.same(strides[2], 1))):
                terms = sizes[2] // f.lanes * f.lanes
                copied.set(str(terms))
                in_squares(source, first, whole, terms)
            done = Int(f, copied.get())
            with f.loop(0, done) as c:
                one_by_one(source + c * strides[2], first + c * lanes, whole, here)
            with f.loop(done, sizes[2]) as c:
                one_by_one(source + c * strides[2], first + c * lanes, 0, here)
    return Kernel(f, isa)


@cache
def _grouped_kernel(isa: Isa) -> Kernel:
    """Packs blocks that have the channels of ``together`` small groups side by side; a work item is a block."""
    f = Function("pack_grouped_weights", isa)
    weight, bias, packed, biased = f.pointer("weight"), f.pointer("bias"), f.pointer("packed"), f.size("biased")
    groups, together, outer, lanes = f.size("groups"), f.size("together"), f.size("outer"), f.size("lanes")
    group_stride, outer_stride = f.size("weight_group"), f.size("weight_outer")
    sizes, strides = [f.size(f"terms_{axis}") for axis in _TERMS], [f.size(f"weight_{axis}") for axis in _TERMS]
    terms = sizes[0] * sizes[1] * sizes[2]
    with f.loop(f.first, f.last) as item:
        base = packed + item * (terms + 1) * lanes
        with f.loop(0, (terms + 1) * lanes) as place:
            f.put("0.0", base + place)
        first = item * together
        with f.loop(0, f.smaller(together, groups - first)) as at, f.loop(0, outer) as channel:
            group, lane = first + at, at * outer + channel
            with f.when(f.less(0, biased)):
                f.put(f.scalar(bias + (group * outer + channel)), base + lane)
            from_ = weight + (group * group_stride + channel * outer_stride)
            with f.loop(0, sizes[0]) as a, f.loop(0, sizes[1]) as b, f.loop(0, sizes[2]) as c:
                term = (a * sizes[1] + b) * sizes[2] + c + 1
                number = f.scalar(from_ + (a * strides[0] + b * strides[1] + c * strides[2]))
                f.put(number, base + (term * lanes + lane))
    return Kernel(f, isa)


@dataclass(frozen=True, slots=True)
class Packing:
    """The cached packing of weights with given sizes and strides; only the addresses are missing."""

    start: Start
    shape: tuple[int, int, int]  #: blocks, bias and terms of each, output channels of a block
    first: int  #: offset in bytes of the first number

    def fill(self, weight: Tensor, bias: Tensor | None, address: int) -> None:
        """Packs into memory of that shape at an address."""
        if bias is None:
            self.start(weight.data_ptr() + self.first, 0, address)
            return
        bias = bias.contiguous()
        self.start(weight.data_ptr() + self.first, bias.data_ptr(), address)

    def __call__(self, weight: Tensor, bias: Tensor | None, into: Tensor | None = None) -> Tensor:
        """The packed weight; ``into`` is memory to reuse."""
        packed = fresh.empty(self.shape) if into is None else into
        self.fill(weight, bias, packed.data_ptr())
        return packed


@lru_cache(maxsize=4096)
def packing(
    isa: Isa,
    offset: int,
    sizes: tuple[int, int, int, int, int],
    strides: tuple[int, int, int, int, int],
    biased: bool,
    lanes: int,
    channels_innermost: bool,
    threads: int,
    together: int = 1,
) -> Packing:
    """See :func:`pack`."""
    groups, outer, inner, rows, columns = sizes
    group_stride, outer_stride, inner_stride, row_stride, column_stride = strides
    terms, steps = (inner, rows, columns), (inner_stride, row_stride, column_stride)
    if channels_innermost:
        terms, steps = (*terms[1:], terms[0]), (*steps[1:], steps[0])
        if outer == inner == 1:
            groups, outer, outer_stride = 1, groups, group_stride
    named = {"biased": int(biased), "outer": outer, "lanes": lanes}
    named |= {"weight_group": group_stride, "weight_outer": outer_stride}
    for axis, count, step in zip(_TERMS, terms, steps, strict=True):
        named |= {f"terms_{axis}": count, f"weight_{axis}": step}
    if together > 1:
        kernel, blocks = _grouped_kernel(isa), -(-groups // together)
        named |= {"groups": groups, "together": together}
    else:
        kernel, blocks = _kernel(isa), groups * -(-outer // lanes)
        named["blocks"] = -(-outer // lanes)
    shape = (blocks, inner * rows * columns + 1, lanes)
    alone = together > 1 or math.prod(shape) < _ALONE
    start = kernel.bound(("weight", "bias", "packed"), blocks, 1 if alone else threads, **named)
    return Packing(start, shape, 4 * offset)


def pack(
    isa: Isa,
    weights: Weights,
    bias: Tensor | None,
    lanes: int,
    channels_innermost: bool,
    into: Tensor | None = None,
    together: int = 1,
) -> Tensor:
    """Packs a weight into blocks of ``lanes`` output channels, each with its biases and terms.

    Args:
        isa: the instruction set.
        weights: the weight.
        bias: one number for each output channel, or None.
        lanes: output channels of a block.
        channels_innermost: whether terms are in the order kernel row, kernel column, input channel; if groups have one
            channel each, a block then has many groups. Otherwise the order is input channel, kernel row, kernel column,
            within each group.
        into: memory to reuse, from an earlier call.
        together: a block has all channels of this many groups, and zeros up to ``lanes``.
    """
    _, *geometry = weights
    how = packing(isa, *geometry, bias is not None, lanes, channels_innermost, launch.threads(), together)
    return how(weights.tensor, bias, into)
