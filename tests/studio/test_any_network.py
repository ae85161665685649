"""Networks of other libraries and strange modules open: graph, costs, fields, small maps and every tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from strange import strange
from torch import nn

from cases import slow_but

LIGHT = ["torchvision:mobilenet_v3_small", "timm:resnet10t", "timm:lcnet_050"]
OTHERS = [
    "torchvision:squeezenet1_1", "timm:vit_tiny_patch16_224",
    "torchvision:shufflenet_v2_x0_5", "torchvision:mnasnet0_5", "torchvision:densenet121", "torchvision:googlenet",
    "torchvision:regnet_y_400mf", "torchvision:efficientnet_b0", "torchvision:swin_t", "timm:convnext_atto",
    "timm:ghostnet_100", "timm:mixer_s32_224", "timm:edgenext_xx_small", "timm:mobilevit_xxs", "timm:levit_128s",
    "timm:poolformer_s12", "timm:tinynet_e", "timm:resnest14d",
]  # fmt: skip
FIXED = ("vit", "mixer", "levit", "swin")  # whose picture has one size


def opens(client: Any, *, tensors: int = 40) -> dict[str, Any]:
    """Asks for all that a first look at a network shows, and that it is whole."""
    first = client.json("/api/network")
    assert first["nodes"]
    closed = client.json("/api/network", open="-")
    every = client.json("/api/network", open=",".join(node["id"] for node in first["nodes"] if node["opens"]) or "-")
    for shown in (first, closed, every):
        names = {node["id"] for node in shown["nodes"]}
        assert all({edge["source"], edge["target"]} <= names for edge in shown["edges"])
    for figure in ("parameters", "macs", "flops", "bytes"):
        assert len({sum(node[figure] for node in shown["nodes"]) for shown in (first, closed, every)}) == 1
    assert isinstance(client.json("/api/network/fields")["fields"], dict)
    values = sorted({value for node in first["nodes"] for value in node["values"]})
    header, numbers = client.numbers("/api/network/thumbnails", values=",".join(map(str, values[:100])))
    assert all(each["start"] + np.prod(each["shape"]) <= len(numbers) for each in header["maps"])
    listed = client.json("/api/tensors")["tensors"]
    for each in listed[:: max(1, len(listed) // tensors)]:
        header, _ = client.numbers(f"/api/tensor/{each['value']}", size=32)
        assert header["full"] == each["shape"]
    return first  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", [*LIGHT, *(pytest.param(each, marks=pytest.mark.slow) for each in OTHERS)])
def test_networks_of_other_libraries_open(name: str, peer: Callable[..., nn.Module], start: Callable[..., Any]) -> None:
    side = 224 if any(word in name for word in FIXED) else 64
    client = start(peer(name), torch.rand(1, 3, side, side))
    first = opens(client, tensors=12)
    assert len(first["nodes"]) <= 64
    client.studio.stop()


@pytest.mark.parametrize("name", list(strange()))
def test_strange_modules_open(name: str, start: Callable[..., Any]) -> None:
    model, inputs = strange()[name]
    client = start(model, inputs)
    opens(client)
    client.studio.stop()


class Unfolding(nn.Module):
    """Complex numbers, whole numbers and truth values between floating ones."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        spectrum = torch.fft.fft2(x)
        return spectrum.abs(), spectrum, (x > 0).any(-1)


class Deep(nn.Module):
    """A thousand operators without a layer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for step in range(500):
            x = (x + step).sin()
        return x


class Random(nn.Module):
    """What comes out depends on no input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.randn(1, 2, 3, 3).relu()


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LSTM(4, 3, batch_first=True)

    def forward(self, x: torch.Tensor) -> Any:
        return self.layer(x)


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (Unfolding(), torch.rand(1, 1, 4, 4)),
        pytest.param(Deep(), torch.rand(1, 1, 2, 2), marks=pytest.mark.slow),
        (Random(), torch.rand(1, 1, 2, 2)),
        (Recurrent(), torch.rand(1, 5, 4)),
        (nn.Identity(), torch.rand(1, 3, 4, 4)),
        (nn.Linear(3, 2), torch.rand(7, 3)),
        (nn.Conv3d(1, 2, 2), torch.rand(1, 1, 3, 4, 5)),
        (nn.Embedding(9, 4), torch.tensor([[1, 2, 3]])),
        (nn.Sequential(*(nn.Sequential(nn.Conv2d(1, 1, 1), nn.Dropout()) for _ in range(60))), torch.rand(1, 1, 3, 3)),
        (nn.ModuleDict({"a,b": nn.ReLU()})["a,b"], torch.rand(2, 0, 4, 4)),
        (nn.Bilinear(2, 3, 4), [torch.rand(1, 2), torch.rand(1, 3)]),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, nn.Module) else "",
)
def test_odd_tensors_and_shapes_open(model: nn.Module, inputs: Any, start: Callable[..., Any]) -> None:
    client = start(model, inputs)
    opens(client)
    client.studio.stop()


@pytest.mark.parametrize("name", slow_but(strange(), ["Empty", "Writing", "Steered"]))
def test_strange_modules_show_without_an_error(name: str, start: Callable[..., Any], browser: Any) -> None:
    model, inputs = strange()[name]
    client = start(model, inputs)
    browser.open(client)
    browser.wait("document.querySelector('[data-node]')")
    value = client.json("/api/tensors")["tensors"][-1]["value"]
    browser.open(client, f"#/numbers/{value}")
    browser.wait("document.querySelector('.maps canvas, .numbers .note')")
    assert browser.errors() == []
    client.studio.stop()
