"""Moves pictures together with their annotations: crop, scale, mirror, put into a frame.

A move is two rectangles of whole pixels, one in the picture and one in the frame. It is therefore exactly the same for
pixels, boxes, masks and class maps, and it has an inverse.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from torch import Tensor

from striate.data.annotation import IGNORED, Annotation, Detections
from striate.data.fitting import Fit, Size

#: An object is dropped if a smaller share of it is in the frame.
LEAST_SEEN: Final = 0.3
#: A box is dropped if it is narrower or lower than this in the frame, in pixels.
LEAST_SIDE: Final = 1.0

#: EXIF orientations of pictures whose rows are upright columns.
_ON_ITS_SIDE: Final = (5, 6, 7, 8)

#: Top, left, height, width, in pixels.
Rectangle = tuple[int, int, int, int]


@dataclass(frozen=True)
class Placement:
    """Where a part of a picture lies in a frame.

    Args:
        size: (H, W) of the picture.
        source: the visible part of the picture.
        target: where this part lies in the frame, scaled to this size; the rest of the frame is empty.
        frame: (H, W) of the frame.
        mirrored: whether left and right are exchanged.
        upended: whether top and bottom are exchanged.
        interpolation: of pixels, as :class:`~striate.data.Fit` has it. Masks and class maps take the nearest pixel.
    """

    size: Size
    source: Rectangle
    target: Rectangle
    frame: Size
    mirrored: bool = False
    upended: bool = False
    interpolation: str = "bilinear"

    def picture(self, picture: Tensor) -> Tensor:
        """Uint8 (C, H, W) to uint8 (C, \\*frame), zero where the frame is empty."""
        inside = Fit(self.target[2:], "squash", interpolation=self.interpolation)(_cut(picture, self.source))
        return self._framed(self._flipped(inside), 0)

    def masks(self, masks: Tensor) -> Tensor:
        """Bool (N, H, W) to bool (N, \\*frame), False where the frame is empty."""
        return self._framed(self._flipped(_nearest(_cut(masks, self.source), self.target[2:])), 0)

    def class_map(self, class_map: Tensor) -> Tensor:
        """Uint8 (H, W) to uint8 frame, :data:`IGNORED` where the frame is empty."""
        return self._framed(self._flipped(_nearest(_cut(class_map, self.source), self.target[2:])), IGNORED)

    def boxes(self, boxes: Tensor) -> Tensor:
        """Boxes float32 (N, 4) in coordinates of the frame, not clipped to it."""
        scale, shift = self._line(boxes.device)
        moved = boxes * scale.repeat(2) + shift.repeat(2)
        return torch.cat([torch.minimum(moved[:, :2], moved[:, 2:]), torch.maximum(moved[:, :2], moved[:, 2:])], 1)

    def annotation(self, truth: Annotation, least_seen: float = LEAST_SEEN) -> Annotation:
        """The part of an annotation that is in the frame.

        An object is kept if at least the share ``least_seen`` of its mask (without masks: of its box) is in the frame.
        The box of an object that is cut becomes the smallest box around the rest of its mask; without masks, the box is
        clipped.
        """
        moved = self.boxes(truth.boxes)
        top, left, height, width = self.target
        edge = moved.new_tensor([left, top, left + width, top + height])
        clipped = torch.cat([torch.maximum(moved[:, :2], edge[:2]), torch.minimum(moved[:, 2:], edge[2:])], 1)
        seen = _area(clipped) / _area(moved).clamp(min=1e-9)
        cut = ((clipped - moved).abs() > 1e-3).any(1)
        masks = None
        if truth.masks is not None:
            masks = self.masks(truth.masks)
            had, has = (torch.count_nonzero(each, (1, 2)) for each in (truth.masks, _cut(truth.masks, self.source)))
            seen = torch.where(had > 0, has / had.clamp(min=1), seen)
            left_over = torch.count_nonzero(masks, (1, 2)) > 0
            seen = torch.where((had > 0) & ~left_over, 0.0, seen)
            around = cut & left_over
            clipped[around] = boxes_of(masks[around])
        sides = (clipped[:, 2:] - clipped[:, :2]).min(1).values if len(clipped) else clipped.new_zeros(0)
        chosen = (seen >= least_seen) & (sides >= LEAST_SIDE)
        class_map = None if truth.class_map is None else self.class_map(truth.class_map)
        assert truth.crowd is not None
        return Annotation(
            self.frame,
            clipped[chosen],
            truth.labels[chosen],
            truth.crowd[chosen],
            None if masks is None else masks[chosen],
            class_map,
        )

    def __call__(self, picture: Tensor, truth: Annotation) -> tuple[Tensor, Annotation]:
        """A picture and its annotation in the frame."""
        if self == Placement(self.size, (0, 0, *self.size), (0, 0, *self.size), self.size):
            return picture, truth
        return self.picture(picture), self.annotation(truth)

    def back(self, found: Detections) -> Detections:
        """Detections in the frame mapped to the picture: boxes are clipped, those wholly outside are dropped."""
        scale, shift = self._line(found.boxes.device)
        boxes = (found.boxes - shift.repeat(2)) / scale.repeat(2)
        boxes = torch.cat([torch.minimum(boxes[:, :2], boxes[:, 2:]), torch.maximum(boxes[:, :2], boxes[:, 2:])], 1)
        height, width = self.size
        boxes[:, 0::2].clamp_(0, width)
        boxes[:, 1::2].clamp_(0, height)
        inside = _area(boxes) > 0
        masks = None if found.masks is None else self.back_maps(found.masks[inside])
        return Detections(self.size, boxes[inside], found.labels[inside], found.scores[inside], masks)

    def back_maps(self, maps: Tensor, empty: float = 0) -> Tensor:
        """Maps (..., \\*frame) on the picture, (..., H, W): floats between pixels (bilinear), others the nearest; where
        the picture wasn't seen, ``empty``."""
        inside = self._flipped(_cut(maps, self.target))
        if maps.is_floating_point():
            planes = inside.reshape(1, -1, *inside.shape[-2:])
            resized = torch.nn.functional.interpolate(planes, self.source[2:], mode="bilinear", align_corners=False)
            inside = resized.reshape(*maps.shape[:-2], *self.source[2:])
        else:
            inside = _nearest(inside, self.source[2:])
        return _put(inside, self.source, self.size, empty)

    def _flipped(self, pixels: Tensor) -> Tensor:
        axes = [axis for axis, turned in ((-1, self.mirrored), (-2, self.upended)) if turned]
        return pixels.flip(axes) if axes else pixels

    def _framed(self, pixels: Tensor, empty: int) -> Tensor:
        return _put(pixels, self.target, self.frame, empty)

    def _line(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """(x, y) of scale and of shift: a point of the picture lies in the frame at scale * point + shift."""
        scale, shift = [], []
        for axis, turned in ((1, self.mirrored), (0, self.upended)):
            start, length = self.source[axis], self.source[axis + 2]
            place, room = self.target[axis], self.target[axis + 2]
            factor = room / length
            scale.append(-factor if turned else factor)
            shift.append(place + room + factor * start if turned else place - factor * start)
        return torch.tensor(scale, device=device), torch.tensor(shift, device=device)


def place(size: Size, fit: Fit) -> Placement:
    """The placement that fits a picture of ``size`` (H, W) to ``fit.image_size``.

    ``"frame"``: scaled, sides in proportion, until one of them fills the frame, in the middle of it (an odd row or
    column of the rest at the bottom or right); ``"crop"``, ``"squash"`` and ``"own"``: as :class:`~striate.data.Fit`
    does.

    >>> place((50, 100), Fit((64, 64))).target
    (16, 0, 32, 64)
    """
    whole = (0, 0, *size)
    if fit.mode == "own":
        return Placement(size, whole, whole, size, interpolation=fit.interpolation)
    frame = fit.image_size
    if fit.mode == "squash":
        return Placement(size, whole, (0, 0, *frame), frame, interpolation=fit.interpolation)
    if fit.mode == "frame":
        factor = min(frame[0] / size[0], frame[1] / size[1])
        height, width = (min(room, max(1, round(length * factor))) for length, room in zip(size, frame, strict=True))
        target = ((frame[0] - height) // 2, (frame[1] - width) // 2, height, width)
        return Placement(size, whole, target, frame, interpolation=fit.interpolation)
    # The middle of what covers `resize`, in pixels of the picture.
    covering = fit.covering(*size)
    height, width = (
        min(length, max(1, round(room * length / scaled)))
        for length, room, scaled in zip(size, frame, covering, strict=True)
    )
    source = ((size[0] - height) // 2, (size[1] - width) // 2, height, width)
    return Placement(size, source, (0, 0, *frame), frame, interpolation=fit.interpolation)


def fit_annotated(picture: Tensor, truth: Annotation, fit: Fit) -> tuple[Tensor, Annotation, Placement]:
    """A picture, uint8 (C, H, W), and its annotation at ``fit.image_size``, and the placement, whose
    :meth:`Placement.back` maps detections back."""
    move = place(truth.size, fit)
    return *move(picture, truth), move


def boxes_of(masks: Tensor) -> Tensor:
    """The smallest boxes around masks, bool (N, H, W), none of them empty: float32 (N, 4)."""
    boxes = torch.zeros(len(masks), 4)
    for start, axis in ((1, 2), (0, 1)):  # a row is occupied if any of its columns is, and vice versa
        hit = masks.any(axis).to(torch.uint8)
        boxes[:, start] = hit.argmax(1)
        boxes[:, start + 2] = hit.shape[1] - hit.flip(1).argmax(1)
    return boxes


def upright(truth: Annotation, orientation: int) -> Annotation:
    """Turns the annotation of a picture as stored to the picture upright by its EXIF orientation, 1 to 8."""
    mirrored, upended = orientation in (2, 3, 6, 7), orientation in (3, 4, 7, 8)
    if orientation in _ON_ITS_SIDE:
        truth = transposed(truth)
    whole = (0, 0, *truth.size)
    return Placement(truth.size, whole, whole, truth.size, mirrored, upended).annotation(truth, least_seen=0.0)


def transposed(truth: Annotation) -> Annotation:
    """Rows and columns exchanged: a mirror about the diagonal."""
    x0, y0, x1, y1 = truth.boxes.unbind(1)
    masks = None if truth.masks is None else truth.masks.transpose(1, 2).contiguous()
    class_map = None if truth.class_map is None else truth.class_map.T.contiguous()
    size = (truth.size[1], truth.size[0])
    return replace(truth, size=size, boxes=torch.stack([y0, x0, y1, x1], 1), masks=masks, class_map=class_map)


def _cut(pixels: Tensor, rectangle: Rectangle) -> Tensor:
    top, left, height, width = rectangle
    return pixels[..., top : top + height, left : left + width]


def _put(pixels: Tensor, rectangle: Rectangle, size: Size, empty: float) -> Tensor:
    """Pixels at a rectangle of a larger, empty plane."""
    if rectangle == (0, 0, *size):
        return pixels.contiguous()
    plane = pixels.new_full((*pixels.shape[:-2], *size), empty)
    _cut(plane, rectangle).copy_(pixels)
    return plane


def _nearest(pixels: Tensor, size: Size) -> Tensor:
    """Each new pixel takes the value of the old pixel that contains its middle."""
    if tuple(pixels.shape[-2:]) == tuple(size):
        return pixels
    rows, columns = (
        (np.arange(new) * 2 + 1) * old // (2 * new) for new, old in zip(size, pixels.shape[-2:], strict=True)
    )
    # NumPy gathers bytes about twice as fast as PyTorch's CPU does.
    return torch.from_numpy(pixels.cpu().numpy()[..., rows, :][..., columns]).to(pixels.device)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1)
