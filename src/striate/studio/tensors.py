"""Displays a tensor of any shape as maps: which axes are channels, height and width, and where a map's pixel is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

from striate.studio.requests import RequestError

#: The possible numbers of tokens before those of the picture: class token, distillation token, registers.
_EXTRA: Final = (0, 1, 2, 4, 5)
#: The number of elements of a vector in a row.
_ROW: Final = 32


@dataclass(frozen=True)
class MapForm:
    """A way of displaying a tensor as maps.

    Args:
        name: ``"maps"`` (N, C, H, W); ``"maps_last"`` (N, H, W, C); ``"filters"`` like maps, with the first axis as
            channels; ``"tokens"`` (N, T, D), each feature a map on the tokens' grid; ``"volume"`` (N, C, D, H, W),
            slices side by side; ``"rows"`` any shape, the last two axes as a map; ``"vector"`` (N, K), (N, K, 1, 1) or
            (K,), in rows.
        samples: the number of samples to choose from, along the axis that isn't part of the maps.
        channels, height, width: of the maps.
        skipped: the number of tokens before those on the grid.
    """

    name: str
    samples: int
    channels: int
    height: int
    width: int
    skipped: int = 0

    def to_dict(self) -> dict[str, Any]:
        """All fields, for the page, which also computes places from them."""
        return vars(self).copy()


def forms_of(shape: tuple[int, ...]) -> tuple[MapForm, ...]:
    """The forms for a tensor of this shape, the most suitable one first.

    >>> [form.name for form in forms_of((1, 197, 768))]
    ['tokens', 'rows']
    >>> forms_of((1, 64, 56, 56))[0]
    MapForm(name='maps', samples=1, channels=64, height=56, width=56, skipped=0)
    """
    if len(shape) <= 2:
        rows, length = (shape[0], shape[1]) if len(shape) == 2 else (1, math.prod(shape))
        width = max(1, min(length, _ROW))
        vector = MapForm("vector", rows, 1, -(-length // width), width)
        matrix = MapForm("rows", 1, 1, rows, length)
        return (vector,) if len(shape) < 2 else (vector, matrix) if rows == 1 else (matrix, vector)
    rows_form = MapForm("rows", math.prod(shape[:-2]), 1, shape[-2], shape[-1])
    if len(shape) == 3:
        tokens = _tokens(shape)
        return (tokens, rows_form) if tokens else (rows_form,)
    if len(shape) == 4 and shape[2:] == (1, 1):
        width = max(1, min(shape[1], _ROW))
        return (MapForm("vector", shape[0], 1, -(-shape[1] // width), width), MapForm("maps", *shape))
    if len(shape) == 4:
        maps = MapForm("maps", shape[0], shape[1], shape[2], shape[3])
        last = MapForm("maps_last", shape[0], shape[3], shape[1], shape[2])
        found = (last, maps) if 1 < shape[1] == shape[2] != shape[3] > 1 else (maps, last)
        return (*found, MapForm("filters", shape[1], shape[0], shape[2], shape[3]))
    if len(shape) == 5:
        return MapForm("volume", shape[0], shape[1] * shape[2], shape[3], shape[4]), rows_form
    return (rows_form,)


def _tokens(shape: tuple[int, ...]) -> MapForm | None:
    for extra in _EXTRA:
        side = math.isqrt(max(shape[1] - extra, 0))
        if side >= 2 and side * side == shape[1] - extra:
            return MapForm("tokens", shape[0], shape[2], side, side, extra)
    return None


def form_named(shape: tuple[int, ...], name: str | None) -> MapForm:
    """The form with a name; for None the most suitable one.

    Raises:
        RequestError: the form isn't possible for this shape.
    """
    forms = forms_of(shape)
    for form in forms:
        if name in (None, "", form.name):
            return form
    raise RequestError("form", f"got {name!r}", f"needed one of {', '.join(form.name for form in forms)}")


def maps_of(tensor: Tensor, form: MapForm, sample: int = 0) -> Tensor:
    """A tensor's maps (channels, height, width), in floating point; the last row of a vector is padded with NaN."""
    tensor = _real(tensor)
    if form.name == "vector":
        row = tensor.reshape(form.samples, -1)[sample]
        missing = form.height * form.width - row.numel()
        return functional.pad(row, (0, missing), value=math.nan).view(1, form.height, form.width)
    if form.name == "rows":
        return tensor.reshape(form.samples, 1, form.height, form.width)[sample]
    if form.name == "filters":
        return tensor[:, sample]
    chosen = tensor[sample]
    if form.name == "maps_last":
        return chosen.permute(2, 0, 1)
    if form.name == "tokens":
        return chosen[form.skipped :].T.reshape(form.channels, form.height, form.width)
    return chosen.reshape(form.channels, form.height, form.width)


def _real(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    if tensor.is_complex():
        tensor = tensor.abs()
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def place_of(
    form: MapForm, shape: tuple[int, ...], sample: int, channel: int, y: int, x: int
) -> tuple[int, ...] | None:
    """The place in the tensor of a map's pixel; None beyond the end of a vector."""
    if form.name == "maps":
        return sample, channel, y, x
    if form.name == "filters":
        return channel, sample, y, x
    if form.name == "maps_last":
        return sample, y, x, channel
    if form.name == "tokens":
        return sample, form.skipped + y * form.width + x, channel
    if form.name == "volume":
        return sample, channel // shape[2], channel % shape[2], y, x
    if form.name == "vector":
        at = y * form.width + x
        if at >= (shape[1] if len(shape) >= 2 else math.prod(shape)):
            return None
        return ((), (at,), (sample, at))[len(shape)] if len(shape) <= 2 else (sample, at, 0, 0)
    lead = []
    for length in reversed(shape[:-2]):
        lead.append(sample % length)
        sample //= length
    return (*reversed(lead), y, x)


def reduced(maps: Tensor, size: int) -> tuple[Tensor, int]:
    """Maps reduced to at most ``size`` per side by means over squares; and the side of a square."""
    longest = max(maps.shape[-2:])
    factor = -(-longest // size) if size else 1
    if factor <= 1 or not maps.numel():
        return maps, 1
    return functional.avg_pool2d(maps[None], factor, ceil_mode=True, count_include_pad=False)[0], factor


def statistics(tensor: Tensor) -> Mapping[str, Any]:
    """Statistics of a tensor: minimum, maximum, mean, deviation, share of zeros, and number of non-finite elements."""
    numbers = _real(tensor).reshape(-1)
    known = numbers.isfinite()
    finite = numbers if bool(known.all()) else numbers[known]
    told: dict[str, Any] = {"count": numbers.numel(), "not_finite": numbers.numel() - finite.numel()}
    if finite.numel():
        low, high = finite.aminmax()
        variance, mean = torch.var_mean(finite, correction=0)
        told |= {
            "min": low.item(),
            "max": high.item(),
            "mean": mean.item(),
            "std": math.sqrt(variance.item()),
            "zeros": 1 - int(finite.count_nonzero()) / finite.numel(),
        }
    return told
