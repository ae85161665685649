"""Normalisation of maps over their channels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class LayerNorm2d(torch.nn.LayerNorm):
    """Layer normalisation over the channels of each position, (N, C, H, W) to the same shape.

    Every position's C values are brought to mean 0 and variance 1 by themselves, then scaled and shifted by a weight
    and a bias for each channel. Arguments are those of :class:`torch.nn.LayerNorm`.

    Source: Ba, Kiros & Hinton, "Layer Normalization" (2016); over the channels of maps: Liu et al., "A ConvNet for the
    2020s" (2022), section 2.6.

    >>> LayerNorm2d(2)(torch.tensor([[[[3.0]], [[5.0]]]])).flatten().tolist()
    [-0.9999..., 0.9999...]
    """

    def forward(self, input: Tensor) -> Tensor:
        last = input.permute(0, 2, 3, 1)
        return F.layer_norm(last, self.normalized_shape, self.weight, self.bias, self.eps).permute(0, 3, 1, 2)
