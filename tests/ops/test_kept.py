"""What operations that take the place of several keep for their gradients, and these of every order.

Each is called as it is, as PyTorch's functions compose it, and by its definition in float64. Afterwards somebody writes
to its result or to an operand: where PyTorch's functions accept that the operation has to, and whatever is accepted has
the gradients of the definition, in which nothing is written over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from striate import engine
from striate.acceleration import fused
from striate.ops import chain, conv_pool
from striate.ops.norm import batch_norm

Operands = dict[str, Tensor]
Grads = tuple[Tensor | None, ...]
PLAIN = {"": lambda z: z, "relu": F.relu, "relu6": F.relu6, "silu": F.silu, "hardswish": F.hardswish}
KINKS = {"": (), "relu": (0.0,), "relu6": (0.0, 6.0), "silu": (), "hardswish": (-3.0, 3.0)}
CONVOLVE = {1: F.conv1d, 2: F.conv2d}
POOL = {1: F.max_pool1d, 2: F.max_pool2d}
#: Kinks and ties that are this near are left to rounding.
MARGIN = 1e-4


@pytest.fixture(autouse=True)
def _kernels() -> Iterator[None]:
    with engine.use("llvm"):
        yield


class Theirs:
    """The functions that operations are made of."""

    def norm(self, x: Tensor, residual: Tensor | None, activation: str, *how: Any) -> Tensor:
        z = F.batch_norm(x, *how)
        return self.activate(activation, z if residual is None else z + residual)

    def activate(self, name: str, z: Tensor) -> Tensor:
        return PLAIN[name](z)

    def pool(self, x: Tensor) -> Tensor:
        return POOL[x.dim() - 2](x, 2)


@dataclass
class Exact(Theirs):
    """The same by definition, which PyTorch's normalisation isn't from the third derivative on."""

    margin: float = field(default=1.0)

    def norm(self, x: Tensor, residual: Tensor | None, activation: str, *how: Any) -> Tensor:
        mean, variance, weight, bias, training, _, eps = how
        each, axes = [-1, *[1] * (x.dim() - 2)], [0, *range(2, x.dim())]
        if training:
            mean = x.mean(axes)
            variance = (x - mean.reshape(each)).square().mean(axes)
        z = (x - mean.reshape(each)) / (variance.reshape(each) + eps).sqrt()
        z = z if weight is None else z * weight.reshape(each)
        z = z if bias is None else z + bias.reshape(each)
        return self.activate(activation, z if residual is None else z + residual)

    def activate(self, name: str, z: Tensor) -> Tensor:
        for kink in KINKS[name]:
            self.margin = min(self.margin, (z - kink).abs().min().item())
        return super().activate(name, z)

    def pool(self, x: Tensor) -> Tensor:
        windows = x.detach()
        for axis in range(2, x.dim()):
            windows = windows.unfold(axis, 2, 2)
        largest, second = windows.flatten(x.dim()).topk(2)[0].unbind(-1)
        # Of windows that a clamp has made equal none of the equals gets a gradient.
        close = (largest - second)[(largest > 0) & (largest < 6)]
        if close.numel():
            self.margin = min(self.margin, close.min().item())
        return super().pool(x)


@dataclass
class Case:
    """An operation on operands by name."""

    leaves: Operands
    mine: Callable[[Operands], Tensor]
    theirs: Callable[[Operands, Theirs], Tensor]
    #: The operands as functions of leaves.
    derive: Callable[[Operands], Operands] = dict
    buffers: Operands = field(default_factory=dict)

    def double(self) -> Case:
        leaves, buffers = ({name: t.double() for name, t in all_.items()} for all_ in (self.leaves, self.buffers))
        return Case(leaves, self.mine, self.theirs, self.derive, buffers)


def lay(tensor: Tensor, last: bool) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if last and tensor.dim() == 4 else tensor


# -------------------------------------------------------------------- the operations


def of_axes(x: Tensor) -> Tensor:
    return x.mean([0, *range(2, x.dim())])


NORM_ALIASES: dict[str, Callable[[Operands], Operands]] = {
    "": dict,
    "residual is input": lambda o: {**o, "residual": o["input"]},
    "residual of input": lambda o: {**o, "residual": o["input"].tanh()},
    "input of residual": lambda o: {**o, "input": o["residual"].tanh()},
    "bias is weight": lambda o: {**o, "bias": o["weight"]},
    "weight of input": lambda o: {**o, "weight": of_axes(o["input"]).exp()},
    "bias of weight": lambda o: {**o, "bias": o["weight"].sin()},
    "expanded residual": lambda o: {**o, "residual": o["residual"][:1].expand_as(o["residual"])},
}


def normalisation(
    activation: str, residual: bool, training: bool, last: bool = False, alias: str = "", seed: int = 0
) -> Case:
    torch.manual_seed(seed)
    leaves = {"input": lay(torch.randn(3, 5, 4, 3) * 2 + 1, last), "weight": torch.randn(5), "bias": torch.randn(5)}
    if residual:
        leaves["residual"] = lay(torch.randn(3, 5, 4, 3), last)
    running = {"mean": torch.randn(5), "variance": torch.rand(5) + 0.5}

    def mine(o: Operands) -> Tensor:
        tables = (o["weight"], o["bias"], o["mean"], o["variance"])
        how: dict[str, Any] = {"residual": o.get("residual"), "activation": activation}
        return batch_norm(o["input"], *tables, training, 0.1, 0.1, **how)

    def theirs(o: Operands, by: Theirs) -> Tensor:
        tables = (o["mean"], o["variance"], o["weight"], o["bias"])
        return by.norm(o["input"], o.get("residual"), activation, *tables, training, 0.1, 0.1)

    needs = "residual" in alias
    return Case(leaves, mine, theirs, NORM_ALIASES[alias if residual or not needs else ""], running)


POOLED_ALIASES: dict[str, Callable[[Operands], Operands]] = {
    "": dict,
    "weight is input": lambda o: {**o, "weight": o["input"]},
    "weight of input": lambda o: {**o, "weight": o["input"].tanh()},
    "input of weight": lambda o: {**o, "input": o["weight"].tanh()},
    "bias of weight": lambda o: {**o, "bias": o["weight"].mean([*range(1, o["weight"].dim())])},
}


def pooled_convolution(activation: str, last: bool, alias: str, dims: int = 2, seed: int = 0) -> Case:
    torch.manual_seed(seed)
    size = (4, 4, 6, 6)[: dims + 2]
    kernel = size if alias else (4, 4, 3, 3)[: dims + 2]
    x, w = lay(torch.randn(size), last), torch.randn(kernel) / 2
    pads = 4 if alias else 1

    def mine(o: Operands) -> Tensor:
        window = (2 if dims == 2 else 4, None, 0, 1, False)
        y = conv_pool.as_one(o["input"], o["weight"], o["bias"], (1, pads, 1, 1), activation, window)
        assert (y is not None) == any(o[name].requires_grad for name in ("input", "weight", "bias"))
        return CONVOLVE[dims](o["input"], o["weight"]) if y is None else y

    def theirs(o: Operands, by: Theirs) -> Tensor:
        z = CONVOLVE[dims](o["input"], o["weight"], o["bias"], 1, pads)
        return by.pool(by.activate(activation, z))

    leaves = {"input": x, "weight": w, "bias": torch.randn(4)}
    return Case(leaves, mine, theirs, POOLED_ALIASES[alias])


def composed_pooling(activation: str, last: bool, seed: int = 0) -> Case:
    """What is called for a clamp and max pooling of a map that no convolution has made."""
    torch.manual_seed(seed)

    def mine(o: Operands) -> Tensor:
        return fused.pool_and_activate(2, o["input"], activation, (2, None, 0, 1, False))

    def theirs(o: Operands, by: Theirs) -> Tensor:
        return by.pool(by.activate(activation, o["input"]))

    return Case({"input": lay(torch.randn(3, 5, 6, 6) * 3, last)}, mine, theirs)


CHAIN_ALIASES: dict[str, Callable[[Operands], Operands]] = {
    "": dict,
    "one weight": lambda o: {**o, "kernel 2": o["kernel"]},
    "weight of weight": lambda o: {**o, "kernel 2": o["kernel"].tanh()},
    "residual is input": lambda o: {**o, "residual": o["input"]},
    "residual of input": lambda o: {**o, "residual": o["input"].tanh()},
    "bias is weight": lambda o: {**o, "bias": o["weight"], "shift": o["weight"]},
    "weight of input": lambda o: {**o, "weight": of_axes(o["input"]).exp()},
}


def row(
    words: str, activations: tuple[str, str], training: bool, last: bool = False, alias: str = "", seed: int = 0
) -> Case:
    """Convolutions (c), normalisations (n) and those that are added to a residual (r)."""
    torch.manual_seed(seed)
    shape = (3, 4, 5, 3)
    leaves: Operands = {"input": lay(torch.randn(shape), last)}
    convolutions, norms = words.count("c"), len(words) - words.count("c")
    for name in ("kernel", "kernel 2")[:convolutions]:
        leaves[name] = torch.randn(4, 4, 3, 3) / 4
    leaves |= {"shift": torch.randn(4), "weight": torch.rand(4) + 0.5, "bias": torch.randn(4)}
    if "r" in words:
        leaves["residual"] = lay(torch.randn(shape), last)
    running = {"mean": torch.randn(4), "variance": torch.rand(4) + 0.5}
    names = [activations[at % 2] for at in range(norms)]

    def links(o: Operands) -> Iterator[chain.Link]:
        kernels, left = iter((o["kernel"], o.get("kernel 2", o["kernel"]))), iter(names)
        for word in words:
            if word == "c":
                yield chain.Convolution(next(kernels), o["shift"], (1, 1, 1, 1))
                continue
            tables = o["weight"], o["bias"], o["mean"], o["variance"]
            yield chain.Normalization(*tables, training, 0.1, 0.1, o["residual"] if word == "r" else None, next(left))

    def mine(o: Operands) -> Tensor:
        y = chain.as_one(o["input"], list(links(o)))
        return fused_apart(o["input"], list(links(o))) if y is None else y

    def theirs(o: Operands, by: Theirs) -> Tensor:
        x = o["input"]
        for link in links(o):
            if isinstance(link, chain.Convolution):
                x = F.conv2d(x, link.weight, link.bias, *link.how)
            else:
                how = (link.mean, link.variance, link.weight, link.bias, training, 0.1, 0.1)
                x = by.norm(x, link.residual, link.activation, *how)
        return x

    known = all(name in leaves for name in ("kernel 2", *["residual"] * ("residual" in alias)))
    return Case(leaves, mine, theirs, CHAIN_ALIASES[alias if known else ""], running)


def fused_apart(input: Tensor, links: Sequence[chain.Link]) -> Tensor:
    """The links as they are computed where they aren't one operation."""
    parts = [
        link
        if isinstance(link, chain.Convolution)
        else fused.Normed(
            (link.mean, link.variance, link.weight, link.bias, link.training, link.momentum, link.eps),
            link.residual,
            None if link.residual is None else torch.add,
            link.activation,
        )
        for link in links
    ]
    return fused.chained(input, *parts)


