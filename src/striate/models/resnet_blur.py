"""Residual networks that blur before they subsample, so that a small shift of the image changes little.

Source: Zhang, "Making convolutional networks shift-invariant again" (2019), section 3.2 and figure 2: a strided
convolution becomes the same without stride, its activation, and blur pooling; a projection is blurred first; a maximum
of windows is taken at every position, and blurred. The filter is the binomial one with 4 taps a side. As in the paper's
ResNets the very first convolution keeps its stride.

The layers have the names of the ordinary networks, whose weights load.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import torch
from torch import Tensor

from striate import nn
from striate.models.registry import register
from striate.models.resnet import VARIANTS, Block, ResNet, Variant


class _Blurred:
    """What the blocks add to the ordinary block, which follows this class in the method resolution order."""

    def __init__(self, in_channels: int, channels: int, stride: int = 1, **how: Any) -> None:
        super().__init__(in_channels, channels, **how)  # type: ignore[call-arg]
        self.blur = nn.BlurPool2d(channels, stride=stride) if stride > 1 else None
        self.blur_shortcut = nn.BlurPool2d(in_channels, stride=stride) if stride > 1 else None

    def thinned(self, inner: Tensor, shortcut: Tensor) -> tuple[Tensor, Tensor]:
        if self.blur is None or self.blur_shortcut is None:
            return inner, shortcut
        return self.blur(inner), self.blur_shortcut(shortcut)


class BlurredBasicBlock(_Blurred, nn.BasicBlock):
    """:class:`striate.nn.BasicBlock`, downsampled by blur pooling."""


class BlurredBottleneck(_Blurred, nn.Bottleneck):
    """:class:`striate.nn.Bottleneck`, downsampled by blur pooling."""


def blurred_resnet(
    plain: Variant, num_classes: int = 1000, in_channels: int = 3, small_input: bool = False
) -> torch.nn.Module:
    """The network of a row of :data:`striate.models.resnet.VARIANTS` with blurred blocks and a blurred maximum."""
    model = ResNet(BLOCKS[plain.block], plain.depths, num_classes, in_channels, small_input)
    if not small_input:
        model.maxpool = torch.nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.BlurPool2d(64))
    return model


BLOCKS: Final[dict[Block, Block]] = {nn.BasicBlock: BlurredBasicBlock, nn.Bottleneck: BlurredBottleneck}

for _variant in VARIANTS:
    if _variant.block in BLOCKS:
        register(
            partial(blurred_resnet, _variant),
            f"{_variant.name}_blur",
            f"{_variant.words} with blur pooling; {_variant.parameters:,} parameters, 224x224 images.",
        )
