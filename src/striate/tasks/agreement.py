"""Measures of agreement between predicted and true classes, computed from a confusion matrix.

Rows of a confusion matrix, int64 (K, K), are true classes, columns predicted ones. Classes may have no images or no
predictions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def confusion_of(labels: Tensor, predicted: Tensor, size: int) -> Tensor:
    """The K x K counts of int64 labels (N,) against predictions (N,), both in 0 ... K - 1.

    >>> confusion_of(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    return torch.bincount(labels * size + predicted, minlength=size * size).reshape(size, size)


def ratio(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole in float64; 0 where the whole is 0, as in scikit-learn."""
    return torch.where(whole > 0, part.double() / whole.clamp(min=1), 0.0)


def f1_scores(hits: Tensor, support: Tensor, guesses: Tensor) -> Tensor:
    """F1 of each class, float64 (K,): 2 hits / (support + guesses), the harmonic mean of precision and recall.

    Args:
        hits: int64 (K,), images of the class that were predicted to be of it.
        support: int64 (K,), images of the class.
        guesses: int64 (K,), images that were predicted to be of it.
    """
    return ratio(2 * hits, support + guesses)


def macro_f1(hits: Tensor, support: Tensor, guesses: Tensor) -> float:
    """The mean F1 of the classes that occur, as truth or as prediction; arguments as of :func:`f1_scores`.

    >>> macro_f1(torch.tensor([1, 1, 0]), torch.tensor([2, 1, 0]), torch.tensor([1, 2, 0]))
    0.6666666666666666
    """
    occur = support + guesses > 0
    return float(f1_scores(hits, support, guesses)[occur].mean())


def balanced_accuracy(confusion: Tensor) -> float:
    """The mean recall of the classes that have images (Brodersen et al. 2010, for K classes).

    >>> balanced_accuracy(torch.tensor([[9, 1], [1, 1]]))
    0.7
    """
    support = confusion.sum(1)
    return float(ratio(confusion.diagonal(), support)[support > 0].mean())


def cohen_kappa(confusion: Tensor) -> float | None:
    """Agreement beyond chance, (p_o - p_e) / (1 - p_e) (Cohen 1960, equation 1).

    p_o is the accuracy. p_e is the accuracy of random predictions with the same frequencies. 1 is perfect, 0 is chance.
    None if all images are of one class and predicted to be, so that p_e is 1.

    >>> cohen_kappa(torch.tensor([[20, 5], [10, 15]]))
    0.4
    >>> cohen_kappa(torch.tensor([[7, 0], [0, 0]]))
    """
    # Python's integers, because squares of counts must be exact.
    hits, chance, images = _moments(confusion)
    return (hits * images - chance) / (images**2 - chance) if chance != images**2 else None


def matthews(confusion: Tensor) -> float:
    """Matthews' correlation of truth and prediction for K classes (Gorodkin 2004, R_K).

    The covariance of the two, as indicators of the classes, over the root of the product of their variances: 1 is
    perfect, 0 is chance. 0, too, where all images are of one class or predicted to be of one, as in scikit-learn.

    >>> matthews(torch.tensor([[0, 3], [4, 0]]))
    -1.0
    """
    hits, chance, images = _moments(confusion)
    spread = 1
    for margin in (confusion.sum(0), confusion.sum(1)):
        spread *= images**2 - sum(count * count for count in margin.tolist())
    return (hits * images - chance) / math.sqrt(spread) if spread else 0.0


def _moments(confusion: Tensor) -> tuple[int, int, int]:
    """The number of right images, the sum over the classes of support times predictions, and the number of images."""
    margins = zip(confusion.sum(1).tolist(), confusion.sum(0).tolist(), strict=True)
    return int(confusion.trace()), sum(true * predicted for true, predicted in margins), int(confusion.sum())
