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
import torch.utils.checkpoint
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from cases import slow_but
from striate import engine
from striate.acceleration.blocks import fused
from striate.ops import chain
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

    def pool(self, x: Tensor, window: int = 2) -> Tensor:
        return POOL[x.dim() - 2](x, window)


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

    def pool(self, x: Tensor, window: int = 2) -> Tensor:
        windows = x.detach()
        for axis in range(2, x.dim()):
            windows = windows.unfold(axis, window, window)
        largest, second = windows.flatten(x.dim()).topk(2)[0].unbind(-1)
        # Of windows that a clamp has made equal none of the equals gets a gradient.
        close = (largest - second)[(largest > 0) & (largest < 6)]
        if close.numel():
            self.margin = min(self.margin, close.min().item())
        return super().pool(x, window)


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
    pads, window = 4 if alias else 1, 2 if dims == 2 else 3

    def mine(o: Operands) -> Tensor:
        how = (1, pads, 1, 1), activation, (window, None, 0, 1, False)
        return fused.convolve_and_pool(o["input"], o["weight"], o["bias"], *how)

    def theirs(o: Operands, by: Theirs) -> Tensor:
        z = CONVOLVE[dims](o["input"], o["weight"], o["bias"], 1, pads)
        return by.pool(by.activate(activation, z), window)

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


def _overlaps(tensor: Tensor) -> bool:
    """Whether several numbers are one in memory, which nobody may write to in the first place."""
    return any(step == 0 and size > 1 for size, step in zip(tensor.shape, tensor.stride(), strict=True))


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
        if _overlaps(target):
            target = target.clone()
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


def compare(case: Case, deed: Deed) -> bool:
    """Whether it was possible: nothing hung on rounding."""
    exact = Exact()
    wanted = run(case.double(), deed, lambda o: case.theirs(o, exact), writes=False)
    if exact.margin <= MARGIN:
        return False
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
    return True


@st.composite
def deeds(draw: st.DrawFn, names: Sequence[str]) -> Deed:
    names = sorted(names)
    frozen = draw(st.sets(st.sampled_from(names), max_size=len(names) - 1))
    written = draw(st.sampled_from(["", "result", *names, *(f"leaf {name}" for name in names)]))
    return Deed(draw(st.integers(1, 3)), frozenset(frozen), written, draw(st.booleans()))


NAMES = st.sampled_from(list(PLAIN))
SEEDS = st.integers(0, 1000)


@settings(max_examples=30)
@given(data=st.data())
def test_normalisation(data: st.DataObject) -> None:
    flags = [data.draw(st.booleans()) for _ in range(3)]
    case = normalisation(data.draw(NAMES), *flags, data.draw(st.sampled_from(list(NORM_ALIASES))), data.draw(SEEDS))
    assume(compare(case, data.draw(deeds(list(case.leaves)))))


@pytest.mark.slow
@settings(max_examples=30)
@given(data=st.data())
def test_convolution_and_pooling(data: st.DataObject) -> None:
    how = data.draw(st.sampled_from(["", "relu", "relu6"])), data.draw(st.booleans())
    alias = data.draw(st.sampled_from(list(POOLED_ALIASES)))
    case = pooled_convolution(*how, alias, 2, data.draw(SEEDS))
    assume(compare(case, data.draw(deeds(list(case.leaves)))))


@settings(max_examples=20)
@given(data=st.data())
def test_pooling_before_a_clamp(data: st.DataObject) -> None:
    case = composed_pooling(data.draw(st.sampled_from(["relu", "relu6"])), data.draw(st.booleans()), data.draw(SEEDS))
    assume(compare(case, data.draw(deeds(list(case.leaves)))))


@pytest.mark.slow
@settings(max_examples=40)
@given(data=st.data())
def test_rows(data: st.DataObject) -> None:
    words = data.draw(st.sampled_from(["cn", "cr", "cncr", "nc", "rcn", "cnc", "crcr"]))
    flags = [data.draw(st.booleans()) for _ in range(2)]
    names = data.draw(NAMES), data.draw(NAMES)
    case = row(words, names, *flags, data.draw(st.sampled_from(list(CHAIN_ALIASES))), data.draw(SEEDS))
    assume(compare(case, data.draw(deeds(list(case.leaves)))))


@pytest.mark.slow
@pytest.mark.parametrize(
    "test", [test_normalisation, test_convolution_and_pooling, test_pooling_before_a_clamp, test_rows]
)
def test_more_of_them(test: Any) -> None:
    settings(max_examples=300)(given(data=st.data())(test.hypothesis.inner_test))()


# -------------------------------------------------------------------- what is kept, and where

