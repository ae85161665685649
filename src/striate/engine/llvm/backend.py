"""The backend of generated CPU kernels: which problems it accepts, and why it refuses the others."""

from __future__ import annotations

import torch
from torch import Tensor

from striate.engine.backends import Backend, Pass, Ready
from striate.engine.layout import is_channels_last
from striate.engine.llvm.codegen.isa import host
from striate.engine.llvm.convolution import dispatch as convolution
from striate.engine.llvm.memory.relayout import laid_out
from striate.engine.llvm.pooling import dispatch as pooling
from striate.errors import OperandError
from striate.geometry import ConvShape, PoolShape, Problem

#: The most taps of a weight gradient, whose kernel unrolls them all.
_MOST_TAPS = 256
#: The most columns of a window, which every kernel unrolls.
_MOST_COLUMNS = 128
_LIMIT = 1 << 31
#: With fewer multiplications, dispatch takes longer than the kernel.
_FEW_MACS = 100_000
#: With this many input and output channels, PyTorch's kernels are hard to beat.
_MANY_CHANNELS = 16


class LlvmBackend(Backend):
    """CPU kernels generated with LLVM for float32 problems of one and two axes."""

    name = "llvm"

    def refusal(self, problem: Problem, open_: Pass, dtype: torch.dtype, device: str) -> str | None:
        if device != "cpu":
            return f"generates code for CPUs, not for {device}"
        if dtype != torch.float32:
            return f"computes in float32, not {str(dtype).removeprefix('torch.')}"
        if host() is None:
            return "generates code for x86-64; on 64-bit ARM if STRIATE_ISA=neon says so"
        if problem.dims > 2:
            return "has kernels for 1 and 2 axes"
        shapes = [problem.input_shape, problem.output_shape]
        if isinstance(problem, ConvShape):
            shapes.append(problem.weight_shape)
        if any(0 in shape for shape in shapes):
            return "has no kernels for empty tensors"
        if any(torch.Size(shape[2:]).numel() >= _LIMIT for shape in shapes):
            return "has 32-bit positions, too few for this plane"
        if problem.kernel[-1] > _MOST_COLUMNS:
            return f"unrolls kernel columns, at most {_MOST_COLUMNS}"
        if isinstance(problem, PoolShape):
            return None
        if open_ is Pass.WEIGHT_GRAD and torch.Size(problem.kernel).numel() > _MOST_TAPS:
            return f"unrolls the taps of a weight gradient, at most {_MOST_TAPS}"
        return None

    def recommends(self, problem: Problem, open_: Pass, channels_last: bool) -> bool:
        """Whether these kernels were faster than PyTorch's overall in ``benchmarks/results/operations.csv``."""
        if open_ is Pass.PACKED:
            return True
        if isinstance(problem, PoolShape):
            if problem.kind == "max":
                return open_ is not Pass.INPUT_GRAD or not channels_last
            # Lanes run along the width of the output, and global pooling has an output of width 1.
            return not channels_last and problem.output_size[-1] >= 4
        if problem.macs < _FEW_MACS:
            return False
        inner, outer = problem.in_channels // problem.groups, problem.out_channels // problem.groups
        if inner > 1 and min(inner, outer) >= _MANY_CHANNELS:
            return False
        depthwise = inner == outer == 1
        return depthwise or not channels_last or (problem.groups == 1 and open_ is not Pass.OUTPUT)

    def contract(
        self,
        shape: ConvShape,
        open_: Pass,
        first: Tensor,
        second: Tensor,
        bias: Tensor | None,
        channels_last: bool = False,
    ) -> Tensor:
        first, second, bias = checked_operands(shape, open_, first, second, bias)
        return convolution.ready(shape, open_, first, second, bias is not None, channels_last)(first, second, bias)

    def ready(
        self,
        shape: ConvShape,
        open_: Pass,
        first: Tensor,
        second: Tensor,
        bias: Tensor | None,
        channels_last: bool = False,
    ) -> Ready:
        first, second, bias = checked_operands(shape, open_, first, second, bias)
        return convolution.ready(shape, open_, first, second, bias is not None, channels_last)

    def average(self, shape: PoolShape, open_: Pass, operand: Tensor, channels_last: bool = False) -> Tensor:
        if open_ is Pass.OUTPUT:
            return laid_out(pooling.average(shape, _checked(shape, operand, shape.input_shape)), channels_last)
        return laid_out(pooling.average_grad(shape, _checked(shape, operand, shape.output_shape)), channels_last)

    def largest(self, shape: PoolShape, input: Tensor) -> Tensor:
        return laid_out(pooling.largest(shape, _checked(shape, input, shape.input_shape)), is_channels_last(input))

    def maximum(self, shape: PoolShape, input: Tensor) -> tuple[Tensor, Tensor]:
        last = is_channels_last(input)
        values, positions = pooling.maximum(shape, _checked(shape, input, shape.input_shape))
        return laid_out(values, last), laid_out(positions, last)

    def maximum_grad(
        self, shape: PoolShape, indices: Tensor, grad_output: Tensor, channels_last: bool = False
    ) -> Tensor:
        g = _checked(shape, grad_output, shape.output_shape)
        if indices.shape != shape.output_shape or indices.device.type != "cpu":
            raise OperandError(str(shape), f"got indices {tuple(indices.shape)}", f"needed {shape.output_shape}")
        return laid_out(pooling.maximum_grad(shape, indices, g), channels_last)


def checked_operands(
    shape: ConvShape, open_: Pass, first: Tensor, second: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Checks that the two operands and the bias of a contraction have the shapes that a kernel relies on."""
    shapes = (shape.input_shape, shape.weight_shape, shape.output_shape)
    one, other = shapes[:open_] + shapes[open_ + 1 :]
    bias = None if bias is None else _checked(shape, bias, shapes[open_][1:2])
    return _checked(shape, first, one), _checked(shape, second, other), bias


def _checked(shape: Problem, tensor: Tensor, wanted: tuple[int, ...]) -> Tensor:
    """Checks that a tensor is float32, on the CPU, and of the wanted shape, and resolves its negative bit."""
    if tensor.shape != wanted or tensor.dtype is not torch.float32 or not tensor.is_cpu:
        got = f"got {tuple(tensor.shape)} of {tensor.dtype} on {tensor.device}"
        raise OperandError(str(shape), got, f"needed {tuple(wanted)} of torch.float32 on cpu")
    # The imaginary part of a conjugate tensor has the old numbers in memory, and a bit that says they are negated.
    return tensor.resolve_neg() if tensor.is_neg() else tensor
