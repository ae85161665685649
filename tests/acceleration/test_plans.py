"""Inference by plans: the ordinary call's numbers, and nobody notices but the clock."""

from __future__ import annotations

import collections
import copy
import gc
import os
import pickle
import threading
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import striate
from cases import slow_but
from striate import engine, models
from striate.acceleration import look_again, plan_of, restore
from striate.acceleration.plans import running
from striate.acceleration.plans.capture import Refusal, Value, captured
from striate.acceleration.plans.running import Plan
from striate.acceleration.plans.threads import ThreadChoice
from striate.engine import tuning
from striate.engine.llvm.memory.arenas import ARENAS
from striate.errors import OperandError

pytestmark = pytest.mark.usefixtures("planning")


class Block(nn.Module):
    """A body and a way around it, squeezed and excited: sums, products of channels, functions, in-place operators."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(channels, 2 * channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(2 * channels)
        self.depthwise = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels)
        self.squeeze, self.excite = nn.Conv2d(2 * channels, 3, 1), nn.Conv2d(3, 2 * channels, 1)
        self.project = nn.Conv2d(2 * channels, channels, 1)
        self.scale = nn.Parameter(torch.rand(channels, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        wide = F.silu(self.depthwise(F.relu6(self.norm(self.expand(x)), inplace=True)))
        share = torch.sigmoid(self.excite(F.relu(self.squeeze(wide.mean((2, 3), keepdim=True)))))
        made = self.project(wide * share) * self.scale
        made += x
        return F.hardswish(made)


def network() -> nn.Sequential:
    model = nn.Sequential(
        nn.Conv2d(3, 12, 3, 2, 1, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
        Block(12),
        Block(12),
        nn.AvgPool2d(2),
        nn.Conv2d(12, 7, 2, padding="same"),
        nn.GELU(),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(7 * 4 * 5, 9),
        nn.Tanh(),
        nn.Linear(9, 5),
    )
    return randomised(model)


def randomised(model: nn.Module) -> nn.Module:
    """With numbers that batch normalisation makes something of."""
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            for tensor, low in ((module.running_mean, -0.2), (module.running_var, 0.5)):
                tensor.uniform_(low, low + 1)
            with torch.no_grad():
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.3, 0.3)
    return model.eval()


def images(batch: int = 2, height: int = 32, width: int = 40) -> Tensor:
    return torch.randn(batch, 3, height, width)


def accelerated(model: nn.Module) -> nn.Module:
    return striate.accelerate(copy.deepcopy(model), quiet=True)


def planned(model: nn.Module, x: Tensor) -> nn.Module:
    """The model after its plan for inputs like x was made."""
    with torch.no_grad():
        for _ in range(3):
            model(x)
    assert uses_a_plan(model, x), plan_of(model, x)
    return model


def uses_a_plan(model: nn.Module, x: Tensor) -> bool:
    """Whether the next call goes by a plan."""
    calls = []
    real = Plan.__call__

    def spy(self: Plan, *given: Any) -> list[Any] | None:
        calls.append(real(self, *given))
        return calls[-1]

    Plan.__call__ = spy
    try:
        with torch.no_grad():
            model(x)
    finally:
        Plan.__call__ = real
    return len(calls) == 1 and calls[0] is not None


def assert_alike(mine: Tensor, theirs: Tensor) -> None:
    assert mine.shape == theirs.shape
    assert mine.stride() == theirs.stride()
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4 * theirs.abs().max().item())


@pytest.mark.parametrize("batch", slow_but([1, 3, 32], [1]))
@pytest.mark.parametrize("layout", slow_but([torch.contiguous_format, torch.channels_last], [torch.contiguous_format]))
def test_results_are_the_ordinary_ones(batch: int, layout: torch.memory_format) -> None:
    model = network()
    x = images(batch).contiguous(memory_format=layout)
    fast = planned(accelerated(model), x)
    with torch.no_grad():
        assert_alike(fast(x), model(x))
        other = torch.randn_like(x)
        first, second = fast(x), fast(other)
        assert_alike(second, model(other))
        assert_alike(first, model(x))


@pytest.mark.slow
def test_results_are_those_of_the_mode() -> None:
    model, x = network(), images()
    fast = planned(accelerated(model), x)
    with torch.inference_mode():
        assert_alike(fast(x), model(x))
        assert fast(x).is_inference()
    with torch.no_grad():
        assert not fast(x).is_inference()
        assert not fast(x.clone().requires_grad_()).requires_grad


@pytest.mark.parametrize(
    "view",
    [
        pytest.param(lambda x: x[:, :, ::2, 1::3], marks=pytest.mark.slow),
        pytest.param(lambda x: x.transpose(2, 3), marks=pytest.mark.slow),
        lambda x: x[:, :1].expand(-1, 3, -1, -1),
        lambda x: x[1:, :, 3:],
    ],
)
def test_any_strides(view: Callable[[Tensor], Tensor]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1))
    x = view(torch.randn(3, 3, 30, 24))
    fast = planned(accelerated(model.eval()), x)
    with torch.no_grad():
        theirs = model(x)
        torch.testing.assert_close(fast(x), theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "lenet5",
        "simple_cnn",
        "mobilenet_v2",
        "mobilenet_v1",
        "resnet18",
        "se_resnet18",
        "efficientnet_lite0",
    ],
)
def test_networks_of_the_zoo(name: str) -> None:
    model = randomised(models.create(name))
    size = {"lenet5": (1, 28, 28), "simple_cnn": (1, 28, 28)}.get(name, (3, 64, 64))
    x = torch.randn(1, *size)
    fast = planned(accelerated(model), x)
    with torch.no_grad():
        assert_alike(fast(x), model(x))


def test_threads_do_not_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = network(), images()
    monkeypatch.setattr(ThreadChoice, "turn", lambda self: False)
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            fast = planned(accelerated(model), x)
            with torch.no_grad():
                results += [fast(x) for _ in range(3)]
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(each, results[0]) for each in results)


class TestChanges:
    """What changes the model changes its results."""

    def check(self, model: nn.Module, fast: nn.Module, x: Tensor) -> None:
        with torch.no_grad():
            for _ in range(4):
                assert_alike(fast(x), model(x))

    def both(self) -> tuple[nn.Module, nn.Module, Tensor]:
        model, x = network(), images()
        model[5] = nn.Conv2d(12, 12, 1)  # one block will do
        return model, planned(accelerated(model), x), x

    @pytest.mark.slow
    def test_a_step_of_an_optimizer(self) -> None:
        model, fast, x = self.both()
        for each in (model, fast):
            optimizer = torch.optim.SGD(each.parameters(), lr=0.1)
            each(x).square().sum().backward()
            optimizer.step()
        self.check(model, fast, x)
        assert uses_a_plan(fast, x)

    def test_a_loaded_state(self) -> None:
        model, fast, x = self.both()
        state = {name: each * 1.5 for name, each in model.state_dict().items()}
        state["0.weight"] = torch.randn_like(state["0.weight"])
        for each in (model, fast):
            each.load_state_dict(state)
        self.check(model, fast, x)
        assert uses_a_plan(fast, x)

    def test_statistics_of_batches(self) -> None:
        model, fast, x = self.both()
        for each in (model, fast):
            each.train()
            each[0:9](x)
        model(x)
        assert not uses_a_plan(fast, x)
        model.eval()
        fast.eval()
        self.check(model, fast, x)

    @pytest.mark.parametrize(
        "write",
        [
            pytest.param(lambda tensor: tensor.data.mul_(0.5).add_(0.01), marks=pytest.mark.slow),
            pytest.param(lambda tensor: setattr(tensor, "data", tensor.data * 3), marks=pytest.mark.slow),
            lambda tensor: tensor.data.numpy().__setitem__(..., 0.3),
            lambda tensor: tensor.detach().untyped_storage().copy_(torch.ones_like(tensor).untyped_storage()),
            pytest.param(lambda tensor: tensor.data.lerp_(torch.ones_like(tensor), 0.1), marks=pytest.mark.slow),
        ],
    )
    def test_writes_that_move_no_version(self, write: Callable[[Tensor], object]) -> None:
        model, fast, x = self.both()
        for which in (0, 1, 5, -1):
            for each in (model, fast):
                write(list(each.parameters())[which])
            self.check(model, fast, x)
            assert uses_a_plan(fast, x)

    def test_tensors_made_in_inference_mode(self) -> None:
        model, fast, x = self.both()
        with torch.inference_mode():
            weight = torch.randn_like(model[0].weight)
        for each in (model, fast):
            each[0].weight = nn.Parameter(weight, requires_grad=False)
        self.check(model, fast, x)
        assert not uses_a_plan(fast, x)

    def test_a_single_number_of_a_large_tensor(self) -> None:
        model = randomised(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 40, 64), nn.ReLU()))
        fast, x = planned(accelerated(model), images()), images()
        for each in (model, fast):
            each[1].weight.detach().numpy()[33, 1000] = 40.0
        look_again()
        with torch.no_grad():
            assert_alike(fast(x), model(x))

    @pytest.mark.parametrize(
        "change",
        [
            lambda model: setattr(model[0], "weight", nn.Parameter(model[0].weight.detach() * 2)),
            lambda model: model[4].register_parameter("scale", nn.Parameter(torch.full((12, 1, 1), 2.0))),
            pytest.param(lambda model: model.__setitem__(2, nn.Identity()), marks=pytest.mark.slow),
            pytest.param(lambda model: setattr(model[4], "norm", nn.Identity()), marks=pytest.mark.slow),
            pytest.param(
                lambda model: setattr(model[3], "padding", 0) or setattr(model[3], "kernel_size", 1),
                marks=pytest.mark.slow,
            ),
            pytest.param(lambda model: setattr(model[1], "eps", 0.5), marks=pytest.mark.slow),
            pytest.param(lambda model: model.append(nn.Hardtanh(-0.1, 0.1)), marks=pytest.mark.slow),
            pytest.param(lambda model: setattr(model[8], "forward", torch.tanh), marks=pytest.mark.slow),
            pytest.param(
                lambda model: setattr(model[8], "__class__", nn.SiLU) or setattr(model[8], "inplace", False),
                marks=pytest.mark.slow,
            ),
            pytest.param(lambda model: model[4].norm.train() and None, marks=pytest.mark.slow),
        ],
    )
    def test_other_parts(self, change: Callable[[nn.Module], None]) -> None:
        model, fast, x = self.both()
        for each in (model, fast):
            change(each)
        with torch.no_grad():
            # A batch's own statistics follow from the batch.
            assert_alike(fast(x), model(x))
            assert_alike(fast(x), model(x))
            assert_alike(fast(x), model(x))

    @pytest.mark.slow
    def test_another_dtype(self) -> None:
        model, fast, x = self.both()
        with torch.no_grad():
            torch.testing.assert_close(fast.double()(x.double()), model.double()(x.double()))
            with pytest.raises(RuntimeError):
                fast(x)
        self.check(model.float(), fast.float(), x)

    def test_weights_that_are_replaced_all_the_time(self) -> None:
        model, fast, x = self.both()
        for _ in range(10):
            for each in (model, fast):
                each[0].weight = nn.Parameter(each[0].weight.detach() * 1.1)
            self.check(model, fast, x)
        assert uses_a_plan(fast, x)

    def test_hooks(self) -> None:
        model, fast, x = self.both()
        heard = []
        hook = fast[4].project.register_forward_hook(lambda module, inputs, output: heard.append(1) or output * 2)
        other = model[4].project.register_forward_hook(lambda module, inputs, output: output * 2)
        self.check(model, fast, x)
        assert len(heard) == 4
        hook.remove()
        other.remove()
        self.check(model, fast, x)
        assert uses_a_plan(fast, x)
        everywhere = nn.modules.module.register_module_forward_hook(lambda *_: heard.append(2))
        fast(x)
        everywhere.remove()
        assert 2 in heard

    def test_gradients(self) -> None:
        model, fast, x = self.both()
        mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
        fast(mine).sum().backward()
        model(theirs).sum().backward()
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=1e-4)

    @pytest.mark.slow
    def test_copies_and_the_way_back(self) -> None:
        model, fast, x = self.both()
        for made in (copy.copy(fast), copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
            assert not uses_a_plan(made, x)
            self.check(model, made, x)
        made = striate.accelerate(copy.deepcopy(fast), quiet=True)
        with torch.no_grad():
            made[0].weight.mul_(2)
            changed = copy.deepcopy(model)
            changed[0].weight.mul_(2)
        self.check(changed, made, x)
        assert uses_a_plan(made, x)
        self.check(model, fast, x)
        assert restore(fast) is fast
        assert not uses_a_plan(fast, x)
        self.check(model, fast, x)


class TestWhoLooksOn:
    """Whoever watches PyTorch's operators gets to see them."""

    def ready(self) -> tuple[nn.Module, nn.Module, Tensor]:
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()
        x = torch.randn(2, 1, 8, 8)
        return model, planned(accelerated(model), x), x

    def test_compilers_and_tracers(self) -> None:
        model, fast, x = self.ready()
        with torch.no_grad():
            theirs = model(x)
            for made in (
                torch.compile(fast, backend="aot_eager"),
                torch.export.export(fast, (x,)).module(),
                torch.jit.trace(fast, (x,), check_trace=False),
            ):
                torch.testing.assert_close(made(x), theirs)
                torch.testing.assert_close(made(-x), model(-x))

    def test_modes_transforms_and_autocast(self) -> None:
        from torch.utils.flop_counter import FlopCounterMode

        model, fast, x = self.ready()
        with torch.no_grad():
            with FlopCounterMode(display=False) as counted:
                fast(x)
            assert counted.get_total_flops() > 0
            mapped = torch.func.vmap(fast)(torch.stack([x, -x]))
            torch.testing.assert_close(mapped[1], model(-x))
            with torch.autocast("cpu", dtype=torch.bfloat16):
                assert fast(x).dtype is torch.bfloat16
            doubled = {name: 2 * each for name, each in fast.named_parameters()}
            torch.testing.assert_close(
                torch.func.functional_call(fast, doubled, (x,)), torch.func.functional_call(model, doubled, (x,))
            )
            assert uses_a_plan(fast, x)

    def test_a_fixed_backend_and_a_fixed_choice(self) -> None:
        _, fast, x = self.ready()
        with engine.use("aten"):
            assert not uses_a_plan(fast, x)
        with engine.use("llvm"):
            assert uses_a_plan(fast, x)
        with tuning.fixed():
            assert not uses_a_plan(fast, x)
        assert uses_a_plan(fast, x)

    def test_other_arguments(self) -> None:
        model, fast, x = self.ready()
        with torch.no_grad():
            torch.testing.assert_close(fast(input=x), model(x))
            torch.testing.assert_close(fast(nn.Parameter(x)), model(x))
            assert fast(x[:0]).shape == (0, 3)
            with pytest.raises(RuntimeError):
                fast(torch.randn(2, 3, 8, 8))

    def test_a_part_of_another_model(self) -> None:
        model, fast, x = self.ready()
        whole = planned(striate.accelerate(nn.Sequential(fast, nn.Hardtanh()).eval(), quiet=True), x)
        with torch.no_grad():
            torch.testing.assert_close(whole(x), model(x).clamp(-1, 1))
            assert uses_a_plan(fast, x)