CASES: dict[str, Callable[[], Case]] = {
    "norm": lambda: normalisation("", False, True),
    "norm with relu": lambda: normalisation("relu", False, True, last=True),
    "norm with silu": lambda: normalisation("silu", False, True),
    "norm with residual": lambda: normalisation("", True, True),
    "norm with residual and relu": lambda: normalisation("relu", True, True),
    "norm with residual and relu6": lambda: normalisation("relu6", True, True, last=True),
    "norm with residual and hardswish, evaluated": lambda: normalisation("hardswish", True, False),
    "convolution and pooling": lambda: pooled_convolution("", False, ""),
    "convolution, relu and pooling": lambda: pooled_convolution("relu", False, ""),
    "convolution, relu6 and pooling, channels last": lambda: pooled_convolution("relu6", True, "", seed=1),
    "convolution and pooling of lines": lambda: pooled_convolution("relu", False, "", dims=1),
    "pooling of relu": lambda: composed_pooling("relu", False),
    "pooling of relu6, channels last": lambda: composed_pooling("relu6", True),
    "row": lambda: row("cncr", ("silu", "relu"), True),
    "row with residuals": lambda: row("crcr", ("silu", "hardswish"), True, last=True),
    "row in evaluation": lambda: row("rcn", ("relu", "relu6"), False),
    "row that ends in a convolution": lambda: row("cnc", ("relu", "relu"), True),
}
EVALUATED = {"norm with residual and hardswish, evaluated", "row in evaluation"}
each_case = pytest.mark.parametrize("name", CASES)


def called(case: Case, by: str = "mine") -> tuple[Operands, Tensor]:
    """Leaves with gradients, and the result."""
    leaves = {name: t.clone().requires_grad_() for name, t in case.leaves.items()}
    operands = {**leaves, **{name: t.clone() for name, t in case.buffers.items()}}
    return leaves, case.mine(operands) if by == "mine" else case.theirs(operands, Theirs())


def gradients(leaves: Operands, y: Tensor, **how: Any) -> tuple[Tensor, ...]:
    return torch.autograd.grad(y, list(leaves.values()), weighting(y, 0), **how)


def close(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> None:
    """Up to rounding of the largest of all, since some are differences of such."""
    largest = max(1.0, *(each.abs().max().item() for each in wanted))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-5 * largest)


@each_case
@pytest.mark.parametrize("late", slow_but([False, True], [True]))
def test_what_is_written_over(name: str, late: bool) -> None:
    """The result, every operand, and every leaf, before the first gradients or between them and the second."""
    case = CASES[name]()
    for written in ("result", *case.leaves, *(f"leaf {leaf}" for leaf in case.leaves)):
        assert compare(case, Deed(2, frozenset(), written, late))


@each_case
def test_gradients_of_one_alone(name: str) -> None:
    case = CASES[name]()
    for leaf in case.leaves:
        assert compare(case, Deed(3, frozenset(case.leaves) - {leaf}))


@pytest.mark.parametrize("call", ["norm", "row"])
@pytest.mark.parametrize("shared", [("weight", "mean"), ("weight", "variance"), ("bias", "mean"), ("bias", "variance")])
def test_weights_that_are_running_statistics(call: str, shared: tuple[str, str]) -> None:
    """They are moved before they are read, as PyTorch does it."""
    case = normalisation("relu", True, True) if call == "norm" else row("cr", ("relu", ""), True)
    (table, statistic), found = shared, []
    for by in (case.mine, lambda o: case.theirs(o, Theirs())):
        moved = case.buffers[statistic].clone()
        leaves = {name: t.clone().requires_grad_() for name, t in case.leaves.items() if name != table}
        y = by({**leaves, **{k: t.clone() for k, t in case.buffers.items()}, table: moved, statistic: moved})
        found.append([y, moved, *gradients(leaves, y)])
    close(*found)


@pytest.mark.parametrize("call", ["norm", "row"])
def test_nothing_is_kept_where_the_residual_alone_has_a_gradient(call: str) -> None:
    case = normalisation("", True, True) if call == "norm" else row("cr", ("", ""), True)
    leaves = {name: t.clone().requires_grad_(name == "residual") for name, t in case.leaves.items()}
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda each: kept.append(each) or each, lambda each: each):
        y = case.mine({**leaves, **case.buffers})
    assert not kept
    y.sum().backward()
    assert torch.equal(leaves["residual"].grad, torch.ones_like(y))


