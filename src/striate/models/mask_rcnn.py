"""Mask R-CNN on feature pyramids: Faster R-CNN that also draws the mask of each object.

Sources: He, Gkioxari, Dollar & Girshick, "Mask R-CNN" (2017), section 3 and figure 4 (right); the normalised heads of
``_v2`` Li et al., "Benchmarking detection transfer learning with vision transformers" (2021), section 3. Names of
parameters, results and losses are torchvision's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from striate import nn, ops
from striate.models.faster_rcnn import FasterRCNN, box_parts, resnet50_pyramid
from striate.models.initialisation import kaiming_fan_out
from striate.models.registry import register
from striate.models.two_stage import RoIHeads, Samples, zero_of
from striate.nn.detection_rows import paste_together
from striate.nn.pyramid import PyramidBackbone

#: Positions along the sides of a region; its mask has twice as many.
REGION: Final = 14


class MaskHead(torch.nn.Sequential):
    """Four 3x3 convolutions, rectified, that keep the shape (R, C, h, w).

    Args:
        channels: C.
        norm: after every convolution; None for none, where they have a bias.
    """

    def __init__(self, channels: int, norm: type[torch.nn.BatchNorm2d] | None = None) -> None:
        super().__init__(*(nn.ConvNormActivation(channels, channels, 3, norm=norm) for _ in range(4)))
        kaiming_fan_out(self)


class MaskPredictor(torch.nn.Module):
    """A mask for each class from features of a region, logits: (R, C, h, w) to (R, K, 2h, 2w)."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv5_mask = nn.ConvTranspose2d(channels, channels, 2, 2)
        self.mask_fcn_logits = nn.Conv2d(channels, num_classes, 1)
        for layer in (self.conv5_mask, self.mask_fcn_logits):
            torch.nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, regions: Tensor) -> Tensor:
        logits: Tensor = self.mask_fcn_logits(self.conv5_mask(regions).relu())
        return logits


class MaskRoIHeads(RoIHeads):
    """A class, a better box and a mask for each proposal.

    Args:
        box_roi_pool, box_head, box_predictor, settings: as in :class:`RoIHeads`.
        mask_roi_pool: resamples the maps within boxes.
        mask_head, mask_predictor: from its output to logits of masks (R, K, h, w).
    """

    def __init__(
        self,
        box_roi_pool: torch.nn.Module,
        box_head: torch.nn.Module,
        box_predictor: torch.nn.Module,
        mask_roi_pool: torch.nn.Module,
        mask_head: torch.nn.Module,
        mask_predictor: torch.nn.Module,
        **settings: Any,
    ) -> None:
        super().__init__(box_roi_pool, box_head, box_predictor, **settings)
        self.mask_roi_pool = mask_roi_pool
        self.mask_head = mask_head
        self.mask_predictor = mask_predictor

    def losses(
        self, features: Mapping[str, Tensor], samples: Sequence[Samples], targets: Sequence[nn.Target]
    ) -> dict[str, Tensor]:
        losses = super().losses(features, samples, targets)
        objects = [image.labels > 0 for image in samples]
        boxes = [image.boxes[chosen] for image, chosen in zip(samples, objects, strict=True)]
        labels = torch.cat([image.labels[chosen] for image, chosen in zip(samples, objects, strict=True)])
        if len(labels) == 0:
            return losses | {"loss_mask": zero_of(self.mask_head, self.mask_predictor)}
        logits = self._drawn(features, boxes, labels)
        matches = [image.matches[chosen] for image, chosen in zip(samples, objects, strict=True)]
        truth = [
            _within(target["masks"], *where, logits.shape[-1])
            for target, where in zip(targets, zip(matches, boxes, strict=True), strict=True)
        ]
        return losses | {"loss_mask": F.binary_cross_entropy_with_logits(logits, torch.cat(truth))}

    def detect(
        self, features: Mapping[str, Tensor], proposals: Sequence[Tensor], image_sizes: Sequence[tuple[int, int]]
    ) -> list[nn.Target]:
        """What :class:`RoIHeads` finds, and the ``masks`` (D, 1, h, w) within the boxes, probabilities."""
        found = super().detect(features, proposals, image_sizes)
        labels = torch.cat([result["labels"] for result in found])
        masks = self._drawn(features, [result["boxes"] for result in found], labels).sigmoid()[:, None]
        each = masks.split([len(result["labels"]) for result in found])
        return [result | {"masks": own} for result, own in zip(found, each, strict=True)]

    def detect_rows(
        self, features: Mapping[str, Tensor], regions: Tensor, size: tuple[int, int], count: int, *, suppress: bool
    ) -> dict[str, Tensor]:
        """What :class:`RoIHeads` finds, and the ``masks`` (D, 1, H, W) of those of which the surest are left."""
        found = super().detect_rows(features, regions, size, count, suppress=suppress)
        if not suppress:
            return found
        boxes = torch.cat([found["image"][:, None].to(found["boxes"]), found["boxes"]], 1)
        masks = self._of_class(self.mask_roi_pool.regions(features, boxes), found["labels"])  # type: ignore[operator]
        return found | {"masks": paste_together(masks.sigmoid()[:, None], found["boxes"], size)}

    def _drawn(self, features: Mapping[str, Tensor], boxes: Sequence[Tensor], labels: Tensor) -> Tensor:
        """The logits (R, h, w) of each box's mask, of the class that it has."""
        return self._of_class(self.mask_roi_pool(features, boxes), labels)

    def _of_class(self, pooled: Tensor, labels: Tensor) -> Tensor:
        masks = self.mask_predictor(self.mask_head(pooled))
        chosen: Tensor = masks[torch.arange(labels.shape[0], device=labels.device), labels]
        return chosen


def _within(masks: Tensor, matches: Tensor, boxes: Tensor, size: int) -> Tensor:
    """The part of an object's mask (M, H, W) that each box (R, 4) covers, resampled to (R, size, size)."""
    regions = torch.cat([matches[:, None].to(boxes), boxes], 1)
    return ops.roi_align(masks[:, None].to(boxes), regions, size)[:, 0]


class MaskRCNN(FasterRCNN):
    """:class:`FasterRCNN` with a mask for each object; targets and results have ``masks`` too."""

    head_keys = ("roi_heads.box_predictor", "roi_heads.mask_predictor.mask_fcn_logits")

    @property
    def has_masks(self) -> bool:
        return True

    def heads(self, backbone: PyramidBackbone, num_classes: int, deep: bool, **settings: Any) -> RoIHeads:
        channels = backbone.out_channels
        return MaskRoIHeads(
            *box_parts(backbone, num_classes, deep),
            nn.MultiScaleRoIAlign(backbone.body_strides, REGION),
            MaskHead(channels, torch.nn.BatchNorm2d if deep else None),
            MaskPredictor(channels, num_classes),
            **settings,
        )


def resnet50(num_classes: int = 91, in_channels: int = 3, *, deep: bool = False, **settings: Any) -> MaskRCNN:
    """Mask R-CNN on ResNet-50; ``settings`` as in :class:`FasterRCNN`."""
    backbone = resnet50_pyramid(in_channels, frozen=not deep)
    return MaskRCNN(backbone, num_classes, in_channels, deep=deep, **settings)


for _builder, _name, _words, _parameters in (
    (resnet50, "maskrcnn_resnet50_fpn", "ResNet-50", 44_401_393),
    (partial(resnet50, deep=True), "maskrcnn_resnet50_fpn_v2", "ResNet-50, deeper heads", 46_359_409),
):
    register(_builder, _name, f"Mask R-CNN on {_words}; {_parameters:,} parameters, 800x1333 images.", task="instance")