def test_several_threads_at_once() -> None:
    model = network()
    fast, x = accelerated(model), images()
    inputs = [torch.randn_like(x) for _ in range(8)]
    with torch.no_grad():
        expected = [model(each) for each in inputs]
    wrong = []

    def work(mine: Tensor, theirs: Tensor) -> None:
        with torch.no_grad():
            wrong.extend(1 for _ in range(20) if not torch.allclose(fast(mine), theirs, rtol=1e-4, atol=1e-4))

    workers = [threading.Thread(target=work, args=each) for each in zip(inputs, expected, strict=True)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong
    assert uses_a_plan(fast, x)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("threads", slow_but([1, 2], [1]))
def test_in_a_forked_process(threads: int) -> None:
    model = network()
    torch.set_num_threads(threads)
    try:
        fast, x = accelerated(model), images()
        planned(fast, x)
        with torch.no_grad():
            expected = model(x)
        child = os.fork()
        if child == 0:
            with torch.no_grad():
                right = all(torch.allclose(fast(x), expected, rtol=1e-4, atol=1e-4) for _ in range(1))
            os._exit(0 if right else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        torch.set_num_threads(1)


@pytest.mark.slow
def test_many_sizes_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than are timed; they share weights and memory, which is given back with the last of them."""
    monkeypatch.setattr(running, "_TIMED", 2)
    torch.compiler.reset()
    gc.collect()
    model = randomised(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 16, 3)))
    fast = accelerated(model)
    sizes = [torch.randn(2, 1, 9 + at, 30 - at // 3) for at in range(6)]
    with torch.no_grad():
        for _ in range(3):
            for x in sizes:
                assert_alike(fast(x), model(x))
    assert all(uses_a_plan(fast, x) for x in sizes)
    found = [graph.plans for graph in fast._compiled_call_impl.graphs if graph.plans is not None]
    assert sum(len(each._verdicts) for each in found) < len(sizes)
    largest = max(entry.plan.program.numbers for each in found for entry in each._entries.values() if entry.plan)
    assert ARENAS.bytes == 4 * largest
    with torch.no_grad():
        for each in (model, fast):
            each[0].weight.mul_(2)
        for x in sizes:
            assert_alike(fast(x), model(x))
    del fast, found
    torch.compiler.reset()
    gc.collect()
    assert ARENAS.bytes == 0


def test_statistics_are_kept_once_a_call() -> None:
    """PyTorch's schema of batch normalisation doesn't say that running statistics are written."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.register_buffer("mean", torch.zeros(4))
            self.register_buffer("variance", torch.ones(4))

        def forward(self, x: Tensor) -> Tensor:
            return F.batch_norm(self.conv(x), self.mean, self.variance, training=True)

    model = Net().eval()
    fast = accelerated(model)
    with torch.no_grad():
        for _ in range(4):
            x = torch.randn(2, 3, 8, 8)
            torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(fast.mean, model.mean)
            torch.testing.assert_close(fast.variance, model.variance)


def test_several_inputs_and_outputs() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Conv2d(3, 8, 3), nn.Conv2d(2, 8, 3)

        def forward(self, x: Tensor, *, other: Tensor) -> dict[str, Any]:
            y, z = F.relu(self.one(x)), self.other(other)
            return {"sum": y + z, "one": y, "twice": (y, x), "size": x.shape[2]}

    model, x, other = Net().eval(), torch.randn(2, 3, 12, 9), torch.randn(2, 2, 12, 9)
    fast = accelerated(model)
    with torch.no_grad():
        for _ in range(4):
            found, expected = fast(x, other=other), model(x, other=other)
            assert found["size"] == 12
            assert found["twice"][1] is x
            assert found["twice"][0] is found["one"]
            assert_alike(found["sum"], expected["sum"])
            assert_alike(found["one"], expected["one"])
    assert " steps on 1 thread" in plan_of(fast, x, other=other)


def test_slower_plans_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "in_turns", lambda runs, *_: {name: 2.0 if name else 1.0 for name in runs})
    model, x = nn.Sequential(nn.Conv2d(1, 4, 3)).eval(), torch.randn(1, 1, 9, 9)
    fast = accelerated(model)
    with torch.no_grad():
        for _ in range(3):
            fast(x)
    assert not uses_a_plan(fast, x)
    assert plan_of(fast, x).startswith("no plan: the plan isn't faster: 2,000,000 us on 1 thread,")


class Permuted(nn.Module):
    def __init__(self, *order: int) -> None:
        super().__init__()
        self.order, self.convolution, self.norm = order, nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.convolution(x).permute(self.order)))


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        # Images as wide and as high as they have channels: which axis is meant is nowhere else to be seen.
        *((Permuted(0, *order), (2, 3, 6, 6)) for order in ((1, 2, 3), (2, 3, 1), (3, 2, 1), (1, 3, 2), (2, 1, 3))),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 6), nn.BatchNorm1d(6), nn.ReLU()), (2, 3, 6, 6)),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(2), nn.BatchNorm1d(4), nn.ReLU()), (2, 3, 6, 6)),
        (nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 8), nn.BatchNorm1d(8)), (4, 5)),
        (nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 8)), (4, 1)),
        (nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 8, 3)), (2, 1, 6, 6)),
        pytest.param(nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 8, (3, 1))), (2, 1, 6, 1), marks=pytest.mark.slow),
        pytest.param(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 8, 1)), (2, 3, 1, 1), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_batch_normalisation_of_whatever_axis(model: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    fast = planned(accelerated(randomised(model)), x)
    with torch.no_grad():
        assert_alike(fast(x), model(x))


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 3, 1, 2), (0, 1, 3, 2), (3, 2, 1, 0)])
@pytest.mark.parametrize(
    "normalise",
    [
        lambda x: F.batch_norm(x, torch.zeros(x.shape[1]), torch.ones(x.shape[1])),
        lambda x: F.layer_norm(x, x.shape[3:]),
        lambda x: F.layer_norm(x, x.shape[1:]),
    ],
)
def test_normalisations_are_captured_as_they_lie(normalise: Callable[[Tensor], Tensor], order: tuple[int, ...]) -> None:
    """Their results aren't asked of PyTorch while a graph is captured."""
    x = torch.randn(2, 3, 4, 5).permute(order)
    real, graph = normalise(x), captured(lambda x: (normalise(x),), (x,), [False])
    found = graph.outputs[0]
    assert (found.shape, found.stride, found.dtype) == (real.shape, real.stride(), real.dtype)
    given = [torch.ones(each.shape) if isinstance(each, Value) else each for each in found.maker.args]
    assert [each.shape for each in found.maker.results] == [each.shape for each in found.maker.function(*given)]


