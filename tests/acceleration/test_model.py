"""A model made faster stays the model it was."""

from __future__ import annotations

import copy
import gc
import inspect
import io
import pickle
import threading
import warnings
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import striate
from cases import slow_but
from striate import engine, nn, ops
from striate.acceleration import blocks_of, plan_of, restore
from striate.acceleration.blocks.calls import FUNCTIONS
from striate.acceleration.model import Accelerated
from striate.engine import Pass, tuning
from striate.engine.backends import forget
from striate.engine.llvm.backend import LlvmBackend
from striate.errors import OperandError
from striate.geometry import ConvShape
from striate.ops import _dispatch


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
    assert type(model.first) is torch.nn.Conv2d
    assert type(model.head[0]) is torch.nn.AdaptiveAvgPool2d
    assert type(model.norm) is torch.nn.BatchNorm2d
    before = model._compiled_call_impl
    striate.accelerate(model)
    assert model._compiled_call_impl is before
    striate.accelerate(model, plans=False)
    assert model._compiled_call_impl is not before


def test_layers_and_functions_are_taken_over(asked: list[str]) -> None:
    model = striate.accelerate(Functional())
    with engine.use("aten"):  # or the rule would leave calls as small as these to PyTorch
        model(torch.randn(1, 1, 20, 20))
    assert asked == ["conv2d", "conv2d", "conv2d", "max_pool2d", "conv2d"]


def test_copies_and_pickles_are_plain_and_independent(asked: list[str]) -> None:
    model = striate.accelerate(Functional())
    x = torch.randn(4, 1, 20, 20)
    expected = model.eval()(x)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(file, weights_only=False)):
        asked.clear()
        torch.testing.assert_close(again(x), expected)
        assert asked == []
        striate.accelerate(again, quiet=True)
        torch.nn.init.zeros_(again.kernel)
        assert not torch.equal(again(x), expected)
        assert asked != []
    torch.testing.assert_close(model(x), expected)


def test_copies_compute_with_their_own_layers() -> None:
    model = striate.accelerate(Functional().eval(), quiet=True)
    x = torch.randn(2, 1, 20, 20)
    expected = model(x)
    for other in (copy.copy(model), model._replicate_for_data_parallel()):
        other._modules = other._modules | {"first": torch.nn.Conv2d(1, 8, 3, padding=1)}
        other.kernel = model.kernel
        assert not torch.equal(other(x), expected)
    torch.testing.assert_close(model(x), expected)


