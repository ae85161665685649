"""Batch normalisation with residual and activation: the definition, PyTorch, gradients of every order, transforms."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cases import ACTIVATIONS as THEIRS
from striate import engine
from striate.engine import tuning
from striate.engine.llvm.normalization import dispatch as normalization
from striate.errors import OperandError
from striate.geometry import NormShape
from striate.ops import norm
from striate.ops.norm import batch_norm

ACTIVATIONS = list(THEIRS)
FORMS = list(itertools.product(ACTIVATIONS, [False, True], [True, False]))


@pytest.fixture(autouse=True)
def _kernels() -> Iterator[None]:
    """Also where the rule would leave small tensors to PyTorch."""
    with engine.use("llvm"):
        yield


def side_by_side(tensor: Tensor) -> Tensor:
    """The same numbers with channels innermost."""
    return tensor.movedim(1, -1).contiguous().movedim(-1, 1)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {"planes": lambda tensor: tensor, "side by side": side_by_side}


class Problem:
    """Operands of a call, in float32, with values around both ends of every activation."""

    def __init__(self, shape: tuple[int, ...], residual: bool, lay: Callable[[Tensor], Tensor] = lambda t: t) -> None:
        channels = shape[1]
        self.x, self.g = lay(torch.randn(shape) * 3 + 1), lay(torch.randn(shape))
        self.residual = lay(torch.randn(shape) * 2) if residual else None
        self.weight, self.bias = torch.randn(channels) * 2, torch.randn(channels) * 2
        self.mean, self.variance = torch.randn(channels), torch.rand(channels) + 0.5

    @property
    def operands(self) -> list[Tensor]:
        return [each for each in (self.x, self.residual, self.weight, self.bias) if each is not None]

    def call(self, activation: str, training: bool, momentum: float = 0.1, eps: float = 1e-5) -> Tensor:
        return batch_norm(
            self.x,
            self.weight,
            self.bias,
            self.mean,
            self.variance,
            training,
            momentum,
            eps,
            residual=self.residual,
            activation=activation,
        )

    def double(self) -> Problem:
        """The same in float64, which PyTorch's operators compute."""
        other = object.__new__(Problem)
        for name, value in self.__dict__.items():
            setattr(other, name, None if value is None else value.detach().double())
        return other

    def requires_grad(self) -> Problem:
        for each in self.operands:
            each.requires_grad_()
        return self


def definition(p: Problem, activation: str, training: bool, momentum: float = 0.1, eps: float = 1e-5) -> Tensor:
    """Algorithm 1 of the paper, written out."""
    axes = [axis for axis in range(p.x.dim()) if axis != 1]
    each = [-1 if axis == 1 else 1 for axis in range(p.x.dim())]
    mean, variance = p.mean, p.variance
    if training:
        many = p.x.numel() // p.x.shape[1]
        mean = p.x.mean(axes)
        variance = (p.x - mean.reshape(each)).square().mean(axes)
        with torch.no_grad():
            p.mean.mul_(1 - momentum).add_(mean * momentum)
            p.variance.mul_(1 - momentum).add_(variance * (momentum * many / (many - 1)))
    z = (p.x - mean.reshape(each)) / (variance.reshape(each) + eps).sqrt() * p.weight.reshape(each)
    z = z + p.bias.reshape(each)
    return THEIRS[activation](z if p.residual is None else z + p.residual)


def close(actual: Tensor, expected: Tensor, ulps: float = 50) -> None:
    """Up to some roundings of the largest value."""
    bound = ulps * torch.finfo(torch.float32).eps * max(1.0, expected.abs().max().item())
    torch.testing.assert_close(actual.double(), expected.double(), rtol=0.0, atol=bound)


def check(p: Problem, activation: str, training: bool, ulps: float = 50) -> None:
    """Result, running statistics and gradients against the definition in float64; operands unchanged."""
    exact = p.double().requires_grad()
    expected = definition(exact, activation, training)
    p.requires_grad()
    before = [each.detach().clone() for each in p.operands]
    found = p.call(activation, training)
    assert found.stride() == p.x.stride()
    close(found, expected, ulps)
    close(p.mean, exact.mean)
    close(p.variance, exact.variance)
    slopes = torch.autograd.grad(expected, exact.operands, p.g.double())
    mine = torch.autograd.grad(found, p.operands, p.g)
    many = p.x.numel() // p.x.shape[1]
    for grad, slope in zip(mine, slopes, strict=True):
        close(grad, slope, ulps * (1 if grad.dim() > 1 else max(1.0, many**0.5 / 4)))
    assert all(torch.equal(*pair) for pair in zip(p.operands, before, strict=True))


