"""Pooling layers, drop-in for torch.nn's, with striate's wider padding; and global pooling.

``padding`` may be anything that :func:`striate.ops.conv2d` takes. Unlike in torch.nn, averages and norms also take a
``dilation``, and norms a ``padding``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from striate import ops
from striate.geometry import Padding


def _dilation_words(dilation: Any) -> str:
    """The end of a layer's ``repr``: the dilation, which torch.nn's layer doesn't have, if it isn't 1."""
    return "" if dilation == 1 else f", dilation={dilation}"


class MaxPool1d(torch.nn.MaxPool1d):
    """The largest value in every window, (N, C, L) to (N, C, L'); as :class:`torch.nn.MaxPool1d`."""

    _function = staticmethod(ops.max_pool1d)

    def forward(self, input: Tensor) -> Any:
        how = (self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices)
        return self._function(input, *how)


class MaxPool2d(torch.nn.MaxPool2d):
    """The largest value in every window, (N, C, H, W) to (N, C, H', W'); as :class:`torch.nn.MaxPool2d`.

    >>> MaxPool2d(3, stride=2, padding="same")(torch.zeros(1, 64, 112, 112)).shape
    torch.Size([1, 64, 56, 56])
    """

    _function = staticmethod(ops.max_pool2d)

    def forward(self, input: Tensor) -> Any:
        how = (self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices)
        return self._function(input, *how)


class MaxPool3d(torch.nn.MaxPool3d):
    """The largest value in every window, (N, C, D, H, W) to (N, C, D', H', W'); as :class:`torch.nn.MaxPool3d`."""

    _function = staticmethod(ops.max_pool3d)

    def forward(self, input: Tensor) -> Any:
        how = (self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices)
        return self._function(input, *how)


class AvgPool1d(torch.nn.AvgPool1d):
    """The mean of every window, (N, C, L) to (N, C, L'); as :class:`torch.nn.AvgPool1d`."""

    _function = staticmethod(ops.avg_pool1d)

    dilation: Any = 1

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Padding = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        *,
        dilation: Any = 1,
    ) -> None:
        # torch.nn would split a word into letters, so it gets no padding.
        super().__init__(kernel_size, stride, 0, ceil_mode, count_include_pad)
        self.padding: Any = (padding,) if isinstance(padding, int) else padding
        self.dilation = dilation

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}{_dilation_words(self.dilation)}"

    def forward(self, input: Tensor) -> Tensor:
        how = (self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad)
        return self._function(input, *how, dilation=self.dilation)


class _Average:
    """What the layers add to their torch.nn layer, which follows this class in the method resolution order."""

    dilation: Any = 1

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Padding = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
        *,
        dilation: Any = 1,
    ) -> None:
        how = (stride, padding, ceil_mode, count_include_pad, divisor_override)
        super().__init__(kernel_size, *how)  # type: ignore[call-arg]
        self.dilation = dilation

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}{_dilation_words(self.dilation)}"  # type: ignore[misc]


class AvgPool2d(_Average, torch.nn.AvgPool2d):
    """The mean of every window, (N, C, H, W) to (N, C, H', W'); as :class:`torch.nn.AvgPool2d`."""

    _function = staticmethod(ops.avg_pool2d)

    def forward(self, input: Tensor) -> Tensor:
        how = (self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad)
        return self._function(input, *how, self.divisor_override, dilation=self.dilation)


class AvgPool3d(_Average, torch.nn.AvgPool3d):
    """The mean of every window, (N, C, D, H, W) to (N, C, D', H', W'); as :class:`torch.nn.AvgPool3d`."""

    _function = staticmethod(ops.avg_pool3d)

    def forward(self, input: Tensor) -> Tensor:
        how = (self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad)
        return self._function(input, *how, self.divisor_override, dilation=self.dilation)


