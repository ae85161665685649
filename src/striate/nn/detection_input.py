"""Input and output of detectors: images of any sizes become one batch, and results are mapped back to the images.

Source: Ren et al., "Faster R-CNN" (2015), section 3.3, which sets the shorter side; He et al., "Mask R-CNN" (2017),
section 3.1, which brings masks to the size of their boxes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from striate import ops
from striate.errors import ModelError
from striate.nn.detection_targets import Target, check_images

#: Mean and deviation of the pixels of ImageNet's training images, red, green and blue.
IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ImageBatch:
    """Images of different sizes as one tensor, padded with zeros on the right and below.

    Args:
        tensors: (N, C, H, W).
        image_sizes: (height, width) of each image without the padding.
    """

    tensors: Tensor
    image_sizes: list[tuple[int, int]]

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the batch, padding included."""
        return self.tensors.shape[-2], self.tensors.shape[-1]


class DetectionInput(torch.nn.Module):
    """Normalises and resizes images with their targets, makes a batch, and maps results back to the images.

    An image is scaled so that its shorter side is ``min_size`` long, or its longer side ``max_size`` if that gives a
    smaller image.

    Args:
        min_size: pixels. If there are several, training draws one for each image (by torch's global generator), and
            evaluation uses the last.
        max_size: pixels.
        mean, std: of the pixels, one for each channel; the mean is subtracted, then the result is divided by std.
        size_divisible: height and width of a batch are multiples of this.
        fixed_size: (H, W) to which all images are stretched, instead of ``min_size`` and ``max_size``.

    >>> batch, _ = DetectionInput(32, 48)([torch.zeros(3, 10, 12), torch.zeros(3, 10, 40)])
    >>> batch.tensors.shape, batch.image_sizes
    (torch.Size([2, 3, 32, 64]), [(32, 38), (12, 48)])
    """

    def __init__(
        self,
        min_size: int | Sequence[int] = 800,
        max_size: int = 1333,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        size_divisible: int = 32,
        fixed_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.min_size = (min_size,) if isinstance(min_size, int) else tuple(min_size)
        self.max_size = max_size
        self.image_mean, self.image_std = tuple(mean), tuple(std)
        self.size_divisible = size_divisible
        self.fixed_size = fixed_size

    def resize(self, size: tuple[int, int]) -> None:
        """Scales images from here on until their shorter side has the smaller number of pixels of (H, W), or their
        longer side the larger one.

        Raises:
            ModelError: all images are stretched to one other size.
        """
        if self.fixed_size not in (None, size):
            got = f"got images of {size[0]}x{size[1]}"
            raise ModelError("DetectionInput", got, f"needed {self.fixed_size[0]}x{self.fixed_size[1]}")
        self.min_size, self.max_size = (min(size),), max(size)

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Target] | None = None
    ) -> tuple[ImageBatch, list[Target] | None]:
        """The batch, and the targets in its pixels.

        Args:
            images: (C, H, W), floating point, from 0 to 1.
            targets: for each image ``boxes`` (M, 4) and possibly ``masks`` (M, H, W); other entries are kept.

        Raises:
            ModelError: images of another kind.
        """
        check_images(images, len(self.image_mean))
        sizes = [self._new_size(image.shape[-2], image.shape[-1]) for image in images]
        resized = [_resized(self._normalised(image), size) for image, size in zip(images, sizes, strict=True)]
        moved = None
        if targets is not None:
            moved = [_moved(target, image, size) for target, image, size in zip(targets, images, sizes, strict=True)]
        return ImageBatch(self._padded(resized), sizes), moved

    def unscaled(self, images: Tensor) -> ImageBatch:
        """Images of one size as a batch, normalised and padded; scaled only if there is a ``fixed_size``.

        Args:
            images: (N, C, H, W), floating point, from 0 to 1.
        """
        values, size = self._normalised(images), (images.shape[2], images.shape[3])
        if self.fixed_size is not None:
            size = self.fixed_size
            values = ops.interpolate(values, size=size, mode="bilinear", align_corners=False)
        unit = self.size_divisible
        if not all(side % unit == 0 for side in size):
            values = F.pad(values, (0, -size[1] % unit, 0, -size[0] % unit))
        return ImageBatch(values, [size])

    def results(
        self,
        found: Sequence[Target],
        batch: ImageBatch,
        original_sizes: Sequence[tuple[int, int]],
    ) -> list[Target]:
        """Results in the pixels of their own images: boxes scaled, masks (M, 1, h, w) of boxes pasted to (M, 1, H, W).

        Args:
            found: for each image ``boxes`` (M, 4) in pixels of the batch, and ``masks`` where there are.
            batch: the batch in which they were found.
            original_sizes: (H, W) of each image before resizing.
        """
        finished = []
        for result, size, original in zip(found, batch.image_sizes, original_sizes, strict=True):
            result = result | {"boxes": resize_boxes(result["boxes"], size, original)}
            if "masks" in result:
                result["masks"] = paste_masks(result["masks"], result["boxes"], original)
            finished.append(result)
        return finished

    def _new_size(self, height: int, width: int) -> tuple[int, int]:
        # Drawn even if the size is fixed, as in torchvision, so that later random numbers are the same.
        least = self.min_size[-1]
        if self.training:
            least = self.min_size[int(torch.empty(1).uniform_(0, len(self.min_size)).item())]
        if self.fixed_size is not None:
            return self.fixed_size
        scale = min(least / min(height, width), self.max_size / max(height, width))
        return max(1, math.floor(height * scale)), max(1, math.floor(width * scale))

    def _normalised(self, image: Tensor) -> Tensor:
        mean, std = image.new_tensor(self.image_mean), image.new_tensor(self.image_std)
        return (image - mean[:, None, None]) / std[:, None, None]

    def _padded(self, images: list[Tensor]) -> Tensor:
        unit = self.size_divisible
        height, width = (-(-max(image.shape[axis] for image in images) // unit) * unit for axis in (1, 2))
        return torch.stack([F.pad(image, (0, width - image.shape[2], 0, height - image.shape[1])) for image in images])

    def extra_repr(self) -> str:
        size = (
            f"fixed_size={self.fixed_size}"
            if self.fixed_size
            else f"min_size={self.min_size}, max_size={self.max_size}"
        )
        return f"{size}, mean={self.image_mean}, std={self.image_std}, size_divisible={self.size_divisible}"


def _resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    return ops.interpolate(image[None], size=size, mode="bilinear", align_corners=False)[0]


def _moved(target: Target, image: Tensor, size: tuple[int, int]) -> Target:
    """A target after its image was brought to ``size``, of the image's dtype and on its device."""
    boxes = resize_boxes(target["boxes"].to(image), (image.shape[-2], image.shape[-1]), size)
    moved = {name: tensor.to(image.device) for name, tensor in target.items()} | {"boxes": boxes}
    if "masks" in target:
        # The nearest pixel depends on the precision, so one precision is used for all networks.
        moved["masks"] = ops.interpolate(moved["masks"][:, None].float(), size=size)[:, 0].to(torch.uint8)
    return moved


def resize_boxes(boxes: Tensor, size: tuple[int, int], new_size: tuple[int, int]) -> Tensor:
    """Boxes (M, 4) on an image of ``size`` (H, W) after it was brought to ``new_size``.

    >>> resize_boxes(torch.tensor([[1.0, 1.0, 2.0, 4.0]]), (10, 10), (20, 30)).tolist()
    [[3.0, 2.0, 6.0, 8.0]]
    """
    down, right = new_size[0] / size[0], new_size[1] / size[1]
    # Rounded to float32 in float64 networks too, as in torchvision: a box that is slightly larger than a whole number
    # of samples would otherwise be resampled with one sample more.
    return boxes * torch.tensor((right, down, right, down), dtype=torch.float32, device=boxes.device).to(boxes.dtype)


def paste_masks(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks of boxes (M, 1, h, w) as masks of the image (M, 1, H, W), 0 outside of the boxes.

    Each mask gets a frame of zeros, one cell wide, so that it fades at its border, and its box grows accordingly. The
    box is rounded to whole pixels; its last pixel belongs to it.

    Args:
        masks: probabilities.
        boxes: (M, 4), pixels of the image.
        size: (H, W) of the image.
    """
    framed = F.pad(masks, (1, 1, 1, 1))
    scale = framed.new_tensor((framed.shape[-1] / masks.shape[-1], framed.shape[-2] / masks.shape[-2]))
    half, centre = (boxes[:, 2:] - boxes[:, :2]) * 0.5 * scale, (boxes[:, 2:] + boxes[:, :2]) * 0.5
    corners = torch.cat([centre - half, centre + half], 1).long().tolist()
    pasted = masks.new_zeros(len(masks), 1, *size)
    for index, (mask, (x0, y0, x1, y1)) in enumerate(zip(framed, corners, strict=True)):
        grown = ops.interpolate(mask[None], (max(y1 - y0 + 1, 1), max(x1 - x0 + 1, 1)), mode="bilinear")[0]
        top, left = max(y0, 0), max(x0, 0)
        seen = grown[:, top - y0 : size[0] - y0, left - x0 : size[1] - x0]
        # Written by index, since views that iteration makes may not be written to where gradients are asked for.
        pasted[index, :, top : top + seen.shape[1], left : left + seen.shape[2]] = seen
    return pasted
