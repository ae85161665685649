"""Agreement of detections with the true objects: COCO's measures, curves, confusion, outcomes of pictures.

A measure is None if there is nothing to measure, and means leave such classes out: a class without objects has no
recall, whatever is detected. Its false alarms are counted in ``confusion``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from striate.data import Annotation, Detections
from striate.errors import DataError, RunError
from striate.tasks import coco
from striate.tasks.matching import Matches, PictureMatches, above, best_threshold, confusion_of, match

#: The overlaps at which there are curves of precision over recall.
CURVES: Final = (0.5, 0.75)


@dataclass(frozen=True)
class ObjectClassMeasures:
    """One class.

    Args:
        name: of the class.
        objects: number of objects, without crowds.
        detections: number of detections, of any score.
        ap, ap50, ap75: average precision over the overlaps 0.5 to 0.95, at 0.5, at 0.75; None without objects.
        precision, recall: of the detections above the threshold, matched at an overlap of 0.5; None if undefined.
        curves: by overlap, precision at the recalls 0, 0.01 ... 1, the best at that recall or more;
            None without objects.
    """

    name: str
    objects: int
    detections: int
    ap: float | None
    ap50: float | None
    ap75: float | None
    precision: float | None
    recall: float | None
    curves: Mapping[float, tuple[float, ...]] | None

    @property
    def f1(self) -> float | None:
        """The harmonic mean of precision and recall; None without objects and detections."""
        if self.precision is None and self.recall is None:
            return None
        precision, recall = self.precision or 0.0, self.recall or 0.0
        return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@dataclass(frozen=True)
class RegionMeasures:
    """COCO's twelve numbers for boxes, or for masks, and the table of classes.

    ``ap``, average precision, is a mean over the overlaps 0.5 to 0.95 by 0.05, over 101 recalls and over the classes
    that have objects. ``ap50`` and ``ap75`` are the same at one overlap. ``ap_small`` is for objects of less than 32x32
    pixels, ``ap_large`` for more than 96x96, ``ap_medium`` for those between. ``ar1``, ``ar10`` and ``ar100``, average
    recall, are means over the same overlaps and classes, with at most 1, 10 or 100 detections of an image and a class.
    """

    ap: float | None
    ap50: float | None
    ap75: float | None
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    ar1: float | None
    ar10: float | None
    ar100: float | None
    ar_small: float | None
    ar_medium: float | None
    ar_large: float | None
    classes: tuple[ObjectClassMeasures, ...]

    @property
    def numbers(self) -> dict[str, float | None]:
        """The twelve numbers by name."""
        return {each.name: getattr(self, each.name) for each in dataclasses.fields(self) if each.name != "classes"}


@dataclass(frozen=True)
class ObjectMeasures:
    """All measures of a detector on a set of pictures.

    Args:
        classes: the K names.
        objects: number of objects, without crowds.
        detections: number of detections.
        boxes: measures of boxes.
        masks: measures of masks; None if the truth or the network has none.
        threshold: the score from which on detections count in the following measures.
        chosen: whether the threshold was chosen on these pictures, as the one with the greatest F1. Measures at a
            chosen threshold are slightly better than on new pictures. Otherwise the threshold was given.
        confusion: (K + 1) x (K + 1) counts at an overlap of 0.5; row = true class, column = found class, the last of
            each the background.
        pictures: the outcome of each picture, by masks if there are any, else by boxes.
    """

    classes: tuple[str, ...]
    objects: int
    detections: int
    boxes: RegionMeasures
    masks: RegionMeasures | None
    threshold: float
    chosen: bool
    confusion: tuple[tuple[int, ...], ...]
    pictures: tuple[PictureMatches, ...]

    @property
    def main(self) -> RegionMeasures:
        """Measures of masks if there are any, else of boxes."""
        return self.boxes if self.masks is None else self.masks

    def worst(self, count: int) -> list[int]:
        """The indices of the pictures with the most mistakes, a limited number, none without a mistake."""
        wrong = [number for number, each in enumerate(self.pictures) if each.mistakes]
        return sorted(wrong, key=lambda number: -self.pictures[number].mistakes)[:count]

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "classes": list(self.classes),
            "objects": self.objects,
            "detections": self.detections,
            "boxes": _region_to_dict(self.boxes),
            "masks": None if self.masks is None else _region_to_dict(self.masks),
            "threshold": self.threshold,
            "chosen": self.chosen,
            "confusion": [list(row) for row in self.confusion],
            "pictures": [each.to_dict() for each in self.pictures],
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> ObjectMeasures:
        """The inverse of :meth:`to_dict`.

        Raises:
            RunError: ``data`` of another form.
        """
        try:
            found = cls(
                tuple(map(str, fields["classes"])),
                int(fields["objects"]),
                int(fields["detections"]),
                _region_from_dict(fields["boxes"]),
                None if fields["masks"] is None else _region_from_dict(fields["masks"]),
                float(fields["threshold"]),
                bool(fields["chosen"]),
                tuple(tuple(map(int, row)) for row in fields["confusion"]),
                tuple(map(PictureMatches.from_dict, fields["pictures"])),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RunError("measures", f"can't be read ({error!r})", "needed those of objects, as written") from error
        if {len(found.classes) + 1} != {len(found.confusion), *map(len, found.confusion)}:
            raise RunError("measures", f"{len(found.classes)} classes", "needed one row and column of counts more")
        return found


class ObjectRecorder:
    """Collects pictures one by one, with masks as run lengths, and measures them together.

    >>> import torch
    >>> recorder = ObjectRecorder(("cat",))
    >>> box, label = torch.tensor([[0.0, 0, 4, 4]]), torch.tensor([0])
    >>> recorder.add(Annotation((8, 8), box, label), Detections((8, 8), box, label, torch.tensor([0.9])), "a.png")
    >>> recorder.measures().boxes.ap
    1.0
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self._rows: list[_Row] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, truth: Annotation, found: Detections, name: str = "") -> None:
        """One more picture.

        Raises:
            DataError: sizes that differ, labels without a name, numbers that aren't finite.
        """
        where = name or f"picture {len(self._rows)}"
        self._check(where, truth, found)
        objects = coco.regions(truth.boxes, truth.labels, truth.masks, crowd=truth.crowd)
        guesses = coco.regions(found.boxes, found.labels, found.masks, scores=found.scores)
        self._rows.append(_Row(where, truth.size, objects, guesses))

    def found(self, place: int) -> Detections:
        """The detections of the picture that was added as number ``place``, from 0."""
        row = self._rows[place]
        corners = np.concatenate([row.found.boxes[:, :2], row.found.boxes[:, :2] + row.found.boxes[:, 2:]], axis=1)
        return Detections(
            row.size,
            torch.from_numpy(corners).float(),
            torch.from_numpy(row.found.labels),
            torch.from_numpy(row.found.scores).float(),
            None if row.found.masks is None else coco.decode(row.found.masks, row.size),
        )

    def extend(self, other: ObjectRecorder) -> None:
        """Adds another process's pictures after those collected here."""
        assert other.classes == self.classes
        self._rows += other._rows

    def _check(self, where: str, truth: Annotation, found: Detections) -> None:
        if truth.size != found.size:
            raise DataError(where, f"got detections on {found.size}", f"needed {truth.size}, the picture's size")
        for what, labels in (("an object", truth.labels), ("a detection", found.labels)):
            if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(self.classes):
                worst = int(labels.max() if int(labels.min()) >= 0 else labels.min())
                raise DataError(where, f"got label {worst} of {what}", f"needed 0 to {len(self.classes) - 1}")
        for what, numbers in (("box", truth.boxes), ("box", found.boxes), ("score", found.scores)):
            if not bool(numbers.isfinite().all()):
                raise DataError(where, f"got a {what} that isn't finite", "needed numbers")

    def measures(self, threshold: float | None = None) -> ObjectMeasures:
        """All measures; ``threshold`` is the smallest score for measures that need one, None to choose it."""
        rows, count = self._rows, len(self.classes)
        objects, found = [row.objects for row in rows], [row.found for row in rows]
        region: coco.Region = "masks" if self._masked() else "boxes"
        overlap = [coco.overlaps(row.found, row.objects, region) for row in rows]
        matches = [match(row.found, row.objects, each) for row, each in zip(rows, overlap, strict=True)]
        total = sum(int((~each.crowd).sum()) for each in objects)
        least = _threshold(found, matches, total) if threshold is None else threshold
        pictures = [
            above(least, row.name, row.found, row.objects, shared, matched)
            for row, shared, matched in zip(rows, overlap, matches, strict=True)
        ]
        confusion = confusion_of(pictures, objects, found, count)
        support = _counts([each.labels[~each.crowd] for each in objects], count)
        guessed = _counts([each.labels for each in found], count)

        def measured(kind: coco.Region) -> RegionMeasures:
            sums = coco.totals(objects, found, [row.size for row in rows], count, kind)
            return _region(sums, self.classes, support, guessed, confusion)

        return ObjectMeasures(
            self.classes,
            total,
            int(guessed.sum()),
            measured("boxes"),
            measured("masks") if region == "masks" else None,
            least,
            threshold is None,
            tuple(map(tuple, confusion.tolist())),
            tuple(pictures),
        )

    def _masked(self) -> bool:
        """Whether all pictures with objects or detections have masks, and there is at least one such picture."""
        parts = [part for row in self._rows for part in (row.objects, row.found)]
        return any(part.masks is not None for part in parts) and all(
            part.masks is not None or not len(part) for part in parts
        )


