"""Pooling: every backend against the definitions, gradients in three independent ways, ties, NaN, random problems."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from cases import POOLINGS, assert_same, image, pool, random_poolings, slow_but
from striate import engine, ops
from striate.engine import Pass, aten, reference
from striate.errors import GeometryError, OperandError, StriateError
from striate.geometry import PoolShape

MAX_POOL = {1: ops.max_pool1d, 2: ops.max_pool2d, 3: ops.max_pool3d}
AVG_POOL = {1: ops.avg_pool1d, 2: ops.avg_pool2d, 3: ops.avg_pool3d}
LP_POOL = {1: ops.lp_pool1d, 2: ops.lp_pool2d, 3: ops.lp_pool3d}
#: In `make test`, and in `make test-all`.
EXAMPLES, MORE = 200, 4000


def check_max(shape: PoolShape, x: torch.Tensor) -> None:
    backend = aten.AtenBackend()
    values, indices = backend.maximum(shape, x)
    expected, positions = reference.maximum(shape, x)
    assert_same(values, expected)
    assert_same(backend.largest(shape, x), expected)
    assert torch.equal(indices.long(), positions)
    g = torch.randn(shape.output_shape, dtype=x.dtype)
    assert_same(backend.maximum_grad(shape, indices, g), reference.maximum_grad(shape.size, positions, g), 64)


def check_average(shape: PoolShape, dtype: torch.dtype = torch.float64) -> None:
    backend, x = aten.AtenBackend(), image(shape, dtype)
    assert_same(backend.average(shape, Pass.OUTPUT, x), reference.average(shape, x), 64)
    g = torch.randn(shape.output_shape, dtype=dtype)
    assert_same(backend.average(shape, Pass.INPUT_GRAD, g), reference.average_grad(shape, g), 64)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("line", POOLINGS)
def test_the_table_is_the_definition(line: str, dtype: torch.dtype) -> None:
    shape = pool(line)
    if shape.kind == "max":
        check_max(shape, image(shape, dtype))
    else:
        check_average(shape, dtype)


@given(random_poolings("max"))
@settings(max_examples=EXAMPLES)
def test_random_maxima(shape: PoolShape) -> None:
    check_max(shape, image(shape))


@given(random_poolings("max"), st.sampled_from([math.nan, math.inf, -math.inf]), st.floats(0, 1))
@settings(max_examples=250)
def test_random_maxima_among_nan_and_infinities(shape: PoolShape, special: float, share: float) -> None:
    x = image(shape)
    check_max(shape, x.masked_fill(torch.rand_like(x) < share, special))


@given(random_poolings("avg"))
@settings(max_examples=EXAMPLES)
def test_random_averages(shape: PoolShape) -> None:
    check_average(shape)


@pytest.mark.slow
@given(random_poolings("max"), random_poolings("avg"))
@settings(max_examples=MORE)
def test_more_random_poolings(largest: PoolShape, mean: PoolShape) -> None:
    check_max(largest, image(largest))
    check_average(mean)


def check_norm(shape: PoolShape, norm_type: float) -> None:
    how = (norm_type, shape.kernel, shape.stride, shape.ceil_mode)
    named = {"padding": [window.padding for window in shape.windows], "dilation": shape.dilation}
    x = image(shape).requires_grad_()
    try:
        expected = getattr(ops.reference, f"lp_pool{shape.dims}d")(x, *how, **named)
    except GeometryError:
        # what an average may divide by, padding alone, has no largest value
        assert math.isinf(norm_type)
        return
    y = LP_POOL[shape.dims](x, *how, **named)
    assert_same(y, expected, 64)
    g = torch.randn_like(y)
    backward = getattr(ops.reference, f"lp_pool{shape.dims}d_backward")(g, x, *how, **named)
    assert_same(torch.autograd.grad(y, x, g)[0], backward, 1000)


NORMS = st.sampled_from([1, 2, 3, 2.5, math.inf])


@given(random_poolings("avg"), NORMS)
@settings(max_examples=60)
def test_random_norms(shape: PoolShape, norm_type: float) -> None:
    check_norm(shape, norm_type)


@pytest.mark.slow
@given(random_poolings("avg"), NORMS)
@settings(max_examples=250)
def test_more_random_norms(shape: PoolShape, norm_type: float) -> None:
    check_norm(shape, norm_type)


def call(shape: PoolShape, x: torch.Tensor) -> torch.Tensor:
    padding = [window.padding for window in shape.windows]
    if shape.kind == "max":
        return MAX_POOL[shape.dims](x, shape.kernel, shape.stride, padding, shape.dilation, shape.ceil_mode)
    how = (shape.stride, padding, shape.ceil_mode, shape.count_include_pad, shape.divisor)
    return AVG_POOL[shape.dims](x, shape.kernel, *how, dilation=shape.dilation)


@pytest.mark.parametrize("line", [line for line in POOLINGS if " 0x" not in line])
def test_gradients_of_both_orders_by_finite_differences(line: str) -> None:
    shape = pool(line)
    # no two values alike or near: a finite step must not change the winner
    x = (torch.randperm(math.prod(shape.input_shape)).reshape(shape.input_shape) / 4.0).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: call(shape, x), (x,), fast_mode=True, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda x: call(shape, x), (x,), fast_mode=True)


@given(random_poolings("avg"))
@settings(max_examples=200)
def test_an_average_and_its_gradient_are_adjoint(shape: PoolShape) -> None:
    x = torch.randn(shape.input_shape, dtype=torch.float64, requires_grad=True)
    y = call(shape, x)
    g = torch.randn_like(y)
    (dx,) = torch.autograd.grad(y, x, g)
    assert torch.isclose((y * g).sum(), (dx * x).sum(), atol=1e-10)


def test_the_first_of_equals_gets_the_whole_gradient() -> None:
    x = torch.ones(1, 1, 2, 4, requires_grad=True)
    ops.max_pool2d(x, 2).sum().backward()
    assert torch.equal(x.grad, torch.tensor([[[[1.0, 0, 1, 0], [0, 0, 0, 0]]]]))
    y = torch.ones(1, 1, 3, 3, requires_grad=True)
    ops.global_max_pool(y).sum().backward()
    assert y.grad.flatten()[0] == 1
    assert y.grad.sum() == 1


def test_nan_wins_and_does_not_spread_to_other_windows() -> None:
    x = torch.tensor([[[1.0, math.nan, 3.0, 4.0]]])
    assert ops.max_pool1d(x, 2)[0, 0].isnan().tolist() == [True, False]
    padded = ops.max_pool1d(x, 2, 2, ((1, 1),))
    assert padded[0, 0].isnan().tolist() == [False, True, False]


def test_integers_pool_as_integers() -> None:
    x = torch.arange(16, dtype=torch.uint8).reshape(1, 1, 4, 4)
    assert ops.max_pool2d(x, 2).tolist() == [[[[5, 7], [13, 15]]]]
    assert ops.max_pool2d(x, 2, 2, "same").dtype == torch.uint8
    assert ops.max_pool2d(x, 3, 2, ((1, 0), (0, 1))).tolist() == [[[[6, 7], [14, 15]]]]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("line", [line for line in POOLINGS if "pool2d" in line])
def test_memory_layouts(line: str, layout: torch.memory_format) -> None:
    shape = pool(line)
    x = image(shape, torch.float32).contiguous(memory_format=layout).requires_grad_()
    y = call(shape, x)
    expected = reference.maximum(shape, x)[0] if shape.kind == "max" else reference.average(shape, x)
    assert_same(y.detach(), expected, 64)
    g = torch.randn_like(y)
    backward = (
        reference.maximum_grad(shape.size, reference.maximum(shape, x)[1], g)
        if shape.kind == "max"
        else reference.average_grad(shape, g)
    )
    assert_same(torch.autograd.grad(y, x, g)[0], backward, 64)


@pytest.mark.parametrize("dims", slow_but([1, 2, 3], [1, 2]))
@pytest.mark.parametrize("kind", ["avg", "max"])
@given(data=st.data())
@settings(max_examples=100)
def test_adaptive_pooling_is_the_definition(dims: int, kind: str, data: st.DataObject) -> None:
    size = data.draw(st.tuples(*[st.integers(1, 7)] * dims))
    wanted = data.draw(st.tuples(*[st.integers(1, 9)] * dims))
    lead = data.draw(st.sampled_from([(2, 3), (3,)]))
    x = torch.randn(*lead, *size, dtype=torch.float64, requires_grad=True)
    name = f"adaptive_{kind}_pool{dims}d"
    y = getattr(ops, name)(x, wanted)
    assert_same(y, getattr(ops.reference, name)(x, wanted), 16)
    g = torch.randn_like(y)
    backward = getattr(ops.reference, f"{name}_backward")(g, x, wanted)
    assert_same(torch.autograd.grad(y, x, g)[0], backward, 64)


def test_adaptive_pooling_keeps_an_axis_on_none() -> None:
    assert ops.adaptive_avg_pool2d(torch.zeros(1, 2, 5, 6), (None, 3)).shape == (1, 2, 5, 3)


@pytest.mark.formula("F38")
@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3, 5, 4), (2, 3, 2, 3, 4)])
def test_global_pooling(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    g = torch.randn(2, 3, *[1] * (len(shape) - 2), dtype=torch.float64)
    for name in ("global_avg_pool", "global_max_pool"):
        y = getattr(ops, name)(x)
        assert_same(y, getattr(ops.reference, name)(x), 64)
        backward = getattr(ops.reference, f"{name}_backward")(g, x)
        assert_same(torch.autograd.grad(y, x, g)[0], backward, 64)


def test_a_norm_over_zeros_has_a_gradient_of_zero() -> None:
    x = torch.tensor([[[0.0, 0.0, 3.0, -4.0]]], requires_grad=True)
    ops.lp_pool1d(x, 2, 2).sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([[[0.0, 0.0, 0.6, -0.8]]]))


def test_a_norm_is_of_magnitudes() -> None:
    x = torch.tensor([[[1.0, -2.0]]])
    assert ops.lp_pool1d(x, 1, 2).item() == 3
    assert ops.lp_pool1d(x, 3, 2).item() == pytest.approx(9 ** (1 / 3))
    assert ops.lp_pool1d(x, math.inf, 2).item() == 2


def test_positions_are_kept_in_the_smallest_dtype() -> None:
    kept: list[torch.dtype] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.dtype) or t, lambda t: t):
        for side in (181, 182):
            ops.max_pool2d(torch.zeros(1, 1, side, side, requires_grad=True), 2)
            ops.adaptive_max_pool2d(torch.zeros(1, 1, side, side, requires_grad=True), 2)
    assert kept == [torch.int16, torch.int16, torch.int32, torch.int32]
    x = torch.rand(1, 1, 6, 6)
    values, indices = ops.max_pool2d(x, 2, return_indices=True)
    assert indices.dtype == torch.int64
    assert torch.equal(x.flatten()[indices], values)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ops.max_pool2d(torch.zeros(4, 4), 2), OperandError, r"needed \(N, C, H, W\)"),
        (lambda: ops.max_pool2d(torch.zeros(1, 1, 4, 4), 5), GeometryError, "max_pool2d, axis H"),
        (lambda: ops.max_pool2d(torch.zeros(1, 1, 4, 4), 2, padding=2), GeometryError, "wholly in the padding"),
        (lambda: ops.avg_pool2d(torch.zeros(1, 1, 4, 4), 2, divisor_override=0), GeometryError, "divisor"),
        (lambda: ops.lp_pool2d(torch.zeros(1, 1, 4, 4), 0, 2), OperandError, "norm_type"),
        (lambda: ops.lp_pool2d(torch.zeros(1, 1, 4, 4), math.nan, 2), OperandError, "norm_type"),
        (lambda: ops.global_avg_pool(torch.zeros(4, 4)), OperandError, "global_avg_pool"),
        (lambda: ops.adaptive_avg_pool2d(torch.zeros(1, 1, 4, 4), (1, 2, 3)), GeometryError, "output_size"),
        (lambda: ops.adaptive_avg_pool2d(torch.zeros(1, 1, 4, 4), -1), GeometryError, "output_size"),
    ],
)
def test_wrong_calls_say_what_was_got_in_one_line(make, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("how", [{}, {"dilation": 2}, {"padding": ((3, 1), (0, 2))}])
def test_averages_of_narrow_numbers_do_not_overflow(dtype: torch.dtype, how: dict) -> None:
    x = (torch.rand(1, 2, 30, 30) * 30000).to(dtype)
    exact = ops.avg_pool2d(x.double(), 7, 2, **how)
    torch.testing.assert_close(ops.avg_pool2d(x, 7, 2, **how).double(), exact, rtol=torch.finfo(dtype).eps, atol=0)
    assert ops.lp_pool2d(x / 100, 3, 2).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8])
@pytest.mark.parametrize("how", [{}, {"dilation": 2}])
def test_averages_of_whole_numbers_are_whole_and_rounded_to_zero(dtype: torch.dtype, how: dict) -> None:
    x = torch.randint(-100 if dtype.is_signed else 0, 100, (1, 2, 9, 9), dtype=dtype)
    y = ops.avg_pool2d(x, 3, 2, **how)
    assert y.dtype == dtype
    assert torch.equal(y.double(), ops.avg_pool2d(x.double(), 3, 2, **how).trunc())


@pytest.mark.parametrize("p", [0.5, 1, 1.5, 2, 2.5, 3, 4])
def test_norms_where_the_input_is_zero(p: float) -> None:
    """The gradient is that of the reference, and no derivative is NaN; an even p has a true second one, too."""
    x = torch.tensor([[[0.0, 1.5, -2.0, 0.0, 0.0, 0.0, 3.0, 0.0]]], dtype=torch.float64, requires_grad=True)
    y = ops.lp_pool1d(x, p, 2)
    (grad,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    torch.testing.assert_close(grad, ops.reference.lp_pool1d_backward(torch.ones_like(y), x, p, 2))
    (second,) = torch.autograd.grad(grad.sum(), x)
    assert second.isfinite().all()
    if p == 2:
        theirs = torch.nn.functional.lp_pool1d(x[..., :4], p, 2)
        (first,) = torch.autograd.grad(theirs.sum(), x, create_graph=True)
        torch.testing.assert_close(second[..., :4], torch.autograd.grad(first.sum(), x)[0][..., :4])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: ops.max_pool2d(x > 0, 2), "max_pool2d: got an input of torch.bool; needed real numbers"),
        (lambda x: ops.max_pool2d(x.cfloat(), 2), "max_pool2d: got an input of torch.complex64; needed real numbers"),
        (lambda x: ops.avg_pool2d(x.cfloat(), 2), "avg_pool2d: got an input of torch.complex64; needed real numbers"),
        (lambda x: ops.lp_pool2d(x, None, 2), "lp_pool2d: got norm_type None; needed a number above 0, or inf"),
        (lambda x: ops.lp_pool2d(x, 2, 9), "lp_pool2d, axis H: kernel 9"),
        (lambda x: ops.lp_pool2d(x[0, 0], 2, 2), "lp_pool2d: got an input of shape (5, 5)"),
        (lambda x: ops.adaptive_max_pool2d(x.long(), 2), "adaptive_max_pool2d: got an input of torch.int64"),
        (lambda x: ops.adaptive_avg_pool2d(x, 2.5), "adaptive_avg_pool2d: output_size is 2.5; needed a whole number"),
        (lambda x: ops.avg_pool2d(x, 2, divisor_override=1.5), "avg_pool2d: divisor is 1.5; needed a whole number"),
        (lambda x: ops.avg_pool2d(x, 2.0), "avg_pool2d, axis H: kernel is 2.0; needed a whole number"),
        (lambda x: ops.global_avg_pool(x.tolist()), "global_avg_pool: got list as input; needed a tensor"),
    ],
)
def test_wrong_operands_are_named(call, message: str) -> None:
    with pytest.raises(StriateError, match="^" + re.escape(message)):
        call(torch.randn(1, 1, 5, 5))


def test_whole_numbers_have_norms_that_are_not() -> None:
    x = torch.randint(-9, 9, (1, 2, 6, 6))
    torch.testing.assert_close(ops.lp_pool2d(x, 2, 3, 2), torch.nn.functional.lp_pool2d(x, 2, 3, 2))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_calls_that_are_known_have_all_derivatives(layout: torch.memory_format) -> None:
    """Which passes compute a call is looked up at its first gradient; what comes after must miss nothing by it."""
    x = torch.randn(2, 24, 20, 24).contiguous(memory_format=layout).requires_grad_()

    def penalty(pool: Callable[..., torch.Tensor]) -> list[torch.Tensor]:
        y = pool(x, 3, 2, 1)
        (first,) = torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.pow(2).sum(), x)
        many = torch.randn(3, *y.shape, generator=torch.Generator().manual_seed(1))
        (batched,) = torch.autograd.grad(pool(x, 3, 2, 1), x, many, is_grads_batched=True)
        tangent = torch.func.jvp(lambda x: pool(x, 3, 2, 1), (x.detach(),), (many.new_ones(x.shape),))[1]
        return [y, first, second, batched, tangent]

    theirs = penalty(F.max_pool2d)
    with engine.use("llvm"):
        for _ in range(3):
            for mine, other in zip(penalty(ops.max_pool2d), theirs, strict=True):
                torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)
        assert type(ops.max_pool2d(x, 3, 2, 1).grad_fn).__name__ == "RecordedBackward"


def test_the_way_back_is_chosen_anew_when_choices_change() -> None:
    x = torch.randn(2, 24, 20, 24).requires_grad_()
    asked = []
    real = reference.ReferenceBackend.maximum_grad

    def heard(self: reference.ReferenceBackend, *how: Any) -> torch.Tensor:
        asked.append("reference")
        return real(self, *how)

    with pytest.MonkeyPatch.context() as patch, engine.use("llvm"):
        patch.setattr(reference.ReferenceBackend, "maximum_grad", heard)
        for _ in range(2):
            y = ops.max_pool2d(x, 3, 2, 1)
            y.sum().backward(retain_graph=True)
            assert not asked
        with engine.use("reference"):
            y.sum().backward()
        assert asked == ["reference"]
        ops.max_pool2d(x, 3, 2, 1).sum().backward()
        assert asked == ["reference"]
