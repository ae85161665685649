"""Chains of convolutions and normalisations, against the same links one by one in float64."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from cases import slow_but
from striate import engine
from striate.engine.layout import is_channels_last
from striate.engine.llvm.normalization import dispatch as kernels
from striate.ops import chain
from striate.ops.chain import Activated, Convolution, Normalization
from striate.ops.norm import activate

ACTIVATIONS = {
    **{name: getattr(F, name) for name in ("relu", "relu6", "silu", "hardswish", "gelu")},
    "": lambda z: z,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "leaky_relu:0.1": lambda z: F.leaky_relu(z, 0.1),
}
CONVOLVE = {1: F.conv1d, 2: F.conv2d}
AVERAGE = {1: F.avg_pool1d, 2: F.avg_pool2d}


@pytest.fixture(autouse=True)
def _kernels() -> Iterator[None]:
    with engine.use("llvm"):
        yield


@dataclass
class Problem:
    input: Tensor
    links: list[Convolution | Normalization | Activated]

    @property
    def leaves(self) -> list[Tensor]:
        found = [self.input]
        for link in self.links:
            if isinstance(link, Activated):
                continue
            residual = () if isinstance(link, Convolution) else (link.residual,)
            found += [each for each in (*residual, link.weight, link.bias) if each is not None]
        return found

    @property
    def running(self) -> list[Tensor]:
        norms = [link for link in self.links if isinstance(link, Normalization)]
        return [each for link in norms for each in (link.mean, link.variance) if each is not None]

    def map(self, change: Callable[[Tensor], Tensor]) -> Problem:
        links = [type(link)(*(change(v) if isinstance(v, Tensor) else v for v in link)) for link in self.links]
        return Problem(change(self.input), links)

    def double(self) -> Problem:
        return self.map(lambda tensor: tensor.detach().double())

    def requires_grad(self) -> Problem:
        for leaf in self.leaves:
            leaf.requires_grad_()
        return self

    def one_by_one(self) -> Tensor:
        x = self.input
        for link in self.links:
            if isinstance(link, Convolution):
                x = CONVOLVE[x.dim() - 2](x, link.weight, link.bias, *link.how)
            elif isinstance(link, Activated):
                x = ACTIVATIONS[link.name](x)
                x = x if link.window is None else AVERAGE[x.dim() - 2](x, *link.window)
            else:
                how = link.mean, link.variance, link.weight, link.bias, link.training, link.momentum, link.eps
                z = F.batch_norm(x, *how)
                x = ACTIVATIONS[link.activation](z if link.residual is None else z + link.residual)
        return x

    def as_one(self) -> Tensor:
        found = chain.as_one(self.input, self.links)
        assert found is not None
        return found


def lay(tensor: Tensor, last: bool) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if last and tensor.dim() == 4 else tensor


def convolution(draw: random.Random, x: Tensor) -> Convolution:
    dims, inner = x.dim() - 2, x.shape[1]
    groups = draw.choice([1, 1, inner])
    outer = inner * draw.choice([1, 2]) if groups > 1 else draw.choice([1, 3, 8, 20])
    kernel = draw.choice([1, 3, 3])
    how = (draw.choice([1, 1, 2]), draw.choice([0, kernel // 2]), 1, groups)
    if min(x.shape[2:]) < 2 * kernel:
        how = (1, kernel // 2, 1, groups)
    weight = torch.randn(outer, inner // groups, *[kernel] * dims) / (inner // groups * kernel**dims) ** 0.5
    return Convolution(weight, torch.randn(outer) if draw.random() < 0.3 else None, how)


def normalization(draw: random.Random, x: Tensor, **settings: Any) -> Normalization:
    channels, affine = x.shape[1], draw.random() < 0.8
    training = settings.setdefault("training", draw.random() < 0.8)
    tracked = settings.pop("tracked", draw.random() < 0.8) or not training
    asked = {
        "weight": torch.rand(channels) + 0.5 if affine else None,
        "bias": torch.randn(channels) if affine else None,
        "mean": torch.randn(channels) if tracked else None,
        "variance": torch.rand(channels) + 0.5 if tracked else None,
        "momentum": draw.choice([0.1, 0.5]),
        "eps": draw.choice([1e-5, 1e-3]),
        "residual": lay(torch.randn(x.shape), draw.random() < 0.5) if draw.random() < 0.3 else None,
        "activation": draw.choice(list(ACTIVATIONS)),
    }
    return Normalization(**{**asked, **settings})


def activated(draw: random.Random, x: Tensor) -> Activated:
    window = None
    if draw.random() < 0.5:
        kernel: Any = draw.choice([1, 2, 2, 3])
        if x.dim() == 4 and draw.random() < 0.3:
            kernel = (draw.choice([1, 2]), draw.choice([1, 3]))
        if min(x.shape[2:]) >= 3:
            window = (kernel, None, 0, False, True)
    return Activated(draw.choice(list(ACTIVATIONS)), window)


def problem(seed: int, words: str = "", **settings: Any) -> Problem:
    """A chain of convolutions (c), normalisations (n) and activations (a)."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    words = words or draw.choice("cn") + "".join(draw.choice("cna") for _ in range(draw.randint(0, 4)))
    size = [draw.choice([5, 8, 13]) for _ in range(draw.choice([1, 2, 2, 2]))]
    x = lay(torch.randn(draw.randint(2, 4), draw.choice([3, 8, 17]), *size), draw.random() < 0.5)
    made, at = Problem(x, []), x
    for word in words:
        if word == "a":
            made.links.append(activated(draw, at))
        else:
            made.links.append(convolution(draw, at) if word == "c" else normalization(draw, at, **settings))
        at = Problem(at, made.links[-1:]).map(lambda tensor: tensor.to("meta")).one_by_one()
    return made


