"""Non-maximum suppression (NMS): among boxes that overlap much, only the one with the best score stays.

Boxes are processed by descending score; boxes with equal scores keep their order. A box that stays suppresses all later
boxes whose intersection over union with it is above the threshold. So box j stays exactly if no earlier box that stays
overlaps it:

    stays[j] = not any over i < j of (stays[i] and iou[i, j] > threshold)

The equation has one solution, because stays[j] depends on earlier boxes only. It can be solved by iteration: whatever
the first guess is, after n rounds the first n boxes are right, and usually a few rounds suffice for all. So blocks of
boxes are solved together. First, boxes kept from earlier blocks suppress boxes of the block; then the rounds are
repeated within the block until nothing changes.
"""

from __future__ import annotations

from typing import Final, cast

import torch
from torch import Tensor
from torch._compile import _disable_dynamo

from striate.engine import traced
from striate.engine.llvm.regions import nms as kernel
from striate.errors import OperandError
from striate.ops._calls import check_tensor
from striate.ops.boxes import wide

#: Boxes of a block; the table of their overlaps has the square of this number.
_BLOCK: Final = 2048
#: Up to this number of boxes, each class is moved to a place of its own, as in torchvision.
_MOVED: Final = {"cpu": 1000}
_MOVED_ELSEWHERE: Final = 5000


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """The boxes that non-maximum suppression leaves.

    Args:
        boxes: (N, 4), ``x1 y1 x2 y2``.
        scores: (N,).
        iou_threshold: a box goes if its IoU with a better one that stays is above this.

    Returns:
        (K,) int64, indices by descending score; equal scores keep their order.

    Raises:
        OperandError: shapes or devices that don't fit.

    Source: Felzenszwalb et al., "Object detection with discriminatively trained part-based models" (2010), section 7.2.

    >>> boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 3.0], [5.0, 5.0, 9.0, 9.0]])
    >>> nms(boxes, torch.tensor([0.5, 0.9, 0.7]), 0.5)
    tensor([1, 2])
    """
    _check("nms", boxes, scores)
    return _suppressed(boxes, scores, None, iou_threshold)


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """:func:`nms` for each class, or each image, by itself.

    Args:
        boxes, scores, iou_threshold: as in :func:`nms`.
        idxs: (N,) whole numbers; boxes with different ones don't suppress each other.

    Returns:
        (K,) int64, indices by descending score.

    Raises:
        OperandError: shapes or devices that don't fit.

    >>> boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 3.0]])
    >>> batched_nms(boxes, torch.tensor([0.5, 0.9]), torch.tensor([0, 1]), 0.5)
    tensor([1, 0])
    """
    _check("batched_nms", boxes, scores)
    check_tensor("batched_nms", "idxs", idxs)
    if idxs.shape != scores.shape:
        got = f"got idxs of shape {tuple(idxs.shape)} for boxes of shape {tuple(boxes.shape)}"
        raise OperandError("batched_nms", got, "needed (N,)")
    boxes = wide(boxes)
    if torch.compiler.is_exporting():
        # In an exported file, boxes stay where they are: far from 0, float32 has fewer digits after the point.
        boxes = boxes.detach() if boxes.is_floating_point() else boxes.float()
        return cast(Tensor, torch.ops.striate.batched_nms(boxes, scores.detach(), idxs, float(iou_threshold)))
    most = _MOVED.get(boxes.device.type, _MOVED_ELSEWHERE)
    if not traced(boxes, scores, idxs) and len(boxes) > most:
        return _suppressed(boxes, scores, idxs, iou_threshold)
    # If there are few boxes, torchvision moves those of each class to a place of their own, which rounds their
    # coordinates. Doing the same here keeps the same boxes.
    corners = torch.cat([boxes.new_zeros(1, 4), boxes])
    moved = boxes + (idxs.to(boxes) * (corners.max() - corners.min() + 1))[:, None]
    return _suppressed(moved, scores, None, iou_threshold)


