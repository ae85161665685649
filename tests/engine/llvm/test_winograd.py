"""Winograd's convolution: the identity it rests on, its kernels against the reference, and who gets to use it."""

from __future__ import annotations

import functools
import importlib
import random
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from problems import check_convolution, terms

import striate
from cases import assert_same, conv, operands, slow_but
from striate import engine, nn, ops
from striate.engine import FORM, Pass, reference
from striate.engine.llvm import LlvmBackend
from striate.engine.llvm.codegen import isa
from striate.engine.llvm.winograd.forms import WinogradForm, transposed
from striate.errors import GeometryError
from striate.geometry import ConvShape, PoolShape, Window

winograd = importlib.import_module("striate.engine.llvm.winograd.backend")
BACKEND = winograd.WinogradBackend()
ALL_FORMS = [form for forms in winograd.FORMS.values() for form in forms]


def problem(seed: int) -> ConvShape:
    """Whole vectors of channels, any size and padding, cells cut off included."""
    draw = random.Random(seed)
    while True:
        kernel = draw.choice([3, 3, 3, 5])
        windows = tuple(Window(kernel, 1, (draw.randint(0, 6), draw.randint(0, 6))) for _ in range(2))
        size = tuple(draw.choice([1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 16, 21]) for _ in windows)
        inner, outer = (draw.choice(range(16, 65, max(8, isa.the_isa().lanes))) for _ in range(2))
        try:
            return ConvShape(draw.randint(1, 4), inner, outer, size, windows)
        except GeometryError:
            continue


def check(seed: int) -> None:
    check_convolution(problem(seed), 3 * seed + seed % 3, BACKEND, layouts=(0, 0, 0))


# ------------------------------------------------------------------------------------------------- the identity


def _times(matrix: object, column: list[Fraction]) -> list[Fraction]:
    return [sum((x * y for x, y in zip(row, column, strict=True)), Fraction(0)) for row in matrix]


@pytest.mark.parametrize("form", ALL_FORMS, ids=str)
def test_forms_are_convolution_exactly(form: WinogradForm) -> None:
    draw = random.Random(0)
    for _ in range(20):
        d, w, g = ([Fraction(draw.randint(-9, 9)) for _ in range(n)] for n in (form.size, form.taps, form.outputs))
        products = [x * y for x, y in zip(_times(form.b, d), _times(form.g, w), strict=True)]
        expected = [sum(d[o + t] * w[t] for t in range(form.taps)) for o in range(form.outputs)]
        assert _times(transposed(form.a), products) == expected
        products = [x * y for x, y in zip(_times(form.b, d), _times(form.a, g), strict=True)]
        expected = [sum(d[o + t] * g[o] for o in range(form.outputs)) for t in range(form.taps)]
        assert _times(transposed(form.g), products) == expected


@pytest.mark.parametrize("form", ALL_FORMS, ids=str)
def test_no_intermediate_number_outgrows_its_bound(form: WinogradForm) -> None:
    """What is rounded, for one axis: |A'| (|G| |w| * |B'| |d|), against the norms of w and d."""
    a, g, b = (torch.tensor([[float(abs(x)) for x in row] for row in m]) for m in (form.a, form.g, form.b))
    largest = 0.0
    for _ in range(500):
        d, w = (F.normalize(torch.rand(n) ** 3, dim=0) for n in (form.size, form.taps))
        largest = max(largest, (a.T @ ((g @ w) * (b @ d))).max().item() ** 2)
    assert 0.5 * form.growth < largest <= form.growth
    # As the documentation has it.
    rounded = form.bound(32) / float(form.growth) - 33
    told = f"{form.taps} x {form.taps}       {form.outputs} x {form.outputs}                   {float(form.growth):.1f}"
    assert f"{told}        {rounded:.0f}" in winograd.__doc__


