"""Convolution layers, drop-in for torch.nn's: same constructor, state_dict and initial values; wider padding.

Each is a subclass of the torch.nn layer that it replaces, so code that asks ``isinstance(layer, torch.nn.Conv2d)``
still works. Only the computation is striate's. ``padding`` may be anything that :func:`striate.ops.conv2d` takes: one
``(before, after)`` pair an axis, ``"same"`` with any stride, ``"same_lower"``, ``"full"``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from striate import ops
from striate.errors import GeometryError
from striate.geometry import Padding, Window, windows


def _as_torch_keeps_it(padding: Padding, made: tuple[Window, ...]) -> Any:
    """A word as a word, else one number an axis, else one pair an axis."""
    if isinstance(padding, str):
        return padding
    sides = [window.padding for window in made]
    alike = all(isinstance(pair, tuple) and pair[0] == pair[1] for pair in sides)
    return tuple(pair[0] for pair in sides if isinstance(pair, tuple)) if alike else tuple(sides)


def _sides(made: tuple[Window, ...], size: Sequence[int]) -> list[int]:
    """The padding of every axis, the last axis first, as F.pad takes it; sizes are needed for ``"same"`` only."""
    pads = [
        window.padding if isinstance(window.padding, tuple) else window.pads(size[i]) for i, window in enumerate(made)
    ]
    return [cells for pair in reversed(pads) for cells in pair]


class _Convolution:
    """What the layers add to their torch.nn layer, which follows this class in the method resolution order."""

    _function: Callable[..., Tensor]  #: computes the layer
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    padding_mode: Literal["zeros", "reflect", "replicate", "circular"]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: Padding = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        # torch.nn's layer gets no padding, because it knows fewer kinds. Its initialisation doesn't depend on it.
        how = (stride, 0, dilation, groups, bias, padding_mode, device, dtype)
        super().__init__(in_channels, out_channels, kernel_size, *how)  # type: ignore[call-arg]
        self._widen(padding)

    def _widen(self, padding: Padding) -> None:
        self.padding: Any = padding
        made = self.windows
        self.padding = _as_torch_keeps_it(padding, made)
        if all(isinstance(window.padding, tuple) for window in made):
            self._reversed_padding_repeated_twice = _sides(made, ())

    @property
    def windows(self) -> tuple[Window, ...]:
        """One window for each axis, from the layer's attributes as they are now."""
        dims = len(self.kernel_size)
        return windows(type(self).__name__, dims, self.kernel_size, self.stride, self.padding, self.dilation)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        dims, padding = len(self.kernel_size), self.padding
        if self.padding_mode != "zeros":
            input = F.pad(input, _sides(self.windows, input.shape[input.dim() - dims :]), mode=self.padding_mode)
            padding = 0
        return self._function(input, weight, bias, self.stride, padding, self.dilation, self.groups)


class Conv1d(_Convolution, torch.nn.Conv1d):
    """Convolution along one axis, (N, C_in, L) to (N, C_out, L'); as :class:`torch.nn.Conv1d`."""

    _function = staticmethod(ops.conv1d)


class Conv2d(_Convolution, torch.nn.Conv2d):
    """Convolution along two axes, (N, C_in, H, W) to (N, C_out, H', W'); as :class:`torch.nn.Conv2d`.

    >>> Conv2d(3, 64, 7, stride=2, padding="same")(torch.zeros(1, 3, 224, 224)).shape
    torch.Size([1, 64, 112, 112])

    Formula: S28.
    """

    _function = staticmethod(ops.conv2d)


class Conv3d(_Convolution, torch.nn.Conv3d):
    """Convolution along three axes, (N, C_in, D, H, W) to (N, C_out, D', H', W'); as :class:`torch.nn.Conv3d`."""

    _function = staticmethod(ops.conv3d)


class _ConvolutionTranspose(_Convolution):
    """The same for transposed convolution."""

    output_padding: tuple[int, ...]
    weight: Tensor
    bias: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: Padding = 0,
        output_padding: int | tuple[int, ...] = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: int | tuple[int, ...] = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        how = (stride, 0, output_padding, groups, bias, dilation, padding_mode, device, dtype)
        super(_Convolution, self).__init__(in_channels, out_channels, kernel_size, *how)  # type: ignore[call-arg]
        self._widen(padding)

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """The layer's output; ``output_size`` is one of the sizes that the convolution maps to this input's size."""
        dims, output_padding = len(self.kernel_size), self.output_padding
        if output_size is not None:
            if len(output_size) not in (dims, input.dim()):
                raise GeometryError(
                    type(self).__name__, f"got output_size {tuple(output_size)}", f"needed {dims} sizes, one an axis"
                )
            size, wanted = input.shape[input.dim() - dims :], output_size[len(output_size) - dims :]
            output_padding = tuple(
                m - window.input_size(n) for window, n, m in zip(self.windows, size, wanted, strict=True)
            )
        how = (self.stride, self.padding, output_padding, self.groups, self.dilation)
        return self._function(input, self.weight, self.bias, *how)


class ConvTranspose1d(_ConvolutionTranspose, torch.nn.ConvTranspose1d):
    """Transposed convolution, (N, C_in, L) to (N, C_out, L'); as :class:`torch.nn.ConvTranspose1d`."""

    _function = staticmethod(ops.conv_transpose1d)


class ConvTranspose2d(_ConvolutionTranspose, torch.nn.ConvTranspose2d):
    """Transposed convolution, (N, C_in, H, W) to (N, C_out, H', W'); as :class:`torch.nn.ConvTranspose2d`.

    >>> layer = ConvTranspose2d(1, 1, 3, stride=2, padding=1)
    >>> layer(torch.zeros(1, 1, 5, 5)).shape, layer(torch.zeros(1, 1, 5, 5), output_size=(10, 10)).shape
    (torch.Size([1, 1, 9, 9]), torch.Size([1, 1, 10, 10]))
    """

    _function = staticmethod(ops.conv_transpose2d)


class ConvTranspose3d(_ConvolutionTranspose, torch.nn.ConvTranspose3d):
    """Transposed convolution, (N, C_in, D, H, W) to (N, C_out, D', H', W'); as :class:`torch.nn.ConvTranspose3d`."""

    _function = staticmethod(ops.conv_transpose3d)
