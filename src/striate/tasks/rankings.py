"""How well probabilities put images, or classes, in order: precision and recall, ROC, and the first few classes.

Images of equal probability pass a threshold together.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Ranking:
    """One class against the rest: what passes a threshold on its probability, as the threshold falls.

    Args:
        threshold: float32 (P,), the probabilities that occur, falling.
        hits: float64 (P,), images of the class at or above each threshold.
        misses: float64 (P,), images of other classes there.

    >>> found = Ranking.of(torch.tensor([0.9, 0.8, 0.4, 0.2]), torch.tensor([True, False, True, False]))
    >>> found.recall.tolist(), round(found.average_precision, 4), found.roc_area
    ([0.5, 0.5, 1.0, 1.0], 0.8333, 0.75)
    """

    threshold: Tensor
    hits: Tensor
    misses: Tensor

    @classmethod
    def of(cls, probability: Tensor, positive: Tensor) -> Ranking:
        """That of probabilities, float32 (N,), and of bool (N,), whether an image is of the class."""
        threshold, order = probability.sort(descending=True)
        last = torch.cat([threshold[1:] != threshold[:-1], torch.ones(1, dtype=torch.bool)])  # of its equals
        hits = positive[order].double().cumsum(0)[last]
        passed = torch.arange(1, len(order) + 1, dtype=torch.float64)[last]
        return cls(threshold[last], hits, passed - hits)

    @property
    def precision(self) -> Tensor:
        """Of the images that pass, the share that is of the class, float64 (P,)."""
        return self.hits / (self.hits + self.misses)

    @property
    def recall(self) -> Tensor:
        """Of the images of the class, the share that passes, float64 (P,), rising; NaN where there are none."""
        return self.hits / self.hits[-1]

    @property
    def false_positive_rate(self) -> Tensor:
        """Of the other images, the share that passes, float64 (P,), rising; NaN where there are none."""
        return self.misses / self.misses[-1]

    @property
    def average_precision(self) -> float | None:
        """The sum over the thresholds of (recall - recall before) * precision; None without images of the class.

        It is the area under the steps, without interpolation, which would promise what no threshold keeps (Davis and
        Goadrich, "The relationship between precision-recall and ROC curves", ICML 2006).
        """
        gained = self.recall.diff(prepend=self.recall.new_zeros(1))
        return float(gained @ self.precision) if self.hits[-1] else None

    @property
    def roc_area(self) -> float | None:
        """The area under recall over false positive rate, by trapezoids; None where all images are of one side.

        That is the probability that an image of the class has a larger probability than another image, ties counted
        half (Hanley and McNeil, Radiology 143, 1982).
        """
        if not self.hits[-1] or not self.misses[-1]:
            return None
        start = self.hits.new_zeros(1)
        return float(torch.trapezoid(*(torch.cat([start, rate]) for rate in (self.recall, self.false_positive_rate))))


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
