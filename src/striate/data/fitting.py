"""Fits pictures of any size and colour to the size and the channels that a network takes.

Everything stays uint8. A frame around a small picture is zero, like the background in MNIST and its relatives.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F

from striate.errors import DataError

Size = tuple[int, int]

INTERPOLATIONS: Final = ("bilinear", "bicubic")
MODES: Final = ("crop", "squash", "frame", "own")

#: Random crops of a training image: share of its area, and width over height (Szegedy et al., "Going deeper with
#: convolutions", 2015, section 6; the smaller crops of ImageNet's training show too little of a few photographs, so the
#: smallest share is that of Howard & Gugger's fastai, "fastai: a layered API for deep learning", 2020).
CROP_AREA: Final = (0.35, 1.0)
CROP_RATIO: Final = (3 / 4, 4 / 3)

# Pixels held as numbers wider than a byte at any one time.
_CHUNK = 1 << 22


@dataclass(frozen=True)
class Crop:
    """A part of a picture, described independently of the picture's size.

    Args:
        area: share of the picture's area, 0 to 1.
        ratio: width over height of the part, in pixels.
        top, left: where the part lies, as a share of the remaining space, 0 to 1.
    """

    area: float
    ratio: float
    top: float
    left: float

    def box(self, height: int, width: int) -> tuple[int, int, int, int]:
        """(top, left, height, width) in a picture of that size, pixels; a part that doesn't fit is made to fit.

        >>> Crop(0.25, 1.0, 0.5, 0.5).box(100, 100)
        (25, 25, 50, 50)
        """
        rows = min(height, max(1, round(math.sqrt(self.area * height * width / self.ratio))))
        columns = min(width, max(1, round(math.sqrt(self.area * height * width * self.ratio))))
        return round(self.top * (height - rows)), round(self.left * (width - columns)), rows, columns


@dataclass(frozen=True)
class Fit:
    """How a picture of any size is fitted to ``image_size``.

    Args:
        image_size: (H, W) of the result, pixels.
        mode: ``"crop"`` scales the picture in proportion until it covers ``resize``, and cuts out the middle;
            ``"squash"`` scales each side separately; ``"frame"`` does what :func:`fit_image` does; ``"own"`` leaves the
            picture as it is, for networks that scale pictures themselves.
        resize: (H, W) that a picture covers before its middle is cut out; None for ``image_size``.
        interpolation: ``"bilinear"`` or ``"bicubic"``, antialiased, in Pillow's fixed-point arithmetic; a frame takes
            bilinear.

    Raises:
        DataError: sizes below 1, a middle that is larger than what it is cut from, an unknown mode or interpolation.

    >>> Fit((32, 32), "crop", (36, 36))(torch.zeros(1, 72, 108, dtype=torch.uint8)).shape
    torch.Size([1, 32, 32])
    """

    image_size: Size
    mode: str = "frame"
    resize: Size | None = None
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise DataError("fit", f"got {self.mode!r}", "needed " + " or ".join(MODES))
        if self.interpolation not in INTERPOLATIONS:
            raise DataError("fit", f"got {self.interpolation!r}", "needed " + " or ".join(INTERPOLATIONS))
        _check_size(self.image_size)
        if any(cut > whole for cut, whole in zip(self.image_size, self.resize or self.image_size, strict=True)):
            raise DataError("fit", f"got crop {self.image_size} of {self.resize}", "needed 1 pixel to all of them")

    def __call__(self, images: torch.Tensor, crop: Crop | None = None) -> torch.Tensor:
        """Uint8 (..., C, H, W) to uint8 (..., C, \\*image_size); with ``crop`` that part, scaled to the whole size."""
        _check_images("fit", images)
        if crop is not None:
            top, left, rows, columns = crop.box(*images.shape[-2:])
            return self._resized(images[..., top : top + rows, left : left + columns], self.image_size)
        if self.mode == "own":
            return images
        if self.mode == "frame":
            return fit_image(images, self.image_size)
        if self.mode == "squash":
            return self._resized(images, self.image_size)
        size = self.covering(*images.shape[-2:])
        (height, width), (rows, columns) = size, self.image_size
        top, left = (height - rows) // 2, (width - columns) // 2
        return self._resized(images, size)[..., top : top + rows, left : left + columns]

    def covering(self, height: int, width: int) -> Size:
        """The size at which a picture of (height, width) just covers ``resize``, its sides in proportion."""
        rows, columns = self.resize or self.image_size
        factor = max(rows / height, columns / width)
        return max(rows, math.floor(height * factor)), max(columns, math.floor(width * factor))

    def needed(self, height: int, width: int, crop: Crop | None = None) -> Size:
        """The (height, width) below which a picture of that size must not be shrunk before it is fitted."""
        if crop is not None:
            _, _, rows, columns = crop.box(height, width)
            factors = [side / part for side, part in zip(self.image_size, (rows, columns), strict=True)]
            return math.ceil(height * factors[0]), math.ceil(width * factors[1])
        return self.covering(height, width) if self.mode == "crop" else self.image_size

    def _resized(self, images: torch.Tensor, size: Size) -> torch.Tensor:
        if tuple(images.shape[-2:]) == tuple(size):
            return images
        flat = images.reshape(-1, *images.shape[-3:])
        if 1 in (*images.shape[-2:], *size):  # PyTorch's kernel for bytes fails an internal assertion in this case
            smooth = F.interpolate(flat.float(), size, mode=self.interpolation, antialias=True)
            resized = smooth.round_().clamp_(0, 255).to(torch.uint8)
        else:
            # On bytes this is Pillow's fixed-point arithmetic, in which most weights were trained.
            resized = F.interpolate(flat, size, mode=self.interpolation, antialias=True)
        return resized.reshape(*images.shape[:-2], *size)


def fit_image(images: torch.Tensor, image_size: Size) -> torch.Tensor:
    """``images`` brought to ``image_size``: uint8 (..., C, H, W) to uint8 (..., C, \\*image_size).

    An image that is larger on any axis is resized to the target, each axis by its own factor (bilinear, antialiased).
    A smaller one is enlarged (bilinear) by the largest whole factor that fits, and framed with zeros, an odd row or
    column of them at the bottom or right: 28 -> 32 is a frame of 2, as in LeCun et al. 1998 (section II.B); 8 -> 28 is
    three times the size and a frame of 2. One that fits is returned as it is. Memory beyond the result is bounded.

    Raises:
        DataError: images or a size of another form.

    >>> fit_image(torch.full((1, 8, 8), 9, dtype=torch.uint8), (10, 11))[0, 1]
    tensor([0, 9, 9, 9, 9, 9, 9, 9, 9, 0, 0], dtype=torch.uint8)
    """
    _check_images("fit_image", images)
    _check_size(image_size)
    given, target = tuple(images.shape[-2:]), tuple(image_size)
    if given == target:
        return images
    if given[0] > target[0] or given[1] > target[1]:
        inner = target
    else:
        factor = min(target[0] // given[0], target[1] // given[1])
        inner = (given[0] * factor, given[1] * factor)
    top, left = (target[0] - inner[0]) // 2, (target[1] - inner[1]) // 2
    fitted = images.new_zeros(*images.shape[:-2], *target)
    inside = fitted.view(-1, 1, *target)[..., top : top + inner[0], left : left + inner[1]]
    planes = images.reshape(-1, 1, *given)
    if inner == given:
        inside.copy_(planes)
        return fitted
    for part in _parts(len(planes), max(given[0] * given[1], inner[0] * inner[1])):
        # antialias widens the filter only along axes that shrink. PyTorch's kernel for uint8 would round twice.
        resized = F.interpolate(planes[part].float(), inner, mode="bilinear", antialias=True)
        inside[part] = resized.round_().to(torch.uint8)
    return fitted


def as_channels(images: torch.Tensor, channels: int) -> torch.Tensor:
    """``images`` with 1 (grey) or 3 (red, green, blue) channels: uint8 (..., C, H, W) to uint8 (..., channels, H, W).

    Grey becomes colour by repetition. Colour becomes grey by the luma of ITU-R BT.601, 0.299 R + 0.587 G + 0.114 B, in
    the 16-bit fixed point of Pillow's ``convert("L")``, whose results these are exactly.

    Raises:
        DataError: other channel counts, on either side.

    >>> as_channels(torch.tensor([255, 0, 0], dtype=torch.uint8).view(3, 1, 1), 1).item()
    76
    """
    _check_images("as_channels", images)
    given = images.shape[-3]
    if given == channels:
        return images
    if {given, channels} != {1, 3}:
        raise DataError("as_channels", f"got images of {given} channels to be {channels}", "needed 1 and 3")
    if channels == 3:
        return images.expand(*images.shape[:-3], 3, *images.shape[-2:]).contiguous()
    grey = images.new_empty(*images.shape[:-3], 1, *images.shape[-2:])
    planes, pixels = grey.view(-1, *grey.shape[-2:]), images.reshape(-1, *images.shape[-3:])
    for part in _parts(len(planes), planes.shape[-2] * planes.shape[-1]):
        red, green, blue = pixels[part].to(torch.int32).unbind(1)
        planes[part] = ((19595 * red + 38470 * green + 7471 * blue + (1 << 15)) >> 16).to(torch.uint8)
    return grey


def _check_size(image_size: Size) -> None:
    if len(image_size) != 2 or not all(isinstance(length, int) and length > 0 for length in image_size):
        raise DataError("fit_image", f"got image size {image_size}", "needed (height, width), both positive integers")


def _check_images(where: str, images: torch.Tensor) -> None:
    if images.dtype != torch.uint8 or images.ndim < 3 or 0 in images.shape[-3:]:
        raise DataError(where, f"got images of {kind(images)}", "needed uint8 (..., C, H, W), no size 0")


def kind(tensor: torch.Tensor) -> str:
    """A tensor's dtype and shape, for messages."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _parts(count: int, pixels: int) -> Iterator[slice]:
    """Slices that cover ``count`` items of ``pixels`` each, a chunk at a time."""
    step = max(1, _CHUNK // pixels)
    return (slice(start, start + step) for start in range(0, count, step))