@dataclass(frozen=True, eq=False)
class _Row:
    name: str
    size: tuple[int, int]
    objects: coco.Regions
    found: coco.Regions


def measure_objects(
    truths: Sequence[Annotation],
    found: Sequence[Detections],
    classes: Sequence[str],
    names: Sequence[str] = (),
    *,
    threshold: float | None = None,
) -> ObjectMeasures:
    """Measures detections on pictures whose objects are known.

    Args:
        truths: of each picture.
        found: on each picture.
        classes: names of the labels.
        names: of the pictures; if empty, "picture 0" and so on.
        threshold: the smallest score for measures that need one; None for the score with the greatest F1.

    Raises:
        DataError: another number of pictures, and as :meth:`ObjectRecorder.add`.
    """
    if len(truths) != len(found) or (names and len(names) != len(truths)):
        got = f"got detections on {len(found)} pictures" + (f" and {len(names)} names" if names else "")
        raise DataError("measure_objects", got, f"needed {len(truths)}, as there are annotations")
    recorder = ObjectRecorder(classes)
    for number, (truth, guess) in enumerate(zip(truths, found, strict=True)):
        recorder.add(truth, guess, names[number] if names else "")
    return recorder.measures(threshold)


def _threshold(found: Sequence[coco.Regions], matches: Sequence[Matches], objects: int) -> float:
    scores = [each.scores[~matched.ignored] for each, matched in zip(found, matches, strict=True)]
    right = [matched.object_of[~matched.ignored] >= 0 for matched in matches]
    if not scores:
        return best_threshold(np.zeros(0), np.zeros(0, dtype=np.bool_), 0)
    return best_threshold(np.concatenate(scores), np.concatenate(right), objects)


