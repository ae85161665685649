"""CondInst in small: masks by filters that are predicted at each object's place, on CenterNet's trunk.

Sources: Tian, Shen & Chen, "Conditional convolutions for instance segmentation" (2020), sections 2.2 and 2.3: a mask is
drawn by a small network, whose weights another network gives for each object, from maps that all objects share and
from coordinates relative to the object. He, Gkioxari, Dollár & Girshick, "Mask R-CNN" (2017), section 3: masks are
drawn in a grid over the box, which costs the same for objects and pictures of all sizes. Milletari, Navab & Ahmadi,
"V-Net" (2016), section 3: the Dice loss. The shared maps have a stride of 2.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from striate import nn, ops
from striate.models import centers
from striate.models.centernet import STRIDE, CenterNet, Heads, Trunk
from striate.models.registry import register
from striate.nn.detection_targets import Target

#: Places a side of the grid in which a mask is drawn.
SIDE: Final = 32
#: How much larger than the box the grid is, so that a slightly wrong box cuts nothing off.
MARGIN: Final = 1.2
#: Stride of the maps that masks are drawn from.
FINE: Final = 2
#: Channels of these, and of the filters' outputs: of the two coordinates and the maps to one mask.
_SHARED: Final = 16
_LAYERS: Final = (_SHARED + 2, 8, 8, 1)
_COUNT: Final = sum(before * after + after for before, after in itertools.pairwise(_LAYERS))


class Fine(torch.nn.Module):
    """Maps of stride 2 from the trunk's two: (N, 32, H/2, W/2) and (N, 64, H/4, W/4) to (N, 16, H/2, W/2)."""

    def __init__(self, fine: int, coarse: int, inner: int = 32) -> None:
        super().__init__()
        self.first = nn.ConvNormActivation(fine, inner, 1, activation=None)
        self.second = nn.ConvNormActivation(coarse, inner, 1, activation=None)
        self.merged = torch.nn.Sequential(nn.ConvNormActivation(inner, inner), nn.ConvNormActivation(inner, _SHARED))

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        merged = self.first(fine) + F.interpolate(self.second(coarse), scale_factor=2.0)
        maps: Tensor = self.merged(merged.relu())
        return maps


class MaskMaps(torch.nn.Module):
    """:class:`striate.models.centernet.Maps`, with ``filters`` (N, 233, H/4, W/4) and ``fine`` (N, 16, H/2, W/2)."""

    def __init__(self, classes: int, in_channels: int) -> None:
        super().__init__()
        self.trunk = Trunk(in_channels)
        self.heads = Heads(64, {"heat": classes, "box": 4, "filters": _COUNT})
        self.fine = Fine(32, 64)

    def forward(self, input: Tensor) -> dict[str, Tensor]:
        first, features = self.trunk(input)
        return {**self.heads(features), "fine": self.fine(first, features)}


class CondInst(CenterNet):
    """Boxes and masks of objects, without anchors and without non-maximum suppression.

    As :class:`~striate.models.centernet.CenterNet`, and besides: targets have ``masks`` uint8 (n, H, W), losses
    ``mask``, results ``masks`` float (D, 1, H, W), the probability that a pixel belongs to the object.
    """

    has_masks = True

    def _maps(self) -> torch.nn.Module:
        return MaskMaps(self.classes, self.in_channels)

    @torch.no_grad()
    def _start(self) -> None:
        """The filters begin as the same for all places, with the variance that He et al. (2015) give to filters."""
        super()._start()
        bias = self.maps.heads.heads["filters"][-1].bias  # type: ignore[union-attr, index]
        begin = 0
        for before, after in itertools.pairwise(_LAYERS):
            bias[begin : begin + before * after].normal_(0, math.sqrt(2 / before))
            begin += (before + 1) * after

    def losses(
        self, maps: Mapping[str, Tensor], objects: centers.Objects, targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        losses = super().losses(maps, objects, targets)
        counted = objects.select(objects.counted)
        places = centers.likeliest(maps["heat"].detach(), counted, STRIDE)
        filters = maps["filters"][counted.pictures, :, places[:, 1], places[:, 0]]
        logits = drawn(maps["fine"], filters, counted.boxes, counted.pictures)
        every = torch.cat([wanted(target["masks"], target["boxes"]) for target in targets])
        loss = mask_loss(logits, every[objects.counted].to(logits))
        return losses | {"mask": counted.mean(loss, len(targets))}

    def outlines(
        self, maps: Mapping[str, Tensor], pictures: Tensor, places: Tensor, boxes: Tensor, size: tuple[int, int]
    ) -> dict[str, Tensor]:
        filters = maps["filters"][pictures, :, places[:, 1], places[:, 0]]
        return {"masks": pasted(drawn(maps["fine"], filters, boxes, pictures).sigmoid(), boxes, size)}


def grids(boxes: Tensor) -> Tensor:
    """The boxes (D, 4), xyxy, over which masks are drawn: larger by :data:`MARGIN` about the same centres."""
    centers_, halves = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) * (MARGIN / 2)
    return torch.cat([centers_ - halves, centers_ + halves], 1)


