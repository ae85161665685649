"""Copies images between NCHW and channels last: each image is a matrix that is transposed.

    for every item: an image n, a strip of rows
        for every L columns
            for every L rows of the strip: load L vectors, transpose them in registers
            store L rows, as long as the strip is wide                              whole cache lines

A second kernel handles fewer rows (the colours of an image) or columns (the positions of the last maps) than lanes:

    for every item: an image, a part of the long rows
        for every L numbers of each: load S vectors, interleave (or deinterleave) them in registers, store S vectors

PyTorch copies between layouts number by number, at a third of the memory's speed.
"""

from __future__ import annotations

import math
from functools import cache, lru_cache
from typing import Final

import torch
from torch import Tensor

from striate.engine import fresh, layout
from striate.engine.llvm.codegen import launch
from striate.engine.llvm.codegen.ir import AHEAD, LINE, Function, Number, Pointer
from striate.engine.llvm.codegen.isa import Isa, host
from striate.engine.llvm.codegen.launch import Kernel, Start
from striate.engine.llvm.memory.rows import dealt, interleaved, transposed_vectors

_FORMATS: Final = {False: torch.contiguous_format, True: torch.channels_last}
#: The fewest numbers for which a kernel is faster than PyTorch, with few rows and with many.
_LEAST_OF_FEW, _LEAST = 1 << 14, 1 << 12
#: The prefetch distance along a row, in numbers.
_AHEAD = 64
#: Numbers of a long row in a work item.
_PART = 1 << 11


def generate(isa: Isa) -> Function:
    """The kernel of ``y[n, column, row] = x[n, row, column]``."""
    f = Function("transpose", isa)
    x, y = f.pointer("x"), f.pointer("y")
    rows, columns, strips = f.size("rows"), f.size("columns"), f.size("strips")
    strip = max(LINE, f.lanes)

    def one_by_one(source: Pointer, target: Pointer, high: Number, wide: Number) -> None:
        with f.loop(0, wide) as column, f.loop(0, high) as row:
            f.put(f.scalar(source + (row * columns + column)), target + (column * rows + row))

    with f.loop(f.first, f.last) as item:
        image, first = item // strips * (rows * columns), item % strips * strip
        here = f.smaller(rows - first, strip)
        source, target = x + (image + first * columns), y + (image + first)
        whole = columns // f.lanes * f.lanes
        full = f.same(here, strip)
        with f.when(full):
            with f.loop(0, whole, f.lanes) as column:
                for row in range(strip):
                    f.prefetch(source + (row * columns + column + _AHEAD))
                for part in range(0, strip, f.lanes):
                    loaded = [f.load(source + ((part + i) * columns + column)) for i in range(f.lanes)]
                    for i, made in enumerate(transposed_vectors(f, loaded)):
                        f.store(made, target + ((column + i) * rows + part))
            one_by_one(source + whole, target + whole * rows, strip, columns - whole)
        with f.when(f.negation(full)):
            one_by_one(source, target, here, columns)
    return f


def generate_few(isa: Isa, few: int, back: bool) -> Function:
    """The kernel of ``y[n, column, row] = x[n, row, column]`` for ``few`` rows or, with ``back``, ``few`` columns."""
    f = Function("transpose_few", isa)
    x, y = f.pointer("x"), f.pointer("y")
    many, parts = f.size("many"), f.size("parts")
    with f.loop(f.first, f.last) as item:
        image, start = item // parts * (many * few), item % parts * _PART
        apart, together = (y, x) if back else (x, y)
        apart, together = apart + image, together + image
        stop = f.smaller(start + _PART, many)
        whole = start + (stop - start) // f.lanes * f.lanes
        with f.loop(start, whole, f.lanes) as at:
            rows = [apart + (row * many + at) for row in range(few)]
            mixed = [together + (at * few + k * f.lanes) for k in range(few)]
            for place in mixed if back else rows:
                f.prefetch(place + AHEAD)
            made = (dealt if back else interleaved)(f, [f.load(place) for place in (mixed if back else rows)])
            for value, place in zip(made, rows if back else mixed, strict=True):
                f.store(value, place)
        with f.loop(whole, stop) as at:
            for row in range(few):
                one, other = apart + (row * many + at), together + (at * few + row)
                f.put(f.scalar(other if back else one), one if back else other)
    return f


@cache
def _kernel(isa: Isa) -> Kernel:
    return Kernel(generate(isa), isa)


@cache
def _few_kernel(isa: Isa, few: int, back: bool) -> Kernel:
    return Kernel(generate_few(isa, few, back), isa)


def moved(tensor: Tensor, channels_last: bool) -> Tensor | None:
    """A copy in the other layout; None if the tensor has that layout already, or if no kernel applies."""
    isa = host()
    like = tensor.dim() == 4 and tensor.dtype == torch.float32 and tensor.numel() >= _LEAST and isa is not None
    if not like or tensor.device.type != "cpu" or tensor.is_neg():
        return None
    batch, channels, *size = tensor.shape
    positions = math.prod(size)
    here, there = _FORMATS[not channels_last], _FORMATS[channels_last]
    few = min(channels, positions) < LINE
    if (few and tensor.numel() < _LEAST_OF_FEW) or not tensor.is_contiguous(memory_format=here):
        return None
    if tensor.is_contiguous(memory_format=there):
        return None
    assert isa is not None
    made = fresh.empty(tensor.shape, memory_format=there)
    rows, columns = (channels, positions) if channels_last else (positions, channels)
    _transpose(isa, batch, rows, columns, launch.threads())(tensor.data_ptr(), made.data_ptr())
    return made


@lru_cache(maxsize=4096)
def _transpose(isa: Isa, count: int, rows: int, columns: int, threads: int) -> Start:
    """Transposes ``count`` matrices, given the addresses of the source and the target."""
    if min(rows, columns) < LINE:
        few, many = sorted((rows, columns))
        parts = -(-many // _PART)
        return _few_kernel(isa, few, columns < rows).bound(("x", "y"), count * parts, threads, many=many, parts=parts)
    strips = -(-rows // max(LINE, isa.lanes))
    return _kernel(isa).bound(("x", "y"), count * strips, threads, rows=rows, columns=columns, strips=strips)


def transposed(matrix: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The transpose of a contiguous matrix, as a tensor of the given shape."""
    isa = host()
    assert isa is not None
    made = fresh.empty(shape)
    rows, columns = matrix.shape
    _transpose(isa, 1, rows, columns, launch.threads())(matrix.data_ptr(), made.data_ptr())
    return made


def laid_out(tensor: Tensor, channels_last: bool) -> Tensor:
    """:func:`striate.engine.layout.laid_out`, by a kernel if one applies."""
    if tensor.dim() == 4 and tensor.is_contiguous(memory_format=_FORMATS[channels_last]):
        return tensor
    made = None if torch._C._are_functorch_transforms_active() else moved(tensor, channels_last)
    return layout.laid_out(tensor, channels_last) if made is None else made
