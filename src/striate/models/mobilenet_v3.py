"""MobileNetV3: inverted residuals found by search, with hard-swish and squeeze-and-excitation.

Source: Howard, Sandler, Chu, Chen, Chen, Tan, Wang, Zhu, Pang, Vasudevan, Le & Adam, "Searching for MobileNetV3" (ICCV
2019), tables 1 and 2, equations of section 5.2; the dilated form and the narrower tail for detection and segmentation
of sections 6.3 and 6.4. Names of parameters and initial weights are torchvision's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from striate import nn
from striate.models.efficientnet import scaled
from striate.models.initialisation import kaiming_fan_out, normal_linear
from striate.models.registry import register

NORM: Final = partial(torch.nn.BatchNorm2d, eps=1e-3, momentum=0.01)


class Row(NamedTuple):
    """A block of table 1 or 2: kernel, expanded and output channels, squeeze-and-excitation, hard-swish, stride."""

    kernel_size: int
    expanded: int
    width: int
    squeeze: bool
    hard_swish: bool
    stride: int


@dataclass(frozen=True)
class Variant:
    """A network: its blocks, the channels between its two linear layers, parameters.

    The last three blocks are its tail, which the dilated and the narrower form change.
    """

    name: str
    rows: tuple[Row, ...]
    hidden: int
    parameters: int


STEM, TAIL = 16, 3

LARGE: Final = (
    Row(3, 16, 16, False, False, 1),
    Row(3, 64, 24, False, False, 2),
    Row(3, 72, 24, False, False, 1),
    Row(5, 72, 40, True, False, 2),
    Row(5, 120, 40, True, False, 1),
    Row(5, 120, 40, True, False, 1),
    Row(3, 240, 80, False, True, 2),
    Row(3, 200, 80, False, True, 1),
    Row(3, 184, 80, False, True, 1),
    Row(3, 184, 80, False, True, 1),
    Row(3, 480, 112, True, True, 1),
    Row(3, 672, 112, True, True, 1),
    Row(5, 672, 160, True, True, 2),
    Row(5, 960, 160, True, True, 1),
    Row(5, 960, 160, True, True, 1),
)
SMALL: Final = (
    Row(3, 16, 16, True, False, 2),
    Row(3, 72, 24, False, False, 2),
    Row(3, 88, 24, False, False, 1),
    Row(5, 96, 40, True, True, 2),
    Row(5, 240, 40, True, True, 1),
    Row(5, 240, 40, True, True, 1),
    Row(5, 120, 48, True, True, 1),
    Row(5, 144, 48, True, True, 1),
    Row(5, 288, 96, True, True, 2),
    Row(5, 576, 96, True, True, 1),
    Row(5, 576, 96, True, True, 1),
)
VARIANTS: Final = (
    Variant("mobilenet_v3_small", SMALL, 1024, 2_542_856),
    Variant("mobilenet_v3_large", LARGE, 1280, 5_483_032),
)


class Block(torch.nn.Module):
    """An inverted residual whose inner width isn't a multiple of its input's, (N, C_in, H, W) to (N, C, H', W').

    Attributes:
        block: the layers; the first one expands the channels, where they are expanded at all.
        out_channels: C.
        starts_stage: whether the block has a stride in the network's undilated form.
    """

    def __init__(self, in_channels: int, row: Row, stride: int, dilation: int) -> None:
        super().__init__()
        activation = torch.nn.Hardswish if row.hard_swish else torch.nn.ReLU
        layer = partial(nn.ConvNormActivation, norm=NORM, activation=activation)
        layers: list[torch.nn.Module] = []
        if row.expanded != in_channels:
            layers.append(layer(in_channels, row.expanded, 1))
        layers.append(
            layer(row.expanded, row.expanded, row.kernel_size, stride, groups=row.expanded, dilation=dilation)
        )
        if row.squeeze:
            layers.append(nn.SqueezeExcite(row.expanded, scaled(row.expanded // 4, 1.0), gate=F.hardsigmoid))
        layers.append(nn.ConvNormActivation(row.expanded, row.width, 1, norm=NORM, activation=None))
        self.block = torch.nn.Sequential(*layers)
        self.out_channels = row.width
        self.starts_stage = row.stride > 1
        self.shortcut = not self.starts_stage and in_channels == row.width

    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = self.block(input)
        return output + input if self.shortcut else output


class MobileNetV3(torch.nn.Module):
    """A 3x3 convolution, inverted residuals, a 1x1 convolution and two linear layers.

    Each of ``features`` has ``out_channels``.

    Args:
        variant: a row of the table above.
        num_classes: K of the output (N, K).
        in_channels: of the images.
        small_input: the first two strides are 1, so that the whole stride is 8 instead of 32.
        dilated: the tail's stride is 1 and its 5x5 kernels have dilation 2, so that the whole stride is 16.
        reduced_tail: half of the channels in the tail and in the layers after it.
    """

    def __init__(
        self,
        variant: Variant,
        num_classes: int = 1000,
        in_channels: int = 3,
        small_input: bool = False,
        dilated: bool = False,
        reduced_tail: bool = False,
    ) -> None:
        super().__init__()
        self.input_size = (32, 32) if small_input else (224, 224)
        divisor = 2 if reduced_tail else 1
        outer = partial(nn.ConvNormActivation, norm=NORM, activation=torch.nn.Hardswish)
        features: list[torch.nn.Module] = [outer(in_channels, STEM, 3, 1 if small_input else 2)]
        channels = STEM
        thinned = next(index for index, row in enumerate(variant.rows) if row.stride > 1)
        tail = len(variant.rows) - TAIL
        for index, row in enumerate(variant.rows):
            stride, dilation = row.stride, 1
            if small_input and index == thinned:
                stride = 1
            if index >= tail:
                # The block that begins the tail takes the channels that come, expanded as ever.
                expanded = row.expanded if index == tail else row.expanded // divisor
                row = row._replace(expanded=expanded, width=row.width // divisor)
                if dilated:
                    stride, dilation = 1, 2
            features.append(Block(channels, row, stride, dilation))
            channels = row.width
        features.append(outer(channels, 6 * channels, 1))
        self.features = torch.nn.Sequential(*features)
        self.avgpool = nn.GlobalAvgPool()
        hidden = variant.hidden // divisor
        self.classifier = torch.nn.Sequential(
            torch.nn.Linear(6 * channels, hidden),
            torch.nn.Hardswish(),
            torch.nn.Dropout(0.2),
            torch.nn.Linear(hidden, num_classes),
        )
        kaiming_fan_out(self)
        normal_linear(self)

    @property
    def stages(self) -> tuple[int, ...]:
        """Where in ``features`` resolutions begin, and the last layer: C1 to C4 of the paper among them.

        What segmenters and detectors take are the outputs of these layers.
        """
        starts = [index for index, layer in enumerate(self.features) if getattr(layer, "starts_stage", False)]
        return (0, *starts, len(self.features) - 1)

    def forward(self, input: Tensor) -> Tensor:
        scores: Tensor = self.classifier(self.avgpool(self.features(input)).flatten(1))
        return scores


for _variant in VARIANTS:
    register(
        partial(MobileNetV3, _variant),
        _variant.name,
        f"MobileNetV3-{_variant.name.rpartition('_')[2].capitalize()}; "
        f"{_variant.parameters:,} parameters, 224x224 images.",
    )
