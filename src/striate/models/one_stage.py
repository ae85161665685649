"""The base of one-stage detectors: predictions at reference boxes all over the image, and losses or detections.

The order of computation is torchvision's, so that the same weights give the same results.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor

from striate import nn, ops
from striate.models.dense import layer_giving
from striate.models.older_weights import renew_on_loading
from striate.models.resnet import ResNet
from striate.nn.detection_rows import first_of_each, stretched

#: Channels of the levels of a pyramid, and the pixels between their positions (Lin et al., "Focal loss for dense object
#: detection" (2017), section 4, "Feature Pyramid Network Backbone").
LEVEL_CHANNELS: Final = 256
LEVEL_STRIDES: Final = (8, 16, 32, 64, 128)

#: A head's predictions at every reference box: from names to (N, A, numbers).
Outputs = dict[str, Tensor]
#: From a batch's (H, W) and its maps to each level's reference boxes (A_l, 4), pixels of the batch.
References = Callable[[tuple[int, int], Sequence[Tensor]], list[Tensor]]
#: Boxes (N, M, 4), scores (N, M) and labels (N, M), in no order.
Candidates = tuple[Tensor, Tensor, Tensor]


class OneStageDetector(torch.nn.Module):
    """A backbone that gives maps of several sizes, and a head that predicts the same numbers at all their positions.

    Args:
        transform: makes a batch of images, and brings results back to them.
        backbone: from a batch (N, C, H, W) to maps by name, the finest first.
        anchor_generator: gives each level's reference boxes.
        head: from the maps to :data:`Outputs`, levels one after the other.
        num_classes: K, with the background, which is class 0.
        score_thresh: boxes need a higher score than this.
        nms_thresh: the overlap above which the worse of two boxes of a class is dropped.
        detections_per_img: largest number of boxes of an image.
        topk_candidates: largest number of boxes of a level or a class before suppression.
    """

    #: The names of the parts in the order in which they compute.
    stages: tuple[str, ...]
    #: The parts that are convolutions alone, which an engine can compute.
    dense = ("backbone", "head")
    #: Of the sides of images in exported files: what they are multiples of, and the least of them, pixels. Maps of one
    #: position are another matter to an exporter than larger ones.
    export_sizes = (32, 2 * max(LEVEL_STRIDES))
    #: Keys of the layers that depend on the classes; they are new if the classes differ.
    head_keys: tuple[str, ...]
    #: Pixels between the positions of each level.
    strides: tuple[int, ...]

    def __init__(
        self,
        transform: nn.DetectionInput,
        backbone: torch.nn.Module,
        anchor_generator: References,
        head: torch.nn.Module,
        num_classes: int,
        score_thresh: float,
        nms_thresh: float,
        detections_per_img: int,
        topk_candidates: int,
    ) -> None:
        super().__init__()
        self.transform = transform
        self.backbone = backbone
        self.anchor_generator = anchor_generator
        self.head = head
        self.num_classes = num_classes
        self.score_thresh = score_thresh
        self.nms_thresh = nms_thresh
        self.detections_per_img = detections_per_img
        self.topk_candidates = topk_candidates
        renew_on_loading(self)
        #: (H, W) of a nominal image.
        self.input_size = transform.fixed_size or (transform.min_size[-1], transform.max_size)

    @property
    def suppression(self) -> dict[str, float]:
        """The limits by which boxes that overlap a better box of their class are dropped."""
        return {
            "score_threshold": self.score_thresh,
            "iou_threshold": self.nms_thresh,
            "detections": self.detections_per_img,
        }

    def resize(self, size: tuple[int, int]) -> None:
        """Has pictures scaled to about (H, W), see :meth:`striate.nn.DetectionInput.resize`."""
        self.transform.resize(size)
        self.input_size = size

    def dense_maps(self, batch: Tensor) -> object:
        """The head's predictions at all positions, for a batch (N, C, H, W) without resizing."""
        return self.head(list(self.backbone(batch).values()))

    def class_scores(self, images: Tensor) -> Tensor:
        """The logit of each class at the place that is surest of it, (N, C, H, W) from 0 to 1 to (N, K - 1)."""
        batch, _ = self.transform(list(images))
        logits: Tensor = self.head(list(self.backbone(batch.tensors).values()))["cls_logits"]
        return logits.amax(1)[:, 1:]

    def place_of(self, image: Tensor, box: Tensor, label: int) -> int:
        """The reference box that predicts a box (4,) of a class on an image (C, H, W)."""
        batch, _ = self.transform([image])
        maps = list(self.backbone(batch.tensors).values())
        outputs: Outputs = self.head(maps)
        boxes = self.decoded(outputs, self.anchor_generator(batch.size, maps))[0]
        wanted = nn.resize_boxes(box[None], (image.shape[-2], image.shape[-1]), batch.image_sizes[0])
        likeness = ops.box_iou(wanted, boxes)[0] * outputs["cls_logits"][0, :, label].sigmoid()
        return int(likeness.argmax())

    def layer_of(self, image: Tensor, place: int) -> str | None:
        """The path of the layer whose map on an image (C, H, W) the reference box belongs to; None if that map is no
        layer's output."""
        batch, _ = self.transform([image])
        maps = list(self.backbone(batch.tensors).values())
        ends = torch.tensor([len(level) for level in self.anchor_generator(batch.size, maps)]).cumsum(0)
        level = int((place >= ends).sum())
        return layer_giving(self.backbone, "backbone", batch.tensors, lambda maps: list(maps.values())[level])

    def scores_at(self, images: Tensor, place: int) -> Tensor:
        """The logits of all classes at one reference box, (N, C, H, W) from 0 to 1 to (N, K - 1)."""
        batch, _ = self.transform(list(images))
        logits: Tensor = self.head(list(self.backbone(batch.tensors).values()))["cls_logits"]
        return logits[:, place, 1:]

    def decoded(self, outputs: Outputs, levels: list[Tensor]) -> Tensor:
        """The boxes (N, A, 4) that the head predicts at the reference boxes."""
        raise NotImplementedError

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[nn.Target] | None = None
    ) -> dict[str, Tensor] | list[nn.Target]:
        """Losses in training; in evaluation the objects that were found.

        Args:
            images: (C, H, W) each, of any sizes, from 0 to 1.
            targets: in training, for each image ``boxes`` (M, 4) x0 y0 x1 y1 in pixels and ``labels`` (M,) int64 from
                1 to K - 1. M may be 0.

        Returns:
            in training the losses by name, a number each; in evaluation for each image ``boxes`` (M, 4), ``scores``
            (M,) from 0 to 1 and ``labels`` (M,), the best score first.

        Raises:
            ModelError: images or targets of another form; boxes without area, outside of their image or not finite;
                labels out of range.
        """
        if self.training:
            nn.check_images(images, len(self.transform.image_mean))
            nn.check_targets(targets, images, self.num_classes)
        batch, moved = self.transform(images, targets if self.training else None)
        maps = list(self.backbone(batch.tensors).values())
        outputs: Outputs = self.head(maps)
        levels = self.anchor_generator(batch.size, maps)
        if self.training:
            return self.losses(outputs, levels, moved)
        each = zip(*self.candidates(outputs, levels), batch.image_sizes, strict=True)
        found = [self._best(*image) for image in each]
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        results: list[nn.Target] = self.transform.results(found, batch, sizes)
        return results

    def losses(self, outputs: Outputs, levels: list[Tensor], targets: Sequence[nn.Target]) -> dict[str, Tensor]:
        """The losses by name.

        Args:
            outputs: of the head.
            levels: the reference boxes of each level.
            targets: for each image ``boxes`` in pixels of the batch and ``labels``.
        """
        raise NotImplementedError

    def candidates(self, outputs: Outputs, levels: list[Tensor]) -> Candidates:
        """The likeliest boxes of each image, :attr:`topk_candidates` of each group, without a threshold.

        Their number depends on shapes alone, so that exported files can compute the same.

        Args:
            outputs: of the head.
            levels: the reference boxes of each level.
        """
        raise NotImplementedError

    def detect_batch(self, images: Tensor, *, suppress: bool = True) -> dict[str, Tensor]:
        """What is found in images of one size, (N, C, H, W) from 0 to 1, which are not scaled by :attr:`transform`
        unless all of its images have one size: what files for other programs hold.

        Args:
            images: of any size.
            suppress: whether to keep only the best of boxes that overlap.

        Returns:
            As :meth:`forward`, the rows of all images one after the other, and ``image`` int64 (D,), from 0, which
            image a row belongs to. Without ``suppress`` the :data:`Candidates` by name, those at or below
            :attr:`score_thresh` among them.
        """
        size = (images.shape[2], images.shape[3])
        batch = self.transform.unscaled(images)
        maps = list(self.backbone(batch.tensors).values())
        boxes, scores, labels = self.candidates(self.head(maps), self.anchor_generator(batch.size, maps))
        boxes = ops.clip_boxes(boxes, batch.image_sizes[0])
        if self.transform.fixed_size is not None:
            boxes = stretched(boxes, self.transform.fixed_size, size)
        if not suppress:
            return {"boxes": boxes, "labels": labels, "scores": scores}
        at = (scores > self.score_thresh).nonzero(as_tuple=True)
        boxes, labels, scores = boxes[at], labels[at], scores[at]
        kept = ops.batched_nms(boxes, scores, at[0] * self.num_classes + labels, self.nms_thresh)
        pictures, rows = first_of_each(at[0][kept], images.shape[0], self.detections_per_img)
        kept = kept[rows]
        return {"image": pictures, "boxes": boxes[kept], "labels": labels[kept], "scores": scores[kept]}

    def _best(self, boxes: Tensor, scores: Tensor, labels: Tensor, size: tuple[int, int]) -> nn.Target:
        """The candidates on an image of ``size`` (H, W) that remain after suppression within each class."""
        likely = scores > self.score_thresh
        boxes, scores, labels = ops.clip_boxes(boxes[likely], size), scores[likely], labels[likely]
        kept = ops.batched_nms(boxes, scores, labels, self.nms_thresh)[: self.detections_per_img]
        return {"boxes": boxes[kept], "scores": scores[kept], "labels": labels[kept]}


