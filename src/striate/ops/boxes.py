"""Boxes as four numbers: areas, overlaps, conversions, clipping, and the losses that follow from overlaps.

A box is ``x1 y1 x2 y2`` in pixels with ``x1 <= x2`` and ``y1 <= y2``, unless a function says otherwise. Narrow numbers
(float16, bfloat16) are computed in float32 and whole numbers in 64 bits, so that areas don't overflow.

Overlaps of a box without area are 0, not 0 / 0. Gradients of the losses are finite for every finite box.
"""

from __future__ import annotations

import math
from typing import Final, Literal

import torch
from torch import Tensor

from striate.errors import GeometryError, OperandError
from striate.ops._calls import check_tensor

Reduction = Literal["none", "mean", "sum"]
BoxFormat = Literal["xyxy", "xywh", "cxcywh"]

_FORMATS: Final = ("xyxy", "xywh", "cxcywh")


def check_boxes(call: str, boxes: Tensor, name: str = "boxes") -> None:
    """Boxes are (..., 4)."""
    check_tensor(call, name, boxes)
    if boxes.dim() < 1 or boxes.shape[-1] != 4:
        raise OperandError(call, f"got {name} of shape {tuple(boxes.shape)}", "needed (N, 4)")


def wide(tensor: Tensor) -> Tensor:
    """The numbers in a type that holds products of coordinates."""
    if tensor.is_floating_point():
        return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()
    return tensor.long()


def box_area(boxes: Tensor) -> Tensor:
    """The area of each box.

    Args:
        boxes: (..., 4), ``x1 y1 x2 y2``.

    Returns:
        (...), pixels squared.

    >>> box_area(torch.tensor([[0.0, 0.0, 4.0, 3.0]]))
    tensor([12.])
    """
    check_boxes("box_area", boxes)
    boxes = wide(boxes)
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def _tiny(tensor: Tensor) -> float:
    return torch.finfo(tensor.dtype).tiny


def _float(tensor: Tensor) -> Tensor:
    return tensor if tensor.is_floating_point() else tensor.float()


