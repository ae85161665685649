"""Convolution, activation and max pooling as one operation, against the three as PyTorch computes them in float64."""

from __future__ import annotations

import math
import random

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cases import assert_same, slow_but
from striate import engine
from striate.engine import choice, tuning
from striate.engine import conv_pool as blocks
from striate.engine.llvm.winograd import backend as winograd_backend
from striate.errors import GeometryError, OperandError
from striate.ops import conv_pool
from striate.ops.conv_pool import as_one, conv_max_pool

ACTIVATIONS = {"": lambda x: x, "relu": F.relu, "relu6": F.relu6}


def theirs(x: Tensor, w: Tensor, b: Tensor | None, conv: tuple, activation: str, pool: tuple) -> Tensor:
    stride, padding, dilation = conv
    dims = w.dim() - 2
    y = (F.conv1d, F.conv2d)[dims - 1](x, w, b, stride, padding, dilation)
    return (F.max_pool1d, F.max_pool2d)[dims - 1](ACTIVATIONS[activation](y), *pool)


def check(x: Tensor, w: Tensor, b: Tensor | None, conv: tuple, activation: str, pool: tuple) -> None:
    """Values and gradients, of numbers of which rounding doesn't decide which is larger."""
    mine = [each.detach().requires_grad_() for each in (x, w, b) if each is not None]
    double = [each.detach().double().requires_grad_() for each in (x, w, b) if each is not None]
    y = conv_max_pool(*mine, *([None] if b is None else []), *conv, 1, activation, *pool)
    assert type(y.grad_fn).__name__ == "_BlockBackward"
    z = theirs(*double, *([None] if b is None else []), conv, activation, pool)
    macs = w[0].numel()
    assert_same(y.detach(), z.detach(), 4 * macs)
    g = torch.randn(y.shape)
    found, wanted = torch.autograd.grad(y, mine, g), torch.autograd.grad(z, double, g.double())
    terms = (w.shape[0] * w[0, 0].numel(), y.numel() // w.shape[0], y.numel() // w.shape[0])
    for one, other, many in zip(found, wanted, terms, strict=False):
        assert_same(one, other, max(16, many))


def problem(seed: int) -> tuple:
    """Any geometry that the kernels take; whole numbers, so that which one is the largest is beyond rounding."""
    draw = random.Random(seed)
    while True:
        dims = draw.choice([1, 2, 2, 2])
        inner, outer = draw.choice([1, 1, 2, 3, 5, 8, 12, 16, 20]), draw.choice([1, 2, 3, 7, 9, 17])
        kernel = [draw.choice([1, 2, 3, 3, 5]) for _ in range(dims)]
        stride = [draw.choice([1, 1, 2, 3]) for _ in range(dims)]
        dilation = [draw.choice([1, 2]) for _ in range(dims - 1)] + [1]
        padding = [draw.randint(0, k // 2) for k in kernel]
        pool = [draw.choice([2, 3, 3]) for _ in range(dims)]
        pool_stride = [draw.choice([2, 2, 3]) if dims > 1 else draw.choice([3, 4]) for _ in range(dims)]
        pool_padding = [draw.randint(0, k // 2) for k in pool]
        size = [draw.choice([5, 7, 8, 12, 17, 20]) for _ in range(dims)]
        ceil = draw.random() < 0.3
        torch.manual_seed(seed)
        x = torch.randint(-9, 10, (draw.randint(1, 4), inner, *size)).float()
        w = torch.randint(-4, 5, (outer, inner, *kernel)).float()
        b = torch.randint(-30, 30, (outer,)).float() if draw.random() < 0.7 else None
        how = ((stride, padding, dilation), draw.choice(list(ACTIVATIONS)), (pool, pool_stride, pool_padding, 1, ceil))
        try:
            theirs(x, w, b, *how)
        except RuntimeError:
            continue  # a window longer than the map
        if dims == 2 and draw.random() < 0.5:
            x = x.contiguous(memory_format=torch.channels_last)
        return (x, w, b, *how)


@pytest.mark.parametrize("start", slow_but(range(0, 20, 4), [0]))
def test_random_problems(start: int) -> None:
    for seed in range(start, start + 4):
        check(*problem(seed))


@pytest.mark.slow
@pytest.mark.parametrize("start", [20, *range(1000, 6000, 100)])
def test_5000_random_problems(start: int) -> None:
    for seed in range(start, start + 100):
        check(*problem(seed))


LAYERS = {
    "LeNet-5 C1": ((3, 1, 28, 28), (6, 1, 5, 5), (1, 2, 1), (2,)),
    "LeNet-5 C3": ((5, 6, 14, 14), (16, 6, 5, 5), (1, 0, 1), (2,)),
    "simple_cnn conv2": ((3, 32, 14, 14), (64, 32, 3, 3), (1, 1, 1), (2,)),
    "channels in parts": ((2, 48, 20, 17), (19, 48, 3, 3), (1, 1, 1), (2,)),
    "parts of several vectors": ((1, 64, 9, 30), (3, 64, 2, 3), (1, 1, 1), (2,)),
    "AlexNet conv1": ((1, 3, 64, 64), (16, 3, 11, 11), (4, 2, 1), (3, 2)),
    "weights in tiles of part of a row": ((2, 64, 9, 21), (96, 64, 3, 3), (1, 1, 1), (2,)),
    "many weights, through the whole map": ((1, 64, 8, 8), (300, 64, 3, 3), (1, 1, 1), (2,)),
    "rows in blocks": ((1, 24, 90, 90), (3, 24, 3, 3), (1, 1, 1), (3, 2, 1)),
}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    "name", slow_but(LAYERS, ["LeNet-5 C1", "LeNet-5 C3", "simple_cnn conv2", "many weights, through the whole map"])
)
def test_layers_as_networks_have_them(name: str, channels_last: bool, threads: int) -> None:
    input, weight, conv, pool = LAYERS[name]
    x, w, b = (torch.randint(-9, 10, size).float() for size in (input, weight, weight[:1]))
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    torch.set_num_threads(threads)
    try:
        check(x, w, b, conv, "relu", pool)
    finally:
        torch.set_num_threads(1)


def test_ways_that_are_known_to_be_slower_are_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    slower = {"lists", "pooled", "transformed"}
    monkeypatch.setattr(tuning, "measuring", lambda: True)
    monkeypatch.setattr(tuning, "measure", lambda _, runs: {name: 1e-3 if name not in slower else 1.0 for name in runs})
    monkeypatch.setattr(choice, "_made", {})
    monkeypatch.setattr(conv_pool, "_prepared", {})
    monkeypatch.setattr(blocks.conv_pool_kernels, "input_grad", lambda *_: pytest.fail("made"))
    monkeypatch.setattr(winograd_backend, "maximum", lambda *_: pytest.fail("made"))
    x, w = torch.randn(2, 32, 8, 8, requires_grad=True), torch.randn(32, 32, 3, 3)
    y = as_one(
        x.contiguous(memory_format=torch.channels_last), w, None, (1, 1, 1, 1), "", (2, None, 0, 1, False), False
    )
    assert y is not None
    y.sum().backward()


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("activation", slow_but(ACTIVATIONS, ["relu"]))
def test_where_outputs_need_not_be_local_tiles_are_pooled_as_they_are_made(
    activation: str, channels_last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    went, real = [], winograd_backend.maximum

    def maximum(*operands: object) -> tuple[Tensor, Tensor]:
        went.append(1)
        return real(*operands)

    monkeypatch.setattr(winograd_backend, "maximum", maximum)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.randn(8, 32, 14, 14).contiguous(memory_format=layout).requires_grad_()
    w, b = torch.randn(64, 32, 3, 3, requires_grad=True), torch.randn(64, requires_grad=True)
    how = (1, 1, 1, 1), activation, (2, None, 0, 1, False)
    assert as_one(x, w, b, *how) is not None
    assert not went
    y = as_one(x, w, b, *how, local=False)
    assert y is not None
    assert went
    assert y.is_contiguous(memory_format=layout)
    double = [each.detach().double().requires_grad_() for each in (x, w, b)]
    z = theirs(*double, (1, 1, 1), activation, (2,))
    assert_same(y.detach(), z.detach(), 4 * 9 * 32)
    g = torch.randn(y.shape)
    found, wanted = torch.autograd.grad(y, (x, w, b), g), torch.autograd.grad(z, double, g.double())
    for one, other in zip(found, wanted, strict=True):
        assert_same(one, other, 4 * y.numel() // 64)


@pytest.mark.slow
@pytest.mark.usefixtures("narrower")
def test_every_instruction_set_computes_the_same() -> None:
    for seed in range(2):
        check(*problem(seed))


@pytest.mark.slow
@pytest.mark.usefixtures("narrower")
def test_every_instruction_set_computes_the_same_of_more() -> None:
    for seed in range(2, 40):
        check(*problem(seed))


def test_settings_in_lists_are_known_again_and_may_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conv_pool, "_prepared", {})
    x, w, b = leaves()
    window = [2, 2]
    for size in (2, 2, 3):
        window[:] = [size, size]
        y = conv_max_pool(x, w, b, [1, 1], [1, 1], kernel_size=window)
        wanted = torch.max_pool2d(torch.conv2d(x, w, b, padding=1), size)
        torch.testing.assert_close(y, wanted, rtol=1e-4, atol=1e-4)
    assert len(conv_pool._prepared) == 2


@pytest.mark.parametrize("quicker", ["lists", "whole"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_the_quicker_way_to_the_inputs_gradient_is_taken(
    quicker: str, channels_last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, w, b = leaves()
    x = x.detach().contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    asked, went = [], []

    def measured(question: tuning.TimingKey, runs: dict) -> dict[str, float]:
        if "lists" in runs:
            asked.append(question.line())
            torch.testing.assert_close(*(run() for run in runs.values()), rtol=1e-4, atol=1e-4)
        return {name: 1e-3 if name.startswith(("aten", quicker)) else 1.0 for name in runs}

    def spread(*arguments: object) -> Tensor:
        went.append(1)
        return real(*arguments)

    real = blocks.spread
    monkeypatch.setattr(tuning, "measuring", lambda: True)
    monkeypatch.setattr(tuning, "measure", measured)
    monkeypatch.setattr(blocks, "spread", spread)
    monkeypatch.setattr(conv_pool, "_prepared", {})
    monkeypatch.setattr(choice, "_made", {})
    for _ in range(2):
        (grad,) = torch.autograd.grad(conv_max_pool(x.requires_grad_(), w, b).sum(), x)
    (wanted,) = torch.autograd.grad(theirs(x, w, b, (1, 0, 1), "", (2,)).sum(), x)
    torch.testing.assert_close(grad, wanted, rtol=1e-4, atol=1e-4)
    assert grad.stride() == x.stride()
    assert len(asked) == 1
    assert asked[0].startswith("conv_max_pool2d ")
    assert len(went) == (1 if quicker == "lists" else 3)  # once to measure


def test_runs_agree_to_the_bit() -> None:
    x, w, b, *how = problem(3)
    torch.set_num_threads(2)
    try:
        runs = []
        for _ in range(3):
            leaves = [each.clone().requires_grad_() for each in (x, w)]
            y = conv_max_pool(*leaves, b, *how[0], 1, how[1], *how[2])
            runs.append(torch.autograd.grad(y.square().sum(), leaves))
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(one, other) for run in runs[1:] for one, other in zip(runs[0], run, strict=True))


def leaves() -> tuple[Tensor, Tensor, Tensor]:
    return tuple(torch.randn(size).requires_grad_() for size in ((2, 3, 9, 9), (4, 3, 3, 3), (4,)))  # type: ignore


def test_second_derivatives_go_through_the_parts() -> None:
    x, w, b = leaves()
    how = ((1, 1, 1), "relu", (2,))
    found = []
    for y in (conv_max_pool(x, w, b, *how[0], 1, how[1], 2), theirs(x, w, b, *how)):
        (grad,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(grad.square().sum(), (x, w, b)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2), (1, 2)])
def test_only_the_gradients_that_are_asked_for(wanted: tuple[int, ...]) -> None:
    tensors = [each.detach() for each in leaves()]
    for which in wanted:
        tensors[which].requires_grad_()
    conv_max_pool(*tensors, activation="relu").sum().backward()
    mine = [each.grad for each in tensors]
    for each in tensors:
        each.grad = None
    theirs(*tensors, (1, 0, 1), "relu", (2,)).sum().backward()
    for which, (one, other) in enumerate(zip(mine, (each.grad for each in tensors), strict=True)):
        assert (one is None) == (which not in wanted)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_the_result_may_be_changed_in_place() -> None:
    x, w, b = leaves()
    y = conv_max_pool(x, w, b)
    y.mul_(2).relu_()
    y.sum().backward()
    assert w.grad is not None


def test_everything_else_is_composed() -> None:
    x, w, b = leaves()
    assert type(conv_max_pool(x.double(), w.double(), b.double()).grad_fn).__name__ != "_BlockBackward"
    assert type(conv_max_pool(x[0], w, b).grad_fn).__name__ != "_BlockBackward"
    assert type(conv_max_pool(x, w, b, pool_stride=1).grad_fn).__name__ != "_BlockBackward"
    grouped = conv_max_pool(x, w[:3, :1], b[:3], groups=3)
    assert type(grouped.grad_fn).__name__ != "_BlockBackward"
    with engine.use("aten"):
        assert type(conv_max_pool(x, w, b).grad_fn).__name__ != "_BlockBackward"
    with torch.no_grad():
        assert conv_max_pool(x, w, b).grad_fn is None
    with torch.autocast("cpu", torch.bfloat16):
        assert conv_max_pool(x, w, b).dtype == torch.bfloat16
    three = conv_max_pool(torch.randn(1, 1, 4, 4, 4), torch.randn(2, 1, 3, 3, 3, requires_grad=True))
    assert three.shape == (1, 2, 1, 1, 1)


def test_transforms_see_the_parts() -> None:
    x, w, b = (each.detach() for each in leaves())

    def total(weight: Tensor) -> Tensor:
        return conv_max_pool(x, weight, b, activation="relu").sum()

    expected = torch.func.grad(lambda weight: theirs(x, weight, b, (1, 0, 1), "relu", (2,)).sum())(w)
    torch.testing.assert_close(torch.func.grad(total)(w), expected, rtol=1e-4, atol=1e-4)
    _, tangent = torch.func.jvp(total, (w,), (torch.ones_like(w),))
    torch.testing.assert_close(tangent, expected.sum(), rtol=1e-4, atol=1e-3)
    many = torch.stack([w, 2 * w])
    torch.testing.assert_close(torch.vmap(total)(many), torch.stack([total(each) for each in many]))


def test_bad_input_is_told() -> None:
    x, w, b = leaves()
    with pytest.raises(OperandError, match="activation='tanh'"):
        conv_max_pool(x, w, b, activation="tanh")
    with pytest.raises(OperandError, match="needed one dtype"):
        conv_max_pool(x, w.double(), b)
    with pytest.raises(OperandError, match=r"needed \(4,\)"):
        conv_max_pool(x, w, b[:2])
    with pytest.raises(GeometryError):
        conv_max_pool(x, w, b, kernel_size=20)


@pytest.mark.parametrize("name", ["weight_grad", "input_grad", "maximum"])
def test_a_wrong_kernel_shows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = getattr(blocks, name)

    def wrong(*arguments: object) -> object:
        compute = real(*arguments)

        def computed(*operands: object) -> object:
            made = compute(*operands)
            first = made[0] if isinstance(made, tuple) else made
            first[(-1,) * first.dim()] += 1
            return made

        return computed

    monkeypatch.setattr(blocks, name, wrong)
    monkeypatch.setattr(conv_pool, "_prepared", {})
    problems = [problem(seed) for seed in range(8)]
    with pytest.raises(AssertionError):
        [check(*each) for each in problems]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["input", "weight"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_what_is_not_finite_reaches_the_gradients_that_it_reaches_in_pytorch(
    number: float, where: str, channels_last: bool
) -> None:
    x, w, b = leaves()
    x = x.detach().contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    with torch.no_grad():
        (x if where == "input" else w)[1, 1, 1, 1] = number
    x.requires_grad_()
    y, z = conv_max_pool(x, w, b, activation="relu"), theirs(x, w, b, (1, 0, 1), "relu", (2,))
    found, wanted = torch.autograd.grad(y.sum(), (x, w, b)), torch.autograd.grad(z.sum(), (x, w, b))
    for mine, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4, equal_nan=True)
