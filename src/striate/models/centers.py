"""Objects as points: heat maps with a peak at the centre of each object, a box at each place, and their decoding.

Sources: Zhou, Wang & Krähenbühl, "Objects as points" (2019), sections 3 and 4, for heat maps, their loss and peaks
instead of non-maximum suppression; Liu, Zheng, Xu, Yang, Wei & Xu, "Training-time-friendly network for real-time object
detection" (2020), sections 3.2 to 3.4, for Gaussians as wide and high as the object, and for boxes that are learnt at
all places under the Gaussian, weighted by it, through their generalised IoU: more to learn from in each step.

A map of (h, w) places covers a picture of (h, w) * stride pixels. Place (i, j) is the square with sides of ``stride``
pixels and its middle at ((j + 0.5) * stride, (i + 0.5) * stride). An object belongs to the place that contains its
centre. A box is coded at a place by four numbers: the offset of its centre from the place's middle, and the logarithms
of its width and height, all in strides. So boxes of any size can be coded, even those smaller than a place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from striate import ops

#: Of width and height of a box, the share that is six deviations of its Gaussian (Liu et al., table 3).
_SHARE: Final = 0.54
#: Places under a Gaussian that is lower don't belong to the object.
_LOWEST: Final = 0.05
#: Logarithms of sizes are clamped to this; an untrained network may predict larger ones.
_LARGEST: Final = 10.0


@dataclass(frozen=True)
class Objects:
    """The objects of all pictures of a batch, one after the other.

    Args:
        boxes: float (M, 4), xyxy, pixels.
        classes: int64 (M,), from 0.
        pictures: int64 (M,), which picture of the batch each is in.
        counted: bool (M,); other objects, and the places inside their boxes, don't contribute to the losses.
    """

    boxes: Tensor
    classes: Tensor
    pictures: Tensor
    counted: Tensor

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def centers(self) -> Tensor:
        """Centres of the boxes, (M, 2), xy."""
        return (self.boxes[:, :2] + self.boxes[:, 2:]) / 2

    @property
    def sizes(self) -> Tensor:
        """Width and height of the boxes, (M, 2)."""
        return self.boxes[:, 2:] - self.boxes[:, :2]

    def places(self, shape: tuple[int, int], stride: int) -> Tensor:
        """The place of each object on a map of ``shape`` (h, w), int64 (M, 2), column and row."""
        last = torch.tensor([shape[1] - 1, shape[0] - 1], device=self.boxes.device)
        return (self.centers / stride).floor().long().clamp_min(0).minimum(last)

    def counts(self, pictures: int) -> Tensor:
        """The number of objects in each of N pictures, (N,), but at least 1: the divisor of sums over objects."""
        return self.pictures.bincount(minlength=pictures).clamp_min(1)

    def mean(self, values: Tensor, pictures: int) -> Tensor:
        """The mean over N pictures of the means of (M,) over each picture's objects; 0 of a picture without objects."""
        return (values / self.counts(pictures)[self.pictures]).sum() / pictures

    def select(self, chosen: Tensor) -> Objects:
        """Some of them, by a bool mask (M,) or indices."""
        return Objects(self.boxes[chosen], self.classes[chosen], self.pictures[chosen], self.counted[chosen])


def gaussians(objects: Objects, shape: tuple[int, int], stride: int) -> Tensor:
    """A Gaussian for each object, (M, h, w): 1 at its place, deviations of 0.09 of its width and height."""
    deviations = objects.sizes * (_SHARE / 6 / stride)
    at = objects.places(shape, stride)
    along = []
    for axis, places in enumerate((shape[1], shape[0])):
        steps = torch.arange(places, device=at.device) - at[:, axis, None]
        # If a box lies within one place, its deviation is 0 and only this place remains.
        along.append(torch.exp(-0.5 * (steps / deviations[:, axis, None].clamp_min(1e-3)) ** 2))
    return along[1][:, :, None] * along[0][:, None, :]


