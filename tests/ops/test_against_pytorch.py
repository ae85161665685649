"""PyTorch's own operator samples: every call that PyTorch tests itself with, value and gradients."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing._internal.common_methods_invocations import op_db

import striate
from cases import quick_but, slow_but
from striate import ops
from striate.errors import GeometryError

PREFIX = "nn.functional."
SAMPLED = {
    op.name.removeprefix(PREFIX): op
    for op in op_db
    # Resampling is PyTorch's function itself, with other arguments.
    if op.name.startswith(PREFIX) and op.name.removeprefix(PREFIX) in set(ops.__all__) - {"interpolate"}
}


def test_no_operation_has_lost_its_samples() -> None:
    expected = {f"{name}{dims}d" for name in ("conv", "conv_transpose", "max_pool", "avg_pool") for dims in (1, 2, 3)}
    expected |= {f"adaptive_{kind}_pool{dims}d" for kind in ("avg", "max") for dims in (1, 2, 3)}
    assert set(SAMPLED) == expected


def changed_layouts(tensors: list[Tensor], dims: int) -> Iterator[list[Tensor]]:
    """The operands as they are, and with channels last where they have a batch (PyTorch refuses it elsewhere)."""
    yield tensors
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    if tensors[0].dim() == dims + 2:
        yield [
            tensor.detach().contiguous(memory_format=formats[tensor.dim()]).requires_grad_(tensor.requires_grad)
            if tensor.dim() in formats
            else tensor
            for tensor in tensors
        ]


def agree(mine: Any, theirs: Any, call: Any, dims: int, layouts: bool = True) -> None:
    """Value, and gradients by every operand that wants one, within the rounding of a sum of a few hundred terms."""
    operands = [value for value in call if isinstance(value, Tensor)]
    for tensors in changed_layouts(operands, dims) if layouts else [operands]:
        rest = iter(tensors)
        values = [next(rest) if isinstance(value, Tensor) else value for value in call]
        y, x = mine(*values), theirs(*values)
        if isinstance(x, tuple):
            assert torch.equal(y[1], x[1])
            y, x = y[0], x[0]
        tolerance = {"rtol": 1e-4, "atol": 1e-4} if x.dtype == torch.float32 else {"rtol": 1e-10, "atol": 1e-10}
        torch.testing.assert_close(y, x, **tolerance)
        leaves = [tensor for tensor in tensors if tensor.requires_grad]
        g = torch.randn_like(x)
        for a, b in zip(torch.autograd.grad(y, leaves, g), torch.autograd.grad(x, leaves, g), strict=True):
            torch.testing.assert_close(a, b, **tolerance)


@pytest.mark.parametrize("part", slow_but(range(8), [0]))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", quick_but(sorted(SAMPLED), [name for name in SAMPLED if "3d" in name]))
def test_samples(name: str, dtype: torch.dtype, part: int) -> None:
    op, mine, seen = SAMPLED[name], getattr(ops, name), 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own, about padding that it copies
        # Of maxima there are a hundred: an eighth of them is fast, in float32 another one than in float64.
        samples = list(op.sample_inputs("cpu", dtype, requires_grad=True))
        if len(samples) > 50:
            samples = samples[(part + (dtype is torch.float32)) % 8 :: 8]
        elif part:
            pytest.skip("all are in the first part")
        for sample in samples:
            named = sample.kwargs
            agree(
                lambda *values, named=named: mine(*values, **named),
                lambda *values, named=named: op.op(*values, **named),
                (sample.input, *sample.args),
                int(name[-2]),
                layouts=seen % 8 == 0,
            )
            seen += 1
    assert seen >= 5


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("norm_type", [2, 4, 2.0])
def test_even_norms_are_pytorchs(dims: int, ceil_mode: bool, norm_type: float) -> None:
    mine, theirs = getattr(ops, f"lp_pool{dims}d"), getattr(F, f"lp_pool{dims}d")
    # PyTorch's lp_pool1d takes no sequences
    for kernel, stride in ((2, None), (3, 2), (2 if dims == 1 else (3, 2, 2)[:dims], 1), (3, 4)):
        x = torch.randn(2, 3, *[7] * dims, dtype=torch.float64, requires_grad=True)
        agree(
            lambda x, how=(norm_type, kernel, stride, ceil_mode): mine(x, *how),
            lambda x, how=(norm_type, kernel, stride, ceil_mode): theirs(x, *how),
            (x,),
            dims,
        )


def test_odd_norms_of_magnitudes_are_pytorchs() -> None:
    x = torch.rand(2, 3, 9, 9, dtype=torch.float64, requires_grad=True)
    for p in (1, 3, 1.5):
        torch.testing.assert_close(ops.lp_pool2d(x, p, 3, 2), F.lp_pool2d(x, p, 3, 2))
    assert not math.isnan(ops.lp_pool2d(-x, 3, 3).sum().item())


def _spread_out(tensor: Tensor, axis: int) -> Tensor:
    """The same numbers with NaNs between its neighbours along an axis."""
    return torch.stack([tensor, torch.full_like(tensor, math.nan)], axis + 1).flatten(axis, axis + 1)[
        (*[slice(None)] * axis, slice(None, None, 2))
    ]


def _in_odd_memory(tensor: Tensor) -> Iterator[Tensor]:
    yield from (_spread_out(tensor, axis) for axis in range(tensor.dim()))
    yield tensor[tuple(slice(0, 1) for _ in tensor.shape)].expand(tensor.shape)
    backwards = tuple(reversed(range(tensor.dim())))
    yield tensor.permute(backwards).contiguous().permute(backwards)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("backend", quick_but(["llvm", "matmul", "winograd", "aten", "reference"], ["winograd"]))
def test_operands_in_odd_memory(backend: str, last: bool) -> None:
    layout = torch.channels_last if last else torch.contiguous_format
    channels = 32 if backend in ("matmul", "winograd") else 8
    plain = [torch.randn(2, channels, 5, 5).contiguous(memory_format=layout), torch.randn(channels, channels, 3, 3)]
    plain.append(torch.randn(channels))
    upstream = torch.randn(2, channels, 5, 5)
    for place in range(4):
        for odd in _in_odd_memory([*plain, upstream][place]):
            tensors = [*plain, upstream]
            tensors[place] = odd
            leaves, g = [tensor.detach().requires_grad_() for tensor in tensors[:3]], tensors[3]
            with striate.engine.use(backend):
                y = ops.conv2d(*leaves, 1, 1)
                found = torch.autograd.grad(y, leaves, g)
            expected = F.conv2d(*leaves, 1, 1)
            torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
            for mine, theirs in zip(found, torch.autograd.grad(expected, leaves, g), strict=True):
                torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.complex64, torch.int64, torch.int32])
def test_other_dtypes_that_pytorch_takes(dtype: torch.dtype) -> None:
    x, w = torch.randint(-3, 4, (2, 3, 6, 6)).to(dtype), torch.randint(-3, 4, (4, 3, 3, 3)).to(dtype)
    assert torch.equal(ops.conv2d(x, w, stride=2, padding=1), F.conv2d(x, w, stride=2, padding=1))
    if not dtype.is_complex:
        assert torch.equal(ops.max_pool2d(x, 3, 2, 1), F.max_pool2d(x, 3, 2, 1))


def test_ceil_mode_takes_a_window_longer_than_the_input_by_less_than_a_stride() -> None:
    x = torch.randn(2, 3, 2, 3)
    for kernel, stride in ((3, 2), ((3, 4), 3), ((2, 5), (1, 3))):
        assert torch.equal(
            ops.max_pool2d(x, kernel, stride, ceil_mode=True), F.max_pool2d(x, kernel, stride, ceil_mode=True)
        )
        mine, theirs = (module.avg_pool2d(x, kernel, stride, ceil_mode=True) for module in (ops, F))
        torch.testing.assert_close(mine, theirs)
    for module in (ops, F):
        with pytest.raises((GeometryError, RuntimeError)):
            module.max_pool2d(x, 4, 2, ceil_mode=True)


def test_transposed_convolution_of_whole_numbers() -> None:
    x, w = torch.randint(-3, 4, (2, 3, 5)), torch.randint(-3, 4, (3, 2, 3))
    assert torch.equal(ops.conv_transpose1d(x, w, stride=2), F.conv_transpose1d(x, w, stride=2))


def test_meta_tensors_have_shapes_without_values() -> None:
    x, w = torch.empty(2, 3, 8, 8, device="meta"), torch.empty(4, 3, 3, 3, device="meta", requires_grad=True)
    y = ops.max_pool2d(ops.conv2d(x, w, padding="same", stride=2), 2)
    assert y.shape == (2, 4, 2, 2)
    y.sum().backward()
    assert w.grad is not None
    assert w.grad.shape == w.shape
