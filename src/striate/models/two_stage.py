"""The base of two-stage detectors: proposals first, then a class and a better box for each of them.

Sources: Girshick, "Fast R-CNN" (2015), section 2 (heads, their loss and what they learn from); Ren et al., "Faster
R-CNN" (2015), figure 2 (proposals from the same maps).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from striate import nn, ops
from striate.errors import ModelError
from striate.models.dense import layer_giving
from striate.models.older_weights import renew_on_loading
from striate.nn.detection_rows import first_of_each
from striate.nn.proposals import SMOOTH

#: Detections with a smaller side are dropped, pixels of the batch.
NARROWEST: Final = 1e-2


@dataclass(frozen=True)
class Samples:
    """Training targets of the heads for one image.

    Args:
        boxes: the proposals that were drawn, (S, 4).
        matches: the object that each stands for, :data:`BACKGROUND` for none, int64 (S,).
        labels: its class, 0 for background, int64 (S,).
        codes: the difference of the object's box from the proposal, (S, 4); without meaning for background.
    """

    boxes: Tensor
    matches: Tensor
    labels: Tensor
    codes: Tensor


class RoIHeads(torch.nn.Module):
    """A class and a better box for each proposal.

    Args:
        box_roi_pool: resamples the maps within boxes, as :class:`striate.nn.MultiScaleRoIAlign` does.
        box_head: from its output to features (R, F).
        box_predictor: from these to class logits (R, K) and differences of boxes (R, 4K).
        fg_iou_thresh: proposals that overlap an object at least this much are matched with it.
        bg_iou_thresh: proposals that overlap every object less than this are background.
        batch_size_per_image, positive_fraction: proposals of an image that the loss samples; see
            :class:`striate.nn.BalancedSampler`.
        reg_weights: of differences of boxes, see :class:`striate.nn.BoxCoder`.
        score_thresh: detections have a higher score than this.
        nms_thresh: if two detections of a class overlap more than this, the one with the lower score is dropped.
        detections_per_img: largest number of detections of an image.
    """

    def __init__(
        self,
        box_roi_pool: torch.nn.Module,
        box_head: torch.nn.Module,
        box_predictor: torch.nn.Module,
        *,
        fg_iou_thresh: float = 0.5,
        bg_iou_thresh: float = 0.5,
        batch_size_per_image: int = 512,
        positive_fraction: float = 0.25,
        reg_weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0),
        score_thresh: float = 0.05,
        nms_thresh: float = 0.5,
        detections_per_img: int = 100,
    ) -> None:
        super().__init__()
        self.box_roi_pool = box_roi_pool
        self.box_head = box_head
        self.box_predictor = box_predictor
        self.matcher = nn.Matcher(fg_iou_thresh, bg_iou_thresh)
        self.sampler = nn.BalancedSampler(batch_size_per_image, positive_fraction)
        self.box_coder = nn.BoxCoder(reg_weights)
        self.score_thresh = score_thresh
        self.nms_thresh = nms_thresh
        self.detections_per_img = detections_per_img

    def forward(
        self,
        features: Mapping[str, Tensor],
        proposals: Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]],
        targets: Sequence[nn.Target] | None = None,
    ) -> tuple[list[nn.Target], dict[str, Tensor]]:
        """Detections of each image in evaluation, losses in training; the other is empty.

        Args:
            features: maps by name.
            proposals: for each image (R, 4), pixels of the batch.
            image_sizes: (H, W) of each image in the batch, without padding.
            targets: the targets of each image, in pixels of the batch; needed in training.
        """
        if self.training and targets is not None:
            samples = [self.sample(boxes, target) for boxes, target in zip(proposals, targets, strict=True)]
            return [], self.losses(features, samples, targets)
        return self.detect(features, proposals, image_sizes), {}

    @torch.no_grad()
    def sample(self, proposals: Tensor, target: nn.Target) -> Samples:
        """The training targets of one image. The boxes of its objects are proposals too."""
        truth = target["boxes"]
        boxes = torch.cat([proposals, truth])
        matches = self.matcher(ops.box_iou(truth, boxes))
        labels = nn.matched(target["labels"], matches).masked_fill(matches == nn.BETWEEN, -1)
        drawn = torch.cat(self.sampler(labels)).sort().values
        boxes, matches = boxes[drawn], matches[drawn]
        return Samples(boxes, matches, labels[drawn], self.box_coder.encode(nn.matched(truth, matches), boxes))

    def losses(
        self, features: Mapping[str, Tensor], samples: Sequence[Samples], targets: Sequence[nn.Target]
    ) -> dict[str, Tensor]:
        """The losses by name, scalars."""
        labels = torch.cat([image.labels for image in samples])
        if len(labels) == 0:
            nothing = zero_of(self.box_head, self.box_predictor)
            return {"loss_classifier": nothing, "loss_box_reg": nothing}
        logits, codes = self._predicted(features, [image.boxes for image in samples])
        objects = (labels > 0).nonzero().flatten()
        wanted = torch.cat([image.codes for image in samples])[objects]
        distance = F.smooth_l1_loss(codes[objects, labels[objects]], wanted, reduction="sum", beta=SMOOTH)
        return {"loss_classifier": F.cross_entropy(logits, labels), "loss_box_reg": distance / len(labels)}

    def detect(
        self, features: Mapping[str, Tensor], proposals: Sequence[Tensor], image_sizes: Sequence[tuple[int, int]]
    ) -> list[nn.Target]:
        """For each image ``boxes`` (D, 4) in pixels of the batch, ``labels`` and ``scores`` (D,), the surest first."""
        logits, codes = self._predicted(features, proposals)
        counts = [len(boxes) for boxes in proposals]
        each = zip(proposals, logits.softmax(1).split(counts), codes.split(counts), image_sizes, strict=True)
        return [self._detected(*image) for image in each]

    def detect_rows(
        self, features: Mapping[str, Tensor], regions: Tensor, size: tuple[int, int], count: int, *, suppress: bool
    ) -> dict[str, Tensor]:
        """What :meth:`detect` finds in images of one size, as rows of all of them.

        Args:
            features: maps by name.
            regions: the proposals, image and box, (R, 5).
            size: (H, W) of the images, without padding.
            count: of images.
            suppress: whether of detections that overlap the surest is left.

        Returns:
            As for one image, and ``image`` int64 (D,), from 0, which image a row belongs to.
        """
        logits, codes = self._said(self.box_roi_pool.regions(features, regions))  # type: ignore[operator]
        places, boxes, labels, scores = self._likely(regions[:, 1:], logits.softmax(1), codes, size)
        images = regions[places, 0].long()
        if suppress:
            kept = ops.batched_nms(boxes, scores, images * logits.shape[1] + labels, self.nms_thresh)
            images, rows = first_of_each(images[kept], count, self.detections_per_img)
            boxes, labels, scores = (each[kept[rows]] for each in (boxes, labels, scores))
        return {"image": images, "boxes": boxes, "labels": labels, "scores": scores}

    def _predicted(self, features: Mapping[str, Tensor], boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Class logits (R, K) and differences of boxes (R, K, 4) for the boxes of all images."""
        return self._said(self.box_roi_pool(features, boxes))

    def _said(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        logits, codes = self.box_predictor(self.box_head(pooled))
        return logits, codes.reshape(*logits.shape, 4)

    def _detected(self, proposals: Tensor, scores: Tensor, codes: Tensor, size: tuple[int, int]) -> nn.Target:
        _, boxes, labels, scores = self._likely(proposals, scores, codes, size)
        kept = ops.batched_nms(boxes, scores, labels, self.nms_thresh)[: self.detections_per_img]
        return {"boxes": boxes[kept], "labels": labels[kept], "scores": scores[kept]}

    def _likely(
        self, proposals: Tensor, scores: Tensor, codes: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Detections that are sure enough and not too narrow: their proposals, boxes, labels and scores."""
        places, labels = (scores[:, 1:] > self.score_thresh).nonzero(as_tuple=True)
        labels = labels + 1
        boxes = ops.clip_boxes(self.box_coder.decode(codes[places, labels], proposals[places]), size)
        wide = ops.remove_small_boxes(boxes, NARROWEST)
        places, labels = places[wide], labels[wide]
        return places, boxes[wide], labels, scores[places, labels]


def zero_of(*modules: torch.nn.Module) -> Tensor:
    """A loss of 0 that depends on every parameter, so that processes that train together have the same gradients."""
    return sum((each.sum() * 0 for module in modules for each in module.parameters()), torch.zeros(()))


class TwoStageDetector(torch.nn.Module):
    """Images to feature maps, maps to proposals, proposals to detections.

    Args:
        backbone: from a batch (N, C, H, W) to maps by name, the finest first.
        rpn: makes proposals of them.
        roi_heads: makes detections of both.
        transform: on the way in and out.
        num_classes: K, with the background, which is class 0.
        strides: of the maps.

    Attributes:
        input_size: (H, W) of a nominal image.
        stages: the names of the parts in the order in which they compute.
        head_keys: keys of the layers that depend on the classes; they are new if the classes differ.
    """

    stages = ("backbone.body", "backbone.fpn", "rpn", "roi_heads")
    #: The parts that :func:`striate.accelerate` computes; the rest depends on the number of objects.
    dense = ("backbone", "rpn.head")
    head_keys: tuple[str, ...] = ("roi_heads.box_predictor",)
    #: Of the sides of images in exported files: what they are multiples of, and the least of them, pixels.
    export_sizes = (32, 128)

    def __init__(
        self,
        backbone: torch.nn.Module,
        rpn: nn.RegionProposalNetwork,
        roi_heads: RoIHeads,
        transform: nn.DetectionInput,
        num_classes: int,
        strides: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.transform = transform
        self.backbone = backbone
        self.rpn = rpn
        self.roi_heads = roi_heads
        self.num_classes = num_classes
        self.strides = strides
        renew_on_loading(self)
        self.input_size = (transform.min_size[-1], transform.max_size)

    @property
    def has_masks(self) -> bool:
        """Whether the network predicts masks of objects, and trains with masks."""
        return False

    @property
    def suppression(self) -> dict[str, float]:
        """The limits by which detections that overlap a better one of their class are dropped."""
        heads = self.roi_heads
        return {
            "score_threshold": heads.score_thresh,
            "iou_threshold": heads.nms_thresh,
            "detections": heads.detections_per_img,
        }

    def resize(self, size: tuple[int, int]) -> None:
        """Has pictures scaled to about (H, W), see :meth:`striate.nn.DetectionInput.resize`."""
        self.transform.resize(size)
        self.input_size = size

    def dense_maps(self, batch: Tensor) -> object:
        """What the proposals' head says of all positions, of a batch (N, C, H, W) as it is. What is done with each
        proposal costs in proportion to how many there are, and isn't in it."""
        return [self.rpn.head(level) for level in self.backbone(batch).values()]

    def class_scores(self, images: Tensor) -> Tensor:
        """The logit of each class for the proposal that is surest of it, (N, C, H, W) from 0 to 1 to (N, K - 1).

        Raises:
            ModelError: an image without proposals.
        """
        batch, _ = self.transform(list(images))
        features = self.backbone(batch.tensors)
        proposals, _ = self.rpn(batch, features)
        if not all(len(each) for each in proposals):
            raise ModelError(type(self).__name__, "proposes nothing on an image", "needed a proposal to score")
        logits, _ = self.roi_heads._predicted(features, proposals)
        each = logits.split([len(boxes) for boxes in proposals])
        return torch.stack([rows.amax(0) for rows in each])[:, 1:]

    def place_of(self, image: Tensor, box: Tensor, label: int) -> Tensor:
        """The place that predicts a box (4,) on an image (C, H, W): the box itself, as fractions of the image, (4,)."""
        height, width = image.shape[1:]
        return box / box.new_tensor([width, height, width, height])

    def layer_of(self, image: Tensor, place: Tensor) -> str | None:
        """The path of the layer whose map on an image (C, H, W) is resampled within a box, given as :meth:`place_of`
        gives it; None if that map is no layer's output. What is computed afterwards has no places on the image."""
        batch, _ = self.transform([image])
        height, width = batch.image_sizes[0]
        pool: Any = self.roi_heads.box_roi_pool
        level = int(pool.levels(place[None] * place.new_tensor([width, height] * 2))[0])
        return layer_giving(self.backbone, "backbone", batch.tensors, lambda maps: maps[list(pool.strides)[level]])

    def scores_at(self, images: Tensor, place: Tensor) -> Tensor:
        """The logits of all classes for one box on all images, (N, C, H, W) from 0 to 1 to (N, K - 1)."""
        batch, _ = self.transform(list(images))
        boxes = [place[None] * place.new_tensor([width, height] * 2) for height, width in batch.image_sizes]
        logits, _ = self.roi_heads._predicted(self.backbone(batch.tensors), boxes)
        return logits[:, 1:]

    def detect_batch(self, images: Tensor, *, suppress: bool = True) -> dict[str, Tensor]:
        """What is found in images of one size, (N, C, H, W) from 0 to 1, which :attr:`transform` doesn't scale: what
        files for other programs hold.

        Args:
            images: of any size.
            suppress: whether of detections that overlap the surest is left. Of proposals it is left in any case.

        Returns:
            As :meth:`forward`, the rows of all images one after the other, and ``image`` int64 (D,), from 0, which
            image a row belongs to.
        """
        size = (images.shape[2], images.shape[3])
        batch = self.transform.unscaled(images)
        features = self.backbone(batch.tensors)
        regions = self.rpn.regions(batch, features)
        return self.roi_heads.detect_rows(features, regions, size, images.shape[0], suppress=suppress)

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[nn.Target] | None = None
    ) -> dict[str, Tensor] | list[nn.Target]:
        """In evaluation the detections of each image, in training the losses.

        Args:
            images: (C, H, W) of any sizes, floating point, from 0 to 1.
            targets: in training for each image ``boxes`` (M, 4), ``x0 y0 x1 y1`` in pixels of the image, and
                ``labels`` (M,), int64 from 1; M may be 0.

        Returns:
            In evaluation for each image a dict of ``boxes`` (D, 4) in its pixels, ``labels`` (D,) from 1, and
            ``scores`` (D,), the surest first. In training scalars by name.

        Raises:
            ModelError: images or targets that can't be; see :func:`striate.nn.check_targets`.
        """
        if self.training:
            nn.check_targets(targets, images, self.num_classes, masks=self.has_masks)
        batch, known = self.transform(images, targets if self.training else None)
        features = self.backbone(batch.tensors)
        proposals, losses = self.rpn(batch, features, known)
        found, more = self.roi_heads(features, proposals, batch.image_sizes, known)
        if self.training:
            return {**more, **losses}
        return self.transform.results(found, batch, [(image.shape[-2], image.shape[-1]) for image in images])
