"""CoAtNet: convolutions where maps are large, attention with relative positions where they are small.

Source: Dai, Liu, Le & Tan, "CoAtNet: Marrying Convolution and Attention for All Data Sizes" (NeurIPS 2021): the stages
of table 3, relative attention of equation 3, blocks, downsampling and stochastic depth of the appendix.
Where the paper says nothing, this is done: pooling is the maximum of 2x2; the inverted bottleneck has four
times its block's output channels, and squeezes to a quarter of these; convolutions before a batch normalisation have no
bias, and shortcuts are projected in the first block of a stage alone; a LayerNorm stands before the mean over the last
map. That gives 24.4 million parameters and 4.14 billion multiply-accumulates, for the paper's 25 and 4.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch
from torch import Tensor

from striate import nn
from striate.errors import ModelError
from striate.models.initialisation import kaiming_fan_out
from striate.models.registry import register

EXPANSION: Final = 4
HEAD_CHANNELS: Final = 32


@dataclass(frozen=True)
class Variant:
    """A row of the family: channels of the stem, then channels and blocks of the stages of MBConv and of attention.

    ``drop`` is how often the last block's branches are dropped in training; it rises with depth from 0.
    """

    name: str
    stem: int
    convolution: tuple[tuple[int, int], ...]
    attention: tuple[tuple[int, int], ...]
    drop: float
    parameters: int


VARIANTS: Final = (Variant("coatnet_0", 64, ((96, 2), (192, 3)), ((384, 5), (768, 2)), 0.2, 24_446_228),)


def _shortcut(channels: int, out_channels: int, stride: int) -> torch.nn.Sequential:
    """Pooling and projection of what a block's result is added to; nothing where nothing changes."""
    layers = torch.nn.Sequential()
    if stride > 1:
        layers.add_module("pool", nn.MaxPool2d(stride, ceil_mode=True))
    if channels != out_channels:
        layers.add_module("project", nn.Conv2d(channels, out_channels, 1))
    return layers


