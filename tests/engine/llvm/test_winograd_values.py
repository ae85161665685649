"""Winograd's convolution on numbers of every kind: what an output doesn't see costs it no digits, nor makes it NaN."""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import striate
from cases import conv, operands, slow_but
from striate import engine
from striate.acceleration import plan_of
from striate.engine import Pass, fresh
from striate.engine.llvm.codegen import isa
from striate.engine.llvm.functions.epilogue import PLAIN, Epilogue
from striate.engine.llvm.memory.weights import Weights
from striate.engine.llvm.winograd import values as winograd_values
from striate.engine.llvm.winograd.forms import WinogradForm
from striate.geometry import ConvShape, PoolShape

winograd = importlib.import_module("striate.engine.llvm.winograd.backend")
BACKEND = winograd.WinogradBackend()
NAN, INF = math.nan, math.inf
#: Half a unit in the last place of 1.
UNIT = 2.0**-24

# ------------------------------------------------------------------------------------------------- the table of values

Change = Callable[[Tensor, Tensor], object]


def pixel(*values: float, at: tuple[int, int] = (6, 5), image: int = 0) -> Change:
    """These numbers in neighbouring channels of a pixel."""

    def change(x: Tensor, w: Tensor) -> None:
        x[image, : len(values), at[0], at[1]] = torch.tensor(values)

    return change


def images(change: Callable[[Tensor], object]) -> Change:
    return lambda x, w: change(x)


def filters(change: Callable[[Tensor], object]) -> Change:
    return lambda x, w: change(w)


def patch(x: Tensor) -> None:
    kept = x[:, :, 5:8, 2:7].clone()
    x.zero_()
    x[:, :, 5:8, 2:7] = kept


def sparkles(x: Tensor) -> None:
    x.mul_(torch.rand(x.shape) < 0.01)


#: What becomes of normal numbers, images and filters.
VALUES: dict[str, Change] = {
    "normal": lambda x, w: None,
    "rectified": images(Tensor.relu_),
    "one in a hundred": images(sparkles),
    "exponentials": images(lambda x: x.mul_(3).exp_()),
    # a pixel
    **{f"a pixel of {value:g}": pixel(value) for value in (30, 60, 100, 1e3, 65535, 1e10, 1e19, 1e30, 1e38)},
    **{f"a pixel of {value}": pixel(value) for value in (NAN, INF, -INF)},
    "a pixel of two infinities": pixel(INF, -INF),
    "the first pixel": pixel(65535, at=(0, 0)),
    "the last pixel": pixel(NAN, at=(-1, -1)),
    "a pixel at the border": pixel(INF, at=(0, 6)),
    "a pixel of the last image": pixel(1e6, image=-1),
    "several pixels": lambda x, w: [pixel(v, at=a)(x, w) for v, a in ((1e5, (1, 1)), (NAN, (4, 8)), (1e9, (9, 3)))],
    # parts of images
    "a bright half": images(lambda x: x[..., 5:].mul_(1e4)),
    "a dark half": images(lambda x: x[:, :, :7].mul_(1e-6)),
    "a black half": images(lambda x: x[..., 6:].zero_()),
    "a black half, below": images(lambda x: x[:, :, 6:].zero_()),
    "black around a patch": images(patch),
    "black": images(Tensor.zero_),
    "black but for a pixel": lambda x, w: (x.zero_(), pixel(3.0)(x, w)),
    "black but for something tiny": lambda x, w: (x.zero_(), pixel(1e-30)(x, w)),
    "something tiny on black": lambda x, w: (x[..., 6:].zero_(), pixel(1e-30, at=(3, 9))(x, w)),
    # images among images
    "one image of NaN": images(lambda x: x[0].fill_(NAN)),
    "one huge image": images(lambda x: x[1].mul_(1e20)),
    "one tiny image": images(lambda x: x[1].mul_(1e-20)),
    "NaN throughout": images(lambda x: x.fill_(NAN)),
    "one channel is large": images(lambda x: x[:, 3].mul_(1e6)),
    # ranges
    "denormals": images(lambda x: x.mul_(1e-40)),
    "tiny numbers": images(lambda x: x.mul_(1e-25)),
    "tiny numbers with a pixel": lambda x, w: (x.mul_(1e-30), pixel(1e-24)(x, w)),
    "huge numbers": images(lambda x: x.mul_(1e30)),
    "denormals in half the channels": images(lambda x: x[:, ::2].mul_(1e-40)),
    # filters
    "a tap of NaN": filters(lambda w: w[2, 3, 0, 1].fill_(NAN)),
    "an infinite tap": filters(lambda w: w[2, 3, 1, 1].fill_(INF)),
    "infinite taps": filters(lambda w: (w[9, 0, 0, 0].fill_(INF), w[1, 1, 2, 2].fill_(-INF))),
    "a huge filter": filters(lambda w: w[5].mul_(1e30)),
    "a tiny filter": filters(lambda w: w[5].mul_(1e-30)),
    "a filter of denormals": filters(lambda w: w[5].mul_(1e-40)),
    "an empty filter": filters(lambda w: w[5].zero_()),
    "a large tap": filters(lambda w: w[5, 2, 0, 0].fill_(65535)),
    "filters of one tap": filters(lambda w: w.mul_(torch.rand(w.shape) < 0.02)),
    "an infinite tap on black": lambda x, w: (x[..., 6:].zero_(), w[2, 3, 1, 1].fill_(INF)),
    "denormals by huge filters": lambda x, w: (x.mul_(1e-40), w.mul_(1e30)),
}

