"""Batch normalisation on memory: which kernels, over which items. See contraction.py.

Two layouts have kernels: planes, and channels side by side. A tensor without gaps that is neither has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from striate.engine.llvm import interleaved_normalization as interleaved
from striate.engine.llvm import launch
from striate.engine.llvm import planar_normalization as planar
from striate.engine.llvm.contraction import the_isa
from striate.engine.llvm.emit import real_word
from striate.engine.llvm.isa import Isa, host
from striate.engine.llvm.launch import Kernel
from striate.engine.llvm.normalization import KEPT, Form

#: Chunks of rows that sums are taken over: the most threads that can share them, and as many more to settle.
_CHUNKS = 32


@cache
def _planar_forward(isa: Isa, form: Form) -> Kernel:
    return Kernel(planar.generate_forward(isa, form), isa)


@cache
def _planar_backward(isa: Isa, form: Form) -> Kernel:
    return Kernel(planar.generate_backward(isa, form), isa)


@cache
def _sums(isa: Isa, together: int) -> Kernel:
    return Kernel(interleaved.generate_sums(isa, together), isa)


@cache
def _settle(isa: Isa, training: bool) -> Kernel:
    return Kernel(interleaved.generate_settle(isa, training), isa)


@cache
def _forward(isa: Isa, form: Form, together: int) -> Kernel:
    return Kernel(interleaved.generate_forward(isa, form, together), isa)


@cache
def _grad_sums(isa: Isa, form: Form, together: int) -> Kernel:
    return Kernel(interleaved.generate_grad_sums(isa, form, together), isa)


@cache
def _grad_settle(isa: Isa) -> Kernel:
    return Kernel(interleaved.generate_grad_settle(isa), isa)


@cache
def _backward(isa: Isa, form: Form, together: int) -> Kernel:
    return Kernel(interleaved.generate_backward(isa, form, together), isa)


@dataclass(frozen=True, slots=True)
class Maps:
    """How maps lie in memory: (images, channels, size) with planes, or (images * size, channels) side by side."""

    images: int
    channels: int
    size: int
    side_by_side: bool

    @classmethod
    def of(cls, tensor: Tensor) -> Maps | None:
        """None for a tensor that lies otherwise."""
        images, channels = tensor.shape[:2]
        count = tensor.numel() // (images * channels)
        if tensor.is_contiguous():
            return cls(images, channels, count, count == 1)
        if tensor.movedim(1, -1).is_contiguous():
            return cls(images, channels, count, True)
        return None

    @property
    def numbers(self) -> int:
        """Of a channel."""
        return self.images * self.size

    @property
    def chunk(self) -> int:
        """Rows of a chunk: whole blocks."""
        return -(-self.numbers // (_CHUNKS * interleaved.BLOCK)) * interleaved.BLOCK


def refusal(input: Tensor) -> str | None:
    """Why float32 maps on the CPU have no kernels, or None if they have."""
    if host() is None:
        return "generates code for x86-64; on 64-bit ARM if STRIATE_ISA=neon says so"
    maps = Maps.of(input) if input.numel() else None
    if maps is None:
        return "has kernels for planes and for channels side by side, without gaps"
    if not maps.side_by_side and maps.channels < launch.threads():
        return "gives every thread channels of its own"
    return None


@cache
def constant(channels: int, value: float) -> Tensor:
    """The weight or bias of those who have none."""
    return torch.full((channels,), value)


def forward(
    form: Form,
    input: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    running: tuple[Tensor | None, Tensor | None],
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """The result and what is kept of every channel, (KEPT, C); training moves the running statistics."""
    maps, isa, threads = Maps.of(input), the_isa(), launch.threads()
    assert maps is not None
    many, channels = maps.numbers, maps.channels
    weight = constant(channels, 1.0) if weight is None else weight
    bias = constant(channels, 0.0) if bias is None else bias
    y, kept = torch.empty_like(input), torch.empty(KEPT, channels)
    mean, variance = (torch.empty(channels) if each is None else each for each in running)
    x_y_residual = [input.data_ptr(), y.data_ptr(), 0 if residual is None else residual.data_ptr()]
    statistics = [kept.data_ptr(), channels]
    unbiased = momentum * many / max(many - 1, 1)
    reals = [real_word(number) for number in (1 - momentum, momentum, unbiased, eps)]
    channelwise = [*(each.data_ptr() for each in (weight, bias, mean, variance)), *reals]
    if not maps.side_by_side:
        sampled = maps.images * min(isa.lanes, maps.size)
        words = [
            *x_y_residual,
            *statistics,
            *channelwise,
            maps.images,
            maps.size,
            real_word(1 / many),
            real_word(1 / sampled),
        ]
        _planar_forward(isa, form)(channels, words, threads)
        return y, kept
    together = interleaved.vectors_together(channels, isa.lanes)
    chunks = -(-many // maps.chunk)
    partial = torch.empty(chunks, 3, channels) if form.training else kept
    if form.training:
        _sums(isa, together)(chunks, [input.data_ptr(), partial.data_ptr(), channels, many, maps.chunk], threads)
    _settle(isa, form.training)(1, [partial.data_ptr(), *statistics, *channelwise, many, maps.chunk, chunks], 1)
    blocks = -(-many // interleaved.BLOCK)
    _forward(isa, form, together)(blocks, [*x_y_residual, *statistics, many, maps.chunk], threads)
    return y, kept


def backward(
    form: Form, grad: Tensor, input: Tensor, other: Tensor | None, kept: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of input, residual, weight and bias; ``other`` is what the form keeps beside the input."""
    maps, isa, threads = Maps.of(input), the_isa(), launch.threads()
    assert maps is not None
    many, channels = maps.numbers, maps.channels
    grad_input, grad_weight, grad_bias = torch.empty_like(input), torch.empty(channels), torch.empty(channels)
    middle = torch.empty_like(input) if form.keeps else grad
    sources = [grad.data_ptr(), input.data_ptr(), 0 if other is None else other.data_ptr(), middle.data_ptr()]
    statistics = [kept.data_ptr(), channels]
    gradients = [grad_weight.data_ptr(), grad_bias.data_ptr(), real_word(1 / many)]
    if not maps.side_by_side:
        words = [*sources, grad_input.data_ptr(), *statistics, *gradients, maps.images, maps.size]
        _planar_backward(isa, form)(channels, words, threads)
        return grad_input, middle, grad_weight, grad_bias
    together = interleaved.vectors_together(channels, isa.lanes)
    chunks, blocks = -(-many // maps.chunk), -(-many // interleaved.BLOCK)
    partial, lines = torch.empty(chunks, 2, channels), torch.empty(2, channels)
    sizes = [many, maps.chunk]
    _grad_sums(isa, form, together)(chunks, [*sources, partial.data_ptr(), *statistics, *sizes], threads)
    _grad_settle(isa)(1, [partial.data_ptr(), lines.data_ptr(), *statistics, *gradients, *sizes, chunks], 1)
    sent = [middle.data_ptr(), input.data_ptr(), grad_input.data_ptr(), lines.data_ptr()]
    _backward(isa, form, together)(blocks, [*sent, *statistics, *sizes], threads)
    return grad_input, middle, grad_weight, grad_bias
