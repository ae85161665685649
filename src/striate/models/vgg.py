"""VGG: small filters in deep stacks, with and without batch normalisation.

Source: Simonyan & Zisserman, "Very deep convolutional networks for large-scale image recognition" (2015), table 1
(configurations A, B, D and E) and section 2.1. Batch normalisation came later, and goes between each convolution and
its ReLU. Initial weights are torchvision's: He's for convolutions, normal of deviation 0.01 for linear layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Final

import torch
from torch import Tensor

from striate import nn
from striate.models.initialisation import kaiming_fan_out, normal_linear
from striate.models.registry import register


@dataclass(frozen=True)
class Variant:
    """A column of table 1: how many convolutions each of the five stages has, and parameters without/with norm."""

    name: str
    convolutions: tuple[int, int, int, int, int]
    parameters: tuple[int, int]


VARIANTS: Final = (
    Variant("vgg11", (1, 1, 2, 2, 2), (132_863_336, 132_868_840)),
    Variant("vgg13", (2, 2, 2, 2, 2), (133_047_848, 133_053_736)),
    Variant("vgg16", (2, 2, 3, 3, 3), (138_357_544, 138_365_992)),
    Variant("vgg19", (2, 2, 4, 4, 4), (143_667_240, 143_678_248)),
)
WIDTHS: Final = (64, 128, 256, 512, 512)


def features(
    variant: Variant, norm: bool = False, in_channels: int = 3, ceil_mode: bool = False
) -> torch.nn.Sequential:
    """The five stages, (N, C, H, W) to (N, 512, H / 32, W / 32), one layer after the other.

    Args:
        variant: how many convolutions each stage has.
        norm: batch normalisation between each convolution and its ReLU.
        in_channels: C.
        ceil_mode: whether pooling rounds sizes up.
    """
    layers: list[torch.nn.Module] = []
    for width, convolutions in zip(WIDTHS, variant.convolutions, strict=True):
        for _ in range(convolutions):
            layers.append(nn.Conv2d(in_channels, width, 3, padding=1))
            if norm:
                layers.append(torch.nn.BatchNorm2d(width))
            layers.append(torch.nn.ReLU())
            in_channels = width
        layers.append(nn.MaxPool2d(2, ceil_mode=ceil_mode))
    return torch.nn.Sequential(*layers)


class VGG(torch.nn.Module):
    """Five stages of 3x3 convolutions that keep the size, each closed by 2x2 max pooling, and a perceptron.

    Small input: pooling rounds sizes up, which leaves one place of 28x28 and 32x32 images; the perceptron sees 1x1 of
    each channel instead of 7x7.
    """

    def __init__(
        self, variant: Variant, norm: bool, num_classes: int = 1000, in_channels: int = 3, small_input: bool = False
    ) -> None:
        super().__init__()
        self.input_size = (32, 32) if small_input else (224, 224)
        pooled = 1 if small_input else 7
        self.features = features(variant, norm, in_channels, ceil_mode=small_input)
        self.avgpool = nn.AdaptiveAvgPool2d((pooled, pooled))
        self.classifier = torch.nn.Sequential(
            torch.nn.Linear(512 * pooled**2, 4096),
            torch.nn.ReLU(),
            torch.nn.Dropout(),
            torch.nn.Linear(4096, 4096),
            torch.nn.ReLU(),
            torch.nn.Dropout(),
            torch.nn.Linear(4096, num_classes),
        )
        kaiming_fan_out(self)
        normal_linear(self)

    def forward(self, input: Tensor) -> Tensor:
        scores: Tensor = self.classifier(self.avgpool(self.features(input)).flatten(1))
        return scores


for _variant in VARIANTS:
    for _norm, _suffix, _words in ((False, "", ""), (True, "_bn", " with batch normalisation")):
        register(
            partial(VGG, _variant, _norm),
            _variant.name + _suffix,
            f"VGG-{_variant.name[3:]}{_words}; {_variant.parameters[_norm]:,} parameters, 224x224 images.",
        )