def resnet50_pyramid(in_channels: int, *, frozen: bool, p6_of_level: bool) -> nn.PyramidBackbone:
    """ResNet-50's last three stages in a pyramid of five levels, P3 to P7.

    Args:
        in_channels: of the images.
        frozen: whether training leaves batch normalisation unchanged.
        p6_of_level: whether P6 is computed from the level P5; else from the last stage's map.
    """
    network = ResNet(nn.Bottleneck, (3, 4, 6, 3), in_channels=in_channels)
    if frozen:
        nn.freeze_batch_norm(network)
    body = nn.FeatureMaps(network, {f"layer{stage}": str(index) for index, stage in enumerate((2, 3, 4))})
    extra = nn.LastLevelP6P7(LEVEL_CHANNELS if p6_of_level else 2048, LEVEL_CHANNELS)
    return nn.PyramidBackbone(
        body, (512, 1024, 2048), LEVEL_STRIDES[:3], out_channels=LEVEL_CHANNELS, extra_blocks=extra
    )


def for_channels(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """Means or deviations of red, green and blue pixels for images of so many channels; other than 3 get their mean.

    >>> for_channels((0.25, 0.5, 0.75), 1)
    (0.5,)
    """
    return tuple(values) if len(values) == channels else (sum(values) / len(values),) * channels


def per_box(maps: Tensor, numbers: int) -> Tensor:
    """Predictions of a convolution as rows: (N, B * numbers, H, W) to (N, H * W * B, numbers).

    Args:
        maps: at each position the numbers of its first reference box, then those of the second, up to B.
        numbers: predicted for each box.

    >>> per_box(torch.zeros(2, 9 * 4, 5, 7), 4).shape
    torch.Size([2, 315, 4])
    """
    rows: Tensor = maps.unflatten(1, (-1, numbers)).permute(0, 3, 4, 1, 2).flatten(1, 3)
    return rows


def best_of_levels(
    scores: Tensor, codes: Tensor, levels: Sequence[Tensor], decode: Callable[[Tensor, Tensor], Tensor], most: int
) -> Candidates:
    """The best pairs of a box and a class of each level.

    Args:
        scores: (N, A, K) of all levels.
        codes: (N, A, 4), how boxes differ from the reference boxes.
        levels: the reference boxes of each level.
        decode: from codes and reference boxes to boxes.
        most: largest number of pairs of a level.
    """
    sizes = [level.shape[0] for level in levels]  # not len(), which exporters take for a number
    found = []
    for some, differences, boxes in zip(scores.split(sizes, 1), codes.split(sizes, 1), levels, strict=True):
        best, where, labels = best_pairs(some, most)
        chosen = differences.gather(1, where[..., None].expand(-1, -1, 4))
        found.append((decode(chosen, boxes[where]), best, labels))
    boxes, best, labels = (torch.cat(parts, 1) for parts in zip(*found, strict=True))
    return boxes, best, labels


def best_pairs(scores: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best pairs of a box and a class among (N, A, K) scores.

    Args:
        scores: of A boxes for K classes.
        most: largest number of pairs.

    Returns:
        scores, indices of boxes and classes of the M pairs, each (N, M), the best pair first.
    """
    flat = scores.flatten(1)
    best, where = flat.topk(min(most, flat.shape[1]), dim=1)
    return best, torch.div(where, scores.shape[2], rounding_mode="floor"), where % scores.shape[2]
