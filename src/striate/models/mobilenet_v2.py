"""MobileNetV2: inverted residuals with linear bottlenecks.

Source: Sandler, Howard, Zhu, Zhmoginov & Chen, "MobileNetV2: Inverted residuals and linear bottlenecks" (2018), tables
1 and 2. Names of parameters and initial weights are torchvision's.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from striate import nn
from striate.models.initialisation import kaiming_fan_out, normal_linear
from striate.models.registry import register

#: Table 2: expansion, output channels, blocks and the first block's stride.
STAGES: Final = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class _Block(torch.nn.Module):
    """:class:`striate.nn.InvertedResidual` under this network's own names: the projection isn't a layer by itself."""

    def __init__(self, in_channels: int, out_channels: int, expansion: int, stride: int) -> None:
        super().__init__()
        block = nn.InvertedResidual(in_channels, out_channels, expansion, stride=stride)
        *inner, projection = block.block
        self.conv = torch.nn.Sequential(*inner, *projection.children())
        self.shortcut = block.shortcut

    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = self.conv(input)
        return output + input if self.shortcut else output


class MobileNetV2(torch.nn.Module):
    """A 3x3 convolution, seventeen inverted residuals, a 1x1 convolution and a linear layer.

    Small input: the first two strides are 1, so that the whole stride is 8 instead of 32.
    """

    def __init__(self, num_classes: int = 1000, in_channels: int = 3, small_input: bool = False) -> None:
        super().__init__()
        self.input_size = (32, 32) if small_input else (224, 224)
        features: list[torch.nn.Module] = [
            nn.ConvNormActivation(in_channels, 32, 3, 1 if small_input else 2, activation=torch.nn.ReLU6)
        ]
        channels = 32
        for number, (expansion, width, blocks, first) in enumerate(STAGES):
            for index in range(blocks):
                stride = first if index == 0 and not (small_input and number == 1) else 1
                features.append(_Block(channels, width, expansion, stride))
                channels = width
        features.append(nn.ConvNormActivation(channels, 1280, 1, activation=torch.nn.ReLU6))
        self.features = torch.nn.Sequential(*features)
        self.avgpool = nn.GlobalAvgPool()
        self.classifier = torch.nn.Sequential(torch.nn.Dropout(0.2), torch.nn.Linear(1280, num_classes))
        kaiming_fan_out(self)
        normal_linear(self)

    def forward(self, input: Tensor) -> Tensor:
        scores: Tensor = self.classifier(self.avgpool(self.features(input)).flatten(1))
        return scores


register(MobileNetV2, "mobilenet_v2", "MobileNetV2; 3,504,872 parameters, 224x224 images.")