@pytest.mark.slow
def test_a_plan_that_cannot_be_made_fails_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise IndexError("of its own")

    monkeypatch.setattr(running, "lowered", broken)
    model, x = network(), images()
    fast = accelerated(model)
    with (
        pytest.warns(UserWarning, match="no plan, by a mistake of its own: IndexError"),
        torch.no_grad(),
    ):
        found = [fast(x) for _ in range(3)]
    for each in found:
        assert_alike(each, model(x).detach())
    assert "IndexError" in plan_of(fast, x)


class Sliced(nn.Module):
    """Two convolutions of which parts are put together."""

    def __init__(self, together: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.one, self.other, self.together = nn.Conv2d(3, 16, 3), nn.Conv2d(3, 16, 3), together

    def forward(self, x: Tensor) -> Tensor:
        return self.together(F.relu(self.one(x)), self.other(x))


@pytest.mark.parametrize("batch", slow_but([1, 2], [2]))
@pytest.mark.parametrize(
    "together",
    [
        lambda h, y: y[:, :8] + h[:, 8:],
        lambda h, y: y[:, 8:] * h[:, :8],
        lambda h, y: h[:, 8:] - h[:, :8],
        lambda h, y: h * y.mean((2, 3), keepdim=True)[:, :1],
        lambda h, y: h[:, 8:] * h.mean((2, 3), keepdim=True)[:, 8:] + y[:, 8:].mean((2, 3), keepdim=True),
        lambda h, y: torch.sigmoid(y.mean((2, 3)))[:, :8] * h.mean((2, 3))[:, 8:],
        lambda h, y: F.relu(y[:, 8:]) + 1,
        lambda h, y: (h + y).as_strided((1, 1, 5, 5), (25, 25, 5, 1)),
        lambda h, y: (h + y).as_strided((1, 16, 10, 10), (1600, 100, 1, 10)),
        lambda h, y: (h + y).view(torch.int32),
    ],
)
def test_parts_of_tensors(together: Callable[[Tensor, Tensor], Tensor], batch: int) -> None:
    model, x = Sliced(together).eval(), torch.randn(batch, 3, 12, 12)
    fast = accelerated(model)
    with torch.no_grad():
        for _ in range(4):
            found, expected = fast(x), model(x)
            assert found.dtype == expected.dtype
            found, expected = (each.view(torch.float32) for each in (found, expected))
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "name",
    [
        "lenet5",
        *(
            pytest.param(each, marks=pytest.mark.slow)
            for each in ("resnet18", "mobilenet_v2", "efficientnet_b0", "convnext_tiny")
        ),
    ],
)
def test_networks_have_plans_in_both_layouts(name: str, layout: torch.memory_format) -> None:
    model = models.create(name).eval().to(memory_format=layout)  # type: ignore[call-overload]
    x = torch.randn(1, *((1, 28, 28) if name == "lenet5" else (3, 64, 64))).contiguous(memory_format=layout)
    with torch.no_grad():
        assert not plan_of(accelerated(model), x).startswith("no plan")


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_pytorch_s_pooling_to_one_position_has_a_plan(layout: torch.memory_format) -> None:
    """In channels_last it restrides its result, which changes nothing."""
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)).eval()
    model, x = model.to(memory_format=layout), torch.randn(2, 3, 16, 16).contiguous(memory_format=layout)  # type: ignore[call-overload]
    assert not plan_of(accelerated(model), x).startswith("no plan")
    with torch.no_grad():
        torch.testing.assert_close(planned(accelerated(model), x)(x), model(x), rtol=1e-4, atol=1e-4)