#: Tiles of 4 x 4 outputs and of 2 x 2, whole and cut off, of windows of 3 x 3 and 5 x 5.
LINES = [
    "conv2d 2x32x12x12 32x32x3x3 padding=1",
    "conv2d 3x16x11x13 48x16x3x3",
    "conv2d 2x16x10x10 16x16x3x3 padding=2x0",
    "conv2d 2x32x14x10 16x32x5x5 padding=2",
]


def made(line: str, name: str) -> tuple[ConvShape, Tensor, Tensor, Tensor]:
    """A problem, and its input, weight and bias with these values."""
    shape = conv(line)
    x, w, _ = operands(shape, torch.float32, 1).values()
    w = w / w[0].norm()
    VALUES[name](x, w)
    return shape, x, w, torch.linspace(-1, 1, len(w))


# ------------------------------------------------------------------------------------------------------- what is held

#: Half units in the last place of a filter's norm times a window's that all errors here stay below; the bound, for the
#: worst case, is thousands.
MEASURED = 24


def padded(shape: ConvShape, x: Tensor) -> Tensor:
    (top, bottom), (left, right) = shape.pads
    return F.pad(x, (left, right, top, bottom))


def norms(shape: ConvShape, x: Tensor, w: Tensor) -> Tensor:
    """For every output the norm of its filter times that of the inputs in its own window."""
    ones = torch.ones(1, x.shape[1], *shape.kernel, dtype=torch.float64)
    seen = F.conv2d(padded(shape, x.double().nan_to_num(0, 0, 0)).square(), ones).sqrt()
    return seen * w.double().nan_to_num(0, 0, 0).flatten(1).norm(dim=1).view(1, -1, 1, 1)


def forms(shape: ConvShape) -> tuple[WinogradForm, ...]:
    return winograd.FORMS[shape.kernel[0]]


def hold(
    shape: ConvShape,
    found: Tensor,
    x: Tensor,
    w: Tensor,
    b: Tensor | None,
    after: Callable[[Tensor], Tensor],
    more: Tensor | float = 0.0,
) -> None:
    """Infinities and NaN where direct sums have them, all else within the bound, and far within it.

    ``after`` rises: what follows the convolution, pooling included; ``more`` is what it adds.
    """
    plain = after(F.conv2d(padded(shape, x), w, b))
    exact = F.conv2d(padded(shape, x.double()), w.double(), None if b is None else b.double())
    finite = plain.isfinite()
    assert torch.equal(found.isnan(), plain.isnan())
    assert torch.equal(found[~finite].nan_to_num(), plain[~finite].nan_to_num())
    size, channels = norms(shape, x, w), shape.in_channels
    spread, bound = (
        math.sqrt(winograd_values.SPREAD),
        max(form.bound(channels) for form in winograd.FORMS[shape.kernel[0]]),
    )
    for limit in (spread * bound, MEASURED):
        # What is added rounds once more; and what is denormal has no more digits.
        off = limit * UNIT * size + UNIT * (2 * exact.nan_to_num(0, 0, 0).abs() + abs(more)) + 2.0**-143
        assert ((found >= after(exact - off)) & (found <= after(exact + off)))[finite].all(), f"beyond {limit:.0f}"
    if after is same:
        blind = (size == 0).expand_as(found) & finite
        assert torch.equal(found[blind], plain[blind])


