"""Calibration: whether a network is right as often as its probabilities say, and a temperature that corrects them.

C. Guo, G. Pleiss, Y. Sun and K. Q. Weinberger, "On calibration of modern neural networks", ICML 2017.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

BINS: Final = 15
#: A probability of 0 counts as this one, the smallest normal float32, so that its logarithm is finite.
_LEAST: Final = torch.finfo(torch.float32).tiny
#: Temperatures outside these limits count as undefined: the scores contain no information to fit one.
_HOTTEST: Final = 1024.0
_CHUNK: Final = 1 << 22  # numbers in float64 at any one time


@dataclass(frozen=True)
class Reliability:
    """The reliability diagram as numbers: how often predictions of about equal confidence are right.

    Args:
        count: images whose confidence lies in bin m of M, that is, above (m - 1) / M and up to m / M.
        confidence: mean confidence of a bin's images; None for an empty bin.
        accuracy: share of a bin's images that is right; None for an empty bin.

    >>> curve = Reliability.of(torch.tensor([0.5, 0.9, 1.0]), torch.tensor([True, False, True]), bins=2)
    >>> curve.count, curve.accuracy
    ((1, 2), (1.0, 0.5))
    >>> round(curve.expected_error, 3), round(curve.maximum_error, 3)
    (0.467, 0.5)
    """

    count: tuple[int, ...]
    confidence: tuple[float | None, ...]
    accuracy: tuple[float | None, ...]

    @classmethod
    def of(cls, confidence: Tensor, correct: Tensor, bins: int = BINS) -> Reliability:
        """From float32 confidences (N,) and bool (N,), whether each prediction is right; ``bins`` of equal width.

        Bins are compared in float32, so that a confidence of 1/5 lies on the edge that is 1/5.
        """
        edges = torch.arange(1, bins, dtype=torch.float32) / bins
        bin_of = torch.bucketize(confidence, edges)
        count, sure, right = (
            torch.bincount(bin_of, weights, minlength=bins).tolist()
            for weights in (None, confidence.double(), correct.double())
        )
        confident, accurate = (
            tuple(total / n if n else None for total, n in zip(totals, count, strict=True)) for totals in (sure, right)
        )
        return cls(tuple(count), confident, accurate)

    @property
    def gaps(self) -> tuple[float, ...]:
        """|accuracy - mean confidence| of each bin; 0 of an empty one."""
        return tuple(
            0.0 if right is None or sure is None else abs(right - sure)
            for right, sure in zip(self.accuracy, self.confidence, strict=True)
        )

    @property
    def expected_error(self) -> float:
        """Expected calibration error (ECE): the mean gap over the images (Guo et al. 2017, equation 3)."""
        return math.fsum(n * gap for n, gap in zip(self.count, self.gaps, strict=True)) / sum(self.count)

    @property
    def maximum_error(self) -> float:
        """Maximum calibration error (MCE): the largest gap of a bin (Guo et al. 2017, equation 5)."""
        return max(self.gaps)


@dataclass(frozen=True)
class Calibration:
    """How good probabilities are.

    Args:
        reliability: of the predicted class's probability.
        loss: the negative log-likelihood, mean over the images of -log(probability of the true class), in nats; a
            probability of 0 counts as 2^-126.
        brier: the mean over the images of the sum over the classes of (probability - 1 for the true class, or 0)^2
            (Brier 1950, equation 2), from 0 to 2.
    """

    reliability: Reliability
    loss: float
    brier: float

    @classmethod
    def of(cls, probabilities: Tensor, labels: Tensor, bins: int = BINS) -> Calibration:
        """From float32 probabilities (N, K) and int64 labels (N,).

        >>> found = Calibration.of(torch.tensor([[0.75, 0.25], [0.5, 0.5]]), torch.tensor([0, 1]))
        >>> round(found.loss, 4), found.brier
        (0.4904, 0.3125)
        """
        confidence, predicted = probabilities.max(1)
        true = probabilities.gather(1, labels[:, None]).squeeze(1).double()
        squares = sum(float(part.double().square().sum()) for part in probabilities.split(_rows(probabilities)))
        brier = (squares + float((1 - 2 * true).sum())) / len(labels)
        loss = -float(true.clamp(min=_LEAST).log().mean())
        return cls(Reliability.of(confidence, predicted == labels, bins), max(loss, 0.0), max(brier, 0.0))

    def to_dict(self) -> dict[str, Any]:
        """Everything, derived numbers too, for JSON."""
        curve = self.reliability
        return {
            "loss": self.loss,
            "brier": self.brier,
            "expected_calibration_error": curve.expected_error,
            "maximum_calibration_error": curve.maximum_error,
            "reliability": {
                "count": list(curve.count),
                "confidence": list(curve.confidence),
                "accuracy": list(curve.accuracy),
            },
        }


def tempered(probabilities: Tensor, temperature: float) -> Tensor:
    """The softmax of logits / T, float32 (N, K), from the softmax of the logits, float32 (N, K).

    The logarithm of a probability differs from the logit by a constant for each image, which the softmax cancels. The
    order of the classes doesn't change, so accuracy doesn't either.

    >>> tempered(torch.tensor([[0.8, 0.2]]), 2.0)
    tensor([[0.6667, 0.3333]])
    """
    parts = probabilities.split(_rows(probabilities))
    return torch.cat([(_logarithms(part) / temperature).softmax(1).float() for part in parts])


def fit_temperature(probabilities: Tensor, labels: Tensor) -> float | None:
    """The temperature T > 0 with the least negative log-likelihood of softmax(logits / T).

    Guo et al. 2017, section 4.2. In 1 / T that likelihood is convex, so T is where its derivative is 0: where, on
    average over the images, the mean logit under the softmax is the true class's logit.

    Args:
        probabilities: float32 (N, K), of T = 1.
        labels: int64 (N,).

    Returns:
        None if there is no such T: if all images are right, smaller T are always better; if the network is no better
        than chance, larger T are. T above 1024 or below 1 / 1024 counts as none.

    >>> sure = torch.tensor([[0.99, 0.01]]).repeat(10, 1)
    >>> labels = torch.tensor([0] * 9 + [1])  # right nine times of ten
    >>> temperature = fit_temperature(sure, labels)
    >>> round(temperature, 3), round(float(tempered(sure, temperature)[0, 0]), 3)
    (2.091, 0.9)
    """
    from scipy.optimize import brentq

    def slope(log_temperature: float) -> float:
        """The derivative of the negative log-likelihood by 1 / T."""
        total = 0.0
        for part, true in zip(
            probabilities.split(_rows(probabilities)), labels.split(_rows(probabilities)), strict=True
        ):
            logits = _logarithms(part)
            mean = ((logits / math.exp(log_temperature)).softmax(1) * logits).sum(1)
            total += float((mean - logits.gather(1, true[:, None]).squeeze(1)).sum())
        return total / len(labels)

    coldest, hottest = -math.log(_HOTTEST), math.log(_HOTTEST)
    if not slope(hottest) < 0 < slope(coldest):
        return None
    return math.exp(brentq(slope, coldest, hottest, xtol=1e-9))


def _logarithms(probabilities: Tensor) -> Tensor:
    return probabilities.double().clamp(min=_LEAST).log()


def _rows(probabilities: Tensor) -> int:
    """Slices of images whose numbers fit in one chunk."""
    return max(1, _CHUNK // probabilities.shape[1])