def _check(call: str, boxes: Tensor, scores: Tensor) -> None:
    check_tensor(call, "boxes", boxes)
    check_tensor(call, "scores", scores)
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise OperandError(call, f"got boxes of shape {tuple(boxes.shape)}", "needed (N, 4)")
    if scores.dim() != 1 or scores.shape[0] != boxes.shape[0]:
        got = f"got scores of shape {tuple(scores.shape)} for boxes of shape {tuple(boxes.shape)}"
        raise OperandError(call, got, "needed (N,)")
    if boxes.device != scores.device:
        raise OperandError(call, f"got boxes on {boxes.device} and scores on {scores.device}", "needed one device")


def _suppressed(boxes: Tensor, scores: Tensor, classes: Tensor | None, threshold: float) -> Tensor:
    boxes = wide(boxes.detach())
    boxes = boxes if boxes.is_floating_point() else boxes.float()
    if not traced(boxes, scores):
        return suppressed(boxes, scores.detach(), classes, threshold)
    if torch.compiler.is_compiling() and not torch.compiler.is_exporting():
        return _uncompiled(boxes, scores.detach(), classes, threshold)
    return cast(Tensor, torch.ops.striate.nms(boxes, scores.detach(), float(threshold)))


def suppressed(boxes: Tensor, scores: Tensor, classes: Tensor | None, threshold: float) -> Tensor:
    """:func:`batched_nms` of checked float32 or float64 boxes; without classes, all boxes are of one class."""
    order = scores.sort(stable=True, descending=True).indices
    limit = _below(threshold, boxes.dtype)
    if not kernel.takes(boxes):
        return order[_by_blocks(boxes[order], None if classes is None else classes[order], limit)]
    if classes is None:
        return order[kernel.stays(boxes[order], torch.full_like(order, len(order)), limit)]
    together = classes[order].sort(stable=True)
    ends = torch.searchsorted(together.values, together.values, right=True)
    stays = torch.empty_like(order, dtype=torch.bool)
    stays[together.indices] = kernel.stays(boxes[order[together.indices]], ends, limit)
    return order[stays]


#: A compiler can't know how many boxes stay, and can't read kernels. (Importing the compiler here takes a second.)
_uncompiled: Final = _disable_dynamo(suppressed)


def _by_blocks(boxes: Tensor, classes: Tensor | None, limit: float) -> Tensor:
    """Indices of the ordered boxes that stay."""
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept = torch.zeros(0, dtype=torch.int64, device=boxes.device)
    for begin in range(0, len(boxes), _BLOCK):
        block = torch.arange(begin, min(begin + _BLOCK, len(boxes)), device=boxes.device)
        for earlier in kept.split(_BLOCK):
            block = block[~_suppress(boxes, areas, classes, earlier, block, limit).any(0)]
        pairs = _suppress(boxes, areas, classes, block, block, limit).triu(1)
        stays = torch.ones_like(block, dtype=torch.bool)
        while True:
            again = ~(pairs & stays[:, None]).any(0)
            if torch.equal(again, stays):
                break
            stays = again
        kept = torch.cat([kept, block[stays]])
    return kept


def _suppress(
    boxes: Tensor, areas: Tensor, classes: Tensor | None, first: Tensor, second: Tensor, limit: float
) -> Tensor:
    """Whether each of the ``first`` boxes overlaps each of the ``second`` too much, (M, N)."""
    one, other = boxes[first][:, None], boxes[second][None]
    size = (torch.minimum(one[..., 2:], other[..., 2:]) - torch.maximum(one[..., :2], other[..., :2])).clamp(min=0)
    shared = size[..., 0] * size[..., 1]
    # For two boxes without area this is 0 / 0, which is not above any threshold.
    above = shared / (areas[first][:, None] + areas[second][None] - shared) > limit
    return above if classes is None else above & (classes[first][:, None] == classes[second][None])


def _below(threshold: float, dtype: torch.dtype) -> float:
    """The largest number of a dtype that isn't above the threshold, so that comparisons with either are the same."""
    near = torch.tensor(float(threshold), dtype=dtype)
    if near.item() > threshold:
        near = torch.nextafter(near, torch.full_like(near, -torch.inf))
    return float(near)