# -------------------------------------------------------------------- the comparison


@dataclass
class Deed:
    """What is asked for after the call, and what is written before that."""

    order: int = 1
    frozen: frozenset[str] = frozenset()  #: leaves without a gradient
    #: The result, an operand, or "leaf" and one without autograd's knowledge, as optimisers write.
    written: str = ""
    late: bool = False  #: written after the first gradients


def weighting(like: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(like.shape, generator=generator).to(like.dtype)


def run(case: Case, deed: Deed, call: Callable[[Operands], Tensor], writes: bool) -> list[Grads] | None:
    """The gradients of every order up to the asked one; None if autograd rejects what was written."""
    leaves = {name: t.detach().clone().requires_grad_(name not in deed.frozen) for name, t in case.leaves.items()}
    asked = [leaf for leaf in leaves.values() if leaf.requires_grad]
    unknown = deed.written.removeprefix("leaf ") if deed.written.startswith("leaf ") else ""
    # Of leaves autograd lets nobody write to but copies.
    operands = case.derive({name: t if name == unknown else t * 1 for name, t in leaves.items()})
    y = call({**operands, **{name: t.clone() for name, t in case.buffers.items()}})

    def write() -> Tensor:
        if unknown:
            if writes:
                leaves[unknown].detach().mul_(0.5)
            return total.new_zeros(())
        target = y if deed.written == "result" else operands[deed.written]
        changed = target.mul_(0.5) if writes else target * 0.5
        return (changed.square() * weighting(changed, 1)).sum()

    # What keeps the result itself would reject that it is written over.
    total = (y * weighting(y, 0)).sum() if deed.written == "result" else (y.square() * weighting(y, 0)).sum()
    if deed.written and not deed.late:
        total = total + write()
    found: list[Grads] = []
    try:
        for order in range(1, deed.order + 1):
            if not total.requires_grad:
                break
            grads = torch.autograd.grad(total, asked, create_graph=order < deed.order, allow_unused=True)
            found.append(grads)
            total = torch.zeros((), dtype=y.dtype)
            for at, grad in enumerate(grads):
                if grad is not None:
                    scaled = grad / max(1.0, grad.detach().norm().item())
                    total = total + (scaled.square() * weighting(grad, 2 + at)).sum()
            if deed.written and deed.late and order == 1:
                write()
    except RuntimeError as error:
        if "modified by an inplace operation" in str(error):
            return None
        raise
    return found


def compare(case: Case, deed: Deed) -> None:
    exact = Exact()
    wanted = run(case.double(), deed, lambda o: case.theirs(o, exact), writes=False)
    assume(exact.margin > MARGIN)
    theirs = run(case, deed, lambda o: case.theirs(o, Theirs()), writes=True)
    mine = run(case, deed, case.mine, writes=True)
    assert wanted is not None
    if theirs is not None:
        assert mine is not None, "rejects what PyTorch's functions accept"
        for ones, others in zip(mine, theirs, strict=False):
            for one, other in zip(ones, others, strict=True):
                assert one is not None or other is None, "has no gradient where PyTorch's functions have one"
    for ones, others in zip(mine or [], wanted, strict=False):
        largest = max((each.norm().item() for each in others if each is not None), default=0.0)
        for one, other in zip(ones, others, strict=True):
            if one is None or other is None:
                assert not any(each is not None and each.any() for each in (one, other))
                continue
            # Some gradients are zero but for rounding.
            scale = max(other.norm().item(), 1e-2 * largest, 1e-2 * other.numel() ** 0.5)
            assert (one.double() - other).norm().item() <= 2e-3 * scale


@st.composite
def deeds(draw: st.DrawFn, names: Sequence[str]) -> Deed:
    names = sorted(names)
    frozen = draw(st.sets(st.sampled_from(names), max_size=len(names) - 1))
    written = draw(st.sampled_from(["", "result", *names, *(f"leaf {name}" for name in names)]))
    return Deed(draw(st.integers(1, 3)), frozenset(frozen), written, draw(st.booleans()))


NAMES = st.sampled_from(list(PLAIN))
SEEDS = st.integers(0, 1000)


@settings(max_examples=120)
@given(data=st.data())
def test_normalisation(data: st.DataObject) -> None:
    flags = [data.draw(st.booleans()) for _ in range(3)]
    case = normalisation(data.draw(NAMES), *flags, data.draw(st.sampled_from(list(NORM_ALIASES))), data.draw(SEEDS))
    compare(case, data.draw(deeds(list(case.leaves))))


@settings(max_examples=120)
@given(data=st.data())
def test_convolution_and_pooling(data: st.DataObject) -> None:
    how = data.draw(st.sampled_from(["", "relu", "relu6"])), data.draw(st.booleans())
    alias = data.draw(st.sampled_from(list(POOLED_ALIASES)))
    case = pooled_convolution(*how, alias, 2, data.draw(SEEDS))
    compare(case, data.draw(deeds(list(case.leaves))))


@settings(max_examples=40)
@given(data=st.data())
def test_pooling_before_a_clamp(data: st.DataObject) -> None:
    case = composed_pooling(data.draw(st.sampled_from(["relu", "relu6"])), data.draw(st.booleans()), data.draw(SEEDS))
    compare(case, data.draw(deeds(list(case.leaves))))


@settings(max_examples=150)
@given(data=st.data())
def test_rows(data: st.DataObject) -> None:
    words = data.draw(st.sampled_from(["cn", "cr", "cncr", "nc", "rcn", "cnc", "crcr"]))
    flags = [data.draw(st.booleans()) for _ in range(2)]
    names = data.draw(NAMES), data.draw(NAMES)
    case = row(words, names, *flags, data.draw(st.sampled_from(list(CHAIN_ALIASES))), data.draw(SEEDS))
    compare(case, data.draw(deeds(list(case.leaves))))
