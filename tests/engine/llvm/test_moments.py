"""Mean and variance by kernels: numbers of every kind, wherever their outliers stand, up to a rounding of float32."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from striate.engine.llvm.codegen import launch
from striate.engine.llvm.codegen.ir import Function
from striate.engine.llvm.codegen.isa import the_isa
from striate.engine.llvm.normalization import dispatch as normalization
from striate.engine.llvm.normalization import moments, nchw, nhwc
from striate.engine.llvm.normalization.formulas import NormVariant

EPS = torch.finfo(torch.float32).eps
#: Images and axes of a plane: one vector and less, ragged planes, several chunks of rows.
SHAPES = [(3, (40, 33)), (2, (1, 3)), (1, (1, 5000)), (64, (3, 3)), (2, (70, 60)), (1100, ())]
LAYOUTS = ["planes", "side by side"]


def kinds(images: int, many: int) -> dict[str, Tensor]:
    """Channels (images, many) by what is hard about them."""
    r = torch.randn(images, many)
    found = {
        "around 0": r,
        "a little off": 20 + r,
        "as far as is read once": 31.9 + r,
        "a little further": 32.1 + r,
        "far off": 1e4 + 0.01 * r,
        "as far as float32 has digits": -1e6 + 0.3 * r,
        "0": torch.zeros(images, many),
        "equal": torch.full((images, many), 0.1),
        "equal and large": torch.full((images, many), -123456.7),
        "but for a rounding": torch.where(r > 1, 1e4, torch.nextafter(torch.tensor(1e4), torch.tensor(0.0))),
        "two values": (r > 1).float(),
        "many scales": (4 * r).exp(),
        "tiny": 1e-30 * r,
        "huge": 1e15 * r,
        "images apart": 1e-3 * r + 1e3 * torch.arange(images)[:, None],
    }
    few = min(16, max(1, images * many // 4))
    for where, start in (("first", 0), ("middle", images * many // 2), ("last", images * many - few)):
        for name, base, value in (
            ("bright", r, 3e3),
            ("very bright", r, 1e8),
            ("black", 100 + 0.01 * r, 0.0),
        ):
            numbers = base.flatten().clone()
            numbers[start : start + few] = value
            found[f"{name} {where}"] = numbers.view(images, many)
    black, bright = 100 + 0.01 * r, r.clone()
    black[0], bright[-1] = 0.0, 1e5
    return found | {"the first image black": black, "the last image bright": bright}


def laid_out(channels: list[Tensor], axes: tuple[int, ...], layout: str) -> Tensor:
    """(N, C, ...) of channels (N, ...)."""
    x = torch.stack([channel.view(len(channel), *axes) for channel in channels], 1)
    return x.movedim(1, -1).contiguous().movedim(-1, 1) if layout == "side by side" else x


def exact(numbers: Tensor) -> tuple[float, float]:
    """Mean and variance of as many numbers in float64."""
    first = numbers.flatten()[0].double()
    apart = numbers.double() - first
    return (first + apart.mean()).item(), (apart - apart.mean()).square().mean().item()


def check(images: int, axes: tuple[int, ...], layout: str) -> None:
    """Mean, unbiased variance and result of every kind: as near as float32 has them."""
    named = kinds(images, math.prod(axes))
    x = laid_out(list(named.values()), axes, layout)
    plan = normalization.plan(NormVariant("", False, True), x)
    assert plan is not None
    mean, variance = torch.zeros(len(named)), torch.zeros(len(named))
    y, _ = plan.forward(x, None, None, None, (mean, variance), 1.0, 1e-5)
    many = x[:, 0].numel()
    for channel, (name, numbers) in enumerate(named.items()):
        m, v = exact(numbers)
        # Half a rounding, and of means that nearly cancel what float64 loses.
        assert abs(mean[channel].item() - m) <= 0.5 * EPS * abs(m) + 1e-9 * math.sqrt(v), name
        unbiased = v * many / (many - 1)
        assert abs(variance[channel].item() - unbiased) <= 0.51 * EPS * unbiased + 1e-45, name
        expected = (numbers.double() - m) / math.sqrt(v + 1e-5)
        away = (y[:, channel].flatten() - expected.flatten()).abs().max().item()
        assert away <= 2 * EPS * expected.abs().max().item(), name


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("images", "axes"), SHAPES)
def test_every_kind_of_numbers(images: int, axes: tuple[int, ...], layout: str) -> None:
    check(images, axes, layout)


@pytest.mark.usefixtures("narrower")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_instruction_set(layout: str) -> None:
    for images, axes in SHAPES:
        check(images, axes, layout)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_bits_on_every_number_of_threads(layout: str) -> None:
    for images, axes in SHAPES:
        x = laid_out(list(kinds(images, math.prod(axes)).values()), axes, layout)
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            plan = normalization.plan(NormVariant("", False, True), x)
            torch.set_num_threads(1)
            assert plan is not None
            found.append(plan.forward(x, None, None, None, (None, None), 0.1, 1e-5))
        for one, two in zip(*found, strict=True):
            assert torch.equal(one, two)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_channel_hangs_on_another(layout: str) -> None:
    """Which channels are read a second time is nobody else's affair, to the last bit."""
    torch.manual_seed(1)
    plain = torch.randn(4, 40, 9 * 11)
    mixed = plain.clone()
    mixed[:, 5:40:7] = 1e5 + 0.1 * plain[:, 5:40:7]
    kept = []
    for each in (plain, mixed):
        x = laid_out(list(each.unbind(1)), (9, 11), layout)
        plan = normalization.plan(NormVariant("", False, True), x)
        assert plan is not None
        kept.append(plan.forward(x, None, None, None, (None, None), 0.1, 1e-5)[1])
    others = [channel for channel in range(40) if channel % 7 != 5]
    assert torch.equal(kept[0][:, others], kept[1][:, others])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "values", [(math.nan,), (math.inf,), (-math.inf,), (math.inf, -math.inf), (math.inf, math.nan)]
)
@pytest.mark.parametrize("image", [0, 2, 3])
def test_numbers_that_are_none_stay_in_their_channel(image: int, values: tuple[float, ...], layout: str) -> None:
    """What isn't finite comes out as PyTorch's, and other channels don't notice."""
    clean = 50 + torch.randn(4, 20, 9 * 7)
    stained = clean.clone()
    stained[image, 3, : len(values)] = torch.tensor(values)
    g = laid_out(list(torch.randn(4, 20, 9 * 7).unbind(1)), (9, 7), layout)
    found = []
    for numbers in (clean, stained):
        x = laid_out(list(numbers.unbind(1)), (9, 7), layout)
        plan = normalization.plan(NormVariant("", False, True), x)
        assert plan is not None
        mean, variance = torch.zeros(20), torch.ones(20)
        y, kept = plan.forward(x, None, None, None, (mean, variance), 0.3, 1e-5)
        grad, _, grad_weight, grad_bias = plan.backward(g, x, None, kept)
        found.append((y, grad, mean, variance, grad_weight, grad_bias))
    x.requires_grad_()
    w, b = torch.ones(20, requires_grad=True), torch.zeros(20, requires_grad=True)
    mean, variance = torch.zeros(20), torch.ones(20)
    y = F.batch_norm(x, mean, variance, w, b, True, 0.3, 1e-5)
    grad, grad_weight, grad_bias = torch.autograd.grad(y, (x, w, b), g)
    others = [channel for channel in range(20) if channel != 3]
    for before, after, theirs in zip(*found, (y, grad, mean, variance, grad_weight, grad_bias), strict=True):
        axis = min(1, after.dim() - 1)
        assert torch.equal(before.movedim(axis, 0)[others], after.movedim(axis, 0)[others])
        mine, theirs = after.movedim(axis, 0)[3], theirs.movedim(axis, 0)[3]
        assert torch.equal(mine.isnan(), theirs.isnan())
        assert torch.equal(mine.isinf(), theirs.isinf())
        assert torch.equal(mine[mine.isinf()], theirs[theirs.isinf()])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("images", "axes"), SHAPES)
