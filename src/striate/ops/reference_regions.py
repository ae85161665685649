"""The definitions of regions of interest under the operations' own names; see reference.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from striate.engine import reference_regions, regions
from striate.geometry import per_axis


def roi_align(
    input: Tensor, boxes: Tensor, output_size: Any, scale: float = 1.0, samples: int = -1, aligned: bool = False
) -> Tensor:
    return reference_regions.roi_align(_regions(input.shape, output_size, scale, samples, aligned), input, boxes)


def roi_align_input_grad(
    input: Tensor, grad_output: Tensor, boxes: Tensor, scale: float = 1.0, samples: int = -1, aligned: bool = False
) -> Tensor:
    shape = _regions(input.shape, grad_output.shape[2:], scale, samples, aligned)
    return reference_regions.roi_align_input_grad(shape, grad_output, boxes)


def _regions(size: Sequence[int], bins: Any, scale: float, samples: int, aligned: bool) -> regions.RegionShape:
    height, width = per_axis(bins, 2, "output_size", "roi_align")
    return regions.RegionShape(size[0], (size[2], size[3]), (height, width), scale, max(samples, 0), aligned)
