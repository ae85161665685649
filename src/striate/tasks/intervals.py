"""95 % confidence intervals of measured shares, and a summary over folds."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from torch import Tensor

from striate.errors import RunError
from striate.tasks.agreement import macro_f1

#: The lower and the upper end.
Interval: TypeAlias = tuple[float, float]

CONFIDENCE: Final = 0.95
_Z: Final = statistics.NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
_RESAMPLES: Final = 1000


@dataclass(frozen=True)
class Measure:
    """A number with its 95 % interval; None where it isn't defined, such as the recall of a class without images."""

    value: float | None
    interval: Interval | None = None

    @classmethod
    def share(cls, part: int, whole: int) -> Measure:
        """``part`` of ``whole`` images, with Wilson's interval; of no images, undefined."""
        return cls(part / whole, wilson(part, whole)) if whole else cls(None)

    def to_dict(self) -> dict[str, Any]:
        """Both fields, for JSON."""
        return {"value": self.value, "interval": None if self.interval is None else list(self.interval)}


def wilson(part: int, whole: int) -> Interval:
    """Wilson's score interval of a binomial share, at 95 %.

    It contains all shares q that a test at the 5 % level doesn't reject for the observed share p = part / whole, in the
    normal approximation: |p - q| <= z sqrt(q (1 - q) / whole). It lies within [0, 1], also if p is 0 or 1. E. B.
    Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22, 1927. Without images
    nothing is known: (0, 1).

    Args:
        part: images that count, from 0 to ``whole``.
        whole: images.

    >>> low, high = wilson(10, 10)
    >>> round(low, 4), high
    (0.7225, 1.0)
    """
    assert 0 <= part <= whole
    if not whole:
        return 0.0, 1.0
    share, square = part / whole, _Z**2
    middle = (share + square / (2 * whole)) / (1 + square / whole)
    half = _Z / (1 + square / whole) * math.sqrt(share * (1 - share) / whole + square / (4 * whole**2))
    # Ends that are exactly 0 or 1 must not be changed by rounding.
    return (0.0 if part == 0 else middle - half), (1.0 if part == whole else middle + half)


def bootstrap_macro_f1(confusion: Tensor, *, seed: int = 0, resamples: int = _RESAMPLES) -> Interval | None:
    """The 95 % interval of macro F1 under resampling of the images, by bias-corrected percentiles.

    The confusion matrix of N images drawn with replacement is multinomial in the cells of the given matrix, and macro
    F1 depends only on it. So matrices are drawn instead of images. Resamples lack some images of each class; with small
    classes their macro F1 is therefore lower than the sample's. The choice of percentiles corrects this bias (Efron and
    Tibshirani, "An introduction to the bootstrap", 1993, section 14.3, with an acceleration of 0).

    Args:
        confusion: int64 (K, K) counts, at least one image; row = true class, column = predicted class.
        seed: of the draws; the same counts and seed give the same interval.
        resamples: how many matrices are drawn.

    Returns:
        None if all resamples are equal, as for a sample without errors: an interval of width 0 would claim that no
        other value is possible.

    >>> low, high = bootstrap_macro_f1(torch.tensor([[40, 10], [5, 45]]))
    >>> 0.75 < low < 0.8 < 0.9 < high < 0.95
    True
    """
    cells = confusion.nonzero()
    counts = confusion[cells[:, 0], cells[:, 1]].numpy()
    images = int(counts.sum())
    size = len(confusion)
    random = np.random.default_rng(seed)
    found = np.empty(resamples)
    true, predicted = cells.unbind(1)
    same = true == predicted
    for number in range(resamples):
        drawn = torch.from_numpy(random.multinomial(images, counts / images))
        support, guesses, hits = (
            torch.zeros(size, dtype=torch.int64).index_add_(0, index, values)
            for index, values in ((true, drawn), (predicted, drawn), (true, drawn * same))
        )
        found[number] = macro_f1(hits, support, guesses)
    if found.min() == found.max():
        return None
    value = macro_f1(confusion.diagonal(), confusion.sum(1), confusion.sum(0))
    below = (np.mean(found < value) + np.mean(found <= value)) / 2
    normal = statistics.NormalDist()
    shift = 2 * normal.inv_cdf(min(max(float(below), 0.5 / resamples), 1 - 0.5 / resamples))
    low, high = np.quantile(found, [normal.cdf(shift - _Z), normal.cdf(shift + _Z)])
    return float(low), float(high)


@dataclass(frozen=True)
class FoldSummary:
    """One measure over the k folds of a cross-validation.

    Args:
        values: the measure on each fold's held-out images, k of them.

    Raises:
        RunError: fewer than two folds, or a value that isn't finite.

    >>> summary = FoldSummary((0.90, 0.92, 0.94))
    >>> round(summary.mean, 4), round(summary.deviation, 4), [round(end, 4) for end in summary.interval]
    (0.92, 0.02, [0.8414, 0.9986])
    """

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.values) < 2 or not all(map(math.isfinite, self.values)):
            raise RunError("folds", f"got the values {self.values}", "needed two or more finite numbers, one a fold")

    @property
    def mean(self) -> float:
        """The mean over the folds."""
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float:
        """The standard deviation of a fold, over n - 1."""
        return statistics.stdev(self.values)

    @property
    def interval(self) -> Interval:
        """The mean's 95 % interval by Student's t with k - 1 degrees of freedom; for a share it may exceed 0 or 1.

        Folds share most of their training images, so their values aren't independent, and s / sqrt(k) is too small an
        error of the mean. It is corrected as Nadeau and Bengio, "Inference for the generalization error", Machine
        Learning 52, 2003, section 3, do: s sqrt(1 / k + n_test / n_train), where here n_test / n_train = 1 / (k - 1).
        """
        from scipy.special import stdtrit

        k = len(self.values)
        half = float(stdtrit(k - 1, (1 + CONFIDENCE) / 2)) * self.deviation * math.sqrt(1 / k + 1 / (k - 1))
        return self.mean - half, self.mean + half

    def to_dict(self) -> dict[str, Any]:
        """Values, mean, deviation and interval, for JSON."""
        return {
            "values": list(self.values),
            "mean": self.mean,
            "standard_deviation": self.deviation,
            "interval": list(self.interval),
        }
