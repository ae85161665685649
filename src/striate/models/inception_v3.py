"""Inception v3: large windows factorised into small and into one-dimensional ones.

Source: Szegedy, Vanhoucke, Ioffe, Shlens & Wojna, "Rethinking the Inception architecture for computer vision" (CVPR
2016), table 1 and figures 5 to 7 and 10, with the auxiliary head of figure 8. Names of parameters and initial weights
are torchvision's.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor

from striate import nn
from striate.models.auxiliary import WithAuxiliary
from striate.models.googlenet import ConvNorm, between_ones, truncated
from striate.models.registry import register


class Conv(NamedTuple):
    """A convolution of a branch: its name, channels, kernel and stride; with stride 1 it keeps the size."""

    name: str
    width: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1


class Average(NamedTuple):
    """A 3x3 mean at every position, without parameters."""


class Maximum(NamedTuple):
    """A 3x3 maximum with stride 2, without parameters."""


#: Layers one after the other; two of them side by side are a tuple and end a branch.
Branch = tuple[Conv | Average | Maximum | tuple[Conv, Conv], ...]

ROW, COLUMN, ROW3, COLUMN3, SQUARE = (1, 7), (7, 1), (1, 3), (3, 1), (3, 3)


def _at_35(pooled: int) -> tuple[Branch, ...]:
    """Figure 5, but for the 5x5."""
    return (
        (Conv("branch1x1", 64),),
        (Conv("branch5x5_1", 48), Conv("branch5x5_2", 64, (5, 5))),
        (Conv("branch3x3dbl_1", 64), Conv("branch3x3dbl_2", 96, SQUARE), Conv("branch3x3dbl_3", 96, SQUARE)),
        (Average(), Conv("branch_pool", pooled)),
    )


def _at_17(inner: int) -> tuple[Branch, ...]:
    """Figure 6 with n = 7."""
    return (
        (Conv("branch1x1", 192),),
        (Conv("branch7x7_1", inner), Conv("branch7x7_2", inner, ROW), Conv("branch7x7_3", 192, COLUMN)),
        (
            Conv("branch7x7dbl_1", inner),
            Conv("branch7x7dbl_2", inner, COLUMN),
            Conv("branch7x7dbl_3", inner, ROW),
            Conv("branch7x7dbl_4", inner, COLUMN),
            Conv("branch7x7dbl_5", 192, ROW),
        ),
        (Average(), Conv("branch_pool", 192)),
    )


#: Figure 10: to half of the resolution, from 35x35 and from 17x17.
TO_17: Final[tuple[Branch, ...]] = (
    (Conv("branch3x3", 384, SQUARE, 2),),
    (Conv("branch3x3dbl_1", 64), Conv("branch3x3dbl_2", 96, SQUARE), Conv("branch3x3dbl_3", 96, SQUARE, 2)),
    (Maximum(),),
)
TO_8: Final[tuple[Branch, ...]] = (
    (Conv("branch3x3_1", 192), Conv("branch3x3_2", 320, SQUARE, 2)),
    (
        Conv("branch7x7x3_1", 192),
        Conv("branch7x7x3_2", 192, ROW),
        Conv("branch7x7x3_3", 192, COLUMN),
        Conv("branch7x7x3_4", 192, SQUARE, 2),
    ),
    (Maximum(),),
)
#: Figure 7.
AT_8: Final[tuple[Branch, ...]] = (
    (Conv("branch1x1", 320),),
    (Conv("branch3x3_1", 384), (Conv("branch3x3_2a", 384, ROW3), Conv("branch3x3_2b", 384, COLUMN3))),
    (
        Conv("branch3x3dbl_1", 448),
        Conv("branch3x3dbl_2", 384, SQUARE),
        (Conv("branch3x3dbl_3a", 384, ROW3), Conv("branch3x3dbl_3b", 384, COLUMN3)),
    ),
    (Average(), Conv("branch_pool", 192)),
)

#: Table 1: the blocks; the auxiliary head stands where its name does.
AUXILIARY: Final = "AuxLogits"
BLOCKS: Final[dict[str, tuple[Branch, ...]]] = {
    "Mixed_5b": _at_35(32),
    "Mixed_5c": _at_35(64),
    "Mixed_5d": _at_35(64),
    "Mixed_6a": TO_17,
    "Mixed_6b": _at_17(128),
    "Mixed_6c": _at_17(160),
    "Mixed_6d": _at_17(160),
    "Mixed_6e": _at_17(192),
    AUXILIARY: (),
    "Mixed_7a": TO_8,
    "Mixed_7b": AT_8,
    "Mixed_7c": AT_8,
}


class Mixed(torch.nn.Module):
    """Branches side by side, (N, C_in, H, W) to (N, C, H', W'); each convolution is a child under its name."""

    def __init__(self, in_channels: int, branches: tuple[Branch, ...]) -> None:
        super().__init__()
        self.branches = branches
        self.out_channels = 0
        for branch in branches:
            channels = in_channels
            for step in branch:
                if isinstance(step, Average):
                    self.average = nn.AvgPool2d(3, 1, 1)
                elif isinstance(step, Maximum):
                    self.maximum = nn.MaxPool2d(3, 2)
                elif isinstance(step, Conv):
                    channels = self._add(channels, step)
                else:
                    channels = sum(self._add(channels, each) for each in step)
            self.out_channels += channels

    def _add(self, channels: int, conv: Conv) -> int:
        padding = (conv.kernel[0] // 2, conv.kernel[1] // 2) if conv.stride == 1 else 0
        self.add_module(conv.name, ConvNorm(channels, conv.width, conv.kernel, conv.stride, padding))
        return conv.width

    def forward(self, input: Tensor) -> Tensor:
        return torch.cat([each for branch in self.branches for each in self._outputs(branch, input)], 1)

    def _outputs(self, branch: Branch, maps: Tensor) -> list[Tensor]:
        for step in branch:
            if isinstance(step, Average):
                maps = self.average(maps)
            elif isinstance(step, Maximum):
                maps = self.maximum(maps)
            elif isinstance(step, Conv):
                maps = self.get_submodule(step.name)(maps)
            else:
                return [self.get_submodule(each.name)(maps) for each in step]
        return [maps]


class Auxiliary(torch.nn.Module):
    """5x5 means three apart, a 1x1 and a 5x5 convolution, a mean and a linear layer: (N, C, H, W) to scores (N, K).

    Source: figure 8.
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(5, 3)
        self.conv0 = ConvNorm(in_channels, 128)
        self.conv1 = ConvNorm(128, 768, 5)
        self.avgpool = nn.GlobalAvgPool()
        self.fc = torch.nn.Linear(768, num_classes)
        self.fc.stddev = 0.001  # type: ignore[assignment]

    def forward(self, input: Tensor) -> Tensor:
        maps = self.avgpool(self.conv1(self.conv0(self.pool(input))))
        scores: Tensor = self.fc(maps.flatten(1))
        return scores


