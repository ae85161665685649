"""Region proposals: boxes that may hold an object of any class, found in one pass over a feature pyramid.

Source: Ren et al., "Faster R-CNN" (2015), section 3.1; on a pyramid Lin et al., "Feature pyramid networks for object
detection" (2017), section 4.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from striate import ops
from striate.nn.anchors import AnchorGenerator
from striate.nn.blocks import ConvNormActivation
from striate.nn.convolution import Conv2d
from striate.nn.detection_input import ImageBatch
from striate.nn.detection_rows import first_of_each
from striate.nn.detection_targets import Target
from striate.nn.matching import BETWEEN, SMALLEST_SIDE, BalancedSampler, BoxCoder, Matcher, matched

#: The difference at which the loss of boxes turns from squares to absolute values, as in the paper's own code.
SMOOTH: Final = 1 / 9


class ProposalHead(torch.nn.Module):
    """For each anchor how likely it holds an object, and how its box differs from the anchor.

    Args:
        channels: C of the maps (N, C, h, w), which are of any size.
        anchors: A at each position.
        depth: 3x3 convolutions before the two 1x1 convolutions.
    """

    def __init__(self, channels: int, anchors: int, depth: int = 1) -> None:
        super().__init__()
        self.conv = torch.nn.Sequential(*(ConvNormActivation(channels, channels, 3, norm=None) for _ in range(depth)))
        self.cls_logits = Conv2d(channels, anchors, 1)
        self.bbox_pred = Conv2d(channels, 4 * anchors, 1)
        for layer in self.modules():
            if isinstance(layer, torch.nn.Conv2d):
                torch.nn.init.normal_(layer.weight, std=0.01)
                if layer.bias is not None:
                    torch.nn.init.zeros_(layer.bias)

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, h * w * A) and differences (N, h * w * A, 4), in the order of the anchors."""
        inner = self.conv(maps)
        logits: Tensor = self.cls_logits(inner).permute(0, 2, 3, 1).flatten(1)
        codes: Tensor = self.bbox_pred(inner).permute(0, 2, 3, 1)
        return logits, codes.reshape(maps.shape[0], -1, 4)


