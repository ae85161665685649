"""Residual blocks: a branch of convolutions is added to its own input, or to a 1x1 convolution of it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from striate.geometry import Padding
from striate.nn.blocks import ConvNormActivation, SqueezeExcite, StochasticDepth
from striate.nn.convolution import Conv2d

#: From a number of channels to a normalisation.
Norm = Callable[[int], torch.nn.Module]


class _Residual(torch.nn.Module):
    """What both blocks of residual networks share: branch plus shortcut, rectified.

    Formula: F43.
    """

    out_channels: int

    def _close(self, in_channels: int, stride: int, squeeze: int | None, norm: Norm) -> None:
        """Makes the branch's squeeze-and-excitation, and the shortcut's projection where the shape changes."""
        channels = self.out_channels
        same = stride == 1 and in_channels == channels
        self.se = SqueezeExcite(channels, channels // squeeze) if squeeze else None
        self.relu = torch.nn.ReLU()
        self.downsample = (
            None if same else ConvNormActivation(in_channels, channels, 1, stride, norm=norm, activation=None)
        )

    def forward(self, input: Tensor) -> Tensor:
        inner, shortcut = self.thinned(self.first(input), input)
        output = self.last(inner)
        if self.se is not None:
            output = self.se(output)
        if self.downsample is not None:
            shortcut = self.downsample(shortcut)
        rectified: Tensor = self.relu(output + shortcut)
        return rectified

    def first(self, input: Tensor) -> Tensor:
        """The convolutions up to and including the strided one, rectified."""
        raise NotImplementedError

    def last(self, inner: Tensor) -> Tensor:
        """The rest of the branch."""
        raise NotImplementedError

    def thinned(self, inner: Tensor, shortcut: Tensor) -> tuple[Tensor, Tensor]:
        """Branch and shortcut after downsampling, for networks in which other layers than convolutions downsample."""
        return inner, shortcut


class BasicBlock(_Residual):
    """Two 3x3 convolutions and a shortcut, (N, C_in, H, W) to (N, C, H', W').

    Args:
        in_channels: C_in.
        channels: C.
        stride: of the first convolution, and of the shortcut's projection.
        squeeze: squeeze-and-excitation at the end of the branch, with C / squeeze channels; None for none.
        dilation: of both convolutions.
        norm: from a number of channels to a normalisation.

    Source: He et al., "Deep residual learning for image recognition" (2016), figure 5 left; batch normalisation after
    each convolution (section 3.4), projection where the shape changes (option B of section 4.1).

    >>> BasicBlock(64, 128, stride=2)(torch.zeros(1, 64, 56, 56)).shape
    torch.Size([1, 128, 28, 28])
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        squeeze: int | None = None,
        dilation: int = 1,
        norm: Norm = torch.nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        self.out_channels = channels
        self.conv1 = Conv2d(in_channels, channels, 3, stride, dilation, dilation, bias=False)
        self.bn1 = norm(channels)
        self.conv2 = Conv2d(channels, channels, 3, 1, dilation, dilation, bias=False)
        self.bn2 = norm(channels)
        self._close(in_channels, stride, squeeze, norm)

    def first(self, input: Tensor) -> Tensor:
        inner: Tensor = self.relu(self.bn1(self.conv1(input)))
        return inner

    def last(self, inner: Tensor) -> Tensor:
        output: Tensor = self.bn2(self.conv2(inner))
        return output


class Bottleneck(_Residual):
    """1x1 to C channels, 3x3, 1x1 to 4C, and a shortcut: (N, C_in, H, W) to (N, 4C, H', W').

    Args:
        in_channels: C_in.
        channels: C.
        stride: of the 3x3 convolution, and of the shortcut's projection.
        squeeze: squeeze-and-excitation at the end of the branch, with 4C / squeeze channels; None for none.
        stride_first: put the stride on the first 1x1 convolution instead, which then sees only a quarter of its input.
        dilation: of the 3x3 convolution.
        norm: from a number of channels to a normalisation.

    Source: He et al. (2016), figure 5 right. The paper puts the stride on the first 1x1 convolution; on the 3x3 is what
    is usually meant by ResNet today.

    >>> Bottleneck(256, 128, stride=2)(torch.zeros(1, 256, 56, 56)).shape
    torch.Size([1, 512, 28, 28])
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        squeeze: int | None = None,
        stride_first: bool = False,
        dilation: int = 1,
        norm: Norm = torch.nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        first, second = (stride, 1) if stride_first else (1, stride)
        self.out_channels = 4 * channels
        self.conv1 = Conv2d(in_channels, channels, 1, first, bias=False)
        self.bn1 = norm(channels)
        self.conv2 = Conv2d(channels, channels, 3, second, dilation, dilation, bias=False)
        self.bn2 = norm(channels)
        self.conv3 = Conv2d(channels, self.out_channels, 1, bias=False)
        self.bn3 = norm(self.out_channels)
        self._close(in_channels, stride, squeeze, norm)

    def first(self, input: Tensor) -> Tensor:
        inner: Tensor = self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(input))))))
        return inner

    def last(self, inner: Tensor) -> Tensor:
        output: Tensor = self.bn3(self.conv3(inner))
        return output


class InvertedResidual(torch.nn.Module):
    """Expands the channels, filters each separately, projects to few again: (N, C_in, H, W) to (N, C, H', W').

    The shortcut connects the narrow ends if the shape doesn't change. There is no activation after the projection.

    Args:
        in_channels, out_channels: C_in, C.
        expansion: the block has ``expansion * C_in`` inner channels; at 1 there is no expanding convolution.
        kernel_size, stride, padding: of the depthwise convolution, as in :class:`ConvNormActivation`.
        squeezed: channels within the squeeze-and-excitation after the depthwise convolution; None for none.
        norm, activation: as in :class:`ConvNormActivation`; squeeze-and-excitation uses the activation too.
        drop: probability of stochastic depth.

    Source: Sandler et al., "MobileNetV2" (2018), table 1, figure 4d; with squeeze-and-excitation Tan et al., "MnasNet"
    (2019), figure 7.

    >>> InvertedResidual(24, 40, 6, 5, stride=2)(torch.zeros(1, 24, 56, 56)).shape
    torch.Size([1, 40, 28, 28])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        expansion: int,
        kernel_size: int = 3,
        stride: int = 1,
        padding: Padding | None = None,
        squeezed: int | None = None,
        norm: Norm = torch.nn.BatchNorm2d,
        activation: Callable[[], torch.nn.Module] = torch.nn.ReLU6,
        drop: float = 0.0,
    ) -> None:
        super().__init__()
        inner = in_channels * expansion
        layers: list[torch.nn.Module] = []
        if expansion != 1:
            layers.append(ConvNormActivation(in_channels, inner, 1, norm=norm, activation=activation))
        layers.append(
            ConvNormActivation(inner, inner, kernel_size, stride, inner, padding, norm=norm, activation=activation)
        )
        if squeezed is not None:
            layers.append(SqueezeExcite(inner, squeezed, activation))
        layers.append(ConvNormActivation(inner, out_channels, 1, norm=norm, activation=None))
        self.block = torch.nn.Sequential(*layers)
        self.stochastic_depth = StochasticDepth(drop)
        self.shortcut = stride == 1 and in_channels == out_channels

    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = self.block(input)
        return self.stochastic_depth(output) + input if self.shortcut else output
