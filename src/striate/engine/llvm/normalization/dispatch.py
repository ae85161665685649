"""Batch normalisation: chooses the kernels and the work items. See convolution/sums.py.

There are kernels for two layouts without gaps, planes (NCHW) and channels last. Other layouts have none.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import cache, cached_property, lru_cache

import torch
from torch import Tensor

from striate.engine import fresh
from striate.engine.llvm.codegen import launch
from striate.engine.llvm.codegen.ir import real_word
from striate.engine.llvm.codegen.isa import Isa, host, the_isa
from striate.engine.llvm.codegen.launch import Kernel, Start
from striate.engine.llvm.normalization import nchw, nhwc
from striate.engine.llvm.normalization.formulas import KEPT, NormVariant

#: The most chunks of rows with sums of their own, and so the most threads that sum.
_CHUNKS = 32


@cache
def _nchw_forward(isa: Isa, form: NormVariant) -> Kernel:
    return Kernel(nchw.generate_forward(isa, form), isa)


@cache
def _nchw_backward(isa: Isa, form: NormVariant, together: int) -> Kernel:
    return Kernel(nchw.generate_backward(isa, form, together), isa)


@cache
def _sums(isa: Isa, together: int) -> Kernel:
    return Kernel(nhwc.generate_sums(isa, together), isa)


@cache
def _settle(isa: Isa, training: bool) -> Kernel:
    return Kernel(nhwc.generate_settle(isa, training), isa)


@cache
def _forward(isa: Isa, form: NormVariant, together: int) -> Kernel:
    return Kernel(nhwc.generate_forward(isa, form, together), isa)


@cache
def _grad_sums(isa: Isa, form: NormVariant, together: int) -> Kernel:
    return Kernel(nhwc.generate_grad_sums(isa, form, together), isa)


@cache
def _grad_settle(isa: Isa) -> Kernel:
    return Kernel(nhwc.generate_grad_settle(isa), isa)


@cache
def _backward(isa: Isa, form: NormVariant, together: int) -> Kernel:
    return Kernel(nhwc.generate_backward(isa, form, together), isa)


class NormKernels(ABC):
    """The normalisation of maps of one shape and layout on a number of threads; only addresses are missing."""

    #: The least number of elements for which the kernels save more than Python dispatch costs.
    least: int

    def __init__(self, form: NormVariant, images: int, channels: int, size: int, threads: int) -> None:
        self.form, self.isa, self.threads = form, the_isa(), threads
        self.images, self.channels, self.size = images, channels, size
        #: Numbers per channel.
        self.many = images * size

    def forward(
        self,
        input: Tensor,
        residual: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        running: tuple[Tensor | None, Tensor | None],
        momentum: float,
        eps: float,
    ) -> tuple[Tensor, Tensor]:
        """The result, and the saved numbers of every channel, (KEPT, C); training updates the running statistics."""
        channels = self.channels
        weight = _constant(channels, 1.0) if weight is None else weight
        bias = _constant(channels, 0.0) if bias is None else bias
        mean, variance = (fresh.empty(channels) if each is None else each for each in running)
        unbiased = momentum * self.many / max(self.many - 1, 1)
        channelwise = [weight.data_ptr(), bias.data_ptr(), mean.data_ptr(), variance.data_ptr()]
        channelwise += [real_word(number) for number in (1 - momentum, momentum, unbiased, eps)]
        y, kept = torch.empty_like(input), fresh.empty(KEPT, channels)
        maps = [input.data_ptr(), y.data_ptr(), 0 if residual is None else residual.data_ptr()]
        self._forward(maps, [kept.data_ptr(), channels], channelwise)
        return y, kept

    def backward(
        self, grad: Tensor, input: Tensor, y: Tensor | None, kept: Tensor, over: bool = False
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The gradients of input, residual, weight and bias; ``y`` is the result if the form saves it.

        ``over``: whether the input gradient may overwrite ``grad``, which nothing else reads.
        """
        # If there is no activation to differentiate first, ``grad`` itself is the residual's gradient.
        over = over and (self.form.keeps or not self.form.residual)
        grad_input = grad if over else torch.empty_like(input)
        grad_weight, grad_bias = fresh.empty(self.channels), fresh.empty(self.channels)
        # The gradient before the activation is the residual's gradient.
        middle = torch.empty_like(input) if self.form.keeps else grad
        maps = [grad.data_ptr(), input.data_ptr(), 0 if y is None else y.data_ptr(), middle.data_ptr()]
        gradients = [grad_weight.data_ptr(), grad_bias.data_ptr(), real_word(1 / self.many)]
        kept = kept.contiguous()  # saved-tensor hooks may have changed its layout
        self._backward([*maps, grad_input.data_ptr()], [kept.data_ptr(), self.channels], gradients)
        return grad_input, middle, grad_weight, grad_bias

    @abstractmethod
    def _forward(self, maps: list[int], statistics: list[int], channelwise: list[int]) -> None:
        """Runs the forward kernels; arguments are grouped as the kernels read them."""

    @abstractmethod
    def _backward(self, maps: list[int], statistics: list[int], gradients: list[int]) -> None:
        """Runs the backward kernels."""


#: The number of words in the groups of arguments: statistics, channelwise (forward) and gradients (backward).
_STATISTICS, _CHANNELWISE, _GRADIENTS = 2, 8, 3