def _counts(labels: Sequence[NDArray[np.int64]], classes: int) -> NDArray[np.int64]:
    together = np.concatenate([np.zeros(0, dtype=np.int64), *labels])
    return np.bincount(together, minlength=classes)


def _region(
    sums: coco.Totals,
    classes: Sequence[str],
    support: NDArray[np.int64],
    guessed: NDArray[np.int64],
    confusion: NDArray[np.int64],
) -> RegionMeasures:
    precision, recall = sums.precision, sums.recall
    half, three_quarters = (coco.THRESHOLDS.index(each) for each in CURVES)
    table = []
    for label, name in enumerate(classes):
        own = precision[:, :, label, 0]
        hits = int(confusion[label, label])
        curves = None
        if not np.isnan(own).all():
            curves = {each: tuple(own[coco.THRESHOLDS.index(each)].tolist()) for each in CURVES}
        table.append(
            ObjectClassMeasures(
                name,
                int(support[label]),
                int(guessed[label]),
                _mean(own),
                _mean(own[half]),
                _mean(own[three_quarters]),
                _share(hits, int(confusion[:, label].sum())),
                _share(hits, int(confusion[label].sum())),
                curves,
            )
        )
    overall = precision[..., 0]
    small, medium, large = (precision[..., size] for size in range(1, 4))
    return RegionMeasures(
        ap=_mean(overall),
        ap50=_mean(overall[half]),
        ap75=_mean(overall[three_quarters]),
        ap_small=_mean(small),
        ap_medium=_mean(medium),
        ap_large=_mean(large),
        ar1=_mean(recall[:, :, 0, 0]),
        ar10=_mean(recall[:, :, 0, 1]),
        ar100=_mean(recall[:, :, 0, 2]),
        ar_small=_mean(recall[:, :, 1, 2]),
        ar_medium=_mean(recall[:, :, 2, 2]),
        ar_large=_mean(recall[:, :, 3, 2]),
        classes=tuple(table),
    )


def _mean(numbers: NDArray[np.float64]) -> float | None:
    """The mean of the values that are not None; None if there are none."""
    known = numbers[~np.isnan(numbers)]
    return float(known.mean()) if len(known) else None


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _region_to_dict(measures: RegionMeasures) -> dict[str, Any]:
    rows = []
    for each in measures.classes:
        row = {field.name: getattr(each, field.name) for field in dataclasses.fields(each)}
        row["f1"] = each.f1
        row["curves"] = None if each.curves is None else {f"{at:g}": list(line) for at, line in each.curves.items()}
        rows.append(row)
    return {**measures.numbers, "classes": rows}


def _region_from_dict(fields: Mapping[str, Any]) -> RegionMeasures:
    table = []
    for row in fields["classes"]:
        curves = row["curves"]
        if curves is not None:
            curves = {float(at): tuple(map(float, line)) for at, line in curves.items()}
        table.append(
            ObjectClassMeasures(
                **{key: value for key, value in row.items() if key not in ("curves", "f1")}, curves=curves
            )
        )
    numbers = {name: value for name, value in fields.items() if name != "classes"}
    if any(value is not None and not math.isfinite(value) for value in numbers.values()):
        raise ValueError("numbers that aren't finite")
    return RegionMeasures(**numbers, classes=tuple(table))