class WithOwnState(torch.nn.Module):
    """Copies its dictionary by itself, compiled call and all."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)

    def __getstate__(self) -> dict[str, object]:
        return dict(self.__dict__)


def test_a_model_with_a_way_of_its_own_to_be_copied() -> None:
    model, x = striate.accelerate(WithOwnState(), quiet=True), torch.randn(4, 3)
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.nn.init.zeros_(again.layer.weight)
        torch.testing.assert_close(again(x), again.layer.bias.expand(4, 2))
    assert not torch.equal(model(x), model.layer.bias.expand(4, 2))


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

    mine = CALLS[kind](FUNCTIONS[function], x)
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
@pytest.mark.parametrize("name", slow_but(WIDER, ["indices", "average by four", "average row"]))
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
    monkeypatch.setattr(_dispatch, "gain", lambda *_: saved)
    fast = striate.accelerate(torch.nn.Conv2d(2, 5, 3))
    x = torch.randn(2, 2, 11, 11, requires_grad=True)
    fast(x)
    assert fast(x).grad_fn.name() == node


@pytest.mark.usefixtures("measuring")
def test_gains_are_measured_times(monkeypatch: pytest.MonkeyPatch) -> None:
    shape, x = ConvShape.parse("conv2d 2x2x9x9 3x2x3x3"), torch.randn(2, 2, 9, 9)
    forget()
    assert engine.gain(shape, (Pass.OUTPUT,), x, False) is None
    monkeypatch.setattr(tuning, "in_turns", lambda runs, *_: {"aten": 5e-3, "llvm": 2e-3})
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


def test_lazy_layers() -> None:
    model = striate.accelerate(torch.nn.Sequential(torch.nn.LazyConv2d(4, 3), torch.nn.ReLU()), quiet=True)
    x = torch.randn(2, 3, 8, 8)
    found = model(x)
    torch.testing.assert_close(found, restore(model)(x))


def test_hooks_and_errors_go_through() -> None:
    model = striate.accelerate(Functional())
    seen = []
    model.first.register_forward_hook(lambda *_: seen.append("hook"))
    model(torch.randn(2, 1, 20, 20))
    assert seen == ["hook"]
    with pytest.raises(RuntimeError, match="channels"):
        model(torch.randn(2, 3, 20, 20))
    assert torch.overrides._get_current_function_mode_stack() == []


@pytest.mark.slow
def test_compiling_and_exporting_go_on() -> None:
    model = striate.accelerate(Functional().eval())
    x = torch.randn(2, 1, 20, 20)
    exported = torch.export.export(model, (x,)).module()
    torch.testing.assert_close(exported(x), model(x))
    compiled = torch.compile(model, backend="aot_eager")
    torch.testing.assert_close(compiled(x), model(x))


def test_calls_look_for_other_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    monkeypatch.setattr("striate.acceleration.model.look", lambda: looks.append(1))
    model, x = striate.accelerate(torch.nn.Conv2d(3, 4, 3), quiet=True), torch.randn(2, 3, 8, 8)
    for _ in range(10):  # by guards at first, then past them
        model(x)
    assert len(looks) == 9  # the first call captures


def test_another_compiler_never_captures_what_is_around_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.shape[0]:
                raise ValueError("on purpose")
            return x

    class Broken(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            torch._dynamo.graph_break()
            return self.conv(x) + 1

    x = torch.randn(2, 3, 8, 8)
    # After an exception Dynamo no longer captures the call itself, but only the functions that the call uses.
    with pytest.raises(ValueError, match="on purpose"):
        torch.compile(striate.accelerate(Failing(), quiet=True), backend="eager")(x)
    model = striate.accelerate(Broken(), quiet=True)
    monkeypatch.setattr(Accelerated, "_compiled", lambda _: pytest.fail("captured once more"))
    torch.testing.assert_close(torch.compile(model, backend="eager")(x), model._call_impl(x))


def test_it_is_exported_as_it_is_written() -> None:
    class Named(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 4, 3)

        def forward(self, image: Tensor, *, scale: float = 1.0) -> Tensor:
            return torch.relu(self.conv(image)).mean((2, 3)) * scale

    model, x = striate.accelerate(Named().eval(), quiet=True), torch.randn(2, 3, 8, 8)
    assert list(inspect.signature(model.forward).parameters) == ["image", "scale"]
    with torch.no_grad():
        expected = [model(x) for _ in range(3)][-1]
    batch = torch.export.Dim("batch")
    for shapes in ({"image": {0: batch}}, ({0: batch},)):
        exported = torch.export.export(model, (x,), dynamic_shapes=shapes)
        assert exported.graph_signature.user_inputs == ("image",)
        torch.testing.assert_close(exported.module()(x), expected)
        assert exported.module()(torch.randn(5, 3, 8, 8)).shape == (5, 4)


def test_no_module() -> None:
    with pytest.raises(OperandError, match=r"^accelerate: got function; needed a torch.nn.Module"):
        striate.accelerate(lambda x: x)


def test_it_tells_what_it_did_and_takes_it_back(capsys: pytest.CaptureFixture[str]) -> None:
    class Mine(torch.nn.Conv2d):
        pass

    model = Functional()
    model.other = torch.nn.Sequential(Mine(1, 1, 1), torch.nn.Conv3d(1, 1, 1), nn.Conv2d(1, 1, 1), nn.LPPool2d(2, 2))
    before = [set(vars(module)) for module in model.modules()]
    striate.accelerate(model)
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == (
        "accelerate: 3 Conv2d, 1 BatchNorm2d, 1 Mine; left to PyTorch: 1 Conv3d (no kernels for three dimensions), "
        "1 LPPool2d (no kernels for its windows)\n"
    )
    striate.accelerate(torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1)), quiet=True)
    assert capsys.readouterr().err == ""
    assert restore(model) is model
    assert [set(vars(module)) for module in model.modules()] == before
    assert "_compiled_call_impl" in vars(striate.accelerate(model))


def test_a_scripted_model_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.jit.script(torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1)))
    assert striate.accelerate(model) is model
    assert capsys.readouterr().err == "accelerate: nothing, since it is scripted\n"


@pytest.mark.parametrize("change", [torch.nn.utils.parametrizations.weight_norm, lambda layer: layer.double()])
def test_what_was_done_meanwhile_stays(change) -> None:
    model = striate.accelerate(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)), quiet=True)
    change(model[0])
    x = torch.randn(1, 3, 8, 8, dtype=model[0].weight.dtype)
    torch.testing.assert_close(model(x), restore(model)(x))


def test_blocks_and_plans_can_be_switched_off(asked: list[str]) -> None:
    x = torch.randn(2, 1, 20, 20)
    model = striate.accelerate(Functional().eval(), blocks=False, plans=False, quiet=True)
    with torch.no_grad():
        expected = model(x)
    assert asked == []
    assert blocks_of(model) == {}
    assert "switched off" in plan_of(model, x)
    with torch.no_grad():
        torch.testing.assert_close(striate.accelerate(model, plans=False, quiet=True)(x), expected)
    assert asked != []
    assert blocks_of(model) != {}
    with pytest.raises(OperandError, match="the model isn't accelerated"):
        plan_of(restore(model), x)


def test_dynamo_is_strict_for_as_long_as_a_call_takes() -> None:
    import torch._dynamo.config as config

    kept = config.skip_nnmodule_hook_guards, config.recompile_limit
    arrived, seen = threading.Barrier(2), []

    class Meeting(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            torch.compiler.disable(lambda: (arrived.wait(30), seen.append(config.skip_nnmodule_hook_guards)))()
            return x + 1

    models = [striate.accelerate(Meeting(), quiet=True) for _ in range(2)]
    workers = [threading.Thread(target=each, args=(torch.ones(2),)) for each in models]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(seen) == 2
    assert False in seen  # a model that is called while another one is traced may run as it is
    assert (config.skip_nnmodule_hook_guards, config.recompile_limit) == kept


def test_a_model_is_freed() -> None:
    model = striate.accelerate(Functional(), quiet=True)
    model(torch.randn(2, 1, 20, 20)).sum().backward()
    held = weakref.ref(model)
    del model
    gc.collect()
    assert held() is None


def test_what_somebody_else_compiled_or_accelerated_inside() -> None:
    inner = striate.accelerate(Functional(), quiet=True)
    model = striate.accelerate(torch.nn.Sequential(inner, torch.nn.Tanh()), quiet=True)
    x = torch.randn(2, 1, 20, 20)
    plain = copy.deepcopy(model).eval()
    torch.testing.assert_close(model.eval()(x), plain(x))
    torch.testing.assert_close(torch.nn.Sequential(model, torch.nn.Tanh())(x), plain(x).tanh())


class Lists(torch.nn.Module):
    """Bookkeeping around a convolution: as many images as there are, of any sizes."""

    dense = ("inner",)

    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2))

    def forward(self, images: list[Tensor]) -> list[Tensor]:
        return [self.inner(image[None])[0] for image in images]


def test_a_model_may_name_where_it_computes() -> None:
    model, images = Lists(), [torch.randn(1, 8, 8), torch.randn(1, 9, 7)]
    expected = model(images)
    assert striate.accelerate(model, quiet=True) is model
    assert model._compiled_call_impl is None
    assert model.inner._compiled_call_impl is not None
    for _ in range(2):
        torch.testing.assert_close(model(images), expected)
    assert blocks_of(model) == {"": "0 + 1 + 2"}
    assert plan_of(model, images)
    assert restore(model).inner._compiled_call_impl is None
