"""Cost: the literature's figures, PyTorch's own counter where it is right, and memory against what autograd keeps."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import networks
from cases import quick_but
from striate import ConvShape, models
from striate.analysis import Roofline, summarize
from striate.analysis.memory import peak
from striate.analysis.trace import trace

# Parameters and GMAC at 224: torchvision's tables. ViT-B/16's MACs hold the products of attention.
PUBLISHED = {
    "AlexNet": (networks.alexnet, 61_100_840, 0.714),
    "VGG-16": (networks.vgg16, 138_357_544, 15.47),
    "ResNet-18": (lambda: networks.ResNet(18), 11_689_512, 1.814),
    "ResNet-34": (lambda: networks.ResNet(34), 21_797_672, 3.664),
    "ResNet-50": (lambda: networks.ResNet(50), 25_557_032, 4.089),
    "ResNet-101": (lambda: networks.ResNet(101), 44_549_160, 7.801),
    "ResNet-152": (lambda: networks.ResNet(152), 60_192_808, 11.514),
    "ViT-B/16": (networks.vit_b16, 86_567_656, 17.564),
}


@pytest.mark.parametrize("name", quick_but(PUBLISHED, ["ResNet-50", "ResNet-101", "ResNet-152", "ViT-B/16"]))
def test_published_figures(name: str) -> None:
    build, parameters, gmac = PUBLISHED[name]
    with torch.device("meta"):
        model = build()
    summary = summarize(model, (3, 224, 224))
    assert summary.parameters == summary.trainable == parameters
    assert round(summary.macs / 1e9, 3 if gmac != 15.47 else 2) == gmac
    assert not [line for line in summary.not_counted if line.startswith("aten.")]


@pytest.mark.formula("F28")
def test_lenet5_row_by_row() -> None:
    rows = {row.name: row for row in summarize(models.create("lenet5"), (1, 28, 28))}
    assert {name: row.parameters for name, row in rows.items() if row.parameters} == {
        "c1": 156, "c3": 2416, "c5": 48_120, "f6": 10_164, "output": 850,
    }  # fmt: skip
    c1 = rows["c1"]
    assert c1.macs == 28 * 28 * 6 * 25
    assert c1.in_bounds_macs == ConvShape.parse(c1.problem).in_bounds_macs < c1.macs
    assert c1.dense_parameters == 28 * 28 * 6 * 28 * 28 + 28 * 28 * 6
    assert (c1.kernel, c1.padding, c1.output_shape) == ((5, 5), ((2, 2), (2, 2)), (1, 6, 28, 28))
    assert sum(row.parameters for row in summarize(models.create("lenet5_1998"), (1, 32, 32))) == 60_000


@pytest.mark.formula("F28")
def test_a_fully_connected_layer_has_a_bias_only_if_the_convolution_has() -> None:
    for bias in (False, True):
        (row,) = summarize(nn.Conv2d(2, 3, 3, padding=1, bias=bias), (2, 5, 4))
        assert row.dense_parameters == (2 * 5 * 4) * (3 * 5 * 4) + bias * (3 * 5 * 4)


def counted(model: nn.Module, size: tuple[int, ...]) -> tuple[int, int]:
    """FLOPs forward and backward by PyTorch's counter."""
    with FlopCounterMode(display=False) as counter:
        output = model.eval()(torch.rand(size))
    forward = counter.get_total_flops()
    with counter:
        output.sum().backward()
    return forward, counter.get_total_flops()


@pytest.mark.parametrize(
    ("model", "size"),
    [
        (networks.ResNet(18, width=4), (1, 3, 64, 64)),
        (networks.UNet(), (2, 3, 32, 32)),
        (networks.Inception(), (1, 3, 33, 33)),
        (nn.Sequential(nn.Conv1d(3, 4, 5, 2), nn.ConvTranspose1d(4, 2, 3, 2)), (2, 3, 20)),
        (nn.Sequential(nn.Conv3d(1, 2, 3), nn.Flatten(), nn.Linear(54, 3)), (1, 1, 5, 5, 5)),
    ],
)
def test_pytorchs_counter_agrees(model: nn.Module, size: tuple[int, ...]) -> None:
    forward, backward = counted(model, size)
    summary = summarize(model, torch.rand(size))
    assert 2 * summary.macs == forward
    assert summary.backward_flops == backward


def test_pytorchs_counter_forgets_groups_in_the_weight_gradient() -> None:
    layer = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 8, 3, groups=4))
    forward, backward = counted(layer, (1, 4, 9, 9))
    summary = summarize(layer, (4, 9, 9))
    one, two = summary.rows[-2:]
    assert 2 * summary.macs == forward
    assert summary.backward_macs == one.macs + 2 * two.macs
    # Input gradient right, weight gradient four groups too many.
    assert backward == 2 * (one.macs + two.macs + 4 * two.macs)


