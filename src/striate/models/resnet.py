"""Residual networks, with squeeze-and-excitation too.

Sources: He, Zhang, Ren & Sun, "Deep residual learning for image recognition" (2016), table 1 and figure 5; Hu, Shen &
Sun, "Squeeze-and-excitation networks" (2018), table 1, with the block at the end of the residual branch (figure 3) and
a reduction of 16.

``resnet50`` and deeper have the stride on the 3x3 convolution, as weight files mostly do; ``resnet50_v1`` and deeper
have it where the paper's own models have it, on the first 1x1. Initial weights are torchvision's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor

from striate import nn
from striate.models.initialisation import kaiming_fan_out
from striate.models.registry import register

#: From C_in, channels and stride to a residual block.
Block = Callable[[int, int, int], Any]


class ResNet(torch.nn.Module):
    """A 7x7 convolution, max pooling, four stages of residual blocks, the mean over all places and a linear layer.

    Args:
        block: what makes a block.
        depths: blocks in each stage.
        num_classes: K.
        in_channels: of the images.
        small_input: the first convolution is 3x3 with stride 1, and there is no max pooling: the whole stride is 8
            instead of 32.
    """

    def __init__(
        self,
        block: Block,
        depths: tuple[int, int, int, int],
        num_classes: int = 1000,
        in_channels: int = 3,
        small_input: bool = False,
    ) -> None:
        super().__init__()
        if small_input:
            self.input_size = (32, 32)
            self.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        else:
            self.input_size = (224, 224)
            self.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(64)
        self.relu = torch.nn.ReLU()
        self.maxpool: torch.nn.Module | None = None if small_input else nn.MaxPool2d(3, 2, 1)
        channels = 64
        stages = []
        for width, stride, depth in zip((64, 128, 256, 512), (1, 2, 2, 2), depths, strict=True):
            blocks = []
            for index in range(depth):
                blocks.append(block(channels, width, stride if index == 0 else 1))
                channels = blocks[-1].out_channels
            stages.append(torch.nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.GlobalAvgPool()
        self.fc = torch.nn.Linear(channels, num_classes)
        kaiming_fan_out(self)

    def forward(self, input: Tensor) -> Tensor:
        maps = self.layer4(self.layer3(self.layer2(self.layer1(self.stem(input)))))
        scores: Tensor = self.fc(self.avgpool(maps).flatten(1))
        return scores

    def stem(self, input: Tensor) -> Tensor:
        """What comes before the first stage."""
        maps: Tensor = self.relu(self.bn1(self.conv1(input)))
        if self.maxpool is not None:
            maps = self.maxpool(maps)
        return maps


@dataclass(frozen=True)
class Variant:
    """A network: its block, the blocks of each stage, its parameters."""

    name: str
    block: Block
    depths: tuple[int, int, int, int]
    parameters: int
    words: str


PAPERS: Final = partial(nn.Bottleneck, stride_first=True)
SE_BASIC: Final = partial(nn.BasicBlock, squeeze=16)
SE_BOTTLENECK: Final = partial(nn.Bottleneck, squeeze=16)

VARIANTS: Final = (
    Variant("resnet18", nn.BasicBlock, (2, 2, 2, 2), 11_689_512, "ResNet-18"),
    Variant("resnet34", nn.BasicBlock, (3, 4, 6, 3), 21_797_672, "ResNet-34"),
    Variant("resnet50", nn.Bottleneck, (3, 4, 6, 3), 25_557_032, "ResNet-50"),
    Variant("resnet101", nn.Bottleneck, (3, 4, 23, 3), 44_549_160, "ResNet-101"),
    Variant("resnet152", nn.Bottleneck, (3, 8, 36, 3), 60_192_808, "ResNet-152"),
    Variant("resnet50_v1", PAPERS, (3, 4, 6, 3), 25_557_032, "ResNet-50, stride on the first 1x1"),
    Variant("resnet101_v1", PAPERS, (3, 4, 23, 3), 44_549_160, "ResNet-101, stride on the first 1x1"),
    Variant("resnet152_v1", PAPERS, (3, 8, 36, 3), 60_192_808, "ResNet-152, stride on the first 1x1"),
    Variant("se_resnet18", SE_BASIC, (2, 2, 2, 2), 11_778_592, "ResNet-18 with squeeze-and-excitation"),
    Variant("se_resnet34", SE_BASIC, (3, 4, 6, 3), 21_958_868, "ResNet-34 with squeeze-and-excitation"),
    Variant("se_resnet50", SE_BOTTLENECK, (3, 4, 6, 3), 28_088_024, "ResNet-50 with squeeze-and-excitation"),
    Variant("se_resnet101", SE_BOTTLENECK, (3, 4, 23, 3), 49_326_872, "ResNet-101 with squeeze-and-excitation"),
    Variant("se_resnet152", SE_BOTTLENECK, (3, 8, 36, 3), 66_821_848, "ResNet-152 with squeeze-and-excitation"),
)

for _variant in VARIANTS:
    register(
        partial(ResNet, _variant.block, _variant.depths),
        _variant.name,
        f"{_variant.words}; {_variant.parameters:,} parameters, 224x224 images.",
    )
