"""Transforms of whole batches: float32 images (B, C, H, W) with values from 0 to 1, numbers (B,) that say how much.

What comes into an image from outside is zero, as everywhere in striate.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor


def warp(images: Tensor, matrix: Tensor, displacement: Tensor | None = None) -> Tensor:
    """Images seen through an affine map, and a displacement of each place, in one bilinear interpolation.

    Args:
        images: (B, C, H, W).
        matrix: (B, 2, 3), from a place (x, y) of the result to one of the image, both from the centre, as
            :func:`affine` makes it; in pixels, the last column as a share of the side.
        displacement: (B, 2, H, W), added to the place in the image, in pixels.

    >>> image = torch.tensor([[[[1.0, 2.0, 3.0]]]])
    >>> warp(image, affine(flip=torch.tensor([True])))
    tensor([[[[3., 2., 1.]]]])
    >>> warp(image, affine(translate_x=torch.tensor([1 / 3]))).round(decimals=4)
    tensor([[[[0., 1., 2.]]]])
    """
    height, width = images.shape[-2:]
    # grid_sample counts from -1 to 1 along each axis, so what mixes the axes is scaled by their ratio.
    ratio = torch.tensor([[1, height / width, 2], [width / height, 1, 2]], device=matrix.device)
    grid = F.affine_grid(matrix * ratio, list(images.shape), align_corners=False)
    if displacement is not None:
        grid = grid + displacement.permute(0, 2, 3, 1) * torch.tensor([2 / width, 2 / height], device=matrix.device)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def affine(
    *,
    degrees: Tensor | None = None,
    scale_x: Tensor | None = None,
    scale_y: Tensor | None = None,
    shear_x: Tensor | None = None,
    shear_y: Tensor | None = None,
    translate_x: Tensor | None = None,
    translate_y: Tensor | None = None,
    flip: Tensor | None = None,
) -> Tensor:
    """The (B, 2, 3) with which :func:`warp` turns, scales, shears, shifts and mirrors; each number is (B,).

    Args:
        degrees: of a turn, counterclockwise.
        scale_x, scale_y: how much larger things become.
        shear_x, shear_y: pixels along x that a pixel along y makes, and the other way round.
        translate_x, translate_y: to the right and down, as a share of the width and the height.
        flip: bool, whether left and right change places.
    """
    given = [each for each in (degrees, scale_x, shear_x, shear_y, translate_x, translate_y, flip) if each is not None]
    zero = torch.zeros(len(given[0]), device=given[0].device)
    one = zero + 1

    def square(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
        return torch.stack([a, b, c, d], 1).view(-1, 2, 2)

    angle = torch.deg2rad(zero if degrees is None else degrees)
    turn = square(angle.cos(), -angle.sin(), angle.sin(), angle.cos())
    shear = square(one, zero if shear_x is None else -shear_x, zero if shear_y is None else -shear_y, one)
    side = one if flip is None else torch.where(flip, -one, one)
    scale = square(
        side / (one if scale_x is None else scale_x), zero, zero, one / (one if scale_y is None else scale_y)
    )
    linear = scale @ shear @ turn
    shift = torch.stack([zero if each is None else -each for each in (translate_x, translate_y)], 1)
    return torch.cat([linear, shift.unsqueeze(2)], 2)


def luma(images: Tensor) -> Tensor:
    """The brightness (B, 1, H, W) of ITU-R BT.601; of grey images themselves."""
    if images.shape[1] == 1:
        return images
    weights = torch.tensor([0.299, 0.587, 0.114], device=images.device).view(1, 3, 1, 1)
    return (images * weights).sum(1, keepdim=True)


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    return images * _each(factor)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """From the mean brightness of each image: 0 is that grey everywhere, 1 the image."""
    return torch.lerp(luma(images).mean((1, 2, 3), keepdim=True), images, _each(factor))


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """0 is grey, 1 the image."""
    return torch.lerp(luma(images), images, _each(factor))


def hue(images: Tensor, degrees: Tensor) -> Tensor:
    """Colours turned about the grey axis, so that grey stays grey; grey images stay as they are."""
    if images.shape[1] == 1:
        return images
    angle = torch.deg2rad(degrees)
    # Rodrigues' formula for the axis (1, 1, 1) / sqrt(3).
    third = torch.full((3, 3), 1 / 3, device=images.device)
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], device=images.device) / 3**0.5
    cosine, sine = angle.cos().view(-1, 1, 1), angle.sin().view(-1, 1, 1)
    turn = cosine * torch.eye(3, device=images.device) + (1 - cosine) * third + sine * cross
    return torch.einsum("bij,bjhw->bihw", turn, images)


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """From a smoothed image, 0, over the image, 1, to a sharpened one; the outermost pixels stay."""
    kernel = torch.tensor([[1.0, 1, 1], [1, 5, 1], [1, 1, 1]], device=images.device) / 13
    channels = images.shape[1]
    smooth = images.clone()
    smooth[..., 1:-1, 1:-1] = F.conv2d(images, kernel.expand(channels, 1, 3, 3), groups=channels)
    return torch.lerp(smooth, images, _each(factor))


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Values from the threshold on are turned into their negative."""
    return torch.where(images < _each(threshold), images, 1 - images)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Of the eight bits of a value only the first so many."""
    step = 2 ** (8 - _each(bits))
    return (images * 255).div(step).floor().mul(step) / 255


def autocontrast(images: Tensor) -> Tensor:
    """Each channel spread over 0 to 1; a constant one stays."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    return torch.where(high > low, (images - low) / (high - low).clamp_min(1e-6), images)


