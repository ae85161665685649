"""Augmentation of annotated pictures, with new random numbers in every epoch.

The random numbers for a picture depend only on the seed, the epoch and the picture's place in the set. So a resumed run
needs no stored state, and batches, processes and workers may divide the work in any way.

The implementation is striate's own: all geometry of a picture is one interpolation, and an object is kept or dropped by
the visible part of its mask. kornia 0.9 draws for a whole batch from the global generator, keeps boxes of objects that
have left the picture, and took twice as long for a mirror, a crop and colours of a scene of 128x128 with its masks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from torch import Tensor

from striate.data import transforms
from striate.data.annotated import AnnotatedSet, Sample
from striate.data.annotation import Annotation
from striate.data.fitting import Fit, Size
from striate.data.moving import LEAST_SEEN, Placement, boxes_of, place
from striate.errors import DataError, did_you_mean

#: The changes, in the order in which they are made.
CHANGES: Final = {
    "flip": "mirrored every second time",
    "scale": "scaled by 0.6 to 1.6, shifted, cut where it is larger than the frame",
    "mosaic": "every second time four pictures, a part of each",
    "paste": "every second time objects of another picture on top, where masks are known",
    "colour": "lighter or darker, more or less contrast, other colours",
}
_SCALE: Final = (0.6, 1.6)
_HALF: Final = 0.5  # probability of a mirror, a mosaic, a pasting
_PASTED: Final = 3  # objects at most


@dataclass(frozen=True)
class AnnotatedAugmentation:
    """Random changes of annotated pictures.

    Args:
        style: names of :data:`CHANGES` joined by ``+``, as ``"flip+scale+colour"``; ``"none"`` for none.
        seed: of all random numbers.

    Raises:
        DataError: an unknown change, a negative seed.

    Mosaics are those of Bochkovskiy, Wang & Liao, "YOLOv4: optimal speed and accuracy of object detection", 2020,
    section 3.3; pasting and the change of scale are Ghiasi et al.'s, "Simple copy-paste is a strong data augmentation
    method for instance segmentation", 2021, section 3, with a smaller range of scales.
    """

    style: str = "none"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in self.changes:
            if name not in CHANGES:
                needed = f"needed none, or some of {', '.join(CHANGES)} joined by +"
                raise DataError("augmentation", f"got {name!r}", needed, did_you_mean(name, CHANGES))
        if self.seed < 0:
            raise DataError("augmentation", f"got seed {self.seed}", "needed 0 or more")

    @property
    def changes(self) -> tuple[str, ...]:
        """The names in :attr:`style`."""
        return () if self.style == "none" else tuple(self.style.split("+"))

    def sample(self, images: AnnotatedSet, index: int, epoch: int, fit: Fit | None = None) -> Sample:
        """The picture at ``index`` of a set as epoch ``epoch`` sees it, at the size of ``fit`` (None: its own).

        Raises:
            DataError: as :meth:`AnnotatedSet.sample`.
        """
        random = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(epoch, index)))
        changes = self.changes
        picture, truth = images.sample(index)
        frame = truth.size if fit is None else fit.image_size
        if "mosaic" in changes and random.random() < _HALF:
            picture, truth = self._mosaic(images, (picture, truth), frame, random)
        else:
            picture, truth = self._moved((picture, truth), fit, random)
        if "paste" in changes and truth.masks is not None and random.random() < _HALF:
            other = images.sample(int(random.integers(len(images))))
            other_fit = Fit(frame) if fit is None else fit
            picture, truth = pasted((picture, truth), self._moved(other, other_fit, random), random)
        if "colour" in changes:
            picture = _coloured(picture, random)
        return picture, truth

    def _moved(self, sample: Sample, fit: Fit | None, random: np.random.Generator) -> Sample:
        """A picture in its frame, mirrored or not, at another scale and place."""
        picture, truth = sample
        move = place(truth.size, Fit(truth.size) if fit is None else fit)
        if "scale" in self.changes:
            move = _jittered(move, random)
        if "flip" in self.changes and random.random() < _HALF:
            move = replace(move, mirrored=True)
        return move(picture, truth)

    def _mosaic(self, images: AnnotatedSet, first: Sample, frame: Size, random: np.random.Generator) -> Sample:
        """Four pictures about a point of the frame, each as a random part of it at a random scale."""
        others = [images.sample(int(index)) for index in random.integers(len(images), size=3)]
        rows, columns = (max(1, round(length * random.uniform(0.3, 0.7))) for length in frame)
        corners = [
            (top, left, height, width)
            for top, height in ((0, rows), (rows, frame[0] - rows))
            for left, width in ((0, columns), (columns, frame[1] - columns))
            if height and width
        ]
        whole = torch.zeros(len(first[0]), *frame, dtype=torch.uint8)
        truths = []
        for corner, (picture, truth) in zip(corners, (first, *others), strict=False):
            move = self._part(truth.size, corner, frame, random)
            top, left, height, width = corner
            drawn, known = move(picture, truth)
            whole[:, top : top + height, left : left + width] = drawn[:, top : top + height, left : left + width]
            truths.append(known)
        return whole, united(truths)

    def _part(
        self, size: Size, corner: tuple[int, int, int, int], frame: Size, random: np.random.Generator
    ) -> Placement:
        """A part of a picture that fills a corner, at about the scale at which the picture would fill the frame."""
        scale = min(frame[0] / size[0], frame[1] / size[1])
        scale *= math.exp(random.uniform(math.log(_SCALE[0]), 0)) if "scale" in self.changes else 1.0
        scale = max(scale, corner[2] / size[0], corner[3] / size[1])
        height, width = (
            min(length, max(1, round(room / scale))) for room, length in zip(corner[2:], size, strict=True)
        )
        top, left = int(random.integers(size[0] - height + 1)), int(random.integers(size[1] - width + 1))
        mirrored = "flip" in self.changes and bool(random.random() < _HALF)
        return Placement(size, (top, left, height, width), corner, frame, mirrored)


def _jittered(move: Placement, random: np.random.Generator) -> Placement:
    """The same move with the picture at another scale, anywhere in the frame."""
    factor = math.exp(random.uniform(math.log(_SCALE[0]), math.log(_SCALE[1])))
    source, target = list(move.source), list(move.target)
    for axis in (0, 1):
        seen, length, room = move.source[axis + 2], move.target[axis + 2], move.frame[axis]
        scaled = max(1, round(length * factor))
        if scaled <= room:
            target[axis], target[axis + 2] = int(random.integers(room - scaled + 1)), scaled
            continue
        part = min(seen, max(1, round(seen * room / scaled)))
        source[axis], source[axis + 2] = move.source[axis] + int(random.integers(seen - part + 1)), part
        target[axis], target[axis + 2] = 0, room
    seen_part, place_of_it = (source[0], source[1], source[2], source[3]), (target[0], target[1], target[2], target[3])
    return replace(move, source=seen_part, target=place_of_it)


def united(truths: list[Annotation]) -> Annotation:
    """Annotations of parts of one frame that don't overlap, as one."""
    first = truths[0]
    masks = None if first.masks is None else torch.cat([each.masks for each in truths if each.masks is not None])
    class_map = first.class_map
    if class_map is not None:
        # Each map is unknown outside of its own part, so the known values of all parts don't overlap.
        class_map = torch.stack([each.class_map for each in truths if each.class_map is not None]).amin(0)
    return Annotation(
        first.size,
        torch.cat([each.boxes for each in truths]),
        torch.cat([each.labels for each in truths]),
        torch.cat([each.crowd for each in truths if each.crowd is not None]),
        masks,
        class_map,
    )