def test_a_bias_of_one_number_for_all_columns() -> None:
    class Stretched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.randn(64, 64)), nn.Parameter(torch.randn(1))

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(F.linear(x, self.weight, self.bias))

    model, x = Stretched().eval(), torch.randn(3, 64)
    fast = accelerated(model)
    with torch.no_grad():
        for _ in range(4):
            torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", slow_but([torch.optim.Adam, torch.optim.SGD], [torch.optim.SGD]))
def test_fused_optimisers_are_seen(kind: Any) -> None:
    """They change weights without their version, after the call that gave the gradients."""
    model, x = (
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 5)),
        torch.randn(2, 3, 10, 10),
    )
    fast = planned(accelerated(model.eval()), x)
    optimiser = kind(fast.parameters(), 0.1, fused=True)
    for _ in range(3):
        fast(x).square().sum().backward()
        with torch.no_grad():
            fast(x)
        optimiser.step()
        optimiser.zero_grad()
        with torch.no_grad():
            torch.testing.assert_close(fast(x), restore(copy.deepcopy(fast))(x), rtol=1e-4, atol=1e-4)


class Keeps(nn.Module):
    """Keeps what it computes, wherever a model may."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.kept = nn.Conv2d(3, 8, 3), {"deep": {"list": [], "set": {1}}}
        self.last, self.told = collections.deque(maxlen=8), types.SimpleNamespace(count=0, seen=[])


@pytest.mark.parametrize(
    "keep",
    [
        pytest.param(lambda model, y: model.kept["deep"]["list"].append(y), marks=pytest.mark.slow),
        lambda model, y: model.kept["deep"]["set"].add(2),
        lambda model, y: model.kept.setdefault("new", y),
        lambda model, y: model.last.append(y),
        pytest.param(lambda model, y: setattr(model.told, "count", model.told.count + 1), marks=pytest.mark.slow),
        lambda model, y: model.told.seen.append(y),
    ],
)
def test_what_a_model_keeps_is_kept_as_before(keep: Callable[[Any, Tensor], object]) -> None:
    class Keeping(Keeps):
        def forward(self, x: Tensor) -> Tensor:
            y = F.relu(self.one(x))
            keep(self, y)
            return y

    model, x = Keeping().eval(), torch.randn(1, 3, 8, 8)
    fast = accelerated(model)
    with torch.no_grad():
        for _ in range(5):
            fast(x), model(x)
    assert all(type(tensor) is Tensor for tensor in [*fast.last, *fast.told.seen, *fast.kept["deep"]["list"]])
    assert len(fast.last) == len(model.last)
    assert len(fast.kept["deep"]["list"]) == len(model.kept["deep"]["list"])
    assert fast.kept.keys() == model.kept.keys()
    assert fast.kept["deep"]["set"] == model.kept["deep"]["set"]
    assert (fast.told.count, len(fast.told.seen)) == (model.told.count, len(model.told.seen))


def test_changed_classes_are_seen() -> None:
    class Leaky(nn.Module):
        slope = 0.1

        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Conv2d(3, 8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return F.leaky_relu(self.one(x), self.slope)

    model, x = Leaky().eval(), torch.randn(1, 3, 8, 8)
    fast = planned(accelerated(model), x)
    Leaky.slope = 0.9
    with torch.no_grad():
        torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-4)
        planned(fast, x)
        Leaky.forward = lambda self, x: torch.tanh(self.one(x))
        torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("channels", slow_but([1, 5, 8, 19, 32], [5, 32]))
def test_layer_normalisation(channels: int) -> None:
    """Of channels of images and of rows, with and without weights, at any number of them."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm = nn.Conv2d(2, channels, 3), nn.LayerNorm(channels, 1e-3)
            self.plain = nn.LayerNorm(9, 0.1, elementwise_affine=False)

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(self.first(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            return self.plain(F.gelu(x))

    model, x = Net().eval(), torch.randn(3, 2, 7, 11) * 4 + 2
    with torch.no_grad():
        nn.init.normal_(model.norm.weight)
        nn.init.normal_(model.norm.bias)
    fast = planned(accelerated(model), x)
    assert plan_of(fast, x).count("layer norm") == 2
    for _ in range(2):
        with torch.no_grad():
            torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-4)
            for each in (model, fast):
                each.norm.bias += 1


def test_convolutions_with_fewer_multiplications() -> None:
    """Folded normalisation, a shortcut and an activation after them, odd sizes, weights that change."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(16, 32, 3, padding=1)
            self.second, self.norm = nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.first(x))
            return F.relu(self.norm(self.second(x)) + x)

    model, x = randomised(Net()).eval(), torch.randn(2, 16, 21, 18)
    fast = planned(accelerated(model), x)
    assert plan_of(fast, x).count("Winograd") == 2
    for _ in range(2):
        with torch.no_grad():
            torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-4)
            for each in (model, fast):
                each.second.weight *= -1.5


def test_plans_that_would_keep_much_memory_are_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3)).eval(), torch.randn(1, 1, 200, 200)
    fast = accelerated(model)
    monkeypatch.setattr(ARENAS, "most", 1 << 19)
    with torch.no_grad():
        for _ in range(3):
            torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-4)
    assert not uses_a_plan(fast, x)
    assert "MiB of memory" in plan_of(fast, x)


@pytest.mark.parametrize(("shared", "taken"), [(0.95, 1), (0.5, 2)])
def test_several_threads_have_to_be_worth_it(shared: float, taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    times = {"": 9.0, "1 thread": 1.0, "2 threads": shared}
    monkeypatch.setattr(tuning, "in_turns", lambda runs, *_: {name: times.get(name, 1.0) for name in runs})
    monkeypatch.setattr(running, "_ALONE", float("inf"))
    torch.set_num_threads(2)
    try:
        model, x = nn.Sequential(nn.Conv2d(16, 64, 3), nn.ReLU()).eval(), torch.randn(4, 16, 20, 20)
        told = plan_of(planned(accelerated(model), x), x)
        assert told.splitlines()[0].split(" on ")[1].startswith(f"{taken} thread")
    finally:
        torch.set_num_threads(1)


def test_a_plan_can_be_read() -> None:
    model, x = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AvgPool2d(2)).eval(), torch.randn(1, 1, 10, 10)
    fast = accelerated(model)
    assert plan_of(fast, x).startswith(
        "not taken yet (it is used when such an input has occurred twice and its kernels are compiled): 3 steps"
    )
    told = plan_of(planned(fast, x), x)
    assert told.splitlines()[1:] == [
        "  nhwc_output, 4 shares on 1 thread: sum of 1x1x10x10 times 2x1x3x3, clamp(0, inf)",
        "  nhwc_average, 4 shares on 1 thread: avg_pool2d 1x2x8x8 kernel=2 stride=2",
        "  copy, 2 shares on 1 thread: copy of 1x2x4x4 from (2, 1, 8, 2) to (32, 16, 4, 1)",
    ]
    fast[0].register_forward_hook(lambda *_: None)
    with pytest.raises(OperandError, match="isn't accelerated"):
        plan_of(model, x)


#: Convolution and pooling by what they are given, and whether a plan computes both at once.
POOLED = {
    "few filters of one channel": (nn.Conv2d(1, 3, 5, padding=2), nn.MaxPool2d(2), True),
    "more filters than a tile": (nn.Conv2d(1, 7, 3, stride=2), nn.MaxPool2d(2), True),
    "windows of three": (nn.Conv2d(1, 2, 3, dilation=2), nn.MaxPool2d((3, 1)), True),
    "many filters of one channel": (nn.Conv2d(1, 40, 3), nn.MaxPool2d(2), False),
    "few filters of several channels": (nn.Conv2d(2, 3, 3), nn.MaxPool2d(2), False),
    "windows that overlap": (nn.Conv2d(1, 3, 3), nn.MaxPool2d(3, 2), False),
    "Winograd's": (nn.Conv2d(32, 64, 3, padding=1), nn.MaxPool2d(2), True),
    "Winograd's, windows that overlap": (nn.Conv2d(32, 64, 3), nn.MaxPool2d(3, 2), False),
}
QUICK = ["few filters of one channel", "windows that overlap"]


@pytest.mark.parametrize(
    ("name", "threads"),
    [
        pytest.param(name, threads, marks=[] if name in QUICK and (threads == 1 or both) else pytest.mark.slow)
        for name, (*_, both) in POOLED.items()
        for threads in (1, 2)
    ],
)
def test_pooling_before_anything_is_written(name: str, threads: int) -> None:
    conv, pool, both = copy.deepcopy(POOLED[name])
    model = randomised(nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU(), pool, nn.Tanh()))
    torch.set_num_threads(threads)
    try:
        for size in ((30, 41), (27, 36)):
            x = torch.randn(3, conv.in_channels, *size)
            fast = planned(accelerated(model), x)
            steps = [line for line in plan_of(fast, x).splitlines()[1:] if "conv" in line or "sum of" in line]
            assert len(steps) == 1
            assert ("max_pool2d" in steps[0]) == both
            with torch.no_grad():
                torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-4)
                x[0, 0, 5, 5] = float("nan")
                assert torch.equal(fast(x).isnan().flatten(1).any(1), torch.tensor([True, False, False]))
                # Weights that have changed are packed anew.
                x[0, 0, 5, 5] = 0
                for each in (model, fast):
                    each[0].weight.mul_(2)
                    each[1].running_mean.add_(0.1)
                torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-4)
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("between", "both"),
    [
        ([], True),
        ([nn.LeakyReLU(0.1)], True),
        ([nn.Sigmoid()], True),
        ([nn.Hardsigmoid()], True),
        ([nn.ReLU6()], True),
        ([nn.LeakyReLU(-0.5)], False),
        pytest.param([nn.SiLU()], False, marks=pytest.mark.slow),
        pytest.param([nn.GELU()], False, marks=pytest.mark.slow),
        ([nn.ReLU(), nn.Tanh()], False),
    ],
    ids=lambda each: "" if isinstance(each, bool) else " ".join(map(repr, each)),
)
@pytest.mark.parametrize("channels", [(1, 3), pytest.param((32, 32), marks=pytest.mark.slow)])
def test_only_functions_that_rise_change_places_with_a_maximum(
    between: list[nn.Module], both: bool, channels: tuple[int, int]
) -> None:
    model = nn.Sequential(nn.Conv2d(*channels, 3, padding=1), *between, nn.MaxPool2d(2), nn.ReLU()).eval()
    x = torch.randn(2, channels[0], 24, 24)
    fast = planned(accelerated(model), x)
    assert any("conv2d" in line and "max_pool2d" in line for line in plan_of(fast, x).splitlines()) == both
    with torch.no_grad():
        torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("between", "both"), [(nn.Hardsigmoid(), True), (nn.LeakyReLU(-0.5), False)])
def test_nor_do_others_in_winograds_convolution(between: nn.Module, both: bool) -> None:
    test_only_functions_that_rise_change_places_with_a_maximum([between], both, (32, 32))


class Twice(nn.Module):
    """A map that is pooled and looked at by somebody else."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv(x))
        return F.max_pool2d(y, 2) + y[:, :, 0::2, 0::2].contiguous().mean()


class Turned(Twice):
    """A map that is pooled with its axes exchanged."""

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.relu(self.conv(x).transpose(2, 3)), 2)


