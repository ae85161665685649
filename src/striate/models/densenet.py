"""DenseNet: every layer sees the maps of all layers before it in its block.

Source: Huang, Liu, van der Maaten & Weinberger, "Densely connected convolutional networks" (CVPR 2017), table 1: with
bottlenecks of four times the growth and transitions that halve the channels (DenseNet-BC). Names of parameters and
initial weights are torchvision's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from striate import nn
from striate.models.registry import register

#: Channels within a layer, in multiples of its growth.
BOTTLENECK: Final = 4


@dataclass(frozen=True)
class Variant:
    """A column of table 1: layers of each block, channels that each layer adds, channels of the first map, parameters.

    DenseNet-161 is not in the table: it is the wide one of the authors' code, with growth 48.
    """

    name: str
    depths: tuple[int, int, int, int]
    growth: int
    stem: int
    parameters: int


VARIANTS: Final = (
    Variant("densenet121", (6, 12, 24, 16), 32, 64, 7_978_856),
    Variant("densenet161", (6, 12, 36, 24), 48, 96, 28_681_000),
    Variant("densenet169", (6, 12, 32, 32), 32, 64, 14_149_480),
    Variant("densenet201", (6, 12, 48, 32), 32, 64, 20_013_928),
)


class Layer(torch.nn.Module):
    """Normalisation, ReLU and a convolution, twice: 1x1, then 3x3; (N, C, H, W) to (N, growth, H, W)."""

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        inner = BOTTLENECK * growth
        self.norm1 = torch.nn.BatchNorm2d(in_channels)
        self.relu1 = torch.nn.ReLU()
        self.conv1 = nn.Conv2d(in_channels, inner, 1, bias=False)
        self.norm2 = torch.nn.BatchNorm2d(inner)
        self.relu2 = torch.nn.ReLU()
        self.conv2 = nn.Conv2d(inner, growth, 3, padding=1, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        inner = self.conv1(self.relu1(self.norm1(input)))
        output: Tensor = self.conv2(self.relu2(self.norm2(inner)))
        return output


class DenseBlock(torch.nn.Module):
    """Layers that each append their maps to all that they have seen: (N, C, H, W) to (N, C + depth * growth, H, W)."""

    def __init__(self, in_channels: int, depth: int, growth: int) -> None:
        super().__init__()
        for number in range(depth):
            self.add_module(f"denselayer{number + 1}", Layer(in_channels + number * growth, growth))

    def forward(self, input: Tensor) -> Tensor:
        maps = [input]
        for layer in self.children():
            maps.append(layer(torch.cat(maps, 1)))
        return torch.cat(maps, 1)


class Transition(torch.nn.Sequential):
    """Half of the channels and half of the resolution: (N, C, H, W) to (N, C / 2, H / 2, W / 2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(channels)
        self.relu = torch.nn.ReLU()
        self.conv = nn.Conv2d(channels, channels // 2, 1, bias=False)
        self.pool = nn.AvgPool2d(2, 2)


class DenseNet(torch.nn.Module):
    """A 7x7 convolution, max pooling, four dense blocks with transitions between, and a linear layer.

    Args:
        variant: a row of the table above.
        num_classes: K of the output (N, K).
        in_channels: of the images.
        small_input: the first convolution is 3x3 with stride 1, and there is no max pooling: the whole stride is 8
            instead of 32.
    """

    def __init__(
        self, variant: Variant, num_classes: int = 1000, in_channels: int = 3, small_input: bool = False
    ) -> None:
        super().__init__()
        self.input_size = (32, 32) if small_input else (224, 224)
        channels = variant.stem
        size, stride = (3, 1) if small_input else (7, 2)
        self.features = torch.nn.Sequential()
        self.features.add_module("conv0", nn.Conv2d(in_channels, channels, size, stride, size // 2, bias=False))
        self.features.add_module("norm0", torch.nn.BatchNorm2d(channels))
        self.features.add_module("relu0", torch.nn.ReLU())
        if not small_input:
            self.features.add_module("pool0", nn.MaxPool2d(3, 2, 1))
        for number, depth in enumerate(variant.depths, 1):
            self.features.add_module(f"denseblock{number}", DenseBlock(channels, depth, variant.growth))
            channels += depth * variant.growth
            if number < len(variant.depths):
                self.features.add_module(f"transition{number}", Transition(channels))
                channels //= 2
        self.features.add_module("norm5", torch.nn.BatchNorm2d(channels))
        self.avgpool = nn.GlobalAvgPool()
        self.classifier = torch.nn.Linear(channels, num_classes)
        for layer in self.modules():
            if isinstance(layer, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(layer.weight)
        torch.nn.init.zeros_(self.classifier.bias)

    def forward(self, input: Tensor) -> Tensor:
        maps = F.relu(self.features(input))
        scores: Tensor = self.classifier(self.avgpool(maps).flatten(1))
        return scores


for _variant in VARIANTS:
    register(
        partial(DenseNet, _variant),
        _variant.name,
        f"DenseNet-{_variant.name.removeprefix('densenet')}; {_variant.parameters:,} parameters, 224x224 images.",
    )
