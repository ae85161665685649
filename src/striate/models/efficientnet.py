"""EfficientNet: one network, scaled in width, depth and resolution at once.

Sources: Tan & Le, "EfficientNet: Rethinking model scaling for convolutional neural networks" (2019), table 1; widths,
depths, resolutions and dropout of B1 to B7 are those of its authors' code. EfficientNet-Lite is the same authors' form
for small devices (2020): ReLU6 instead of SiLU, no squeeze-and-excitation, a first and a last layer that aren't scaled.
Names of parameters and initial weights are torchvision's. So are padding and normalisation of B0 to B7; Lite0 keeps
TensorFlow's, in which its weights were trained.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch
from torch import Tensor

from striate import nn
from striate.models.initialisation import kaiming_fan_out
from striate.models.registry import register

#: Table 1: expansion, kernel size, the first block's stride, output channels and blocks, before scaling.
STAGES: Final = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
STEM, HEAD = 32, 1280

#: Probability with which the last block's branch is dropped in training; it rises with depth from 0.
DROP: Final = 0.2

TENSORFLOW: Final = partial(torch.nn.BatchNorm2d, eps=1e-3, momentum=0.01)


@dataclass(frozen=True)
class Variant:
    """A row of the family: factors of width and depth, pixels a side, dropout before the last layer, parameters.

    ``lite`` is EfficientNet-Lite's form; ``norm`` makes a normalisation; ``note`` is for the list of networks.
    """

    name: str
    width: float
    depth: float
    size: int
    dropout: float
    parameters: int
    norm: type[torch.nn.BatchNorm2d] | partial[torch.nn.BatchNorm2d] = torch.nn.BatchNorm2d
    lite: bool = False
    note: str = ""


VARIANTS: Final = (
    Variant("efficientnet_b0", 1.0, 1.0, 224, 0.2, 5_288_548),
    Variant("efficientnet_b1", 1.0, 1.1, 240, 0.2, 7_794_184),
    Variant("efficientnet_b2", 1.1, 1.2, 260, 0.3, 9_109_994),
    Variant("efficientnet_b3", 1.2, 1.4, 300, 0.3, 12_233_232),
    Variant("efficientnet_b4", 1.4, 1.8, 380, 0.4, 19_341_616),
    Variant("efficientnet_b5", 1.6, 2.2, 456, 0.4, 30_389_784, TENSORFLOW),
    Variant("efficientnet_b6", 1.8, 2.6, 528, 0.5, 43_040_704, TENSORFLOW),
    Variant("efficientnet_b7", 2.0, 3.1, 600, 0.5, 66_347_960, TENSORFLOW),
    Variant("efficientnet_lite0", 1.0, 1.0, 224, 0.2, 4_652_008, TENSORFLOW, lite=True, note=", pretrained"),
)


def scaled(channels: int, width: float) -> int:
    """``channels`` times ``width``, rounded to a multiple of 8, but down by no more than a tenth.

    >>> scaled(24, 1.1), scaled(40, 1.1), scaled(16, 1.2)
    (24, 48, 24)
    """
    wanted = channels * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded


class PooledClassifier(torch.nn.Module):
    """Features, their means over all places, dropout and a linear layer: both versions of EfficientNet.

    Args:
        features: what computes them, (N, C, H, W) to (N, channels, h, w).
        channels: of the features.
        num_classes: K of the output (N, K).
        dropout: the probability of an input of the linear layer to be dropped in training.
    """

    def __init__(self, features: Sequence[torch.nn.Module], channels: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.features = torch.nn.Sequential(*features)
        self.avgpool = nn.GlobalAvgPool()
        self.classifier = torch.nn.Sequential(torch.nn.Dropout(dropout), torch.nn.Linear(channels, num_classes))
        kaiming_fan_out(self)
        bound = 1 / math.sqrt(num_classes)
        torch.nn.init.uniform_(self.classifier[1].get_parameter("weight"), -bound, bound)
        torch.nn.init.zeros_(self.classifier[1].get_parameter("bias"))

    def forward(self, input: Tensor) -> Tensor:
        scores: Tensor = self.classifier(self.avgpool(self.features(input)).flatten(1))
        return scores


class EfficientNet(PooledClassifier):
    """A 3x3 convolution, seven stages of inverted residuals, a 1x1 convolution and a linear layer.

    Small input: the first two strides are 1, so that the whole stride is 8 instead of 32.
    """

    def __init__(
        self, variant: Variant, num_classes: int = 1000, in_channels: int = 3, small_input: bool = False
    ) -> None:
        activation: type[torch.nn.Module] = torch.nn.ReLU6 if variant.lite else torch.nn.SiLU
        padding = "same" if variant.lite else None
        outer = partial(nn.ConvNormActivation, norm=variant.norm, activation=activation)
        channels = STEM if variant.lite else scaled(STEM, variant.width)
        features: list[torch.nn.Module] = [outer(in_channels, channels, 3, 1 if small_input else 2, padding=padding)]
        depths = [math.ceil(blocks * variant.depth) for *_, blocks in STAGES]
        done = 0
        for number, (expansion, kernel_size, first, base, _) in enumerate(STAGES):
            width, stage = scaled(base, variant.width), []
            for index in range(depths[number]):
                stage.append(
                    nn.InvertedResidual(
                        channels,
                        width,
                        expansion,
                        kernel_size,
                        first if index == 0 and not (small_input and number == 1) else 1,
                        padding,
                        squeezed=None if variant.lite else channels // 4,
                        norm=variant.norm,
                        activation=activation,
                        drop=DROP * done / sum(depths),
                    )
                )
                channels, done = width, done + 1
            features.append(torch.nn.Sequential(*stage))
        head = HEAD if variant.lite else 4 * channels
        features.append(outer(channels, head, 1))
        super().__init__(features, head, num_classes, variant.dropout)
        self.input_size = (32, 32) if small_input else (variant.size, variant.size)


for _variant in VARIANTS:
    register(
        partial(EfficientNet, _variant),
        _variant.name,
        f"EfficientNet-{_variant.name.partition('_')[2].capitalize()}{_variant.note}; "
        f"{_variant.parameters:,} parameters, {_variant.size}x{_variant.size} images.",
    )
