"""Kernels of elementwise functions of one and two operands in channels last, and of copies between layouts.

    pairs, for every item: a block of positions
        for every position p of the block, for every vector of channels c
            y[p, c] = epilogue(a[p, c] (+, -, *) b[p // period * step + c])

With period 1 and step C, b has the same shape as a. With step 0, b has a number for each channel. With the number of
positions of an image as period and step C, b has a number for each channel of each image.

    a copy, for every item: one index (i, j) of the first two axes
        for every k, for every l
            y[i, j, k, l] = x[i * s + j * t + k * u + l * v]                   y is dense, x has any strides

    a copy of rows, for every item: a block of rows
        for every number c of the row r
            y[r * pitch + start + c] = x[r * other pitch + other start + c]
"""

from __future__ import annotations

from functools import cache

from striate.engine.llvm.codegen.ir import Function
from striate.engine.llvm.codegen.isa import Isa
from striate.engine.llvm.codegen.launch import Kernel
from striate.engine.llvm.functions.epilogue import PLAIN, Epilogue


def generate_pairs(isa: Isa, operation: str, epilogue: Epilogue) -> Function:
    """``operation`` is ``fadd``, ``fsub``, ``fmul``, ``affine``, or empty if there is only one operand.

    With ``affine``, the second operand has a factor for each channel, followed by a term for each channel.
    """
    f = Function("elementwise", isa)
    a, b, y = map(f.pointer, ("a", "b", "y"))
    channels, positions, block, period, step = map(f.size, ("channels", "positions", "block", "period", "step"))
    with f.loop(f.first, f.last) as item:
        start = item * block
        with f.loop(start, f.smaller(start + block, positions)) as position:
            line, other = position * channels, position // period * step
            with f.loop(0, channels, f.lanes) as channel:
                whole = f.less(channel + (f.lanes - 1), channels)
                for masked, condition in ((False, whole), (True, f.negation(whole))):
                    with f.when(condition):
                        mask = f.inside(channel, channels) if masked else ""
                        value = f.load(a + (line + channel), mask)
                        if operation == "affine":
                            factor, term = (f.load(b + (start + channel), mask) for start in (0, channels))
                            value = f.fma(value, factor, term)
                        elif operation:
                            value = f.arithmetic(operation, value, f.load(b + (other + channel), mask))
                        f.store(epilogue.apply(f, value, None), y + (line + channel), mask)
    return f


def generate_copy(isa: Isa) -> Function:
    """Copies a tensor of four axes; arguments have the lengths of the axes but the first, and the strides of x."""
    f = Function("copy", isa)
    x, y = map(f.pointer, ("x", "y"))
    second, third, fourth = map(f.size, ("second", "third", "fourth"))
    strides = [f.size(f"{axis}_stride") for axis in ("first", "second", "third", "fourth")]
    with f.loop(f.first, f.last) as item:
        source = x + (item // second * strides[0] + item % second * strides[1])
        target = y + item * third * fourth
        with f.loop(0, third) as k, f.loop(0, fourth) as channel:
            value = f.scalar(source + (k * strides[2] + channel * strides[3]))
            f.line(f"store float {value}, ptr {(target + (k * fourth + channel)).text}")
    return f


def generate_rows(isa: Isa) -> Function:
    """Copies rows of contiguous numbers between buffers with different row pitches."""
    f = Function("rows", isa)
    x, y = map(f.pointer, ("x", "y"))
    length, rows, block = map(f.size, ("length", "rows", "block"))
    places = [(f.size(f"{map_}_start"), f.size(f"{map_}_pitch")) for map_ in ("x", "y")]
    with f.loop(f.first, f.last) as item:
        first = item * block
        with f.loop(first, f.smaller(first + block, rows)) as row:
            source, target = (
                pointer + (row * pitch + start) for pointer, (start, pitch) in zip((x, y), places, strict=True)
            )
            with f.loop(0, length, f.lanes) as at:
                whole = f.less(at + (f.lanes - 1), length)
                for masked, condition in ((False, whole), (True, f.negation(whole))):
                    with f.when(condition):
                        mask = f.inside(at, length) if masked else ""
                        f.store(f.load(source + at, mask), target + at, mask)
    return f


@cache
def pairs(isa: Isa, operation: str = "", epilogue: Epilogue = PLAIN) -> Kernel:
    return Kernel(generate_pairs(isa, operation, epilogue), isa)


@cache
def copy(isa: Isa) -> Kernel:
    return Kernel(generate_copy(isa), isa)


@cache
def rows(isa: Isa) -> Kernel:
    return Kernel(generate_rows(isa), isa)