def drawn(fine: Tensor, filters: Tensor, boxes: Tensor, pictures: Tensor) -> Tensor:
    """Masks in grids over boxes, logits (D, 32, 32).

    Args:
        fine: maps of stride 2, (N, 16, H/2, W/2).
        filters: what three layers of 1x1 convolutions consist of, for each object, (D, 233).
        boxes: (D, 4), xyxy, pixels.
        pictures: int64 (D,), which of the N pictures each is in.
    """
    regions = torch.cat([pictures[:, None].to(boxes), grids(boxes)], 1)
    shared = ops.roi_align(fine, regions, SIDE, 1 / FINE, 1, aligned=True).flatten(2)
    steps = (torch.arange(SIDE, device=fine.device) + 0.5) * (2 / SIDE) - 1
    maps = torch.cat(
        [shared, torch.stack(torch.meshgrid(steps, steps, indexing="xy")).flatten(1).expand(boxes.shape[0], -1, -1)], 1
    )
    begin = 0
    for before, after in itertools.pairwise(_LAYERS):
        end = begin + before * after
        weight, bias = filters[:, begin:end].view(-1, after, before), filters[:, end : end + after, None]
        maps = torch.baddbmm(bias, weight, maps if begin == 0 else maps.relu())
        begin = end + after
    return maps.view(boxes.shape[0], SIDE, SIDE)  # not len(), which an exporter takes for a number


def wanted(masks: Tensor, boxes: Tensor) -> Tensor:
    """What :func:`drawn` is to draw of masks (n, H, W) of one picture: the share of each place, (n, 32, 32), 0 to 1."""
    regions = torch.cat([torch.arange(len(boxes), device=boxes.device)[:, None].to(boxes), grids(boxes)], 1)
    return ops.roi_align(masks[:, None].to(boxes), regions, SIDE, 1.0, 2, aligned=True)[:, 0]


def mask_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross entropy, averaged over places, and Dice loss of each of the masks (D, 32, 32): (D,)."""
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean((1, 2))
    return entropy + ops.dice_loss(logits, truth, reduction="none")


def pasted(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks drawn in grids over boxes, (D, 32, 32), as masks of a picture of ``size`` (H, W): (D, 1, H, W).

    Between the middles of places masks are interpolated; beyond the grid they are 0.
    """
    x0, y0, x1, y1 = grids(boxes)[:, :, None].unbind(1)
    rows, columns = (torch.arange(n, device=boxes.device) + 0.5 for n in size)
    across, down = 2 * (columns - x0) / (x1 - x0) - 1, 2 * (rows - y0) / (y1 - y0) - 1
    at = torch.stack(torch.broadcast_tensors(across[:, None, :], down[:, :, None]), -1)
    return F.grid_sample(masks[:, None], at, align_corners=False)


register(
    CondInst,
    "condinst_small",
    "CondInst in small, masks without NMS; 2,473,607 parameters, 128x128 images.",
    "instance",
)