KINKS = {
    **dict.fromkeys(("", "silu", "tanh", "sigmoid", "gelu"), ()),
    **dict.fromkeys(("relu", "leaky_relu:0.1", "leaky_relu:-0.5", "elu:1.0", "elu:0.3"), (0.0,)),
    "relu6": (0.0, 6.0),
    "hardswish": (-3.0, 3.0),
}


def at_kinks(p: Problem, activation: str, training: bool) -> Tensor:
    """Where float32 and float64 might be on two sides of a kink."""
    z = definition(p.double(), "", training)
    return sum(((z - kink).abs() < 1e-4 for kink in KINKS[activation]), torch.zeros_like(z, dtype=torch.bool)) > 0


def away_from_kinks(p: Problem, activation: str, training: bool) -> Problem:
    """The problem, without gradients where rounding might decide on them."""
    p.g.masked_fill_(at_kinks(p, activation, training), 0.0)
    return p


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("activation", "residual", "training"), FORMS)
def test_values_and_gradients_are_the_definition_s(
    activation: str, residual: bool, training: bool, layout: str
) -> None:
    for shape in [(3, 5, 6, 7), (4, 16, 3, 3), (2, 33, 17)]:
        check(away_from_kinks(Problem(shape, residual, LAYOUTS[layout]), activation, training), activation, training)


random_shapes = given(
    batch=st.integers(1, 5),
    channels=st.one_of(st.integers(1, 40), st.just(64)),
    size=st.lists(st.integers(1, 9), max_size=3),
    form=st.sampled_from(FORMS),
    layout=st.sampled_from(list(LAYOUTS)),
    seed=st.integers(0, 1000),
)


def check_shape(
    batch: int, channels: int, size: list[int], form: tuple[str, bool, bool], layout: str, seed: int
) -> None:
    torch.manual_seed(seed)
    activation, residual, training = form
    shape = (batch, channels, *size)
    p = Problem(shape, residual, LAYOUTS[layout])
    if training and p.x.numel() == channels:
        return
    # Few numbers may have any deviation, and so any slope.
    p.x = LAYOUTS[layout](torch.linspace(-3, 3, p.x.numel())[torch.randperm(p.x.numel())].reshape(shape))
    check(away_from_kinks(p, activation, training), activation, training, ulps=400)


@settings(max_examples=25)
@random_shapes
def test_random_shapes(**drawn: Any) -> None:
    check_shape(**drawn)


@pytest.mark.slow
@settings(max_examples=80)
@random_shapes
def test_more_random_shapes(**drawn: Any) -> None:
    check_shape(**drawn)


@pytest.mark.parametrize("shape", [(5, 20, 37, 41), (70, 24, 12, 11), (600, 10), (1, 2, 1, 3000), (16, 40, 24, 24)])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("threads", [1, 2])
def test_many_numbers_on_one_and_two_threads(shape: tuple[int, ...], layout: str, threads: int) -> None:
    torch.set_num_threads(threads)
    try:
        for activation, residual in (("silu", False), ("relu6", True)):
            p = Problem(shape, residual, LAYOUTS[layout])
            check(away_from_kinks(p, activation, True), activation, True)
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_run_and_every_number_of_threads_gives_the_same_bits(layout: str) -> None:
    found = []
    for threads in (1, 2, 2, 2):
        torch.set_num_threads(threads)
        torch.manual_seed(3)
        p = Problem((6, 24, 19, 21), True, LAYOUTS[layout]).requires_grad()
        y = p.call("relu", True)
        found.append([y, p.mean, p.variance, *torch.autograd.grad(y, p.operands, p.g)])
    torch.set_num_threads(1)
    for other in found[1:]:
        assert all(torch.equal(*pair) for pair in zip(found[0], other, strict=True))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(8, 12, 20, 20), (300, 12, 1, 1), (2, 12, 60, 70)])