def equalize(images: Tensor) -> Tensor:
    """Each channel with a flat histogram, of 256 values: what is darker than a share s of the pixels becomes 1 - s.

    Source: Gonzalez & Woods, "Digital image processing", section 3.3, with the darkest value kept at 0.
    """
    levels = (images.clamp(0, 1) * 255).round().long().flatten(2)
    counts = torch.zeros(*levels.shape[:2], 256, device=images.device).scatter_add_(
        2, levels, torch.ones_like(levels, dtype=torch.float32)
    )
    below = counts.cumsum(2)
    darkest = below.gather(2, levels.amin(2, keepdim=True))
    spread = (below - darkest) / (levels.shape[2] - darkest).clamp_min(1)
    flat = spread.gather(2, levels).view_as(images)
    return torch.where((darkest < levels.shape[2]).unsqueeze(3), flat, images)


def _each(factor: Tensor) -> Tensor:
    return factor.view(-1, 1, 1, 1)


#: RandAugment's operations with strengths m from 0 to 1, signed in those that go both ways (Cubuk, Zoph, Shlens & Le,
#: "RandAugment: practical automated data augmentation with a reduced search space", 2020, figure 2 and section 3;
#: ranges as in AutoAugment, 2019, table 6).
RANDAUGMENT: Final[tuple[Callable[[Tensor, Tensor], Tensor], ...]] = (
    lambda images, m: images,
    lambda images, m: autocontrast(images),
    lambda images, m: equalize(images),
    lambda images, m: warp(images, affine(degrees=30 * m)),
    lambda images, m: solarize(images, 1 - m.abs()),
    lambda images, m: saturation(images, 1 + 0.9 * m),
    lambda images, m: posterize(images, 8 - (4 * m.abs()).round()),
    lambda images, m: contrast(images, 1 + 0.9 * m),
    lambda images, m: brightness(images, 1 + 0.9 * m),
    lambda images, m: sharpness(images, 1 + 0.9 * m),
    lambda images, m: warp(images, affine(shear_x=0.3 * m)),
    lambda images, m: warp(images, affine(shear_y=0.3 * m)),
    lambda images, m: warp(images, affine(translate_x=0.45 * m)),
    lambda images, m: warp(images, affine(translate_y=0.45 * m)),
)
