"""RoIAlign by PyTorch's operators: forward and backward, on any device, in float32 and float64.

Along one axis, every bin of a box is a weighted sum of pixels, and the weights of the two axes multiply. So the output
is a sparse matrix times the map, with a row for each bin of each box and a column for each pixel:

    y[k, c, p, q] = sum over i and j of  u[k, p, i] * v[k, q, j] * x[n(k), c, i, j]

The input gradient is the transposed matrix times the upstream gradient. Both are computed as sums of rows of a table
(PyTorch's embedding bag). For the transposed matrix, entries are sorted by pixel, so the order of the sums is fixed.

A pixel with weight 0 is never read, so NaN and infinity appear only in bins that sample them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from striate.engine.backends import Pass, watched
from striate.errors import GeometryError

#: The most entries of the matrix that are in memory at a time.
_ENTRIES = 1 << 22
#: The most samples of a bin along an axis; more is an error.
_MOST_SAMPLES = 1 << 16


@dataclass(frozen=True)
class RegionShape:
    """The sizes and settings of RoIAlign, without its tensors.

    Args:
        batch: number of images.
        size: height and width of the map.
        bins: height and width of the output.
        scale: factor from the coordinates of the boxes to those of the map.
        samples: samples of a bin along each axis; 0 for as many as the bin has pixels, rounded up.
        aligned: whether coordinates are shifted by half a pixel; if not, boxes are at least one pixel wide and high.
    """

    batch: int
    size: tuple[int, int]
    bins: tuple[int, int]
    scale: float
    samples: int
    aligned: bool


class AxisSamples(NamedTuple):
    """The pixels that each bin sums along one axis, and their weights, (K, bins, T) each."""

    places: Tensor
    weights: Tensor


def axis_samples(shape: RegionShape, boxes: Tensor) -> tuple[AxisSamples, AxisSamples]:
    """The rows and columns that boxes (K, 5) sample; the first number of a box is its image.

    Raises:
        GeometryError: boxes that aren't finite, if the number of samples depends on them.
    """
    offset = 0.5 if shape.aligned else 0.0
    corners = boxes[:, 1:] * shape.scale - offset
    start, extent = corners[:, :2], corners[:, 2:] - corners[:, :2]
    if not shape.aligned:
        extent = extent.clamp(min=1)
    rows, columns = (
        _along_axis(start[:, 1 - axis], extent[:, 1 - axis], shape.bins[axis], shape.size[axis], shape.samples)
        for axis in (0, 1)
    )
    return rows, columns


def _along_axis(start: Tensor, extent: Tensor, bins: int, pixels: int, samples: int) -> AxisSamples:
    width = extent / bins
    count = torch.full_like(width, samples) if samples > 0 else width.ceil().clamp(min=0)
    most = samples if samples > 0 else _most(count)
    bin_, sample = (torch.arange(n, device=start.device, dtype=start.dtype) for n in (bins, most))
    start, width, count = (each[:, None, None] for each in (start, width, count))
    # The order of operations matters: rounding decides whether a sample exactly at the border counts.
    place = start + bin_[:, None] * width + (sample + 0.5) * width / count.clamp(min=1)
    counts = (place >= -1) & (place <= pixels) & (sample < count)
    place = place.where(counts, 0).clamp(min=0)
    low = place.floor().clamp(max=pixels - 1)
    part = (place - low).where(low < pixels - 1, 0)
    weights = (torch.stack([1 - part, part], -1) * (counts / count.clamp(min=1))[..., None]).flatten(2)
    places = torch.stack([low, (low + 1).clamp(max=pixels - 1)], -1).flatten(2).long()
    # Pixels with weight 0 may be NaN, so read one that counts instead.
    places = places.where(weights > 0, places.gather(2, weights.argmax(2, keepdim=True)))
    return AxisSamples(places, weights) if samples > 0 else _merged(AxisSamples(places, weights), pixels)


def _most(count: Tensor) -> int:
    """The number of samples of the largest bin."""
    if count.numel() == 0:
        return 1
    most = float(count.amax())
    if not most <= _MOST_SAMPLES:
        remedy = "clip boxes to the image, or give a sampling_ratio"
        raise GeometryError("roi_align", f"got a bin {most:g} pixels wide", f"needed {_MOST_SAMPLES} at most", remedy)
    return max(1, int(most))


def _merged(line: AxisSamples, pixels: int) -> AxisSamples:
    """Merges samples that are at most a pixel apart, so that each pixel of a bin occurs once."""
    first = line.places.amin(2, keepdim=True)
    at = line.places - first
    many = int(at.amax()) + 1 if at.numel() else 1
    weights = line.weights.new_zeros(*line.weights.shape[:2], many).scatter_add(2, at, line.weights)
    places = first + torch.arange(many, device=first.device)
    return AxisSamples(places.where(weights > 0, first).clamp(max=pixels - 1), weights)


def _entries(shape: RegionShape, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """The matrix, (K * P * Q, T): for each bin the indices of its pixels (among N * H * W) and their weights."""
    rows, columns = axis_samples(shape, boxes)
    image = boxes[:, 0].long()[:, None, None, None, None]
    row, column = rows.places[:, :, None, :, None], columns.places[:, None, :, None, :]
    weights = rows.weights[:, :, None, :, None] * columns.weights[:, None, :, None, :]
    places = (image * shape.size[0] + row) * shape.size[1] + column
    return places.flatten(3).flatten(0, 2), weights.flatten(3).flatten(0, 2)


def _chunks(shape: RegionShape, boxes: Tensor) -> list[Tensor]:
    """Splits boxes into chunks whose matrix entries fit into the limit."""
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
    # One more pixel than there are: entries with weight 0 are summed there and dropped.
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
    """Computes the output from a map, or the input gradient from an output gradient.

    Args:
        operand: the map (N, C, H, W), or for :attr:`Pass.INPUT_GRAD` the output gradient (K, C, P, Q); float32 or
            float64.
        boxes: (K, 5) of the same dtype.

    Returns:
        The output (K, C, P, Q), or the input gradient (N, C, H, W).
    """
    return (_output if open_ is Pass.OUTPUT else _input_grad)(shape, operand, boxes)