@pytest.mark.parametrize("kind", slow_but([Twice, Turned], [Turned]))
def test_a_map_that_is_looked_at_otherwise_is_written(kind: type[nn.Module]) -> None:
    model, x = nn.Sequential(kind()).eval(), torch.randn(2, 1, 12, 14)
    fast = accelerated(model)
    with torch.no_grad():
        for _ in range(4):
            torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-4)


class Strange(nn.Module):
    def __init__(self, do: Callable[[nn.Module, Tensor], object]) -> None:
        super().__init__()
        self.convolution, self.do = nn.Conv2d(1, 4, 3), do
        self.register_buffer("count", torch.zeros(()))
        self.seen: list[int] = []
        self.plain = torch.ones(4, 1, 1)

    def forward(self, x: Tensor) -> object:
        return self.do(self, self.convolution(x))


#: What a plan is refused for, and what the model does instead of giving back what it computed.
STRANGE = {
    "is random": lambda module, x: F.dropout(x, training=True),
    "writes to an input or to a tensor of the model": lambda module, x: (module.count.add_(1), x)[1],
    "a view of memory that is used elsewhere": lambda module, x: (x, x.view(-1)),
    "depends on the memory layout of a tensor": lambda module, x: x.as_strided((1, 2, 2, 2), (8, 4, 2, 1)),
}