def test_statistics_of_a_small_deviation_far_from_zero(shape: tuple[int, ...], layout: str) -> None:
    p = Problem(shape, False, LAYOUTS[layout])
    p.x = LAYOUTS[layout](torch.randn(shape) * 1e-2 + 1e4)
    exact = p.double()
    expected = definition(exact, "", True, momentum=1.0, eps=1e-12)
    found = p.call("", True, momentum=1.0, eps=1e-12)
    torch.testing.assert_close(p.variance.double(), exact.variance, rtol=2e-6, atol=0.0)
    torch.testing.assert_close(p.mean.double(), exact.mean, rtol=1e-7, atol=0.0)
    close(found, expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_equal_numbers_have_no_variance_not_even_a_negative_one(layout: str) -> None:
    p = Problem((7, 300, 5, 3), False, LAYOUTS[layout])
    p.x = LAYOUTS[layout]((torch.rand(300, 1, 1) * 1e3).expand(7, 300, 5, 3).contiguous())
    y = p.call("", True, momentum=1.0)
    assert (p.variance == 0).all()
    assert torch.equal(y, p.bias.reshape(-1, 1, 1).expand(7, 300, 5, 3))


def no_worse_than_pytorch(x: Tensor, g: Tensor, layout: str, momentum: float = 1.0, eps: float = 1e-5) -> None:
    """Result, running statistics and gradients lie as near to those in float64 as PyTorch's, or to two roundings."""
    lay, channels = LAYOUTS[layout], x.shape[1]
    weight, bias = torch.linspace(0.5, 2, channels), torch.linspace(-1, 1, channels)

    def computed(by: str) -> list[Tensor]:
        p = Problem(tuple(x.shape), False)
        p.x, p.g, p.weight, p.bias = lay(x), lay(g), weight.clone(), bias.clone()
        p.mean, p.variance = torch.zeros(channels), torch.zeros(channels)
        p = p.double() if by == "definition" else p
        p.requires_grad()
        if by == "kernels":
            y = p.call("", True, momentum, eps)
        elif by == "PyTorch":
            y = F.batch_norm(p.x, p.mean, p.variance, p.weight, p.bias, True, momentum, eps)
        else:
            y = definition(p, "", True, momentum, eps)
        return [y.detach(), p.mean, p.variance, *torch.autograd.grad(y, p.operands, p.g)]

    mine, theirs, exact = (computed(by) for by in ("kernels", "PyTorch", "definition"))
    each, axes = [1, -1, *[1] * (x.dim() - 2)], [0, *range(2, x.dim())]
    normal = (exact[0] - bias.double().view(each)) / weight.double().view(each)
    inverse = (exact[2] / momentum * (1 - channels / x.numel()) + eps).rsqrt()
    terms = g.double().abs()
    # What is added up, or taken apart, on the way to each.
    sizes = {
        "y": exact[0].abs() + bias.abs().view(each),
        "mean": exact[1].abs() + momentum * 1e-3 / inverse,
        "variance": exact[2],
        "grad": (weight * inverse * (1 + normal.abs().amax(axes))) * terms.amax(),
        "grad weight": (terms * normal.abs()).sum(axes),
        "grad bias": terms.sum(axes),
    }
    for (name, size), a, b, c in zip(sizes.items(), mine, theirs, exact, strict=True):
        least = 2 * torch.finfo(torch.float32).eps * size.max().item()
        allowed = max(least, (b.double() - c).abs().max().item())
        assert (a.double() - c).abs().max().item() <= allowed, name


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_black_corner_and_a_bright_one_cost_no_digits(layout: str) -> None:
    """Wherever they stand: in what is met first of a channel, in the middle of it, and in what is met last."""
    for rows in (slice(0, 1), slice(20, 21), slice(39, 40)):
        for base, value in ((100 + 0.01 * torch.randn(2, 4, 40, 40), 0.0), (torch.randn(2, 4, 40, 40), 3e3)):
            base[:, :, rows, :16] = value
            no_worse_than_pytorch(base, torch.randn(base.shape), layout)
            rest = torch.ones(40, dtype=torch.bool)
            rest[rows] = False
            # The others aren't measured by the corner's distance.
            p = Problem(base.shape, False)
            p.x, p.weight, p.bias = LAYOUTS[layout](base), torch.ones(4), torch.zeros(4)
            expected = definition(p.double(), "", True)[:, :, rest]
            found = p.call("", True)[:, :, rest]
            error = (found.double() - expected).abs().max().item()
            assert error <= 4e-7 * expected.abs().max().item()


@settings(max_examples=150)
@given(
    shape=st.sampled_from(
        [(2, 3, 4, 5), (1, 4, 9, 31), (7, 5, 13, 3), (3, 2, 40, 40), (64, 17), (5, 20, 3, 3), (2, 3, 700)]
    ),
    layout=st.sampled_from(list(LAYOUTS)),
    offset=st.one_of(st.just(0.0), st.floats(-1e6, 1e6, width=32), st.sampled_from([0.1, 32.0, 1e4])),
    spread=st.sampled_from([0.0, 1e-3, 0.01, 1.0, 30.0]),
    outliers=st.floats(0, 0.5),
    where=st.floats(0, 1),
    outlier=st.one_of(st.floats(-1e8, 1e8, width=32), st.just(0.0)),
    upstream=st.sampled_from([(0.0, 1.0), (100.0, 0.01), (0.1, 0.0)]),
    eps=st.sampled_from([1e-5, 1e-3]),
    seed=st.integers(0, 1000),
)
def test_random_distributions_with_outliers(
    shape: tuple[int, ...],
    layout: str,
    offset: float,
    spread: float,
    outliers: float,
    where: float,
    outlier: float,
    upstream: tuple[float, float],
    eps: float,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    x = offset + spread * torch.randn(shape)
    one = x.movedim(1, 0).reshape(shape[1], -1)
    many = int(outliers * one.shape[1])
    start = int(where * (one.shape[1] - many))
    # All channels but the first, so that one that is read once stands beside others that aren't.
    one[1:, start : start + many] = outlier
    x = one.reshape(shape[1], shape[0], *shape[2:]).movedim(0, 1).contiguous()
    no_worse_than_pytorch(x, upstream[0] + upstream[1] * torch.randn(shape), layout, eps=eps)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_slopes_at_kinks_far_out_and_of_nan_are_pytorch_s(activation: str) -> None:
    special = torch.tensor([-3.0, 0.0, 3.0, 6.0, -200.0, 200.0, float("nan"), 1e-30])
    for residual in (False, True):
        x = special.reshape(8, 1).repeat(1, 9).requires_grad_()
        r = torch.zeros(8, 9, requires_grad=True) if residual else None
        # Statistics that leave every number as it is.
        zeros, ones = torch.zeros(9), torch.ones(9)
        y = batch_norm(x, None, None, zeros, ones, False, 0.1, 0.0, residual=r, activation=activation)
        g = torch.randn(8, 9)
        z = x.detach().clone().requires_grad_()
        expected = THEIRS[activation](z)
        torch.testing.assert_close(y, expected, equal_nan=True)
        (slope,) = torch.autograd.grad(expected, z, g)
        for grad in torch.autograd.grad(y, [x] if r is None else [x, r], g):
            torch.testing.assert_close(grad, slope, equal_nan=True)


# -------------------------------------------------------------------- arguments


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("has", list(itertools.product([True, False], repeat=3)))
@pytest.mark.parametrize("momentum", [0.0, 0.1, 1.0, 1])
def test_what_may_be_missing_is_as_pytorch_has_it(has: tuple[bool, bool, bool], momentum: float, layout: str) -> None:
    weight, bias, running = has
    for training in (True, False) if running else (True,):
        p = Problem((3, 9, 5, 5), False, LAYOUTS[layout])
        tables = (p.weight if weight else None, p.bias if bias else None)
        mine = (p.mean.clone(), p.variance.clone()) if running else (None, None)
        theirs = (p.mean, p.variance) if running else (None, None)
        found = batch_norm(p.x, *tables, *mine, training, momentum, 1e-3)
        close(found, F.batch_norm(p.x, *theirs, *tables, training, momentum, 1e-3))
        for pair in zip(mine, theirs, strict=True) if running else ():
            torch.testing.assert_close(*pair)


@pytest.mark.parametrize("wanted", list(itertools.product([True, False], repeat=4)))
@pytest.mark.parametrize("training", [True, False])
def test_gradients_of_those_that_require_one(wanted: tuple[bool, ...], training: bool) -> None:
    p = Problem((3, 9, 4, 5), True)
    exact = p.double()
    for problem in (p, exact):
        for operand, each in zip(problem.operands, wanted, strict=True):
            operand.requires_grad_(each)
    y, expected = p.call("silu", training), definition(exact, "silu", training)
    assert y.requires_grad == any(wanted)
    if not any(wanted):
        assert y.grad_fn is None
        return
    y.backward(p.g)
    expected.backward(p.g.double())
    for operand, each in zip(p.operands, exact.operands, strict=True):
        assert (operand.grad is None) == (each.grad is None)
        if operand.grad is not None:
            close(operand.grad, each.grad, 200)


def test_a_residual_that_is_the_input_or_lies_otherwise() -> None:
    x = torch.randn(3, 8, 5, 5, requires_grad=True)
    exact = x.detach().double().requires_grad_()
    for mine, theirs in ((x, exact), (side_by_side(x), exact), (x.transpose(2, 3), exact.transpose(2, 3))):
        y = batch_norm(x, None, None, None, None, True, 0.1, 1e-5, residual=mine, activation="silu")
        expected = F.silu(F.batch_norm(exact, None, None, None, None, True) + theirs)
        close(y, expected)
        g = torch.randn(3, 8, 5, 5)
        for upstream in (g, side_by_side(g), g[:, :1].expand(3, 8, 5, 5)):
            mine_grad, *_ = torch.autograd.grad(y, x, upstream, retain_graph=True)
            close(mine_grad, torch.autograd.grad(expected, exact, upstream.double(), retain_graph=True)[0], 200)


@pytest.mark.parametrize(
    "view",
    [
        lambda t: t[:, :, ::2],
        lambda t: t.transpose(0, 1),
        lambda t: t.transpose(2, 3),
        lambda t: t[:, 1:],
        lambda t: t[:, :, :1].expand(6, 6, 6, 6),
    ],
)
def test_memory_with_gaps_or_in_another_order(view: Callable[[Tensor], Tensor]) -> None:
    x = view(torch.randn(6, 6, 6, 6))
    channels = x.shape[1]
    weight = torch.randn(channels)
    found = batch_norm(x, weight, None, None, None, True, 0.1, 1e-5, activation="relu")
    close(found, F.relu(F.batch_norm(x, None, None, weight, None, True)))


@pytest.mark.parametrize("backend", ["auto", "llvm", "aten"])
@pytest.mark.parametrize("training", [False, True])
def test_weights_with_gaps_or_one_for_all(backend: str, training: bool) -> None:
    x = torch.randn(4, 8, 6, 6).contiguous(memory_format=torch.channels_last)
    g = torch.randn_like(x)
    running = torch.zeros(8), torch.ones(8)
    for weight in (torch.randn(8, 2)[:, 1], torch.randn(1).expand(8)):
        mine, exact = x.clone().requires_grad_(), x.double().requires_grad_()
        with engine.use(backend):
            y = batch_norm(mine, weight, weight, *map(torch.clone, running), training, 0.1, 1e-5, activation="relu")
            (found,) = torch.autograd.grad(y, mine, g)
        expected = F.relu(F.batch_norm(exact, *(t.double() for t in running), *[weight.double()] * 2, training))
        close(y, expected)
        close(found, torch.autograd.grad(expected, exact, g.double())[0], 200)


def test_errors() -> None:
    x, ones = torch.randn(2, 3, 4, 4), torch.ones(3)
    for name in ("softplus", "elu", "elu:a", "elu:nan", "relu:1.0"):
        with pytest.raises(OperandError, match=f"got activation '{name}'; needed one of '', 'relu', .*, 'elu:NUMBER'"):
            batch_norm(x, None, None, None, None, True, 0.1, 1e-5, activation=name)
    for shape in [(1, 3), (1, 3, 1, 1)]:
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            batch_norm(torch.randn(shape), None, None, None, None, True, 0.1, 1e-5)
        # In evaluation one number is enough.
        assert batch_norm(torch.randn(shape), None, None, ones, ones, False, 0.1, 1e-5).shape == shape
    with pytest.raises(ValueError, match="eps must be positive"):
        batch_norm(x, None, None, None, None, True, 0.1, 0.0)
    with pytest.raises(TypeError, match="momentum"):
        batch_norm(x, None, None, ones, ones, True, None, 1e-5)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError):
        batch_norm(x, torch.ones(4), None, None, None, True, 0.1, 1e-5)
    with pytest.raises(RuntimeError):
        batch_norm(x, None, None, None, None, False, 0.1, 1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes_are_composed(dtype: torch.dtype) -> None:
    x, weight = torch.randn(2, 3, 4, 4).to(dtype), torch.randn(3).to(dtype)
    found = batch_norm(x, weight, None, None, None, True, 0.1, 1e-5, residual=x, activation="relu6")
    assert torch.equal(found, F.relu6(F.batch_norm(x, None, None, weight, None, True) + x))


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 3, 0, 4)])
def test_no_numbers_are_normalised_as_pytorch_does(shape: tuple[int, ...]) -> None:
    x, ones = torch.randn(shape), torch.ones(3)
    assert batch_norm(x, None, None, ones, ones, False, 0.1, 1e-5, activation="relu").shape == shape