def test_the_two_output_form_is_the_paper_s() -> None:
    """Lavin & Gray 2016, equation 5 and what it is made of, rows up to the sign that B and G may share."""
    form, half = WinogradForm(2, 3), Fraction(1, 2)
    assert transposed(form.a) == ((1, 1, 1, 0), (0, 1, -1, 1))
    assert form.g == ((-1, 0, 0), (half, half, half), (half, -half, half), (0, 0, 1))
    assert form.b == ((-1, 0, 1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, -1, 0, 1))


# --------------------------------------------------------------------------------------------------- the kernels


@pytest.mark.slow
@pytest.mark.parametrize("start", range(1000, 6000, 100))
def test_5000_random_problems_a_pass(start: int) -> None:
    for seed in range(start, start + 100):
        check(seed)


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [
        "conv2d 16x64x16x16 64x64x3x3 padding=1",
        "conv2d 2x192x13x13 96x192x5x5 padding=2",
    ],
)
def test_large_layers_in_all_layouts(line: str) -> None:
    """Several chunks of tiles a thread, sums over several of them."""
    for layout in range(2):
        check_convolution(conv(line), layout, BACKEND, layouts=(0, 0, 0))


ACTIVATIONS = {"": lambda y: y, "relu": F.relu, "relu6": F.relu6}


def pooled(shape: ConvShape) -> PoolShape:
    return PoolShape.of("max", shape.output_shape, 2, None, 0, 1)


