"""Whichever variant of a graph is taken: the same results, gradients, statistics; and measuring leaves no trace."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import striate
from striate import engine, ops
from striate.acceleration import choices_of, plan_of, variants
from striate.acceleration.backend import Compiled
from striate.engine import choice, tuning

NAMES = ["blocks", "PyTorch's functions", "blocks, channels last", "PyTorch's functions, channels last"]


@pytest.fixture
def prefer(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[list[str]]]:
    """Has one variant win, wherever it is a candidate; gives the list of all candidates that were measured."""

    def chosen(wanted: str) -> list[list[str]]:
        asked: list[list[str]] = []

        def measured(runs: dict[str, Callable[[], object]], *_: Any) -> dict[str, float]:
            for run in runs.values():
                run()
            if "blocks" not in runs:
                return dict.fromkeys(runs, 1.0)  # what the engine asks for each operation
            asked.append(list(runs))
            return {name: 1.0 if name == wanted else 2.0 for name in runs}

        monkeypatch.setattr(tuning, "_enabled", True)
        monkeypatch.setattr(tuning, "_ALLOWANCE", float("inf"))
        monkeypatch.setattr(tuning, "in_turns", measured)
        return asked

    return chosen


class Function(nn.Module):
    """Layers, and a function of them and an image."""

    def __init__(self, function: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def conv(inner: int, outer: int, kernel: int = 3, **how: Any) -> nn.Conv2d:
    return nn.Conv2d(inner, outer, kernel, padding=kernel // 2, **how)


def residual(m: Any, x: Tensor) -> Tensor:
    x = m.a(x)
    y = m.norm(m.b(x))
    y += x
    return F.relu(y, inplace=True).mean((2, 3))


def pyramid(m: Any, x: Tensor) -> dict[str, Tensor]:
    fine = m.a(x)
    coarse = m.b(F.max_pool2d(fine, 2))
    return {"fine": fine + F.interpolate(coarse, size=fine.shape[-2:]), "coarse": coarse, "sum": coarse.sum()}


MODELS: dict[str, Callable[[], nn.Module]] = {
    "classifier": lambda: nn.Sequential(
        conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2), conv(8, 6), nn.Tanh(),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(54, 5),
    ),
    "residual": lambda: Function(residual, a=conv(3, 8), b=conv(8, 8), norm=nn.BatchNorm2d(8)),
    "pyramid": lambda: Function(pyramid, a=conv(3, 8), b=conv(8, 8)),
    "concatenation": lambda: Function(
        lambda m, x: torch.cat([m.a(x), F.gelu(m.b(x))], 1), a=conv(3, 4), b=conv(3, 8)
    ),
    "groups": lambda: nn.Sequential(
        conv(3, 8), nn.InstanceNorm2d(8), nn.SiLU(), conv(8, 8, groups=4), nn.Dropout2d(0.0)
    ),
    "tokens": lambda: Function(
        lambda m, x: m.norm(m.a(x).flatten(2).transpose(1, 2)) @ m.a.weight.flatten(1)[:, :3],
        a=conv(3, 8),
        norm=nn.LayerNorm(8),
    ),
}  # fmt: skip


def leaves(made: Any) -> list[Tensor]:
    return [each for each in torch.utils._pytree.tree_leaves(made) if isinstance(each, Tensor)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", MODELS)
def test_training_is_the_models_own(kind: str, name: str, prefer: Callable[[str], list[list[str]]]) -> None:
    asked = prefer(name)
    plain = MODELS[kind]().train()
    fast = striate.accelerate(copy.deepcopy(plain), quiet=True)
    for step in range(5):
        x = torch.randn(4, 3, 12, 12)
        found = []
        for model in (plain, fast):
            torch.manual_seed(step)
            given = x.clone().requires_grad_(step % 2 == 1)
            made = leaves(model(given))
            sum(each.square().sum() for each in made).backward()
            found.append((made, [given.grad] if step % 2 else [], torch.get_rng_state()))
        (theirs, their_grads, state), (mine, my_grads, my_state) = found
        assert [each.stride() for each in mine] == [each.stride() for each in theirs]
        torch.testing.assert_close(mine + my_grads, theirs + their_grads, rtol=1e-4, atol=1e-5)
        assert torch.equal(state, my_state)
    torch.testing.assert_close(
        [each.grad for each in fast.parameters()], [each.grad for each in plain.parameters()], rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(list(fast.buffers()), list(plain.buffers()), rtol=1e-5, atol=1e-5)
    assert asked
    assert all(each == NAMES for each in asked)
    assert all(f": {name} (measured" in told for told in choices_of(fast))


@pytest.mark.parametrize("name", NAMES)
def test_inference_without_plans(name: str, prefer: Callable[[str], list[list[str]]]) -> None:
    prefer(name)
    plain = MODELS["pyramid"]().eval()
    fast = striate.accelerate(copy.deepcopy(plain), quiet=True, plans=False)
    for _ in range(5):
        x = torch.randn(2, 3, 12, 12)
        with torch.no_grad():
            mine, theirs = leaves(fast(x)), leaves(plain(x))
        assert [each.stride() for each in mine] == [each.stride() for each in theirs]
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    (told,) = choices_of(fast)
    assert told.startswith(f"2x3x12x12, inference: {name} (measured: blocks ")


def test_measuring_calls_no_hooks_and_draws_nothing(prefer: Callable[[str], list[list[str]]]) -> None:
    asked = prefer("blocks")
    plain = nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.Flatten(), nn.Dropout(0.5), nn.Linear(8 * 64, 2)).train()
    fast = striate.accelerate(copy.deepcopy(plain), quiet=True)
    called: list[int] = []
    fast[0].weight.register_hook(lambda _: called.append(1))
    for step in range(4):
        x = torch.randn(2, 3, 8, 8)
        torch.manual_seed(step)
        theirs = plain(x)
        torch.manual_seed(step)
        mine = fast(x)
        torch.testing.assert_close(mine, theirs)
        assert not called
    assert len(asked) == 1
    torch.testing.assert_close(list(fast.buffers()), list(plain.buffers()))
    assert all(each.grad is None for each in fast.parameters())


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(context: Any, *grads: Tensor) -> Tensor:
        return 2 * grads[0]


@pytest.mark.parametrize(
    ("function", "candidates"),
    [
        # Written to memory of others, functions that nobody knows: not measured at all.
        (lambda m, x: m.a(x.add_(1)), []),
        (lambda m, x: (lambda y: (y.flatten(1).mul_(2), y)[1])(m.a(x)), []),
        (lambda m, x: (lambda y: (y, F.relu(y, inplace=True))[0])(m.a(x)) + 1, NAMES),
        (lambda m, x: (lambda y: (y * 2, y.mul_(3))[0])(m.a(x)), NAMES),
        (lambda m, x: m.a(x) * x.new_empty(2, 1, 1, 1).bernoulli_(0.5).div_(0.5), NAMES),
        (lambda m, x: Doubled.apply(m.a(x)), []),
        # Results that share memory with images, or numbers drawn in the order of memory: no other layout.
        (lambda m, x: (m.a(x), x.flatten(1)), NAMES[:2]),
        (lambda m, x: (m.a(x), x), NAMES),  # Dynamo gives the image back, not the graph
        (lambda m, x: torch.cat([m.a(x), x], 1).chunk(2, 1), NAMES[:2]),
        (lambda m, x: (lambda y: (y, y[0]))(m.a(x)), NAMES[:2]),
        (lambda m, x: F.dropout(m.a(x), 0.5, True), NAMES),
        (lambda m, x: m.a(F.dropout(m.a(x)[:, :3], 0.5, True, True)), []),
        (lambda m, x: F.dropout(m.a(x).flatten(2).transpose(1, 2), 0.5, True), NAMES[:2]),
        (lambda m, x: m.a(x[:, [2, 1, 0]] * 2 - x[:, :1]), NAMES),
        (lambda m, x: m.a(x).view(2, -1), NAMES[:2]),
        (lambda m, x: F.group_norm(m.a(x), 2), NAMES[:2]),
        (lambda m, x: m.a(x).reshape(2, -1), NAMES),
    ],
)  # fmt: skip
def test_what_is_measured(
    function: Callable[..., Any], candidates: Sequence[str], prefer: Callable[[str], list[list[str]]]
) -> None:
    asked = prefer(NAMES[-1])
    plain = Function(function, a=conv(3, 8))
    fast = striate.accelerate(copy.deepcopy(plain), quiet=True)
    for step in range(5):
        x = torch.randn(2, 3, 6, 6)
        found = []
        for model in (plain, fast):
            torch.manual_seed(step)
            given = x.clone()
            found.append([*leaves(model(given)), given])
        theirs, mine = found
        assert [each.stride() for each in mine] == [each.stride() for each in theirs]
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    assert asked == ([list(candidates)] if candidates else [])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_compared_as_such(
    value: float, prefer: Callable[[str], list[list[str]]]
) -> None:
    asked = prefer(NAMES[3])
    plain = nn.Sequential(conv(3, 8), nn.BatchNorm2d(8)).eval()
    fast = striate.accelerate(copy.deepcopy(plain), quiet=True, plans=False)
    for _ in range(4):
        x = torch.randn(2, 3, 6, 6)
        x[0, 0, 0, 0] = value
        with torch.no_grad():
            torch.testing.assert_close(fast(x), plain(x), equal_nan=True, rtol=1e-4, atol=1e-4)
    assert asked == [NAMES]


def test_a_mistake_while_measuring_leaves_the_call_as_it_is(
    prefer: Callable[[str], list[list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    prefer(NAMES[0])
    monkeypatch.setattr(variants, "_in_channels_last", lambda *_: 1 / 0)
    fast = striate.accelerate(nn.Sequential(conv(3, 8), nn.ReLU()), quiet=True)
    for _ in range(2):
        fast(torch.randn(2, 3, 6, 6))
    with pytest.warns(UserWarning, match="variants of a graph weren't measured: ZeroDivisionError"):
        fast(torch.randn(2, 3, 6, 6))
    fast(torch.randn(2, 3, 6, 6))


def test_batches_of_like_sizes_are_measured_once(prefer: Callable[[str], list[list[str]]]) -> None:
    asked = prefer("PyTorch's functions")
    fast = striate.accelerate(MODELS["classifier"]().train(), quiet=True)
    for count in (4, 4, 4, 3, 4, 3, 5, 6, 7, 8):
        fast(torch.randn(count, 3, 12, 12)).sum().backward()
    assert len(asked) == 1
    for _ in range(3):
        fast(torch.randn(12, 3, 12, 12)).sum().backward()
    assert len(asked) == 1  # 8 and 12 are alike, and what is known of 8 was measured for 4
    for _ in range(3):
        fast(torch.randn(40, 3, 12, 12)).sum().backward()
    assert len(asked) == 2


@pytest.mark.usefixtures("measuring")
def test_blocks_are_measured_when_their_operations_have_been(
    prefer: Callable[[str], list[list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = prefer("blocks")
    monkeypatch.setattr(tuning, "_ALLOWANCE", 0.0)
    monkeypatch.setattr(tuning, "_SHARE", 0.0)
    fast = striate.accelerate(MODELS["classifier"]().train(), quiet=True)
    for _ in range(5):
        fast(torch.randn(4, 3, 12, 12)).sum().backward()
    assert tuning.put_off
    assert asked == []
    with tuning.at_once():
        for _ in range(2):
            fast(torch.randn(4, 3, 12, 12)).sum().backward()
    assert asked == [NAMES]


def test_where_nothing_may_be_measured_blocks_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "in_turns", lambda *_: pytest.fail("it was measured"))
    fast = striate.accelerate(MODELS["classifier"]().train(), quiet=True)
    for _ in range(5):
        fast(torch.randn(4, 3, 12, 12)).sum().backward()
    monkeypatch.setattr(tuning, "_enabled", True)
    with tuning.fixed():
        for _ in range(5):
            fast(torch.randn(4, 3, 12, 12)).sum().backward()
    assert choices_of(fast) == []


def test_planted_faults_show(prefer: Callable[[str], list[list[str]]], monkeypatch: pytest.MonkeyPatch) -> None:
    """A variant that computes something else is none: the results of the blocks are what it is compared with."""
    asked = prefer(NAMES[2])
    wrong = Compiled.__init__

    def init(self: Compiled, *args: Any, **named: Any) -> None:
        wrong(self, *args, **named)
        if self.variants is not None:
            graphs: dict[str, Any] = self.variants._graphs
            graph = graphs["PyTorch's functions"]
            doubled = SimpleNamespace(graph=graph.graph, forward=lambda *given: [2 * y for y in graph.forward(*given)])
            graphs["PyTorch's functions"] = doubled

    monkeypatch.setattr(Compiled, "__init__", init)
    fast = striate.accelerate(nn.Sequential(conv(3, 8), nn.ReLU()), quiet=True)
    for _ in range(4):
        fast(torch.randn(2, 3, 6, 6))
    assert asked == [["blocks", "PyTorch's functions", "blocks, channels last"]]


def test_every_known_name_is_one() -> None:
    """A name that PyTorch doesn't have is a slip of the pen."""
    rooms = (F, torch, Tensor, ops)
    assert [name for name in variants._OF_BOTH if not any(hasattr(room, name) for room in rooms)] == []
    assert [name for name in variants._METHODS if not any(hasattr(room, name) for room in rooms)] == []


