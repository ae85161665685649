"""RoIAlign in channels last, and its gradient.

The pixels of a bin and their weights follow from two short lists, one for each axis
(:func:`striate.engine.regions.axis_samples`). Forward, each bin is written once:

    for every item: a box
        for every bin, for every tile of vectors of channels (in registers)
            for every row of the bin, for every column, if the weights aren't 0
                totals += weight * pixel
            write the totals

In the backward pass boxes overlap, so threads divide the channels and not the boxes. Then a single thread adds to each
pixel, box after box, and results don't depend on the number of threads:

    for every item: a tile of vectors of channels
        for every box, for every bin
            load the tile's gradients
            for every row, for every column: pixel += weight * gradient
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor

from striate.engine import fresh
from striate.engine.backends import Pass, fixed
from striate.engine.llvm.codegen import launch
from striate.engine.llvm.codegen.ir import Function, Int, Number, Pointer
from striate.engine.llvm.codegen.isa import Isa, host, the_isa
from striate.engine.llvm.codegen.launch import Kernel
from striate.engine.llvm.memory.relayout import laid_out
from striate.engine.regions import AxisSamples, RegionShape, axis_samples

#: Vectors of channels for which the weights of a bin are read once.
_TILE = 8
_LIMIT = 1 << 31


class _Problem:
    """The arguments of both kernels."""

    def __init__(self, f: Function) -> None:
        self.f = f
        self.map, self.bins = f.pointer("map"), f.pointer("bins")
        self.images = f.pointer("images", "i64")
        self.rows, self.row_weights = f.pointer("rows", "i64"), f.pointer("row_weights")
        self.columns, self.column_weights = f.pointer("columns", "i64"), f.pointer("column_weights")
        self.boxes, self.channels, self.height, self.width = map(f.size, ("boxes", "channels", "height", "width"))
        self.down, self.along = f.size("down"), f.size("along")
        self.row_taps, self.column_taps = f.size("row_taps"), f.size("column_taps")

    @contextmanager
    def each_bin(self, box: Number) -> Iterator[tuple[Number, Number]]:
        """Runs the block for each bin of a box, with the offsets of its list of rows and its list of columns."""
        with self.f.loop(0, self.down) as p, self.f.loop(0, self.along) as q:
            yield box * self.down + p, box * self.along + q

    def bin(self, row: Number, column: Number) -> Number:
        """The offset of a bin's first channel."""
        return (row * self.along + column % self.along) * self.channels

    @contextmanager
    def each_pixel(self, box: Number, row: Number, column: Number) -> Iterator[tuple[Pointer, str]]:
        """Runs the block for each pixel of a bin, with the address of its channels and its weight in all lanes."""
        f = self.f
        image = Int(f, f.scalar(self.images + box)) * self.height
        with f.loop(row * self.row_taps, (row + 1) * self.row_taps) as i:
            down = f.scalar(self.row_weights + i)
            with f.when(f.value(f"fcmp une float {down}, 0.0")):
                line = (image + Int(f, f.scalar(self.rows + i))) * self.width
                with f.loop(column * self.column_taps, (column + 1) * self.column_taps) as j:
                    along = f.scalar(self.column_weights + j)
                    with f.when(f.value(f"fcmp une float {along}, 0.0")):
                        weight = f.splat(f.value(f"fmul float {down}, {along}"))
                        place = (line + Int(f, f.scalar(self.columns + j))) * self.channels
                        yield self.map + place, weight


def _tiles(f: Function, channels: Number, tile: int, body: Callable[[Number, list[str]], None]) -> None:
    """Calls ``body`` for every tile of channels, and for single vectors of the rest, with first channel and masks."""
    step = tile * f.lanes
    whole = channels // step * step
    with f.loop(0, whole, step) as channel:
        body(channel, [""] * tile)
    with f.loop(whole, channels, f.lanes) as channel:
        body(channel, [f.inside(channel, channels)])


def generate_output(isa: Isa, tile: int = _TILE) -> Function:
    """The forward kernel."""
    f = Function("roi_align", isa)
    a = _Problem(f)

    def write(box: Number, row: Number, column: Number, channel: Number, masks: list[str]) -> None:
        totals = [f.variable(f.zeros()) for _ in masks]
        with a.each_pixel(box, row, column) as (pixel, weight):
            for k, (total, mask) in enumerate(zip(totals, masks, strict=True)):
                total.set(f.fma(weight, f.load(pixel + channel + k * f.lanes, mask), total.get()))
        for k, (total, mask) in enumerate(zip(totals, masks, strict=True)):
            f.store(total.get(), a.bins + a.bin(row, column) + channel + k * f.lanes, mask)

    with f.loop(f.first, f.last) as box, a.each_bin(box) as (row, column):
        _tiles(f, a.channels, tile, lambda channel, masks: write(box, row, column, channel, masks))
    return f