def _pairs(call: str, boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    """Two sets of boxes as (N, 1, 4) and (1, M, 4)."""
    check_boxes(call, boxes1, "boxes1")
    check_boxes(call, boxes2, "boxes2")
    return wide(boxes1)[..., :, None, :], wide(boxes2)[..., None, :, :]


def _overlap(one: Tensor, other: Tensor, soft: float = 0.0) -> tuple[Tensor, Tensor]:
    """Intersection over union, and the union, of boxes that broadcast; ``soft`` is added to what is divided by."""
    size = (torch.minimum(one[..., 2:], other[..., 2:]) - torch.maximum(one[..., :2], other[..., :2])).clamp(min=0)
    shared = size[..., 0] * size[..., 1]
    union = _float(box_area(one) + box_area(other) - shared)
    return shared / (union + soft).clamp(min=_tiny(union)), union


def _hull(one: Tensor, other: Tensor) -> Tensor:
    """Width and height of the smallest box around both, (..., 2)."""
    return torch.maximum(one[..., 2:], other[..., 2:]) - torch.minimum(one[..., :2], other[..., :2])


def _generalized(one: Tensor, other: Tensor, soft: float = 0.0) -> Tensor:
    overlap, union = _overlap(one, other, soft)
    size = _hull(one, other).clamp(min=0)
    hull = _float(size[..., 0] * size[..., 1])
    return overlap - (hull - union) / (hull + soft).clamp(min=_tiny(hull))


def _distance(one: Tensor, other: Tensor, eps: float, soft: float = 0.0) -> tuple[Tensor, Tensor]:
    """Distance IoU, and the plain one."""
    overlap, _ = _overlap(one, other, soft)
    between = (_float(one[..., :2] + one[..., 2:]) - _float(other[..., :2] + other[..., 2:])) / 2
    diagonal = _float(_hull(one, other)).square().sum(-1)
    return overlap - between.square().sum(-1) / (diagonal + eps).clamp(min=_tiny(diagonal)), overlap


def _complete(one: Tensor, other: Tensor, eps: float, soft: float = 0.0) -> Tensor:
    distance, overlap = _distance(one, other, eps, soft)
    unlike = (4 / math.pi**2) * (_slope(one) - _slope(other)).square()
    with torch.no_grad():
        share = unlike / (1 - overlap + unlike + eps).clamp(min=_tiny(unlike))
    return distance - share * unlike


def _slope(boxes: Tensor) -> Tensor:
    """The angle whose tangent is width over height."""
    size = _float(boxes[..., 2:] - boxes[..., :2])
    # The gradient divides by the square of the larger side. A box whose square is 0 counts as one pixel, and gets none.
    size = torch.where((size > math.sqrt(_tiny(size))).any(-1, keepdim=True), size, 1)
    return torch.atan2(size[..., 0], size[..., 1])


def box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Intersection over union of all pairs.

    Args:
        boxes1: (N, 4).
        boxes2: (M, 4).

    Returns:
        (N, M), from 0 to 1. A box without area overlaps nothing, itself included.

    Raises:
        OperandError: no tensors of four columns.

    >>> box_iou(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[1.0, 0.0, 3.0, 2.0], [5.0, 5.0, 6.0, 6.0]]))
    tensor([[0.3333, 0.0000]])
    """
    return _overlap(*_pairs("box_iou", boxes1, boxes2))[0]


def generalized_box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """IoU of all pairs, less the share of the smallest box around both that neither covers.

    Returns:
        (N, M), from -1 (far apart) to 1.

    Source: Rezatofighi et al., "Generalized intersection over union" (2019), algorithm 1.
    """
    return _generalized(*_pairs("generalized_box_iou", boxes1, boxes2))


def distance_box_iou(boxes1: Tensor, boxes2: Tensor, eps: float = 1e-7) -> Tensor:
    """IoU of all pairs, less the squared distance of the centres as a share of the squared diagonal around both.

    Returns:
        (N, M), from -1 to 1.

    Source: Zheng et al., "Distance-IoU loss" (2020), equations 6 and 7.
    """
    return _distance(*_pairs("distance_box_iou", boxes1, boxes2), eps)[0]


def complete_box_iou(boxes1: Tensor, boxes2: Tensor, eps: float = 1e-7) -> Tensor:
    """Distance IoU of all pairs, less a term for unlike aspect ratios.

    Returns:
        (N, M).

    Source: Zheng et al., "Distance-IoU loss" (2020), equations 8 to 11.
    """
    return _complete(*_pairs("complete_box_iou", boxes1, boxes2), eps)


def _beside(call: str, boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    check_boxes(call, boxes1, "boxes1")
    check_boxes(call, boxes2, "boxes2")
    if boxes1.shape != boxes2.shape:
        raise OperandError(call, f"got {tuple(boxes1.shape)} and {tuple(boxes2.shape)}", "needed boxes in pairs")
    return _float(wide(boxes1)), _float(wide(boxes2))


def reduced(call: str, losses: Tensor, reduction: str) -> Tensor:
    """Reduces losses: none, sum or mean. The mean of no losses is 0."""
    match reduction:
        case "none":
            return losses
        case "sum":
            return losses.sum()
        case "mean":
            return losses.sum() / max(losses.numel(), 1)
    raise OperandError(call, f"got reduction {reduction!r}", 'needed "none", "mean" or "sum"')


def generalized_box_iou_loss(
    boxes1: Tensor, boxes2: Tensor, reduction: Reduction = "none", eps: float = 1e-7
) -> Tensor:
    """1 - generalised IoU of boxes in pairs.

    Args:
        boxes1, boxes2: (N, 4) each; row by row.
        reduction: ``"none"``, ``"mean"`` (0 where there are no boxes) or ``"sum"``.
        eps: added to what is divided by.

    Returns:
        (N,) or a number.

    Source: Rezatofighi et al., "Generalized intersection over union" (2019), algorithm 2.
    """
    call = "generalized_box_iou_loss"
    return reduced(call, 1 - _generalized(*_beside(call, boxes1, boxes2), eps), reduction)


def distance_box_iou_loss(boxes1: Tensor, boxes2: Tensor, reduction: Reduction = "none", eps: float = 1e-7) -> Tensor:
    """1 - distance IoU of boxes in pairs. Arguments and result as :func:`generalized_box_iou_loss`.

    Source: Zheng et al., "Distance-IoU loss" (2020), equation 7.
    """
    call = "distance_box_iou_loss"
    return reduced(call, 1 - _distance(*_beside(call, boxes1, boxes2), eps, eps)[0], reduction)


def complete_box_iou_loss(boxes1: Tensor, boxes2: Tensor, reduction: Reduction = "none", eps: float = 1e-7) -> Tensor:
    """1 - complete IoU of boxes in pairs. Arguments and result as :func:`generalized_box_iou_loss`.

    The weight of the aspect ratio's term counts as a constant for gradients, as in the paper.

    Source: Zheng et al., "Distance-IoU loss" (2020), equation 10.
    """
    call = "complete_box_iou_loss"
    return reduced(call, 1 - _complete(*_beside(call, boxes1, boxes2), eps, eps), reduction)


def box_convert(boxes: Tensor, in_fmt: BoxFormat, out_fmt: BoxFormat) -> Tensor:
    """Boxes in another notation.

    Args:
        boxes: (..., 4).
        in_fmt, out_fmt: ``"xyxy"`` (two corners), ``"xywh"`` (the corner at the top left, width, height) or
            ``"cxcywh"`` (the centre, width, height).

    Returns:
        (..., 4), a tensor of its own.

    Raises:
        GeometryError: another notation.

    >>> box_convert(torch.tensor([[1.0, 2.0, 4.0, 6.0]]), "xyxy", "cxcywh")
    tensor([[2.5000, 4.0000, 3.0000, 4.0000]])
    """
    check_boxes("box_convert", boxes)
    for name in (in_fmt, out_fmt):
        if name not in _FORMATS:
            raise GeometryError("box_convert", f"got {name!r}", f"needed one of {', '.join(_FORMATS)}")
    if in_fmt == out_fmt:
        return boxes.clone()
    first, second = boxes[..., :2], boxes[..., 2:]
    if in_fmt == "xywh":
        first, second = first, first + second
    elif in_fmt == "cxcywh":
        first, second = first - second / 2, first + second / 2
    if out_fmt == "xywh":
        first, second = first, second - first
    elif out_fmt == "cxcywh":
        first, second = (first + second) / 2, second - first
    return torch.cat([first, second], -1)


def clip_boxes(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes cut off at the image's borders.

    Args:
        boxes: (..., 4).
        size: height and width of the image, pixels.

    Returns:
        (..., 4); boxes that lie outside have no area.

    >>> clip_boxes(torch.tensor([[-1.0, 2.0, 9.0, 5.0]]), (4, 8))
    tensor([[0., 2., 8., 4.]])
    """
    check_boxes("clip_boxes", boxes)
    height, width = size
    x, y = boxes[..., 0::2].clamp(min=0, max=width), boxes[..., 1::2].clamp(min=0, max=height)
    return torch.stack([x, y], -1).flatten(-2)


