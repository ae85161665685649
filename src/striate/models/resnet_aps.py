"""Residual networks whose scores don't change at all when the image is shifted on a circle.

Source: Chaman & Dokmanic, "Truly shift-invariant convolutional neural networks" (2021), sections 4 and 5: whatever has
a stride is computed at every position, and of its phases the strongest is kept (adaptive polyphase sampling). Within a
block the branch decides which, and the shortcut follows. All padding is circular; without it, what enters at a border
differs from what has left at the other.

The layers have the names of the ordinary networks, whose weights load. Sides must be divisible by 32, or by 8 in the
form for small images (so 32x32, not 28x28); other sizes are a ``GeometryError``.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from striate import nn
from striate.models.registry import register
from striate.models.resnet import VARIANTS, Block, ResNet, Variant


class _Polyphase:
    """What the blocks add to the ordinary block, which follows this class in the method resolution order."""

    def __init__(self, in_channels: int, channels: int, stride: int = 1, **how: Any) -> None:
        super().__init__(in_channels, channels, **how)  # type: ignore[call-arg]
        self.sample = nn.PolyphaseSampling2d(stride) if stride > 1 else None

    def thinned(self, inner: Tensor, shortcut: Tensor) -> tuple[Tensor, Tensor]:
        if self.sample is None:
            return inner, shortcut
        phase = self.sample.phase(inner)
        return self.sample(inner, phase), self.sample(shortcut, phase)


class PolyphaseBasicBlock(_Polyphase, nn.BasicBlock):
    """:class:`striate.nn.BasicBlock`, downsampled by adaptive polyphase sampling."""


class PolyphaseBottleneck(_Polyphase, nn.Bottleneck):
    """:class:`striate.nn.Bottleneck`, downsampled by adaptive polyphase sampling."""


class CircularMaxPool2d(torch.nn.Module):
    """The maximum of the 3x3 positions around each, on a circle in both directions; keeps (N, C, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(3, 1)

    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = self.pool(F.pad(input, (1, 1, 1, 1), mode="circular"))
        return output


def polyphase_resnet(
    plain: Variant, num_classes: int = 1000, in_channels: int = 3, small_input: bool = False
) -> torch.nn.Module:
    """The network of a row of :data:`striate.models.resnet.VARIANTS` with polyphase sampling and circular padding."""
    model = ResNet(BLOCKS[plain.block], plain.depths, num_classes, in_channels, small_input)
    if not small_input:
        model.conv1.stride = (1, 1)
        model.maxpool = torch.nn.Sequential(nn.PolyphaseSampling2d(), CircularMaxPool2d(), nn.PolyphaseSampling2d())
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.padding_mode = "circular"
    return model


BLOCKS: Final[dict[Block, Block]] = {nn.BasicBlock: PolyphaseBasicBlock, nn.Bottleneck: PolyphaseBottleneck}

for _variant in VARIANTS:
    if _variant.block in BLOCKS:
        register(
            partial(polyphase_resnet, _variant),
            f"{_variant.name}_aps",
            f"{_variant.words} with adaptive polyphase sampling; {_variant.parameters:,} parameters, 224x224 images.",
        )
