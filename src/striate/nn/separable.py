"""Depthwise separable convolution: one filter a channel for space, then 1x1 across channels."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from striate.geometry import Padding
from striate.nn.convolution import Conv2d


class DepthwiseSeparableConv2d(torch.nn.Module):
    """A depthwise convolution followed by a pointwise one, (N, C_in, H, W) to (N, C_out, H', W').

    An ordinary convolution has ``C_out * C_in * kH * kW`` weights, this layer ``C_in * kH * kW + C_in * C_out``: a
    share of 1 / C_out + 1 / (kH * kW), and the same share of the MACs at every position.

    Args:
        in_channels, out_channels: C_in, C_out.
        kernel_size, stride, padding, dilation: of the depthwise part, as in :class:`striate.nn.Conv2d`.
        bias: on both parts.

    Source: Sifre, "Rigid-motion scattering for image classification" (2014), chapter 6; Howard et al., "MobileNets"
    (2017), section 3.1.

    >>> layer = DepthwiseSeparableConv2d(64, 128, 3)
    >>> layer.parameter_count(), layer.standard_parameter_count()
    (8960, 73856)

    Formula: F31, S16.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: Padding = 0,
        dilation: int | tuple[int, ...] = 1,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.depthwise = Conv2d(
            in_channels, in_channels, kernel_size, stride, padding, dilation, groups=in_channels, bias=bias, **where
        )
        self.pointwise = Conv2d(in_channels, out_channels, 1, bias=bias, **where)

    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = self.pointwise(self.depthwise(input))
        return output

    def parameter_count(self) -> int:
        """Parameters of both parts, including biases.

        Formula: F29, F30, W17.
        """
        return sum(parameter.numel() for parameter in self.parameters())

    def standard_parameter_count(self) -> int:
        """Parameters of the ordinary convolution that this layer replaces, including the bias.

        Formula: F29, W17.
        """
        weights = self.pointwise.out_channels * self.depthwise.in_channels * math.prod(self.depthwise.kernel_size)
        return weights + (self.pointwise.out_channels if self.pointwise.bias is not None else 0)
