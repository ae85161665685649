"""The probabilities that a network gives labelled images, and all measures that follow from them.

This module needs no network: the probabilities may come from anywhere.

>>> scores = Scores(torch.tensor([0, 1, 1]), torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]]),
...                 ("a/1.png", "b/1.png", "b/2.png"), ("a", "b"))
>>> scores.predicted.tolist(), scores.correct.tolist(), round(scores.accuracy.value, 4)
([0, 1, 0], [True, True, False], 0.6667)
>>> measures = Measures.of(scores)
>>> round(measures.macro_f1.value, 4), round(measures.kappa, 4), [each.recall.value for each in measures.classes]
(0.6667, 0.4, [1.0, 0.5])
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import torch
from torch import Tensor

from striate.errors import RunError
from striate.tasks import agreement
from striate.tasks.calibration import BINS, Calibration, fit_temperature, tempered
from striate.tasks.evaluation import Evaluation
from striate.tasks.intervals import Measure, bootstrap_macro_f1
from striate.tasks.rankings import Ranking, ranks

#: The k of top-k accuracy.
TOP: Final = 5
#: How far the sum of a row of probabilities may be from 1, because of rounding, also in half precision.
_ROUNDING: Final = 1e-2


@dataclass(frozen=True, eq=False)
class Scores:
    """A network's probabilities for N images, and their true classes.

    Args:
        labels: int64 (N,), the index of the true class.
        probabilities: float32 (N, K), a row an image; rows sum to 1.
        names: of the images, N: the path within the data set, or ``"row 17"``.
        classes: the K names.

    Raises:
        RunError: no images, parts that don't fit together, invalid probabilities.
    """

    labels: Tensor
    probabilities: Tensor
    names: tuple[str, ...]
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        labels, rows, size = self.labels, self.probabilities, len(self.classes)
        if rows.dtype != torch.float32 or rows.ndim != 2 or rows.shape[1] != size or not len(rows):
            got = f"{str(rows.dtype).removeprefix('torch.')} {tuple(rows.shape)}"
            raise RunError("scores", f"got probabilities {got}", f"needed float32 (N, {size}), one image or more")
        if labels.dtype != torch.int64 or labels.shape != rows.shape[:1] or len(self.names) != len(rows):
            got = f"{str(labels.dtype).removeprefix('torch.')} labels {tuple(labels.shape)}, {len(self.names)} names"
            raise RunError("scores", f"got {got}", f"needed int64 ({len(rows)},) and {len(rows)} names")
        if len(outside := ((labels < 0) | (labels >= size)).nonzero()):
            index = int(outside[0])
            raise RunError(self.names[index], f"has label {int(labels[index])}", f"needed 0 to {size - 1}")
        # A comparison with NaN is false, so this finds NaN, too.
        fit = ((rows >= 0).all(1)) & ((rows.sum(1) - 1).abs() <= _ROUNDING)
        if len(odd := (~fit).nonzero()):
            index = int(odd[0])
            lowest, total = float(rows[index].min()), float(rows[index].sum())
            got = f"has probabilities from {lowest:.4g} on that sum to {total:.4g}"
            raise RunError(self.names[index], got, "needed numbers from 0 that sum to 1", "pass the softmax of logits")

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Scores({len(self)} images, {len(self.classes)} classes)"

    @cached_property
    def predicted(self) -> Tensor:
        """The likeliest class of each image, int64 (N,); the first if several are equally likely."""
        return self.probabilities.argmax(1)

    @cached_property
    def confidence(self) -> Tensor:
        """The probability of the predicted class, float32 (N,)."""
        return self.probabilities.amax(1)

    @property
    def correct(self) -> Tensor:
        """Whether the predicted class is the true one, bool (N,)."""
        return self.predicted == self.labels

    @cached_property
    def confusion(self) -> Tensor:
        """Counts, int64 (K, K); row = true class, column = predicted class."""
        return agreement.confusion_of(self.labels, self.predicted, len(self.classes))

    @property
    def accuracy(self) -> Measure:
        """The share of the images whose class was predicted, with Wilson's interval."""
        return Measure.share(int(self.correct.sum()), len(self))

    def top(self, k: int = TOP) -> tuple[int, Measure]:
        """k, and the share of the images whose class is among the k likeliest; k is reduced to K if there are fewer.

        Among classes with equal probability, the first counts as likelier, as in :attr:`predicted`.

        >>> scores = Scores(torch.tensor([2]), torch.tensor([[0.5, 0.3, 0.2]]), ("row 0",), ("a", "b", "c"))
        >>> scores.top(2)[1].value, scores.top()[0]
        (0.0, 3)
        """
        k = min(k, len(self.classes))
        return k, Measure.share(int((ranks(self.probabilities, self.labels) < k).sum()), len(self))

    def evaluation(self) -> Evaluation:
        """The same as counts and loss alone."""
        counts = tuple(tuple(row) for row in self.confusion.tolist())
        return Evaluation(self.classes, counts, self.calibration().loss)

    def calibration(self, bins: int = BINS) -> Calibration:
        """Reliability, log-likelihood and Brier score."""
        return Calibration.of(self.probabilities, self.labels, bins)

    def at_temperature(self, temperature: float) -> Scores:
        """The scores of the same logits divided by a temperature; the predicted classes don't change."""
        return Scores(self.labels, tempered(self.probabilities, temperature), self.names, self.classes)

    def ranking(self, index: int) -> Ranking:
        """A class against the rest: precision, recall and ROC over all thresholds."""
        return Ranking.of(self.probabilities[:, index], self.labels == index)

    def worst_errors(self, limit: int = 24, each: int = 3) -> tuple[int, ...]:
        """The most confident mistakes, at most ``each`` for a pair of true and predicted class.

        Args:
            limit: largest number of images.
            each: largest number for one pair, so that one frequent confusion doesn't hide all others.

        Returns:
            Their indices, in descending order of confidence.

        >>> rows = torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.8, 0.2], [0.4, 0.6]])
        >>> Scores(torch.tensor([1, 1, 1, 0]), rows, tuple("wxyz"), ("a", "b")).worst_errors(each=2)
        (0, 2, 3)
        """
        wrong = (~self.correct).nonzero().squeeze(1)
        surest = wrong[self.confidence[wrong].argsort(descending=True, stable=True)].tolist()
        taken: Counter[tuple[int, int]] = Counter()
        chosen: list[int] = []
        for index in surest:
            pair = int(self.labels[index]), int(self.predicted[index])
            if len(chosen) < limit and taken[pair] < each:
                taken[pair] += 1
                chosen.append(index)
        return tuple(chosen)

    def to_dict(self) -> dict[str, Any]:
        """All measures for JSON, without data of single images."""
        return Measures.of(self).to_dict()


