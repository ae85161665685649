"""Losses of detection and segmentation: focal, Dice, Lovász-softmax.

Each takes logits. The loss of no elements is 0, not NaN, and its gradients are 0.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from striate.errors import OperandError
from striate.ops._calls import check_tensor
from striate.ops.boxes import Reduction, reduced, wide


def sigmoid_focal_loss(
    inputs: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2, reduction: Reduction = "none"
) -> Tensor:
    """Binary cross entropy, weighted by how wrong each element is: -a (1 - p)^gamma log p, p of the right answer.

    Args:
        inputs: logits of any shape.
        targets: the same shape, 0 or 1 or between.
        alpha: the weight of ones; zeros have the weight 1 - alpha. A negative alpha means that both count alike.
        gamma: 0 is cross entropy; the larger gamma is, the less easy elements count.
        reduction: ``"none"``, ``"mean"`` (0 where there are no elements) or ``"sum"``.

    Returns:
        As ``inputs``, or a number.

    Raises:
        OperandError: shapes that differ.

    Source: Lin et al., "Focal loss for dense object detection" (2017), equation 5.

    >>> sigmoid_focal_loss(torch.tensor([0.0, 4.0]), torch.tensor([1.0, 1.0]))
    tensor([4.3322e-02, 1.4679e-06])
    """
    call = "sigmoid_focal_loss"
    check_tensor(call, "inputs", inputs)
    check_tensor(call, "targets", targets)
    if inputs.shape != targets.shape:
        got = f"got inputs of shape {tuple(inputs.shape)} and targets of shape {tuple(targets.shape)}"
        raise OperandError(call, got, "needed one shape")
    inputs = wide(inputs)
    targets = targets.to(inputs)
    entropy = F.binary_cross_entropy_with_logits(inputs, targets, reduction="none")
    # 1 - p would lose the digits of a p near 1, and a power below 1 has no gradient at 0.
    wrong = inputs.sigmoid() * (1 - targets) + (-inputs).sigmoid() * targets
    losses = entropy * wrong.clamp(min=torch.finfo(wrong.dtype).tiny).pow(gamma)
    if alpha >= 0:
        losses = losses * (alpha * targets + (1 - alpha) * (1 - targets))
    return reduced(call, losses, reduction)


def dice_loss(
    inputs: Tensor, targets: Tensor, ignore_index: int | None = None, smooth: float = 1.0, reduction: Reduction = "mean"
) -> Tensor:
    """1 - (2 |P and T| + smooth) / (|P| + |T| + smooth), P being probabilities.

    Args:
        inputs: logits, (N, K, ...) for K classes; or (N, ...) for masks.
        targets: for classes int64 (N, ...), from 0 to K - 1; for masks as ``inputs``, 0 or 1 or between.
        ignore_index: a class of ``targets`` whose positions don't count.
        smooth: added to numerator and denominator, in positions; gives absent classes a loss of 0.
        reduction: over images and classes, or images and masks.

    Returns:
        A number; for ``"none"`` (N, K) of classes, (N,) of masks.

    Raises:
        OperandError: shapes that don't fit.

    Source: Milletari, Navab & Ahmadi, "V-Net" (2016), section 3, without squares.

    >>> dice_loss(torch.tensor([[9.0, -9.0]]), torch.tensor([[1.0, 0.0]])).round(decimals=3)
    tensor(0.)
    """
    call = "dice_loss"
    check_tensor(call, "inputs", inputs)
    check_tensor(call, "targets", targets)
    inputs = wide(inputs)
    if inputs.shape == targets.shape:
        p, truth = inputs.sigmoid().flatten(1), targets.to(inputs).flatten(1)
        if ignore_index is not None:
            counts = (targets != ignore_index).flatten(1)
            p, truth = p * counts, truth.where(counts, 0)
    else:
        labels, counts = _labels(call, inputs, targets, ignore_index)
        p = inputs.softmax(1).flatten(2) * counts[:, None]
        truth = F.one_hot(labels, inputs.shape[1]).movedim(-1, 1).to(inputs) * counts[:, None]
    shared, total = (p * truth).sum(-1), p.sum(-1) + truth.sum(-1)
    losses = 1 - (2 * shared + smooth) / (total + smooth).clamp(min=torch.finfo(total.dtype).tiny)
    return reduced(call, losses, reduction)


def lovasz_softmax(
    inputs: Tensor,
    targets: Tensor,
    ignore_index: int | None = 255,
    classes: Literal["present", "all"] = "present",
    per_image: bool = False,
) -> Tensor:
    """The Lovász extension of 1 - IoU, averaged over classes: a loss that corresponds to mean IoU.

    For a class let m be its errors (1 - p at positions of the class, p elsewhere) in descending order. The loss is the
    sum over i of m[i] * (J[i] - J[i - 1]). J[i] is 1 - IoU if the first i positions are wrong and the others right.

    Args:
        inputs: logits, (N, K, ...).
        targets: int64 (N, ...), from 0 to K - 1.
        ignore_index: a class of ``targets`` whose positions don't count.
        classes: ``"present"`` averages over the classes that occur in ``targets``, ``"all"`` over all classes.
        per_image: average the losses of the images; else all positions of the batch are one set.

    Returns:
        A number; 0 where no position counts.

    Raises:
        OperandError: shapes that don't fit.

    Source: Berman, Triki & Blaschko, "The Lovász-softmax loss" (2018), equations 8, 9 and 11 and algorithm 1.

    >>> lovasz_softmax(torch.tensor([[[9.0, -9.0], [-9.0, 9.0]]]), torch.tensor([[0, 1]])).round(decimals=3)
    tensor(0.)
    """
    call = "lovasz_softmax"
    check_tensor(call, "inputs", inputs)
    check_tensor(call, "targets", targets)
    if classes not in ("present", "all"):
        raise OperandError(call, f"got classes {classes!r}", 'needed "present" or "all"')
    inputs = wide(inputs)
    labels, counts = _labels(call, inputs, targets, ignore_index)
    probabilities = inputs.softmax(1).flatten(2)
    if not per_image:
        labels, counts = labels.reshape(1, -1), counts.reshape(1, -1)
        probabilities = probabilities.movedim(1, 0).flatten(1)[None]
    losses = [
        _lovasz(p[:, some], truth[some], classes == "present")
        for p, truth, some in zip(probabilities, labels, counts, strict=True)
    ]
    return torch.stack(losses).mean() if losses else inputs.sum() * 0


def _lovasz(probabilities: Tensor, labels: Tensor, present: bool) -> Tensor:
    """Of (K, P) and (P,)."""
    truth = F.one_hot(labels, len(probabilities)).T.to(probabilities)
    errors, order = (truth - probabilities).abs().sort(dim=1, descending=True, stable=True)
    hits = truth.gather(1, order)
    count = hits.sum(1, keepdim=True)
    shared = count - hits.cumsum(1)
    union = count + (1 - hits).cumsum(1)
    jaccard = 1 - shared / union
    steps = torch.diff(jaccard, dim=1, prepend=jaccard.new_zeros(len(jaccard), 1))
    losses = (errors * steps).sum(1)
    seen = (count[:, 0] > 0) if present else torch.ones_like(count[:, 0], dtype=torch.bool)
    return (losses * seen).sum() / seen.sum().clamp(min=1)


def _labels(call: str, inputs: Tensor, targets: Tensor, ignore_index: int | None) -> tuple[Tensor, Tensor]:
    """Classes of (N, P) positions, and which positions count; the class of one that doesn't count is arbitrary."""
    if inputs.dim() < 2 or targets.shape != (inputs.shape[0], *inputs.shape[2:]):
        got = f"got inputs of shape {tuple(inputs.shape)} and targets of shape {tuple(targets.shape)}"
        raise OperandError(call, got, "needed (N, K, ...) and (N, ...)")
    labels = targets.long().flatten(1)
    counts = torch.ones_like(labels, dtype=torch.bool) if ignore_index is None else labels != ignore_index
    return labels.where(counts, 0), counts