def same(y: Tensor) -> Tensor:
    return y


def pooled(y: Tensor) -> Tensor:
    return F.max_pool2d(y.relu(), 2)


def output(shape: ConvShape, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    return BACKEND.contract(shape, Pass.OUTPUT, x, w, b)


def planned(
    shape: ConvShape, x: Tensor, w: Tensor, b: Tensor | None, then: object = PLAIN, result: tuple[int, ...] = ()
) -> Tensor:
    """As a step of a plan computes it: a weight packed once, and what follows."""
    sums = winograd.WinogradSums.of(isa.the_isa(), shape, torch.get_num_threads(), then, True)
    packed, scratch = sums.pack(Weights.of(w, 1), b), fresh.empty(sums.scratch)
    x = x.contiguous(memory_format=torch.channels_last)
    y = fresh.empty(result or shape.output_shape, memory_format=torch.channels_last)
    arguments = sums.arguments(x.data_ptr(), packed.data_ptr(), y.data_ptr(), scratch.data_ptr())
    for _ in range(2):
        sums.kernel(sums.items, sums.threads, **arguments)
    return y


WAYS = {"at once": output, "planned": planned}


@pytest.mark.parametrize("line", slow_but(LINES, LINES[:2]))
@pytest.mark.parametrize("name", list(VALUES))
def test_outputs(name: str, line: str) -> None:
    shape, x, w, b = made(line, name)
    for way, bias in ((planned, None), (output, b)):
        hold(shape, way(shape, x, w, bias), x, w, bias, same)


@pytest.mark.parametrize("name", list(VALUES))
def test_pooled_outputs(name: str) -> None:
    shape, x, w, b = made(LINES[1], name)
    pool = PoolShape.of("max", shape.output_shape, 2, None, 0, 1)
    values, positions = winograd.maximum(shape, pool, "relu", x, w, b)
    hold(shape, values, x, w, b, pooled)
    largest = planned(shape, x, w, b, winograd.Pooled(Epilogue("clamp", (0.0, math.inf))), pool.output_shape)
    hold(shape, largest, x, w, b, pooled)
    # Each value stands where its position says.
    y = F.conv2d(padded(shape, x.double()), w.double(), b.double())
    off = MEASURED * UNIT * norms(shape, x, w) + 2.0**-20
    at = positions.clamp(min=0).long().flatten(2)
    there, off = (each.expand_as(y).flatten(2).gather(2, at).view_as(values) for each in (y, off))
    open_ = (positions >= 0) & values.isfinite()
    assert ((values - there).abs() <= off)[open_].all()
    assert torch.equal(positions < 0, values <= 0)


@pytest.mark.parametrize("name", list(VALUES))
def test_input_gradients(name: str) -> None:
    """A convolution of output gradients by filters turned around."""
    backwards, g, turned, _ = made(LINES[1], name)
    padding = tuple(backwards.kernel[0] - 1 - low for low, _ in backwards.pads)
    w = turned.flip(2, 3).transpose(0, 1).contiguous()
    size = (backwards.batch, backwards.out_channels, *backwards.output_size)
    shape = ConvShape.of(size, w.shape, padding=padding)
    assert shape.output_shape == backwards.input_shape
    hold(backwards, BACKEND.contract(shape, Pass.INPUT_GRAD, w, g, None), g, turned, None, same)


@pytest.mark.parametrize("name", ["normal", "several pixels", "a black half", "a tap of NaN"])
def test_an_addition_and_a_function_follow_all_sums(name: str) -> None:
    shape, x, w, b = made(LINES[0], name)
    sums = winograd.WinogradSums.of(isa.the_isa(), shape, 1, Epilogue("leaky_relu", (0.5,), adds=True), True)
    packed, scratch = sums.pack(Weights.of(w, 1), b), fresh.empty(sums.scratch)
    x, more = (t.contiguous(memory_format=torch.channels_last) for t in (x, torch.randn(shape.output_shape)))
    y = torch.empty_like(more)
    arguments = sums.arguments(*(t.data_ptr() for t in (x, packed, y, scratch, more)))
    sums.kernel(sums.items, 1, **arguments)
    hold(shape, y, x, w, b, lambda total: F.leaky_relu(total + more, 0.5), more)


@pytest.mark.usefixtures("narrower")
@pytest.mark.parametrize("name", ["normal", "several pixels", "a black half", "denormals", "an infinite tap"])
def test_every_instruction_set(name: str) -> None:
    for line in LINES:
        shape, x, w, b = made(line, name)
        for way in WAYS.values():
            hold(shape, way(shape, x, w, b), x, w, b, same)


@pytest.mark.parametrize("name", ["several pixels", "a black half", "rectified", "an infinite tap"])
def test_threads_change_nothing(name: str) -> None:
    shape, x, w, b = made("conv2d 5x32x17x19 48x32x3x3 padding=1", name)
    found, before = [], torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append([way(shape, x, w, b) for way in WAYS.values()])
    torch.set_num_threads(before)
    for others in zip(*found, strict=True):
        assert all(torch.equal(others[0].nan_to_num(), other.nan_to_num()) for other in others[1:])
    # Nor does it matter whether the weight is kept.
    assert torch.equal(found[0][0].nan_to_num(), found[0][1].nan_to_num())


NUMBERS = st.sampled_from(
    [0.0, 1e-42, 1e-30, 1e-19, 1e-8, 1e-3, 0.1, 5.0, 20.0, 45.0, 70.0, 1e3, 7e4, 1e9, 1e19, 1e25, NAN, INF]
)


@pytest.mark.slow
@settings(max_examples=100)
@given(st.data())
def test_random_values(data: st.DataObject) -> None:
    """Rectangles of all sizes, of some images and channels, scaled by all kinds of numbers."""
    shape = conv(data.draw(st.sampled_from([*LINES, "conv2d 1x16x10x6 16x16x3x3 padding=1"])))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1 << 20)))
    x, w = (torch.randn(size, generator=generator) for size in (shape.input_shape, shape.weight_shape))
    x = x.relu() if data.draw(st.booleans()) else x
    for _ in range(data.draw(st.integers(1, 3))):
        image = data.draw(st.integers(0, shape.batch - 1))
        channels = slice(*sorted((data.draw(st.integers(0, 15)), data.draw(st.integers(1, 16)))))
        place = [slice(*sorted((data.draw(st.integers(0, n)), data.draw(st.integers(0, n))))) for n in shape.size]
        x[image, channels, place[0], place[1]] *= data.draw(NUMBERS)
    if data.draw(st.integers(0, 3)) == 0:
        w[data.draw(st.integers(0, 15)), data.draw(st.integers(0, 15))] *= data.draw(NUMBERS)
    hold(shape, output(shape, x, w, None), x, w, None, same)


