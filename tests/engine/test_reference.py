"""The oracle itself, against loops over single numbers that use nothing of striate."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from cases import CONVOLUTIONS, POOLINGS, conv, image, operands, pool
from striate import ops
from striate.engine import Pass, reference
from striate.errors import OperandError


def inside(position: tuple[int, ...], size: tuple[int, ...]) -> bool:
    return all(0 <= p < n for p, n in zip(position, size, strict=True))


def places(output_size, kernel, stride, pads, dilation):
    """Every (output, tap, input position), one index at a time."""
    for o in itertools.product(*map(range, output_size)):
        for t in itertools.product(*map(range, kernel)):
            i = tuple(
                a * s - before + b * d for a, s, (before, _), b, d in zip(o, stride, pads, t, dilation, strict=True)
            )
            yield o, t, i


@pytest.mark.formula("F1", "F2", "F3", "F8", "F13", "F14", "F15")
@pytest.mark.parametrize("line", [line for line in CONVOLUTIONS if not line.startswith("conv3d") and "7x7" not in line])
def test_convolution_and_gradients_are_the_form_summed_number_by_number(line: str) -> None:
    shape = conv(line)
    x, w, g = (tensor.numpy() for tensor in operands(shape).values())
    y, dx, dw = np.zeros(shape.output_shape), np.zeros(shape.input_shape), np.zeros(shape.weight_shape)
    inner, outer = shape.in_channels // shape.groups, shape.out_channels // shape.groups
    for o, t, i in places(shape.output_size, shape.kernel, shape.stride, shape.pads, shape.dilation):
        if not inside(i, shape.size):
            continue
        for n, c_out, c in itertools.product(range(shape.batch), range(shape.out_channels), range(inner)):
            c_in = c_out // outer * inner + c
            y[(n, c_out, *o)] += x[(n, c_in, *i)] * w[(c_out, c, *t)]
            dx[(n, c_in, *i)] += g[(n, c_out, *o)] * w[(c_out, c, *t)]
            dw[(c_out, c, *t)] += x[(n, c_in, *i)] * g[(n, c_out, *o)]
    tensors = operands(shape)
    for open_, expected in ((Pass.OUTPUT, y), (Pass.INPUT_GRAD, dx), (Pass.WEIGHT_GRAD, dw)):
        first, second = (tensor for role, tensor in tensors.items() if role is not open_)
        found = reference.contract(shape, open_, first, second)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.formula("F36", "F37", "F41")
@pytest.mark.parametrize("line", POOLINGS)
def test_pooling_number_by_number(line: str) -> None:
    shape = pool(line)
    x = image(shape)
    windows: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    counted: dict[tuple[int, ...], int] = {}
    for o, _, i in places(shape.output_size, shape.kernel, shape.stride, shape.pads, shape.dilation):
        windows.setdefault(o, [])
        if inside(i, shape.size):
            windows[o].append(i)
        in_frame = all(p < n + after for p, n, (_, after) in zip(i, shape.size, shape.pads, strict=True))
        counted[o] = counted.get(o, 0) + (in_frame if shape.count_include_pad else inside(i, shape.size))
    for n, c in itertools.product(range(shape.batch), range(shape.channels)):
        for o, seen in windows.items():
            values = [x[(n, c, *i)].item() for i in seen]
            if shape.kind == "max":
                found, index = (tensor[(n, c, *o)].item() for tensor in reference.maximum(shape, x))
                assert found == max(values)
                first = seen[values.index(max(values))]
                assert index == np.ravel_multi_index(first, shape.size)
            else:
                expected = sum(values) / (shape.divisor or counted[o])
                assert math.isclose(reference.average(shape, x)[(n, c, *o)].item(), expected, abs_tol=1e-12)


def test_the_named_functions_take_sizes_or_tensors_and_single_images() -> None:
    x, w, g = torch.randn(2, 7, 6), torch.randn(3, 2, 3, 3), torch.randn(3, 3, 3)
    how = (2, ((1, 0), (0, 1)), 1, 1)
    full = ops.reference.conv2d_backward(g, x, w, *how)
    torch.testing.assert_close(ops.reference.conv2d_input_grad(x.shape, w, g, *how), full[0])
    torch.testing.assert_close(ops.reference.conv2d_input_grad((2, 7, 6), w, g, *how), full[0])
    torch.testing.assert_close(ops.reference.conv2d_weight_grad(x, w.shape, g, *how), full[1])
    torch.testing.assert_close(full[2], g.double().sum((1, 2)))
    with pytest.raises(OperandError, match=r"output \(1, 3, 3, 2\); needed \(1, 3, 3, 3\)"):
        ops.reference.conv2d_backward(g[..., :2], x, w, *how)
    assert full[0].dtype == torch.float64
    assert full[0].shape == x.shape


@pytest.mark.formula("F38", "F39", "F40")
def test_its_gradients_are_those_of_its_values() -> None:
    """Finite differences of the forward definitions, for what the tables above don't reach."""
    x = torch.randn(1, 2, 5, 6, dtype=torch.float64)
    step = torch.randn_like(x)
    for name, arguments in (
        ("lp_pool2d", (3, 2, 1)),
        ("lp_pool2d", (2, (2, 3), 2, True)),
        ("adaptive_avg_pool2d", ((3, 4),)),
        ("adaptive_max_pool2d", ((3, 4),)),
        ("global_avg_pool", ()),
        ("global_max_pool", ()),
        ("max_pool2d", (3, 2, 1)),
        ("avg_pool2d", (3, 2, 1, False, False)),
    ):
        forward, backward = getattr(ops.reference, name), getattr(ops.reference, f"{name}_backward")
        g = torch.randn_like(forward(x, *arguments))
        h = 1e-6
        slope = ((forward(x + h * step, *arguments) - forward(x - h * step, *arguments)) * g).sum() / (2 * h)
        assert math.isclose((backward(g, x, *arguments) * step).sum().item(), slope.item(), rel_tol=1e-6, abs_tol=1e-7)
