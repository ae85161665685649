"""MobileNet: depthwise separable convolutions all the way.

Source: Howard et al., "MobileNets: Efficient convolutional neural networks for mobile vision applications" (2017),
table 1 and figure 3. The figure draws ReLU; its authors' code clips it at 6, and so do the weights that there are.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from striate import nn
from striate.models.initialisation import kaiming_fan_out, normal_linear
from striate.models.registry import register

#: Table 1: output channels and stride of each separable convolution.
LAYERS: Final = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
    (512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1),
)  # fmt: skip


class MobileNetV1(torch.nn.Module):
    """A 3x3 convolution and thirteen separable ones, each of them normalised twice.

    Small input: the first two strides are 1, so that the whole stride is 8 instead of 32.
    """

    def __init__(self, num_classes: int = 1000, in_channels: int = 3, small_input: bool = False) -> None:
        super().__init__()
        self.input_size = (32, 32) if small_input else (224, 224)
        features: list[torch.nn.Module] = [
            nn.ConvNormActivation(in_channels, 32, 3, 1 if small_input else 2, activation=torch.nn.ReLU6)
        ]
        channels, coarse = 32, not small_input
        for width, stride in LAYERS:
            if stride == 2 and not coarse:
                stride, coarse = 1, True
            features.append(
                torch.nn.Sequential(
                    nn.ConvNormActivation(channels, channels, 3, stride, channels, activation=torch.nn.ReLU6),
                    nn.ConvNormActivation(channels, width, 1, activation=torch.nn.ReLU6),
                )
            )
            channels = width
        self.features = torch.nn.Sequential(*features)
        self.avgpool = nn.GlobalAvgPool()
        self.classifier = torch.nn.Linear(channels, num_classes)
        kaiming_fan_out(self)
        normal_linear(self)

    def forward(self, input: Tensor) -> Tensor:
        scores: Tensor = self.classifier(self.avgpool(self.features(input)).flatten(1))
        return scores


register(MobileNetV1, "mobilenet_v1", "MobileNet; 4,231,976 parameters, 224x224 images.")