class _NormPool:
    """What the p-norm layers add to their torch.nn layer, which follows this class in the method resolution order."""

    def __init__(
        self,
        norm_type: float,
        kernel_size: Any,
        stride: Any = None,
        ceil_mode: bool = False,
        *,
        padding: Padding = 0,
        dilation: Any = 1,
    ) -> None:
        super().__init__(norm_type, kernel_size, stride, ceil_mode)  # type: ignore[call-arg]
        self.padding = padding
        self.dilation = dilation

    def extra_repr(self) -> str:
        padding = "" if self.padding == 0 else f", padding={self.padding!r}"
        return f"{super().extra_repr()}{padding}{_dilation_words(self.dilation)}"  # type: ignore[misc]


class LPPool1d(_NormPool, torch.nn.LPPool1d):
    """The p-norm of |x| over every window, (N, C, L) to (N, C, L'); see :func:`striate.ops.lp_pool2d`."""

    def forward(self, input: Tensor) -> Tensor:
        how = (float(self.norm_type), self.kernel_size, self.stride, self.ceil_mode)
        return ops.lp_pool1d(input, *how, padding=self.padding, dilation=self.dilation)


class LPPool2d(_NormPool, torch.nn.LPPool2d):
    """The p-norm of |x| over every window, (N, C, H, W) to (N, C, H', W'); see :func:`striate.ops.lp_pool2d`."""

    def forward(self, input: Tensor) -> Tensor:
        how = (float(self.norm_type), self.kernel_size, self.stride, self.ceil_mode)
        return ops.lp_pool2d(input, *how, padding=self.padding, dilation=self.dilation)


class LPPool3d(_NormPool, torch.nn.LPPool3d):
    """The p-norm of |x| over every window, (N, C, D, H, W) to (N, C, D', H', W'); see :func:`striate.ops.lp_pool2d`."""

    def forward(self, input: Tensor) -> Tensor:
        how = (float(self.norm_type), self.kernel_size, self.stride, self.ceil_mode)
        return ops.lp_pool3d(input, *how, padding=self.padding, dilation=self.dilation)


class AdaptiveAvgPool1d(torch.nn.AdaptiveAvgPool1d):
    """Averages over as many nearly equal windows as asked for, (N, C, L) to (N, C, output_size)."""

    def forward(self, input: Tensor) -> Tensor:
        return ops.adaptive_avg_pool1d(input, self.output_size)


class AdaptiveAvgPool2d(torch.nn.AdaptiveAvgPool2d):
    """Averages over as many nearly equal windows as asked for, (N, C, H, W) to (N, C, *output_size)."""

    def forward(self, input: Tensor) -> Tensor:
        return ops.adaptive_avg_pool2d(input, self.output_size)


class AdaptiveAvgPool3d(torch.nn.AdaptiveAvgPool3d):
    """Averages over as many nearly equal windows as asked for, (N, C, D, H, W) to (N, C, *output_size)."""

    def forward(self, input: Tensor) -> Tensor:
        return ops.adaptive_avg_pool3d(input, self.output_size)


class AdaptiveMaxPool1d(torch.nn.AdaptiveMaxPool1d):
    """Maxima over the windows of :class:`AdaptiveAvgPool1d`; with their positions if ``return_indices``."""

    def forward(self, input: Tensor) -> Any:
        return ops.adaptive_max_pool1d(input, self.output_size, self.return_indices)


class AdaptiveMaxPool2d(torch.nn.AdaptiveMaxPool2d):
    """Maxima over the windows of :class:`AdaptiveAvgPool2d`; with their positions if ``return_indices``."""

    def forward(self, input: Tensor) -> Any:
        return ops.adaptive_max_pool2d(input, self.output_size, self.return_indices)


class AdaptiveMaxPool3d(torch.nn.AdaptiveMaxPool3d):
    """Maxima over the windows of :class:`AdaptiveAvgPool3d`; with their positions if ``return_indices``."""

    def forward(self, input: Tensor) -> Any:
        return ops.adaptive_max_pool3d(input, self.output_size, self.return_indices)


class GlobalAvgPool(torch.nn.Module):
    """The mean of every channel: (N, C, ...) to (N, C, 1, ...)."""

    def forward(self, input: Tensor) -> Tensor:
        return ops.global_avg_pool(input)


class GlobalMaxPool(torch.nn.Module):
    """The maximum of every channel: (N, C, ...) to (N, C, 1, ...)."""

    def forward(self, input: Tensor) -> Tensor:
        return ops.global_max_pool(input)