def scale_temperature(validation: Scores, judged: Scores) -> tuple[float, Scores] | None:
    """A temperature fitted on validation scores, and other scores at this temperature.

    It must not be fitted on the scores that are judged. It would be the best temperature for just these images, and the
    calibration error would be no estimate of the error on new images. If a run has no validation images, there is no
    temperature to report.

    Args:
        validation: scores to fit T on, by :func:`~striate.tasks.calibration.fit_temperature`.
        judged: scores of other images, by the same network.

    Returns:
        T and the scores at T; None if no T is best (all validation images right, or no better than chance).

    Raises:
        RunError: the same scores twice, or other classes.
    """
    if validation is judged:
        remedy = "hold out validation images, apart from the test images"
        raise RunError("temperature", "got the scores that it is judged on", "needed validation scores", remedy)
    if validation.classes != judged.classes:
        got = f"got {len(validation.classes)} and {len(judged.classes)} classes"
        raise RunError("temperature", got, "needed the same classes in both")
    temperature = fit_temperature(validation.probabilities, validation.labels)
    return None if temperature is None else (temperature, judged.at_temperature(temperature))


@dataclass(frozen=True)
class ClassMeasures:
    """One class: its numbers of images and predictions, and their measures.

    ``average_precision`` is None without images of the class; ``roc_area`` also if all images are of the class.
    """

    name: str
    images: int
    predicted: int
    precision: Measure
    recall: Measure
    f1: float
    average_precision: float | None
    roc_area: float | None

    def to_dict(self) -> dict[str, Any]:
        """All fields, for JSON."""
        return vars(self) | {"precision": self.precision.to_dict(), "recall": self.recall.to_dict()}