def test_numbers_marked_as_negated() -> None:
    x = torch.randn(2, 3, 4, 4, dtype=torch.complex64).conj().imag
    assert x.is_neg()
    close(batch_norm(x, None, None, None, None, True, 0.1, 1e-5), F.batch_norm(x, None, None, training=True))
    y = torch.randn(2, 3, 4, 4, requires_grad=True)
    found = batch_norm(y, None, None, None, None, True, 0.1, 1e-5)
    expected = F.batch_norm(y, None, None, training=True)
    close(torch.autograd.grad(found, y, x)[0], torch.autograd.grad(expected, y, x)[0])


# -------------------------------------------------------------------- derivatives of every order, transforms


@pytest.mark.parametrize(("activation", "residual", "training"), FORMS)
def test_finite_differences(activation: str, residual: bool, training: bool) -> None:
    p = Problem((3, 2, 2, 2), residual).double().requires_grad()
    statistics = p.mean.clone(), p.variance.clone()

    def run(x: Tensor, *rest: Tensor) -> Tensor:
        *between, weight, bias = rest
        added = between[0] if between else None
        return batch_norm(x, weight, bias, *statistics, training, 0.0, 1e-3, residual=added, activation=activation)

    assert torch.autograd.gradcheck(run, p.operands)
    assert torch.autograd.gradgradcheck(run, p.operands)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("activation", "residual", "training"), FORMS)
