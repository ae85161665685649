"""Detections of all images of a batch as rows, which is the form that exported files use.

In Python, detectors process each image separately, because each has another number of detections. An exported graph for
any number of images has no loop over images. It has the rows of all images, one image after the other, and a column
with the number of the image.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def first_of_each(images: Tensor, count: int, most: int) -> tuple[Tensor, Tensor]:
    """The first rows of each image.

    Args:
        images: int64 (R,), which image a row belongs to.
        count: of images.
        most: the largest number of rows of an image.

    Returns:
        The image and the index of each row that is left, int64 (D,), image by image.

    >>> first_of_each(torch.tensor([1, 0, 1, 1, 0]), 2, 2)
    (tensor([0, 0, 1, 1]), tensor([1, 4, 0, 2]))
    """
    own = images == torch.arange(count, device=images.device)[:, None]
    left = own & (own.long().cumsum(1) <= most)
    image, row = left.nonzero(as_tuple=True)
    return image, row


def stretched(boxes: Tensor, size: tuple[int, int], new_size: tuple[int, int]) -> Tensor:
    """Boxes (..., 4) on images of ``size`` (H, W) after these were brought to ``new_size``.

    Like :func:`striate.nn.resize_boxes`, for symbolic sizes, as an exporter has them.
    """
    down, right = new_size[0] / size[0], new_size[1] / size[1]
    sides = zip(boxes.unbind(-1), (right, down, right, down), strict=True)
    return torch.stack([side * factor for side, factor in sides], -1)


def paste_together(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """The result of :func:`striate.nn.paste_masks`, without a loop over the masks, (M, 1, h, w) to (M, 1, H, W).

    Bilinear resampling of a mask is a matrix product along each axis.

    Args:
        masks: probabilities.
        boxes: (M, 4), pixels of the image.
        size: (H, W) of the image.
    """
    framed = F.pad(masks, (1, 1, 1, 1))
    half, centre = (boxes[:, 2:] - boxes[:, :2]) * 0.5, (boxes[:, 2:] + boxes[:, :2]) * 0.5
    grown = half * masks.new_tensor((framed.shape[3] / masks.shape[3], framed.shape[2] / masks.shape[2]))
    first, last = (centre - grown).trunc(), (centre + grown).trunc()
    across, down = (
        _resampling(first[:, axis], last[:, axis], framed.shape[3 - axis], size[1 - axis]) for axis in (0, 1)
    )
    return (down @ framed[:, 0] @ across.mT)[:, None]


def _resampling(first: Tensor, last: Tensor, places: int, pixels: int) -> Tensor:
    """The weight of each cell of a mask in each pixel of an image, along one axis, (M, pixels, cells).

    The masks extend from pixel ``first`` to pixel ``last``, (M,) each.
    """
    length = (last - first + 1).clamp(min=1)[:, None]
    pixel = torch.arange(pixels, device=first.device).to(first) - first[:, None]
    at = ((pixel + 0.5) * (places / length) - 0.5).clamp(0, places - 1)
    weights = (1 - (at[..., None] - torch.arange(places, device=first.device).to(first)).abs()).clamp(min=0)
    return weights * ((pixel >= 0) & (pixel < length))[..., None].to(weights)
