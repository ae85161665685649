"""A recording lists the trace's operators, holds the run's numbers, and leaves the network and its inputs alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from strange import Dropping, WritesWeights, Writing, strange
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map_only

from striate import models
from striate.analysis.operators import Value
from striate.analysis.trace import trace
from striate.studio.recording import Recording, record, values_of

STRANGE = strange()
NETWORKS = {"lenet5": (2, 1, 28, 28), "resnet18": (1, 3, 64, 64)}


def known(name: str) -> nn.Module:
    torch.manual_seed(0)
    return models.create(name) if name in NETWORKS else STRANGE[name][0]


def answers(model: nn.Module, inputs: Any, training: bool = False) -> list[Tensor]:
    twin = copy.deepcopy(model).train(training)
    inputs = tree_map_only(Tensor, torch.clone, inputs)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        result = twin(**inputs) if isinstance(inputs, dict) else twin(inputs)
    return [leaf for leaf in tree_flatten(result)[0] if isinstance(leaf, Tensor)]


def again(recording: Recording) -> None:
    """Every operation without noise gives the recorded results from the recorded operands."""
    for operation in recording.trace.operations:
        if "bernoulli" in operation.name or "empty" in operation.name:
            continue
        numbers = {value: recording.numbers[recording.number_of(value)] for value in operation.inputs}
        arguments = tree_map_only(Value, lambda value, known=numbers: known[value].clone(), operation.args)
        named = tree_map_only(Value, lambda value, known=numbers: known[value].clone(), operation.kwargs)
        with torch.no_grad():
            results = tree_flatten(operation.target(*arguments, **named))[0]
        for value, result in zip(operation.outputs, results, strict=True):
            # Batch normalisation's empty statistics, and what lies in memory that nobody has written.
            torch.testing.assert_close(result, recording.numbers[recording.number_of(value)], equal_nan=True)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", sorted(STRANGE))
def test_strange_networks_are_recorded(name: str, training: bool) -> None:
    model, inputs = STRANGE[name]
    before = copy.deepcopy(model.state_dict())
    given = tree_map_only(Tensor, torch.clone, inputs)
    if name in ("Closed", "WritesWeights"):  # these change by being run, so the run to compare with comes later
        recording = record(model, inputs, training=training)
        found = answers(model, inputs, training)
    else:
        found = answers(model, inputs, training)
        recording = record(model, inputs, training=training)
    places = [leaf for leaf in tree_flatten(recording.outputs)[0] if type(leaf) is int and name != "Answers"]
    if name == "Answers":
        places = [*recording.outputs["maps"], recording.outputs["logits"]]
        assert recording.outputs["count"] == 7
        assert recording.outputs["word"] == "done"
    for place, each in zip(places, found, strict=True):
        if name == "Attending":  # by itself the network's attention is one kernel, whose sums come in another order
            torch.testing.assert_close(recording.numbers[place], each)
        elif name != "Closed":
            assert torch.equal(recording.numbers[place], each)
    assert all(torch.equal(one, other) for one, other in zip(before.values(), model.state_dict().values(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(tree_flatten(given)[0], tree_flatten(inputs)[0], strict=True))
    again(recording)
    for number, value in enumerate(recording.values):
        assert tuple(recording.numbers[number].shape) == value.shape
        assert recording.number_of(value) == number
        assert recording.names[number]


def test_a_closures_state_is_not_written() -> None:
    model, inputs = STRANGE["Closed"]
    state: Tensor = model.state[0]  # type: ignore[union-attr,index,assignment]
    before = float(state)
    one, other = record(model, inputs), record(model, inputs)
    assert float(state) == before
    assert torch.equal(one.numbers[one.outputs], inputs + before + 1)
    assert torch.equal(other.numbers[other.outputs], inputs + before + 1)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", [*NETWORKS, *sorted(set(STRANGE) - {"Steered", "Empty", "TwoInputs"})])
def test_operators_and_values_are_the_traces(name: str, training: bool) -> None:
    if name == "Writing" and training:
        pytest.skip("with gradients, which the trace for training has on, autograd makes views anew after each writing")
    model = known(name)
    size = NETWORKS.get(name, (2, 3, 8, 8))
    recording, traced = record(model, torch.rand(size), training=training), trace(model, size, training=training)
    values = values_of(traced)
    assert [each.name for each in traced.operations] == [each.name for each in recording.trace.operations]
    assert [(v.shape, v.dtype, v.kind, v.learns) for v in values] == [
        (v.shape, v.dtype, v.kind, v.learns) for v in recording.values
    ]
    places = {value: number for number, value in enumerate(values)}
    for one, other in zip(traced.operations, recording.trace.operations, strict=True):
        assert [places[value] for value in one.inputs] == [recording.number_of(value) for value in other.inputs]
        assert [places[value] for value in one.outputs] == [recording.number_of(value) for value in other.outputs]
        assert one.call == other.call
    assert [call.path for call in traced.calls] == [call.path for call in recording.trace.calls]
    # A number that depends on the picture is no constant for the rules of receptive fields.
    assert [v.known is None for v in values] == [v.known is None for v in recording.values]


def test_what_is_overwritten_is_kept_and_nothing_else_is_copied() -> None:
    picture = torch.rand(2, 3, 8, 8)
    recording = record(Writing(), picture)
    assert torch.equal(recording.numbers[0], picture)
    written = [pair for operation in recording.trace.operations for pair in operation.written]
    assert len(written) > 6
    again(recording)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    plain = record(model, picture)
    assert plain.bytes == 4 * (picture.numel() + 2 * 2 * 4 * 36)
    assert plain.numbers[1].data_ptr() == model[0].weight.data_ptr()
    inplace = record(nn.Sequential(model[0], nn.ReLU(inplace=True)), picture)
    assert inplace.bytes == plain.bytes


def test_weights_that_a_network_writes_are_copied_first() -> None:
    model = WritesWeights()
    before = model.weight.clone()
    recording = record(model, torch.rand(1, 3, 5, 5))
    assert torch.equal(model.weight, before)
    assert torch.equal(recording.numbers[1], before)


def test_noise_is_drawn_from_the_seed_and_the_callers_generator_stays() -> None:
    model, picture = Dropping(), torch.rand(2, 3, 8, 8)
    state = torch.get_rng_state()
    one, same, other = (record(model, picture, training=True, seed=seed) for seed in (4, 4, 5))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(one.numbers[one.outputs], same.numbers[same.outputs])
    assert not torch.equal(one.numbers[one.outputs], other.numbers[other.outputs])
    last = one.trace.operations[-1]
    mask = one.numbers[one.number_of(last.inputs[1])]
    assert last.name == "aten.mul"
    assert set(mask.unique().tolist()) == {0.0, 2.0}


def test_where_values_come_from_and_go() -> None:
    recording = record(STRANGE["Shared"][0], torch.rand(1, 3, 8, 8))
    weight = recording.number_of(recording.trace.parameters["conv.weight"])
    assert [recording.trace.operations[place].name for place in recording.uses[weight]] == ["aten.convolution"] * 3
    last = recording.operation_of(recording.outputs)
    assert last is not None
    assert last.name == "aten.convolution"
    assert recording.operation_of(weight) is None
