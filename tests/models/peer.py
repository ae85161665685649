"""torchvision's detection networks, runnable beside a PyTorch that its compiled part wasn't built for.

Of that part its Python models call two operators, ``torchvision::nms`` and ``torchvision::roi_align``. Where it can't
be loaded they are defined here from what torchvision's documentation says of them, by PyTorch's own operators, so that
autograd and float64 come for nothing:

    theirs = peer.spread(peer.detection("fasterrcnn_resnet50_fpn", min_size=96, rpn_post_nms_top_n_test=50))
    theirs.eval()(peer.images((60, 80), (97, 64)))
"""

from __future__ import annotations

import importlib
import sys
from typing import Any, Final

import pytest
import torch
from torch import Tensor

#: What keeps a builder of torchvision's from fetching weights.
RANDOM: Final[dict[str, Any]] = {"weights": None, "weights_backbone": None}

_LIBRARY = torch.library.Library("torchvision", "FRAGMENT")


def torchvision() -> Any:
    """The package, with both operators; skips the test where it isn't installed."""
    register = torch.library.register_fake

    def lenient(operator: Any, *arguments: Any, **named: Any) -> Any:
        # Without its compiled part torchvision has no operators to register a shape for.
        if isinstance(operator, str) and operator.startswith("torchvision::"):
            return lambda function: function
        return register(operator, *arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.library, "register_fake", lenient)
        package = pytest.importorskip("torchvision")
        importlib.import_module("torchvision.models.detection")
    if not package.extension._has_ops():
        _define()
    return package


def detection(name: str, **options: Any) -> torch.nn.Module:
    """A detection or instance network of torchvision's, with random weights."""
    made: torch.nn.Module = getattr(torchvision().models.detection, name)(**(RANDOM | options))
    return made


def segmentation(name: str, **options: Any) -> torch.nn.Module:
    """A semantic network of torchvision's, with random weights."""
    made: torch.nn.Module = getattr(torchvision().models.segmentation, name)(**(RANDOM | options))
    return made


def images(*sizes: tuple[int, int], seed: int = 0) -> list[Tensor]:
    """Smooth random pictures (3, H, W) of the given sizes, float32 from 0 to 1."""
    generator = torch.Generator().manual_seed(seed)
    coarse = [torch.rand(1, 3, 6, 6, generator=generator) for _ in sizes]
    grown = [torch.nn.functional.interpolate(c, size, mode="bicubic") for c, size in zip(coarse, sizes, strict=True)]
    return [picture[0].clamp(0, 1) for picture in grown]


@torch.no_grad()
def spread(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """``model`` with statistics, scales and offsets of normalisation that aren't ones and zeros, so that all are seen.

    Sizes of maps stay about what they are, so scores don't all become 0 or 1.
    """
    generator = torch.Generator().manual_seed(seed)
    for layer in model.modules():
        for name, (low, high) in {
            "running_mean": (-0.1, 0.1),
            "running_var": (0.8, 1.25),
            "weight": (0.8, 1.2),
            "bias": (-0.1, 0.1),
        }.items():
            tensor = getattr(layer, name, None)
            if "Norm" in type(layer).__name__ and isinstance(tensor, Tensor):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)
    return model


def _define() -> None:
    if "torchvision::nms" in torch._C._dispatch_get_all_op_names():
        return
    _LIBRARY.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _LIBRARY.define(
        "roi_align(Tensor input, Tensor rois, float spatial_scale, int pooled_height, int pooled_width, "
        "int sampling_ratio, bool aligned) -> Tensor"
    )
    _LIBRARY.impl("nms", nms, "CompositeImplicitAutograd")
    _LIBRARY.impl("roi_align", roi_align, "CompositeImplicitAutograd")
    for name in ("torchvision.extension", "torchvision.ops.roi_align"):
        sys.modules[name]._has_ops = lambda: True  # type: ignore[attr-defined]


def nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Indices of the boxes that no surer kept box overlaps by more than ``threshold``, the surest first."""
    left = scores.argsort(descending=True, stable=True)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    kept = []
    while len(left):
        first, left = left[0], left[1:]
        kept.append(first)
        low = torch.maximum(boxes[left, :2], boxes[first, :2])
        high = torch.minimum(boxes[left, 2:], boxes[first, 2:])
        common = (high - low).clamp(min=0).prod(1)
        left = left[~(common / (areas[left] + areas[first] - common) > threshold)]
    return torch.stack(kept) if kept else left


def roi_align(
    maps: Tensor, rois: Tensor, scale: float, height: int, width: int, sampling: int, aligned: bool
) -> Tensor:
    """Means of bilinear samples: maps (N, C, H, W), rois (K, 5) as image, x0, y0, x1, y1; to (K, C, height, width)."""
    _, channels, rows, columns = maps.shape
    boxes = rois[:, 1:].to(maps) * scale
    pooled = maps.new_zeros(len(rois), channels, height, width)
    for image, plane in enumerate(maps):
        here = (rois[:, 0] == image).nonzero()[:, 0]
        down = _weights(boxes[here, 1], boxes[here, 3], height, rows, sampling, aligned)
        across = _weights(boxes[here, 0], boxes[here, 2], width, columns, sampling, aligned)
        pooled = pooled.index_copy(0, here, torch.einsum("kph,chw,kqw->kcpq", down, plane, across))
    return pooled


def _weights(start: Tensor, end: Tensor, bins: int, size: int, sampling: int, aligned: bool) -> Tensor:
    """How much each of ``size`` cells counts in each bin of K boxes, (K, bins, size), along one axis.

    A bilinear sample is a product of two axes, and so is a mean over a grid of them.
    """
    start, end = (start - 0.5, end - 0.5) if aligned else (start, end)
    length = end - start if aligned else (end - start).clamp(min=1)
    samples = torch.full_like(length, sampling) if sampling > 0 else (length / bins).ceil()
    most = int(samples.max()) if len(samples) else 0
    bin, sample = torch.arange(bins)[:, None], torch.arange(most)
    step = (length / bins)[:, None, None]
    at = start[:, None, None] + bin * step + (sample + 0.5) * (step / samples[:, None, None])
    counts = (at >= -1) & (at <= size) & (sample < samples[:, None, None])
    below = at.clamp(0, size - 1).long()
    above = (below + 1).clamp(max=size - 1)
    share = at.clamp(0, size - 1) - below
    part = counts / samples.clamp(min=1)[:, None, None]
    empty = torch.zeros(len(start), bins, size, dtype=start.dtype)
    return empty.scatter_add(2, below, (1 - share) * part).scatter_add(2, above, share * part)