class InceptionV3(WithAuxiliary):
    """Five convolutions, eleven blocks of branches, the mean over all places and a linear layer.

    Takes images of 75x75 pixels or more; in training with the auxiliary head, of 299x299 or more. Gives scores (N, K)
    in training and evaluation alike; :meth:`loss` adds those of the auxiliary head.

    Args:
        num_classes: K.
        in_channels: of the images.
        aux_logits: with the auxiliary head, as files of weights have it.
        transform_input: as of :class:`striate.models.googlenet.GoogLeNet`.
    """

    auxiliary_weight = 0.4
    head_keys: Final = ("fc", "AuxLogits.fc")

    def __init__(
        self, num_classes: int = 1000, in_channels: int = 3, aux_logits: bool = True, transform_input: bool = False
    ) -> None:
        super().__init__()
        self.input_size = (299, 299)
        self.transform_input = transform_input
        self.Conv2d_1a_3x3 = ConvNorm(in_channels, 32, 3, 2)
        self.Conv2d_2a_3x3 = ConvNorm(32, 32, 3)
        self.Conv2d_2b_3x3 = ConvNorm(32, 64, 3, padding=1)
        self.maxpool1 = nn.MaxPool2d(3, 2)
        self.Conv2d_3b_1x1 = ConvNorm(64, 80)
        self.Conv2d_4a_3x3 = ConvNorm(80, 192, 3)
        self.maxpool2 = nn.MaxPool2d(3, 2)
        channels = 192
        for name, branches in BLOCKS.items():
            if name == AUXILIARY:
                self.AuxLogits = Auxiliary(channels, num_classes) if aux_logits else None
            else:
                block = Mixed(channels, branches)
                self.add_module(name, block)
                channels = block.out_channels
        self.avgpool = nn.GlobalAvgPool()
        self.dropout = torch.nn.Dropout(0.5)
        self.fc = torch.nn.Linear(channels, num_classes)
        truncated(self, 0.1)

    def forward(self, input: Tensor) -> Tensor:
        if self.transform_input:
            input = between_ones(input)
        maps = self.maxpool1(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(input))))
        maps = self.maxpool2(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(maps)))
        for name in BLOCKS:
            if name != AUXILIARY:
                maps = self.get_submodule(name)(maps)
            elif self.training and self.AuxLogits is not None:
                self.auxiliary = (self.AuxLogits(maps),)
        scores: Tensor = self.fc(self.dropout(self.avgpool(maps)).flatten(1))
        return scores


register(InceptionV3, "inception_v3", "Inception v3, with its auxiliary head; 27,161,264 parameters, 299x299 images.")
