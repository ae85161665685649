"""Receptive fields: the literature's figures, and the support of gradients on random graphs and known networks."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from graphs import RandomGraph
from oracle import gradient_support, linear_twin, positive
from torch import Tensor, nn

import networks
from cases import quick_but, slow_but
from striate import models
from striate import nn as snn
from striate.analysis import receptive_field, support
from striate.errors import AnalysisError

# Size and effective padding at 224 unless said: Araujo, Norris & Sim (Distill 2019), table 1; torchvision's ResNets
# have the stride on the 3x3, which sees less than the paper's stride on the 1x1 before it, and no published figure.
PUBLISHED = {
    "AlexNet v2": (lambda: networks.alexnet(first_padding=0), "0", 195, 64, 231),
    "VGG-16, conv5_3": (lambda: networks.vgg16(4, 3, 8), "features.28", 196, 90, 224),
    "VGG-16": (lambda: networks.vgg16(4, 3, 8), "features", 212, 90, 224),
    "MobileNetV1": (lambda: networks.mobilenet_v1(4), "92", 315, 126, 224),
    "ResNet-50": (lambda: networks.SlimResNet(50), "layer4", 483, 239, 224),
    "ResNet-101": (lambda: networks.SlimResNet(101), "layer4", 1027, 511, 224),
    "ResNet-152": (lambda: networks.SlimResNet(152), "layer4", 1507, 751, 224),
    **{
        f"ResNet-{depth}, stride on the 3x3": (
            lambda d=depth: networks.ResNet(d, width=4), "layer4", size, size // 2, 224,
        )
        for depth, size in ((18, 435), (34, 899), (50, 427), (101, 971), (152, 1451))
    },
    **{
        f"ResNet-{depth}, stride on the 1x1": (
            lambda d=depth: networks.ResNet(d, early=True, width=4), "layer4", size, size // 2, 224,
        )
        for depth, size in ((50, 483), (101, 1027), (152, 1507))
    },
}  # fmt: skip


@pytest.mark.parametrize(
    "name", quick_but(PUBLISHED, [name for name in PUBLISHED if re.search("AlexNet|50,|101|152", name)])
)
def test_published_figures(name: str) -> None:
    build, layer, size, padding, pixels = PUBLISHED[name]
    row = receptive_field(build(), (3, pixels, pixels)).at(layer)
    stride = 16 if "conv5" in name else 32
    assert (row.size, row.stride, row.padding) == ((size, size), (stride, stride), (padding, padding))


def check(graph: RandomGraph) -> None:
    """The support that is told equals the gradient's, at corners and in the middle."""
    output = graph(torch.rand(1, *graph.size))
    height, width = output.shape[2:]
    fields = receptive_field(graph, graph.size)
    graph.averages = True
    positive(graph)
    for position in {(0, 0), (height // 2, width // 2), (height - 1, width - 1), (height - 1, width // 3)}:
        expected = gradient_support(graph, (1, *graph.size), "last", position, faint=1e-11)
        assert torch.equal(fields.support("last", position), expected), position


def graphs(seeds: range) -> list[int]:
    """Those seeds whose graphs fit their input (some crop, pool or mirror more than there is)."""
    fitting = []
    for seed in seeds:
        torch.manual_seed(seed)
        graph = RandomGraph(seed).eval()
        try:
            output = graph(torch.rand(1, *graph.size))
        except (RuntimeError, IndexError):
            continue
        if output.numel():
            fitting.append(seed)
    return fitting


@pytest.mark.formula("S30")
@pytest.mark.parametrize("first", slow_but(range(0, 60, 20), [40]))
def test_random_graphs(first: int) -> None:
    seeds = graphs(range(first, first + 20))
    assert len(seeds) > 15
    for seed in seeds:
        check(RandomGraph(seed).eval())


@pytest.mark.slow
@pytest.mark.parametrize("first", range(60, 660, 100))
def test_many_random_graphs(first: int) -> None:
    seeds = graphs(range(first, first + 100))
    assert len(seeds) > 90
    for seed in seeds:
        check(RandomGraph(seed).eval())


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int], tuple[str, ...]]] = {
    "ResNet-18": (lambda: networks.ResNet(18, width=4, classes=3), (3, 64, 64), ("maxpool", "layer2", "layer4")),
    "ResNet-50": (lambda: networks.ResNet(50, width=4, classes=3), (3, 64, 64), ("layer2.0", "layer3")),
    "VGG-16": (lambda: networks.vgg16(4, 3, 8), (3, 64, 64), ("features.16", "features")),
    "MobileNetV1": (lambda: networks.mobilenet_v1(4), (3, 61, 64), ("50", "92")),
    "Inception": (networks.Inception, (3, 33, 35), ("wide", "high", "last")),
    "U-Net": (networks.UNet, (3, 32, 24), ("up2", "merge2", "merge1")),
    "ShuffleNet": (networks.Shuffle, (3, 32, 28), ("stem", "blocks.2", "head")),
    "DenseNet": (networks.Dense, (3, 20, 20), ("layers.3", "last")),
    "Transformer": (networks.Transformer, (3, 16, 16), ("patches",)),
    "Gated": (networks.Gated, (3, 16, 18), ("again",)),
    "Swin": (networks.Windowed, (3, 32, 32), ("patches", "merge")),
    "LeNet-5": (lambda: models.create("lenet5"), (1, 28, 28), ("s2", "c3", "c5")),
    "LeNet-5 1998": (lambda: models.create("lenet5_1998"), (1, 32, 32), ("s2", "c3", "s4")),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_known_networks(name: str) -> None:
    build, size, layers = NETWORKS[name]
    model = build()
    fields, twin = receptive_field(model, size), linear_twin(model)
    for layer in layers:
        height, width = fields.at(layer).shape[2:]
        for position in {(0, 0), (height // 2, width // 2), (height - 1, width - 1)}:
            expected = gradient_support(twin, (1, *size), layer, position)
            assert expected.any()
            assert torch.equal(fields.support(layer, position), expected), (layer, position)


def test_what_sees_everything_says_so() -> None:
    fields = receptive_field(networks.Gated(), (3, 16, 18))
    row = fields.at("mul")
    assert (row.size, row.stride, row.start, row.whole) == ((16, 18), (0, 0), (0, 0), (True, True))
    assert row.local == fields.at("again").size == (11, 11)
    for name, layer in (("Transformer", "encoder"), ("ResNet-18", "avgpool"), ("LeNet-5", "output")):
        build, size, _ = NETWORKS[name]
        assert receptive_field(build(), size).at(layer).size == size[1:]


def test_rules_hold_where_no_edge_is_near() -> None:
    # In the middle of a large map the rule is what the exact sets span.
    fields = receptive_field(networks.UNet(), (3, 64, 64))
    for layer in ("up2", "merge2", "merge1"):
        row = fields.at(layer)
        place = row.shape[2] // 2
        (first, last), _ = fields.box(layer, (place, place)) or ((0, 0), (0, 0))
        assert last - first + 1 <= row.size[0]
        assert abs(first - (row.start[0] + place * row.stride[0])) <= 1
    assert receptive_field(networks.UNet(), (3, 64, 64)).at("up2").stride == (2, 2)


def test_every_call_of_a_reused_layer_has_a_row() -> None:
    fields = receptive_field(networks.Gated(), (3, 16, 18))
    assert [row.name for row in fields if row.kind == "Conv2d"] == ["stem", "again@1", "again"]
    assert (fields.at("again@1").size, fields.at("again").size) == ((7, 7), (11, 11))


class Skewed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.even, self.one = nn.Conv2d(1, 1, 2, 2), nn.Conv2d(1, 1, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.even(x) + self.one(x)


def test_misaligned_branches_are_reported() -> None:
    (found,) = {(each.where, each.centres) for each in receptive_field(Skewed(), (1, 8, 8)).misaligned}
    assert found == ("(network)", ("1/2", "0"))
    assert not receptive_field(networks.ResNet(18, width=4), (3, 64, 64)).misaligned


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        x = F.grid_sample(x, torch.zeros(1, 4, 4, 2), align_corners=False)
        return self.after(x)


def test_what_is_not_understood_is_unknown_and_not_guessed() -> None:
    fields = receptive_field(Odd(), (1, 9, 9))
    assert fields.at("before").size == (3, 3)
    row = fields.at("after")
    assert row.size == row.stride == row.start == (None, None)
    assert "grid_sampler_2d" in row.note
    with pytest.raises(AnalysisError, match="grid_sampler_2d"):
        fields.box("after", (0, 0))


class WritesAView(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x + 0
        y[:, :, 1:] = x[:, :, :-1]
        return y * 2


def test_what_is_written_into_a_part_is_seen_there_alone() -> None:
    fields = receptive_field(WritesAView(), (1, 4, 4))
    assert [fields.box("mul", (row, 2)) for row in range(3)] == [((0, 0), (2, 2)), ((0, 0), (2, 2)), ((1, 1), (2, 2))]
    assert (fields.at("mul").size, fields.at("mul").start) == ((1, 1), (-1, 0))  # the rule of most rows


class WritesByIndex(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x + 0
        y[torch.tensor([0]), :, torch.tensor([1])] = x[:, :, 0]
        return y * 2


def test_writing_where_numbers_say_is_not_overlooked() -> None:
    assert receptive_field(WritesByIndex(), (1, 4, 4)).at("mul").size == (None, None)


PADDED = {"circular": 3, "reflect": 2, "replicate": 2, "zeros": 2}


@pytest.mark.parametrize("mode", PADDED)
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_padding_by_the_map_itself(mode: str, dims: int) -> None:
    seen, size, corner = PADDED[mode], (1, 1, *(6, 8, 7)[:dims]), (0,) * dims
    conv = getattr(nn, f"Conv{dims}d")(1, 1, 3, padding=1, padding_mode=mode)
    fields = receptive_field(conv, torch.zeros(size))
    assert fields.support("convolution", corner).sum() == seen**dims
    row = fields.at("convolution")
    assert (row.size, row.stride, row.start, row.note) == ((3,) * dims, (1,) * dims, (-1,) * dims, "")
    spans = {"circular": tuple((0, n - 1) for n in size[2:])}.get(mode, ((0, 1),) * dims)
    assert fields.box("convolution", corner) == spans
    if mode == "zeros":
        return
    kind = {"circular": "Circular", "reflect": "Reflection", "replicate": "Replication"}[mode]
    layer = getattr(nn, f"{kind}Pad{dims}d")
    layers = nn.Sequential(layer(2), getattr(nn, f"Conv{dims}d")(1, 2, 3, 2, padding_mode=mode, padding=2), layer(1))
    fields, twin = receptive_field(layers, torch.zeros(size)), linear_twin(layers)
    shape = fields.at("2").shape[2:]
    for position in {corner, tuple(n // 2 for n in shape), tuple(n - 1 for n in shape)}:
        assert torch.equal(fields.support("2", position), gradient_support(twin, size, "2", position)), position


@pytest.mark.parametrize("cell", [nn.GRU, nn.LSTM, nn.RNN])
def test_recurrent_layers_see_what_came_before(cell: type[nn.Module]) -> None:
    class Reads(nn.Module):
        """Columns of a map, one after the other."""

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.cell = nn.Conv2d(1, 2, 3, padding=1), cell(2 * 4, 3, batch_first=True)  # type: ignore[call-arg]
            self.steps, self.last = nn.Identity(), nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            steps, state = self.cell(self.conv(x).flatten(1, 2).transpose(1, 2))
            self.last(state[0] if isinstance(state, tuple) else state)
            return self.steps(steps)

    fields = receptive_field(Reads(), (1, 4, 9))
    assert fields.box("steps", (0, 2, 0)) == ((0, 3), (0, 3))
    assert fields.box("last", (0, 0, 0)) == ((0, 3), (0, 8))


def test_striates_padding_is_followed() -> None:
    layers = nn.Sequential(snn.Conv2d(1, 2, 4, stride=2, padding="same"), snn.MaxPool2d(3, 2, padding=((0, 1), (2, 0))))
    row = receptive_field(layers, (1, 20, 20)).at("1")
    assert (row.size, row.stride, row.start) == ((8, 8), (4, 4), (-1, -5))


@pytest.mark.parametrize(
    ("shape", "layer"), [((2, 30), nn.Conv1d(2, 1, 5, 2)), ((1, 1, 9, 9, 9), nn.Conv3d(1, 1, 5, 2))]
)
def test_one_and_three_axes(shape: tuple[int, ...], layer: nn.Module) -> None:
    fields = receptive_field(nn.Sequential(layer), shape)
    axes = fields.at("0").size
    assert set(axes) == {5}
    assert fields.box("0", (1,) * len(axes)) == ((2, 6),) * len(axes)


class ChannelsLast(nn.Module):
    """As ConvNeXt's blocks: a linear layer over the channels, which folds all positions into one dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise, self.norm, self.linear = nn.Conv2d(4, 4, 7, 2, 3, groups=4), nn.LayerNorm(4), nn.Linear(4, 4)
        self.last = nn.Conv2d(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(self.norm(self.depthwise(x).permute(0, 2, 3, 1)))
        return self.last(x.permute(0, 3, 1, 2))


def test_folded_positions_find_their_way_back() -> None:
    fields = receptive_field(ChannelsLast(), (4, 20, 18))
    assert (fields.at("linear").size, fields.at("linear").stride, fields.at("linear").start) == (
        (7, 7),
        (2, 2),
        (-3, -3),
    )
    assert (fields.at("last").size, fields.at("last").stride) == ((11, 11), (2, 2))
    # Tokens keep the rule of the map they were made from, until attention sees them all.
    tokens = receptive_field(networks.Transformer(), (3, 16, 16))
    assert (tokens.at("transpose").size, tokens.at("transpose").stride) == ((4, 4), (4, 4))
    assert tokens.at("encoder").whole == (True, True)


def test_json_and_unknown_layers() -> None:
    fields = receptive_field(models.create("lenet5"), (1, 28, 28))
    rows = json.loads(json.dumps(fields.to_dict()))["rows"]
    assert [row["name"] for row in rows] == [row.name for row in fields]
    assert next(row for row in rows if row["name"] == "s4")["size"] == [16, 16]
    with pytest.raises(AnalysisError, match=r"^layer: got 'c33'; .*near: c3"):
        fields.at("c33")
    with pytest.raises(AnalysisError, match="needed one in 5x5"):
        fields.box("s4", (5, 0))


def test_the_check_sees_a_field_that_is_one_off(monkeypatch: pytest.MonkeyPatch) -> None:
    right = support.gather

    def wrong(boxes: object, dim: int, size: int, taps: list[list[int]]) -> object:
        return right(boxes, dim, size, [[tap + 1 for tap in each] for each in taps])  # type: ignore[arg-type]

    monkeypatch.setattr(support, "gather", wrong)
    failed = 0
    for seed in graphs(range(12)):
        try:
            check(RandomGraph(seed).eval())
        except AssertionError:
            failed += 1
    assert failed >= 9


def test_a_model_survives_being_copied_into_the_oracle() -> None:
    model = networks.UNet()
    before = copy.deepcopy(model.state_dict())
    linear_twin(model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
