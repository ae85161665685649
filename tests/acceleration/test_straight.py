"""A remembered graph call returns the results that Dynamo's code returns."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_unchanged import taken, warmed
from torch import Tensor, nn

from striate.acceleration.model import accelerated
from striate.engine.llvm.codegen.isa import host

pytestmark = pytest.mark.skipif(host() is None, reason="there are no kernels for this machine")

Pair = namedtuple("Pair", "one other")

#: What a model makes of a layer's result and its input.
RESULTS: dict[str, tuple[Callable[[Tensor, Tensor], Any], bool]] = {
    "tensor": (lambda y, x: y, True),
    "tuple": (lambda y, x: (y, y + 1), True),
    "list": (lambda y, x: [y, [y * 2]], True),
    "dictionary": (lambda y, x: {"one": y, "others": (y - 1, None)}, True),
    "twice the same": (lambda y, x: (y, y), True),
    "the input": (lambda y, x: (x, y), True),
    "numbers and names": (lambda y, x: (y, 1, 2.5, "name", True, None), True),
    "size": (lambda y, x: (y, x.shape[0]), True),
    "other order": (lambda y, x: {"b": y, "a": x}, True),
    "named tuple": (lambda y, x: Pair(y, x), False),
    "size object": (lambda y, x: (y, x.size()), False),
}


class Making(nn.Module):
    def __init__(self, make: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.make = nn.Linear(4, 4), make

    def forward(self, x: Tensor) -> Any:
        return self.make(self.layer(x), x)


def same(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, Tensor):
        torch.testing.assert_close(one, other)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            same(one[key], other[key])
    elif isinstance(one, (tuple, list)):
        assert len(one) == len(other)
        for some, others in zip(one, other, strict=True):
            same(some, others)
    else:
        assert one == other


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("name", RESULTS)
def test_results_of_all_kinds(name: str, grad: bool) -> None:
    make, straight = RESULTS[name]
    x, model = torch.randn(2, 4), Making(make)
    with torch.set_grad_enabled(grad):
        warmed(model, x)
        known = accelerated(model)._shortcuts._known.values()
        assert [each is not None for _, each in known] == [True] if straight else not any(each for _, each in known)
        for given in (x, torch.randn(2, 4)):
            result = model(given)
            same(result, model._call_impl(given))
            if name == "the input":
                assert result[0] is given
            if name == "twice the same":
                assert result[0] is result[1]
        if name == "list":
            result.append(1)
            assert len(model(x)) == 2


def test_inputs_in_any_order_and_place() -> None:
    class Several(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor, more: dict[str, list[Tensor]], *, last: Tensor) -> Tensor:
            return self.layer(more["b"][0]) + 2 * last - x * more["b"][1]

    def given() -> tuple[Tensor, dict[str, list[Tensor]], Tensor]:
        return torch.randn(2, 4), {"b": [torch.randn(2, 4), torch.randn(2, 4)]}, torch.randn(2, 4)

    model, (x, more, last) = Several(), given()
    warmed(model, x, more, last=last)
    assert taken(model, x, more, last=last)
    for _ in range(2):
        x, more, last = given()
        torch.testing.assert_close(model(x, more, last=last), model._call_impl(x, more, last=last))


def test_what_the_code_does_besides_is_done() -> None:
    class Keeping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.kept = nn.Linear(4, 4), {"last": None}

        def forward(self, x: Tensor) -> Tensor:
            y = self.layer(x)
            self.kept["last"] = y
            return y + 1

    model = Keeping()
    warmed(model, torch.randn(2, 4))
    for _ in range(3):
        x = torch.randn(2, 4)
        y = model(x)
        torch.testing.assert_close(y, model.kept["last"] + 1)
        torch.testing.assert_close(y, model.layer(x) + 1)


def test_gradients_reach_inputs_and_parameters() -> None:
    x, model = torch.randn(2, 4, requires_grad=True), Making(lambda y, x: (y * x).sum())
    warmed(model, x)
    assert taken(model, x)
    found = torch.autograd.grad(model(x), [x, *model.parameters()])
    expected = torch.autograd.grad(model._call_impl(x), [x, *model.parameters()])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_who_resets_the_compiler_has_it_forgotten() -> None:
    x, model = torch.randn(2, 4), Making(lambda y, x: y)
    warmed(model, x)
    assert taken(model, x)
    torch._dynamo.reset()
    assert not taken(model, x)
    assert not accelerated(model).graphs
    torch.testing.assert_close(model(x), model._call_impl(x))
