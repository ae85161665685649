"""What one-stage detectors share: predictions at boxes all over the image, losses of them, or the best of them.

The order of computation is torchvision's, so that the same weights give the same results.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor

from striate import nn, ops
from striate.models.older_weights import renew_on_loading
from striate.models.resnet import ResNet

#: Channels of the levels of a pyramid, and the pixels between their positions (Lin et al., "Focal loss for dense object
#: detection" (2017), section 4, "Feature Pyramid Network Backbone").
LEVEL_CHANNELS: Final = 256
LEVEL_STRIDES: Final = (8, 16, 32, 64, 128)

#: What a head predicts at every reference box: from names to (N, A, numbers).
Outputs = dict[str, Tensor]
#: From a batch's (H, W) and its maps to each level's reference boxes (A_l, 4), pixels of the batch.
References = Callable[[tuple[int, int], Sequence[Tensor]], list[Tensor]]
#: Boxes (M, 4), scores (M,) and labels (M,) of one image.
Candidates = tuple[Tensor, Tensor, Tensor]


class OneStageDetector(torch.nn.Module):
    """A backbone that gives maps of several sizes, and a head that predicts the same numbers at all their positions.

    Args:
        transform: makes a batch of images, and brings results back to them.
        backbone: from a batch (N, C, H, W) to maps by name, the finest first.
        anchor_generator: gives each level's reference boxes.
        head: from the maps to :data:`Outputs`, levels one after the other.
        num_classes: K, with the background, which is class 0.
        score_thresh: what a box must score more than.
        nms_thresh: the overlap above which the worse of two boxes of a class is left out.
        detections_per_img: boxes of an image at the most.
        topk_candidates: boxes of a level or a class at the most, before any are left out for their overlap.
    """

    #: The names of the parts in the order in which they compute.
    stages: tuple[str, ...]
    #: The parts that are convolutions alone, which an engine can compute.
    dense = ("backbone", "head")
    #: What holds the classes, and is new where these are others.
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

    def resize(self, size: tuple[int, int]) -> None:
        """Has pictures scaled to about (H, W), see :meth:`striate.nn.DetectionInput.resize`."""
        self.transform.resize(size)
        self.input_size = size

    def dense_maps(self, batch: Tensor) -> object:
        """What the head says of all positions, of a batch (N, C, H, W) as it is."""
        return self.head(list(self.backbone(batch).values()))

    def class_scores(self, images: Tensor) -> Tensor:
        """The logit of each class at the place that is surest of it, (N, C, H, W) from 0 to 1 to (N, K - 1)."""
        batch, _ = self.transform(list(images))
        logits: Tensor = self.head(list(self.backbone(batch.tensors).values()))["cls_logits"]
        return logits.amax(1)[:, 1:]

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
        found = [
            self._best(*self.candidates({name: rows[index] for name, rows in outputs.items()}, levels), size)
            for index, size in enumerate(batch.image_sizes)
        ]
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
        """The boxes of one image that score more than the threshold, :attr:`topk_candidates` of each group.

        Args:
            outputs: of the head for this image, (A, numbers) each.
            levels: the reference boxes of each level.
        """
        raise NotImplementedError

    def _best(self, boxes: Tensor, scores: Tensor, labels: Tensor, size: tuple[int, int]) -> nn.Target:
        """Of candidates on an image of ``size`` (H, W) those that overlap no better one of their class too much."""
        boxes = ops.clip_boxes(boxes, size)
        kept = ops.batched_nms(boxes, scores, labels, self.nms_thresh)[: self.detections_per_img]
        return {"boxes": boxes[kept], "scores": scores[kept], "labels": labels[kept]}


def resnet50_pyramid(in_channels: int, *, frozen: bool, p6_of_level: bool) -> nn.PyramidBackbone:
    """ResNet-50's last three stages in a pyramid of five levels, P3 to P7.

    Args:
        in_channels: of the images.
        frozen: whether batch normalisation is left as it is in training.
        p6_of_level: whether P6 is made of the level P5; else of the last stage's map.
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
    scores: Tensor,
    codes: Tensor,
    levels: Sequence[Tensor],
    decode: Callable[[Tensor, Tensor], Tensor],
    threshold: float,
    most: int,
) -> Candidates:
    """The best pairs of a box and a class of each level.

    Args:
        scores: (A, K) of all levels.
        codes: (A, 4), how boxes differ from the reference boxes.
        levels: the reference boxes of each level.
        decode: from codes and reference boxes to boxes.
        threshold: what a pair must score more than.
        most: pairs of a level at the most.
    """
    sizes = [len(level) for level in levels]
    found = []
    for some, differences, boxes in zip(scores.split(sizes), codes.split(sizes), levels, strict=True):
        best, where, labels = best_pairs(some, threshold, most)
        found.append((decode(differences[where], boxes[where]), best, labels))
    boxes, best, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
    return boxes, best, labels


def best_pairs(scores: Tensor, threshold: float, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best pairs of a box and a class among (A, K) scores.

    Args:
        scores: of A boxes for K classes.
        threshold: what a pair must score more than.
        most: pairs that are kept at the most.

    Returns:
        scores, indices of boxes and classes of the M pairs, each (M,), the best pair first.
    """
    flat = scores.flatten()
    # How many pairs are looked at depends on shapes alone, so that exported networks can do the same.
    best, where = flat.topk(min(most, flat.numel()))
    kept = best > threshold
    best, where = best[kept], where[kept]
    return best, torch.div(where, scores.shape[1], rounding_mode="floor"), where % scores.shape[1]
