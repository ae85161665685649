"""The graph of a recording: what is drawn is what ran, and its figures are the library's."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from striate import models
from striate.analysis import receptive_field, summarize
from striate.studio.graph import GraphView, Network
from striate.studio.naming import output_names
from striate.studio.nesting import arrange
from striate.studio.recording import record


def network(name: str, size: tuple[int, ...], **options: Any) -> Network:
    return Network(record(models.create(name, **options).eval(), torch.rand(1, *size)))


@pytest.fixture(scope="module")
def resnet() -> Network:
    return network("resnet18", (3, 32, 32), small_input=True)


def every_box(graph: Network) -> frozenset[str]:
    return frozenset(member.name for number, member in graph._members.items() if graph.opens(number))


def reaches(view: GraphView) -> dict[str, set[str]]:
    after: dict[str, set[str]] = {name: set() for name in view.nodes}
    for edge in sorted(view.edges, key=lambda each: list(view.nodes).index(each.source), reverse=True):
        after[edge.source] |= {edge.target} | after[edge.target]
    return after


def test_a_closed_network_is_its_layers(resnet: Network) -> None:
    view = resnet.view(frozenset())
    assert [node.name for node in view.nodes.values() if node.kind == "box"][-3:] == ["layer4", "avgpool", "fc"]
    assert next(iter(view.nodes)) == "input:input"
    assert list(view.nodes)[-1] == "output:0"
    assert view.nodes["layer1"].parts == "2 BasicBlock"
    assert view.nodes["conv1"].about.startswith("3x3")


def test_an_open_box_shows_its_shortcut(resnet: Network) -> None:
    view = resnet.view({"layer1", "layer1.0"})
    inside = view.boxes["layer1.0"].contents
    assert inside[0] == "layer1.0.conv1"
    add = next(edge.target for edge in view.edges if edge.source == "relu" and edge.target.startswith("op:"))
    assert view.nodes[add].family == "join"
    assert {edge.source for edge in view.edges if edge.target == add} == {"relu", "layer1.0.bn2"}


@pytest.mark.parametrize("boxes", ["none", "first", "all"])
def test_all_ways_lead_from_the_input_to_the_output(resnet: Network, boxes: str) -> None:
    opened = {"none": frozenset[str](), "first": resnet.first(), "all": every_box(resnet)}[boxes]
    view = resnet.view(opened)
    after = reaches(view)
    assert after["input:input"] == set(view.nodes) - {"input:input"}
    assert all("output:0" in found for name, found in after.items() if name != "output:0")


@pytest.mark.parametrize("boxes", ["none", "all"])
def test_costs_add_up_to_the_summary(resnet: Network, boxes: str) -> None:
    summary = summarize(models.create("resnet18", small_input=True), (3, 32, 32))
    view = resnet.view(frozenset() if boxes == "none" else every_box(resnet))
    total = {
        figure: sum(getattr(node, figure) for node in view.nodes.values())
        for figure in ("parameters", "macs", "flops", "bytes")
    }
    assert total == {
        "parameters": summary.parameters, "macs": summary.macs, "flops": summary.flops, "bytes": summary.output_bytes
    }  # fmt: skip


def test_costs_of_a_box_are_those_of_the_layer(resnet: Network) -> None:
    rows = summarize(models.create("resnet18", small_input=True), (3, 32, 32)).rows
    node = resnet.view(frozenset()).nodes["layer2"]
    inside = [row for row in rows if row.name.startswith("layer2.")]
    assert node.macs == sum(row.macs for row in inside)
    assert node.parameters == sum(row.parameters for row in inside)


def test_shared_weights_count_once() -> None:
    layer = nn.Conv2d(2, 2, 3, padding=1)
    graph = Network(record(nn.Sequential(layer, nn.ReLU(), layer), torch.rand(1, 2, 6, 6)))
    nodes = [node for node in graph.view(frozenset()).nodes.values() if node.type == "Conv2d"]
    assert [node.id for node in nodes] == ["0", "0@2"] or [node.id for node in nodes] == ["0", "2"]
    assert [node.parameters for node in nodes] == [38, 0]


def test_every_edge_of_an_open_view_is_an_operand(resnet: Network) -> None:
    view = resnet.view(every_box(resnet))
    recording = resnet.recording
    for edge in view.edges:
        assert recording.values[edge.value].shape == edge.shape
        if edge.target.startswith("op:"):
            operation = recording.trace.operations[int(edge.target[3:])]
            assert recording.values[edge.value] in operation.inputs


def test_what_is_written_through_a_view_comes_from_the_writer() -> None:
    class Written(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x * 2
            y[:, 0] = x[:, 1]
            return y.relu()

    view = Network(record(Written(), torch.rand(1, 2, 3, 3))).view(frozenset())
    names = {node.id: node.name for node in view.nodes.values()}
    into = {(names[edge.source], names[edge.target]) for edge in view.edges}
    assert ("copy", "relu") in into
    assert ("mul", "relu") not in into


def test_search_finds_layers_and_operators_and_says_which_boxes_to_open(resnet: Network) -> None:
    found = {name: open_ for name, _, open_ in resnet.search("layer3.0.conv")}
    assert found["layer3.0.conv1"] == ["layer3", "layer3.0"]
    assert "layer3.0.conv1" in resnet.view(found["layer3.0.conv1"]).nodes
    by_operator = [name for name, _, _ in resnet.search("max_pool")]
    assert all(name in resnet.view(every_box(resnet)).nodes for name in by_operator)
    assert list(resnet.search("no such thing")) == []


def test_the_node_of_a_value_is_where_it_comes_from(resnet: Network) -> None:
    recording = resnet.recording
    for number in range(len(recording.values)):
        found = resnet.node_of(number)
        if found is not None:
            assert found["id"] in resnet.view(found["open"]).nodes


def test_first_views_can_be_read() -> None:
    lenet = network("lenet5", (1, 28, 28))
    assert lenet.first() == frozenset()
    googlenet = network("googlenet", (3, 64, 64))
    assert "inception3a" in googlenet.first()
    shown = googlenet.view(googlenet.first())
    branches = [node for node in shown.nodes.values() if node.id.startswith("inception3a.branch")]
    assert len(branches) == 4
    assert {edge.source for edge in shown.edges if edge.target in {each.id for each in branches}} == {"maxpool2"}
    assert len(shown.nodes) < 70


def test_a_wrapper_around_all_opens_by_itself() -> None:
    layers = [nn.Conv2d(2, 2, 1) for _ in range(12)]
    graph = Network(record(nn.Sequential(nn.Sequential(nn.Sequential(*layers))), torch.rand(1, 2, 3, 3)))
    assert graph.first() == {"0", "0.0"}


def test_outputs_have_their_names() -> None:
    class Named(nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, Any]:
            return {"a": x + 1, "b": [x * 2]}

    recording = record(Named(), torch.rand(1, 1, 2, 2))
    assert sorted(output_names(recording).values()) == ["a", "b.0"]


@pytest.mark.parametrize("boxes", ["none", "first", "all"])
def test_nodes_lie_in_their_boxes_and_over_nothing(resnet: Network, boxes: str) -> None:
    opened = {"none": frozenset[str](), "first": resnet.first(), "all": every_box(resnet)}[boxes]
    view = resnet.view(opened)
    placed = arrange(view, lambda name: (100.0, 50.0), 900.0)
    for name, box in view.boxes.items():
        left, top, width, height = placed.boxes[name]
        for each in box.contents:
            x, y, wide, high = placed.boxes[each] if each in placed.boxes else placed.nodes[each]
            assert left - 0.1 <= x
            assert x + wide <= left + width + 0.1
            assert top - 0.1 <= y
            assert y + high <= top + height + 0.1
    spots = list(placed.nodes.values())
    for place, (x, y, w, h) in enumerate(spots):
        for u, v, m, n in spots[:place]:
            assert not (x < u + m and u < x + w and y < v + n and v < y + h)


def test_edges_lead_from_node_to_node_across_boxes(resnet: Network) -> None:
    view = resnet.view(every_box(resnet))
    placed = arrange(view, lambda name: (100.0, 50.0), 900.0)
    for edge, way in zip(view.edges, placed.edges, strict=True):
        x, y, width, height = placed.nodes[edge.source]
        assert way[0] == pytest.approx((x + width, y + height / 2))
        x, y, width, height = placed.nodes[edge.target]
        assert way[-1] == pytest.approx((x, y + height / 2))


def test_a_node_is_plain_data(resnet: Network) -> None:
    import json

    assert json.dumps([dataclasses.asdict(node) for node in resnet.view(frozenset()).nodes.values()])


def test_the_call_that_is_shown_gives_the_figures(start: Any) -> None:
    found = start("lenet5").json("/api/network", picture="p2")
    space: dict[str, Any] = {}
    exec(found["call"], space)
    assert space["costs"].macs == found["totals"]["macs"]
    assert space["costs"].inference_peak_bytes == found["totals"]["peak"]
    assert space["fields"].at("s4").size == (16, 16)


def test_fields_are_the_library_s(start: Any) -> None:
    client = start("lenet5")
    fields = client.json("/api/network/fields")["fields"]
    nodes = {node["id"]: node for node in client.json("/api/network")["nodes"]}
    for row in receptive_field(models.create("lenet5"), (1, 28, 28)):
        found = fields[str(nodes[row.name]["values"][0])]
        assert found["size"] == list(row.size)
        assert found["whole"] == list(row.whole)
        assert found["stride"] == [float(each) for each in row.stride]
