"""The preprocessing of pictures that a network's weights expect."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from striate.data.batches import Normalization
from striate.data.decoding import MAX_PIXELS, Reading
from striate.data.fitting import Fit, Size, as_channels
from striate.errors import DataError


@dataclass(frozen=True)
class Preprocessing:
    """Size, crop, interpolation and the pixels' scale. It belongs to weights and is stored with them.

    With ``mode`` ``"crop"`` a picture is scaled so that its shorter side has ``resize`` pixels, and its middle is cut
    out. (If the crop isn't square, the picture is scaled to cover the crop times ``resize`` over its shorter side.)
    With ``"squash"`` each side is scaled separately. With ``"frame"`` a picture is enlarged by whole factors and
    framed, as :func:`~striate.data.fit_image` does.

    Args:
        resize: pixels of the shorter side after resizing (antialiased, as Pillow does); None for that of ``crop``.
        crop: sides of the network's input in pixels, one number or (height, width).
        normalization: of pixel values scaled to 0 to 1.
        interpolation: ``"bilinear"`` or ``"bicubic"``.
        mode: one of ``"crop"``, ``"squash"``, ``"frame"``, and ``"own"``: pictures keep their size, and the network
            brings them to one of about ``crop`` itself.

    Raises:
        DataError: a crop that is larger than what it is cut from, an unknown interpolation or mode.

    >>> import torch
    >>> grey = Preprocessing(36, 32, Normalization((0.5,), (0.5,)))
    >>> grey(torch.zeros(1, 1, 72, 108, dtype=torch.uint8)).shape
    torch.Size([1, 1, 32, 32])
    """

    resize: int | None
    crop: int | Size
    normalization: Normalization
    interpolation: str = "bilinear"
    mode: str = "crop"
    #: Fits pictures to the network's size.
    how: Fit = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        crop: Size = (self.crop, self.crop) if isinstance(self.crop, int) else (int(self.crop[0]), int(self.crop[1]))
        if min(crop) < 1 or (self.resize is not None and min(crop) > self.resize):
            raise DataError("preprocessing", f"got crop {self.crop} of {self.resize}", "needed 1 pixel to all of them")
        factor = (self.resize or min(crop)) / min(crop)
        covers = (round(crop[0] * factor), round(crop[1] * factor)) if self.mode == "crop" else None
        object.__setattr__(self, "how", Fit(crop, self.mode, covers, self.interpolation))

    @property
    def channels(self) -> int:
        """Channels of the network's input."""
        return len(self.normalization.mean)

    @property
    def image_size(self) -> Size:
        """(H, W) of the network's input."""
        return self.how.image_size

    def at(self, image_size: Size) -> Preprocessing:
        """The same for images of another (H, W), with the same share of a picture cut out.

        >>> imagenet = Preprocessing(256, 224, Normalization((0.5,) * 3, (0.5,) * 3))
        >>> imagenet.at((112, 112)).resize
        128
        """
        if image_size == self.image_size:
            return self
        resize = None if self.resize is None else round(min(image_size) * self.resize / min(self.image_size))
        return replace(self, resize=resize, crop=image_size)

    def reading(self, max_pixels: int = MAX_PIXELS) -> Reading:
        """Reads image files as the network sees them, uint8 (channels, \\*image_size), before normalisation."""
        return Reading(self.how, self.channels, max_pixels)

    def fit(self, images: Tensor) -> Tensor:
        """The part of pictures that the network sees: uint8 (N, C, H, W) to uint8 (N, channels, \\*image_size)."""
        return self.how(as_channels(images, self.channels))

    def __call__(self, images: Tensor) -> Tensor:
        """The network's input: uint8 (N, C, H, W) to float32 (N, channels, \\*image_size)."""
        return self.normalization(self.fit(images))

    def __str__(self) -> str:
        height, width = self.image_size
        size = f"{height}x{width}"
        if self.mode == "crop":
            cut = (
                f"the middle {size} of " if self.resize not in (None, min(self.image_size)) else f"the middle {size}, "
            )
            words = f"{cut}the shorter side scaled to {self.resize or min(self.image_size)}, {self.interpolation}"
        elif self.mode == "squash":
            words = f"squashed to {size}, {self.interpolation}"
        elif self.mode == "own":
            words = f"at their own size; the network scales them to about {size}"
        else:
            words = f"enlarged by whole factors and framed, or squashed, to {size}"
        mean, std = (", ".join(f"{value:.3g}" for value in each) for each in self._numbers())
        return f"{words}; pixels (p/255 - {mean}) / {std}"

    def _numbers(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        mean, std = self.normalization.mean, self.normalization.std
        same = len(set(mean)) == len(set(std)) == 1
        return (mean[:1], std[:1]) if same else (mean, std)

    def to_dict(self) -> dict[str, Any]:
        """All fields, for JSON."""
        return {
            "resize": self.resize,
            "crop": self.crop if isinstance(self.crop, int) else list(self.crop),
            "normalization": self.normalization.to_dict(),
            "interpolation": self.interpolation,
            "mode": self.mode,
        }

    @classmethod
    def from_dict(cls, fields: object) -> Preprocessing:
        """The inverse of :meth:`to_dict`.

        Raises:
            DataError: ``fields`` of another form.
        """
        if (
            not isinstance(fields, Mapping)
            or not {"crop", "normalization"} <= fields.keys()
            or (fields.keys() - {"resize", "crop", "normalization", "interpolation", "mode"})
        ):
            raise DataError("preprocessing", f"got {fields!r}", "needed what Preprocessing.to_dict gives")
        crop, resize = fields["crop"], fields.get("resize")
        sizes = [*(crop if isinstance(crop, list | tuple) else [crop]), *([] if resize is None else [resize])]
        if any(isinstance(size, bool) or not isinstance(size, int) for size in sizes) or (
            isinstance(crop, list | tuple) and len(crop) != 2
        ):
            raise DataError("preprocessing", f"got crop {crop!r}, resize {resize!r}", "needed whole numbers of pixels")
        return cls(
            resize,
            crop if isinstance(crop, int) else (crop[0], crop[1]),
            Normalization.from_dict(fields["normalization"]),
            str(fields.get("interpolation", "bilinear")),
            str(fields.get("mode", "crop")),
        )

    @classmethod
    def of_timm(cls, config: Mapping[str, Any]) -> Preprocessing | None:
        """What timm's ``pretrained_cfg`` says, which lies in ``config.json`` beside weights; None if it says nothing.

        >>> Preprocessing.of_timm({"input_size": [3, 224, 224], "crop_pct": 0.875, "mean": [0.5], "std": [0.5]}).resize
        256
        """
        size, mean, std = (config.get(name) for name in ("input_size", "mean", "std"))
        if not isinstance(size, list) or len(size) != 3 or not isinstance(mean, list) or not isinstance(std, list):
            return None
        height, width = int(size[1]), int(size[2])
        mode = {"squash": "squash"}.get(str(config.get("crop_mode")), "crop")
        share = float(config.get("crop_pct") or 0.875)
        interpolation = str(config.get("interpolation") or "bilinear")
        return cls(
            math.floor(min(height, width) / share) if mode == "crop" else None,
            height if height == width else (height, width),
            Normalization(tuple(map(float, mean)), tuple(map(float, std))),
            interpolation if interpolation == "bilinear" else "bicubic",
            mode,
        )
