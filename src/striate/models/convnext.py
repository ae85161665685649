"""ConvNeXt: a ResNet brought up to date, step by step, until it stands beside vision transformers.

Source: Liu, Mao, Wu, Feichtenhofer, Darrell & Xie, "A ConvNet for the 2020s" (CVPR 2022): the block of figure 4, the
stages of table 9, the variants of section 3, stochastic depth of table 5. Layers, names and initial values in
distribution are torchvision's, so that its files of weights fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Final

import torch
from torch import Tensor

from striate import nn
from striate.models.registry import register


@dataclass(frozen=True)
class Variant:
    """A row of the family: blocks and channels of the four stages, how often the last block is dropped, parameters."""

    name: str
    blocks: tuple[int, int, int, int]
    channels: tuple[int, int, int, int]
    drop: float
    parameters: int


VARIANTS: Final = (
    Variant("convnext_tiny", (3, 3, 9, 3), (96, 192, 384, 768), 0.1, 28_589_128),
    Variant("convnext_small", (3, 3, 27, 3), (96, 192, 384, 768), 0.4, 50_223_688),
    Variant("convnext_base", (3, 3, 27, 3), (128, 256, 512, 1024), 0.5, 88_591_464),
    Variant("convnext_large", (3, 3, 27, 3), (192, 384, 768, 1536), 0.5, 197_767_336),
)

_EPS: Final = 1e-6


class Permute(torch.nn.Module):
    """The axes of a tensor in another order."""

    def __init__(self, *order: int) -> None:
        super().__init__()
        self.order = order

    def forward(self, input: Tensor) -> Tensor:
        return input.permute(self.order)


class Block(torch.nn.Module):
    """7x7 depthwise, LayerNorm, four times the channels and back with GELU between, scaled, and added to its input."""

    def __init__(self, channels: int, drop: float) -> None:
        super().__init__()
        self.block = torch.nn.Sequential(
            nn.Conv2d(channels, channels, 7, padding=3, groups=channels),
            Permute(0, 2, 3, 1),
            torch.nn.LayerNorm(channels, eps=_EPS),
            torch.nn.Linear(channels, 4 * channels),
            torch.nn.GELU(),
            torch.nn.Linear(4 * channels, channels),
            Permute(0, 3, 1, 2),
        )
        self.layer_scale = torch.nn.Parameter(torch.full((channels, 1, 1), 1e-6))
        self.stochastic_depth = nn.StochasticDepth(drop)

    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = input + self.stochastic_depth(self.layer_scale * self.block(input))
        return output


class ConvNeXt(torch.nn.Module):
    """A stem that cuts the image into patches, four stages with halvings between, a mean over positions, a classifier.

    Takes images of 32x32 pixels or more.

    Args:
        variant: a row of the table above.
        num_classes: K of the output (N, K).
        in_channels: of the images.
        small_input: patches of 2x2 instead of 4x4, for images of 28x28 or 32x32; all else stays.
    """

    def __init__(
        self, variant: Variant, num_classes: int = 1000, in_channels: int = 3, small_input: bool = False
    ) -> None:
        super().__init__()
        patch = 2 if small_input else 4
        self.input_size = (32, 32) if small_input else (224, 224)
        width = variant.channels[0]
        stem = (nn.Conv2d(in_channels, width, patch, stride=patch), nn.LayerNorm2d(width, eps=_EPS))
        layers = [torch.nn.Sequential(*stem)]
        last, number = sum(variant.blocks) - 1, 0
        for blocks, channels in zip(variant.blocks, variant.channels, strict=True):
            if channels != width:
                halving = nn.LayerNorm2d(width, eps=_EPS), nn.Conv2d(width, channels, 2, stride=2)
                layers.append(torch.nn.Sequential(*halving))
                width = channels
            drops = (variant.drop * each / last for each in range(number, number + blocks))
            layers.append(torch.nn.Sequential(*(Block(channels, drop) for drop in drops)))
            number += blocks
        self.features = torch.nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = torch.nn.Sequential(
            nn.LayerNorm2d(width, eps=_EPS), torch.nn.Flatten(), torch.nn.Linear(width, num_classes)
        )
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | torch.nn.Linear):
                torch.nn.init.trunc_normal_(layer.weight, std=0.02)
                torch.nn.init.zeros_(layer.get_parameter("bias"))

    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = self.classifier(self.avgpool(self.features(input)))
        return output


for _variant in VARIANTS:
    register(
        partial(ConvNeXt, _variant),
        _variant.name,
        f"ConvNeXt-{_variant.name.partition('_')[2][0].upper()}; {_variant.parameters:,} parameters, 224x224 images.",
    )
