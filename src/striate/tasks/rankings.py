"""How well probabilities rank images or classes: precision and recall, ROC, top-k.

Images of equal probability pass a threshold together.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Ranking:
    """One class against the rest: counts of the images that pass a threshold on its probability.

    Args:
        threshold: float32 (P,), the probabilities that occur, in descending order.
        hits: float64 (P,), images of the class at or above each threshold.
        misses: float64 (P,), images of other classes at or above each threshold.

    >>> found = Ranking.of(torch.tensor([0.9, 0.8, 0.4, 0.2]), torch.tensor([True, False, True, False]))
    >>> found.recall.tolist(), round(found.average_precision, 4), found.roc_area
    ([0.5, 0.5, 1.0, 1.0], 0.8333, 0.75)
    """

    threshold: Tensor
    hits: Tensor
    misses: Tensor

    @classmethod
    def of(cls, probability: Tensor, positive: Tensor) -> Ranking:
        """From probabilities, float32 (N,), and bool (N,), whether an image is of the class."""
        threshold, order = probability.sort(descending=True)
        last = torch.cat([threshold[1:] != threshold[:-1], torch.ones(1, dtype=torch.bool)])  # of equal thresholds
        hits = positive[order].double().cumsum(0)[last]
        passed = torch.arange(1, len(order) + 1, dtype=torch.float64)[last]
        return cls(threshold[last], hits, passed - hits)

    @property
    def precision(self) -> Tensor:
        """The share of the passing images that is of the class, float64 (P,)."""
        return self.hits / (self.hits + self.misses)

    @property
    def recall(self) -> Tensor:
        """The share of the class's images that passes, float64 (P,), ascending; NaN if there are none."""
        return self.hits / self.hits[-1]

    @property
    def false_positive_rate(self) -> Tensor:
        """The share of the other images that passes, float64 (P,), ascending; NaN if there are none."""
        return self.misses / self.misses[-1]

    @property
    def average_precision(self) -> float | None:
        """The sum over the thresholds of (recall - recall before) * precision; None without images of the class.

        It is the area under the steps, without interpolation, which would overestimate it (Davis and Goadrich, "The
        relationship between precision-recall and ROC curves", ICML 2006).
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
    """The number of classes ranked before the true one, int64 (N,); equal probabilities keep the classes' order.

    Args:
        probabilities: float32 (N, K).
        labels: int64 (N,).

    >>> ranks(torch.tensor([[0.1, 0.6, 0.3], [0.4, 0.4, 0.2]]), torch.tensor([2, 1])).tolist()
    [1, 1]
    """
    true = probabilities.gather(1, labels[:, None])
    earlier = torch.arange(probabilities.shape[1]) < labels[:, None]
    return (probabilities > true).sum(1) + ((probabilities == true) & earlier).sum(1)
