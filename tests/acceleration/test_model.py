"""A model made faster stays the model it was."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import striate
from striate import engine, nn, ops
from striate.acceleration import layers, restore
from striate.acceleration.calls import FUNCTIONS
from striate.acceleration.forward import Redirect
from striate.acceleration.layers import LAYERS
from striate.engine import Pass, tuning
from striate.engine.backends import forget
from striate.engine.llvm.backend import LlvmBackend
from striate.errors import OperandError
from striate.geometry import ConvShape
from striate.ops import _left


class Functional(torch.nn.Module):
    """As most people write one: some layers, some functions, one layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(1, 8, 3, padding=1)
        self.again = torch.nn.Conv2d(8, 8, 3, padding="same", padding_mode="reflect")
        self.norm = torch.nn.BatchNorm2d(8)
        self.kernel = torch.nn.Parameter(torch.randn(4, 8, 3, 3) / 8)
        self.head = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.first(x)))
        x = F.max_pool2d(self.again(self.again(x)), 2)
        x = F.relu(F.conv2d(x, self.kernel, stride=2), inplace=True)
        return self.head(x)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of striate's functions that are called."""
    names: list[str] = []
    for theirs, mine in list(FUNCTIONS.items()):
        monkeypatch.setitem(FUNCTIONS, theirs, lambda *a, mine=mine, **k: names.append(mine.__name__) or mine(*a, **k))
    return names


def test_same_results_same_parameters_same_gradients() -> None:
    model = Functional()
    fast = striate.accelerate(copy.deepcopy(model))
    assert list(fast.state_dict()) == list(model.state_dict())
    x = torch.randn(4, 1, 20, 20)
    torch.testing.assert_close(fast(x), model(x))
    fast(x).square().sum().backward()
    model(x).square().sum().backward()
    for mine, theirs in zip(fast.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-4)
    fast.load_state_dict(model.state_dict())
    torch.testing.assert_close(fast.eval()(x), model.eval()(x))


def test_it_is_the_same_object_and_layers_are_still_what_they_were() -> None:
    model = Functional()
    first, weight = model.first, model.first.weight
    assert striate.accelerate(model) is model
    assert model.first is first
    assert model.first.weight is weight
    assert isinstance(model.first, nn.Conv2d)
    assert isinstance(model.first, torch.nn.Conv2d)
    assert type(model.head[0]) is torch.nn.AdaptiveAvgPool2d
    assert type(model.norm) is torch.nn.BatchNorm2d
    before = model.forward
    striate.accelerate(model)
    assert model.forward is before


def test_functions_are_taken_over_in_modules_that_call_them(asked: list[str]) -> None:
    model = striate.accelerate(Functional())
    with engine.use("aten"):  # or the rule would leave calls as small as these to PyTorch
        model(torch.randn(1, 1, 20, 20))
    assert asked == ["conv2d", "max_pool2d", "conv2d"]  # the first for a layer in a row with its norm


def test_copies_and_pickles_are_fast_and_independent(asked: list[str]) -> None:
    model = striate.accelerate(Functional())
    x = torch.randn(4, 1, 20, 20)
    expected = model.eval()(x)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(file, weights_only=False)):
        asked.clear()
        torch.testing.assert_close(again(x), expected)
        assert asked == ["max_pool2d", "conv2d"]
        torch.nn.init.zeros_(again.kernel)
        assert not torch.equal(again(x), expected)
    torch.testing.assert_close(model(x), expected)


CALLS = {
    "conv": lambda f, x: f(x, torch.ones(2, 2, *[2] * (x.dim() - 2)), stride=2),
    "conv_transpose": lambda f, x: f(x, torch.ones(2, 3, *[2] * (x.dim() - 2)), None, 2, 1),
    "max_pool": lambda f, x: f(x, 3, 2, 1),
    "avg_pool": lambda f, x: f(x, 2, ceil_mode=True),
}


