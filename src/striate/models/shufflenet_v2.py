"""ShuffleNetV2: half of the channels pass a block unchanged, and a shuffle mixes the halves.

Source: Ma, Zhang, Zheng & Sun, "ShuffleNet V2: Practical guidelines for efficient CNN architecture design" (ECCV 2018),
figure 3 (c) and (d), table 5. Names of parameters and initial weights are torchvision's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Final

import torch
from torch import Tensor

from striate import nn
from striate.models.registry import register

STEM: Final = 24
#: Blocks of each stage.
DEPTHS: Final = (4, 8, 4)


@dataclass(frozen=True)
class Variant:
    """A column of table 5: channels of the three stages and of the last convolution, parameters."""

    name: str
    widths: tuple[int, int, int]
    last: int
    parameters: int


VARIANTS: Final = (
    Variant("shufflenet_v2_x0_5", (48, 96, 192), 1024, 1_366_792),
    Variant("shufflenet_v2_x1_0", (116, 232, 464), 1024, 2_278_604),
    Variant("shufflenet_v2_x1_5", (176, 352, 704), 1024, 3_503_624),
    Variant("shufflenet_v2_x2_0", (244, 488, 976), 2048, 7_393_996),
)


def shuffled(input: Tensor) -> Tensor:
    """The channels of the two halves of (N, C, H, W) in turn: 0, C/2, 1, C/2 + 1, ...

    >>> shuffled(torch.arange(6.0).reshape(1, 6, 1, 1)).flatten().tolist()
    [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]
    """
    pairs: Tensor = input.unflatten(1, (2, -1))
    return pairs.transpose(1, 2).flatten(1, 2)


def _depthwise(channels: int, stride: int) -> tuple[torch.nn.Module, ...]:
    return tuple(nn.ConvNormActivation(channels, channels, 3, stride, channels, activation=None))


class Block(torch.nn.Module):
    """Two branches side by side, shuffled: (N, C_in, H, W) to (N, C, H', W').

    With stride 1 the channels are split: one half stays as it is, the other is filtered. With stride 2 both branches
    filter the whole input.

    Source: figure 3 (c) and (d).
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        half = channels // 2
        self.splits = stride == 1 and in_channels == channels
        self.branch1 = torch.nn.Sequential()
        if not self.splits:
            self.branch1.extend((*_depthwise(in_channels, stride), *nn.ConvNormActivation(in_channels, half, 1)))
        self.branch2 = torch.nn.Sequential(
            *nn.ConvNormActivation(half if self.splits else in_channels, half, 1),
            *_depthwise(half, stride),
            *nn.ConvNormActivation(half, half, 1),
        )

    def forward(self, input: Tensor) -> Tensor:
        kept, filtered = input.chunk(2, 1) if self.splits else (input, input)
        return shuffled(torch.cat([self.branch1(kept), self.branch2(filtered)], 1))


class ShuffleNetV2(torch.nn.Module):
    """A 3x3 convolution, max pooling, three stages, a 1x1 convolution and a linear layer.

    Args:
        variant: a row of the table above.
        num_classes: K of the output (N, K).
        in_channels: of the images.
        small_input: the first convolution has stride 1, and there is no max pooling: the whole stride is 8 instead
            of 32.
    """

    def __init__(
        self, variant: Variant, num_classes: int = 1000, in_channels: int = 3, small_input: bool = False
    ) -> None:
        super().__init__()
        self.input_size = (32, 32) if small_input else (224, 224)
        self.conv1 = nn.ConvNormActivation(in_channels, STEM, 3, 1 if small_input else 2)
        self.maxpool = torch.nn.Identity() if small_input else nn.MaxPool2d(3, 2, 1)
        channels = STEM
        stages = []
        for width, depth in zip(variant.widths, DEPTHS, strict=True):
            rest = (Block(width, width, 1) for _ in range(depth - 1))
            stages.append(torch.nn.Sequential(Block(channels, width, 2), *rest))
            channels = width
        self.stage2, self.stage3, self.stage4 = stages
        self.conv5 = nn.ConvNormActivation(channels, variant.last, 1)
        self.avgpool = nn.GlobalAvgPool()
        self.fc = torch.nn.Linear(variant.last, num_classes)

    def forward(self, input: Tensor) -> Tensor:
        maps = self.stage4(self.stage3(self.stage2(self.maxpool(self.conv1(input)))))
        scores: Tensor = self.fc(self.avgpool(self.conv5(maps)).flatten(1))
        return scores


for _variant in VARIANTS:
    register(
        partial(ShuffleNetV2, _variant),
        _variant.name,
        f"ShuffleNetV2 {_variant.name.rpartition('v2_')[2].replace('_', '.')}; "
        f"{_variant.parameters:,} parameters, 224x224 images.",
    )