def test_memory_tells_of_views_that_no_list_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variants, "_VIEWS", frozenset())
    graphs: list[torch.fx.GraphModule] = []

    def kept(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    def writes(x: Tensor) -> Tensor:
        same = F.alpha_dropout(x, 0.2, training=False)
        same += 1
        return same

    def writes_to_its_own(x: Tensor) -> Tensor:
        made = x * 2
        made += 1
        return made

    for function in (writes, writes_to_its_own):
        torch.compile(function, backend=kept)(torch.zeros(2, 3))
    assert [variants.computes_only(graph) for graph in graphs] == [False, True]


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()


@pytest.mark.usefixtures("planning")
def test_the_first_call_in_inference_chooses_no_kernel() -> None:
    model = striate.accelerate(small(), quiet=True)
    x = torch.randn(2, 3, 9, 11)
    choice.forget()
    with torch.no_grad():
        model(x)
        assert engine.choices() == ()
        model(x)
        assert engine.choices() != ()


@pytest.mark.usefixtures("measuring")
@pytest.mark.parametrize(("plan", "measured"), [(0.5, False), (0.9, True), (2.0, True)])
def test_blocks_are_measured_where_a_plan_is_not_clearly_faster(
    plan: float, measured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_turns(candidates: dict[str, Callable[[], object]], *_: float) -> dict[str, float]:
        for run in candidates.values():
            run()
        plans = [name for name in candidates if "thread" in name]
        return {name: plan if name in plans else 1.0 for name in candidates}

    settled = []
    real = variants.Variants.settle
    monkeypatch.setattr(tuning, "in_turns", in_turns)
    monkeypatch.setattr(variants.Variants, "settle", lambda self, given: settled.append(1) or real(self, given))
    model = striate.accelerate(small(), quiet=True)
    x = torch.randn(2, 3, 9, 11)
    with torch.no_grad():
        for _ in range(2):
            model(x)
        told = str(plan_of(model, x))
    assert bool(settled) == measured
    assert ("the plan isn't faster" in told) == (plan > 1)
