"""Building blocks of networks: convolution with normalisation, squeeze-and-excitation, stochastic depth."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from striate.errors import OperandError
from striate.geometry import Padding
from striate.nn.convolution import Conv2d
from striate.nn.pooling import GlobalAvgPool


class ConvNormActivation(torch.nn.Sequential):
    """A convolution, a normalisation and an activation, (N, C_in, H, W) to (N, C_out, H', W').

    The convolution has a bias only if no normalisation follows, since normalisation would subtract the bias again.

    Args:
        in_channels, out_channels: C_in, C_out.
        kernel_size: odd.
        stride, groups: of the convolution.
        padding: by default the padding that keeps the size at stride 1, the same on both sides.
        norm: from a number of channels to a layer; None for none.
        activation: a layer's class; None for none.
        dilation: of the convolution.

    >>> ConvNormActivation(3, 32, 3, stride=2)(torch.zeros(1, 3, 224, 224)).shape
    torch.Size([1, 32, 112, 112])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        groups: int = 1,
        padding: Padding | None = None,
        norm: Callable[[int], torch.nn.Module] | None = torch.nn.BatchNorm2d,
        activation: Callable[[], torch.nn.Module] | None = torch.nn.ReLU,
        dilation: int = 1,
    ) -> None:
        pads = kernel_size // 2 * dilation if padding is None else padding
        super().__init__(
            Conv2d(in_channels, out_channels, kernel_size, stride, pads, dilation, groups=groups, bias=norm is None),
            *([] if norm is None else [norm(out_channels)]),
            *([] if activation is None else [activation()]),
        )
        self.out_channels = out_channels


class SqueezeExcite(torch.nn.Module):
    """Multiplies each channel by a number between 0 and 1 computed from the means of all channels; keeps the shape.

    Args:
        channels: C.
        squeezed: channels between the two fully connected layers (1x1 convolutions here).
        activation: between the two.
        gate: after them, elementwise, to numbers between 0 and 1.

    Source: Hu, Shen & Sun, "Squeeze-and-excitation networks" (2018), equations 2 to 4, figure 1.

    >>> sum(parameter.numel() for parameter in SqueezeExcite(64, 4).parameters())
    580

    Formula: F53.
    """

    def __init__(
        self,
        channels: int,
        squeezed: int,
        activation: Callable[[], torch.nn.Module] = torch.nn.ReLU,
        gate: Callable[[Tensor], Tensor] = torch.sigmoid,
    ) -> None:
        super().__init__()
        self.avgpool = GlobalAvgPool()
        self.fc1 = Conv2d(channels, squeezed, 1)
        self.fc2 = Conv2d(squeezed, channels, 1)
        self.activation = activation()
        self.gate = gate

    def forward(self, input: Tensor) -> Tensor:
        return input * self.gate(self.fc2(self.activation(self.fc1(self.avgpool(input)))))


class StochasticDepth(torch.nn.Module):
    """In training, sets whole samples of (N, ...) to zero with probability ``p`` and divides the others by 1 - p.

    On the residual branch of a block this leaves only the shortcut, at random and for each sample separately.

    Raises:
        OperandError: a probability outside of 0 to below 1.

    Source: Huang et al., "Deep networks with stochastic depth" (2016), equations 2 to 4; with the division the
    expectation needs no change at inference.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise OperandError("StochasticDepth", f"got p = {p}", "needed a probability from 0 to below 1")
        self.p = p

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return input
        kept = input.new_empty([len(input)] + [1] * (input.dim() - 1)).bernoulli_(1 - self.p)
        return input * kept.div_(1 - self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}"