def near(found: Tensor, exact: Tensor, share: float = 1e-3) -> None:
    """Up to a share of the whole: a number at an activation's kink may come out on its other side."""
    assert found.shape == exact.shape
    scale = max(exact.norm().item(), 1e-2 * exact.numel() ** 0.5)
    assert (found.double() - exact).norm().item() <= share * scale


@pytest.mark.parametrize("start", slow_but(range(0, 40, 4), [0]))
def test_values_and_gradients_are_those_of_the_links(start: int) -> None:
    for seed in range(start, start + 4):
        made = problem(seed)
        exact = made.double().requires_grad()
        y, z = made.requires_grad().as_one(), exact.one_by_one()
        near(y, z)
        assert is_channels_last(y) == is_channels_last(z)
        for mine, theirs in zip(made.running, exact.running, strict=True):
            near(mine, theirs)
        g = torch.randn(y.shape)
        found = torch.autograd.grad(y, made.leaves, g)
        for grad, slope in zip(found, torch.autograd.grad(z, exact.leaves, g.double()), strict=True):
            near(grad, slope, 2e-2)


def test_running_statistics_are_moved_once_also_by_the_first_call() -> None:
    made = problem(1, "cncn", training=True, tracked=True).requires_grad()
    exact = made.double()
    for _ in range(2):
        made.as_one()
        exact.one_by_one()
    for mine, theirs in zip(made.running, exact.running, strict=True):
        near(mine, theirs, 1e-5)


@pytest.mark.parametrize("which", range(6))
def test_gradients_of_some(which: int) -> None:
    """Frozen operands, and those that are asked for alone."""
    whole = problem(7, "cncn").requires_grad()
    expected = torch.autograd.grad(whole.as_one().square().sum(), whole.leaves)
    which %= len(whole.leaves)
    asked = whole.map(Tensor.detach).requires_grad()
    (alone,) = torch.autograd.grad(asked.as_one().square().sum(), asked.leaves[which])
    torch.testing.assert_close(alone, expected[which])
    frozen = whole.map(Tensor.detach)
    frozen.leaves[which].requires_grad_()
    frozen.as_one().square().sum().backward()
    torch.testing.assert_close(frozen.leaves[which].grad, expected[which])


