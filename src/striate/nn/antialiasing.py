"""Downsampling that respects shifts: a blur before subsampling, or subsampling at positions that the image decides."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from striate import ops
from striate.errors import GeometryError
from striate.geometry import windows

_MODES = ("reflect", "circular", "zeros")


class BlurPool2d(torch.nn.Module):
    """Keeps every ``stride``-th position of a map blurred with a binomial filter, (N, C, H, W) to (N, C, H', W').

    The filter has the weights binom(k - 1, i) / 2^(k - 1) along each axis. (k - 1) // 2 positions are padded before and
    k // 2 after, so that H' = ceil(H / stride) for every kernel size. To use it, replace a strided convolution by the
    convolution without stride, its activation and this layer, and a strided max pooling by one of stride 1 and this
    layer.

    Args:
        channels: C.
        kernel_size: k, 4 in the paper's default; 1 takes positions unblurred, 2 is the average.
        stride: 1 or more.
        padding_mode: ``"reflect"`` as in the paper, ``"circular"`` or ``"zeros"``.

    Raises:
        GeometryError: another mode; when called, a map too small to be padded that way.

    Source: Zhang, "Making convolutional networks shift-invariant again" (2019), section 3.

    >>> BlurPool2d(64)(torch.zeros(1, 64, 57, 56)).shape
    torch.Size([1, 64, 29, 28])
    >>> BlurPool2d(1, kernel_size=3).filter[0, 0] * 16
    tensor([[1., 2., 1.],
            [2., 4., 2.],
            [1., 2., 1.]])
    """

    filter: Tensor

    def __init__(self, channels: int, kernel_size: int = 4, stride: int = 2, padding_mode: str = "reflect") -> None:
        super().__init__()
        if padding_mode not in _MODES:
            raise GeometryError("BlurPool2d", f"got padding_mode {padding_mode!r}", "needed " + " or ".join(_MODES))
        windows("BlurPool2d", 2, kernel_size, stride)
        self.channels, self.kernel_size, self.stride, self.padding_mode = channels, kernel_size, stride, padding_mode
        row = torch.tensor([math.comb(kernel_size - 1, tap) for tap in range(kernel_size)]) / 2 ** (kernel_size - 1)
        # The filter follows from the arguments, so it isn't part of the state_dict.
        self.register_buffer("filter", torch.outer(row, row).repeat(channels, 1, 1, 1), persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        before, behind = (self.kernel_size - 1) // 2, self.kernel_size // 2
        if self.padding_mode == "zeros":
            sides = ((before, behind), (before, behind))
            return ops.conv2d(input, self.filter, None, self.stride, sides, 1, self.channels)
        smallest = behind + (self.padding_mode == "reflect")
        if min(input.shape[-2:]) < smallest:
            raise GeometryError(
                "BlurPool2d",
                f"got a map of {input.shape[-2]}x{input.shape[-1]}",
                f"needed {smallest} positions a side for {self.padding_mode} padding and kernel {self.kernel_size}",
                "take a smaller kernel or padding_mode='zeros'",
            )
        padded = F.pad(input, (before, behind, before, behind), mode=self.padding_mode)
        return ops.conv2d(padded, self.filter, None, self.stride, 0, 1, self.channels)

    def extra_repr(self) -> str:
        return (
            f"{self.channels}, kernel_size={self.kernel_size}, stride={self.stride}, padding_mode={self.padding_mode!r}"
        )


class PolyphaseSampling2d(torch.nn.Module):
    """Keeps every ``stride``-th position, from where the map is strongest, (N, C, H, W) to (N, C, H / s, W / s).

    The s x s grids of every s-th position are called phases. For each image, the phase with the largest l_p norm over
    all channels is kept. A circular shift of the image only permutes its phases. So the result is shifted by whole
    positions, and its global pooling doesn't change at all, unless two phases have the same norm.

    Branches that are added need the same phase: the main branch chooses it, and the shortcut uses it.

    Args:
        stride: s.
        order: p of the norm, more than 0; ``inf`` for the maximum.

    Raises:
        GeometryError: a stride or order out of range; when called, sides that the stride doesn't divide.

    Source: Chaman & Dokmanic, "Truly shift-invariant convolutional neural networks" (2021), section 4.

    >>> down = PolyphaseSampling2d()
    >>> image = torch.arange(16.0).reshape(1, 1, 4, 4)
    >>> down(image), down(image.roll((1, 1), (2, 3)))
    (tensor([[[[ 5.,  7.],
              [13., 15.]]]]), tensor([[[[15., 13.],
              [ 7.,  5.]]]]))
    >>> down.phase(image)  # of the rows 1, 3, ... and the columns 1, 3, ...
    tensor([3])
    >>> shortcut = image.flip(3)
    >>> down(image) + down(shortcut, down.phase(image))
    tensor([[[[11., 11.],
              [27., 27.]]]])
    """

    def __init__(self, stride: int = 2, order: float = 2) -> None:
        super().__init__()
        windows("PolyphaseSampling2d", 2, 1, stride)
        if not order > 0:
            raise GeometryError("PolyphaseSampling2d", f"order is {order}", "needed more than 0")
        self.stride, self.order = stride, float(order)

    def phase(self, input: Tensor) -> Tensor:
        """The number of the strongest phase of each image, its first row * stride + its first column, int64 (N,)."""
        # Norms of phases are often nearly equal, so the comparison must not depend on the order of summation.
        dtype = torch.float32 if input.device.type == "mps" else torch.float64
        norms: Tensor = torch.linalg.vector_norm(self._phases(input.detach()), self.order, (1, 2, 4), dtype=dtype)
        return norms.flatten(1).argmax(1)

    def forward(self, input: Tensor, phase: Tensor | None = None) -> Tensor:
        """The phase of each image by :meth:`phase`'s number, (N,); its strongest by default."""
        chosen = self.phase(input) if phase is None else phase
        images = torch.arange(input.shape[0], device=input.device)
        return self._phases(input)[images, :, :, chosen // self.stride, :, chosen % self.stride]

    def _phases(self, input: Tensor) -> Tensor:
        """(N, C, H / s, s, W / s, s), a view."""
        if input.dim() != 4 or any(side % self.stride for side in input.shape[2:]):
            raise GeometryError(
                "PolyphaseSampling2d",
                f"got {'x'.join(map(str, input.shape))}",
                f"needed (N, C, H, W) with H and W divisible by {self.stride}",
                "pad or resize the input, or use convolutions that keep the size",
            )
        s = self.stride
        split: Tensor = input.unflatten(3, (input.shape[3] // s, s)).unflatten(2, (input.shape[2] // s, s))
        return split

    def extra_repr(self) -> str:
        return f"stride={self.stride}, order={self.order:g}"