@dataclass(frozen=True)
class Measures:
    """The measures of :class:`Scores` as plain values.

    Macro means are over classes that have images or predictions (scikit-learn's default); means weighted by support are
    over the images. A mean of only undefined values is None. ``top`` is the k of ``top_accuracy``. ``temperature`` and
    ``scaled`` (the calibration at this temperature) are None if no temperature was fitted.
    """

    images: int
    accuracy: Measure
    top: int
    top_accuracy: Measure
    balanced_accuracy: float
    macro_precision: float
    macro_recall: float
    macro_f1: Measure
    weighted_precision: float
    weighted_f1: float
    kappa: float | None
    matthews: float
    mean_average_precision: float | None
    mean_roc_area: float | None
    calibration: Calibration
    temperature: float | None
    scaled: Calibration | None
    classes: tuple[ClassMeasures, ...]

    @classmethod
    def of(cls, scores: Scores, validation: Scores | None = None, *, seed: int = 0) -> Measures:
        """The measures of scores.

        Args:
            scores: the scores to measure.
            validation: scores of other images, on which a temperature is fitted; None for no temperature.
            seed: of macro F1's bootstrap.
        """
        confusion = scores.confusion
        hits, support, guesses = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
        precision, recall = agreement.ratio(hits, guesses), agreement.ratio(hits, support)
        f1 = agreement.f1_scores(hits, support, guesses)
        occur, weight = support + guesses > 0, support.double() / len(scores)
        counts = zip(hits.tolist(), support.tolist(), guesses.tolist(), f1.tolist(), strict=True)
        classes = tuple(_class_measures(scores, index, *each) for index, each in enumerate(counts))
        k, top_accuracy = scores.top()
        scaled = None if validation is None else scale_temperature(validation, scores)
        interval = bootstrap_macro_f1(confusion, seed=seed)
        return cls(
            images=len(scores),
            accuracy=scores.accuracy,
            top=k,
            top_accuracy=top_accuracy,
            balanced_accuracy=agreement.balanced_accuracy(confusion),
            macro_precision=float(precision[occur].mean()),
            macro_recall=float(recall[occur].mean()),
            macro_f1=Measure(agreement.macro_f1(hits, support, guesses), interval),
            weighted_precision=float(precision @ weight),
            weighted_f1=float(f1 @ weight),
            kappa=agreement.cohen_kappa(confusion),
            matthews=agreement.matthews(confusion),
            mean_average_precision=_mean(each.average_precision for each in classes),
            mean_roc_area=_mean(each.roc_area for each in classes),
            calibration=scores.calibration(),
            temperature=None if scaled is None else scaled[0],
            scaled=None if scaled is None else scaled[1].calibration(),
            classes=classes,
        )

    def to_dict(self) -> dict[str, Any]:
        """All fields for JSON; undefined values are null, never NaN."""
        return {name: _plain(value) for name, value in vars(self).items()}


def _class_measures(scores: Scores, index: int, hits: int, support: int, guesses: int, f1: float) -> ClassMeasures:
    ranking = scores.ranking(index)
    return ClassMeasures(
        name=scores.classes[index],
        images=support,
        predicted=guesses,
        precision=Measure.share(hits, guesses),
        recall=Measure.share(hits, support),
        f1=f1,
        average_precision=ranking.average_precision,
        roc_area=ranking.roc_area,
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return value.to_dict() if hasattr(value, "to_dict") else value
