"""Pooling in both layouts: chooses the kernel, the work items and the scratch memory. See convolution/sums.py."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from striate.engine import fresh
from striate.engine.llvm.codegen import launch
from striate.engine.llvm.codegen.isa import Isa, the_isa
from striate.engine.llvm.codegen.launch import Kernel, Start
from striate.engine.llvm.functions.epilogue import PLAIN, Epilogue
from striate.engine.llvm.memory.rows import Axis
from striate.engine.llvm.memory.views import axes, plane_size, planes
from striate.engine.llvm.pooling import nchw, nchw_grad, nhwc
from striate.geometry import PoolShape, Window

#: The most numbers in the packed rows of a block: half of a first-level cache of 32 KiB.
_BLOCK = 1 << 12


@cache
def _maximum_kernel(isa: Isa, rows: Axis, columns: Axis, index: str, activation: str) -> Kernel:
    return Kernel(nchw.generate_maximum(isa, rows, columns, index, activation), isa)


@cache
def _largest_kernel(isa: Isa, rows: Axis, columns: Axis) -> Kernel:
    return Kernel(nchw.generate_largest(isa, rows, columns), isa)


@cache
def _average_kernel(isa: Isa, rows: Axis, columns: Axis) -> Kernel:
    return Kernel(nchw.generate_average(isa, rows, columns), isa)


@cache
def _maximum_grad_kernel(isa: Isa, index: str) -> Kernel:
    return Kernel(nchw.generate_maximum_grad(isa, index), isa)


@cache
def _average_grad_kernel(isa: Isa, rows: Axis, columns: Axis) -> Kernel:
    return Kernel(nchw.generate_average_grad(isa, rows, columns), isa)


@cache
def _spread_kernel(isa: Isa, rows: Axis, columns: Axis, rest: int, index: str) -> Kernel:
    return Kernel(nchw_grad.generate(isa, rows, columns, rest, index), isa)


@cache
def _nhwc_maximum_kernel(
    isa: Isa, rows: Axis, columns: Axis, rest: int, index: str, epilogue: Epilogue, activation: str
) -> Kernel:
    return Kernel(nhwc.generate_maximum(isa, rows, columns, rest, index, epilogue, activation), isa)


@cache
def _nhwc_maximum_grad_kernel(isa: Isa, rows: Axis, columns: Axis, rest: int, index: str) -> Kernel:
    return Kernel(nhwc.generate_maximum_grad(isa, rows, columns, rest, index), isa)


@cache
def _nhwc_average_kernel(isa: Isa, rows: Axis, columns: Axis, rest: int) -> Kernel:
    return Kernel(nhwc.generate_average(isa, rows, columns, rest), isa)


@cache
def _nhwc_average_grad_kernel(isa: Isa, rows: Axis, columns: Axis, rest: int) -> Kernel:
    return Kernel(nhwc.generate_average_grad(isa, rows, columns, rest), isa)


def _is_nhwc(tensor: Tensor) -> bool:
    """Whether a tensor is in channels last, with enough channels for lanes over channels."""
    channels = tensor.shape[1]
    return tensor.dim() == 4 and channels >= 4 and tensor.stride(1) == 1 and tensor.stride(3) == channels


def _sizes(shape: PoolShape) -> dict[str, int]:
    """The lengths of the axes of a map and of the pooled map, which almost all kernels take."""
    (height, width), (out_height, out_width) = plane_size(shape.size), plane_size(shape.output_size)
    return {"height": height, "width": width, "out_height": out_height, "out_width": out_width}


def _padded(numbers: list[int], dtype: torch.dtype) -> Tensor:
    # Kernels read whole vectors; lanes beyond the last output are dropped.
    return fresh.tensor(numbers + [1] * 16, dtype=dtype)


@lru_cache(maxsize=1024)
def _first_positions(window: Window, size: int, outputs: int) -> Tensor:
    """For each output, the position of its first tap inside the input."""
    first = [window.position(output, window.taps_inside(output, size)[0]) for output in range(outputs)]
    return _padded(first, torch.int32)


@lru_cache(maxsize=1024)
def _cells(shape: PoolShape) -> tuple[Tensor, Tensor]:
    """Two tables, of rows and of columns, whose products are the divisors of averages."""
    outputs = plane_size(shape.output_size)
    counts = [list(axis) for axis in shape.divisors]
    if shape.divisor is not None:
        counts = [[1] * length for length in shape.output_size]
        counts[-1] = [shape.divisor] * outputs[1]
    if shape.dims == 1:
        counts = [[1], *counts]
    rows, columns = (_padded(axis, torch.float32) for axis in counts)
    return rows, columns


def _addresses(tables: tuple[Tensor, ...]) -> dict[str, int]:
    """The addresses of a table of rows and a table of columns, if a kernel has them."""
    if not tables:
        return {}
    rows, columns = tables
    return {"row_table": rows.data_ptr(), "column_table": columns.data_ptr()}


class Pooling(NamedTuple):
    """Pooling in channels last: a kernel, its work items and its arguments, without the maps and the map's strides."""

    kernel: Kernel
    items: int
    arguments: dict[str, int]
    tables: tuple[Tensor, ...]  #: tables of which the arguments have the addresses

    def words(self, x: Any, y: Any, strides: tuple[int, int]) -> list[Any]:
        """The arguments of a kernel without positions; the strides are those of an image and a row of x."""
        x_image, x_row = strides
        return self.kernel.words(x=x, values=y, x_image=x_image, x_row=x_row, **self.arguments)

    def start(self, results: Sequence[str], strides: tuple[int, int], threads: int) -> Start:
        """Binds all arguments except the addresses of x and of the results with these names."""
        x_image, x_row = strides
        return self.kernel.bound(("x", *results), self.items, threads, x_image=x_image, x_row=x_row, **self.arguments)


