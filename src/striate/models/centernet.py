"""CenterNet in small: objects as peaks of heat maps, for small pictures and computers without a GPU.

Source: Zhou, Wang & Krähenbühl, "Objects as points" (2019); what is learnt is rather as in Liu et al.,
"Training-time-friendly network" (2020), see :mod:`striate.models.centers`. The trunk is striate's own: five residual
stages down to a stride of 32 and up again to a stride of 4, where maps of one size are added, as in Lin et al.,
"Feature pyramid networks" (2017). Most of its arithmetic is 3x3 convolutions of 32 to 256 channels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from striate import nn, ops
from striate.errors import ModelError
from striate.models import centers
from striate.models.initialisation import kaiming_fan_out
from striate.models.registry import register
from striate.nn.detection_targets import Target, check_images, check_targets

#: Pictures are padded to multiples of this: the stride of the trunk's smallest map.
MULTIPLE: Final = 32
#: Stride of the maps that the heads read.
STRIDE: Final = 4
#: Initial value of heat maps everywhere: an object at one place in a hundred.
_PRIOR: Final = 0.01
#: Weight of the generalised IoU in the sum of losses (Liu et al., section 4.1).
_BOX_WEIGHT: Final = 5.0


class Trunk(torch.nn.Module):
    """From a picture to maps of strides 2 and 4, (N, C, H, W) to (N, 32, H/2, W/2) and (N, 64, H/4, W/4).

    Args:
        in_channels: C.
        widths: channels at strides 2, 4, 8, 16 and 32.
        depths: residual blocks at strides 4 to 32.
        channels: of the maps on the way up.
    """

    def __init__(
        self,
        in_channels: int,
        widths: tuple[int, int, int, int, int] = (32, 64, 128, 192, 256),
        depths: tuple[int, int, int, int] = (1, 2, 1, 1),
        channels: int = 64,
    ) -> None:
        super().__init__()
        self.stem = nn.ConvNormActivation(in_channels, widths[0], 3, 2)
        self.down = torch.nn.ModuleList(
            torch.nn.Sequential(
                nn.BasicBlock(before, width, 2), *(nn.BasicBlock(width, width) for _ in range(depth - 1))
            )
            for before, width, depth in zip(widths, widths[1:], depths, strict=False)
        )
        self.across = torch.nn.ModuleList(
            nn.ConvNormActivation(width, channels, 1, activation=None) for width in widths[1:]
        )
        self.out = nn.ConvNormActivation(channels, channels)

    def forward(self, input: Tensor) -> tuple[Tensor, Tensor]:
        first: Tensor = self.stem(input)
        maps = [first]
        for stage in self.down:
            maps.append(stage(maps[-1]))
        merged: Tensor = self.across[-1](maps[-1])
        for across, map_ in zip(reversed(self.across[:-1]), reversed(maps[1:-1]), strict=True):
            merged = across(map_) + F.interpolate(merged.relu(), scale_factor=2.0)
        return first, self.out(merged.relu())


class Heads(torch.nn.Module):
    """Predictions at every place of a map: for each kind of prediction a 3x3 convolution and a 1x1 one.

    Args:
        in_channels: of the map.
        outputs: channels of each prediction, by its name.
    """

    def __init__(self, in_channels: int, outputs: Mapping[str, int]) -> None:
        super().__init__()
        self.heads = torch.nn.ModuleDict(
            {
                name: torch.nn.Sequential(
                    nn.ConvNormActivation(in_channels, in_channels), nn.Conv2d(in_channels, count, 1)
                )
                for name, count in outputs.items()
            }
        )

    def forward(self, input: Tensor) -> dict[str, Tensor]:
        return {name: head(input) for name, head in self.heads.items()}


class Maps(torch.nn.Module):
    """Trunk and heads, which are all convolutions, from pictures (N, C, H, W), H and W multiples of 32, to maps.

    Returns:
        Maps by name: ``heat`` (N, K, H/4, W/4), logits; ``box`` (N, 4, H/4, W/4), codes.
    """

    def __init__(self, classes: int, in_channels: int) -> None:
        super().__init__()
        self.trunk = Trunk(in_channels)
        self.heads = Heads(64, {"heat": classes, "box": 4})

    def forward(self, input: Tensor) -> dict[str, Tensor]:
        _, features = self.trunk(input)
        maps: dict[str, Tensor] = self.heads(features)
        return maps


class CenterNet(torch.nn.Module):
    """Boxes of objects, without anchors and without non-maximum suppression.

    In training it takes pictures and targets and gives losses: ``heat``, ``class`` and ``box``. In evaluation it takes
    pictures and gives, for each, a dict of ``boxes`` float (D, 4), xyxy, pixels, within the picture; ``labels`` int64
    (D,) from 1; ``scores`` (D,), highest first. Pictures are float (C, H, W) of 0 to 1 and of any sizes. The objects
    found in one picture don't depend on the other pictures; pictures of one size are computed together.

    Args:
        num_classes: classes and one for the background, which has number 0.
        in_channels: C.
        mean, deviation: of pixels, a number or one for each channel.
        score_threshold: objects with a lower score are dropped.
        detections: largest number of objects in a picture.

    Raises:
        ModelError: no class except the background; pictures or targets of another form.
    """

    input_size = (128, 128)
    #: Learning rate unless a recipe sets another; ``python -m benchmarks scenes`` measures what the network learns.
    optimizer = "muon"
    learning_rate = 0.006
    has_masks = False  #: whether it draws outlines
    #: Of the sides of pictures in exported files: what they are multiples of, and the least of them, pixels.
    export_sizes = (MULTIPLE, 2 * MULTIPLE)
    #: What :func:`striate.accelerate` computes: the rest depends on how many objects there are.
    dense = ("maps",)
    #: What class activation maps are made of: later layers have a map for each answer alone.
    map_layer = "maps.trunk.out"
    maps: torch.nn.Module
    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        num_classes: int = 91,
        in_channels: int = 3,
        mean: float | Sequence[float] = 0.45,
        deviation: float | Sequence[float] = 0.25,
        score_threshold: float = 0.05,
        detections: int = 100,
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise ModelError(
                type(self).__name__, f"got num_classes = {num_classes}", "needed 2 or more: 0 is no object"
            )
        self.classes, self.in_channels = num_classes - 1, in_channels
        self.score_threshold, self.detections = score_threshold, detections
        for name, value in (("mean", mean), ("deviation", deviation)):
            self.register_buffer(name, torch.as_tensor(value, dtype=torch.float32).expand(in_channels).clone())
        self.maps = self._maps()
        kaiming_fan_out(self)
        self._start()

    def _maps(self) -> torch.nn.Module:
        return Maps(self.classes, self.in_channels)

    @torch.no_grad()
    def _start(self) -> None:
        """Initial weights: small last layers, a low heat everywhere, boxes of four places a side."""
        maps: Any = self.maps
        heads = maps.heads.heads
        for head in heads.values():
            head[-1].weight.normal_(0, 0.01)
        heads["heat"][-1].bias.fill_(-math.log(1 / _PRIOR - 1))
        heads["box"][-1].bias[2:].fill_(math.log(4))

    def class_scores(self, images: Tensor) -> Tensor:
        """The logit of each class at the place that is surest of it, (N, C, H, W) from 0 to 1 to (N, K)."""
        heat: Tensor = self.maps(self.batch(list(images)))["heat"]
        return heat.flatten(2).amax(2)

    def place_of(self, image: Tensor, box: Tensor, label: int) -> tuple[int, int]:
        """Row and column of the place that predicts a box (4,) of a class on a picture (C, H, W)."""
        boxes, labels, scores, places = (each[0] for each in self.candidates(self.maps(self.batch([image]))))
        likeness = ops.box_iou(box[None], boxes)[0] * scores * (labels == label)
        column, row = places[likeness.argmax()].tolist()
        return row, column

    def scores_at(self, images: Tensor, place: tuple[int, int]) -> Tensor:
        """The logits of all classes at one place, (N, C, H, W) from 0 to 1 to (N, K)."""
        heat: Tensor = self.maps(self.batch(list(images)))["heat"]
        return heat[:, :, place[0], place[1]]

    def dense_maps(self, batch: Tensor) -> dict[str, Tensor]:
        """All maps of a batch (N, C, H, W), H and W multiples of the smallest map's stride."""
        maps: dict[str, Tensor] = self.maps(batch)
        return maps

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Target] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        check_images(images, self.in_channels)
        if not self.training:
            return self.detect(images)
        check_targets(targets, images, self.classes + 1, masks=self.has_masks)
        assert targets is not None
        return self.losses(self.maps(self.batch(images)), self.objects(targets), targets)

    def batch(self, images: Sequence[Tensor]) -> Tensor:
        """Normalised pictures in one tensor (N, C, H, W), padded right and below to the same multiples of 32."""
        height, width = (-(-max(image.shape[axis] for image in images) // MULTIPLE) * MULTIPLE for axis in (1, 2))
        mean, deviation = self.mean[:, None, None], self.deviation[:, None, None]
        return torch.stack(
            [
                F.pad((image - mean) / deviation, (0, width - image.shape[2], 0, height - image.shape[1]))
                for image in images
            ]
        )

    def objects(self, targets: Sequence[Target]) -> centers.Objects:
        """The objects of all targets in a row. ``iscrowd`` in a target, (n,), says which don't count."""
        device = self.mean.device
        counts = [len(target["labels"]) for target in targets]
        crowd = [target.get("iscrowd", torch.zeros(count)) for target, count in zip(targets, counts, strict=True)]
        return centers.Objects(
            torch.cat([target["boxes"] for target in targets]).to(self.mean),
            torch.cat([target["labels"] for target in targets]).to(device) - 1,
            torch.arange(len(targets), device=device).repeat_interleave(torch.tensor(counts, device=device)),
            torch.cat(crowd).to(device) == 0,
        )

    def losses(
        self, maps: Mapping[str, Tensor], objects: centers.Objects, targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """The losses by name: means over the pictures of means over each picture's objects.

        So the losses of a batch are the mean of the losses of its parts, on whichever machine a part is computed.
        """
        heat, shape = maps["heat"], (maps["heat"].shape[2], maps["heat"].shape[3])
        ignored = None if objects.counted.all() else centers.left_out(objects, len(heat), shape, STRIDE)
        counted = objects.select(objects.counted)
        gaussian = centers.gaussians(counted, shape, STRIDE)
        wanted = centers.heat_maps(counted, gaussian, len(heat), self.classes)
        places = centers.Places.of(counted, gaussian, len(heat))
        box = centers.box_loss(maps["box"], counted, places, STRIDE)
        return {
            "heat": (centers.focal_loss(heat, wanted, ignored) / counted.counts(len(heat))).mean(),
            "class": counted.mean(centers.class_loss(heat, counted, places), len(heat)),
            "box": _BOX_WEIGHT * counted.mean(box, len(heat)),
        }

    def candidates(self, maps: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The D best-scoring objects of each picture, without a threshold, so that D depends only on the maps' shapes.

        Returns:
            Boxes (N, D, 4), xyxy, pixels, not cut to the picture; labels (N, D), from 1; scores (N, D); the places on
            the maps that say so (N, D, 2), column and row.
        """
        logits, classes, places = centers.peaks(maps["heat"], self.detections)
        boxes = centers.boxes_of(centers.at_places(maps["box"], places), places, STRIDE)
        return boxes, classes + 1, logits.sigmoid(), places

    def detect(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """The objects found in each picture. Pictures whose padded sizes are equal are computed together."""
        found: dict[int, dict[str, Tensor]] = {}
        for indices in _alike(images):
            maps = self.maps(self.batch([images[index] for index in indices]))
            boxes, labels, scores, places = self.candidates(maps)
            for row, index in enumerate(indices):
                height, width = images[index].shape[1:]
                within = ops.clip_boxes(boxes[row], (height, width))
                rows = torch.full_like(labels[row], row)
                kept = (scores[row] >= self.score_threshold) & (within[:, :2] < within[:, 2:]).all(1)
                found[index] = {
                    "boxes": within[kept],
                    "labels": labels[row, kept],
                    "scores": scores[row, kept],
                    **self.outlines(maps, rows[kept], places[row, kept], boxes[row, kept], (height, width)),
                }
        return [found[index] for index in range(len(images))]

    def detect_batch(self, images: Tensor) -> dict[str, Tensor]:
        """The objects in pictures of one size, (N, C, H, W), as rows: the function that exported files contain.

        Returns:
            As :meth:`forward`, the rows of all pictures one after the other, and ``image`` int64 (D,), from 0, which
            picture a row belongs to.
        """
        height, width = images.shape[2:]
        normalised = (images - self.mean[:, None, None]) / self.deviation[:, None, None]
        if not (height % MULTIPLE == 0 and width % MULTIPLE == 0):
            normalised = F.pad(normalised, (0, -width % MULTIPLE, 0, -height % MULTIPLE))
        maps = self.maps(normalised)
        boxes, labels, scores, places = self.candidates(maps)
        within = ops.clip_boxes(boxes, (height, width))
        wide = (within[..., :2] < within[..., 2:]).all(2)
        at = ((scores >= self.score_threshold) & wide).nonzero(as_tuple=True)
        outlines = self.outlines(maps, at[0], places[at], boxes[at], (height, width))
        return {"image": at[0], "boxes": within[at], "labels": labels[at], "scores": scores[at], **outlines}

    def outlines(
        self, maps: Mapping[str, Tensor], pictures: Tensor, places: Tensor, boxes: Tensor, size: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Further results for objects besides boxes, labels and scores: none.

        Args:
            maps: of a batch.
            pictures: int64 (D,), which picture of the batch each object is in.
            places: (D, 2), where the maps tell of it, column and row.
            boxes: (D, 4).
            size: (H, W) of the picture.
        """
        return {}


def _alike(images: Sequence[Tensor]) -> list[list[int]]:
    """Groups of pictures that have the same size after padding, as indices.

    A picture isn't padded to the size of a larger picture, because the layers' values in the padding would influence
    its results.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, image in enumerate(images):
        groups.setdefault(tuple(-(-side // MULTIPLE) for side in image.shape[1:]), []).append(index)
    return list(groups.values())


register(
    CenterNet,
    "centernet_small",
    "CenterNet in small, boxes without NMS; 2,404,350 parameters, 128x128 images.",
    "detection",
)
