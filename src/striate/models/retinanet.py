"""RetinaNet: anchors on all levels of a feature pyramid, and a loss that easy background doesn't dominate.

Source: Lin, Goyal, Girshick, He & Dollár, "Focal loss for dense object detection" (2017), sections 3 and 4. The
second version is torchvision's: group normalisation in the heads, the generalised IoU as the boxes' loss, level P6 of
ResNet's last map, batch normalisation that isn't frozen. Names of parameters, initial weights, losses and results
are torchvision's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from striate import nn, ops
from striate.models.initialisation import normal_convolutions
from striate.models.one_stage import (
    LEVEL_CHANNELS,
    LEVEL_STRIDES,
    Candidates,
    OneStageDetector,
    Outputs,
    best_of_levels,
    for_channels,
    per_box,
    resnet50_pyramid,
)
from striate.models.registry import register

#: From a number of channels to a normalisation.
Norm = Callable[[int], torch.nn.Module]

#: The probability that a new network gives each class at each anchor (section 4.1, "Initialization").
PRIOR: Final = 0.01
#: Convolutions of a head before its last one (section 4, "Classification Subnet").
DEPTH: Final = 4


def prior_bias(layer: torch.nn.Conv2d) -> torch.nn.Conv2d:
    """``layer`` with a bias that makes its sigmoid :data:`PRIOR` for inputs of 0."""
    assert layer.bias is not None
    torch.nn.init.constant_(layer.bias, -math.log((1 - PRIOR) / PRIOR))
    return layer


def tower(norm: Norm | None) -> torch.nn.Sequential:
    """Convolutions of 3x3 before a head's last one, each with an activation, (N, 256, H, W) to the same."""
    return torch.nn.Sequential(
        *[nn.ConvNormActivation(LEVEL_CHANNELS, LEVEL_CHANNELS, norm=norm) for _ in range(DEPTH)]
    )


