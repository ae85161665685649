"""Convolutions with one position, as matrix products.

A window over the whole input has one output position, and then each contraction is a matrix product of its operands
with everything but images or output channels made one axis: LeNet's C5, squeeze-and-excitation's 1x1 convolutions of
1x1 maps, fully connected layers written as convolutions. PyTorch's convolution kernels reorder such weights for tiles
that a single position has no use for, and take up to ten times as long as its matrix product.
"""

from __future__ import annotations

import torch
from torch import Tensor

from striate.engine.backends import Backend, Pass
from striate.engine.layout import is_channels_last, new_empty, reshaped
from striate.errors import BackendError
from striate.geometry import ConvShape, PoolShape, Problem


class MatmulBackend(Backend):
    """PyTorch's matrix product for convolutions whose window covers the whole input, no more and no less."""

    name = "matmul"

    def refusal(self, problem: Problem, open_: Pass, dtype: torch.dtype, device: str) -> str | None:
        if not isinstance(problem, ConvShape):
            return "multiplies matrices"
        if dtype not in (torch.float32, torch.float64) or device != "cpu":
            return "stands in for CPU kernels in float32 and float64"
        if problem.groups > 1:
            return "multiplies one matrix, not one a group"
        whole = problem.size == problem.kernel and not any(map(any, problem.pads))
        if not whole or any(d > 1 and k > 1 for d, k in zip(problem.dilation, problem.kernel, strict=True)):
            return "needs a window over the whole input"
        if 0 in problem.input_shape or 0 in problem.weight_shape:
            return "leaves empty tensors to others"
        return None

    def contract(
        self,
        shape: ConvShape,
        open_: Pass,
        first: Tensor,
        second: Tensor,
        bias: Tensor | None,
        channels_last: bool = False,
    ) -> Tensor:
        if open_ is Pass.OUTPUT:
            last = is_channels_last(second)
            x, w = _flat(first, last), _flat(second, last)
            y = x @ w.t() if bias is None else torch.addmm(bias, x, w.t())
            return reshaped(y, shape.output_shape)
        if open_ is Pass.WEIGHT_GRAD:
            last = is_channels_last(first)
            x, g = _flat(first, last), second.flatten(1)
            made = new_empty(g, shape.weight_shape, last)
            torch.mm(g.t(), x, out=_flat(made, last))
            return made
        last = channels_last and shape.dims > 1
        g, w = second.flatten(1), _flat(first, last)
        made = new_empty(g, shape.input_shape, last)
        torch.mm(g, w, out=_flat(made, last))
        if bias is not None:
            made += bias.reshape(-1, *[1] * shape.dims)
        return made

    def average(self, shape: PoolShape, open_: Pass, operand: Tensor, channels_last: bool = False) -> Tensor:
        raise BackendError(str(shape), "backend matmul multiplies matrices")

    def maximum(self, shape: PoolShape, input: Tensor) -> tuple[Tensor, Tensor]:
        raise BackendError(str(shape), "backend matmul multiplies matrices")

    def maximum_grad(
        self, shape: PoolShape, indices: Tensor, grad_output: Tensor, channels_last: bool = False
    ) -> Tensor:
        raise BackendError(str(shape), "backend matmul multiplies matrices")


def _flat(tensor: Tensor, channels_last: bool) -> Tensor:
    """(N, everything else), as a view where the layout is the one said."""
    return (tensor.movedim(1, -1) if channels_last else tensor).flatten(1)