class RegionProposalNetwork(torch.nn.Module):
    """Proposes the boxes of each image that look most like objects, and computes the losses from which it learns.

    It can be called by itself: ``network.rpn(batch, network.backbone(batch.tensors))``.

    Args:
        anchor_generator: of all levels; each has the same number of anchors at a position.
        head: gives logits and differences for one level, as :class:`ProposalHead` does.
        pre_nms_top_n_train, pre_nms_top_n_test: number of likeliest anchors of each level before suppression.
        post_nms_top_n_train, post_nms_top_n_test: largest number of proposals of an image.
        nms_thresh: if two proposals of a level overlap more than this, the less likely one is dropped.
        fg_iou_thresh, bg_iou_thresh: an anchor whose overlap with an object is at least the first counts as an object;
            below the second it counts as background.
        batch_size_per_image, positive_fraction: anchors of an image that the loss samples; see
            :class:`BalancedSampler`.
        score_thresh: proposals that are less likely are dropped.
    """

    def __init__(
        self,
        anchor_generator: AnchorGenerator,
        head: torch.nn.Module,
        *,
        pre_nms_top_n_train: int = 2000,
        pre_nms_top_n_test: int = 1000,
        post_nms_top_n_train: int = 2000,
        post_nms_top_n_test: int = 1000,
        nms_thresh: float = 0.7,
        fg_iou_thresh: float = 0.7,
        bg_iou_thresh: float = 0.3,
        batch_size_per_image: int = 256,
        positive_fraction: float = 0.5,
        score_thresh: float = 0.0,
    ) -> None:
        super().__init__()
        self.anchor_generator = anchor_generator
        self.head = head
        self.box_coder = BoxCoder()
        self.matcher = Matcher(fg_iou_thresh, bg_iou_thresh, low_quality=True)
        self.sampler = BalancedSampler(batch_size_per_image, positive_fraction)
        self.pre_nms_top_n = {True: pre_nms_top_n_train, False: pre_nms_top_n_test}
        self.post_nms_top_n = {True: post_nms_top_n_train, False: post_nms_top_n_test}
        self.nms_thresh = nms_thresh
        self.score_thresh = score_thresh

    def forward(
        self, batch: ImageBatch, features: Mapping[str, Tensor], targets: Sequence[Target] | None = None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """For each image its proposals (R, 4), the likeliest first, in pixels of the batch; in training the losses.

        Args:
            batch: the images.
            features: one map (N, C, h, w) for each level, the finest first.
            targets: for each image ``boxes`` (M, 4) in pixels of the batch; needed in training.
        """
        logits, codes, anchors = self._said(batch, features)
        each = zip(*self._likeliest(logits, codes, anchors), batch.image_sizes, strict=True)
        proposals = [self._kept(*image) for image in each]
        if not self.training or targets is None:
            return proposals, {}
        return proposals, self._losses(torch.cat(logits, 1), torch.cat(codes, 1), torch.cat(anchors), targets)

    def regions(self, batch: ImageBatch, features: Mapping[str, Tensor]) -> Tensor:
        """The proposals of all images, which are of one size, as rows of the image and its box, (R, 5)."""
        boxes, scores, levels = self._likeliest(*self._said(batch, features))
        boxes = ops.clip_boxes(boxes, batch.image_sizes[0])
        images, places = self._chosen(boxes, scores).nonzero(as_tuple=True)
        boxes, scores, levels = (each[images, places] for each in (boxes, scores, levels))
        kept = ops.batched_nms(boxes, scores, images * len(features) + levels, self.nms_thresh)
        images, rows = first_of_each(images[kept], batch.tensors.shape[0], self.post_nms_top_n[self.training])
        return torch.cat([images[:, None].to(boxes), boxes[kept[rows]]], 1)

    def _said(
        self, batch: ImageBatch, features: Mapping[str, Tensor]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Logits (N, A) and differences (N, A, 4) of the anchors (A, 4) of each level."""
        maps = list(features.values())
        outputs = [self.head(level) for level in maps]
        anchors = self.anchor_generator(batch.size, maps)
        return [level for level, _ in outputs], [level for _, level in outputs], anchors

    @torch.no_grad()
    def _likeliest(
        self, logits: list[Tensor], codes: list[Tensor], anchors: list[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (N, M, 4), scores and levels (N, M) of each level's likeliest anchors."""
        boxes, likely, levels = [], [], []
        for level, (scores, differences, places) in enumerate(zip(logits, codes, anchors, strict=True)):
            top = scores.topk(min(self.pre_nms_top_n[self.training], scores.shape[1]), dim=1)
            chosen = differences.gather(1, top.indices[..., None].expand(-1, -1, 4))
            boxes.append(self.box_coder.decode(chosen, places[top.indices]))
            likely.append(top.values.sigmoid())
            levels.append(torch.full_like(top.indices, level))
        return torch.cat(boxes, 1), torch.cat(likely, 1), torch.cat(levels, 1)

    @torch.no_grad()
    def _kept(self, boxes: Tensor, scores: Tensor, levels: Tensor, size: tuple[int, int]) -> Tensor:
        """The proposals of one image."""
        boxes = ops.clip_boxes(boxes, size)
        chosen = self._chosen(boxes, scores).nonzero().flatten()
        kept = ops.batched_nms(boxes[chosen], scores[chosen], levels[chosen], self.nms_thresh)
        return boxes[chosen[kept[: self.post_nms_top_n[self.training]]]]

    def _chosen(self, boxes: Tensor, scores: Tensor) -> Tensor:
        """Which boxes (..., 4) are wide and likely (...) enough."""
        wide = ((boxes[..., 2:] - boxes[..., :2]) >= SMALLEST_SIDE).all(-1)
        return wide & (scores >= self.score_thresh)

    def _losses(self, logits: Tensor, codes: Tensor, anchors: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Of (N, A) logits and (N, A, 4) differences from the anchors (A, 4)."""
        objectness, distance, count = logits.new_zeros(()), logits.new_zeros(()), 0
        for scores, differences, target in zip(logits, codes, targets, strict=True):
            matches = self.matcher(ops.box_iou(target["boxes"], anchors))
            labels = torch.where(matches == BETWEEN, -1, (matches >= 0).long())
            positive, negative = self.sampler(labels)
            truth = matched(target["boxes"], matches[positive])
            wanted = self.box_coder.encode(truth, anchors[positive])
            distance = distance + F.smooth_l1_loss(differences[positive], wanted, reduction="sum", beta=SMOOTH)
            drawn = torch.cat([positive, negative])
            is_object = labels[drawn].to(scores.dtype)
            objectness = objectness + F.binary_cross_entropy_with_logits(scores[drawn], is_object, reduction="sum")
            count += len(drawn)
        # If no anchor was drawn, both sums are 0.
        return {"loss_objectness": objectness / max(count, 1), "loss_rpn_box_reg": distance / max(count, 1)}