def nhwc_values(shape: PoolShape, epilogue: Epilogue = PLAIN, index: str = "", activation: str = "") -> Pooling:
    """Forward pooling: maxima with an epilogue, and positions if ``index`` is their type; or averages."""
    isa, items = the_isa().fitting(shape.channels), shape.batch * shape.output_size[0]
    known = (isa, *axes(shape), shape.channels % isa.lanes)
    sizes = {"channels": shape.channels, **_sizes(shape)}
    if shape.kind == "max":
        return Pooling(_nhwc_maximum_kernel(*known, index, epilogue, activation), items, sizes, ())
    tables = _cells(shape)
    return Pooling(_nhwc_average_kernel(*known), items, sizes | _addresses(tables), tables)


class _Made(NamedTuple):
    """A callable pooling kernel; it allocates scratch memory if it needs some."""

    start: Start
    scratch: int
    kept: object  #: tables that the kernel reads, which have to stay alive

    def __call__(self, x: Tensor, *results: Tensor) -> None:
        places = [result.data_ptr() for result in results]
        if self.scratch:
            scratch = fresh.empty(self.scratch)
            self.start(x.data_ptr(), scratch.data_ptr(), *places)
        else:
            self.start(x.data_ptr(), *places)


@lru_cache(maxsize=4096)
def _forward(
    isa: Isa,
    shape: PoolShape,
    strides: tuple[int, ...],
    last: bool,
    index: str,
    activation: str,
    threads: int,
) -> _Made:
    """Prepares forward pooling for these strides: values and, if ``index`` is their type, positions."""
    results = ("values", "positions") if index else ("values",)
    if last:
        each = nhwc_values(shape, PLAIN, index, activation)
        return _Made(each.start(results, (strides[0], strides[2]), threads), 0, each.tables)
    rows, columns = axes(shape)
    outputs = plane_size(shape.output_size)
    isa = isa.fitting(outputs[1])
    tables: tuple[Tensor, ...] = ()
    if shape.kind == "avg":
        kernel, tables = _average_kernel(isa, rows, columns), _cells(shape)
    elif index:
        kernel = _maximum_kernel(isa, rows, columns, index, activation)
        tables = tuple(
            _first_positions(window.resolve(size), size, length)
            for window, size, length in zip(shape.windows, shape.size, shape.output_size, strict=True)
        )
        tables = tables if shape.dims == 2 else (_padded([0], torch.int32), *tables)
    else:
        kernel = _largest_kernel(isa, rows, columns)
    pitch = columns.pitch(outputs[1], isa.lanes)
    line = pitch * columns.stride
    block = max(1, min(outputs[0], _BLOCK // (line * rows.stride)))
    blocks, deep = -(-outputs[0] // block), rows.span(block)
    items = shape.batch * shape.channels * blocks
    threads = min(threads, items)
    arguments = {"channels": shape.channels, **_sizes(shape), **_addresses(tables)}
    arguments |= {"x_image": strides[0], "x_channel": strides[1], "x_row": strides[2]}
    arguments |= {"block": block, "blocks": blocks, "deep": deep, "pitch": pitch, "scratch_size": deep * line}
    start = kernel.bound(("x", "scratch", *results), items, threads, **arguments)
    return _Made(start, threads * deep * line, tables)


#: LLVM's names of the types of positions.
INDEX: Final = {torch.int16: "i16", torch.int32: "i32", torch.int64: "i64"}


def compact(shape: PoolShape) -> torch.dtype:
    """The smallest dtype for positions."""
    return torch.int16 if torch.Size(shape.size).numel() <= 1 << 15 else torch.int32


def _pooled(shape: PoolShape, input: Tensor, index: str = "", activation: str = "") -> list[Tensor]:
    """Values, and positions if ``index`` is their type."""
    last = _is_nhwc(input)
    x = input if last else planes(input)
    made = _forward(the_isa(), shape, x.stride(), last, index, activation, launch.threads())
    layout = torch.channels_last if last else torch.contiguous_format
    results = [fresh.empty(shape.output_shape, memory_format=layout)]
    if index:
        results.append(fresh.empty(shape.output_shape, dtype=compact(shape), memory_format=layout))
    made(x, *results)
    return results


def largest(shape: PoolShape, input: Tensor) -> Tensor:
    """Values without positions."""
    return _pooled(shape, input)[0]


def maximum(shape: PoolShape, input: Tensor, activation: str = "") -> tuple[Tensor, Tensor]:
    """Values and positions, after an activation if one of nchw.LIMITS is named."""
    values, positions = _pooled(shape, input, INDEX[compact(shape)], activation)
    return values, positions


def average(shape: PoolShape, input: Tensor) -> Tensor:
    return _pooled(shape, input)[0]


@lru_cache(maxsize=4096)
def _backward(isa: Isa, shape: PoolShape, last: bool, index: str, threads: int) -> _Made:
    """Prepares the input gradient of one of the layouts; ``index`` is the type of positions for max pooling."""
    tables = _cells(shape) if shape.kind == "avg" else ()
    maps = ("g", "positions", "grad") if index else ("g", "grad")
    arguments = _sizes(shape) | _addresses(tables)
    if last:
        isa = isa.fitting(shape.channels)
        known = (isa, *axes(shape), shape.channels % isa.lanes)
        kernel = _nhwc_maximum_grad_kernel(*known, index) if index else _nhwc_average_grad_kernel(*known)
        items = shape.batch * -(-shape.size[0] // known[1].stride)
        return _Made(kernel.bound(maps, items, threads, channels=shape.channels, **arguments), 0, tables)
    if nchw_grad.is_worth(*axes(shape), shape.output_size[-1], index):
        return _nchw_backward(isa, shape, index, threads, arguments, tables)
    if index:
        kernel = _maximum_grad_kernel(isa, index)
        arguments = {"size": math.prod(shape.size), "outputs": math.prod(shape.output_size)}
    else:
        kernel = _average_grad_kernel(isa, *axes(shape))
    return _Made(kernel.bound(maps, shape.batch * shape.channels, threads, **arguments), 0, tables)


def _nchw_backward(
    isa: Isa, shape: PoolShape, index: str, threads: int, arguments: dict[str, int], tables: tuple[Tensor, ...]
) -> _Made:
    """Prepares the input gradient of small windows in NCHW, by gathering; ``arguments`` are sizes and tables."""
    rows, columns = axes(shape)
    (height, width), outputs = plane_size(shape.size), plane_size(shape.output_size)
    packed = 2 if index else 1  # gradients, and positions if there are some
    down, along = nchw_grad.Reach(rows), nchw_grad.Reach(columns)
    isa = isa.fitting(along.places(width))
    pitch, places = along.pitch(width, outputs[1], isa.lanes), down.places(height)
    block = max(1, min(places, _BLOCK // (pitch * packed)))
    blocks, deep = -(-places // block), down.outputs(block)
    items = shape.batch * shape.channels * blocks
    threads = min(threads, items)
    kernel = _spread_kernel(isa, rows, columns, width % (columns.stride * isa.lanes), index)
    arguments = {**arguments, "numbers": math.prod(shape.output_shape)}
    arguments |= {"block": block, "blocks": blocks, "pitch": pitch, "deep": deep}
    maps = ("g", "scratch", "positions", "grad") if index else ("g", "scratch", "grad")
    return _Made(kernel.bound(maps, items, threads, **arguments), threads * deep * pitch * packed, tables)


def maximum_grad(shape: PoolShape, indices: Tensor, grad_output: Tensor) -> Tensor:
    if indices.dtype not in INDEX:
        indices = indices.to(torch.int64)
    return _spread(shape, grad_output, indices)


def average_grad(shape: PoolShape, grad_output: Tensor) -> Tensor:
    return _spread(shape, grad_output)


def _spread(shape: PoolShape, grad_output: Tensor, indices: Tensor | None = None) -> Tensor:
    last = _is_nhwc(grad_output)
    layout = torch.channels_last if last else torch.contiguous_format
    given = [grad_output.contiguous(memory_format=layout)]
    index = ""
    if indices is not None:
        given.append(indices.contiguous(memory_format=layout))
        index = INDEX[indices.dtype]
    grad = fresh.empty(shape.input_shape, memory_format=layout)
    _backward(the_isa(), shape, last, index, launch.threads())(*given, grad)
    return grad
