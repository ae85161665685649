"""Batch normalisation: chooses the kernels and the work items. See convolution/sums.py.

There are kernels for two layouts without gaps, planes (NCHW) and channels last. Other layouts have none.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import cache, cached_property, lru_cache
from typing import NamedTuple

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


class _Maps(NamedTuple):
    """The addresses of a forward call's maps; fields have the names of the kernels' arguments, here and below."""

    x: int
    y: int
    residual: int


class _Channelwise(NamedTuple):
    """What the forward kernels know of channels: addresses, and floats as words."""

    weight: int
    bias: int
    mean: int
    variance: int
    stays: int
    comes: int
    comes_unbiased: int
    eps: int


class _GradMaps(NamedTuple):
    """The addresses of a backward call's maps."""

    g: int
    x: int
    y: int
    middle: int
    grad: int


class _Gradients(NamedTuple):
    """The addresses of the gradients of weight and bias."""

    grad_weight: int
    grad_bias: int


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
        channelwise = _Channelwise(
            weight=weight.data_ptr(),
            bias=bias.data_ptr(),
            mean=mean.data_ptr(),
            variance=variance.data_ptr(),
            stays=real_word(1 - momentum),
            comes=real_word(momentum),
            comes_unbiased=real_word(unbiased),
            eps=real_word(eps),
        )
        y, kept = torch.empty_like(input), fresh.empty(KEPT, channels)
        maps = _Maps(x=input.data_ptr(), y=y.data_ptr(), residual=0 if residual is None else residual.data_ptr())
        self._forward(maps, kept.data_ptr(), channelwise)
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
        maps = _GradMaps(
            g=grad.data_ptr(),
            x=input.data_ptr(),
            y=0 if y is None else y.data_ptr(),
            middle=middle.data_ptr(),
            grad=grad_input.data_ptr(),
        )
        gradients = _Gradients(grad_weight=grad_weight.data_ptr(), grad_bias=grad_bias.data_ptr())
        kept = kept.contiguous()  # saved-tensor hooks may have changed its layout
        self._backward(maps, kept.data_ptr(), gradients)
        return grad_input, middle, grad_weight, grad_bias

    @abstractmethod
    def _forward(self, maps: _Maps, statistics: int, channelwise: _Channelwise) -> None:
        """Runs the forward kernels; ``statistics`` is the address of the saved numbers."""

    @abstractmethod
    def _backward(self, maps: _GradMaps, statistics: int, gradients: _Gradients) -> None:
        """Runs the backward kernels."""


class _Nchw(NormKernels):
    """The kernels for planes; a work item is a channel."""

    least = 1 << 15

    def __init__(self, form: NormVariant, images: int, channels: int, size: int, threads: int) -> None:
        super().__init__(form, images, channels, size, threads)
        self._bound = {"channels": channels, "images": images, "size": size, "share": real_word(1 / self.many)}

    @cached_property
    def _there(self) -> Start:
        kernel, free = _nchw_forward(self.isa, self.form), (*_Maps._fields, "statistics", *_Channelwise._fields)
        return kernel.bound(free, self.channels, self.threads, **self._bound)

    @cached_property
    def _back(self) -> Start:
        kernel = _nchw_backward(self.isa, self.form, nchw.vectors_together(self.size, self.isa.lanes))
        free = (*_GradMaps._fields, "statistics", *_Gradients._fields)
        return kernel.bound(free, self.channels, self.threads, **self._bound)

    def _forward(self, maps: _Maps, statistics: int, channelwise: _Channelwise) -> None:
        self._there(*maps, statistics, *channelwise)

    def _backward(self, maps: _GradMaps, statistics: int, gradients: _Gradients) -> None:
        self._back(*maps, statistics, *gradients)


class _Nhwc(NormKernels):
    """The kernels for channels last; a work item is a chunk or a block of rows."""

    least = 1 << 17

    def __init__(self, form: NormVariant, images: int, channels: int, size: int, threads: int) -> None:
        super().__init__(form, images, channels, size, threads)
        chunk = -(-self.many // (_CHUNKS * nhwc.BLOCK)) * nhwc.BLOCK
        self._chunks, self._blocks = -(-self.many // chunk), -(-self.many // nhwc.BLOCK)
        self._sizes = {"channels": channels, "rows": self.many, "chunk": chunk}
        self._together = nhwc.vectors_together(channels, self.isa.lanes)

    @cached_property
    def _there(self) -> tuple[Start, Start, Start]:
        isa, form, sizes, threads = self.isa, self.form, self._sizes, self.threads
        sums = _sums(isa, self._together).bound(("x", "partial"), self._chunks, threads, **sizes)
        free: tuple[str, ...] = ("partial", "statistics", *_Channelwise._fields)
        settle = _settle(isa, form.training).bound(free, 1, 1, chunks=self._chunks, **sizes)
        free = (*_Maps._fields, "statistics")
        apply = _forward(isa, form, self._together).bound(free, self._blocks, threads, **sizes)
        return sums, settle, apply

    @cached_property
    def _back(self) -> tuple[Start, Start, Start]:
        isa, form, sizes, threads = self.isa, self.form, self._sizes, self.threads
        free: tuple[str, ...] = ("g", "x", "y", "middle", "partial", "statistics")
        sums = _grad_sums(isa, form, self._together).bound(free, self._chunks, threads, **sizes)
        free = ("partial", "lines", "statistics", *_Gradients._fields)
        share = real_word(1 / self.many)
        settle = _grad_settle(isa).bound(free, 1, 1, chunks=self._chunks, share=share, **sizes)
        free = ("g", "x", "grad", "lines", "statistics")
        apply = _backward(isa, form, self._together).bound(free, self._blocks, threads, **sizes)
        return sums, settle, apply

    def _forward(self, maps: _Maps, statistics: int, channelwise: _Channelwise) -> None:
        sums, settle, apply = self._there
        partial = fresh.empty(self._chunks, 3, self.channels, dtype=torch.float64)
        if self.form.training:
            sums(maps.x, partial.data_ptr())
        settle(partial.data_ptr(), statistics, *channelwise)
        apply(*maps, statistics)

    def _backward(self, maps: _GradMaps, statistics: int, gradients: _Gradients) -> None:
        sums, settle, apply = self._back
        g, x, y, middle, grad = maps
        partial, lines = fresh.empty(self._chunks, 2, self.channels, dtype=torch.float64), fresh.empty(2, self.channels)
        sums(g, x, y, middle, partial.data_ptr(), statistics)
        settle(partial.data_ptr(), lines.data_ptr(), statistics, *gradients)
        apply(middle, x, grad, lines.data_ptr(), statistics)


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
