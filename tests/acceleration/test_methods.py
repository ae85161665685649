"""Methods of classes that leave a model and come back to it, changed meanwhile."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import striate
from striate.acceleration.guards.methods import Methods


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(2, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.convolution(x)
        return result


class Model(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.block(x)
        return result


def _own_class() -> type[Block]:
    """A class with a ``forward`` of its own, which a test may replace."""

    class Own(Block):
        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.convolution(x)
            return result

    return Own


def _class_changed(kind: type[Block], old: Block) -> Block:
    kind.forward = lambda self, x: x + 1  # type: ignore[method-assign]
    return kind()


def _class_changed_old_block(kind: type[Block], old: Block) -> Block:
    kind.forward = lambda self, x: x + 1  # type: ignore[method-assign]
    return old


def _object_changed(kind: type[Block], old: Block) -> Block:
    old.forward = lambda x: x + 1  # type: ignore[method-assign]
    return old


@pytest.mark.parametrize("change", [_class_changed, _class_changed_old_block, _object_changed])
def test_a_block_that_comes_back(change: Callable[[type[Block], Block], Block]) -> None:
    kind = _own_class()
    old = kind()
    model = striate.accelerate(Model(old).eval(), quiet=True)
    x = torch.ones(1, 2, 3, 3)
    with torch.no_grad():
        model(x)
        model.block = nn.ReLU()
        assert torch.equal(model(x), x)
        back = change(kind, old)
        assert torch.equal(model(x), x)
        model.block = back
        model.eval()
        assert torch.equal(model(x), x + 1)


def test_what_left_is_watched_but_not_kept() -> None:
    model = Model(Block())
    before, kept = Methods(model), model.block
    old = weakref.ref(kept)
    model.block = nn.ReLU()
    after = Methods(model, before)
    assert after.same()
    kept.forward = torch.relu
    assert not after.same()
    del kept.forward
    assert after.same()
    del kept, before
    gc.collect()
    assert old() is None
    assert after.same()