@pytest.mark.parametrize("training", slow_but([False, True], [True]))
def test_tensors_without_numbers_have_no_plan_and_go_on(training: bool) -> None:
    """A detector that found nothing: boxes (0, 4), and no regions for its convolutions."""

    class Regions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution, self.norm, self.linear = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4).eval(), nn.Linear(4, 3)

        def forward(self, x: Tensor, boxes: Tensor) -> tuple[Tensor, ...]:
            maps = self.norm(self.convolution(x[: len(boxes)]))
            sides = (boxes[:, 2:] - boxes[:, :2]) * 0.5 * boxes[:, ::2]
            return (
                maps.permute(0, 2, 3, 1).flatten(1).sigmoid(),
                self.linear(boxes).relu(),
                torch.cat([sides, boxes], 1),
            )

    model = Regions()
    fast = striate.accelerate(model, quiet=True)
    with torch.set_grad_enabled(training):
        for count in (0, 0, 0, 3, 3, 3, 0):
            inputs = torch.rand(4, 1, 8, 8), torch.rand(count, 4)
            for found, expected in zip(fast(*inputs), model(*inputs), strict=True):
                torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("reason", STRANGE)
def test_what_has_no_plan(reason: str) -> None:
    model, x = Strange(STRANGE[reason]).eval(), torch.randn(1, 1, 6, 6)
    assert reason in plan_of(striate.accelerate(model, quiet=True), x)