def test_second_derivatives_of_kernels(activation: str, residual: bool, training: bool, layout: str) -> None:
    p = away_from_kinks(Problem((4, 5, 3, 4), residual, LAYOUTS[layout]), activation, training)
    exact = p.double().requires_grad()
    p.requires_grad()
    upstream = [p.g.clone().requires_grad_(), p.g.double().requires_grad_()]
    found = []
    for y, operands, g in (
        (p.call(activation, training), p.operands, upstream[0]),
        (definition(exact, activation, training), exact.operands, upstream[1]),
    ):
        first = torch.autograd.grad(y, operands, g, create_graph=True)
        penalty = sum(grad.square().sum() for grad in first)
        found.append([*first, *torch.autograd.grad(penalty, [*operands, g], materialize_grads=True)])
    for mine, theirs in zip(*found, strict=True):
        close(mine, theirs, 500)


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_second_derivatives_where_the_residual_is_the_input(activation: str) -> None:
    x = torch.randn(3, 4, 5, 5, requires_grad=True)
    exact = x.detach().double().requires_grad_()
    found = []
    for operand in (x, exact):
        y = batch_norm(operand, None, None, None, None, True, 0.1, 1e-5, residual=operand, activation=activation)
        (first,) = torch.autograd.grad(y.square().sum(), operand, create_graph=True)
        found.append([first, *torch.autograd.grad(first.square().sum(), operand)])
    for mine, theirs in zip(*found, strict=True):
        close(mine, theirs, 500)