# ----------------------------------------------------------------------------------------- what is computed together


@pytest.fixture
def unkept(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Kernels are generated anew, by what a test changes before it asks for the first."""
    for kernel in ("_output_kernel", "_pooled_kernel", "_weights_kernel", "_edges_kernel", "_edges"):
        monkeypatch.setattr(winograd, kernel, functools.cache(getattr(winograd, kernel).__wrapped__))
    monkeypatch.setattr(
        winograd.WinogradSums, "of", classmethod(functools.cache(winograd.WinogradSums.of.__func__.__wrapped__))
    )
    return monkeypatch


@pytest.fixture
def poisoned(unkept: pytest.MonkeyPatch) -> None:
    """Direct sums come to NaN, so it shows which outputs they make."""

    def sums(self: winograd_values.Direct, *_: object) -> object:
        nan = self.f.constant(math.nan)
        return [[[nan] * winograd_values.SQUARE] * winograd_values.SQUARE] * self.tile.vectors

    unkept.setattr(winograd_values.Direct, "sums", sums)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("name", ["normal", "rectified", "a pixel of 30", "black", "denormals in half the channels"])
@pytest.mark.parametrize("line", slow_but(LINES, LINES[:2]))
def test_ordinary_numbers_are_computed_together(line: str, name: str) -> None:
    shape, x, w, b = made(line, name)
    for way in WAYS.values():
        assert way(shape, x, w, b).isfinite().all()


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize(("flat", "most"), [(False, 0.002), (True, 0.03)])
def test_photographs_are_computed_together_all_but_a_few(flat: bool, most: float) -> None:
    """Behind random filters, and behind filters that see differences only, to which what is flat is dark."""
    datasets = pytest.importorskip("sklearn.datasets")
    photographs = [torch.from_numpy(image.copy()) for image in datasets.load_sample_images().images]
    images = F.interpolate(torch.stack(photographs).permute(0, 3, 1, 2) / 255.0, size=(96, 144), mode="area")
    first = torch.randn(32, 3, 5, 5)
    x = F.conv2d(images, first - flat * first.mean((1, 2, 3), keepdim=True), padding=2).relu()
    shape = ConvShape.of(x.shape, (32, 32, 3, 3), padding=1)
    y = planned(shape, x, torch.randn(shape.weight_shape), None)
    assert y.isnan().float().mean() < most


@pytest.mark.usefixtures("poisoned")
def test_what_is_summed_directly_is_near() -> None:
    shape, x, w, b = made(LINES[0], "normal")
    x[0, 0, 6, 5] = 65535
    rows, columns = planned(shape, x, w, b)[:, 0].isnan()[0].nonzero().T
    # Of the tiles that have the pixel.
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (4, 7, 4, 7)


PLANTED: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "spread": lambda patch: patch.setattr(winograd_values, "SPREAD", 36e6),
    "too large": lambda patch: patch.setattr(winograd_values, "MOST", math.inf),
    "too small": lambda patch: patch.setattr(winograd_values, "LEAST", 0.0),
    "tiny": lambda patch: patch.setattr(winograd_values, "TINY", 1e-45),
    "small filters": lambda patch: patch.setattr(winograd_values, "LEAST_WEIGHT", 0.0),
    "large filters": lambda patch: patch.setattr(winograd_values, "MOST_WEIGHT", math.inf),
    "windows": lambda patch: patch.setattr(
        winograd_values.Watch, "_runs", lambda self, values, n: [values[0]] * (len(values) - n + 1)
    ),
}


@pytest.mark.parametrize("bug", slow_but(PLANTED, ["too large", "windows"]))
def test_a_planted_bug_shows(bug: str, unkept: pytest.MonkeyPatch) -> None:
    PLANTED[bug](unkept)

    def every() -> None:
        for name in VALUES:
            shape, x, w, _ = made(LINES[0], name)
            hold(shape, planned(shape, x, w, None), x, w, None, same)

    with pytest.raises(AssertionError):
        every()


# ------------------------------------------------------------------------------------------------- gradients of weights


#: Input and output gradient of a map, changed.
GRADIENTS: dict[str, Callable[[Tensor, Tensor], object]] = {
    "normal": lambda x, g: None,
    "rectified": lambda x, g: (x.relu_(), g.mul_(torch.rand(g.shape) < 0.25)),
    "NaN inside": lambda x, g: x[0, 3, 7, 7].fill_(NAN),
    "NaN in a corner": lambda x, g: x[0, 3, 0, 0].fill_(NAN),
    "infinity at the border": lambda x, g: x[1, 3, -1, 4].fill_(INF),
    "NaN of a gradient": lambda x, g: g[1, 5, 0, 4].fill_(NAN),
    "bright in a corner": lambda x, g: x[0, 3, 0, 0].fill_(65535),
    "bright at the border": lambda x, g: x[1, 7, :, -1].mul_(1e5),
    "a bright gradient": lambda x, g: g[1, 5, -1, 4].fill_(1e6),
    "both": lambda x, g: (x[0, 3, 0, 0].fill_(1e9), g[0, 5, 0, 3].fill_(65535)),
    "only a corner": lambda x, g: (x[:, 3].zero_(), x[0, 3, 0, 0].fill_(1)),
    "bright inside": lambda x, g: x[0, 3, 7, 7].fill_(65535),
    "nothing": lambda x, g: x.zero_(),
    "huge": lambda x, g: (x.mul_(1e18), g.mul_(1e18)),
}


@pytest.mark.parametrize(
    "line",
    [
        "conv2d 2x32x15x17 48x32x3x3 padding=1",
        "conv2d 2x16x15x17 16x16x3x3 padding=2x0",
        "conv2d 2x16x12x13 32x16x5x5 padding=2",
    ],
)
@pytest.mark.parametrize("name", list(GRADIENTS))
def test_weight_gradients(name: str, line: str) -> None:
    """Taps that don't see a pixel at the border don't feel it, nor do other channels."""
    shape = conv(line)
    x, _, g = operands(shape, torch.float32, 1).values()
    GRADIENTS[name](x, g)
    found = BACKEND.contract(shape, Pass.WEIGHT_GRAD, x, g, None)
    plain = torch.nn.grad.conv2d_weight(padded(shape, x), shape.weight_shape, g)
    exact = torch.nn.grad.conv2d_weight(padded(shape, x.double()), shape.weight_shape, g.double())
    finite = plain.isfinite()
    assert torch.equal(found.isnan(), plain.isnan())
    assert torch.equal(found[~finite].nan_to_num(), plain[~finite].nan_to_num())
    # What a tap sees of each channel: all of it but for the rows and columns that are over the padding.
    ones = torch.ones_like
    of_x, of_g = x.double().nan_to_num(0, 0, 0).square(), g.double().nan_to_num(0, 0, 0).square()
    weight = (1, 1, *shape.kernel)
    seen_x = torch.stack(
        [
            torch.nn.grad.conv2d_weight(padded(shape, of_x[:, c : c + 1]), weight, ones(of_g[:, :1]))[0, 0]
            for c in range(x.shape[1])
        ]
    )
    inside = padded(shape, ones(of_x[:, :1]))
    seen_g = torch.stack(
        [torch.nn.grad.conv2d_weight(inside, weight, of_g[:, c : c + 1])[0, 0] for c in range(g.shape[1])]
    )
    size = (seen_x.sqrt()[None] * seen_g.sqrt()[:, None]).clamp(min=1e-38)
    assert ((found - exact).abs() <= MEASURED * UNIT * size)[finite].all()


# -------------------------------------------------------------------------------------------------------------- models


@pytest.mark.usefixtures("planning")
@pytest.mark.parametrize("value", slow_but([None, NAN, INF, 100.0, 65535.0, 1e30], [None, INF, 65535.0]))
def test_a_pixel_costs_a_planned_model_nothing_elsewhere(value: float | None) -> None:
    layers = [torch.nn.Conv2d(32, 32, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(32, 32, 3, padding=1)]
    model = torch.nn.Sequential(*layers).eval()
    x = torch.randn(4, 32, 64, 64)
    if value is not None:
        x[0, 0, 10, 10] = value
    elsewhere = torch.ones(4, 32, 64, 64, dtype=torch.bool)
    elsewhere[0, :, 8:13, 8:13] = False
    with torch.no_grad():
        plain = model(x)
        fast = striate.accelerate(model, quiet=True)
        found = [fast(x) for _ in range(4)]
        assert plan_of(fast, x).count("Winograd") == 2
        exact = striate.accelerate.__globals__["restore"](model).double()(x.double())
    limit = 4 * (plain - exact)[elsewhere].square().mean().sqrt()
    for y in found:
        assert (y - exact)[elsewhere].square().mean().sqrt() < limit
        assert torch.equal(y.isnan(), plain.isnan())


@pytest.mark.parametrize("value", [NAN, 65535.0])
def test_a_pixel_costs_an_operation_nothing_elsewhere(value: float) -> None:
    layer = striate.nn.Conv2d(16, 16, 3, padding=1)
    x = torch.randn(2, 16, 9, 9)
    x[0, 0, 4, 4] = value
    with engine.use("winograd"):
        found = layer(x)
    plain, exact = layer(x), layer.double()(x.double())
    elsewhere = torch.ones_like(plain, dtype=torch.bool)
    elsewhere[0, :, 3:6, 3:6] = False
    assert torch.equal(found.isnan(), plain.isnan())
    off, limit = ((each - exact)[elsewhere].abs().max() for each in (found, plain))
    assert off < 8 * limit