def test_gradients_that_nearly_cancel(images: int, axes: tuple[int, ...], layout: str) -> None:
    """Sums of gradients lose no more than some roundings of their terms, however many they are."""
    many = math.prod(axes)
    x = laid_out([5 + torch.randn(images, many) for _ in range(17)], axes, layout)
    each = [1, -1, *[1] * len(axes)]
    for g in (torch.full((images, many), 0.1), 100 + 0.01 * torch.randn(images, many), torch.randn(images, many)):
        upstream = laid_out([g] * 17, axes, layout)
        plan = normalization.plan(NormVariant("", False, True), x)
        assert plan is not None
        _, kept = plan.forward(x, None, None, None, (None, None), 0.1, 1e-5)
        grad, _, grad_weight, grad_bias = plan.backward(upstream, x, None, kept)
        told = [exact(channel) for channel in x.unbind(1)]
        mean, variance = (torch.tensor(list(row), dtype=torch.float64) for row in zip(*told, strict=True))
        inverse = (variance + 1e-5).rsqrt()
        normal = (x.double() - mean.view(each)) * inverse.view(each)
        share = 1 / (images * many)
        total, product = (t.transpose(0, 1).flatten(1).sum(1) for t in (upstream.double(), upstream.double() * normal))
        expected = upstream.double() - share * (total.view(each) + normal * product.view(each))
        expected = expected * inverse.view(each)
        largest = g.abs().max().item()
        size = largest * inverse.max().item() * (1 + normal.abs().max().item())
        assert (grad - expected).abs().max().item() <= 2 * EPS * size
        assert (grad_bias - total).abs().max().item() <= 2 * EPS * largest / share
        assert (grad_weight - product).abs().max().item() <= 2 * EPS * largest / share


@pytest.fixture
def reading_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Kernels that never read a second time."""
    made = (normalization._plan, normalization._nchw_forward, normalization._sums)
    for place in (nchw, nhwc):
        monkeypatch.setattr(place, "lost", lambda wide, plain, square, share: wide.compare("olt", square, square))
    for each in made:
        each.cache_clear()
    yield
    for each in made:
        each.cache_clear()


@pytest.mark.usefixtures("reading_once")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_digits_that_are_lost_are_found_missing(layout: str) -> None:
    with pytest.raises(AssertionError, match="far off"):
        check(3, (40, 33), layout)


def test_lanes_are_added_up_in_one_order() -> None:
    target = the_isa()
    f = Function("totals", target)
    x, y = f.pointer("x"), f.pointer("y", "double")
    wide = moments.Doubles(f, f.lanes)
    with f.loop(f.first, f.last) as item:
        f.put(wide.total(wide.of(f.load(x + item * f.lanes))), y + item)
    numbers = torch.randn(8, target.lanes) * 10.0 ** torch.arange(-4, 4)[:, None]
    found = torch.zeros(8, dtype=torch.float64)
    launch.Kernel(f, target)(8, 1, x=numbers.data_ptr(), y=found.data_ptr())
    halved = numbers.double()
    while halved.shape[1] > 1:
        halved = halved[:, : halved.shape[1] // 2] + halved[:, halved.shape[1] // 2 :]
    assert torch.equal(found, halved[:, 0])