def heat_maps(objects: Objects, gaussian: Tensor, pictures: int, classes: int) -> Tensor:
    """For each picture and class the highest Gaussian of its objects at each place, (N, K, h, w) of 0 to 1.

    Args:
        objects: M of them.
        gaussian: (M, h, w), of :func:`gaussians`.
        pictures: N.
        classes: K.
    """
    heat = gaussian.new_zeros(pictures * classes, *gaussian.shape[1:])
    at = objects.pictures * classes + objects.classes
    heat.scatter_reduce_(0, at[:, None, None].expand_as(gaussian), gaussian, "amax")
    return heat.view(pictures, classes, *gaussian.shape[1:])


def left_out(objects: Objects, pictures: int, shape: tuple[int, int], stride: int) -> Tensor:
    """Places without a loss: their middles lie in boxes of objects that don't count, bool (N, 1, h, w)."""
    ignored = objects.select(~objects.counted)
    rows, columns = ((torch.arange(n, device=ignored.boxes.device) + 0.5) * stride for n in shape)
    x0, y0, x1, y1 = ignored.boxes[:, :, None].unbind(1)
    inside = ((rows >= y0) & (rows < y1))[:, :, None] & ((columns >= x0) & (columns < x1))[:, None, :]
    found = torch.zeros(pictures, *shape, dtype=torch.uint8, device=inside.device)
    found.scatter_reduce_(0, ignored.pictures[:, None, None].expand_as(inside), inside.to(torch.uint8), "amax")
    return found.bool()[:, None]


def focal_loss(logits: Tensor, heat: Tensor, ignored: Tensor | None = None) -> Tensor:
    """The penalty-reduced focal loss of each picture, (N,), summed over its places; divide it by its number of objects.

    Where the heat is 1 it is ``-(1 - p)^2 log p``, elsewhere ``-(1 - heat)^4 p^2 log(1 - p)``.

    Args:
        logits: (N, K, h, w), p before the sigmoid.
        heat: (N, K, h, w), of :func:`heat_maps`.
        ignored: bool (N, 1, h, w), of :func:`left_out`.

    Source: Zhou et al. (2019), equation 1.
    """
    probability = logits.sigmoid()
    peak = heat == 1
    hit = (1 - probability) ** 2 * F.softplus(-logits)
    miss = (1 - heat) ** 4 * probability**2 * F.softplus(logits)
    loss = torch.where(peak, hit, miss)
    return (loss if ignored is None else loss.masked_fill(ignored & ~peak, 0)).sum((1, 2, 3))


def boxes_of(codes: Tensor, places: Tensor, stride: int) -> Tensor:
    """Boxes (..., 4), xyxy, from their codes (..., 4) at places (..., 2), column and row."""
    centers = (places + 0.5 + codes[..., :2]) * stride
    halves = codes[..., 2:].clamp(-_LARGEST, _LARGEST).exp() * (stride / 2)
    return torch.cat([centers - halves, centers + halves], -1)


def codes_of(boxes: Tensor, places: Tensor, stride: int) -> Tensor:
    """The codes (..., 4) of boxes, the inverse of :func:`boxes_of`."""
    centers, sizes = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
    return torch.cat([centers / stride - places - 0.5, (sizes / stride).log()], -1)