class _Nchw(NormKernels):
    """The kernels for planes; a work item is a channel."""

    least = 1 << 15

    def __init__(self, form: NormVariant, images: int, channels: int, size: int, threads: int) -> None:
        super().__init__(form, images, channels, size, threads)
        self._sizes = [images, size]

    def _start(self, kernel: Kernel, own: int, tail: list[int]) -> Start:
        return kernel.start(tail, own, self.channels, self.threads)

    @cached_property
    def _there(self) -> Start:
        own = 3 + _STATISTICS + _CHANNELWISE
        return self._start(_nchw_forward(self.isa, self.form), own, [*self._sizes, real_word(1 / self.many)])

    @cached_property
    def _back(self) -> Start:
        kernel = _nchw_backward(self.isa, self.form, nchw.vectors_together(self.size, self.isa.lanes))
        return self._start(kernel, 5 + _STATISTICS + _GRADIENTS, self._sizes)

    def _forward(self, maps: list[int], statistics: list[int], channelwise: list[int]) -> None:
        self._there(*maps, *statistics, *channelwise)

    def _backward(self, maps: list[int], statistics: list[int], gradients: list[int]) -> None:
        self._back(*maps, *statistics, *gradients)


class _Nhwc(NormKernels):
    """The kernels for channels last; a work item is a chunk or a block of rows."""

    least = 1 << 17

    def __init__(self, form: NormVariant, images: int, channels: int, size: int, threads: int) -> None:
        super().__init__(form, images, channels, size, threads)
        chunk = -(-self.many // (_CHUNKS * nhwc.BLOCK)) * nhwc.BLOCK
        self._chunks, self._blocks = -(-self.many // chunk), -(-self.many // nhwc.BLOCK)
        self._sizes = [self.many, chunk]
        self._together = nhwc.vectors_together(channels, self.isa.lanes)

    @cached_property
    def _there(self) -> tuple[Start, Start, Start]:
        isa, form, sizes, threads = self.isa, self.form, self._sizes, self.threads
        sums = _sums(isa, self._together).start(sizes, 3, self._chunks, threads)
        own = 1 + _STATISTICS + _CHANNELWISE
        settle = _settle(isa, form.training).start([*sizes, self._chunks], own, 1, 1)
        apply = _forward(isa, form, self._together).start(sizes, 3 + _STATISTICS, self._blocks, threads)
        return sums, settle, apply

    @cached_property
    def _back(self) -> tuple[Start, Start, Start]:
        isa, form, sizes, threads = self.isa, self.form, self._sizes, self.threads
        sums = _grad_sums(isa, form, self._together).start(sizes, 5 + _STATISTICS, self._chunks, threads)
        own = 2 + _STATISTICS + _GRADIENTS
        settle = _grad_settle(isa).start([*sizes, self._chunks], own, 1, 1)
        apply = _backward(isa, form, self._together).start(sizes, 4 + _STATISTICS, self._blocks, threads)
        return sums, settle, apply

    def _forward(self, maps: list[int], statistics: list[int], channelwise: list[int]) -> None:
        sums, settle, apply = self._there
        partial = fresh.empty(self._chunks, 3, self.channels, dtype=torch.float64)
        if self.form.training:
            sums(maps[0], partial.data_ptr(), self.channels)
        settle(partial.data_ptr(), *statistics, *channelwise)
        apply(*maps, *statistics)

    def _backward(self, maps: list[int], statistics: list[int], gradients: list[int]) -> None:
        sums, settle, apply = self._back
        grad, input, other, middle, grad_input = maps
        partial, lines = fresh.empty(self._chunks, 2, self.channels, dtype=torch.float64), fresh.empty(2, self.channels)
        sums(grad, input, other, middle, partial.data_ptr(), *statistics)
        settle(partial.data_ptr(), lines.data_ptr(), *statistics, *gradients)
        apply(middle, input, grad_input, lines.data_ptr(), *statistics)


def plan(form: NormVariant, input: Tensor) -> NormKernels | None:
    """The plan for normalising float32 maps on the CPU, or None if there are no kernels for them.

    There are kernels for (N, C, ...) in planes and in channels last, both without gaps. For planes, threads divide the
    channels, so there must be enough of them.
    """
    return _plan(form, input.shape, input.stride(), launch.threads()) if host() is not None else None


@lru_cache(maxsize=4096)
def _plan(form: NormVariant, shape: tuple[int, ...], strides: tuple[int, ...], threads: int) -> NormKernels | None:
    images, channels, *axes = shape
    size = math.prod(axes)
    if _follows(shape, strides, range(len(shape))):
        if size == 1:
            return _Nhwc(form, images, channels, size, threads)
        return _Nchw(form, images, channels, size, threads) if channels >= threads else None
    if _follows(shape, strides, [0, *range(2, len(shape)), 1]):
        return _Nhwc(form, images, channels, size, threads)
    return None


def _follows(shape: tuple[int, ...], strides: tuple[int, ...], order: Iterable[int]) -> bool:
    """Whether a layout has no gaps and its axes are in this order; axes of length 1 don't matter."""
    step = 1
    for axis in reversed(list(order)):
        if shape[axis] != 1 and strides[axis] != step:
            return False
        step *= shape[axis]
    return True


@cache
def _constant(channels: int, value: float) -> Tensor:
    """The weight or bias of a layer that has none."""
    return fresh.full((channels,), value)
