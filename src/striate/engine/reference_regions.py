"""The definitions of the operations of detection, as loops in float64: region pooling, IoU, suppression.

As in :mod:`striate.engine.reference`, they are written to be checked by reading, and have no autograd.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from striate.engine.regions import RegionShape


def _samples(first: float, last: float, bins: int, shape: RegionShape) -> Iterator[tuple[int, float, float]]:
    """Along an axis of a box: each sample's bin, its place on the map, and its share of the bin's average."""
    offset = 0.5 if shape.aligned else 0.0
    start, end = first * shape.scale - offset, last * shape.scale - offset
    extent = end - start if shape.aligned else max(end - start, 1.0)
    width = extent / bins
    count = shape.samples if shape.samples > 0 else math.ceil(width)
    for bin_ in range(bins):
        for sample in range(count):
            yield bin_, start + bin_ * width + (sample + 0.5) * width / count, 1 / count


def _neighbours(place: float, pixels: int) -> list[tuple[int, float]]:
    """The pixels that a sample is interpolated from, with their weights; none if it is far outside."""
    if not -1 <= place <= pixels:
        return []
    place = min(max(place, 0.0), pixels - 1.0)
    low = math.floor(place)
    return [(low, 1 - (place - low)), (min(low + 1, pixels - 1), place - low)]


def _terms(shape: RegionShape, boxes: Tensor) -> Iterator[tuple[int, int, int, int, int, int, float]]:
    """All terms of the sum: (box, image, bin row, bin column, pixel row, pixel column, weight)."""
    for box, (image, x1, y1, x2, y2) in enumerate(boxes.double().tolist()):
        for p, y, down in _samples(y1, y2, shape.bins[0], shape):
            for q, x, along in _samples(x1, x2, shape.bins[1], shape):
                for i, above in _neighbours(y, shape.size[0]):
                    for j, left in _neighbours(x, shape.size[1]):
                        yield box, int(image), p, q, i, j, down * along * above * left


def roi_align(shape: RegionShape, input: Tensor, boxes: Tensor) -> Tensor:
    """y[k, c, p, q] = sum over all terms of box k and bin (p, q) of weight * x[image, c, row, column]."""
    x = input.detach().double()
    y = x.new_zeros(len(boxes), x.shape[1], *shape.bins)
    for box, image, p, q, i, j, weight in _terms(shape, boxes):
        y[box, :, p, q] += weight * x[image, :, i, j]
    return y


def roi_align_input_grad(shape: RegionShape, grad_output: Tensor, boxes: Tensor) -> Tensor:
    """dx[image, c, row, column] = sum over all terms with that pixel of weight * g[k, c, p, q]."""
    g = grad_output.detach().double()
    x = g.new_zeros(shape.batch, g.shape[1], *shape.size)
    for box, image, p, q, i, j, weight in _terms(shape, boxes):
        x[image, :, i, j] += weight * g[box, :, p, q]
    return x


def roi_pool(input: Tensor, boxes: Tensor, bins: tuple[int, int], scale: float) -> Tensor:
    """y[k, c, p, q] = the maximum over the pixels of bin (p, q) of box k, rounded to pixels; 0 for an empty bin."""
    x = input.detach().double()
    y = x.new_zeros(len(boxes), x.shape[1], *bins)
    for box, (image, *corners) in enumerate(boxes.double().tolist()):
        left, top, right, bottom = (math.floor(abs(each * scale) + 0.5) * (1 if each >= 0 else -1) for each in corners)
        rows, columns = _cuts(top, bottom, bins[0], x.shape[2]), _cuts(left, right, bins[1], x.shape[3])
        for p, (y0, y1) in enumerate(rows):
            for q, (x0, x1) in enumerate(columns):
                if y1 > y0 and x1 > x0:
                    y[box, :, p, q] = x[int(image), :, y0:y1, x0:x1].amax((1, 2))
    return y


def _cuts(first: int, last: int, bins: int, pixels: int) -> list[tuple[int, int]]:
    length = max(last - first + 1, 1)
    ends = [(first + bin_ * length // bins, first - (-(bin_ + 1) * length // bins)) for bin_ in range(bins)]
    return [(min(max(start, 0), pixels), min(max(end, 0), pixels)) for start, end in ends]


def box_iou(one: list[float], other: list[float]) -> float:
    """The intersection over union of two boxes; 0 if neither has an area."""
    width = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    union = areas - width * height
    return width * height / union if union > 0 else 0.0


def nms(boxes: Tensor, scores: Tensor, threshold: float, classes: Tensor | None = None) -> Tensor:
    """Goes through the boxes by falling score; keeps a box unless a kept box of its class overlaps it too much."""
    kinds = [0] * len(boxes) if classes is None else classes.tolist()
    corners, taken = boxes.double().tolist(), list[int]()
    for box in sorted(range(len(boxes)), key=lambda box: -scores[box].item()):
        if all(kinds[box] != kinds[t] or box_iou(corners[box], corners[t]) <= threshold for t in taken):
            taken.append(box)
    return torch.tensor(taken, dtype=torch.int64)