@dataclass(frozen=True)
class Places:
    """The P places that contribute to box losses, each with the object whose Gaussian is highest there.

    Args:
        objects: int64 (P,), which of M objects.
        pictures: int64 (P,), which picture of the batch.
        rows, columns: int64 (P,), on the map.
        weights: (P,), of the Gaussian; those of each object sum to 1.
        count: M.
    """

    objects: Tensor
    pictures: Tensor
    rows: Tensor
    columns: Tensor
    weights: Tensor
    count: int

    @classmethod
    def of(cls, objects: Objects, gaussian: Tensor, pictures: int) -> Places:
        """Those of objects in so many pictures with their Gaussians (M, h, w)."""
        highest = gaussian.new_zeros(pictures, *gaussian.shape[1:])
        highest.scatter_reduce_(0, objects.pictures[:, None, None].expand_as(gaussian), gaussian, "amax")
        own = (gaussian == highest[objects.pictures]) & (gaussian > _LOWEST)
        index, rows, columns = own.nonzero(as_tuple=True)
        weights = gaussian[index, rows, columns]
        sums = gaussian.new_zeros(len(objects)).index_add(0, index, weights)
        return cls(index, objects.pictures[index], rows, columns, weights / sums[index], len(objects))

    def look(self, maps: Tensor) -> Tensor:
        """What maps (N, C, h, w) hold at these places, (P, C)."""
        return maps[self.pictures, :, self.rows, self.columns]

    def mean(self, values: Tensor) -> Tensor:
        """From (P,) to (M,): for each object the mean over its places, weighted."""
        return values.new_zeros(self.count).index_add(0, self.objects, self.weights * values)


def box_loss(codes: Tensor, objects: Objects, places: Places, stride: int) -> Tensor:
    """One minus the generalised IoU of each object, (M,), a mean over its places.

    Args:
        codes: float (N, 4, h, w).
        objects: M of them, all of which count.
        places: theirs.
        stride: of the map.

    Source: Liu et al. (2020), section 3.3, equations 5 to 7, but with the same weight for objects of all sizes.
    """
    told = boxes_of(places.look(codes), torch.stack([places.columns, places.rows], 1), stride)
    return places.mean(ops.generalized_box_iou_loss(told, objects.boxes[places.objects]))


def class_loss(logits: Tensor, objects: Objects, places: Places) -> Tensor:
    """The cross entropy of each object's class, (M,), a mean over its places.

    The focal loss trains the class only at one place of an object. This loss distinguishes classes at all its places.

    Args:
        logits: float (N, K, h, w), of the heat.
        objects: M of them, all of which count.
        places: theirs.
    """
    return places.mean(F.cross_entropy(places.look(logits), objects.classes[places.objects], reduction="none"))


def peaks(logits: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The highest peaks of a map: places that are not lower than their eight neighbours of the same class.

    Args:
        logits: (N, K, h, w).
        count: D, the largest number of peaks.

    Returns:
        Logits (N, D), classes (N, D) and places (N, D, 2), column and row; highest first. Where there are fewer peaks
        logits are -inf.

    Source: Zhou et al. (2019), section 4.1, "From points to bounding boxes".
    """
    _, classes, height, width = logits.shape
    # Logits are compared, because different logits may have the same probability in float32 and would both be peaks.
    top = logits.masked_fill(ops.max_pool2d(logits, 3, 1, 1) != logits, float("-inf"))
    scores, at = top.flatten(1).topk(min(count, classes * height * width))
    within = at % (height * width)
    return scores, at // (height * width), torch.stack([within % width, within // width], -1)


def at_places(maps: Tensor, places: Tensor) -> Tensor:
    """What maps (N, C, h, w) hold at places (N, D, 2), column and row: (N, D, C)."""
    at = places[..., 1] * maps.shape[3] + places[..., 0]
    return maps.flatten(2).gather(2, at[:, None, :].expand(-1, maps.shape[1], -1)).transpose(1, 2)


def likeliest(logits: Tensor, objects: Objects, stride: int) -> Tensor:
    """For each object, the place with the highest heat of its class among its own place and the eight around, (M, 2).

    A trained network finds the object at this place, so other predictions for the object are trained there, too.
    """
    height, width = logits.shape[2:]
    steps = torch.tensor([(x, y) for y in (0, -1, 1) for x in (0, -1, 1)], device=logits.device)
    around = objects.places((height, width), stride)[:, None] + steps
    around = around.clamp_min(0).minimum(torch.tensor([width - 1, height - 1], device=logits.device))
    heat = logits[objects.pictures[:, None], objects.classes[:, None], around[..., 1], around[..., 0]]
    return around[torch.arange(len(objects), device=logits.device), heat.argmax(1)]