class MBConv(torch.nn.Module):
    """An inverted bottleneck that normalises first: x + Conv(SE(DepthConv(Conv(Norm(x), stride))))."""

    def __init__(self, channels: int, out_channels: int, stride: int, drop: float) -> None:
        super().__init__()
        wide = EXPANSION * out_channels
        self.shortcut = _shortcut(channels, out_channels, stride)
        self.branch = torch.nn.Sequential(
            torch.nn.BatchNorm2d(channels),
            nn.ConvNormActivation(channels, wide, 1, stride, activation=torch.nn.GELU),
            nn.ConvNormActivation(wide, wide, 3, groups=wide, activation=torch.nn.GELU),
            nn.SqueezeExcite(wide, out_channels // 4, torch.nn.GELU),
            nn.Conv2d(wide, out_channels, 1),
            nn.StochasticDepth(drop),
        )

    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = self.shortcut(input) + self.branch(input)
        return output


class Transformer(torch.nn.Module):
    """Relative attention, x + Attention(Pool(Norm(x))), then a network of each position alone, x + FFN(Norm(x))."""

    def __init__(self, channels: int, out_channels: int, stride: int, drop: float, size: tuple[int, int]) -> None:
        super().__init__()
        wide = EXPANSION * out_channels
        self.shortcut = _shortcut(channels, out_channels, stride)
        self.attend = torch.nn.Sequential(
            nn.LayerNorm2d(channels, eps=1e-6),
            nn.MaxPool2d(stride, ceil_mode=True) if stride > 1 else torch.nn.Identity(),
            nn.SelfAttention2d(channels, out_channels // HEAD_CHANNELS, out_channels, size),
            nn.StochasticDepth(drop),
        )
        self.feed = torch.nn.Sequential(
            nn.LayerNorm2d(out_channels, eps=1e-6),
            nn.Conv2d(out_channels, wide, 1),
            torch.nn.GELU(),
            nn.Conv2d(wide, out_channels, 1),
            nn.StochasticDepth(drop),
        )

    def forward(self, input: Tensor) -> Tensor:
        attended: Tensor = self.shortcut(input) + self.attend(input)
        output: Tensor = attended + self.feed(attended)
        return output


class CoAtNet(torch.nn.Module):
    """Two 3x3 convolutions, two stages of MBConv, two of relative attention, a mean over positions, a linear layer.

    Takes only images of ``input_size``, because attention has a parameter for every difference of positions;
    :meth:`resize` changes the size.

    Small input: the stem and the first stage have stride 1, so that the whole stride is 8 instead of 32.
    """

    def __init__(
        self, variant: Variant, num_classes: int = 1000, in_channels: int = 3, small_input: bool = False
    ) -> None:
        super().__init__()
        self.input_size = (32, 32) if small_input else (224, 224)
        first = 1 if small_input else 2
        self.strides = (first, first, 2, 2, 2)
        self.stem = torch.nn.Sequential(
            nn.ConvNormActivation(in_channels, variant.stem, 3, first, activation=torch.nn.GELU),
            nn.Conv2d(variant.stem, variant.stem, 3, padding=1, bias=False),
        )
        self.stages = torch.nn.Sequential()
        rows = variant.convolution + variant.attention
        channels, done, last = variant.stem, 0, sum(blocks for _, blocks in rows) - 1
        for number, (width, blocks) in enumerate(rows, start=1):
            stage = torch.nn.Sequential()
            for index in range(blocks):
                stride, drop = self.strides[number] if index == 0 else 1, variant.drop * done / last
                if number > len(variant.convolution):
                    stage.append(Transformer(channels, width, stride, drop, self._map_size(number)))
                else:
                    stage.append(MBConv(channels, width, stride, drop))
                channels, done = width, done + 1
            self.stages.append(stage)
        self.norm = nn.LayerNorm2d(channels, eps=1e-6)
        self.avgpool = nn.GlobalAvgPool()
        self.head = torch.nn.Linear(channels, num_classes)
        kaiming_fan_out(self)
        torch.nn.init.trunc_normal_(self.head.weight, std=0.02)
        torch.nn.init.zeros_(self.head.bias)

    def _map_size(self, stage: int) -> tuple[int, int]:
        height, width = self.input_size
        for stride in self.strides[: stage + 1]:
            height, width = -(-height // stride), -(-width // stride)
        return height, width

    def forward(self, input: Tensor) -> Tensor:
        size = (input.shape[2], input.shape[3])
        if size != self.input_size:
            got, needed = ("x".join(map(str, each)) for each in (size, self.input_size))
            remedy = "interpolate the relative positions with resize()"
            raise ModelError("CoAtNet", f"got images of {got}", f"needed {needed}", remedy)
        output: Tensor = self.head(self.avgpool(self.norm(self.stages(self.stem(input)))).flatten(1))
        return output

    def resize(self, image_size: Sequence[int]) -> None:
        """Adapts the network to images of another size (H, W): its relative positions are interpolated (bilinear).

        Raises:
            ModelError: no pixels.

        Source: the appendix.

        >>> network = CoAtNet(VARIANTS[0], small_input=True)
        >>> network.resize((28, 28))
        >>> network(torch.zeros(1, 3, 28, 28)).shape
        torch.Size([1, 1000])
        """
        height, width = image_size
        if min(height, width) < 1:
            raise ModelError("CoAtNet", f"got image size {height}x{width}", "needed 1 pixel or more")
        self.input_size = (height, width)
        for number, stage in enumerate(self.stages, start=1):
            for layer in stage.modules():
                if isinstance(layer, nn.SelfAttention2d):
                    layer.resize(self._map_size(number))


for _variant in VARIANTS:
    register(
        partial(CoAtNet, _variant),
        _variant.name,
        f"CoAtNet-{_variant.name[-1]}; {_variant.parameters:,} parameters, 224x224 images.",
    )
