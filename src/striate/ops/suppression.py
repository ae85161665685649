"""Non-maximum suppression: of boxes that overlap much the one with the best score stays.

Boxes are taken by falling score, equal scores in the order in which they came. One that is taken suppresses all later
ones whose intersection over union with it is above the threshold. So box j stays exactly if no box that stays comes
before it and overlaps it:

    stays[j] = not any over i < j of (stays[i] and iou[i, j] > threshold)

The equation has one solution, since stays[j] hangs on earlier boxes only. Put into the right side again and again, any
guess is right for the first n boxes after n rounds, and as a rule for all after a few. So blocks of boxes are solved
together: first what earlier blocks kept suppresses, then rounds within the block until nothing changes.
"""

from __future__ import annotations

from typing import Final, cast

import torch
from torch import Tensor
from torch._compile import _disable_dynamo

from striate.engine import traced
from striate.engine.llvm import nms as kernel
from striate.errors import OperandError
from striate.ops._calls import check_tensor
from striate.ops.boxes import wide

#: Boxes that are solved together: their table of overlaps has the square of it.
_BLOCK: Final = 2048
#: Boxes up to which classes are told apart by moving them, as torchvision does.
_MOVED: Final = {"cpu": 1000}
_MOVED_ELSEWHERE: Final = 5000


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """The boxes that non-maximum suppression leaves.

    Args:
        boxes: (N, 4), ``x1 y1 x2 y2``.
        scores: (N,).
        iou_threshold: a box goes if its IoU with a better one that stays is above this.

    Returns:
        (K,) int64, indices by falling score; of equal scores the first comes first.

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
        (K,) int64, indices by falling score.

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
        # The file's boxes stay in their places: far from 0 there are fewer digits behind the point.
        boxes = boxes.detach() if boxes.is_floating_point() else boxes.float()
        return cast(Tensor, torch.ops.striate.batched_nms(boxes, scores.detach(), idxs, float(iou_threshold)))
    most = _MOVED.get(boxes.device.type, _MOVED_ELSEWHERE)
    if not traced(boxes, scores, idxs) and len(boxes) > most:
        return _suppressed(boxes, scores, idxs, iou_threshold)
    # torchvision moves the boxes of each class to a place of their own where there are few, which rounds their
    # coordinates. The same boxes stay here as there only if the same is done.
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
    """:func:`batched_nms` of float32 or float64 boxes that somebody else has looked at, classes told apart if given."""
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


#: How many boxes stay a compiler can't say, and kernels it can't read. (Importing it here would take a second.)
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
    # Of two boxes without area this is 0 / 0, which is above nothing.
    above = shared / (areas[first][:, None] + areas[second][None] - shared) > limit
    return above if classes is None else above & (classes[first][:, None] == classes[second][None])


def _below(threshold: float, dtype: torch.dtype) -> float:
    """The largest number of a dtype that isn't above the threshold: what is above one is above the other."""
    near = torch.tensor(float(threshold), dtype=dtype)
    if near.item() > threshold:
        near = torch.nextafter(near, torch.full_like(near, -torch.inf))
    return float(near)
