"""How well a classifier's predictions agree with the truth, as plain frozen values that convert to and from JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from striate.errors import RunError


@dataclass(frozen=True)
class Example:
    """A held-out image and the network's prediction for it; ``image`` is uint8 (C, H, W), as the network's input.

    ``name`` is its path in the data set, ``digest`` that of its content.
    """

    image: Tensor
    actual: str
    predicted: str
    probability: float
    name: str = ""
    digest: str = ""

    @property
    def right(self) -> bool:
        """Whether the predicted class is the actual one."""
        return self.predicted == self.actual


@dataclass(frozen=True)
class Evaluation:
    """How well predictions agree with the truth.

    Args:
        classes: the K names.
        confusion: K x K counts; row = true class, column = predicted class.
        loss: the mean loss of an image, without label smoothing.

    Everything else follows from the counts. A quotient of nothing by nothing (the precision of a class that was never
    predicted) is 0, as in scikit-learn.

    >>> result = Evaluation.of(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), ("cat", "dog"), loss=0.5)
    >>> result.confusion, result.precision, result.recall
    (((1, 1), (0, 1)), (1.0, 0.5), (0.5, 1.0))
    """

    classes: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    loss: float

    @classmethod
    def of(cls, labels: Tensor, predicted: Tensor, classes: tuple[str, ...], loss: float) -> Evaluation:
        """Counts int64 labels (N,) against predictions (N,), both in 0 ... K - 1."""
        assert labels.shape == predicted.shape
        assert labels.dim() == 1
        size = len(classes)
        counts = torch.bincount(labels * size + predicted, minlength=size * size).reshape(size, size)
        return cls(classes, tuple(tuple(row) for row in counts.tolist()), loss)

    @property
    def n(self) -> int:
        """Images."""
        return sum(self.support)

    @property
    def accuracy(self) -> float:
        """Share of the images whose class was predicted."""
        return _ratio(sum(self._hits), self.n)

    @property
    def support(self) -> tuple[int, ...]:
        """Images of each class."""
        return tuple(map(sum, self.confusion))

    @property
    def precision(self) -> tuple[float, ...]:
        """For each class, the share of the images predicted as this class that belong to it."""
        return tuple(map(_ratio, self._hits, map(sum, zip(*self.confusion, strict=True))))

    @property
    def recall(self) -> tuple[float, ...]:
        """For each class, the share of its images that was predicted as this class."""
        return tuple(map(_ratio, self._hits, self.support))

    @property
    def f1(self) -> tuple[float, ...]:
        """For each class, the harmonic mean of precision and recall."""
        return tuple(_ratio(2 * p * r, p + r) for p, r in zip(self.precision, self.recall, strict=True))

    @property
    def _hits(self) -> tuple[int, ...]:
        return tuple(row[index] for index, row in enumerate(self.confusion))

    def to_dict(self) -> dict[str, Any]:
        """Everything, derived numbers too, for JSON."""
        names = ("accuracy", "loss", "n", "classes", "support", "precision", "recall", "f1", "confusion")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Evaluation:
        """The inverse of :meth:`to_dict`.

        Raises:
            RunError: classes and counts that are missing or don't fit each other.
        """
        try:
            classes = tuple(fields["classes"])
            confusion = tuple(tuple(int(count) for count in row) for row in fields["confusion"])
            loss = float(fields["loss"])
        except (KeyError, TypeError, ValueError) as error:
            raise RunError("evaluation", f"no counts to read ({error!r})", "needed classes, confusion, loss") from error
        if {len(classes)} != {len(confusion), *map(len, confusion)}:
            raise RunError("evaluation", f"{len(classes)} classes", "needed as many rows and columns of counts")
        return cls(classes, confusion, loss)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