@pytest.mark.parametrize(
    ("words", "training"), [("cnc", True), ("cnc", False), ("cac", True), ("cacaca", True), ("canac", True)]
)
def test_gradients_can_be_differentiated(words: str, training: bool) -> None:
    made = problem(5, words, activation="silu", training=training, tracked=True)

    def second(p: Problem, y: Tensor) -> tuple[Tensor, ...]:
        first = torch.autograd.grad(y.square().sum(), p.leaves, create_graph=True)
        return torch.autograd.grad(sum(each.square().sum() for each in first), p.leaves, allow_unused=True)

    exact = made.double().requires_grad()
    made.requires_grad()
    for mine, theirs in zip(second(made, made.as_one()), second(exact, exact.one_by_one()), strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            near(mine, theirs, 1e-2)


@pytest.mark.parametrize("window", [None, (2, None, 0, False, True)])
@pytest.mark.parametrize("name", [*ACTIVATIONS, "gelu", "elu:0.5", "hardswish", "sigmoid"])
def test_an_activation_between_convolutions(name: str, window: tuple[Any, ...] | None) -> None:
    torch.manual_seed(0)
    x, v, w = torch.randn(2, 3, 9, 8), torch.randn(5, 3, 3, 3), torch.randn(4, 5, 3, 3)
    how = (1, 1, 1, 1)
    exact = Problem(x.double(), [Convolution(v.double(), None, how)]).requires_grad()
    z = activate(name, exact.one_by_one())
    z = F.conv2d(z if window is None else F.avg_pool2d(z, *window), w.double(), None, *how)
    made = Problem(x, [Convolution(v, None, how), Activated(name, window), Convolution(w, None, how)]).requires_grad()
    y = made.as_one()
    near(y, z)
    g = torch.randn(y.shape)
    found = torch.autograd.grad(y, made.leaves[:2], g)
    for mine, theirs in zip(found, torch.autograd.grad(z, exact.leaves, g.double()), strict=True):
        near(mine, theirs)


def test_activations_in_place_do_not_lose_what_others_keep() -> None:
    """relu after a residual keeps its result, and so does tanh: what follows must not be written over it."""
    x = torch.randn(2, 4, 6, 6)
    made = row(x, residual=True)
    made.links += [Activated("tanh"), Activated("sigmoid"), Activated("relu")]
    exact = made.double().requires_grad()
    y, z = made.requires_grad().as_one(), exact.one_by_one()
    near(y, z)
    found, wanted = torch.autograd.grad(y.sum(), made.leaves), torch.autograd.grad(z.sum(), exact.leaves)
    for mine, theirs in zip(found, wanted, strict=True):
        near(mine, theirs)


def test_an_activation_never_comes_first() -> None:
    assert chain.as_one(torch.randn(2, 3, 8, 8, requires_grad=True), [Activated("tanh")]) is None


def test_many_gradients_at_once() -> None:
    made = problem(3, "cn").requires_grad()
    y = made.as_one()
    g = torch.randn(3, *y.shape)
    together = torch.autograd.grad(y, made.leaves, g, is_grads_batched=True, retain_graph=True)
    for at in range(3):
        for many, one in zip(together, torch.autograd.grad(y, made.leaves, g[at], retain_graph=True), strict=True):
            near(many[at], one.double())


def test_backwards_twice_and_from_a_gradient_in_another_layout() -> None:
    made = problem(2, "cncn", residual=None).requires_grad()
    y = made.as_one()
    g = torch.randn(y.shape)
    first = torch.autograd.grad(y, made.leaves, g, retain_graph=True)
    odd = torch.empty(*y.shape[::-1]).permute(*reversed(range(y.dim()))).copy_(g)
    for one, other in zip(first, torch.autograd.grad(y, made.leaves, odd), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("last", [True, False])
def test_what_is_kept_may_come_back_in_another_layout(last: bool) -> None:
    made = row(lay(torch.randn(2, 4, 6, 5), last), residual=True).requires_grad()
    expected = torch.autograd.grad(made.as_one().square().sum(), made.leaves)
    other = torch.contiguous_format if last else torch.channels_last

    def elsewhere(kept: Tensor) -> Tensor:
        return kept.clone(memory_format=other) if kept.dim() == 4 else kept

    with torch.autograd.graph.saved_tensors_hooks(Tensor.detach, elsewhere):
        y = made.as_one()
    for one, other_one in zip(torch.autograd.grad(y.square().sum(), made.leaves), expected, strict=True):
        torch.testing.assert_close(one, other_one, rtol=1e-4, atol=1e-4)


def row(x: Tensor, residual: bool = False, **settings: Any) -> Problem:
    """A convolution and a normalisation of four channels."""
    torch.manual_seed(1)
    around = torch.randn(x.shape).to(memory_format=torch.channels_last) if residual else None
    norm = {"training": True, "momentum": 0.1, "eps": 1e-5, "residual": around, "activation": "relu", **settings}
    tables = torch.rand(4) + 0.5, torch.randn(4), torch.randn(4), torch.rand(4) + 0.5
    weight = torch.randn(4, 4, 3, 3)
    return Problem(x, [Convolution(weight, None, (1, 1, 1, 1)), Normalization(*tables, **norm)])


def test_calls_that_differ_are_not_taken_for_one_another() -> None:
    """Problems of the same shapes, one after the other."""
    x = torch.randn(2, 4, 6, 6)
    alike = [
        row(x),
        row(x, activation="silu"),
        row(x, momentum=0.5),
        row(x, eps=0.5),
        row(x, training=False),
        row(x, residual=True),
        row(lay(x, True)),
        row(x.transpose(2, 3)),
    ]
    strided, grouped = row(x), row(x)
    strided.links[0] = strided.links[0]._replace(how=(2, 1, 1, 1))
    grouped.links[0] = Convolution(grouped.links[0].weight[:, :2], None, (1, 1, 1, 2))
    for each, frozen in [*((one, False) for one in (*alike, strided, grouped)), (row(x), True)]:
        made = each.map(lambda tensor: tensor.detach().clone())
        exact = made.double().requires_grad()
        leaves = made.requires_grad().leaves
        if frozen:
            leaves[1].requires_grad_(False)
        y = chain.as_one(made.input, made.links)
        y = made.one_by_one() if y is None else y
        z = exact.one_by_one()
        near(y, z, 1e-5)
        for mine, theirs in zip(made.running, exact.running, strict=True):
            near(mine, theirs, 1e-5)
        slopes = torch.autograd.grad(z.square().sum(), exact.leaves)
        y.square().sum().backward()
        for leaf, slope in zip(leaves, slopes, strict=True):
            assert (leaf.grad is None) == (not leaf.requires_grad)
            if leaf.grad is not None:
                near(leaf.grad, slope, 1e-4)


@pytest.mark.parametrize("create", [False, True])
def test_one_tensor_in_two_places(create: bool) -> None:
    def grads(p: Problem, y: Tensor) -> tuple[Tensor, ...]:
        x, weight = p.input, p.links[0].weight
        return torch.autograd.grad(y.square().sum(), [x, weight], create_graph=create)

    once = row(torch.randn(2, 4, 6, 6), activation="silu")
    made = Problem(once.input, [once.links[0], once.links[1]._replace(residual=once.input), *once.links])
    exact = made.double()
    x, weight = exact.input.requires_grad_(), exact.links[0].weight.requires_grad_()
    exact.links[1] = exact.links[1]._replace(residual=x)
    exact.links[2] = exact.links[2]._replace(weight=weight)
    made.input.requires_grad_()
    made.links[0].weight.requires_grad_()
    for mine, theirs in zip(grads(made, made.as_one()), grads(exact, exact.one_by_one()), strict=True):
        near(mine.detach(), theirs.detach(), 1e-4)


def test_a_weight_that_changed_before_its_gradient_is_an_error() -> None:
    made = problem(6, "cn").requires_grad()
    y = made.as_one()
    with torch.no_grad():
        made.links[0].weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize(
    ("graded", "many", "others"),
    [
        ("last weight", 1, 2),  # what the last normalisation reads, its weight and its statistics
        ("input", 2, 6),  # what both read, all weights and statistics
        ("all", 4, 6),  # these, and what both convolutions read
    ],
)
def test_what_no_gradient_needs_is_not_kept(graded: str, many: int, others: int) -> None:
    made = problem(8, "cncn", activation="relu", residual=None, training=True)
    chosen = {"last weight": [made.links[-1].weight], "input": [made.input], "all": made.leaves}
    for leaf in chosen[graded]:
        leaf.requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda each: kept.append(each.shape) or each, lambda each: each):
        y = made.as_one()
    assert sum(len(shape) == 4 and shape[0] == made.input.shape[0] for shape in kept) == many
    assert len(kept) == many + others
    del y


@pytest.mark.parametrize(
    ("activation", "residual", "over"),
    [("relu", False, True), ("", False, True), ("relu", True, True), ("silu", True, False), ("", True, False)],
)
def test_gradients_of_a_normalisation_take_the_memory_of_those_they_come_from(
    activation: str, residual: bool, over: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless these are the caller's, or come back as the residual's."""
    real, found = kernels.NormKernels.backward, []

    def backward(plan: kernels.NormKernels, grad: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        made = real(plan, grad, *rest)
        found.append(made[0].data_ptr() == grad.data_ptr())
        return made

    made = problem(5, "cncn", activation=activation, residual=None, training=True)
    if residual:
        x = Problem(made.input, made.links[:1]).one_by_one()
        made.links[1] = made.links[1]._replace(residual=torch.randn_like(x))
    made.requires_grad()
    exact, y = made.double().requires_grad(), made.as_one()
    g = torch.randn_like(y)
    before = g.clone()
    monkeypatch.setattr(kernels.NormKernels, "backward", backward)
    grads = torch.autograd.grad(y, made.leaves, g)
    assert found == [False, over]
    assert torch.equal(g, before)
    for grad, slope in zip(grads, torch.autograd.grad(exact.one_by_one(), exact.leaves, g.double()), strict=True):
        near(grad, slope, 2e-2)


def test_somebody_elses_numbers_are_left() -> None:
    made = problem(9, "cn", training=True).requires_grad()
    assert chain.as_one(*_of(made.double().requires_grad())) is None
    with torch.no_grad():
        assert chain.as_one(*_of(made)) is None
    with torch.autocast("cpu"):
        assert chain.as_one(*_of(made)) is None
    with forward_ad.dual_level():
        assert chain.as_one(*_of(made)) is None
    with engine.use("reference"):
        assert chain.as_one(*_of(made)) is None
    assert chain.as_one(*_of(made.map(Tensor.detach))) is None
    assert chain.as_one(made.input, [*made.links, None]) is None
    assert chain.as_one(made.input[:, :-1], made.links) is None
    assert chain.as_one(made.input.to("meta"), made.links) is None
    torch.func.vmap(lambda x: none(chain.as_one(x, made.links)) or x)(made.input.detach()[None])
    assert made.as_one() is not None


def none(value: object) -> None:
    assert value is None


def _of(made: Problem) -> tuple[Tensor, list[Convolution | Normalization]]:
    return made.input, made.links


def test_large_maps_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Autograd frees them one by one."""
    monkeypatch.setattr(chain, "_LARGE", 2 * 4 * 7 * 7)
    assert chain.as_one(*_of(row(torch.randn(2, 4, 7, 6)).requires_grad())) is not None
    assert chain.as_one(*_of(row(torch.randn(2, 4, 7, 7)).requires_grad())) is None


@pytest.mark.parametrize("words", slow_but(["cnc", "cncncn"], ["cnc"]))
def test_results_are_the_same_every_time(words: str) -> None:
    made = problem(10, words).requires_grad()
    before = [each.clone() for each in made.running]
    found = []
    for _ in range(2):
        for mine, was in zip(made.running, before, strict=True):
            mine.copy_(was)
        y = made.as_one()
        found.append([y, *torch.autograd.grad(y.sum(), made.leaves)])
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))
