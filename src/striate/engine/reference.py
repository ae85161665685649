"""The definitions: every operation as a direct sum in float64, forward and gradients.

All other implementations are tested against this one, so it is written to be checked by reading, not to be fast: one
loop over the taps of the window, with input positions from :class:`striate.geometry.Window`. For operands of any dtype,
results are float64 (complex128 for complex operands).

These functions take problems; :mod:`striate.ops.reference` has them with the names and arguments of the operations.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from striate.engine.backends import FORM, NO_STEPS, Backend, Pass
from striate.errors import OperandError
from striate.geometry import ConvShape, PoolShape, Problem, Window

# Legend of the einsum letters: n batch, g group, o output channel of a group, c input channel of a group, p positions.


class ReferenceBackend(Backend):
    name = "reference"
    competes = False

    def refusal(self, problem: Problem, open_: Pass, dtype: torch.dtype, device: str) -> str | None:
        return NO_STEPS if open_ is Pass.PACKED else None

    def contract(
        self,
        shape: ConvShape,
        open_: Pass,
        first: Tensor,
        second: Tensor,
        bias: Tensor | None,
        channels_last: bool = False,
    ) -> Tensor:
        result = contract(shape, open_, first, second)
        if bias is not None:
            result = result + bias.to(result).reshape(-1, *[1] * shape.dims)
        return result.to(first.dtype)

    def average(self, shape: PoolShape, open_: Pass, operand: Tensor, channels_last: bool = False) -> Tensor:
        made = average(shape, operand) if open_ is Pass.OUTPUT else average_grad(shape, operand)
        return made.to(operand.dtype)

    def maximum(self, shape: PoolShape, input: Tensor) -> tuple[Tensor, Tensor]:
        values, indices = maximum(shape, input)
        return values.to(input.dtype), indices

    def maximum_grad(
        self, shape: PoolShape, indices: Tensor, grad_output: Tensor, channels_last: bool = False
    ) -> Tensor:
        return maximum_grad(shape.size, indices, grad_output).to(grad_output.dtype)


def _exact(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.complex128 if tensor.dtype.is_complex else torch.float64)


def _taps(
    windows: Sequence[Window], size: Sequence[int], outputs: Sequence[int]
) -> Iterator[tuple[Any, Tensor, Tensor]]:
    """For every tap: its index, the flat input position that each output sees through it, and whether it is inside."""
    resolved = [window.resolve(n) for window, n in zip(windows, size, strict=True)]
    for tap in itertools.product(*(range(window.kernel) for window in resolved)):
        flat, inside = torch.zeros((), dtype=torch.long), torch.ones((), dtype=torch.bool)
        for window, t, n, m in zip(resolved, tap, size, outputs, strict=True):
            position = torch.tensor([window.position(o, t) for o in range(m)], dtype=torch.long)
            flat = flat.unsqueeze(-1) * n + position
            inside = inside.unsqueeze(-1) & (position >= 0) & (position < n)
        yield tap, flat.flatten(), inside.flatten()


# -------------------------------------------------------------------- convolution


def contract(shape: ConvShape, open_: Pass, first: Tensor, second: Tensor) -> Tensor:
    """T(x, w, g) with one operand open; ``first`` and ``second`` are the other two in that order.

    y[n, o, p] = sum over c, t of x[n, c, position(p, t)] * w[o, c, t]. The gradients dx[n, c, position(p, t)] and
    dw[o, c, t] sum the same products over the indices that they don't have.

    Formula: F1, F2, F3, F8, F13, F14, F15, F16, F17, W1, W2, W3.
    """
    roles = dict(zip((role for role in FORM if role is not open_), (first, second), strict=True))
    final = {Pass.INPUT_GRAD: shape.input_shape, Pass.WEIGHT_GRAD: shape.weight_shape, Pass.OUTPUT: shape.output_shape}
    for role, tensor in roles.items():
        if tensor.shape != final[role]:
            name = role.name.removesuffix("_GRAD").lower()
            raise OperandError(str(shape), f"got {name} {tuple(tensor.shape)}", f"needed {final[role]}")
    groups, device = shape.groups, first.device
    dtype = torch.promote_types(_exact(first).dtype, _exact(second).dtype)
    shapes = {
        Pass.INPUT_GRAD: (shape.batch, groups, shape.in_channels // groups, math.prod(shape.size)),
        Pass.WEIGHT_GRAD: (groups, shape.out_channels // groups, shape.in_channels // groups, *shape.kernel),
        Pass.OUTPUT: (shape.batch, groups, shape.out_channels // groups, math.prod(shape.output_size)),
    }
    form = {
        role: _exact(roles[role]).to(dtype).reshape(shapes[role])
        if role in roles
        else torch.zeros(shapes[role], dtype=dtype, device=device)
        for role in FORM
    }
    x, w, y = (form[role] for role in (Pass.INPUT_GRAD, Pass.WEIGHT_GRAD, Pass.OUTPUT))
    for tap, position, inside in _taps(shape.windows, shape.size, shape.output_size):
        # Positions in the padding contribute zero, so they are left out.
        here, there = inside.nonzero().flatten().to(device), position[inside].to(device)
        weight = w[(..., *tap)]
        if open_ is Pass.OUTPUT:
            y[..., here] += torch.einsum("ngcp,goc->ngop", x[..., there], weight)
        elif open_ is Pass.INPUT_GRAD:
            x[..., there] += torch.einsum("ngop,goc->ngcp", y[..., here], weight)
        else:
            weight += torch.einsum("ngcp,ngop->goc", x[..., there], y[..., here])
    return form[open_].reshape(final[open_])


# -------------------------------------------------------------------- pooling


def maximum(shape: PoolShape, input: Tensor) -> tuple[Tensor, Tensor]:
    """y[p] = max over t of x[position(p, t)], with the flat position of the first maximum; NaN is the largest value.

    Formula: F36, F41, W4.
    """
    x = input.detach().flatten(2)
    best = x.new_zeros(*shape.output_shape[:2], math.prod(shape.output_size))
    index = torch.full(best.shape, -1, dtype=torch.long, device=x.device)
    for _, position, inside in _taps(shape.windows, shape.size, shape.output_size):
        seen = x[..., position.clamp(0, x.shape[-1] - 1).to(x.device)]
        better = inside.to(x.device) & ((index < 0) | (seen > best) | seen.isnan())
        best, index = torch.where(better, seen, best), torch.where(better, position.to(x.device), index)
    return _exact(best).reshape(shape.output_shape), index.reshape(shape.output_shape)


def maximum_grad(size: Sequence[int], indices: Tensor, grad_output: Tensor) -> Tensor:
    """dx[i] = sum of g[p] over all p whose maximum is at i.

    Formula: F39, W5.
    """
    grad = torch.zeros(*grad_output.shape[:2], math.prod(size), dtype=torch.float64, device=grad_output.device)
    flat, upstream = indices.flatten(2).long(), _exact(grad_output).flatten(2)
    for place in range(flat.shape[2]):
        grad.scatter_add_(2, flat[..., place : place + 1], upstream[..., place : place + 1])
    return grad.reshape(*grad.shape[:2], *size)


def average(shape: PoolShape, input: Tensor) -> Tensor:
    """y[p] = 1 / cells(p) * sum over t of x[position(p, t)].

    Formula: F37, W6.
    """
    x = _exact(input).flatten(2)
    total = x.new_zeros(*shape.output_shape[:2], math.prod(shape.output_size))
    for _, position, inside in _taps(shape.windows, shape.size, shape.output_size):
        total[..., inside] += x[..., position[inside]]
    return total.reshape(shape.output_shape) / _cells(shape, x.device)


def average_grad(shape: PoolShape, grad_output: Tensor) -> Tensor:
    """dx[i] = sum of g[p] / cells(p) over all (p, t) with position(p, t) = i.

    Formula: F40, W7.
    """
    share = (_exact(grad_output) / _cells(shape, grad_output.device)).flatten(2)
    grad = share.new_zeros(*shape.input_shape[:2], math.prod(shape.size))
    for _, position, inside in _taps(shape.windows, shape.size, shape.output_size):
        grad[..., position[inside]] += share[..., inside]
    return grad.reshape(shape.input_shape)


def _cells(shape: PoolShape, device: torch.device) -> Tensor:
    if shape.divisor is not None:
        return torch.tensor(float(shape.divisor), dtype=torch.float64, device=device)
    counts = [math.prod(each) for each in itertools.product(*shape.divisors)]
    return torch.tensor(counts, dtype=torch.float64, device=device).reshape(shape.output_size)