def test_the_kernels_backward_is_the_adjoint_of_the_forward_derivative() -> None:
    for layout, training, activation in itertools.product(LAYOUTS.values(), [True, False], ACTIVATIONS):
        p = Problem((4, 9, 7, 6), False, layout)
        tangent = layout(torch.randn_like(p.x))
        with torch.autograd.forward_ad.dual_level():
            kept, p.x = p.x, torch.autograd.forward_ad.make_dual(p.x, tangent)
            pushed = torch.autograd.forward_ad.unpack_dual(p.call(activation, training, 0.0)).tangent
        p.x = kept.requires_grad_()
        (pulled,) = torch.autograd.grad(p.call(activation, training, 0.0), p.x, p.g)
        torch.testing.assert_close((pushed * p.g).sum(), (tangent * pulled).sum(), rtol=1e-4, atol=1e-3)


def test_transforms_are_composed() -> None:
    x, w = torch.randn(4, 3, 2, 5, 5), torch.randn(2)

    def run(x: Tensor) -> Tensor:
        return batch_norm(x, w, None, None, None, True, 0.1, 1e-5, residual=x, activation="silu")

    torch.testing.assert_close(torch.func.vmap(run)(x), torch.stack([run(each) for each in x]))
    grad = torch.func.grad(lambda x: run(x).square().sum())(x[0])
    y = x[0].clone().requires_grad_()
    run(y).square().sum().backward()
    torch.testing.assert_close(grad, y.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("activation", "residual"), list(itertools.product(["relu", "silu"], [False, True])))