class ClassificationHead(torch.nn.Module):
    """Scores of classes before the sigmoid, from levels (N, 256, H, W) to (N, A, K) at all anchors.

    Args:
        conv: what comes before the last convolution.
        anchors: at each position.
        num_classes: K.
    """

    def __init__(self, conv: torch.nn.Module, anchors: int, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.conv = conv
        self.cls_logits = nn.Conv2d(LEVEL_CHANNELS, anchors * num_classes, 3, padding=1)
        normal_convolutions(self, 0.01)
        prior_bias(self.cls_logits)

    def forward(self, levels: list[Tensor]) -> Tensor:
        return torch.cat([per_box(self.cls_logits(self.conv(maps)), self.num_classes) for maps in levels], dim=1)


class RegressionHead(torch.nn.Module):
    """Offsets of boxes from anchors, from levels (N, 256, H, W) to (N, A, 4)."""

    def __init__(self, anchors: int, norm: Norm | None) -> None:
        super().__init__()
        self.conv = tower(norm)
        self.bbox_reg = nn.Conv2d(LEVEL_CHANNELS, anchors * 4, 3, padding=1)
        normal_convolutions(self, 0.01)

    def forward(self, levels: list[Tensor]) -> Tensor:
        return torch.cat([per_box(self.bbox_reg(self.conv(maps)), 4) for maps in levels], dim=1)


class Head(torch.nn.Module):
    """Both heads; they share only their input."""

    def __init__(self, anchors: int, num_classes: int, norm: Norm | None) -> None:
        super().__init__()
        self.classification_head = ClassificationHead(tower(norm), anchors, num_classes)
        self.regression_head = RegressionHead(anchors, norm)

    def forward(self, levels: list[Tensor]) -> Outputs:
        return {"cls_logits": self.classification_head(levels), "bbox_regression": self.regression_head(levels)}


def anchors() -> nn.AnchorGenerator:
    """Three sizes and three shapes at each position, from 32 pixels on P3 to 813 on P7 (section 4, "Anchors")."""
    sizes = tuple(tuple(int(side * 2 ** (third / 3)) for third in range(3)) for side in (32, 64, 128, 256, 512))
    return nn.AnchorGenerator(sizes, (0.5, 1.0, 2.0))


class RetinaNet(OneStageDetector):
    """Anchors on five levels of a pyramid over ResNet-50, each with a score for every class and four offsets.

    Args:
        num_classes: K, with the background, which has a score too, though nothing teaches it.
        in_channels: of the images.
        second: the second version.
        min_size, max_size: of images on their way in, as in :class:`striate.nn.DetectionInput`.
        score_thresh, nms_thresh, detections_per_img, topk_candidates: as in :class:`OneStageDetector`; candidates are
            counted for each level.
        fg_iou_thresh, bg_iou_thresh: the overlap from which on an anchor stands for an object, and below which it
            stands for none.
    """

    stages = ("backbone.body", "backbone.fpn", "head")
    head_keys = ("head.classification_head.cls_logits",)
    strides = LEVEL_STRIDES

    def __init__(
        self,
        num_classes: int = 91,
        in_channels: int = 3,
        *,
        second: bool = False,
        min_size: int | Sequence[int] = 800,
        max_size: int = 1333,
        score_thresh: float = 0.05,
        nms_thresh: float = 0.5,
        detections_per_img: int = 300,
        topk_candidates: int = 1000,
        fg_iou_thresh: float = 0.5,
        bg_iou_thresh: float = 0.4,
    ) -> None:
        mean, std = (for_channels(each, in_channels) for each in (nn.IMAGENET_MEAN, nn.IMAGENET_STD))
        generator = anchors()
        norm = partial(torch.nn.GroupNorm, 32) if second else None
        super().__init__(
            nn.DetectionInput(min_size, max_size, mean, std),
            resnet50_pyramid(in_channels, frozen=not second, p6_of_level=not second),
            generator,
            Head(generator.per_position[0], num_classes, norm),
            num_classes,
            score_thresh,
            nms_thresh,
            detections_per_img,
            topk_candidates,
        )
        self.box_coder = nn.BoxCoder()
        self.proposal_matcher = nn.Matcher(fg_iou_thresh, bg_iou_thresh, low_quality=True)
        self.second = second

    def losses(self, outputs: Outputs, levels: list[Tensor], targets: Sequence[nn.Target]) -> dict[str, Tensor]:
        boxes = torch.cat(levels)
        matches = [self.proposal_matcher(ops.box_iou(target["boxes"], boxes)) for target in targets]
        known = list(zip(matches, targets, strict=True))
        scores = [self._score_loss(logits, *each) for logits, each in zip(outputs["cls_logits"], known, strict=True)]
        offsets = [
            self._box_loss(codes, boxes, *each) for codes, each in zip(outputs["bbox_regression"], known, strict=True)
        ]
        return {"classification": torch.stack(scores).mean(), "bbox_regression": torch.stack(offsets).mean()}

    def _score_loss(self, logits: Tensor, matches: Tensor, target: nn.Target) -> Tensor:
        """The focal loss of one image, for each anchor that stands for an object."""
        positive = (matches >= 0).nonzero().flatten()
        truth = torch.zeros_like(logits)
        truth[positive, target["labels"][matches[positive]]] = 1
        learnt = matches != nn.BETWEEN
        return ops.sigmoid_focal_loss(logits[learnt], truth[learnt], reduction="sum") / max(1, len(positive))

    def _box_loss(self, codes: Tensor, boxes: Tensor, matches: Tensor, target: nn.Target) -> Tensor:
        positive = (matches >= 0).nonzero().flatten()
        wanted, codes, boxes = target["boxes"][matches[positive]], codes[positive], boxes[positive]
        if self.second:
            loss = ops.generalized_box_iou_loss(self.box_coder.decode(codes, boxes), wanted, reduction="sum")
        else:
            loss = F.l1_loss(codes, self.box_coder.encode(wanted, boxes), reduction="sum")
        return loss / max(1, len(positive))

    def decoded(self, outputs: Outputs, levels: list[Tensor]) -> Tensor:
        return self.box_coder.decode(outputs["bbox_regression"], torch.cat(levels))

    def candidates(self, outputs: Outputs, levels: list[Tensor]) -> Candidates:
        scores = outputs["cls_logits"].sigmoid()
        return best_of_levels(scores, outputs["bbox_regression"], levels, self.box_coder.decode, self.topk_candidates)


for _second, _name, _words, _parameters in (
    (False, "retinanet_resnet50_fpn", "RetinaNet on ResNet-50", 34_014_999),
    (True, "retinanet_resnet50_fpn_v2", "RetinaNet on ResNet-50, normalised heads", 38_198_935),
):
    register(
        partial(RetinaNet, second=_second),
        _name,
        f"{_words}; {_parameters:,} parameters, 800x1333 images.",
        task="detection",
    )