def generate_input_grad(isa: Isa, tile: int) -> Function:
    """The backward kernel."""
    f = Function("roi_align_grad", isa)
    a = _Problem(f)

    def add(channel: Number, masks: list[str]) -> None:
        with f.loop(0, a.boxes) as box, a.each_bin(box) as (row, column):
            own = a.bins + a.bin(row, column) + channel
            sent = [f.load(own + k * f.lanes, mask) for k, mask in enumerate(masks)]
            with a.each_pixel(box, row, column) as (pixel, weight):
                for k, (value, mask) in enumerate(zip(sent, masks, strict=True)):
                    place = pixel + channel + k * f.lanes
                    f.store(f.fma(weight, value, f.load(place, mask)), place, mask)

    step = tile * f.lanes
    with f.loop(f.first, f.last) as item:
        start = item * step
        full = f.less(start + (step - 1), a.channels)
        with f.when(full):
            add(start, [""] * tile)
        with f.when(f.negation(full)), f.loop(start, a.channels, f.lanes) as channel:
            add(channel, [f.inside(channel, a.channels)])
    return f


@cache
def _output_kernel(isa: Isa) -> Kernel:
    return Kernel(generate_output(isa), isa)


@cache
def _input_grad_kernel(isa: Isa, tile: int) -> Kernel:
    return Kernel(generate_input_grad(isa, tile), isa)


def refusal(shape: RegionShape, operand: Tensor) -> str | None:
    """The reason for refusing a problem, or None."""
    if not operand.is_cpu:
        return f"generates code for CPUs, not for {operand.device.type}"
    if operand.dtype != torch.float32:
        return f"computes in float32, not {str(operand.dtype).removeprefix('torch.')}"
    if fixed() not in (None, "llvm"):
        return f"{fixed()} was asked for"
    if host() is None:
        return "generates code for x86-64; on 64-bit ARM if STRIATE_ISA=neon says so"
    if operand.shape[1] >= _LIMIT:
        return "counts channels in 32 bits"
    return "has no kernels for empty tensors" if operand.numel() == 0 or 0 in shape.size else None


def contract(shape: RegionShape, open_: Pass, operand: Tensor, boxes: Tensor) -> Tensor:
    """:func:`striate.engine.regions.contract` of an accepted problem; the result is in channels last."""
    rows, columns = axis_samples(shape, boxes)
    # The kernels need channels last, so convert planes first.
    given = laid_out(operand.resolve_neg(), True)
    isa, channels, threads = the_isa().fitting(given.shape[1]), given.shape[1], launch.threads()
    if open_ is Pass.OUTPUT:
        made = _nhwc(fresh.empty, (len(boxes), channels, *shape.bins))
        arguments = _Arguments(shape, given, made, boxes, rows, columns)
        _output_kernel(isa)(len(boxes), threads, **arguments)
        return made
    made = _nhwc(fresh.zeros, (shape.batch, channels, *shape.size))
    tile = min(_TILE, 1 << (max(1, channels // (isa.lanes * threads)).bit_length() - 1))
    arguments = _Arguments(shape, made, given, boxes, rows, columns)
    _input_grad_kernel(isa, tile)(math.ceil(channels / (tile * isa.lanes)), threads, **arguments)
    return made


def _nhwc(make: Callable[..., Tensor], shape: tuple[int, ...]) -> Tensor:
    return make((shape[0], *shape[2:], shape[1])).movedim(3, 1)


class _Arguments(dict[str, int]):
    """The arguments of a kernel, with references that keep their memory alive."""

    def __init__(
        self, shape: RegionShape, map_: Tensor, bins: Tensor, boxes: Tensor, rows: AxisSamples, columns: AxisSamples
    ) -> None:
        lists = {
            "images": boxes[:, 0].long(),
            "rows": rows.places,
            "row_weights": rows.weights,
            "columns": columns.places,
            "column_weights": columns.weights,
        }
        self._kept = {name: each.contiguous() for name, each in lists.items()}
        height, width = shape.size
        down, along = shape.bins
        super().__init__(
            {name: each.data_ptr() for name, each in self._kept.items()},
            map=map_.data_ptr(),
            bins=bins.data_ptr(),
            boxes=len(boxes),
            channels=map_.shape[1],
            height=height,
            width=width,
            down=down,
            along=along,
            row_taps=rows.places.shape[2],
            column_taps=columns.places.shape[2],
        )