def test_batches_of_gradients(activation: str, residual: bool) -> None:
    p = Problem((3, 4, 5, 5), residual).requires_grad()
    y = p.call(activation, True)
    many = torch.randn(2, *y.shape)
    together = torch.autograd.grad(y, p.operands, many, is_grads_batched=True, retain_graph=True)
    for at in range(2):
        for grads, single in zip(
            together, torch.autograd.grad(y, p.operands, many[at], retain_graph=True), strict=True
        ):
            close(grads[at], single, 200)


def test_compiled_and_exported_it_is_pytorch_s_operators() -> None:
    class Network(torch.nn.BatchNorm2d):
        def forward(self, x: Tensor) -> Tensor:
            tables = (self.weight, self.bias, self.running_mean, self.running_var)
            return batch_norm(x, *tables, self.training, 0.1, self.eps, activation="relu")

    network, x = Network(3).eval(), torch.randn(2, 3, 8, 8)
    expected = network(x)
    torch.testing.assert_close(torch.export.export(network, (x,)).module()(x), expected)
    torch.testing.assert_close(torch.compile(network, fullgraph=True, backend="aot_eager")(x), expected)


def test_autocast_is_pytorch_s() -> None:
    x, w = torch.randn(2, 3, 4, 4), torch.ones(3)
    with torch.autocast("cpu", torch.bfloat16):
        found = batch_norm(x, w, None, None, None, True, 0.1, 1e-5)
        expected = F.batch_norm(x, None, None, w, None, True)
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)


def test_a_result_changed_in_place_is_noticed() -> None:
    p = Problem((2, 3, 4, 4), True).requires_grad()
    y = p.call("relu", True)
    y.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


# -------------------------------------------------------------------- the choice


def _asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    asked: list[str] = []
    for place, name, said in ((normalization.NormKernels, "forward", "llvm"), (norm, "_composed", "aten")):
        real = getattr(place, name)
        monkeypatch.setattr(place, name, lambda *a, real=real, said=said: asked.append(said) or real(*a))
    return asked


def test_a_fixed_backend_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = _asked(monkeypatch)
    p = Problem((2, 3, 4, 4), False)
    for name in ("llvm", "aten", "reference"):
        with engine.use(name):
            p.call("relu", True)
    assert asked == ["llvm", "aten", "aten"]


def test_without_measuring_size_and_layout_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = _asked(monkeypatch)
    with engine.use("auto"):
        for batch, lay in ((2, "planes"), (16, "planes"), (16, "side by side"), (64, "side by side")):
            Problem((batch, 8, 16, 16), False, LAYOUTS[lay]).call("relu", True)
        # A thread without a channel would have nothing to do.
        torch.set_num_threads(2)
        Problem((4, 1, 128, 128), False).call("relu", True)
        torch.set_num_threads(1)
    assert asked == ["aten", "llvm", "aten", "llvm", "aten"]


@pytest.mark.usefixtures("measuring")
def test_measuring_leaves_no_traces_and_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = _asked(monkeypatch)
    p = Problem((4, 8, 9, 9), True).requires_grad()
    exact = p.double()
    definition(exact, "relu", True)
    with engine.use("auto"):
        p.call("relu", True)
        assert {"aten", "llvm"} <= set(asked)
        close(p.mean, exact.mean)
        assert all(each.grad is None for each in p.operands)
        known = tuning.known(
            tuning.TimingKey(
                NormShape((4, 8, 9, 9), "relu", residual=True, training=True),
                engine.Pass.INPUT_GRAD,
                torch.float32,
                "cpu",
                False,
                1,
            )
        )
        assert known is not None
        assert known.keys() == {"aten", "llvm"}
        asked.clear()
        p.call("relu", True)
        assert len(asked) == 1
