"""Pooling as autograd functions, each with its derived gradient, in pairs that are each other's transpose.

These functions take batched tensors and problem objects, which :mod:`striate.ops.pooling` makes from the arguments of
a call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, cast

import torch
from torch import Tensor

from striate.engine import Backend, Pass, choose, tuning
from striate.engine.aten import AtenBackend, spread
from striate.engine.backends import has_memory
from striate.engine.layout import is_channels_last, reshaped
from striate.geometry import PoolShape
from striate.ops._autograd import Differentiable, upstream_in
from striate.ops._calls import fold, unfold

#: For gradients that vmap batches into one tensor: that tensor has no memory that other kernels could read.
_aten = AtenBackend()


class Average(Differentiable):
    """Average pooling or its transpose; each is the other's gradient."""

    @staticmethod
    def forward(operand: Tensor, shape: PoolShape, open_: Pass, channels_last: bool) -> Tensor:
        if not has_memory(operand):
            return _aten.average(shape, open_, operand, channels_last)

        def runs(backend: Backend) -> Callable[[], Tensor]:
            return partial(backend.average, shape, open_, operand, channels_last)

        return runs(choose(shape, open_, operand, channels_last, runs))()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.shape, ctx.open_, ctx.channels_last = inputs

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        upstream = upstream_in(ctx.channels_last, upstream)
        transposed = Pass.INPUT_GRAD if ctx.open_ is Pass.OUTPUT else Pass.OUTPUT
        return Average.of(upstream, ctx.shape, transposed, ctx.channels_last), None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        return cast(Tensor, Average.of(tangents[0], ctx.shape, ctx.open_, ctx.channels_last))

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, operand: Tensor, shape: PoolShape, open_: Pass, channels_last: bool
    ) -> tuple[Tensor, int]:
        many = replace(shape, batch=info.batch_size * shape.batch)
        return unfold(info, Average.of(fold(info.batch_size, in_dims[0], operand), many, open_, channels_last)), 0


@lru_cache(maxsize=1024)
def _compact(size: tuple[int, ...]) -> torch.dtype:
    last = torch.Size(size).numel() - 1
    return next(dtype for dtype in (torch.int16, torch.int32, torch.int64) if last <= torch.iinfo(dtype).max)


def keep_positions(ctx: Any, indices: Tensor, size: tuple[int, ...]) -> None:
    """Saves flat positions in the smallest signed dtype that holds them: a quarter of int64's memory below 182x182."""
    positions = indices.to(_compact(size))
    ctx.save_for_backward(positions)
    ctx.save_for_forward(positions)


def largest(shape: PoolShape, input: Tensor) -> Callable[[Tensor], Tensor]:
    """The function that computes maxima of tensors like this one, without positions and without derivatives."""

    def runs(backend: Backend) -> Callable[[], Tensor]:
        return partial(backend.largest, shape, input)

    return partial(choose(shape, Pass.OUTPUT, input, is_channels_last(input), runs).largest, shape)


class Maximum(Differentiable):
    """Max pooling: values, and their positions."""

    @staticmethod
    def forward(input: Tensor, shape: PoolShape) -> tuple[Tensor, Tensor]:
        def runs(backend: Backend) -> Callable[[], tuple[Tensor, Tensor]]:
            return partial(backend.maximum, shape, input)

        return runs(choose(shape, Pass.POSITIONS, input, is_channels_last(input), runs))()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        input, ctx.shape = inputs
        ctx.channels_last = is_channels_last(input)
        ctx.mark_non_differentiable(output[1])
        keep_positions(ctx, output[1], ctx.shape.size)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        upstream = upstream_in(ctx.channels_last, upstream)
        return Spread.of(upstream, *ctx.saved_tensors, ctx.shape.size, ctx.shape, ctx.channels_last), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor, None]:
        how = (ctx.shape.size, ctx.shape, ctx.channels_last)
        return cast(Tensor, Collect.of(tangents[0], *ctx.saved_tensors, *how)), None

    @staticmethod
    def vmap(info: Any, in_dims: Any, input: Tensor, shape: PoolShape) -> tuple[tuple[Tensor, Tensor], int]:
        many = replace(shape, batch=info.batch_size * shape.batch)
        values, indices = Maximum.of(fold(info.batch_size, in_dims[0], input), many)
        return (unfold(info, values), unfold(info, indices)), 0


