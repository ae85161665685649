"""What pretrained weights expect to be done to a picture before the network sees it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import torch.nn.functional as F
from torch import Tensor

from striate.data.batches import Normalization
from striate.data.images import as_channels
from striate.errors import DataError

INTERPOLATIONS: Final = ("bilinear", "bicubic")


@dataclass(frozen=True)
class Preprocessing:
    """Resize until the shorter side fits, cut the middle out, normalise: it belongs to weights, and goes where they go.

    Args:
        resize: pixels of the shorter side after resizing (antialiased, as Pillow does).
        crop: pixels of either side of the square that is cut out.
        normalization: of the pixels.
        interpolation: ``"bilinear"`` or ``"bicubic"``.

    Raises:
        DataError: a crop that is larger than what it is cut from, an unknown interpolation.

    >>> import torch
    >>> grey = Preprocessing(36, 32, Normalization((0.5,), (0.5,)))
    >>> grey(torch.zeros(1, 1, 72, 108, dtype=torch.uint8)).shape
    torch.Size([1, 1, 32, 32])
    """

    resize: int
    crop: int
    normalization: Normalization
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        if not 0 < self.crop <= self.resize:
            raise DataError("preprocessing", f"got crop {self.crop} of {self.resize}", "needed 1 pixel to all of them")
        if self.interpolation not in INTERPOLATIONS:
            raise DataError("preprocessing", f"got {self.interpolation!r}", "needed " + " or ".join(INTERPOLATIONS))

    @property
    def channels(self) -> int:
        """That the network gets."""
        return len(self.normalization.mean)

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) that the network gets."""
        return self.crop, self.crop

    def fit(self, images: Tensor) -> Tensor:
        """The part of pictures that the network sees: uint8 (N, C, H, W) to uint8 (N, channels, crop, crop)."""
        coloured = as_channels(images, self.channels)
        height, width = coloured.shape[2:]
        factor = self.resize / min(height, width)
        size = [max(self.resize, math.floor(side * factor)) for side in (height, width)]
        # On bytes this is Pillow's fixed-point arithmetic, in which most weights were trained.
        resized = F.interpolate(coloured, size, mode=self.interpolation, antialias=True)
        top, left = ((side - self.crop) // 2 for side in size)
        return resized[..., top : top + self.crop, left : left + self.crop]

    def __call__(self, images: Tensor) -> Tensor:
        """What the network takes: uint8 (N, C, H, W) to float32 (N, channels, crop, crop)."""
        return self.normalization(self.fit(images))

    def to_dict(self) -> dict[str, Any]:
        """All fields, for JSON."""
        return {
            "resize": self.resize,
            "crop": self.crop,
            "normalization": self.normalization.to_dict(),
            "interpolation": self.interpolation,
        }
