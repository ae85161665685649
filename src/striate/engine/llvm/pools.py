"""Pooling on planes: which kernel, over which items, on which memory. See sums.py."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from striate.engine.llvm import interleaved_pooling, launch, pooling
from striate.engine.llvm.emit import Function
from striate.engine.llvm.epilogue import PLAIN, Epilogue
from striate.engine.llvm.isa import Isa, the_isa
from striate.engine.llvm.launch import Kernel
from striate.engine.llvm.packing import Axis
from striate.engine.llvm.views import axes, planes
from striate.geometry import PoolShape, Window

#: Numbers that a block's packed rows may take: half of a first-level cache of 32 KiB.
_BLOCK = 1 << 12


@cache
def _maximum_kernel(isa: Isa, rows: Axis, columns: Axis, index: str, activation: str) -> Kernel:
    return Kernel(pooling.generate_maximum(isa, rows, columns, index, activation), isa)


@cache
def _average_kernel(isa: Isa, rows: Axis, columns: Axis) -> Kernel:
    return Kernel(pooling.generate_average(isa, rows, columns), isa)


@cache
def _maximum_grad_kernel(isa: Isa, index: str) -> Kernel:
    return Kernel(pooling.generate_maximum_grad(isa, index), isa)


@cache
def _average_grad_kernel(isa: Isa, rows: Axis, columns: Axis) -> Kernel:
    return Kernel(pooling.generate_average_grad(isa, rows, columns), isa)


@cache
def _interleaved_kernel(isa: Isa, name: str, *index: str) -> Kernel:
    generators: dict[str, Callable[..., Function]] = {
        "maximum": interleaved_pooling.generate_maximum,
        "maximum_grad": interleaved_pooling.generate_maximum_grad,
        "average": interleaved_pooling.generate_average,
        "average_grad": interleaved_pooling.generate_average_grad,
    }
    return Kernel(generators[name](isa, *index), isa)


@cache
def _largest_kernel(isa: Isa, rows: Axis, columns: Axis, epilogue: Epilogue, rest: int) -> Kernel:
    return Kernel(interleaved_pooling.generate_largest(isa, rows, columns, epilogue, rest), isa)


def _interleaves(tensor: Tensor) -> bool:
    """Whether channels lie side by side and nearly fill a vector."""
    channels = tensor.shape[1]
    return tensor.dim() == 4 and channels >= 4 and tensor.stride(1) == 1 and tensor.stride(3) == channels


def _geometry(shape: PoolShape) -> list[int]:
    """The words about windows and channels that every interleaved kernel begins with."""
    words = []
    for axis, size, outputs in zip(axes(shape), shape.size, shape.output_size, strict=True):
        words += [axis.kernel, axis.stride, axis.before, axis.dilation, size, outputs]
    return [*words, shape.channels]


def _last(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    """Fresh memory for (N, C, H, W) with channels side by side."""
    return torch.empty(shape, dtype=dtype, memory_format=torch.channels_last)


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


def maximum(shape: PoolShape, input: Tensor, activation: str = "") -> tuple[Tensor, Tensor]:
    """Values and positions, after an activation if one of pooling.LIMITS is named."""
    isa = the_isa()
    compact = torch.int16 if torch.Size(shape.size).numel() <= 1 << 15 else torch.int32
    if _interleaves(input):
        each = _interleaved_kernel(isa, "maximum", "i16" if compact is torch.int16 else "i32", activation)
        values, positions = _last(shape.output_shape), _last(shape.output_shape, compact)
        pointers = [tensor.data_ptr() for tensor in (input, values, positions)]
        words = [*_geometry(shape), *pointers, input.stride(0), input.stride(2)]
        each(shape.batch * shape.output_size[0], words, launch.threads())
        return values, positions
    x = planes(input)
    rows, columns = axes(shape)
    outputs = (1, *shape.output_size)[-2:]
    kernel = _maximum_kernel(isa, rows, columns, "i16" if compact is torch.int16 else "i32", activation)
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
    isa, cells = the_isa(), _cells(shape)
    if _interleaves(input):
        values = _last(shape.output_shape)
        pointers = [tensor.data_ptr() for tensor in (input, values, *cells)]
        words = [*_geometry(shape), *pointers, input.stride(0), input.stride(2)]
        _interleaved_kernel(isa, "average")(shape.batch * shape.output_size[0], words, launch.threads())
        return values
    x = planes(input)
    rows, columns = axes(shape)
    outputs = (1, *shape.output_size)[-2:]
    kernel = _average_kernel(isa, rows, columns)
    items, blocks = _blocks(x, rows, columns, outputs, isa.lanes)
    threads = min(launch.threads(), items)
    values = torch.empty(shape.output_shape)
    scratch = torch.empty(threads, blocks[-1])
    pointers = [tensor.data_ptr() for tensor in (x, scratch, values, *cells)]
    kernel(items, [*pointers, shape.channels, *x.shape[2:], *outputs, *x.stride()[:3], *blocks], threads)
    return values


class Pooling(NamedTuple):
    """Pooling of interleaved channels without positions: a kernel, its items, and its words but for two addresses."""

    kernel: Kernel
    items: int
    geometry: list[int]
    tables: tuple[Tensor, ...]  #: what the words after the addresses point at

    def words(self, x: Any, y: Any, strides: tuple[int, int]) -> list[Any]:
        return [*self.geometry, x, y, *(table.data_ptr() for table in self.tables), *strides]


def interleaved_values(shape: PoolShape, epilogue: Epilogue = PLAIN) -> Pooling:
    """Largest values, of which the epilogue is taken; or averages, which have none."""
    isa, items = the_isa(), shape.batch * shape.output_size[0]
    if shape.kind == "max":
        kernel = _largest_kernel(isa, *axes(shape), epilogue, shape.channels % isa.lanes)
        sizes = [number for axis in zip(shape.size, shape.output_size, strict=True) for number in axis]
        return Pooling(kernel, items, [*sizes, shape.channels], ())
    return Pooling(_interleaved_kernel(isa, "average"), items, _geometry(shape), _cells(shape))


def maximum_grad(shape: PoolShape, indices: Tensor, grad_output: Tensor) -> Tensor:
    index = {torch.int16: "i16", torch.int32: "i32", torch.int64: "i64"}.get(indices.dtype)
    if index is None:
        indices, index = indices.to(torch.int64), "i64"
    if _interleaves(grad_output):
        layout = torch.channels_last
        g, positions = grad_output.contiguous(memory_format=layout), indices.contiguous(memory_format=layout)
        grad = _last(shape.input_shape)
        words = [*_geometry(shape), *(tensor.data_ptr() for tensor in (g, positions, grad))]
        _interleaved_kernel(the_isa(), "maximum_grad", index)(shape.batch * shape.size[0], words, launch.threads())
        return grad
    g, positions = grad_output.contiguous(), indices.contiguous()
    kernel = _maximum_grad_kernel(the_isa(), index)
    grad = torch.empty(shape.input_shape)
    size, outputs = torch.Size(shape.size).numel(), torch.Size(shape.output_size).numel()
    words = [g.data_ptr(), positions.data_ptr(), grad.data_ptr(), size, outputs]
    kernel(shape.batch * shape.channels, words, launch.threads())
    return grad


def average_grad(shape: PoolShape, grad_output: Tensor) -> Tensor:
    cells = _cells(shape)
    if _interleaves(grad_output):
        g, grad = grad_output.contiguous(memory_format=torch.channels_last), _last(shape.input_shape)
        words = [*_geometry(shape), *(tensor.data_ptr() for tensor in (g, grad, *cells))]
        _interleaved_kernel(the_isa(), "average_grad")(shape.batch * shape.size[0], words, launch.threads())
        return grad
    g = grad_output.contiguous()
    kernel = _average_grad_kernel(the_isa(), *axes(shape))
    grad = torch.empty(shape.input_shape)
    pointers = [tensor.data_ptr() for tensor in (g, grad, *cells)]
    sizes = [*(1, *shape.size)[-2:], *(1, *shape.output_size)[-2:]]
    kernel(shape.batch * shape.channels, [*pointers, *sizes], launch.threads())
    return grad