def pasted(sample: Sample, other: Sample, random: np.random.Generator) -> Sample:
    """Pastes some objects of ``other``, a picture of the same size, on a picture. Hidden pixels are removed from its
    masks, and objects with too few visible pixels are dropped."""
    picture, truth = sample
    above, source = other
    assert truth.masks is not None
    assert source.masks is not None
    assert source.crowd is not None
    usable = (source.masks.flatten(1).any(1) & ~source.crowd).nonzero().squeeze(1)
    if not len(usable):
        return sample
    count = int(random.integers(1, min(_PASTED, len(usable)) + 1))
    chosen = source.select(usable[torch.from_numpy(random.permutation(len(usable))[:count])])
    assert chosen.masks is not None
    on_top = chosen.masks.any(0)
    had = truth.masks.flatten(1).sum(1)
    masks = truth.masks & ~on_top
    left = masks.flatten(1).sum(1)
    boxes = truth.boxes.clone()
    hidden = (left < had) & (left > 0)
    boxes[hidden] = boxes_of(masks[hidden])
    stays = (left >= LEAST_SEEN * had) & ((left > 0) | (had == 0))
    assert truth.crowd is not None
    under = Annotation(truth.size, boxes[stays], truth.labels[stays], truth.crowd[stays], masks[stays])
    class_map = truth.class_map
    if class_map is not None and source.class_map is not None:
        class_map = torch.where(on_top, source.class_map, class_map)
    merged = united([under, Annotation(truth.size, chosen.boxes, chosen.labels, chosen.crowd, chosen.masks)])
    result = Annotation(truth.size, merged.boxes, merged.labels, merged.crowd, merged.masks, class_map)
    return torch.where(on_top, above, picture), result


def _coloured(picture: Tensor, random: np.random.Generator) -> Tensor:
    """Light and colour as in the style ``photo`` of labelled images."""
    image = picture[None].float().div_(255)
    for change, low, high in (
        (transforms.brightness, 0.7, 1.3),
        (transforms.contrast, 0.7, 1.3),
        (transforms.saturation, 0.6, 1.4),
        (transforms.hue, -15.0, 15.0),
    ):
        image = change(image, torch.tensor([random.uniform(low, high)], dtype=torch.float32))
    return image[0].mul_(255).round_().clamp_(0, 255).to(torch.uint8)