@pytest.mark.parametrize(
    "do",
    [
        lambda module, x: (setattr(module, "last", x), x)[1],
        lambda module, x: (module.seen.append(1), x)[1],
        lambda module, x: x if x.sum() > 0 else -x,
        lambda module, x: x * module.plain,
        lambda module, x: module.convolution.weight,
    ],
)
def test_what_is_more_than_operators(do: Callable[[nn.Module, Tensor], Any]) -> None:
    model, x = Strange(do).eval(), torch.randn(1, 1, 6, 6)
    fast = accelerated(model)
    fast.do = do
    with torch.no_grad():
        for _ in range(4):
            torch.testing.assert_close(fast(x), model(x))
            x = -x
            model.plain, fast.plain = model.plain * 2, fast.plain * 2
    assert fast.seen == model.seen
    assert hasattr(fast, "last") == hasattr(model, "last")


@pytest.mark.parametrize("change", [lambda x: x.relu_(), lambda x: x.view(1, 25).relu_().view(1, 1, 5, 5)])
def test_an_input_changed_in_place_is_no_plans(change: Callable[[Tensor], Tensor]) -> None:
    convolution = nn.Conv2d(1, 2, 3)
    with pytest.raises(Refusal, match=r"writes to an input|seen elsewhere"):
        captured(lambda x: (convolution(change(x)),), [torch.randn(1, 1, 5, 5)], [False])


