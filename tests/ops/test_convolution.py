"""Convolution: every backend against the definitions, gradients in three independent ways, random problems."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings

from cases import CONVOLUTIONS, assert_same, conv, operands, random_convolutions
from striate import ops
from striate.engine import FORM, Pass, aten, reference
from striate.errors import GeometryError, OperandError, StriateError
from striate.geometry import ConvShape

CONV = {1: ops.conv1d, 2: ops.conv2d, 3: ops.conv3d}
CONV_TRANSPOSE = {1: ops.conv_transpose1d, 2: ops.conv_transpose2d, 3: ops.conv_transpose3d}
#: In `make test`, and in `make test-all`.
EXAMPLES, MORE = 100, 4000


def terms(shape: ConvShape, open_: Pass) -> int:
    """The longest sum in a pass."""
    taps = 1
    for kernel in shape.kernel:
        taps *= kernel
    places = shape.batch
    for outputs in shape.output_size:
        places *= outputs
    channels = {Pass.OUTPUT: shape.in_channels, Pass.INPUT_GRAD: shape.out_channels}
    return places if open_ is Pass.WEIGHT_GRAD else channels[open_] * taps


def check_pass(shape: ConvShape, open_: Pass, dtype: torch.dtype = torch.float64) -> None:
    first, second = (tensor for role, tensor in operands(shape, dtype).items() if role is not open_)
    actual = aten.AtenBackend().contract(shape, open_, first, second, None)
    assert actual.dtype == dtype
    assert_same(actual, reference.contract(shape, open_, first, second), terms(shape, open_))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("open_", FORM)
@pytest.mark.parametrize("line", CONVOLUTIONS)
def test_every_pass_is_the_definition(line: str, open_: Pass, dtype: torch.dtype) -> None:
    check_pass(conv(line), open_, dtype)


@given(random_convolutions())
@settings(max_examples=EXAMPLES)
def test_random_outputs(shape: ConvShape) -> None:
    check_pass(shape, Pass.OUTPUT)


@given(random_convolutions())
@settings(max_examples=EXAMPLES)
def test_random_input_gradients(shape: ConvShape) -> None:
    check_pass(shape, Pass.INPUT_GRAD)


@given(random_convolutions())
@settings(max_examples=EXAMPLES)
def test_random_weight_gradients(shape: ConvShape) -> None:
    check_pass(shape, Pass.WEIGHT_GRAD)


@pytest.mark.slow
@pytest.mark.parametrize("open_", FORM)
@given(shape=random_convolutions())
@settings(max_examples=MORE)
def test_more_random_passes(shape: ConvShape, open_: Pass) -> None:
    check_pass(shape, open_)


@given(random_convolutions())
@settings(max_examples=EXAMPLES // 2)
def test_the_three_passes_are_adjoint(shape: ConvShape) -> None:
    """<A x, y> = <x, A* y> through autograd: the three contractions of T(x, w, g) are one number."""
    tensors = operands(shape)
    x, w = (tensors[role].requires_grad_() for role in (Pass.INPUT_GRAD, Pass.WEIGHT_GRAD))
    g = tensors[Pass.OUTPUT]
    y = CONV[shape.dims](x, w, None, shape.stride, shape.pads, shape.dilation, shape.groups)
    dx, dw = torch.autograd.grad(y, (x, w), g)
    form = (y * g).sum()
    size = (y.abs() * g.abs()).sum()
    for other in ((dx * x).sum(), (dw * w).sum()):
        assert (form - other).abs() <= 1e-12 * (1 + size)


@pytest.mark.parametrize("line", [line for line in CONVOLUTIONS if " 0x" not in line])
def test_gradients_of_both_orders_by_finite_differences(line: str) -> None:
    shape = conv(line)
    tensors = operands(shape)
    x, w = (tensors[role].requires_grad_() for role in (Pass.INPUT_GRAD, Pass.WEIGHT_GRAD))
    b = torch.randn(shape.out_channels, dtype=torch.float64, requires_grad=True)

    def call(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        padding = [window.padding for window in shape.windows]
        return CONV[shape.dims](x, w, b, shape.stride, padding, shape.dilation, shape.groups)

    assert torch.autograd.gradcheck(call, (x, w, b), fast_mode=True, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(call, (x, w, b), fast_mode=True)


@pytest.mark.formula("F17")
@given(random_convolutions())
@settings(max_examples=EXAMPLES // 2)
def test_input_gradient_is_the_full_convolution_with_the_flipped_kernel(shape: ConvShape) -> None:
    """Written out: upstream gradient ``stride`` apart, padded as the adjoint window says, under the flipped kernel."""
    w, g = (operands(shape)[role] for role in (Pass.WEIGHT_GRAD, Pass.OUTPUT))
    axes = range(shape.dims)
    adjoints = [window.adjoint(size) for window, size in zip(shape.windows, shape.size, strict=True)]
    # A frame that is wide enough for every padding, with the gradient in it; a negative padding starts inside.
    margin = 40
    lengths = [(n - 1) * a.expansion + 1 for n, a in zip(shape.output_size, adjoints, strict=True)]
    frame = g.new_zeros(*g.shape[:2], *(length + 2 * margin for length in lengths))
    inside = [slice(margin, margin + n, a.expansion) for n, a in zip(lengths, adjoints, strict=True)]
    frame[(..., *inside)] = g
    padded = [slice(margin - a.before, margin + n + a.after) for n, a in zip(lengths, adjoints, strict=True)]
    spread = frame[(..., *padded)]
    # Input and output channels change places within each group.
    turned = w.flip([2 + axis for axis in axes]).unflatten(0, (shape.groups, -1)).transpose(1, 2).flatten(0, 1)
    full = CONV[shape.dims](spread, turned, None, 1, 0, shape.dilation, shape.groups)
    assert_same(full, reference.contract(shape, Pass.INPUT_GRAD, w, g), terms(shape, Pass.INPUT_GRAD))


@pytest.mark.formula("F16")
@given(random_convolutions())
@settings(max_examples=EXAMPLES // 2)
def test_weight_gradient_is_the_input_correlated_with_the_upstream_gradient(shape: ConvShape) -> None:
    """Written out for one group: batch and channels change places, stride and dilation change places."""
    if shape.groups != 1 or shape.batch == 0:
        return
    x, g = (operands(shape)[role] for role in (Pass.INPUT_GRAD, Pass.OUTPUT))
    padding = list(shape.pads)
    swapped = CONV[shape.dims](x.transpose(0, 1), g.transpose(0, 1), None, shape.dilation, padding, shape.stride)
    # Input that no window reaches makes extra positions behind the kernel's.
    swapped = swapped[(..., *(slice(kernel) for kernel in shape.kernel))].transpose(0, 1)
    assert_same(swapped, reference.contract(shape, Pass.WEIGHT_GRAD, x, g), terms(shape, Pass.WEIGHT_GRAD))


@pytest.mark.formula("S29")
@given(random_convolutions())
@settings(max_examples=EXAMPLES // 2)
def test_transposed_convolution_is_the_definition(shape: ConvShape) -> None:
    """With every padding; its three gradients against the reference's."""
    x = torch.randn(shape.output_shape, dtype=torch.float64, requires_grad=True)
    w = torch.randn(shape.weight_shape, dtype=torch.float64, requires_grad=True)
    b = torch.randn(shape.in_channels, dtype=torch.float64, requires_grad=True)
    padding = [window.padding for window in shape.windows]
    how = (shape.stride, padding, 0, shape.groups, shape.dilation)
    try:
        expected = getattr(ops.reference, f"conv_transpose{shape.dims}d")(x, w, b, *how)
    except GeometryError:
        with pytest.raises(GeometryError):
            CONV_TRANSPOSE[shape.dims](x, w, b, *how)
        return
    y = CONV_TRANSPOSE[shape.dims](x, w, b, *how)
    assert_same(y, expected, 100)
    g = torch.randn_like(y)
    backward = getattr(ops.reference, f"conv_transpose{shape.dims}d_backward")(g, x, w, *how)
    for mine, theirs in zip(torch.autograd.grad(y, (x, w, b), g), backward, strict=True):
        assert_same(mine, theirs, 1000)


