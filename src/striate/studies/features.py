"""Features that people designed: histograms of oriented gradients and a bank of Gabor filters, by convolution."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from striate import ops
from striate.analysis import Gabor


def hog(images: Tensor, *, orientations: int = 9, cell: int = 2, block: int = 2) -> Tensor:
    """Histograms of oriented gradients, (N, 1, H, W) to (N, features), with L2-Hys blocks.

    Gradients are a convolution with (-1, 0, 1), zero on the frame; a cell's histogram is an average pooling of the
    magnitudes of each orientation, unsigned and without interpolation. As scikit-image's ``hog``.

    Source: Dalal & Triggs, "Histograms of oriented gradients for human detection" (2005), section 6.

    >>> hog(torch.rand(2, 1, 8, 8)).shape
    torch.Size([2, 324])
    """
    step = images.new_tensor([-1.0, 0.0, 1.0])
    down, across = torch.zeros_like(images), torch.zeros_like(images)
    down[..., 1:-1, :] = ops.conv2d(images, step.reshape(1, 1, 3, 1))
    across[..., 1:-1] = ops.conv2d(images, step.reshape(1, 1, 1, 3))
    angle = torch.rad2deg(torch.atan2(down, across)) % 180
    width = 180 / orientations
    chosen = torch.arange(orientations).reshape(1, -1, 1, 1) == (angle / width).floor()
    cells = ops.avg_pool2d(torch.hypot(down, across) * chosen, cell)
    blocks = cells.unfold(2, block, 1).unfold(3, block, 1).permute(0, 2, 3, 4, 5, 1).flatten(3)
    clipped = _unit_length(blocks).clamp_max(0.2)
    return _unit_length(clipped).flatten(1)


def gabor_bank(images: Tensor, *, orientations: int = 8, frequencies: tuple[float, ...] = (0.15, 0.3)) -> Tensor:
    """Energies of pairs of 5x5 Gabor filters a quarter of a wave apart, averaged over 2x2, (N, 1, H, W) to (N, F).

    >>> gabor_bank(torch.rand(2, 1, 8, 8)).shape
    torch.Size([2, 256])
    """
    pairs = [
        Gabor(orientation=math.pi * turn / orientations, frequency=frequency, phase=phase).sample((5, 5))
        for frequency in frequencies
        for turn in range(orientations)
        for phase in (0.0, math.pi / 2)
    ]
    kernels = torch.stack(pairs)[:, None].to(images.dtype)
    responses = ops.conv2d(images, kernels - kernels.mean((2, 3), keepdim=True), padding=2)
    return ops.avg_pool2d(responses.unflatten(1, (-1, 2)).norm(dim=2), 2).flatten(1)


def _unit_length(blocks: Tensor) -> Tensor:
    return blocks / (blocks.square().sum(-1, keepdim=True) + 1e-10).sqrt()