def test_pytorchs_counter_misses_fused_attention_layers() -> None:
    model = networks.Transformer().eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.rand(1, 3, 32, 32))
    tokens, width = 65, 8
    attention = tokens * width * 4 * width + 2 * tokens**2 * width
    patches, mlp, head = 64 * width * 48, 2 * tokens * width * 16, 5 * width
    assert summarize(model, (3, 32, 32)).macs == patches + attention + mlp + head
    assert counter.get_total_flops() < 2 * (attention + mlp)


def test_frozen_layers_want_no_gradient() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3))
    first, second, third = (row.macs for row in summarize(model, (1, 9, 9)).rows[-3:])
    assert summarize(model, (1, 9, 9)).backward_macs == first + 2 * second + 2 * third
    model[0].requires_grad_(False)
    model[1].weight.requires_grad_(False)
    model[1].bias.requires_grad_(False)
    summary = summarize(model, (1, 9, 9))
    assert summary.backward_macs == third
    assert summary.trainable == summary.parameters - 20 - 38


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(8, 8)
        self.two = nn.Linear(8, 8)
        self.two.weight = self.one.weight
        self.spare = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(self.one(x)))


def test_shared_reused_and_unused_parameters() -> None:
    summary = summarize(Shared(), (8,))
    assert summary.parameters == 64 + 8 + 8 + 12
    assert {row.name: (row.calls, row.parameters, row.macs) for row in summary} == {
        "(network)": (1, 12, 0), "one": (2, 72, 128), "two": (1, 8, 64),
    }  # fmt: skip
    assert summary.unused == ("spare.weight", "spare.bias")
    assert any("shared" in note for note in summary.notes)


def test_what_has_no_count_is_listed() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.fft.fft2(x).real + torch.sort(x)[0]

    assert [line for line in summarize(Odd(), (1, 8, 8)).not_counted if line.startswith("aten.")] == [
        "aten._fft_c2c x1 in (network)",
        "aten.sort x1 in (network)",
    ]


def test_liveness_of_a_chain_and_of_a_branch() -> None:
    # 4 bytes * 100: the chain holds input, one map and the next; the branch the first map all the way.
    relu = nn.Sequential(nn.Sigmoid(), nn.Sigmoid(), nn.Sigmoid())
    assert peak(trace(relu, (1, 10, 10))) == 3 * 400
    assert peak(trace(nn.Sequential(nn.ReLU(inplace=True), nn.ReLU(inplace=True)), (1, 10, 10))) == 400

    class Branch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            a = x.sigmoid()
            return a + a.sigmoid().sigmoid()

    assert peak(trace(Branch(), (1, 10, 10))) == 4 * 400


def test_memory_belongs_to_the_layer_that_writes_first() -> None:
    # A ReLU in place takes none, though it is called before and after other layers.
    rows = {row.name: row.output_bytes for row in summarize(networks.ResNet(18, width=4), (3, 64, 64))}
    assert rows["layer1.0.relu"] == 0
    assert rows["layer1.0.conv1"] == rows["layer1.0.bn1"] == rows["layer1.0.bn2"] == 4 * 4 * 16 * 16
    assert "(network)" not in rows


def test_saved_bytes_are_what_autograd_keeps() -> None:
    model = networks.UNet()
    kept: dict[int, int] = {}
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model.train()(torch.rand(2, 3, 32, 32))
    summary = summarize(model, (2, 3, 32, 32))
    assert summary.saved_bytes == sum(kept.values())
    assert summary.training_peak_bytes is not None
    assert summary.training_peak_bytes >= summary.saved_bytes
    assert output.shape == (2, 2, 32, 32)


def test_a_network_that_cannot_train_on_one_image_still_has_a_cost() -> None:
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(2))
    summary = summarize(model, (2, 4, 4))
    assert summary.saved_bytes is None
    assert any(line.startswith("memory in training: 1: ") for line in summary.not_counted)
    assert summarize(model, (2, 2, 4, 4)).saved_bytes


def test_batch_scales_work_and_json_holds_the_totals() -> None:
    model = networks.ResNet(18, width=4)
    one, four = (summarize(model, (n, 3, 32, 32)) for n in (1, 4))
    assert (four.macs, four.flops, four.output_bytes) == (4 * one.macs, 4 * one.flops, 4 * one.output_bytes)
    fields = json.loads(json.dumps(one.to_dict()))
    assert fields["macs"] == sum(row["macs"] for row in fields["rows"]) == one.macs
    assert one.buffers > 0
    assert any("statistics" in note for note in one.notes)


def test_roofline_tells_what_holds_a_layer_up() -> None:
    roof = Roofline(flops=1e12, bandwidth=1e11)
    summary = summarize(networks.ResNet(18), (3, 224, 224), roofline=roof)
    bounds = {row.name: summary.bound(row) for row in summary}
    assert bounds["layer1.0.conv1"] == "compute"
    assert bounds["fc"] == bounds["bn1"] == "memory"
    assert roof.ridge == 10
