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

#: From C_in, channels and stride, and a dilation and a normalisation by name, to a residual block.
Block = Callable[..., Any]


class ResNet(torch.nn.Module):
    """A 7x7 convolution, max pooling, four stages of residual blocks, the mean over all places and a linear layer.

    Args:
        block: what makes a block.
        depths: blocks in each stage.
        num_classes: K.
        in_channels: of the images.
        small_input: the first convolution is 3x3 with stride 1, and there is no max pooling: the whole stride is 8
            instead of 32.
        replace_stride_with_dilation: for each of the last three stages, whether it keeps its input's resolution. The
            convolutions after the former stride get twice the dilation, so that their receptive fields are unchanged.
        norm_layer: from a number of channels to a normalisation.

    Attributes:
        out_channels: of the outputs of ``layer1`` to ``layer4``.

    Source of dilation in place of a stride: Yu, Koltun & Funkhouser, "Dilated residual networks" (2017), section 2.
    """

    def __init__(
        self,
        block: Block,
        depths: tuple[int, int, int, int],
        num_classes: int = 1000,
        in_channels: int = 3,
        small_input: bool = False,
        replace_stride_with_dilation: tuple[bool, bool, bool] = (False, False, False),
        norm_layer: Callable[[int], torch.nn.Module] = torch.nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        if small_input:
            self.input_size = (32, 32)
            self.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        else:
            self.input_size = (224, 224)
            self.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = norm_layer(64)
        self.relu = torch.nn.ReLU()
        self.maxpool: torch.nn.Module | None = None if small_input else nn.MaxPool2d(3, 2, 1)
        channels, dilation = 64, 1
        stages, widths = [], []
        for number, (width, depth) in enumerate(zip((64, 128, 256, 512), depths, strict=True)):
            dilated = number > 0 and replace_stride_with_dilation[number - 1]
            blocks = []
            for index in range(depth):
                strided = number > 0 and index == 0 and not dilated
                blocks.append(block(channels, width, 2 if strided else 1, dilation=dilation, norm=norm_layer))
                channels = blocks[-1].out_channels
                if dilated and index == 0:
                    dilation *= 2
            stages.append(torch.nn.Sequential(*blocks))
            widths.append(channels)
        self.out_channels = tuple(widths)
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