@pytest.mark.slow
@pytest.mark.parametrize(
    "test",
    [
        test_the_three_passes_are_adjoint,
        test_input_gradient_is_the_full_convolution_with_the_flipped_kernel,
        test_weight_gradient_is_the_input_correlated_with_the_upstream_gradient,
        test_transposed_convolution_is_the_definition,
    ],
)
def test_more_of_them(test: Any) -> None:
    settings(max_examples=MORE // 4)(given(random_convolutions())(test.hypothesis.inner_test))()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("line", [line for line in CONVOLUTIONS if line.startswith("conv2d")])
def test_memory_layouts_and_views(line: str, layout: torch.memory_format) -> None:
    shape = conv(line)
    tensors = operands(shape, torch.float32)
    x, w = tensors[Pass.INPUT_GRAD], tensors[Pass.WEIGHT_GRAD]
    how = (None, shape.stride, [window.padding for window in shape.windows], shape.dilation, shape.groups)
    expected = ops.reference.conv2d(x, w, *how)
    # every second column of something wider is neither layout
    sparse = torch.stack([x, torch.full_like(x, torch.nan)], -1).flatten(-2)[..., ::2]
    for operand in (x.contiguous(memory_format=layout), sparse):
        assert_same(ops.conv2d(operand, w.contiguous(memory_format=layout), *how), expected, terms(shape, Pass.OUTPUT))


def test_unbatched_input_gives_unbatched_output() -> None:
    x, w = torch.randn(3, 8, 7), torch.randn(4, 3, 3, 3)
    torch.testing.assert_close(ops.conv2d(x, w, padding="same"), ops.conv2d(x[None], w, padding="same")[0])
    y = ops.conv_transpose2d(ops.conv2d(x, w), w)
    assert y.shape == (3, 8, 7)


def test_operands_are_left_as_they_were() -> None:
    x, w, b = torch.randn(2, 3, 8, 8), torch.randn(4, 3, 3, 3), torch.randn(4)
    copies = [tensor.clone() for tensor in (x, w, b)]
    ops.conv2d(x, w, b, 2, ((0, 1), (2, 0)))
    for tensor, copy in zip((x, w, b), copies, strict=True):
        assert torch.equal(tensor, copy)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ops.conv2d(torch.zeros(3, 3), torch.zeros(1, 3, 2, 2)), OperandError, r"needed \(N, C, H, W\)"),
        (lambda: ops.conv2d(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 2)), OperandError, "weight of shape"),
        (lambda: ops.conv2d(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 2, 2).double()), OperandError, "one dtype"),
        (lambda: ops.conv2d(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 2, 2), torch.zeros(2)), OperandError, "bias"),
        (lambda: ops.conv2d(torch.zeros(1, 3, 4, 4), torch.zeros(1, 2, 2, 2)), GeometryError, "3 channels"),
        (
            lambda: ops.conv2d(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 5, 5)),
            GeometryError,
            "conv2d, axis H: kernel 5",
        ),
        (lambda: ops.conv2d(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 2, 2), padding="no"), GeometryError, "no"),
        (
            lambda: ops.conv2d(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 2, 2), stride=1.5),
            GeometryError,
            "whole number",
        ),
        (lambda: ops.conv1d(torch.zeros(1, 3, 4), torch.zeros(1, 3, 2), padding=(1, 2)), GeometryError, "before"),
        (
            lambda: ops.conv_transpose2d(torch.zeros(1, 3, 4, 4), torch.zeros(2, 3, 2, 2)),
            GeometryError,
            "conv_transpose2d: an input of 3 channels",
        ),
    ],
)
def test_wrong_calls_say_what_was_got_in_one_line(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("good", [np.int64(2), torch.tensor(2), [np.int32(2), torch.tensor(2)], (2, 2)])
def test_whole_numbers_of_any_type(good) -> None:
    x, w = torch.randn(1, 2, 7, 7), torch.randn(3, 2, 3, 3)
    torch.testing.assert_close(ops.conv2d(x, w, None, good), ops.conv2d(x, w, None, 2))


@pytest.mark.parametrize("bad", [2.0, (2.0, 2), np.array([2, 2]), {2: 2}, torch.tensor(1.5), "2", None])
def test_other_strides_are_refused_also_when_an_equal_one_is_known(bad) -> None:
    x, w = torch.randn(1, 2, 7, 7), torch.randn(3, 2, 3, 3)
    ops.conv2d(x, w, None, 2)
    ops.conv2d(x, w, None, (2, 2))
    with pytest.raises(GeometryError, match=r"^conv2d, axis H: stride is"):
        ops.conv2d(x, w, None, bad)


def test_a_stride_in_a_tensor_is_read_at_every_call() -> None:
    x, w, stride = torch.randn(1, 2, 7, 7), torch.randn(3, 2, 3, 3), torch.tensor(1)
    assert ops.conv2d(x, w, None, stride).shape == (1, 3, 5, 5)
    stride += 1
    assert ops.conv2d(x, w, None, stride).shape == (1, 3, 3, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, w: ops.conv2d(None, w), "conv2d: got NoneType as input; needed a tensor"),
        (lambda x, w: ops.conv2d(x, [1.0]), "conv2d: got list as weight; needed a tensor"),
        (lambda x, w: ops.conv2d(x, w, 3), "conv2d: got int as bias; needed a tensor"),
        (lambda x, w: ops.conv_transpose2d(x, None), "conv_transpose2d: got NoneType as weight; needed a tensor"),
        (lambda x, w: ops.conv2d(x, w, groups=1.0), "conv2d: groups is 1.0; needed a whole number"),
        (lambda x, w: ops.convolve(3, w), "convolve: got int as input; needed a tensor"),
        (lambda x, w: ops.correlate(x, "w"), "correlate: got str as weight; needed a tensor"),
    ],
)
def test_operands_that_are_no_tensors(call, message: str) -> None:
    with pytest.raises(StriateError, match="^" + re.escape(message)):
        call(torch.randn(1, 2, 7, 7), torch.randn(2, 2, 3, 3))


@pytest.mark.parametrize("padding", [1, ((0, 1), (2, 1))])
def test_whole_numbers_are_transposed_exactly(padding) -> None:
    """Beyond 2^53 as well, where a detour through float64 would lose digits."""
    x, w = torch.randint(-(2**60), 2**60, (1, 2, 5, 5)), torch.randint(-1, 2, (2, 3, 3, 3))
    y = ops.conv_transpose2d(x, w, None, 2, padding)
    full = F.conv_transpose2d(x, w, None, 2)
    (top, bottom), (left, right) = ((1, 1), (1, 1)) if padding == 1 else padding
    assert torch.equal(y, full[..., top : full.shape[2] - bottom, left : full.shape[3] - right])
