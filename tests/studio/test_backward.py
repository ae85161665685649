"""Gradients of every value are autograd's on the plain network; a weight's is the sum over the places that share it."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from strange import Dropping, strange
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from cases import quick_but
from striate import engine, models
from striate.errors import StudioError
from striate.studio.gradients import Backward, Gradients, Target, by_layer, by_parameter, descend
from striate.studio.recording import Recording, record
from striate.studio.sharing import share_of, weight_gradient

STRANGE = strange()


def backward_of(model: nn.Module, inputs: Any, training: bool = False) -> tuple[Recording, Backward]:
    recording = record(model, inputs, training=training)
    return recording, Backward(model, inputs, recording)


def plain(
    model: nn.Module, x: Tensor, training: bool, label: int
) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """Autograd's gradients by the input, every layer's output and every parameter."""
    twin = copy.deepcopy(model).train(training)
    kept: dict[str, Tensor] = {}
    for name, layer in twin.named_modules():
        if name and not list(layer.children()):
            layer.register_forward_hook(lambda _, __, output, name=name: kept.update({name: output}))
    leaf = x.clone().requires_grad_()
    # A recording runs PyTorch's kernels, and other kernels add up in another order.
    with torch.random.fork_rng(), engine.use("aten"):
        torch.manual_seed(0)
        loss = F.cross_entropy(twin(leaf)[:1], torch.tensor([label]))
    names = [name for name, tensor in kept.items() if tensor.requires_grad]
    parameters = dict(twin.named_parameters())
    wanted = [leaf, *(kept[name] for name in names), *parameters.values()]
    with engine.use("aten"):
        found = torch.autograd.grad(loss, wanted, allow_unused=True)
    outputs = {name: g for name, g in zip(names, found[1:], strict=False) if g is not None}
    by_name = {name: g for name, g in zip(parameters, found[1 + len(names) :], strict=True) if g is not None}
    return by_name, outputs | {"input": found[0]}, loss


def small(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(1)
    if name == "lenet5":
        return models.create(name), torch.rand(2, 1, 28, 28)
    if name == "resnet18":
        return models.create(name, 10), torch.rand(1, 3, 48, 48)
    if name == "dropping":
        return nn.Sequential(Dropping(), nn.Flatten(), nn.Linear(144, 3)), torch.rand(3, 3, 8, 8)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, 2, 1, groups=3), nn.GroupNorm(2, 6), nn.GELU(), nn.ConvTranspose2d(6, 4, 3, 2),
        nn.MaxPool2d(2), nn.Hardswish(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 5),
    ), torch.rand(2, 3, 9, 9)  # fmt: skip


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", quick_but(["lenet5", "resnet18", "dropping", "mixed"], ["resnet18"]))
def test_gradients_are_autograds_to_the_last_bit(name: str, training: bool) -> None:
    """Of PyTorch's layers; striate's own add up a bias's gradient in an order that hangs on memory."""
    model, x = small(name)
    digits = {"rtol": 0.0, "atol": 0.0} if name in ("dropping", "mixed") else {"rtol": 1e-5, "atol": 1e-7}

    def same(one: Tensor, other: Tensor) -> None:
        torch.testing.assert_close(one, other, **digits)

    if training and name == "resnet18":
        x = torch.cat([x, x.flip(-1)])
    recording, backward = backward_of(model, x, training)
    found = backward.of(Target(backward.default(), (0,), 1))
    parameters, outputs, loss = plain(model, x, training, 1)
    assert found.number == float(loss.detach())
    for each, gradient in parameters.items():
        same(found.of[recording.number_of(recording.trace.parameters[each])], gradient)
    same(found.of[0], outputs["input"])
    compared = 0
    for call in recording.trace.calls:
        # What a later layer overwrites in place has another gradient before it.
        if call.leaf and call.path in outputs and sum(each.path == call.path for each in recording.trace.calls) == 1:
            number = recording.number_of(call.outputs[0])
            if not any(call.outputs[0] is old for each in recording.trace.operations for old, _ in each.written):
                same(found.of[number], outputs[call.path])
                compared += 1
    assert compared > 4
    assert len(by_parameter(recording, found)) == len(parameters)
    assert len(by_layer(recording, found)) > 4


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", sorted(set(STRANGE) - {"Counting", "Closed", "WritesWeights", "Steered"}))
def test_strange_networks(name: str, training: bool) -> None:
    """One element of an output by all parameters, in float64; values that are written in place among them."""
    model, inputs = STRANGE[name]
    model = copy.deepcopy(model).double()
    inputs = tree_map_only(Tensor, torch.Tensor.double, inputs)
    recording, backward = backward_of(model, inputs, training)
    value = backward.default()
    place = tuple(0 for _ in recording.values[value].shape)
    found = backward.of(Target(value, place))
    twin = copy.deepcopy(model).train(training)
    given = tree_map_only(Tensor, torch.clone, inputs)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        result = twin(**given) if isinstance(given, dict) else twin(given)
    result = result["logits"] if isinstance(result, dict) else result
    gradients = torch.autograd.grad(result[place], list(twin.parameters()), allow_unused=True)
    for (each, _), gradient in zip(twin.named_parameters(), gradients, strict=True):
        mine = found.of.get(recording.number_of(recording.trace.parameters[each]))
        if gradient is None:
            assert mine is None or not mine.any()
        else:
            assert mine is not None
            torch.testing.assert_close(mine, gradient)
    # A value's gradient is the sum of what its uses send back, wherever all of them are known.
    checked = 0
    for number in found.of:
        operand = recording.values[number]
        uses = recording.uses.get(number, ())
        shares = [share_of(recording, found, use, operand) for use in uses]
        written = any(old is operand for use in uses for old, _ in recording.trace.operations[use].written)
        if number == value or not shares or written or _is_seen_through(recording, number):
            continue
        total = sum(share for share in shares if share is not None)
        if isinstance(total, Tensor):
            torch.testing.assert_close(found.of[number], total)
            checked += 1
    assert checked > 1