@pytest.mark.parametrize("room", [torch, F], ids=["torch", "F"])
@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("kind", CALLS)
def test_every_function_agrees_with_the_one_it_stands_for(room, dims: int, kind: str, asked: list[str]) -> None:
    name = f"{kind}{dims}d"
    if getattr(room, name, None) not in FUNCTIONS:
        assert room is torch
        return
    function, x = getattr(room, name), torch.randn(2, 2, *[7] * dims)

    with Redirect():
        mine = CALLS[kind](function, x)
    torch.testing.assert_close(mine, CALLS[kind](function, x))
    assert asked == [name]


WIDER = {
    "same with a stride": lambda: nn.Conv2d(2, 3, 4, 2, "same"),
    "uneven": lambda: nn.Conv2d(2, 3, 3, padding=((0, 1), (2, 0))),
    "transposed": lambda: nn.ConvTranspose2d(2, 3, 3, 2, ((0, 1), (1, 1))),
    "transposed, plain": lambda: nn.ConvTranspose2d(2, 3, 3, 2, 1, 1),
    "transposed row": lambda: nn.ConvTranspose1d(2, 3, 3, 2, 1, 1),
    "row": lambda: nn.Conv1d(2, 3, 3, padding="same"),
    "reflected": lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"),
    "much padding": lambda: nn.MaxPool2d(3, 2, ((0, 2), (2, 1))),
    "indices": lambda: nn.MaxPool2d(2, return_indices=True),
    "ceil": lambda: nn.MaxPool1d(2, 3, ceil_mode=True),
    "dilated average": lambda: nn.AvgPool2d(2, 1, dilation=2),
    "average by four": lambda: nn.AvgPool2d(3, 2, 1, divisor_override=4),
    "average row": lambda: nn.AvgPool1d(3, 2, 1, count_include_pad=False),
}


@pytest.mark.parametrize("backend", ["aten", "llvm"])
@pytest.mark.parametrize("name", WIDER)
def test_what_is_left_to_pytorch_and_what_is_not_agree(
    name: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first call chooses, the second one sees it, the third one knows; also where PyTorch can't pad so."""
    monkeypatch.setattr(LlvmBackend, "recommends", lambda *_: backend == "llvm")
    forget()
    layer = WIDER[name]()
    fast = striate.accelerate(copy.deepcopy(layer))
    for _ in range(3):
        x = torch.randn(2, 2, *[9] * (1 if "row" in name or name == "ceil" else 2), requires_grad=True)
        mine, theirs = fast(x), layer(x)
        if name == "indices":
            assert torch.equal(mine[1], theirs[1])
            mine, theirs = mine[0], theirs[0]
        torch.testing.assert_close(mine, theirs)
        g = torch.randn_like(theirs)
        grads = [torch.autograd.grad(y, [x, *module.parameters()], g) for y, module in ((mine, fast), (theirs, layer))]
        torch.testing.assert_close(grads[0], grads[1], rtol=1e-4, atol=1e-4)
        fast(x[0])
    forget()


@pytest.mark.parametrize(("backend", "node"), [("aten", "ConvolutionBackward0"), ("llvm", "_ContractionBackward")])
def test_a_call_that_pytorch_does_best_is_pytorchs(backend: str, node: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LlvmBackend, "recommends", lambda *_: backend == "llvm")
    forget()
    fast = striate.accelerate(torch.nn.Conv2d(2, 3, 3))
    x = torch.randn(2, 2, 9, 9, requires_grad=True)
    fast(x).sum().backward()  # chooses all three
    fast(x)  # sees what was chosen
    assert fast(x).grad_fn.name() == node
    with engine.use("reference"):
        assert fast(x).grad_fn.name() == "_ContractionBackward"
    forget()


@pytest.mark.parametrize(("saved", "node"), [(50e-6, "ConvolutionBackward0"), (400e-6, "_ContractionBackward")])
def test_small_savings_are_not_worth_a_detour(saved: float, node: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_left, "gain", lambda *_: saved)
    fast = striate.accelerate(torch.nn.Conv2d(2, 5, 3))
    x = torch.randn(2, 2, 11, 11, requires_grad=True)
    fast(x)
    assert fast(x).grad_fn.name() == node


def test_gains_are_measured_times(monkeypatch: pytest.MonkeyPatch) -> None:
    shape, x = ConvShape.parse("conv2d 2x2x9x9 3x2x3x3"), torch.randn(2, 2, 9, 9)
    forget()
    monkeypatch.setattr(tuning, "_enabled", True)
    assert engine.gain(shape, (Pass.OUTPUT,), x, False) is None
    monkeypatch.setattr(tuning, "interleaved", lambda runs, *_: {"aten": 5e-3, "llvm": 2e-3})
    ops.conv2d(x, torch.randn(3, 2, 3, 3))
    assert engine.gain(shape, (Pass.OUTPUT,), x, False) == pytest.approx(3e-3 - 0.05 * 5e-3)
    assert engine.gain(shape, (Pass.OUTPUT, Pass.WEIGHT_GRAD), x, False) is None
    monkeypatch.undo()
    forget()


def test_where_nothing_is_measured_the_first_call_is_like_all_others() -> None:
    """Backends order sums differently: a run that goes on must not compute its first step otherwise."""
    model = striate.accelerate(torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.MaxPool2d(2)))
    x = torch.randn(2, 2, 9, 9)
    forget()
    nodes = []
    for _ in range(3):
        output = model(x)
        output.sum().backward()
        before = (node.name() for node, _ in output.grad_fn.next_functions if node is not None)
        nodes.append((output.grad_fn.name(), *before))
    assert len(set(nodes)) == 1