def remove_small_boxes(boxes: Tensor, min_size: float) -> Tensor:
    """Which boxes are at least ``min_size`` wide and high.

    Args:
        boxes: (N, 4).
        min_size: pixels.

    Returns:
        (K,) int64, indices in rising order.

    >>> remove_small_boxes(torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 9.0, 1.0]]), 2.0)
    tensor([0])
    """
    check_boxes("remove_small_boxes", boxes)
    size = boxes[:, 2:] - boxes[:, :2]
    return (size >= min_size).all(1).nonzero().flatten()


def masks_to_boxes(masks: Tensor, far_edge: bool = False) -> Tensor:
    """The smallest box around each mask.

    Args:
        masks: (N, H, W); what is not 0 belongs to the object.
        far_edge: whether ``x2 y2`` are the far edges of the last column and row, as :class:`striate.data.Annotation`
            counts, so that a single pixel has an area of 1; else they are that column and row, as torchvision's.

    Returns:
        (N, 4) float32; zeros for a mask without pixels.

    Raises:
        OperandError: another rank.

    >>> mask = torch.zeros(1, 5, 5)
    >>> mask[0, 1:3, 2:4] = 1
    >>> masks_to_boxes(mask), masks_to_boxes(mask, far_edge=True)
    (tensor([[2., 1., 3., 2.]]), tensor([[2., 1., 4., 3.]]))
    """
    check_tensor("masks_to_boxes", "masks", masks)
    if masks.dim() != 3:
        raise OperandError("masks_to_boxes", f"got masks of shape {tuple(masks.shape)}", "needed (N, H, W)")
    if 0 in masks.shape:
        return torch.zeros(masks.shape[0], 4, device=masks.device)
    seen = masks != 0
    edges = []
    for lines in (seen.any(1), seen.any(2)):
        length = lines.shape[1]
        first = lines.int().argmax(1)
        last = length - 1 - lines.flip(1).int().argmax(1)
        edges.append((first, last + int(far_edge)))
    (left, right), (top, bottom) = edges
    boxes = torch.stack([left, top, right, bottom], 1).float()
    return boxes * seen.flatten(1).any(1)[:, None]
