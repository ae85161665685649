"""Agreement of class maps with the truth: all measures follow from one confusion matrix of pixels.

The intersection over union (IoU) of a class is the number of pixels that both belong to it and are predicted as it,
divided by the number of pixels for which at least one is true, over all pictures together. Pixels of unknown class
don't count. A class that occurs neither in the truth nor in the predictions has no IoU and is left out of means. A
class that occurs only in the predictions has IoU 0 and is part of means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from striate.data import IGNORED
from striate.errors import DataError, RunError


@dataclass(frozen=True)
class PictureMap:
    """One picture.

    Args:
        name: of the picture.
        iou: the mean IoU of the classes in its truth or in its prediction; None if no pixel counts.
        accuracy: the share of its pixels that is right; None if no pixel counts.
    """

    name: str
    iou: float | None
    accuracy: float | None


@dataclass(frozen=True)
class MapMeasures:
    """Class maps of a set of pictures against the truth.

    Args:
        classes: the K names.
        confusion: K x K counts of pixels; row = true class, column = predicted class.
        ignored: pixels whose class isn't known.
        pictures: each picture by itself.

    >>> truth, found = torch.tensor([[0, 0, 1, 255]]), torch.tensor([[0, 1, 1, 0]])
    >>> measures = measure_maps([truth], [found], ("road", "car", "sky"))
    >>> measures.iou, measures.mean_iou, measures.accuracy
    ((0.5, 0.5, None), 0.5, 0.6666666666666666)
    """

    classes: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    ignored: int
    pictures: tuple[PictureMap, ...]

    @property
    def pixels(self) -> int:
        """Pixels that count."""
        return sum(self.support)

    @property
    def support(self) -> tuple[int, ...]:
        """Pixels of each class."""
        return tuple(map(sum, self.confusion))

    @property
    def predicted(self) -> tuple[int, ...]:
        """Pixels predicted as each class."""
        return tuple(map(sum, zip(*self.confusion, strict=True)))

    @property
    def accuracy(self) -> float | None:
        """Share of the pixels that are right; None if no pixel counts."""
        return _share(sum(self._hits), self.pixels)

    @property
    def recall(self) -> tuple[float | None, ...]:
        """For each class, the share of its pixels that was predicted as this class; None without pixels."""
        return tuple(map(_share, self._hits, self.support))

    @property
    def precision(self) -> tuple[float | None, ...]:
        """For each class, the share of the pixels predicted as this class that belong to it; None if there are none."""
        return tuple(map(_share, self._hits, self.predicted))

    @property
    def iou(self) -> tuple[float | None, ...]:
        """For each class its IoU; None if it is neither in the truth nor in the predictions."""
        parts = zip(self._hits, self.support, self.predicted, strict=True)
        return tuple(_share(hits, truth + found - hits) for hits, truth, found in parts)

    @property
    def dice(self) -> tuple[float | None, ...]:
        """For each class, the Dice coefficient, which is F1 of pixels: 2 |A and B| / (|A| + |B|)."""
        parts = zip(self._hits, self.support, self.predicted, strict=True)
        return tuple(_share(2 * hits, truth + found) for hits, truth, found in parts)

    @property
    def mean_iou(self) -> float | None:
        """The mean over the classes that have an IoU."""
        return _mean(self.iou)

    @property
    def mean_accuracy(self) -> float | None:
        """The mean recall of the classes that have pixels."""
        return _mean(self.recall)

    @property
    def mean_dice(self) -> float | None:
        """The mean over the classes that have a Dice coefficient."""
        return _mean(self.dice)

    @property
    def _hits(self) -> tuple[int, ...]:
        return tuple(row[index] for index, row in enumerate(self.confusion))

    def worst(self, count: int) -> list[int]:
        """The indices of the pictures with the smallest IoU, a limited number; none without a mistake."""
        known = [
            (each.iou, number) for number, each in enumerate(self.pictures) if each.iou is not None and each.iou < 1
        ]
        return [number for _, number in sorted(known)[:count]]

    def to_dict(self) -> dict[str, Any]:
        """Everything, derived numbers too, for JSON."""
        means = ("mean_iou", "mean_accuracy", "mean_dice", "accuracy", "pixels", "ignored")
        rows = ("classes", "support", "predicted", "iou", "dice", "precision", "recall")
        return {
            **{name: getattr(self, name) for name in means},
            **{name: list(getattr(self, name)) for name in rows},
            "confusion": [list(row) for row in self.confusion],
            "pictures": [{"name": each.name, "iou": each.iou, "accuracy": each.accuracy} for each in self.pictures],
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> MapMeasures:
        """The inverse of :meth:`to_dict`.

        Raises:
            RunError: ``data`` of another form.
        """
        try:
            found = cls(
                tuple(map(str, fields["classes"])),
                tuple(tuple(map(int, row)) for row in fields["confusion"]),
                int(fields["ignored"]),
                tuple(PictureMap(each["name"], each["iou"], each["accuracy"]) for each in fields["pictures"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(
                "measures", f"can't be read ({error!r})", "needed those of class maps, as written"
            ) from error
        if {len(found.classes)} != {len(found.confusion), *map(len, found.confusion)}:
            raise RunError("measures", f"{len(found.classes)} classes", "needed as many rows and columns of counts")
        return found


def count_pixels(truth: Tensor, found: Tensor, classes: int) -> Tensor:
    """Counts int64 (K, K) of pixels, row = true class, column = predicted class, on the maps' device.

    Args:
        truth: integers (..., H, W), from 0 to K - 1, or 255 where the class isn't known.
        found: integers of the same shape, from 0 to K - 1.
        classes: K.
    """
    known = truth != IGNORED
    pairs = truth[known].long() * classes + found[known].long()
    return torch.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


class MapRecorder:
    """Counts the pixels of class maps, one map at a time; the counts of several processes can be added."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self.counts = torch.zeros(len(classes), len(classes), dtype=torch.int64)
        self.ignored = 0
        self.pictures: list[PictureMap] = []

    def __len__(self) -> int:
        return len(self.pictures)

    def add(self, truth: Tensor, found: Tensor, name: str = "") -> None:
        """One more picture.

        Args:
            truth: integers (H, W), 255 where the class isn't known.
            found: integers (H, W).
            name: of the picture.

        Raises:
            DataError: sizes that differ, classes without a name.
        """
        where = name or f"picture {len(self.pictures)}"
        if truth.dim() != 2 or truth.shape != found.shape:
            raise DataError(
                where, f"got a class map {tuple(found.shape)}", f"needed {tuple(truth.shape)}, as the truth"
            )
        found = found.to(truth.device)
        for what, labels in (("truth", truth[truth != IGNORED]), ("prediction", found)):
            self._check(where, what, labels)
        counts = count_pixels(truth, found, len(self.classes)).cpu()
        alone = MapMeasures(self.classes, tuple(map(tuple, counts.tolist())), 0, ())
        self.pictures.append(PictureMap(where, alone.mean_iou, alone.accuracy))
        self.counts += counts
        self.ignored += truth.numel() - int(counts.sum())

    def _check(self, where: str, what: str, labels: Tensor) -> None:
        if not labels.numel():
            return
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= len(self.classes):
            worst = high if low >= 0 else low
            raise DataError(where, f"got class {worst} in the {what}", f"needed 0 to {len(self.classes) - 1}")

    def extend(self, other: MapRecorder) -> None:
        """Adds another process's counts; its pictures come after those counted here."""
        assert other.classes == self.classes
        self.counts += other.counts
        self.ignored += other.ignored
        self.pictures += other.pictures

    def measures(self) -> MapMeasures:
        """All that follows from the counts."""
        return MapMeasures(self.classes, tuple(map(tuple, self.counts.tolist())), self.ignored, tuple(self.pictures))


def measure_maps(
    truths: Sequence[Tensor], found: Sequence[Tensor], classes: Sequence[str], names: Sequence[str] = ()
) -> MapMeasures:
    """Measures class maps (H, W) against the truth, where 255 doesn't count.

    Raises:
        DataError: another number of maps, and as :meth:`MapRecorder.add`.
    """
    if len(truths) != len(found) or (names and len(names) != len(truths)):
        got = f"got {len(found)} class maps" + (f" and {len(names)} names" if names else "")
        raise DataError("measure_maps", got, f"needed {len(truths)}, as there are true ones")
    recorder = MapRecorder(classes)
    for number, (truth, guess) in enumerate(zip(truths, found, strict=True)):
        recorder.add(truth, guess, names[number] if names else "")
    return recorder.measures()


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _mean(shares: Sequence[float | None]) -> float | None:
    known = [share for share in shares if share is not None]
    return sum(known) / len(known) if known else None