class Writes(nn.Module):
    """Writes to what ``view`` returns, whose memory is that of a map of its own, or of its input."""

    def __init__(self, view: Callable[[Tensor], Tensor], own: bool) -> None:
        super().__init__()
        self.view, self.own = view, own

    def forward(self, x: Tensor) -> Tensor:
        whole = x * 2 if self.own else x
        seen = self.view(whole)
        seen += 1
        return whole


#: Functions that may return a view of their operand, or the operand itself, without a word of it in their schemas.
MAYBE_VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "einsum": lambda x: torch.einsum("abcd->abdc", x),
    "a diagonal by einsum": lambda x: torch.einsum("abcc->abc", x),
    "broadcast_tensors": lambda x: torch.broadcast_tensors(x, x)[0],
    "atleast_3d": torch.atleast_3d,
    "sum_to_size": lambda x: x.sum_to_size(x.shape),
    "type_as": lambda x: x.type_as(x),
    "cartesian_prod": lambda x: torch.cartesian_prod(x[0, 0, 0]),
    "alpha_dropout": lambda x: F.alpha_dropout(x, 0.2, training=False),
    "feature_alpha_dropout": lambda x: F.feature_alpha_dropout(x, 0.2, training=False),
    "dropout": lambda x: F.dropout(x, 0.2, training=False),
    "permute": lambda x: x.permute(0, 2, 3, 1),
    "contiguous": lambda x: x.contiguous(),
    "out=": lambda x: torch.add(x, 1, out=x),
}


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("name", slow_but(MAYBE_VIEWS, ["einsum", "alpha_dropout", "atleast_3d"]))
def test_writing_through_what_may_be_a_view(name: str, own: bool, planning: None) -> None:
    model = Writes(MAYBE_VIEWS[name], own)
    fast = accelerated(model)
    with torch.no_grad():
        for _ in range(4):
            plain = torch.randn(2, 3, 4, 4)
            given = plain.clone()
            torch.testing.assert_close(fast(given), model(plain))
            assert torch.equal(given, plain)
