"""Shifts of images and maps by whole and fractional numbers of positions, and networks with circular borders."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten

_PADS: Final = {
    _aten.constant_pad_nd,
    _aten.reflection_pad1d,
    _aten.reflection_pad2d,
    _aten.reflection_pad3d,
    _aten.replication_pad1d,
    _aten.replication_pad2d,
    _aten.replication_pad3d,
}
_POOLS: Final = {_aten.max_pool2d_with_indices, _aten.max_pool3d_with_indices, _aten.avg_pool2d, _aten.avg_pool3d}


def shifted(
    maps: Tensor, shift: Sequence[float], dims: Sequence[int] = (2, 3), circular: Sequence[bool] = ()
) -> Tensor:
    """Maps moved along ``dims``, to larger positions where ``shift`` is positive.

    Args:
        maps: (N, C, H, W), or with the axes at other ``dims``.
        shift: positions, one number an axis.
        circular: for each axis whether what leaves comes in again at the other end; zeros come in otherwise, and by
            default. Broken shifts are exact on circles (the phases of the discrete Fourier transform turn; an even
            length's highest frequency is damped by cos(pi * shift)), and linear interpolation elsewhere.

    >>> shifted(torch.tensor([[[[1.0, 2.0, 3.0, 4.0]]]]), (0, 1.5))
    tensor([[[[0.0000, 0.5000, 1.5000, 2.5000]]]])
    >>> shifted(torch.tensor([[[[1.0, 2.0, 3.0, 4.0]]]]), (0, 1), circular=(True, True))
    tensor([[[[4., 1., 2., 3.]]]])
    """
    for dim, by, wraps in zip(dims, shift, circular or (False,) * len(dims), strict=True):
        if wraps:
            maps = maps.roll(int(by), dim) if by == int(by) else _turned(maps, by, dim)
        elif by:
            whole, rest = math.floor(by), by - math.floor(by)
            near = _slid(maps, whole, dim)
            maps = near.lerp(_slid(maps, whole + 1, dim), rest) if rest else near
    return maps


def _turned(maps: Tensor, by: float, dim: int) -> Tensor:
    n = maps.shape[dim]
    spectrum = torch.fft.rfft(maps.double(), dim=dim)
    phases = -2 * math.pi * by / n * torch.arange(spectrum.shape[dim], device=maps.device, dtype=torch.float64)
    shape = [-1 if d == dim % maps.dim() else 1 for d in range(maps.dim())]
    turned = spectrum * torch.polar(torch.ones_like(phases), phases).reshape(shape)
    result: Tensor = torch.fft.irfft(turned, n, dim=dim).to(maps.dtype)
    return result


def _slid(maps: Tensor, by: int, dim: int) -> Tensor:
    """Moved by a whole number, zeros coming in."""
    n = maps.shape[dim]
    sources = torch.arange(n, device=maps.device) - by
    inside = ((sources >= 0) & (sources < n)).to(maps.dtype)
    shape = [-1 if d == dim % maps.dim() else 1 for d in range(maps.dim())]
    return maps.index_select(dim, sources.clamp(0, n - 1)) * inside.reshape(shape)


class CircularBorders(TorchDispatchMode):
    """A context in which every padding is circular.

    This applies to convolutions, transposed ones too, to pooling, and to padding with constants, by reflection and by
    repetition, in layers and in functional calls. The network itself isn't changed. Positions that max pooling returns
    refer to the padded map.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = func.overloadpacket
        if packet is _aten.convolution:
            return _convolved(func, *args)
        if packet in _POOLS and len(args) > 3 and any(args[3]):
            maps, kernel, stride, padding, *others = args
            sides = _every(padding, len(kernel))
            return func(_wrapped(maps, [(side, side) for side in sides]), kernel, stride, [0] * len(kernel), *others)
        if packet in _PADS:
            flat = args[1]
            pairs = [(flat[i], flat[i + 1]) for i in range(0, len(flat), 2)][::-1]
            return _wrapped(args[0], pairs)
        return func(*args, **(kwargs or {}))


def _convolved(func: Any, maps: Tensor, weight: Tensor, bias: Any, *how: Any) -> Any:
    stride, padding, dilation, transposed, output_padding, groups = how
    dims = weight.dim() - 2
    stride, padding, dilation = (_every(each, dims) for each in (stride, padding, dilation))
    none = [0] * dims
    if not transposed:
        padded = _wrapped(maps, [(side, side) for side in padding]) if any(padding) else maps
        return func(padded, weight, bias, stride, none, dilation, False, output_padding, groups)
    # Every output position that a transposed window reaches from outside gets its share from the other end.
    extra = _every(output_padding, dims)
    reach = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
    around = [-(-(r + e) // s) for r, s, e in zip(reach, stride, extra, strict=True)]
    sizes = [
        (n - 1) * s - 2 * p + r + e + 1
        for n, s, p, r, e in zip(maps.shape[-dims:], stride, padding, reach, extra, strict=True)
    ]
    result = func(_wrapped(maps, [(a, a) for a in around]), weight, bias, stride, none, dilation, True, none, groups)
    for axis, (a, s, p, size) in enumerate(zip(around, stride, padding, sizes, strict=True)):
        result = result.narrow(axis - dims, a * s + p, size)
    return result


def _wrapped(maps: Tensor, pairs: Sequence[tuple[int, int]]) -> Tensor:
    """The last axes made longer, or shorter, by ``(before, behind)`` positions of the circle that each of them is."""
    for axis, (before, behind) in enumerate(pairs):
        dim, n = axis - len(pairs), maps.shape[axis - len(pairs)]
        if before or behind:
            maps = maps.index_select(dim, torch.arange(-before, n + behind, device=maps.device) % n)
    return maps


def _every(values: Sequence[int], dims: int) -> list[int]:
    return [*values] * dims if len(values) == 1 else [*values]
