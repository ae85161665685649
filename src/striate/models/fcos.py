"""FCOS: no anchors. Each position predicts its distances to the four sides of the object that contains it.

Sources: Tian, Shen, Chen & He, "FCOS: Fully convolutional one-stage object detection" (2019), section 3; the same,
"FCOS: A simple and strong anchor-free object detector" (2020), section 2, for positions near the centre only,
centre-ness beside the boxes and the generalised IoU. Names of parameters, initial weights, losses and results are
torchvision's.
"""

from __future__ import annotations

from collections.abc import Sequence

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
from striate.models.retinanet import DEPTH, ClassificationHead


def tower() -> torch.nn.Sequential:
    """Four 3x3 convolutions, each with group normalisation and ReLU, (N, 256, H, W) to the same."""
    layers: list[torch.nn.Module] = []
    for _ in range(DEPTH):
        layers += [
            nn.Conv2d(LEVEL_CHANNELS, LEVEL_CHANNELS, 3, padding=1),
            torch.nn.GroupNorm(32, LEVEL_CHANNELS),
            torch.nn.ReLU(),
        ]
    return torch.nn.Sequential(*layers)


class RegressionHead(torch.nn.Module):
    """Distances to the four sides (N, A, 4), in strides, and centre-ness before the sigmoid (N, A, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = tower()
        self.bbox_reg = nn.Conv2d(LEVEL_CHANNELS, 4, 3, padding=1)
        self.bbox_ctrness = nn.Conv2d(LEVEL_CHANNELS, 1, 3, padding=1)
        normal_convolutions(self, 0.01)

    def forward(self, levels: list[Tensor]) -> tuple[Tensor, Tensor]:
        inner = [self.conv(maps) for maps in levels]
        distances = [per_box(self.bbox_reg(maps).relu(), 4) for maps in inner]
        centreness = [per_box(self.bbox_ctrness(maps), 1) for maps in inner]
        return torch.cat(distances, dim=1), torch.cat(centreness, dim=1)


class Head(torch.nn.Module):
    """Both heads; they share only their input."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.classification_head = ClassificationHead(tower(), 1, num_classes)
        self.regression_head = RegressionHead()

    def forward(self, levels: list[Tensor]) -> Outputs:
        distances, centreness = self.regression_head(levels)
        return {
            "cls_logits": self.classification_head(levels),
            "bbox_regression": distances,
            "bbox_ctrness": centreness,
        }


def centres(squares: Tensor) -> Tensor:
    """The centres (..., 2) of boxes (..., 4)."""
    return (squares[..., :2] + squares[..., 2:]) / 2


def distances(squares: Tensor, boxes: Tensor) -> Tensor:
    """From the centres of squares to the left, upper, right and lower sides of boxes, (..., 4), in sides of squares.

    >>> distances(torch.tensor([[4.0, 4.0, 12.0, 12.0]]), torch.tensor([[0.0, 4.0, 24.0, 12.0]]))
    tensor([[1.0000, 0.5000, 2.0000, 0.5000]])
    """
    middle, side = centres(squares), squares[..., 2:] - squares[..., :2]
    return torch.cat([(middle - boxes[..., :2]) / side, (boxes[..., 2:] - middle) / side], dim=-1)


def boxes_at(distances: Tensor, squares: Tensor) -> Tensor:
    """The boxes (..., 4) whose sides are so far from the centres of squares: the inverse of :func:`distances`."""
    squares = squares.to(distances.dtype)
    middle, side = centres(squares), squares[..., 2:] - squares[..., :2]
    return torch.cat([middle - distances[..., :2] * side, middle + distances[..., 2:] * side], dim=-1)


def centreness(distances: Tensor) -> Tensor:
    """How near the centre of its box a position is, 0 at its border to 1, (..., 4) to (...) (2019, equation 3).

    >>> centreness(torch.tensor([[1.0, 2.0, 4.0, 2.0]]))
    tensor([0.5000])
    """
    across, down = distances[..., 0::2], distances[..., 1::2]
    return torch.sqrt((across.amin(-1) / across.amax(-1)) * (down.amin(-1) / down.amax(-1)))


