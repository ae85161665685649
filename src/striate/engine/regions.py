"""Aligned pooling of regions by PyTorch's operators: both passes, on any device, in float32 and float64.

Along one axis every bin of a box is a weighted sum of pixels; the weights of two axes multiply. So the output is a
matrix times the map, with a row for each bin of each box and a column for each pixel, that has few numbers in a row:

    y[k, c, p, q] = sum over i and j of  u[k, p, i] * v[k, q, j] * x[n(k), c, i, j]

The input's gradient is the transposed matrix times the upstream gradient. Both are sums of rows of a table, which
PyTorch calls an embedding bag; for the transposed one entries are sorted by pixel, so that sums have one order.

A sample whose weight is 0 is never read: a pixel that isn't finite shows only in bins that see it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from striate.engine.backends import Pass, watched
from striate.errors import GeometryError

#: Entries of the matrix that are made at a time.
_ENTRIES = 1 << 22
#: Samples of a bin along an axis that are still believed to be meant.
_MOST_SAMPLES = 1 << 16


@dataclass(frozen=True)
class RegionShape:
    """What is known of aligned pooling without its tensors.

    Args:
        batch: images.
        size: height and width of the map.
        bins: height and width of the output.
        scale: from the boxes' coordinates to the map's.
        samples: of a bin along each axis; 0: as many as pixels, rounded up.
        aligned: whether coordinates are moved by half a pixel; else boxes are at least a pixel wide and high.
    """

    batch: int
    size: tuple[int, int]
    bins: tuple[int, int]
    scale: float
    samples: int
    aligned: bool


class Line(NamedTuple):
    """Along one axis: the pixels that each bin sums and their weights, (K, bins, T) each."""

    places: Tensor
    weights: Tensor


def lines(shape: RegionShape, boxes: Tensor) -> tuple[Line, Line]:
    """The two axes, rows first, of boxes (K, 5) with the image in front.

    Raises:
        GeometryError: boxes that aren't finite, where the number of samples is theirs to say.
    """
    offset = 0.5 if shape.aligned else 0.0
    corners = boxes[:, 1:] * shape.scale - offset
    start, extent = corners[:, :2], corners[:, 2:] - corners[:, :2]
    if not shape.aligned:
        extent = extent.clamp(min=1)
    rows, columns = (
        _line(start[:, 1 - axis], extent[:, 1 - axis], shape.bins[axis], shape.size[axis], shape.samples)
        for axis in (0, 1)
    )
    return rows, columns


def _line(start: Tensor, extent: Tensor, bins: int, pixels: int, samples: int) -> Line:
    width = extent / bins
    count = torch.full_like(width, samples) if samples > 0 else width.ceil().clamp(min=0)
    most = samples if samples > 0 else _most(count)
    bin_, sample = (torch.arange(n, device=start.device, dtype=start.dtype) for n in (bins, most))
    start, width, count = (each[:, None, None] for each in (start, width, count))
    # In this order, since rounding decides of a sample at the very border whether it counts.
    place = start + bin_[:, None] * width + (sample + 0.5) * width / count.clamp(min=1)
    counts = (place >= -1) & (place <= pixels) & (sample < count)
    place = place.where(counts, 0).clamp(min=0)
    low = place.floor().clamp(max=pixels - 1)
    part = (place - low).where(low < pixels - 1, 0)
    weights = (torch.stack([1 - part, part], -1) * (counts / count.clamp(min=1))[..., None]).flatten(2)
    places = torch.stack([low, (low + 1).clamp(max=pixels - 1)], -1).flatten(2).long()
    # Instead of pixels that don't count one that does is read: their weight is 0, and theirs may be NaN.
    places = places.where(weights > 0, places.gather(2, weights.argmax(2, keepdim=True)))
    return Line(places, weights) if samples > 0 else _merged(Line(places, weights), pixels)


def _most(count: Tensor) -> int:
    """Samples of the largest bin."""
    if count.numel() == 0:
        return 1
    most = float(count.amax())
    if not most <= _MOST_SAMPLES:
        remedy = "clip boxes to the image, or give a sampling_ratio"
        raise GeometryError("roi_align", f"got a bin {most:g} pixels wide", f"needed {_MOST_SAMPLES} at most", remedy)
    return max(1, int(most))


def _merged(line: Line, pixels: int) -> Line:
    """Samples no more than a pixel apart, as many pixels in a row: each once."""
    first = line.places.amin(2, keepdim=True)
    at = line.places - first
    many = int(at.amax()) + 1 if at.numel() else 1
    weights = line.weights.new_zeros(*line.weights.shape[:2], many).scatter_add(2, at, line.weights)
    places = first + torch.arange(many, device=first.device)
    return Line(places.where(weights > 0, first).clamp(max=pixels - 1), weights)


def _entries(shape: RegionShape, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """The matrix: for each bin (K * P * Q) the pixels (N * H * W) of its row and their numbers, (K * P * Q, T)."""
    rows, columns = lines(shape, boxes)
    image = boxes[:, 0].long()[:, None, None, None, None]
    row, column = rows.places[:, :, None, :, None], columns.places[:, None, :, None, :]
    weights = rows.weights[:, :, None, :, None] * columns.weights[:, None, :, None, :]
    places = (image * shape.size[0] + row) * shape.size[1] + column
    return places.flatten(3).flatten(0, 2), weights.flatten(3).flatten(0, 2)


def _chunks(shape: RegionShape, boxes: Tensor) -> list[Tensor]:
    """Boxes whose entries are made together."""
    if watched():
        return [boxes]
    per_bin = [
        2 * shape.samples if shape.samples > 0 else n // m + 3 for n, m in zip(shape.size, shape.bins, strict=True)
    ]
    return list(boxes.split(max(1, _ENTRIES // (shape.bins[0] * shape.bins[1] * per_bin[0] * per_bin[1]))))


def _table(tensor: Tensor) -> Tensor:
    """(N, C, H, W) as a row of channels for each pixel."""
    return tensor.movedim(1, 3).reshape(-1, tensor.shape[1])


def _output(shape: RegionShape, operand: Tensor, boxes: Tensor) -> Tensor:
    table = _table(operand)
    made = []
    for some in _chunks(shape, boxes):
        places, weights = _entries(shape, some)
        bins = F.embedding_bag(places, table, per_sample_weights=weights, mode="sum")
        made.append(bins.masked_fill(~weights.any(1, keepdim=True), 0))
    return torch.cat(made).reshape(boxes.shape[0], *shape.bins, operand.shape[1]).movedim(3, 1)


def _input_grad(shape: RegionShape, operand: Tensor, boxes: Tensor) -> Tensor:
    pixels = shape.batch * shape.size[0] * shape.size[1]
    table = _table(operand)
    grad, start = table.new_zeros(pixels, table.shape[1]), 0
    # One more than there are, for entries that aren't any: what is sent to it is nobody's.
    every = torch.arange(pixels + 1, device=operand.device)
    for some in _chunks(shape, boxes):
        places, weights = _entries(shape, some)
        ordered = places.where(weights > 0, pixels).flatten().sort(stable=True)
        bins, shares = start + ordered.indices // places.shape[1], weights.flatten()[ordered.indices]
        first = torch.searchsorted(ordered.values, every)
        grad += F.embedding_bag(bins, table, first, per_sample_weights=shares, mode="sum")[:-1]
        start += len(places)
    return grad.reshape(shape.batch, *shape.size, operand.shape[1]).movedim(3, 1)


def contract(shape: RegionShape, open_: Pass, operand: Tensor, boxes: Tensor) -> Tensor:
    """The output of a map, or the input's gradient of an output's.

    Args:
        operand: (N, C, H, W), or (K, C, P, Q) of :attr:`Pass.INPUT_GRAD`; float32 or float64.
        boxes: (K, 5) of the same dtype.

    Returns:
        The other of the two.
    """
    return (_output if open_ is Pass.OUTPUT else _input_grad)(shape, operand, boxes)
