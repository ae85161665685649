"""An activation followed by average pooling whose windows tile the map, or an activation alone; with gradients.

    planes, for every item: a plane
        for every row r of the result, for every vector of its columns c
            y[r, c] = mean over the window's rows i and columns j of  f(x[r * rows + i, c * columns + j])
        backward
            dx[r * rows + i, c * columns + j] = g[r, c] / (rows * columns) * f'(x[...]),  0 where no window is

    channels last, for every item: a row of the result of an image
        the same, with vectors over channels

    an activation alone, for every item: a block of numbers, whatever the layout
        y = f(x);  dx = g * f'(x)

Nothing but the pooled map is written: the gradient takes the slope from x. An activation alone whose slope follows from
its result y is written over x instead, which then isn't needed any more.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from typing import Final

import torch
from torch import Tensor

from striate.engine import fresh
from striate.engine.llvm.codegen.ir import Function, Number, Pointer
from striate.engine.llvm.codegen.isa import Isa, host, the_isa
from striate.engine.llvm.codegen.launch import Kernel, Start
from striate.engine.llvm.functions.activations import NAMES, activated, parsed, sent_back, sent_back_from_result
from striate.engine.llvm.memory.rows import dealt, interleaved
from striate.geometry import PoolShape

#: Positions of a window, which kernels write out one by one.
_MOST: Final = 16
#: Numbers of an item of an activation alone, and numbers below which one thread computes all.
_BLOCK: Final = 1 << 13
_SHARED: Final = 1 << 15
#: Activations alone whose slope follows from their result, which PyTorch saves as well (of relu6 it saves the operand).
FROM_RESULT: Final = ("relu", "tanh", "sigmoid")


def _in_parts(f: Function, at: Number, stop: Number, body: Callable[[str], None]) -> None:
    """Calls for a vector at ``at``: once where it is whole, once with the mask of the lanes below ``stop``."""
    whole = f.less(at + (f.lanes - 1), stop)
    with f.when(whole):
        body("")
    with f.when(f.negation(whole)):
        body(f.inside(at, stop))


def _zeros(f: Function, place: Pointer, start: Number, stop: Number) -> None:
    with f.loop(start, stop, f.lanes) as at:
        _in_parts(f, at, stop, lambda mask: f.store(f.zeros(), place + at, mask))


def _summed(f: Function, parts: list[str]) -> str:
    total = parts[0]
    for part in parts[1:]:
        total = f.arithmetic("fadd", total, part)
    return total


def generate_nchw(isa: Isa, name: str, rows: int, columns: int) -> Function:
    """Forward, on planes."""
    f = Function("nchw_activated_average", isa)
    x, y = map(f.pointer, ("x", "y"))
    width, size, out_rows, out_columns = map(f.size, ("width", "size", "out_rows", "out_columns"))
    share = f.constant(1 / (rows * columns))
    with f.loop(f.first, f.last) as plane:
        source, target = x + plane * size, y + plane * (out_rows * out_columns)
        with f.loop(0, out_rows) as row, f.loop(0, out_columns, f.lanes) as column:

            def window(mask: str, row: Number = row, column: Number = column) -> None:
                sums: list[list[str]] = []
                for i in range(rows):
                    line, start = source + (row * rows + i) * width, column * columns
                    places = [start + j * f.lanes for j in range(columns)]
                    masks = [f.inside(at, out_columns * columns) if mask else "" for at in places]
                    pairs = zip(places, masks, strict=True)
                    sums.append([activated(f, name, f.load(line + at, inside)) for at, inside in pairs])
                by_phase = dealt(f, [_summed(f, list(each)) for each in zip(*sums, strict=True)])
                mean = f.arithmetic("fmul", _summed(f, by_phase), share)
                f.store(mean, target + (row * out_columns + column), mask)

            _in_parts(f, column, out_columns, window)
    return f


def generate_nchw_grad(isa: Isa, name: str, rows: int, columns: int) -> Function:
    """Backward, on planes."""
    f = Function("nchw_activated_average_grad", isa)
    g, x, dx = map(f.pointer, ("g", "x", "dx"))
    width, size, out_rows, out_columns = map(f.size, ("width", "size", "out_rows", "out_columns"))
    share = f.constant(1 / (rows * columns))
    with f.loop(f.first, f.last) as plane:
        source, target = x + plane * size, dx + plane * size
        upstream = g + plane * (out_rows * out_columns)
        with f.loop(0, out_rows) as row:
            with f.loop(0, out_columns, f.lanes) as column:

                def window(mask: str, row: Number = row, column: Number = column) -> None:
                    grad = f.arithmetic("fmul", f.load(upstream + (row * out_columns + column), mask), share)
                    spread = interleaved(f, [grad] * columns)
                    for i in range(rows):
                        line = (row * rows + i) * width
                        for j, each in enumerate(spread):
                            at = column * columns + j * f.lanes
                            inside = f.inside(at, out_columns * columns) if mask else ""
                            made = sent_back(f, name, each, f.load(source + (line + at), inside))
                            f.store(made, target + (line + at), inside)

                _in_parts(f, column, out_columns, window)
            for i in range(rows):
                line = (row * rows + i) * width
                _zeros(f, target, line + out_columns * columns, line + width)
        _zeros(f, target, out_rows * rows * width, size)
    return f


def generate_nhwc(isa: Isa, name: str, rows: int, columns: int) -> Function:
    """Forward, in channels last."""
    f = Function("nhwc_activated_average", isa)
    x, y = map(f.pointer, ("x", "y"))
    channels, height, width = map(f.size, ("channels", "height", "width"))
    out_rows, out_columns = map(f.size, ("out_rows", "out_columns"))
    share = f.constant(1 / (rows * columns))
    with f.loop(f.first, f.last) as item:
        image, row = item // out_rows, item % out_rows
        source = x + (image * height + row * rows) * width * channels
        target = y + item * out_columns * channels
        with f.loop(0, out_columns) as column, f.loop(0, channels, f.lanes) as channel:

            def window(mask: str, column: Number = column, channel: Number = channel) -> None:
                every = [
                    activated(f, name, f.load(source + ((i * width + column * columns + j) * channels + channel), mask))
                    for i in range(rows)
                    for j in range(columns)
                ]
                f.store(f.arithmetic("fmul", _summed(f, every), share), target + (column * channels + channel), mask)

            _in_parts(f, channel, channels, window)
    return f


def generate_nhwc_grad(isa: Isa, name: str, rows: int, columns: int) -> Function:
    """Backward, in channels last."""
    f = Function("nhwc_activated_average_grad", isa)
    g, x, dx = map(f.pointer, ("g", "x", "dx"))
    channels, height, width = map(f.size, ("channels", "height", "width"))
    out_rows, out_columns = map(f.size, ("out_rows", "out_columns"))
    share = f.constant(1 / (rows * columns))
    with f.loop(f.first, f.last) as item:
        image, row = item // out_rows, item % out_rows
        start = (image * height + row * rows) * width * channels
        upstream = g + item * out_columns * channels
        with f.loop(0, out_columns) as column, f.loop(0, channels, f.lanes) as channel:

            def window(mask: str, column: Number = column, channel: Number = channel) -> None:
                grad = f.arithmetic("fmul", f.load(upstream + (column * channels + channel), mask), share)
                for i in range(rows):
                    for j in range(columns):
                        at = start + ((i * width + column * columns + j) * channels + channel)
                        f.store(sent_back(f, name, grad, f.load(x + at, mask)), dx + at, mask)

            _in_parts(f, channel, channels, window)
        for i in range(rows):
            line = start + i * width * channels
            _zeros(f, dx, line + out_columns * columns * channels, line + width * channels)
        with f.when(f.same(row, out_rows - 1)):
            _zeros(f, dx, start + rows * width * channels, (image + 1) * height * width * channels)
    return f


def generate_flat(isa: Isa, name: str) -> Function:
    """An activation alone, forward; the result may be the operand."""
    f = Function("activation", isa)
    x, y = map(f.pointer, ("x", "y"))
    count = f.size("count")
    with f.loop(f.first, f.last) as item:
        start = item * _BLOCK
        stop = f.smaller(start + _BLOCK, count)
        with f.loop(start, stop, f.lanes) as at:
            _in_parts(f, at, stop, lambda mask: f.store(activated(f, name, f.load(x + at, mask)), y + at, mask))
    return f


def generate_flat_grad(isa: Isa, name: str, from_result: bool) -> Function:
    """An activation alone, backward, from its operand or its result; what is written may be the upstream gradient."""
    f = Function("activation_grad", isa)
    g, z, dx = map(f.pointer, ("g", "z", "dx"))
    count = f.size("count")
    back = sent_back_from_result if from_result else sent_back
    with f.loop(f.first, f.last) as item:
        start = item * _BLOCK
        stop = f.smaller(start + _BLOCK, count)
        with f.loop(start, stop, f.lanes) as at:
            _in_parts(
                f,
                at,
                stop,
                lambda mask: f.store(back(f, name, f.load(g + at, mask), f.load(z + at, mask)), dx + at, mask),
            )
    return f


@cache
def _pooled_kernel(isa: Isa, channels_last: bool, name: str, rows: int, columns: int) -> Kernel:
    return Kernel((generate_nhwc if channels_last else generate_nchw)(isa, name, rows, columns), isa)


@cache
def _pooled_grad_kernel(isa: Isa, channels_last: bool, name: str, rows: int, columns: int) -> Kernel:
    return Kernel((generate_nhwc_grad if channels_last else generate_nchw_grad)(isa, name, rows, columns), isa)


@cache
def _flat_kernel(isa: Isa, name: str) -> Kernel:
    return Kernel(generate_flat(isa, name), isa)


@cache
def _flat_grad_kernel(isa: Isa, name: str, from_result: bool) -> Kernel:
    return Kernel(generate_flat_grad(isa, name, from_result), isa)


@dataclass(frozen=True)
class Activation:
    """An activation with the average pooling after it, if there is one, on maps of one shape and layout.

    Args:
        isa: of the kernels.
        name: as :mod:`striate.engine.llvm.functions.activations` parses it.
        shape: of the operand, (N, C, ...).
        strides: of the operand.
        pool: the average pooling; None for an activation alone.
        in_place: whether the result is written over the operand; then :meth:`backward` takes the result.
        threads: at most.
    """

    isa: Isa
    name: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    pool: PoolShape | None
    in_place: bool
    threads: int

    def forward(self, x: Tensor) -> Tensor:
        """The result for a float32 operand with this shape and these strides."""
        y = x if self.in_place else fresh.empty_strided(self.result_shape, self.result_strides)
        self._forward(x.data_ptr(), y.data_ptr())
        return y

    def backward(self, g: Tensor, kept: Tensor, over: bool = False) -> Tensor:
        """The operand's gradient.

        Args:
            g: the result's gradient, with the result's strides.
            kept: the operand, or the result if it was computed in place.
            over: whether the gradient of an activation alone may be written over ``g``.
        """
        dx = g if over and self.pool is None else fresh.empty_strided(self.shape, self.strides)
        self._backward(g.data_ptr(), kept.data_ptr(), dx.data_ptr())
        return dx

    @cached_property
    def channels_last(self) -> bool:
        return self.pool is not None and len(self.shape) == 4 and self.strides[1] == 1 and self.shape[1] > 1

    @cached_property
    def result_shape(self) -> tuple[int, ...]:
        return self.shape if self.pool is None else self.pool.output_shape

    @cached_property
    def result_strides(self) -> tuple[int, ...]:
        """The strides of the result and of its gradient."""
        if self.pool is None:
            return self.strides
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return torch.empty(self.result_shape, device="meta", memory_format=layout).stride()

    @cached_property
    def _forward(self) -> Start:
        """The kernel without the addresses of operand and result."""
        if self.pool is None:
            return self._start(_flat_kernel(self.isa, self.name), ("x", "y"))
        return self._start(_pooled_kernel(self._vectors, self.channels_last, self.name, *self._window), ("x", "y"))

    @cached_property
    def _backward(self) -> Start:
        """The kernel without the addresses of upstream gradient, operand or result, and gradient."""
        if self.pool is None:
            return self._start(_flat_grad_kernel(self.isa, self.name, self.in_place), ("g", "z", "dx"))
        kernel = _pooled_grad_kernel(self._vectors, self.channels_last, self.name, *self._window)
        return self._start(kernel, ("g", "x", "dx"))

    @cached_property
    def _window(self) -> tuple[int, int]:
        """Rows and columns of a window."""
        assert self.pool is not None
        rows, columns = (1, *self.pool.kernel)[-2:]
        return rows, columns

    @cached_property
    def _vectors(self) -> Isa:
        """Vectors that aren't much longer than the axis that they lie along: channels, or a row of the result."""
        return self.isa.fitting(self.shape[1] if self.channels_last else self.result_shape[-1])

    def _start(self, kernel: Kernel, maps: tuple[str, ...]) -> Start:
        """Binds the sizes, which are all arguments except the addresses of the maps."""
        (batch, channels), numbers = self.shape[:2], math.prod(self.shape)
        height, width = (1, *self.shape[2:])[-2:]
        out_rows, out_columns = (1, *self.result_shape[2:])[-2:]
        if self.pool is None:
            items, sizes = -(-numbers // _BLOCK), {"count": numbers}
        elif self.channels_last:
            items, sizes = batch * out_rows, {"channels": channels, "height": height, "width": width}
        else:
            items, sizes = batch * channels, {"width": width, "size": height * width}
        if self.pool is not None:
            sizes |= {"out_rows": out_rows, "out_columns": out_columns}
        return kernel.bound(maps, items, self.threads if numbers >= _SHARED else 1, **sizes)


def activation(
    name: str,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    pool: PoolShape | None,
    may_overwrite: bool,
    threads: int,
) -> Activation | None:
    """The kernels for an activation and the average pooling after it, on maps of this shape; None if there are none.

    There are some for (N, C, ...) without gaps, as planes or in channels last, with one or two axes if they are pooled,
    and for windows that tile the map: as far apart as they are large, unpadded, of up to 16 positions. An activation
    alone is computed in place if ``may_overwrite`` allows that and its slope follows from its result.
    """
    return None if host() is None else _activation(the_isa(), name, shape, strides, pool, may_overwrite, threads)


@lru_cache(maxsize=4096)
def _activation(
    isa: Isa,
    name: str,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    pool: PoolShape | None,
    may_overwrite: bool,
    threads: int,
) -> Activation | None:
    like = torch.empty_strided(shape, strides, device="meta")
    last = len(shape) == 4 and like.is_contiguous(memory_format=torch.channels_last)
    if parsed(name)[0] not in NAMES or 0 in shape or not (like.is_contiguous() or last):
        return None
    if pool is not None:
        tiles = pool.stride == pool.kernel and not any(map(any, pool.pads)) and max(pool.dilation) == 1
        inside = all(n * k <= size for n, k, size in zip(pool.output_size, pool.kernel, pool.size, strict=True))
        plain = pool.kind == "avg" and pool.divisor is None
        if not (tiles and inside and plain) or pool.dims > 2 or math.prod(pool.kernel) > _MOST:
            return None
    in_place = may_overwrite and pool is None and parsed(name)[0] in FROM_RESULT
    return Activation(isa, name, shape, strides, pool, in_place, threads)
