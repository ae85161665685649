"""EfficientNetV2: EfficientNet whose first stages are ordinary convolutions, which train faster.

Source: Tan & Le, "EfficientNetV2: Smaller models and faster training" (ICML 2021), figure 2 and table 4; M and L are
those of its authors' code. Names of parameters and initial weights are torchvision's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple

import torch
from torch import Tensor

from striate import nn
from striate.models.efficientnet import PooledClassifier
from striate.models.registry import register

HEAD: Final = 1280
#: Probability with which the last block's branch is dropped in training; it rises with depth from 0.
DROP: Final = 0.2
NORM: Final = partial(torch.nn.BatchNorm2d, eps=1e-3)
KERNEL: Final = 3


class Stage(NamedTuple):
    """A row of table 4: whether blocks are fused, expansion, the first block's stride, output channels, blocks."""

    fused: bool
    expansion: int
    stride: int
    width: int
    depth: int


@dataclass(frozen=True)
class Variant:
    """A network: its stages, pixels a side, dropout before the last layer, parameters.

    The first convolution has as many channels as the first stage.
    """

    name: str
    stages: tuple[Stage, ...]
    size: int
    dropout: float
    parameters: int


VARIANTS: Final = (
    Variant(
        "efficientnet_v2_s",
        (
            Stage(True, 1, 1, 24, 2),
            Stage(True, 4, 2, 48, 4),
            Stage(True, 4, 2, 64, 4),
            Stage(False, 4, 2, 128, 6),
            Stage(False, 6, 1, 160, 9),
            Stage(False, 6, 2, 256, 15),
        ),
        384,
        0.2,
        21_458_488,
    ),
    Variant(
        "efficientnet_v2_m",
        (
            Stage(True, 1, 1, 24, 3),
            Stage(True, 4, 2, 48, 5),
            Stage(True, 4, 2, 80, 5),
            Stage(False, 4, 2, 160, 7),
            Stage(False, 6, 1, 176, 14),
            Stage(False, 6, 2, 304, 18),
            Stage(False, 6, 1, 512, 5),
        ),
        480,
        0.3,
        54_139_356,
    ),
    Variant(
        "efficientnet_v2_l",
        (
            Stage(True, 1, 1, 32, 4),
            Stage(True, 4, 2, 64, 7),
            Stage(True, 4, 2, 96, 7),
            Stage(False, 4, 2, 192, 10),
            Stage(False, 6, 1, 224, 19),
            Stage(False, 6, 2, 384, 25),
            Stage(False, 6, 1, 640, 7),
        ),
        480,
        0.4,
        118_515_272,
    ),
)


class FusedBlock(torch.nn.Module):
    """An inverted residual with one 3x3 convolution in place of the 1x1 and the depthwise one.

    (N, C_in, H, W) to (N, C, H', W'). Without expansion there is that convolution alone, with its activation.

    Source: Tan & Le (2021), figure 2.
    """

    def __init__(self, in_channels: int, out_channels: int, expansion: int, stride: int, drop: float) -> None:
        super().__init__()
        wide = partial(nn.ConvNormActivation, norm=NORM, activation=torch.nn.SiLU)
        if expansion == 1:
            self.block = torch.nn.Sequential(wide(in_channels, out_channels, KERNEL, stride))
        else:
            inner = in_channels * expansion
            self.block = torch.nn.Sequential(
                wide(in_channels, inner, KERNEL, stride),
                nn.ConvNormActivation(inner, out_channels, 1, norm=NORM, activation=None),
            )
        self.stochastic_depth = nn.StochasticDepth(drop)
        self.shortcut = stride == 1 and in_channels == out_channels

    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = self.block(input)
        return self.stochastic_depth(output) + input if self.shortcut else output


def _inverted(in_channels: int, out_channels: int, expansion: int, stride: int, drop: float) -> torch.nn.Module:
    return nn.InvertedResidual(
        in_channels,
        out_channels,
        expansion,
        KERNEL,
        stride,
        squeezed=in_channels // 4,
        norm=NORM,
        activation=torch.nn.SiLU,
        drop=drop,
    )


class EfficientNetV2(PooledClassifier):
    """A 3x3 convolution, stages of fused and then of ordinary inverted residuals, a 1x1 convolution, a linear layer.

    Args:
        variant: a row of the table above.
        num_classes: K of the output (N, K).
        in_channels: of the images.
        small_input: the first two strides are 1, so that the whole stride is 8 instead of 32.
    """

    def __init__(
        self, variant: Variant, num_classes: int = 1000, in_channels: int = 3, small_input: bool = False
    ) -> None:
        outer = partial(nn.ConvNormActivation, norm=NORM, activation=torch.nn.SiLU)
        channels = variant.stages[0].width
        features: list[torch.nn.Module] = [outer(in_channels, channels, 3, 1 if small_input else 2)]
        total, done = sum(stage.depth for stage in variant.stages), 0
        for number, stage in enumerate(variant.stages):
            block: Callable[..., torch.nn.Module] = FusedBlock if stage.fused else _inverted
            first = 1 if small_input and number == 1 else stage.stride
            blocks = []
            for index in range(stage.depth):
                stride = first if index == 0 else 1
                blocks.append(block(channels, stage.width, stage.expansion, stride, drop=DROP * done / total))
                channels, done = stage.width, done + 1
            features.append(torch.nn.Sequential(*blocks))
        features.append(outer(channels, HEAD, 1))
        super().__init__(features, HEAD, num_classes, variant.dropout)
        self.input_size = (32, 32) if small_input else (variant.size, variant.size)


for _variant in VARIANTS:
    register(
        partial(EfficientNetV2, _variant),
        _variant.name,
        f"EfficientNetV2-{_variant.name[-1].upper()}; "
        f"{_variant.parameters:,} parameters, {_variant.size}x{_variant.size} images.",
    )
