"""How well probabilities put images, or classes, in order: precision and recall, ROC, and the first few classes.

All curves are of one class against the rest: its images are positive, and a threshold on its probability says which are
taken to be. Images of equal probability pass a threshold together.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class PrecisionRecall:
    """Precision over recall, as the threshold falls from the largest probability to the smallest.

    Args:
        precision: float64 (P,), of the images at or above a threshold, the share that is positive.
        recall: float64 (P,), of the positive images, the share that is there; rising.
        threshold: float32 (P,), the probabilities that occur; falling.
    """

    precision: Tensor
    recall: Tensor
    threshold: Tensor

    @property
    def average_precision(self) -> float:
        """The sum over the thresholds of (recall - recall before) * precision, the area under the steps.

        No interpolation, which would promise what no threshold keeps (Davis and Goadrich 2006).
        """
        before = torch.cat([self.recall.new_zeros(1), self.recall[:-1]])
        return float(((self.recall - before) * self.precision).sum())


@dataclass(frozen=True, eq=False)
class Roc:
    """The receiver operating characteristic, as the threshold falls; from (0, 0), where no image passes, to (1, 1).

    Args:
        false_positive_rate: float64 (P + 1,), of the negative images, the share at or above a threshold; rising.
        true_positive_rate: float64 (P + 1,), the same of the positive images.
    """

    false_positive_rate: Tensor
    true_positive_rate: Tensor

    @property
    def area(self) -> float:
        """The area under the curve by trapezoids.

        The probability that a positive image has a larger probability than a negative one, ties counted half (Hanley
        and McNeil 1982).
        """
        return float(torch.trapezoid(self.true_positive_rate, self.false_positive_rate))


def precision_recall(probability: Tensor, positive: Tensor) -> PrecisionRecall | None:
    """The curve of probabilities (N,) of a class and of bool (N,), whether an image is of it; None without such images.

    >>> curve = precision_recall(torch.tensor([0.9, 0.8, 0.4, 0.2]), torch.tensor([True, False, True, False]))
    >>> curve.recall.tolist(), round(curve.average_precision, 4)
    ([0.5, 0.5, 1.0, 1.0], 0.8333)
    """
    threshold, hits, misses = _passing(probability, positive)
    if not hits[-1]:
        return None
    return PrecisionRecall(hits / (hits + misses), hits / hits[-1], threshold)


def roc(probability: Tensor, positive: Tensor) -> Roc | None:
    """The curve, arguments as of :func:`precision_recall`; None where all images are positive, or all are negative.

    >>> roc(torch.tensor([0.9, 0.8, 0.4, 0.2]), torch.tensor([True, False, True, False])).area
    0.75
    """
    _, hits, misses = _passing(probability, positive)
    if not hits[-1] or not misses[-1]:
        return None
    start = hits.new_zeros(1)
    return Roc(torch.cat([start, misses / misses[-1]]), torch.cat([start, hits / hits[-1]]))


def _passing(probability: Tensor, positive: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Thresholds, and the positive and the negative images at or above each, as float64; all of them (P,)."""
    threshold, order = probability.sort(descending=True)
    last = torch.cat([threshold[1:] != threshold[:-1], torch.ones(1, dtype=torch.bool)])  # of its equals
    hits = positive[order].double().cumsum(0)[last]
    passed = torch.arange(1, len(order) + 1, dtype=torch.float64)[last]
    return threshold[last], hits, passed - hits


def ranks(probabilities: Tensor, labels: Tensor) -> Tensor:
    """How many classes stand before the true one, int64 (N,); of equal probabilities the first class comes first.

    Args:
        probabilities: float32 (N, K).
        labels: int64 (N,).

    >>> ranks(torch.tensor([[0.1, 0.6, 0.3], [0.4, 0.4, 0.2]]), torch.tensor([2, 1])).tolist()
    [1, 1]
    """
    true = probabilities.gather(1, labels[:, None])
    earlier = torch.arange(probabilities.shape[1]) < labels[:, None]
    return (probabilities > true).sum(1) + ((probabilities == true) & earlier).sum(1)