class Recorded(torch.autograd.Function):
    """Max pooling for a call in the dispatch cache (_dispatch.py), for autograd alone: kernels are looked up once."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, way: Way) -> Tensor:
        values, positions = way.there(input)
        ctx.way = way
        ctx.save_for_backward(positions)
        return values

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        return ctx.way.back(upstream, *ctx.saved_tensors), None


class Way:
    """Max pooling and its gradient, prepared for tensors like the given one."""

    def __init__(self, shape: PoolShape, input: Tensor) -> None:
        def runs(backend: Backend) -> Callable[[], tuple[Tensor, Tensor]]:
            return partial(backend.maximum, shape, input)

        self._shape, self._channels_last = shape, is_channels_last(input)
        self._there = choose(shape, Pass.POSITIONS, input, self._channels_last, runs)
        #: The backend for the gradient, and the generation of choices in which it was chosen.
        self._back: tuple[int, Backend] | None = None
        self._compact = _compact(shape.size)

    def there(self, input: Tensor) -> tuple[Tensor, Tensor]:
        values, positions = self._there.maximum(self._shape, input)
        return values, positions.to(self._compact)

    def back(self, upstream: Tensor, positions: Tensor) -> Tensor:
        shape, last = self._shape, self._channels_last
        upstream = upstream_in(last, upstream)
        if torch.is_grad_enabled() or not has_memory(upstream):
            return cast(Tensor, Spread.of(upstream, positions, shape.size, shape, last))
        if self._back is None or self._back[0] != tuning.generation:
            chosen = spreading(shape, upstream, positions, last)
            self._back = tuning.generation, chosen
        return self._back[1].maximum_grad(shape, positions, upstream, last)


def spreading(shape: PoolShape, upstream: Tensor, indices: Tensor, channels_last: bool) -> Backend:
    """The backend that is chosen for the gradient of max pooling."""

    def runs(backend: Backend) -> Callable[[], Tensor]:
        # PyTorch, when it computes all of a call, keeps positions as its kernel reads them.
        kept = indices.long() if backend.name == "aten" else indices
        return partial(backend.maximum_grad, shape, kept, upstream, channels_last)

    return choose(shape, Pass.INPUT_GRAD, upstream, channels_last, runs)


class Spread(Differentiable):
    """Adds every output's gradient to the position that its maximum came from, among ``size`` positions a channel.

    With a shape, the problem's backend computes this. Without one, PyTorch does: the windows of adaptive pooling have
    different sizes, so there is no problem object.
    """

    @staticmethod
    def forward(
        upstream: Tensor, indices: Tensor, size: tuple[int, ...], shape: PoolShape | None, channels_last: bool
    ) -> Tensor:
        if shape is None:
            return spread(indices, upstream, size, channels_last)
        if not has_memory(upstream):
            return _aten.maximum_grad(shape, indices, upstream, channels_last)

        chosen = spreading(shape, upstream, indices, channels_last)
        return chosen.maximum_grad(shape, indices, upstream, channels_last)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, indices, *ctx.how = inputs
        ctx.save_for_backward(indices)
        ctx.save_for_forward(indices)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        return Collect.of(upstream, *ctx.saved_tensors, *ctx.how), None, None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        return cast(Tensor, Spread.of(tangents[0], *ctx.saved_tensors, *ctx.how))

    @staticmethod
    def vmap(info: Any, in_dims: Any, values: Tensor, indices: Tensor, *how: Any) -> tuple[Tensor, int]:
        return _vmap_along(Spread, info, in_dims, values, indices, *how), 0


class Collect(Differentiable):
    """Takes for every output the value at the position that its maximum came from: the transpose of Spread."""

    @staticmethod
    def forward(
        values: Tensor, indices: Tensor, size: tuple[int, ...], shape: PoolShape | None, channels_last: bool
    ) -> Tensor:
        return reshaped(values.flatten(2).gather(2, indices.flatten(2).long()), indices.shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, indices, *ctx.how = inputs
        ctx.save_for_backward(indices)
        ctx.save_for_forward(indices)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        return Spread.of(upstream, *ctx.saved_tensors, *ctx.how), None, None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        return cast(Tensor, Collect.of(tangents[0], *ctx.saved_tensors, *ctx.how))

    @staticmethod
    def vmap(info: Any, in_dims: Any, values: Tensor, indices: Tensor, *how: Any) -> tuple[Tensor, int]:
        return _vmap_along(Collect, info, in_dims, values, indices, *how), 0


def _vmap_along(
    function: type[Differentiable],
    info: Any,
    in_dims: Any,
    values: Tensor,
    indices: Tensor,
    size: tuple[int, ...],
    shape: PoolShape | None,
    channels_last: bool,
) -> Tensor:
    many = None if shape is None else replace(shape, batch=info.batch_size * shape.batch)
    folded = (fold(info.batch_size, dim, tensor) for dim, tensor in zip(in_dims, (values, indices), strict=False))
    return unfold(info, cast(Tensor, function.of(*folded, size, many, channels_last)))
