"""Pooling on planes: which kernel, over which items, on which memory. See contraction.py."""

from __future__ import annotations

from functools import cache, lru_cache

import torch
from torch import Tensor

from striate.engine.llvm import launch, pooling
from striate.engine.llvm.contraction import axes, planes, the_isa
from striate.engine.llvm.isa import Isa
from striate.engine.llvm.launch import Kernel
from striate.engine.llvm.packing import Axis
from striate.geometry import PoolShape, Window

#: Numbers that a block's packed rows may take: half of a first-level cache of 32 KiB.
_BLOCK = 1 << 12


@cache
def _maximum_kernel(isa: Isa, rows: Axis, columns: Axis, index: str) -> Kernel:
    return Kernel(pooling.generate_maximum(isa, rows, columns, index), isa)


@cache
def _average_kernel(isa: Isa, rows: Axis, columns: Axis) -> Kernel:
    return Kernel(pooling.generate_average(isa, rows, columns), isa)


@cache
def _maximum_grad_kernel(isa: Isa, index: str) -> Kernel:
    return Kernel(pooling.generate_maximum_grad(isa, index), isa)


@cache
def _average_grad_kernel(isa: Isa, rows: Axis, columns: Axis) -> Kernel:
    return Kernel(pooling.generate_average_grad(isa, rows, columns), isa)


def _padded(numbers: list[int], dtype: torch.dtype) -> Tensor:
    # Whole vectors are read, of which the lanes beyond the last output are dropped.
    return torch.tensor(numbers + [1] * 16, dtype=dtype)


@lru_cache(maxsize=1024)
def _first_positions(window: Window, size: int, outputs: int) -> Tensor:
    """For each output the position of its first tap on the input."""
    first = [window.position(output, window.taps_inside(output, size)[0]) for output in range(outputs)]
    return _padded(first, torch.int32)


@lru_cache(maxsize=1024)
def _cells(shape: PoolShape) -> tuple[Tensor, Tensor]:
    """For each row and each column the number that an average divides by is the product of."""
    outputs = (1, *shape.output_size)[-2:]
    counts = [list(axis) for axis in shape.divisors]
    if shape.divisor is not None:
        counts = [[1] * length for length in shape.output_size]
        counts[-1] = [shape.divisor] * outputs[1]
    if shape.dims == 1:
        counts = [[1], *counts]
    rows, columns = (_padded(axis, torch.float32) for axis in counts)
    return rows, columns


def _blocks(x: Tensor, rows: Axis, columns: Axis, outputs: tuple[int, ...], lanes: int) -> tuple[int, list[int]]:
    """The number of items, and the kernel's words about blocks."""
    pitch = columns.pitch(outputs[1], lanes)
    line = pitch * columns.stride
    block = max(1, min(outputs[0], _BLOCK // (line * rows.stride)))
    blocks, deep = -(-outputs[0] // block), rows.span(block)
    return x.shape[0] * x.shape[1] * blocks, [block, blocks, deep, pitch, deep * line]


def maximum(shape: PoolShape, input: Tensor) -> tuple[Tensor, Tensor]:
    isa, x = the_isa(), planes(input)
    rows, columns = axes(shape)
    outputs = (1, *shape.output_size)[-2:]
    compact = torch.int16 if x.shape[2] * x.shape[3] <= 1 << 15 else torch.int32
    kernel = _maximum_kernel(isa, rows, columns, "i16" if compact is torch.int16 else "i32")
    first = [
        _first_positions(window.resolve(size), size, length)
        for window, size, length in zip(shape.windows, shape.size, shape.output_size, strict=True)
    ]
    if shape.dims == 1:
        first = [_padded([0], torch.int32), *first]
    items, blocks = _blocks(x, rows, columns, outputs, isa.lanes)
    threads = min(launch.threads(), items)
    values, positions = torch.empty(shape.output_shape), torch.empty(shape.output_shape, dtype=compact)
    scratch = torch.empty(threads, blocks[-1])
    pointers = [tensor.data_ptr() for tensor in (x, scratch, values, positions, *first)]
    kernel(items, [*pointers, shape.channels, *x.shape[2:], *outputs, *x.stride()[:3], *blocks], threads)
    return values, positions


def average(shape: PoolShape, input: Tensor) -> Tensor:
    isa, x = the_isa(), planes(input)
    rows, columns = axes(shape)
    outputs = (1, *shape.output_size)[-2:]
    kernel = _average_kernel(isa, rows, columns)
    cells = _cells(shape)
    items, blocks = _blocks(x, rows, columns, outputs, isa.lanes)
    threads = min(launch.threads(), items)
    values = torch.empty(shape.output_shape)
    scratch = torch.empty(threads, blocks[-1])
    pointers = [tensor.data_ptr() for tensor in (x, scratch, values, *cells)]
    kernel(items, [*pointers, shape.channels, *x.shape[2:], *outputs, *x.stride()[:3], *blocks], threads)
    return values


def maximum_grad(shape: PoolShape, indices: Tensor, grad_output: Tensor) -> Tensor:
    g, positions = grad_output.contiguous(), indices.contiguous()
    index = {torch.int16: "i16", torch.int32: "i32", torch.int64: "i64"}.get(positions.dtype)
    if index is None:
        positions, index = positions.to(torch.int64), "i64"
    kernel = _maximum_grad_kernel(the_isa(), index)
    grad = torch.empty(shape.input_shape)
    size, outputs = torch.Size(shape.size).numel(), torch.Size(shape.output_size).numel()
    words = [g.data_ptr(), positions.data_ptr(), grad.data_ptr(), size, outputs]
    kernel(shape.batch * shape.channels, words, launch.threads())
    return grad


def average_grad(shape: PoolShape, grad_output: Tensor) -> Tensor:
    g = grad_output.contiguous()
    kernel = _average_grad_kernel(the_isa(), *axes(shape))
    cells = _cells(shape)
    grad = torch.empty(shape.input_shape)
    pointers = [tensor.data_ptr() for tensor in (g, grad, *cells)]
    sizes = [*(1, *shape.size)[-2:], *(1, *shape.output_size)[-2:]]
    kernel(shape.batch * shape.channels, [*pointers, *sizes], launch.threads())
    return grad