@each_case
def test_no_more_memory_is_kept_than_by_pytorchs_functions(name: str) -> None:
    case, kept = CASES[name](), {}
    for by in ("mine", "theirs"):
        memory: dict[int, int] = {}

        def keep(tensor: Tensor, memory: dict[int, int] = memory) -> Tensor:
            memory[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            leaves, y = called(case, by)
        for leaf in leaves.values():
            memory.pop(leaf.untyped_storage().data_ptr(), None)
        kept[by] = sum(memory.values())
        del y
    # Five numbers a channel instead of two, for each of two normalisations.
    assert kept["mine"] <= kept["theirs"] + 2 * 3 * 4 * 5
    assert kept["mine"] > 0


@each_case
@pytest.mark.parametrize("create", [False, True])
def test_what_is_kept_may_be_moved_meanwhile(name: str, create: bool) -> None:
    """To other memory, in another order."""
    case = CASES[name]()

    def found() -> list[Tensor]:
        leaves, y = called(case)
        first = gradients(leaves, y, create_graph=create)
        if not create:
            return list(first)
        total = sum((grad.square().sum() for grad in first), torch.zeros(()))
        second = torch.autograd.grad(total, list(leaves.values()), materialize_grads=True)
        return [each.detach() for each in (*first, *second)]

    wanted = found()

    def elsewhere(kept: Tensor) -> Tensor:
        return kept.transpose(-1, -2).clone(memory_format=torch.contiguous_format).transpose(-1, -2)

    for hooks in (
        torch.autograd.graph.save_on_cpu(),
        torch.autograd.graph.saved_tensors_hooks(
            lambda kept: elsewhere(kept) if kept.dim() > 1 else kept.clone(), lambda kept: kept
        ),
    ):
        with hooks:
            close(found(), wanted)


@each_case
def test_backwards_again(name: str) -> None:
    leaves, y = called(CASES[name]())
    first = gradients(leaves, y, retain_graph=True)
    assert all(torch.equal(*pair) for pair in zip(first, gradients(leaves, y), strict=True))
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        gradients(leaves, y)


@each_case
@pytest.mark.parametrize("create", [False, True])
def test_upstream_gradients_that_lie_otherwise(name: str, create: bool) -> None:
    leaves, y = called(CASES[name]())
    over = torch.randn(y.shape[1:])
    plain, odd = torch.randn(y.shape), torch.empty(*y.shape[::-1]).permute(*reversed(range(y.dim())))
    negated = torch._neg_view(torch.empty_like(y).copy_(-plain))  # as the imaginary part of a conjugate is
    for upstream, same in (
        (over.expand_as(y), over.expand_as(y).contiguous()),
        (torch.ones(()).expand_as(y), torch.ones(y.shape)),
        (odd.copy_(plain), plain),
        (lay(plain, True), plain),
        (torch.stack([plain, plain], dim=-1)[..., 0], plain),
        (negated, plain),
    ):
        before = same.clone()
        found, wanted = (
            torch.autograd.grad(y, list(leaves.values()), g, retain_graph=True, create_graph=create)
            for g in (upstream, same)
        )
        close(found, wanted)
        assert torch.equal(upstream, before)


@each_case
def test_many_upstream_gradients_at_once(name: str) -> None:
    leaves, y = called(CASES[name]())
    many = torch.randn(3, *y.shape)
    for create in (False, True):
        how: dict[str, Any] = {"retain_graph": True, "create_graph": create}
        together = torch.autograd.grad(y, list(leaves.values()), many, is_grads_batched=True, **how)
        for at in range(3):
            close([each[at] for each in together], torch.autograd.grad(y, list(leaves.values()), many[at], **how))


@each_case
@pytest.mark.parametrize("reentrant", [True, False])
def test_computed_again_rather_than_kept(name: str, reentrant: bool) -> None:
    case = CASES[name]()
    leaves, y = called(case)
    wanted = gradients(leaves, y)
    leaves = {name: t.clone().requires_grad_() for name, t in case.leaves.items()}

    def call(*tensors: Tensor) -> Tensor:
        return case.mine({**dict(zip(leaves, tensors, strict=True)), **{k: t.clone() for k, t in case.buffers.items()}})

    z = torch.utils.checkpoint.checkpoint(call, *leaves.values(), use_reentrant=reentrant)
    z.backward(weighting(z, 0))
    close([leaf.grad for leaf in leaves.values() if leaf.grad is not None], wanted)


@each_case
def test_transforms(name: str) -> None:
    """Gradients, Hessians times vectors, tangents and batches: of what is called in an operation's place."""
    case = CASES[name]()

    def both() -> Iterator[Callable[..., Tensor]]:
        for call in (case.mine, lambda o: case.theirs(o, Theirs())):
            running = {key: t.clone() for key, t in case.buffers.items()}
            yield (
                lambda *o, call=call, running=running: (
                    call({**dict(zip(case.leaves, o, strict=True)), **running}).sin().sum()
                )
            )

    values = tuple(case.leaves.values())
    every, ones = tuple(range(len(values))), tuple(torch.ones_like(value) for value in values)
    close(*(torch.func.grad(f, every)(*values) for f in both()))
    close(*(torch.func.jvp(f, values, ones) for f in both()))
    close(*(torch.func.jvp(torch.func.grad(f, every), values, ones)[1] for f in both()))
    if case.buffers and name not in EVALUATED:
        return  # PyTorch's functions move no statistics by a batch's
    many = tuple(torch.stack([value, value * 0.5]) for value in values)
    mine, theirs = both()
    close([torch.vmap(mine)(*many)], [torch.stack([theirs(*(each[at] for each in many)) for at in range(2)])])
