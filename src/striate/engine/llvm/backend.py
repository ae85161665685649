"""The backend of generated CPU kernels: what it takes, and why it leaves the rest."""

from __future__ import annotations

import torch
from torch import Tensor

from striate.engine.backends import Backend, Pass
from striate.engine.llvm import contraction, pools
from striate.engine.llvm.isa import host
from striate.geometry import ConvShape, PoolShape, Problem

#: Taps that a weight gradient writes out one by one; beyond, its code grows faster than it gains.
_MOST_TAPS = 256
#: Columns of a kernel, which every kernel writes out one by one.
_MOST_COLUMNS = 64
_LIMIT = 1 << 31


class LlvmBackend(Backend):
    """CPU kernels generated with LLVM for float32 problems of one and two axes."""

    name = "llvm"

    def refusal(self, problem: Problem, open_: Pass, dtype: torch.dtype, device: str) -> str | None:
        if device != "cpu":
            return f"generates code for CPUs, not for {device}"
        if dtype != torch.float32:
            return f"computes in float32, not {str(dtype).removeprefix('torch.')}"
        if host() is None:
            return "generates code for x86-64 and 64-bit ARM only"
        if problem.dims > 2:
            return "has kernels for 1 and 2 axes"
        shapes = [problem.input_shape, problem.output_shape]
        if isinstance(problem, ConvShape):
            shapes.append(problem.weight_shape)
        if any(0 in shape for shape in shapes):
            return "leaves empty tensors to others"
        if any(torch.Size(shape[2:]).numel() >= _LIMIT for shape in shapes):
            return "counts positions of a plane in 32 bits"
        if problem.kernel[-1] > _MOST_COLUMNS:
            return f"writes kernel columns out one by one, up to {_MOST_COLUMNS}"
        if isinstance(problem, PoolShape):
            return None
        if open_ is Pass.WEIGHT_GRAD and torch.Size(problem.kernel).numel() > _MOST_TAPS:
            return f"writes the taps of a weight gradient out one by one, up to {_MOST_TAPS}"
        return None

    def contract(self, shape: ConvShape, open_: Pass, first: Tensor, second: Tensor, bias: Tensor | None) -> Tensor:
        made = contraction.contract(shape, open_, first, second, bias)
        return (
            made if open_ is Pass.WEIGHT_GRAD else _laid_out_like(made, second if open_ is Pass.INPUT_GRAD else first)
        )

    def average(self, shape: PoolShape, open_: Pass, operand: Tensor) -> Tensor:
        made = pools.average(shape, operand) if open_ is Pass.OUTPUT else pools.average_grad(shape, operand)
        return _laid_out_like(made, operand)

    def maximum(self, shape: PoolShape, input: Tensor) -> tuple[Tensor, Tensor]:
        values, positions = pools.maximum(shape, input)
        return _laid_out_like(values, input), _laid_out_like(positions, input)

    def maximum_grad(self, shape: PoolShape, indices: Tensor, grad_output: Tensor) -> Tensor:
        return _laid_out_like(pools.maximum_grad(shape, indices, grad_output), grad_output)


def _laid_out_like(made: Tensor, operand: Tensor) -> Tensor:
    """The result with channels side by side where the operand has them so, for the next operation's sake."""
    if operand.dim() == 4 and operand.shape[1] > 1 and operand.stride(1) == 1:
        return made.contiguous(memory_format=torch.channels_last)
    return made
