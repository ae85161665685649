"""What kernels do to totals before they write them, and the kernels that plans have beside sums."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cases import POOLINGS, assert_same, conv, image, operands, pool, slow_but
from striate.engine import Pass, reference
from striate.engine.llvm.codegen.isa import ISAS, Isa, host, the_isa
from striate.engine.llvm.convolution.sums import nhwc_sum
from striate.engine.llvm.functions import elementwise
from striate.engine.llvm.functions.epilogue import FUNCTIONS, Epilogue
from striate.engine.llvm.memory.views import axes
from striate.engine.llvm.memory.weights import Weights, pack
from striate.engine.llvm.pooling.dispatch import nhwc_values

#: Each function with settings, its definition, and how far it may be off, in units of float32's rounding.
DEFINITIONS: dict[str, tuple[tuple[float, ...], Callable[[Tensor], Tensor], float]] = {
    "absolute": ((), torch.abs, 0),
    "elu": ((0.7, 1.3, 2.0), lambda x: torch.ops.aten.elu(x, 0.7, 1.3, 2.0), 3),
    "gelu_tanh": ((), lambda x: F.gelu(x, approximate="tanh"), 3),
    "mish": ((), F.mish, 3),
    "negative": ((), torch.neg, 0),
    "softplus": ((0.5, 15.0), lambda x: F.softplus(x, 0.5, 15.0), 2),
    "square": ((), torch.square, 0.5),
    "clamp": ((-0.5, 6.0), lambda x: x.clamp(-0.5, 6.0), 0),
    "gelu": ((), F.gelu, 3),
    "hard_sigmoid": ((), F.hardsigmoid, 1),
    "hard_swish": ((), F.hardswish, 2),
    "leaky_relu": ((0.01,), lambda x: F.leaky_relu(x, 0.01), 1),
    "sigmoid": ((), torch.sigmoid, 2),
    "silu": ((), F.silu, 3),
    "tanh": ((), torch.tanh, 2),
}


def isas() -> list[Isa]:
    """The instruction sets that this machine has."""
    best = host()
    return [isa for isa in ISAS if best is not None and isa.triple == best.triple and isa.lanes <= best.lanes]


def applied(x: Tensor, epilogue: Epilogue, isa: Isa | None = None) -> Tensor:
    y = torch.empty_like(x)
    sizes = {"channels": x.numel(), "positions": 1, "block": 1, "period": 1, "step": 0}
    elementwise.pairs(isa or the_isa(), "", epilogue)(1, 1, a=x.data_ptr(), b=0, y=y.data_ptr(), **sizes)
    return y


@pytest.mark.parametrize("isa", isas(), ids=lambda isa: isa.name)
@pytest.mark.parametrize("name", DEFINITIONS)
def test_functions(name: str, isa: Isa) -> None:
    numbers, definition, units = DEFINITIONS[name]
    x = torch.cat([torch.linspace(-30, 30, 20_011), torch.logspace(-12, 1.9, 3001), -torch.logspace(-12, 1.9, 3001)])
    made, expected = applied(x, Epilogue(name, numbers), isa), definition(x.double())
    # Of the result or, where it is a small difference from 1 or from x, of what it differs from.
    scale = expected.abs().clamp(min=1e-30) if name in ("leaky_relu", "tanh") else expected.abs().clamp(min=1)
    off = ((made.double() - expected).abs() / scale).max().item() / torch.finfo(torch.float32).eps
    assert off <= units, f"{off:.2f} units"


def test_every_function_is_tested_and_keeps_nan() -> None:
    assert DEFINITIONS.keys() == FUNCTIONS.keys()
    x = torch.tensor([math.nan, 1.0, math.nan])
    for name, (numbers, definition, _) in DEFINITIONS.items():
        made = applied(x, Epilogue(name, numbers))
        assert made.isnan().tolist() == [True, False, True], name
        far = torch.tensor([-200.0, 200.0, -math.inf, math.inf])
        # One by one: PyTorch's vectorised GELU of infinity is NaN.
        expected = torch.cat([definition(each) for each in far.split(1)])
        torch.testing.assert_close(
            applied(far, Epilogue(name, numbers)), expected, rtol=1e-6, atol=1e-30, equal_nan=True
        )


SUMS = [
    "conv2d 2x5x9x8 21x5x3x3 padding=1",
    "conv2d 1x4x9x9 6x4x3x3 stride=2 padding=0:1",
    "conv2d 2x3x8x8 5x3x3x2 dilation=2 padding=1",
    "conv2d 2x8x7x9 24x8x1x1",
    "conv2d 1x6x5x5 33x6x5x5",
    "conv2d 2x11x7x6 11x1x3x3 groups=11 padding=1",
    "conv2d 1x16x9x9 16x1x3x3 groups=16 stride=2",
]


@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize("threads", slow_but([1, 2, 5], [2]))
@pytest.mark.parametrize("line", SUMS)
def test_sums_with_an_epilogue(line: str, threads: int, adds: bool) -> None:
    shape = conv(line)
    tensors = {role: tensor.float() for role, tensor in operands(shape).items()}
    x, w = tensors[Pass.INPUT_GRAD].contiguous(memory_format=torch.channels_last), tensors[Pass.WEIGHT_GRAD]
    bias, added = torch.randn(shape.out_channels), tensors[Pass.OUTPUT].contiguous(memory_format=torch.channels_last)
    each = (shape.groups, shape.out_channels // shape.groups, shape.in_channels // shape.groups)
    epilogue = Epilogue("clamp", (0.0, 3.0), adds)
    made = nhwc_sum(the_isa(), shape.batch, *each, shape.size, axes(shape), shape.output_size, threads, epilogue)
    packed = pack(the_isa(), Weights.of(w, shape.groups), bias, made.channels, True)
    y, scratch = torch.empty_like(added), torch.empty(made.scratch)
    pointers = [tensor.data_ptr() for tensor in (x, packed, y, scratch)]
    arguments = made.arguments(*pointers, (x.stride(0), x.stride(2)), added.data_ptr() if adds else None)
    made.kernel(made.items, made.threads, **arguments)
    expected = reference.contract(shape, Pass.OUTPUT, x.double(), w.double()) + bias.double()[:, None, None]
    expected = (expected + added.double() * adds).clamp(0, 3)
    assert_same(y, expected, 4 * shape.in_channels * w[0, 0].numel())


def test_shares_of_channels_and_spans_of_columns_do_not_change_a_bit() -> None:
    """Many channels of few positions; one long row."""
    for outer, inner, positions in ((200, 64, 9), (24, 96, 500)):
        x, w = torch.randn(positions, inner), torch.randn(outer, inner, 1, 1)
        results = []
        for threads in (1, 2, 3, 8):
            one = axes(conv("conv2d 1x1x1x1 1x1x1x1"))
            made = nhwc_sum(the_isa(), 1, 1, outer, inner, (1, positions), one, (1, positions), threads)
            assert made.items >= min(threads, 4)
            packed = pack(the_isa(), Weights.of(w, 1), None, made.channels, True)
            y = torch.empty(positions, outer)
            pointers = [tensor.data_ptr() for tensor in (x, packed, y)]
            arguments = made.arguments(*pointers, 0, (positions * inner, positions * inner))
            made.kernel(made.items, made.threads, **arguments)
            results.append(y)
        torch.testing.assert_close(results[0], x @ w[:, :, 0, 0].t(), rtol=1e-4, atol=1e-4)
        assert all(torch.equal(each, results[0]) for each in results)


@pytest.mark.parametrize("line", [line for line in POOLINGS if "pool2d" in line and " 0x" not in line])
def test_pooling_without_positions(line: str) -> None:
    shape = pool(line)
    x = image(shape, torch.float32).contiguous(memory_format=torch.channels_last)
    x[0, 0, 0, 0] = math.nan
    made = nhwc_values(shape)
    y = torch.empty(shape.output_shape, memory_format=torch.channels_last)
    row = shape.size[1] * shape.channels
    made.start(["values"], (row * shape.size[0], row), 1)(x.data_ptr(), y.data_ptr())
    wide = x.double()
    expected = reference.maximum(shape, wide)[0] if shape.kind == "max" else reference.average(shape, wide)
    assert_same(y, expected, 16)


@pytest.mark.parametrize("channels", [1, 5, 8, 19])
@pytest.mark.parametrize("operation", ["fadd", "fsub", "fmul"])
def test_pairs(operation: str, channels: int) -> None:
    define = {"fadd": torch.add, "fsub": torch.sub, "fmul": torch.mul}[operation]
    a = torch.randn(3, 7, channels)
    for b, period, step in (
        (torch.randn(3, 7, channels), 1, channels),
        (torch.randn(channels), 1, 0),
        (torch.randn(3, 1, channels), 7, channels),
    ):
        y = torch.empty_like(a)
        maps = {"a": a.data_ptr(), "b": b.data_ptr(), "y": y.data_ptr()}
        sizes = {"channels": channels, "positions": 21, "block": 4, "period": period, "step": step}
        elementwise.pairs(the_isa(), operation, Epilogue("clamp", (0.0, math.inf)))(6, 2, **maps, **sizes)
        assert torch.equal(y, define(a, b).relu())


def test_copies_take_any_strides() -> None:
    x = torch.randn(4, 5, 6, 7)
    for view in (x.permute(0, 2, 3, 1), x[:, :, ::2], x[:, :1].expand(4, 5, 6, 7), x.permute(3, 2, 1, 0)):
        y = torch.empty(view.shape)
        axes_ = ("first", "second", "third", "fourth")
        sizes = dict(zip(axes_[1:], view.shape[1:], strict=True))
        sizes |= {f"{axis}_stride": stride for axis, stride in zip(axes_, view.stride(), strict=True)}
        kernel, items = elementwise.copy(the_isa()), view.shape[0] * view.shape[1]
        kernel(items, 2, x=view.data_ptr(), y=y.data_ptr(), **sizes)
        assert torch.equal(y, view)


@pytest.mark.parametrize("channels", [1, 7, 16, 37])
def test_a_factor_and_a_term_for_every_channel(channels: int) -> None:
    x, numbers, y = torch.randn(21, channels), torch.randn(2, channels), torch.empty(21, channels)
    maps = {"a": x.data_ptr(), "b": numbers.data_ptr(), "y": y.data_ptr()}
    sizes = {"channels": channels, "positions": 21, "block": 4, "period": 1, "step": 0}
    elementwise.pairs(the_isa(), "affine", Epilogue("clamp", (0.0, math.inf)))(6, 2, **maps, **sizes)
    torch.testing.assert_close(y, (x * numbers[0] + numbers[1]).relu())


@pytest.mark.parametrize("length", [1, 5, 16, 40])
def test_rows_go_from_among_others_into_others(length: int) -> None:
    x, y = torch.randn(9, 50), torch.full((9, 60), torch.nan)
    expected = y.clone()
    expected[:, 7 : 7 + length] = x[:, 3 : 3 + length]
    maps, sizes = {"x": x.data_ptr(), "y": y.data_ptr()}, {"length": length, "rows": 9, "block": 4}
    elementwise.rows(the_isa())(3, 2, **maps, **sizes, x_start=3, x_pitch=50, y_start=7, y_pitch=60)
    torch.testing.assert_close(y, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("slope", [-1.0, float("inf"), float("nan")])
def test_leaky_relu_multiplies_zeros_by_its_slope(slope: float) -> None:
    x = torch.tensor([0.0, -0.0, 1.0, -2.0]).repeat(4)
    y, kernel = torch.empty_like(x), elementwise.pairs(the_isa(), "", Epilogue("leaky_relu", (slope,)))
    sizes = {"channels": 16, "positions": 1, "block": 1, "period": 1, "step": 0}
    kernel(1, 1, a=x.data_ptr(), b=0, y=y.data_ptr(), **sizes)
    expected = F.leaky_relu(x, slope)
    torch.testing.assert_close(y, expected, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(y.signbit() & ~y.isnan(), expected.signbit() & ~expected.isnan())
