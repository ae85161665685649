"""U-Net: a path that contracts for what is there, one that expands for where, and shortcuts between.

Source: Ronneberger, Fischer & Brox, "U-Net: Convolutional networks for biomedical image segmentation" (2015), figure 1.
What differs, and why:

- Convolutions are padded and the image is padded at its right and bottom to whole windows of all levels, so that every
  size goes in, and the map that comes out has the image's size. The paper's loses a border of 92 pixels.
- Batch normalisation after each convolution, without which training from nothing takes many times as long.
- Maps grow by bilinear interpolation. The 1x1 convolution before it halves the channels at a quarter of the positions;
  the two commute, so nothing is lost by that order. A transposed convolution (``up="transposed"``, the paper's) learns
  four phases of its own, which show as a checkerboard wherever they differ, and has four times the parameters.
- 16 channels at the first level instead of 64: a sixteenth of the multiplications, so that it learns from nothing on
  two cores in minutes. ``width=64`` is the paper's.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from striate import nn
from striate.errors import ModelError
from striate.models.initialisation import kaiming_fan_out
from striate.models.registry import register

#: How maps grow.
Up = Literal["bilinear", "transposed"]

#: Classes and channels of the network's own.
CLASSES: Final = 21


class DoubleConv(torch.nn.Sequential):
    """Two 3x3 convolutions, each normalised and rectified, (N, C_in, H, W) to (N, C, H, W)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.ConvNormActivation(in_channels, out_channels, 3),
            nn.ConvNormActivation(out_channels, out_channels, 3),
        )


class UpBlock(torch.nn.Module):
    """Joins a level with the one below, (N, 2C, H, W) and (N, C, 2H, 2W) to (N, C, 2H, 2W).

    Args:
        channels: C.
        up: how the lower map grows.
    """

    def __init__(self, channels: int, up: Up) -> None:
        super().__init__()
        if up == "transposed":
            self.grow: torch.nn.Module = nn.ConvTranspose2d(2 * channels, channels, 2, 2)
        else:
            narrow = nn.Conv2d(2 * channels, channels, 1)
            self.grow = torch.nn.Sequential(narrow, torch.nn.Upsample(scale_factor=2, mode="bilinear"))
        self.join = DoubleConv(2 * channels, channels)

    def forward(self, below: Tensor, beside: Tensor) -> Tensor:
        joined: Tensor = self.join(torch.cat((beside, self.grow(below)), 1))
        return joined


class UNet(torch.nn.Module):
    """Images (N, C, H, W) of any size to ``{"out": scores}``, (N, K, H, W), larger is likelier.

    Args:
        num_classes: K.
        in_channels: C.
        width: channels of the first level; each level below has twice as many.
        depth: how often maps are halved. An output sees about 24 * 2^depth pixels along an axis, and objects should be
            no larger.
        up: ``"bilinear"`` or ``"transposed"``; the file's head says what speaks for either.

    Raises:
        ModelError: a width or depth below 1, another way up.

    >>> UNet(num_classes=3)(torch.zeros(1, 3, 50, 77))["out"].shape
    torch.Size([1, 3, 50, 77])
    """

    #: The layers that have an output for each class.
    head_keys: Final = ("classifier",)

    def __init__(
        self,
        num_classes: int = CLASSES,
        in_channels: int = 3,
        width: int = 16,
        depth: int = 4,
        up: Up = "bilinear",
    ) -> None:
        super().__init__()
        if width < 1 or depth < 1:
            raise ModelError("unet", f"got width {width} and depth {depth}", "needed 1 or more")
        if up not in get_args(Up):
            raise ModelError("unet", f"got up={up!r}", f"needed one of {', '.join(get_args(Up))}")
        self.input_size = (128, 128)
        self.multiple = 2**depth
        widths = [width * 2**level for level in range(depth + 1)]
        self.stem = DoubleConv(in_channels, width)
        self.down = torch.nn.ModuleList(
            torch.nn.Sequential(nn.MaxPool2d(2), DoubleConv(channels, 2 * channels)) for channels in widths[:-1]
        )
        self.up = torch.nn.ModuleList(UpBlock(channels, up) for channels in reversed(widths[:-1]))
        self.classifier = nn.Conv2d(width, num_classes, 1)
        kaiming_fan_out(self)

    def forward(self, input: Tensor) -> dict[str, Tensor]:
        height, width = input.shape[-2:]
        # Written so that a compiler sees that whole windows of all levels fit, whatever the size.
        down, right = (-(-side // self.multiple) * self.multiple - side for side in (height, width))
        maps: Tensor = self.stem(F.pad(input, (0, right, 0, down)))
        beside = []
        for halve in self.down:
            beside.append(maps)
            maps = halve(maps)
        for join in self.up:
            maps = join(maps, beside.pop())
        return {"out": self.classifier(maps)[..., :height, :width]}


register(UNet, "unet", "U-Net, 16 channels, 4 levels; 1,812,357 parameters, 128x128 images.", "semantic")