def test_what_is_left_alone() -> None:
    class Mine(torch.nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 1

    model = torch.nn.Sequential(Mine(1, 1, 3), torch.nn.LPPool2d(3, 2), torch.nn.LazyConv2d(4, 3), torch.nn.ReLU())
    kinds = [type(module) for module in model]
    striate.accelerate(model)
    assert [type(module) for module in model] == kinds
    assert torch.nn.LPPool2d not in LAYERS


def test_hooks_and_errors_go_through() -> None:
    model = striate.accelerate(Functional())
    seen = []
    model.first.register_forward_hook(lambda *_: seen.append("hook"))
    model(torch.randn(2, 1, 20, 20))
    assert seen == ["hook"]
    with pytest.raises(ValueError, match="conv2d"):
        model(torch.randn(2, 3, 20, 20))
    assert torch.overrides._get_current_function_mode_stack() == []


def test_compiling_and_exporting_go_on() -> None:
    model = striate.accelerate(Functional().eval())
    x = torch.randn(2, 1, 20, 20)
    exported = torch.export.export(model, (x,)).module()
    torch.testing.assert_close(exported(x), model(x))
    compiled = torch.compile(model, backend="aot_eager")
    torch.testing.assert_close(compiled(x), model(x))


def test_no_module() -> None:
    with pytest.raises(OperandError, match=r"^accelerate: got function; needed a torch.nn.Module"):
        striate.accelerate(lambda x: x)


def test_it_tells_what_it_did_and_takes_it_back(capsys: pytest.CaptureFixture[str]) -> None:
    class Mine(torch.nn.Conv2d):
        pass

    model = Functional()
    model.other = torch.nn.Sequential(Mine(1, 1, 1), torch.nn.Conv3d(1, 1, 1), nn.Conv2d(1, 1, 1))
    kinds = [type(module) for module in model.modules()]
    state = list(model.state_dict())
    striate.accelerate(model)
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == (
        "accelerate: 1 functions that Functional calls, 3 modules to fuse layers in, 3 Conv2d; left as they were: "
        "1 AdaptiveAvgPool2d (no kernels for its windows), 1 Mine (a subclass may do something else), 1 Conv3d (no "
        "kernels for three dimensions)\n"
    )
    copied = pickle.loads(pickle.dumps(striate.accelerate(torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1)), quiet=True)))
    assert capsys.readouterr().err == ""
    assert [type(each) for each in restore(copied).modules()] == [torch.nn.Sequential, torch.nn.Conv2d]
    assert restore(model) is model
    assert [type(module) for module in model.modules()] == kinds
    assert not any("forward" in vars(module) for module in model.modules())
    assert list(model.state_dict()) == state
    striate.accelerate(restore(model))
    assert type(model.first) is layers.Conv2d