def match(objects: Tensor, levels: Sequence[Tensor], radius: float) -> Tensor:
    """For each position the smallest object that it can stand for, or ``BACKGROUND``, int64 (A,).

    A position lies within an object, near its centre, and its level is made for objects of that size: the largest
    distance to a side is from 4 to 8 strides; less on the first level and more on the last are let in too.

    Args:
        objects: (M, 4) in pixels of the batch; M may be 0.
        levels: of each level the squares (A_l, 4) around its positions, as wide as its stride.
        radius: how far from an object's centre a position may be in x and in y, strides.

    Source: Tian et al. (2019), section 3.2; (2020), section 2.1, "Center sampling".
    """
    squares = torch.cat(list(levels))
    if not len(objects):
        return torch.full((len(squares),), nn.BACKGROUND, device=squares.device)
    middle, stride = centres(squares)[:, None], (squares[:, 2] - squares[:, 0])[:, None]
    near = (middle - centres(objects)).abs().amax(-1) < radius * stride
    sides = torch.cat([middle - objects[:, :2], objects[:, 2:] - middle], dim=-1)
    least, most = 4 * stride, 8 * stride
    least[: len(levels[0])] = 0
    most[len(squares) - len(levels[-1]) :] = torch.inf
    farthest = sides.amax(-1)
    fits = near & (sides.amin(-1) > 0) & (farthest > least) & (farthest < most)
    areas = torch.where(fits, ops.box_area(objects), torch.inf)
    smallest = areas.min(dim=1)
    return torch.where(smallest.values.isfinite(), smallest.indices, nn.BACKGROUND)


class FCOS(OneStageDetector):
    """Positions on five levels of a pyramid, each with scores, distances and centre-ness.

    Args:
        num_classes: K, with the background, which has a score too, though nothing teaches it.
        in_channels: of the images.
        backbone: the pyramid, with levels of 256 channels at :attr:`strides`; None for ResNet-50's.
        image_mean, image_std: by which pixels are normalised, for each channel; None for ImageNet's.
        min_size, max_size: of images on their way in, as in :class:`DetectionInput`.
        score_thresh, nms_thresh, detections_per_img, topk_candidates: as in :class:`OneStageDetector`; candidates are
            counted for each level. A score is the geometric mean of the class's and the centre-ness.
        center_sampling_radius: how far from an object's centre positions stand for it, strides.
    """

    stages = ("backbone.body", "backbone.fpn", "head")
    head_keys = ("head.classification_head.cls_logits",)
    strides = LEVEL_STRIDES

    def __init__(
        self,
        num_classes: int = 91,
        in_channels: int = 3,
        *,
        backbone: nn.PyramidBackbone | None = None,
        image_mean: Sequence[float] | None = None,
        image_std: Sequence[float] | None = None,
        min_size: int | Sequence[int] = 800,
        max_size: int = 1333,
        score_thresh: float = 0.2,
        nms_thresh: float = 0.6,
        detections_per_img: int = 100,
        topk_candidates: int = 1000,
        center_sampling_radius: float = 1.5,
    ) -> None:
        mean, std = (
            for_channels(each, in_channels) for each in (image_mean or nn.IMAGENET_MEAN, image_std or nn.IMAGENET_STD)
        )
        super().__init__(
            nn.DetectionInput(min_size, max_size, mean, std),
            backbone or resnet50_pyramid(in_channels, frozen=True, p6_of_level=True),
            nn.AnchorGenerator(tuple((stride,) for stride in self.strides), (1.0,)),
            Head(num_classes),
            num_classes,
            score_thresh,
            nms_thresh,
            detections_per_img,
            topk_candidates,
        )
        self.center_sampling_radius = center_sampling_radius

    def losses(self, outputs: Outputs, levels: list[Tensor], targets: Sequence[nn.Target]) -> dict[str, Tensor]:
        logits = outputs["cls_logits"]
        matches = torch.stack([match(target["boxes"], levels, self.center_sampling_radius) for target in targets])
        image, position = (matches != nn.BACKGROUND).nonzero(as_tuple=True)
        count = max(1, len(position))
        wanted = torch.cat([t["boxes"][m[m != nn.BACKGROUND]] for t, m in zip(targets, matches, strict=True)])
        labels = torch.cat([t["labels"][m[m != nn.BACKGROUND]] for t, m in zip(targets, matches, strict=True)])
        truth = torch.zeros_like(logits)
        truth[image, position, labels] = 1
        squares = torch.cat(levels)[position]
        boxes = boxes_at(outputs["bbox_regression"][image, position], squares)
        near = centreness(distances(squares, wanted))
        losses = {
            "classification": ops.sigmoid_focal_loss(logits, truth, reduction="sum"),
            "bbox_regression": ops.generalized_box_iou_loss(boxes, wanted, reduction="sum"),
            "bbox_ctrness": F.binary_cross_entropy_with_logits(
                outputs["bbox_ctrness"][image, position, 0], near, reduction="sum"
            ),
        }
        return {name: loss / count for name, loss in losses.items()}

    def decoded(self, outputs: Outputs, levels: list[Tensor]) -> Tensor:
        return boxes_at(outputs["bbox_regression"], torch.cat(levels))

    def candidates(self, outputs: Outputs, levels: list[Tensor]) -> Candidates:
        scores = (outputs["cls_logits"].sigmoid() * outputs["bbox_ctrness"].sigmoid()).sqrt()
        return best_of_levels(scores, outputs["bbox_regression"], levels, boxes_at, self.topk_candidates)


register(
    FCOS,
    "fcos_resnet50_fpn",
    "FCOS on ResNet-50; 32,269,600 parameters, 800x1333 images.",
    task="detection",
)