def check_pooled(seed: int) -> None:
    """Maxima against float64's, each at the position in its window that is told; -1 where the activation is shut."""
    shape, activation = problem(seed), random.Random(seed).choice(list(ACTIVATIONS))
    if min(shape.output_size) < 2:
        return
    x, w, _ = operands(shape, torch.float32).values()
    x = x.contiguous(memory_format=torch.channels_last) if seed % 2 else x
    b = torch.randn(w.shape[0]) if seed % 3 else None
    assert winograd.pools(shape, pooled(shape))
    values, positions = winograd.maximum(shape, pooled(shape), activation, x, w, b)
    (top, bottom), (left, right) = shape.pads
    exact = F.conv2d(F.pad(x.double(), (left, right, top, bottom)), w.double(), None if b is None else b.double())
    assert_same(values, ACTIVATIONS[activation](F.max_pool2d(exact, 2)), terms(shape, Pass.OUTPUT))
    shut = ((values <= 0) if activation else values.isnan()) | ((values >= 6) if activation == "relu6" else False)
    assert torch.equal(positions < 0, shut)
    rows, columns = positions // shape.output_size[1], positions % shape.output_size[1]
    own = torch.meshgrid(*(torch.arange(n) for n in values.shape[2:]), indexing="ij")
    assert torch.equal((rows // 2)[~shut], own[0].expand_as(values)[~shut])
    assert torch.equal((columns // 2)[~shut], own[1].expand_as(values)[~shut])
    there = exact.flatten(2).gather(2, positions.clamp(min=0).long().flatten(2)).view_as(values)
    assert_same(values[~shut], there[~shut], terms(shape, Pass.OUTPUT))


@pytest.mark.parametrize("start", slow_but(range(0, 12, 2), [0]))
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("holds", [check, check_pooled])
def test_random_problems(start: int, threads: int, holds: Callable[[int], None]) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for seed in range(start, start + 2):
            holds(seed)
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(1000, 6000, 100))
def test_5000_random_pooled_problems(start: int) -> None:
    for seed in range(start, start + 100):
        check_pooled(seed)


@pytest.mark.parametrize(
    "window",
    [(3, 2), (2, 1), (2, 3), (2, 2, 1), (2, 2, 0, 2), ((2, 1), 2), (2, 2, 0, 1, True)],
    ids=["3x3", "overlapping", "apart", "padded", "dilated", "2x1", "hanging over"],
)
def test_other_windows_are_pooled_apart(window: tuple) -> None:
    shape = conv("conv2d 1x16x9x9 16x16x3x3 padding=1")
    assert winograd.pools(shape, pooled(shape))
    assert not winograd.pools(shape, PoolShape.of("max", shape.output_shape, *window))


def test_positions_beyond_short_numbers() -> None:
    shape = conv("conv2d 1x16x200x190 16x16x3x3 padding=1")
    x, w, _ = operands(shape, torch.float32).values()
    values, positions = winograd.maximum(shape, pooled(shape), "", x, w, None)
    assert positions.dtype is torch.int32
    wanted, places = F.max_pool2d(F.conv2d(x.double(), w.double(), padding=1), 2, return_indices=True)
    assert_same(values, wanted, terms(shape, Pass.OUTPUT))
    assert torch.equal(positions, places.int())


def test_of_equals_the_first_and_of_nans_the_last() -> None:
    shape = conv("conv2d 2x16x6x6 16x16x3x3 padding=1")
    x, w = torch.zeros(shape.input_shape), torch.zeros(shape.weight_shape)
    for number, (down, right) in ((2.0, (0, 0)), (float("nan"), (1, 1))):
        values, positions = winograd.maximum(shape, pooled(shape), "relu", x, w, torch.full((16,), number))
        assert torch.equal(values.isnan(), torch.full_like(values, number).isnan())
        first = torch.arange(0, 6, 2)
        assert torch.equal(positions, ((first[:, None] + down) * 6 + first + right).expand_as(positions).short())


@pytest.mark.slow
@pytest.mark.usefixtures("narrower")
@pytest.mark.parametrize("seed", range(3))
def test_every_instruction_set_computes_the_same(seed: int) -> None:
    check(seed)
    check_pooled(seed)


def test_an_input_that_is_the_gradient_as_well() -> None:
    """One tensor for both operands: the transformation of each goes by its role."""
    shape = conv("conv2d 2x16x8x8 16x16x3x3 padding=1")
    x = torch.randn(shape.input_shape).contiguous(memory_format=torch.channels_last)
    found = BACKEND.contract(shape, Pass.WEIGHT_GRAD, x, x, None, True)
    assert_same(found, reference.contract(shape, Pass.WEIGHT_GRAD, x, x), terms(shape, Pass.WEIGHT_GRAD))


def test_threads_and_repetition_change_nothing() -> None:
    shape = conv("conv2d 5x32x17x19 48x32x3x3 padding=1")
    made, found, before = operands(shape, torch.float32), [], torch.get_num_threads()
    for threads in (1, 2, 2):
        torch.set_num_threads(threads)
        each = [[made[role] for role in FORM if role is not open_] for open_ in FORM]
        found.append([BACKEND.contract(shape, open_, *two, None) for open_, two in zip(FORM, each, strict=True)])
    torch.set_num_threads(before)
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


def test_rounding_is_that_of_direct_sums() -> None:
    shape = conv("conv2d 2x128x16x16 64x128x3x3 padding=1")
    x, w, _ = operands(shape, torch.float32).values()
    exact = F.conv2d(x.double(), w.double(), padding=1)
    direct, fast = (backend.contract(shape, Pass.OUTPUT, x, w, None) for backend in (LlvmBackend(), BACKEND))
    errors = [(y - exact).square().mean().sqrt() for y in (direct, fast)]
    assert errors[1] < 2.5 * errors[0]


@pytest.mark.parametrize("matrix", slow_but(["a", "b", "g"], ["g"]))
def test_a_planted_bug_shows(matrix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = getattr(WinogradForm, matrix)

    def wrong(form: WinogradForm) -> object:
        first, *rest = real.fget(form)
        return (tuple(x + Fraction(i == 0, 64) for i, x in enumerate(first)), *rest)

    monkeypatch.setattr(WinogradForm, matrix, property(wrong))
    for name in ("_output_kernel", "_pooled_kernel", "_weights_kernel", "_parts_kernel", "_parts"):
        monkeypatch.setattr(winograd, name, functools.cache(getattr(winograd, name).__wrapped__))
    monkeypatch.setattr(
        winograd.WinogradSums, "of", classmethod(functools.cache(winograd.WinogradSums.of.__func__.__wrapped__))
    )
    with pytest.raises(AssertionError):
        check(0)
    with pytest.raises(AssertionError):
        check_pooled(0)


# ------------------------------------------------------------------------------------------------- who gets to use it

LINE = "conv2d 8x64x16x16 64x64x3x3 padding=1"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("conv2d 2x16x8x8 16x16x3x3 stride=2", "one stride apart"),
        ("conv2d 2x16x8x8 16x16x3x3 dilation=2", "aren't dilated"),
        ("conv2d 2x16x8x8 16x16x3x5", "3x3 and 5x5"),
        ("conv2d 2x16x8x8 16x16x1x1", "3x3 and 5x5"),
        ("conv2d 2x32x8x8 32x16x3x3 groups=2", "one group"),
        ("conv1d 2x16x8 16x16x3", "images"),
        ("conv2d 2x8x8x8 16x8x3x3", "16 or more"),
        ("conv2d 2x20x8x8 16x20x3x3", "whole vectors"),
        ("conv2d 0x16x8x8 16x16x3x3", "empty"),
        ("max_pool2d 1x16x4x4 kernel=3", "convolves"),
    ],
)
def test_refusals(line: str, reason: str) -> None:
    told = engine.explain(line).refusals[Pass.OUTPUT]["winograd"]
    assert told is not None
    assert reason in told


def test_plain_operations_stay_local(monkeypatch: pytest.MonkeyPatch) -> None:
    """An input that a window doesn't see changes nothing of its output, to the last bit."""
    monkeypatch.setattr(winograd.WinogradBackend, "contract", lambda *_: pytest.fail("it was asked"))
    shape = conv(LINE)
    assert "winograd" not in engine.explain(LINE).chosen.values()
    x, w, _ = operands(shape, torch.float32).values()
    x = x.requires_grad_()
    y = ops.conv2d(x, w, padding=1)
    y[:, :, 8, 8].sum().backward()
    assert x.grad is not None
    seen = x.grad.abs().amax((0, 1)) > 0
    assert seen.nonzero().tolist() == [[i, j] for i in (7, 8, 9) for j in (7, 8, 9)]


def test_accelerated_models_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = winograd.WinogradBackend.contract
    monkeypatch.setattr(winograd.WinogradBackend, "contract", lambda self, *a: asked.append(a[1]) or real(self, *a))
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(64, 64, 3, padding=1), torch.nn.Conv2d(64, 64, 3, padding=1))
    x = torch.randn(8, 64, 16, 16)
    expected = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
    with importlib.import_module("striate.engine.tuning").fixed():
        accelerated = striate.accelerate(model, quiet=True)
        found = torch.autograd.grad(accelerated(x).square().sum(), list(model.parameters()))
    assert asked.count(Pass.OUTPUT) == asked.count(Pass.WEIGHT_GRAD) == 2
    assert asked.count(Pass.INPUT_GRAD) == 1
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4 * theirs.abs().max().item())


def test_it_can_be_asked_for_and_is_explained() -> None:
    assert engine.explain(LINE, local=False).refusals[Pass.OUTPUT]["winograd"] is None
    assert "only accelerated models use this" in str(engine.explain(LINE))
    layer = nn.Conv2d(16, 16, 3, padding=1)
    x = torch.randn(2, 16, 9, 9)
    with engine.use("winograd"):
        mine = layer(x)
    torch.testing.assert_close(mine, layer(x), rtol=1e-4, atol=1e-5)


def test_it_pays_where_maps_are_large_against_weights() -> None:
    def taken(line: str) -> str | None:
        return engine.explain(line, local=False, channels_last=True).chosen[Pass.PACKED]

    assert taken("conv2d 1x32x32x32 64x32x3x3 padding=1") == "winograd"
    assert taken("conv2d 1x512x2x2 512x512x3x3 padding=1") == "llvm"
    assert taken("conv2d 1x32x32x32 64x32x3x3 stride=2") == "llvm"