def _is_seen_through(recording: Recording, number: int) -> bool:
    """Whether other views of a value's memory are written, which its own uses say nothing of."""
    storage = recording.values[number].storage
    return any(old.storage == storage for each in recording.trace.operations for old, _ in each.written)


def test_what_has_no_gradient_says_so() -> None:
    recording, backward = backward_of(*STRANGE["Counting"])
    with pytest.raises(StudioError, match="no output has a gradient"):
        backward.default()
    with pytest.raises(StudioError, match="has no gradient"):
        backward.of(Target(recording.outputs, (0,)))
    model, x = small("lenet5")
    recording, backward = backward_of(model, x)
    for target in (Target(999), Target(0, (0, 0)), Target(0, (0,), 1), Target(recording.outputs, (0,), 10)):
        with pytest.raises(StudioError, match="needed"):
            backward.of(target)


class Straight(torch.autograd.Function):
    """Rounds, with the gradient of the identity: a backward that no operator of the forward has."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


class Rounded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        rounded: Tensor = Straight.apply(self.conv(x) * 4)  # type: ignore[no-untyped-call]
        return rounded.flatten(1)


def test_a_networks_own_backward_is_used() -> None:
    torch.manual_seed(0)
    model, x = Rounded(), torch.rand(1, 1, 5, 5)
    recording, backward = backward_of(model, x)
    found = backward.of(Target(recording.outputs, (0, 3)))
    gradient = found.of[recording.number_of(recording.trace.parameters["conv.weight"])]
    assert torch.equal(gradient[0, 0], 4 * x[0, 0, 1:4, :3])


def random_layer(draw: random.Random) -> tuple[nn.Module, tuple[int, ...]]:
    groups = draw.choice((1, 2))
    made = {
        "stride": draw.randint(1, 2),
        "padding": draw.randint(0, 1),
        "dilation": draw.randint(1, 2),
        "groups": groups,
    }
    kind = draw.choice(("conv", "transposed", "conv1d", "linear", "tokens"))
    if kind == "conv":
        return nn.Conv2d(4, 6, 3, **made), (2, 4, 8, 7)
    if kind == "transposed":
        return nn.ConvTranspose2d(4, 6, 3, **made), (2, 4, 5, 4)
    if kind == "conv1d":
        return nn.Conv1d(4, 2, 3, **made), (2, 4, 9)
    return nn.Linear(5, 3), (4, 5) if kind == "linear" else (2, 3, 5)


@pytest.mark.parametrize("seed", range(16))
def test_a_weights_gradient_is_the_sum_over_the_places_that_share_it(seed: int) -> None:
    draw = random.Random(seed)
    torch.manual_seed(seed)
    layer, shape = random_layer(draw)
    model = nn.Sequential(layer, nn.Tanh()).double()
    recording, backward = backward_of(model, torch.randn(shape, dtype=torch.float64))
    value = recording.outputs
    found = backward.of(Target(value, tuple(draw.randrange(length) for length in recording.values[value].shape)))
    # A gradient that is nowhere zero, so that every place counts.
    everywhere = {number: torch.randn_like(gradient) for number, gradient in found.of.items()}
    for name, own in recording.trace.parameters.items():
        number = recording.number_of(own)
        for gradients in (found, _from_output(recording, backward, value)):
            for _ in range(6):
                place = tuple(draw.randrange(length) for length in own.shape)
                told = weight_gradient(recording, gradients, number, place)
                assert told.uses, name
                assert told.others == 0
                assert told.total == pytest.approx(told.gradient, abs=1e-12)
                told.to_dict()
    assert everywhere


def _from_output(recording: Recording, backward: Backward, value: int) -> Gradients:
    """Gradients of a sum over the whole output, which reach every place."""
    edges = backward._edges
    (first,) = (torch.linspace(-1, 1, recording.values[value].numel, dtype=torch.float64),)
    first = first.view(recording.values[value].shape)
    numbers = list(edges)
    found = torch.autograd.grad(
        [edges[value]], [edges[n] for n in numbers], [first], retain_graph=True, allow_unused=True
    )
    of = {number: gradient for number, gradient in zip(numbers, found, strict=True) if gradient is not None}
    return Gradients(Target(value), 0.0, of)


def test_a_shared_layers_weight_has_every_use() -> None:
    model, x = STRANGE["Shared"]
    recording, backward = backward_of(model.double(), x.double())
    found = backward.of(Target(backward.default(), (0, 1, 3, 3)))
    number = recording.number_of(recording.trace.parameters["conv.weight"])
    told = weight_gradient(recording, found, number, (2, 1, 0, 1))
    assert len(told.uses) == 3
    assert told.total == pytest.approx(told.gradient)
    assert told.uses[0].to_dict()["count"] == 2 * 7 * 8
    model.float()


def test_descent_is_by_hand_and_on_a_copy() -> None:
    model, x = small("lenet5")
    before = copy.deepcopy(model.state_dict())
    recording, backward = backward_of(model, x)
    target = Target(recording.outputs, (0,), 3)
    told = descend(model, x, target, rate=0.05, steps=3)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    assert all(parameter.grad is None for parameter in model.parameters())
    twin = copy.deepcopy(model)
    losses = []
    for _ in range(4):
        loss = F.cross_entropy(twin(x)[:1], torch.tensor([3]))
        losses.append(float(loss))
        gradients = torch.autograd.grad(loss, list(twin.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(twin.parameters(), gradients, strict=True):
                parameter -= 0.05 * gradient
    assert told.numbers == pytest.approx(losses, rel=1e-5)
    assert told.numbers[3] < told.numbers[0]
    assert descend(model, x, target, rate=0.05, steps=0).numbers == pytest.approx(losses[:1])
    small_step = descend(model, x, target, rate=1e-4, steps=1)
    assert small_step.numbers[1] - small_step.numbers[0] == pytest.approx(small_step.expected, rel=0.05)
    assert float(backward.of(target).number) == pytest.approx(losses[0])
