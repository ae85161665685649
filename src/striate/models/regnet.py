"""RegNet: networks whose widths follow from a line, found by narrowing down a space of designs.

Source: Radosavovic, Kosaraju, Girshick, He & Dollar, "Designing network design spaces" (CVPR 2020), equations 2 to 4 of
section 3.3, figure 4; RegNetX of table 2 and RegNetY, which has squeeze-and-excitation, of table 3, with the numbers of
the authors' code. Names of parameters and initial weights are torchvision's.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch
from torch import Tensor

from striate import nn
from striate.models.initialisation import normal_linear
from striate.models.registry import register

STEM: Final = 32
#: Widths of blocks are multiples of this.
QUANTUM: Final = 8
#: Channels within squeeze-and-excitation are this share of the block's input's.
SQUEEZE: Final = 0.25


@dataclass(frozen=True)
class Variant:
    """A network: the line of its widths, channels of a group, parameters.

    Args:
        depth: blocks d.
        initial: w_0, the width where the line begins.
        slope: w_a, by which the line rises from block to block.
        ratio: w_m, between the widths of neighbouring stages.
        group: channels of a group of the 3x3 convolutions.
        parameters: in all.
    """

    name: str
    depth: int
    initial: int
    slope: float
    ratio: float
    group: int
    parameters: int

    @property
    def squeezes(self) -> bool:
        """Whether there is squeeze-and-excitation."""
        return self.name.startswith("regnet_y")

    def stages(self) -> list[tuple[int, int, int]]:
        """Width, blocks and channels of a group of each stage.

        A block's width on the line is rounded to w_0 times a power of w_m, and that to a multiple of 8. Blocks of one
        width are a stage, whose width is then made a multiple of its groups' (section 3.3, appendix).

        >>> VARIANTS[0].stages()
        [(48, 1, 8), (104, 3, 8), (208, 6, 8), (440, 6, 8)]
        """
        widths = []
        for block in range(self.depth):
            power = round(math.log((self.initial + self.slope * block) / self.initial) / math.log(self.ratio))
            widths.append(round(self.initial * self.ratio**power / QUANTUM) * QUANTUM)
        found = []
        for width, blocks in itertools.groupby(widths):
            group = min(self.group, width)
            found.append((_rounded(width, group), len(list(blocks)), group))
        return found


def _rounded(width: int, group: int) -> int:
    """The multiple of ``group`` nearest to ``width``, but less by no more than a tenth."""
    rounded = max(group, int(width + group / 2) // group * group)
    return rounded + group if rounded < 0.9 * width else rounded


VARIANTS: Final = (
    Variant("regnet_y_400mf", 16, 48, 27.89, 2.09, 8, 4_344_144),
    Variant("regnet_y_800mf", 14, 56, 38.84, 2.4, 16, 6_432_512),
    Variant("regnet_y_1_6gf", 27, 48, 20.71, 2.65, 24, 11_202_430),
    Variant("regnet_y_3_2gf", 21, 80, 42.63, 2.66, 24, 19_436_338),
    Variant("regnet_y_8gf", 17, 192, 76.82, 2.19, 56, 39_381_472),
    Variant("regnet_y_16gf", 18, 200, 106.23, 2.48, 112, 83_590_140),
    Variant("regnet_y_32gf", 20, 232, 115.89, 2.53, 232, 145_046_770),
    Variant("regnet_x_400mf", 22, 24, 24.48, 2.54, 16, 5_495_976),
    Variant("regnet_x_800mf", 16, 56, 35.73, 2.28, 16, 7_259_656),
    Variant("regnet_x_1_6gf", 18, 80, 34.01, 2.25, 24, 9_190_136),
    Variant("regnet_x_3_2gf", 25, 88, 26.31, 2.25, 48, 15_296_552),
    Variant("regnet_x_8gf", 23, 80, 49.56, 2.88, 120, 39_572_648),
    Variant("regnet_x_16gf", 22, 216, 55.59, 2.1, 128, 54_278_536),
    Variant("regnet_x_32gf", 23, 320, 69.86, 2.0, 168, 107_811_560),
)


class Block(torch.nn.Module):
    """1x1, a grouped 3x3 and 1x1, all of one width, and a shortcut: (N, C_in, H, W) to (N, C, H', W').

    Source: figure 4 (b) and (c); squeeze-and-excitation after the 3x3 in RegNetY.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, groups: int, squeezed: int | None) -> None:
        super().__init__()
        self.proj: torch.nn.Module | None = None
        if stride != 1 or in_channels != channels:
            self.proj = nn.ConvNormActivation(in_channels, channels, 1, stride, activation=None)
        self.f = torch.nn.Sequential()
        self.f.add_module("a", nn.ConvNormActivation(in_channels, channels, 1))
        self.f.add_module("b", nn.ConvNormActivation(channels, channels, 3, stride, groups))
        if squeezed is not None:
            self.f.add_module("se", nn.SqueezeExcite(channels, squeezed))
        self.f.add_module("c", nn.ConvNormActivation(channels, channels, 1, activation=None))
        self.activation = torch.nn.ReLU()

    def forward(self, input: Tensor) -> Tensor:
        shortcut = input if self.proj is None else self.proj(input)
        output: Tensor = self.activation(shortcut + self.f(input))
        return output


class RegNet(torch.nn.Module):
    """A 3x3 convolution, four stages of grouped bottlenecks and a linear layer.

    Args:
        variant: a row of the table above.
        num_classes: K of the output (N, K).
        in_channels: of the images.
        small_input: the first convolution and the first stage have stride 1, so that the whole stride is 8 instead
            of 32.
    """

    def __init__(
        self, variant: Variant, num_classes: int = 1000, in_channels: int = 3, small_input: bool = False
    ) -> None:
        super().__init__()
        self.input_size = (32, 32) if small_input else (224, 224)
        self.stem = nn.ConvNormActivation(in_channels, STEM, 3, 1 if small_input else 2)
        self.trunk_output = torch.nn.Sequential()
        channels = STEM
        for number, (width, depth, group) in enumerate(variant.stages(), 1):
            stage = torch.nn.Sequential()
            for index in range(depth):
                stride = 2 if index == 0 and not (small_input and number == 1) else 1
                squeezed = round(SQUEEZE * channels) if variant.squeezes else None
                block = Block(channels, width, stride, width // group, squeezed)
                stage.add_module(f"block{number}-{index}", block)
                channels = width
            self.trunk_output.add_module(f"block{number}", stage)
        self.avgpool = nn.GlobalAvgPool()
        self.fc = torch.nn.Linear(channels, num_classes)
        for layer in self.modules():
            if isinstance(layer, torch.nn.Conv2d):  # a fan-out that doesn't know of groups
                torch.nn.init.normal_(layer.weight, 0, math.sqrt(2 / (layer.kernel_size[0] ** 2 * layer.out_channels)))
        normal_linear(self)

    def forward(self, input: Tensor) -> Tensor:
        scores: Tensor = self.fc(self.avgpool(self.trunk_output(self.stem(input))).flatten(1))
        return scores


for _variant in VARIANTS:
    _kind, _, _size = _variant.name.removeprefix("regnet_").partition("_")
    register(
        partial(RegNet, _variant),
        _variant.name,
        f"RegNet{_kind.upper()}-{_size.replace('_', '.').upper()}; {_variant.parameters:,} parameters, 224x224 images.",
    )
