"""Matching of detections with objects on one picture, and confusion counts over pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from striate.tasks.coco import Regions

#: The smallest overlap of a detection with its object.
OVERLAP: Final = 0.5


@dataclass(frozen=True)
class PictureMatches:
    """The result of matching the objects and detections of one picture, by their indices.

    Crowds, and detections within a crowd of their class, are left out.

    Args:
        name: of the picture.
        hits: pairs of an object and the detection that found it.
        confused: pairs of an object and a detection of another class.
        missed: objects without a detection.
        false_alarms: detections without an object.
    """

    name: str
    hits: tuple[tuple[int, int], ...]
    confused: tuple[tuple[int, int], ...]
    missed: tuple[int, ...]
    false_alarms: tuple[int, ...]

    @property
    def mistakes(self) -> int:
        """The number of mistakes: objects missed or confused with another class, and false alarms."""
        return len(self.confused) + len(self.missed) + len(self.false_alarms)

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "hits": [list(pair) for pair in self.hits],
            "confused": [list(pair) for pair in self.confused],
            "missed": list(self.missed),
            "false_alarms": list(self.false_alarms),
        }

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> PictureMatches:
        hits, confused = (tuple((int(a), int(b)) for a, b in fields[name]) for name in ("hits", "confused"))
        missed, false_alarms = (tuple(map(int, fields[name])) for name in ("missed", "false_alarms"))
        return cls(str(fields["name"]), hits, confused, missed, false_alarms)


@dataclass(frozen=True, eq=False)
class Matches:
    """The detections of a picture against the objects of their own class, as COCO's evaluation matches them.

    Args:
        order: the detections by descending score; equal scores keep their order.
        object_of: int (M,), the object that each detection found; -1 for none.
        ignored: bool (M,), detections within a crowd of their class.
    """

    order: NDArray[np.int64]
    object_of: NDArray[np.int64]
    ignored: NDArray[np.bool_]


def match(found: Regions, objects: Regions, overlap: NDArray[np.float64]) -> Matches:
    """Matches each detection, by descending score, with the remaining object of its class that it overlaps most.

    The overlap must be at least a half. A match doesn't depend on detections with lower scores, so the matches above
    any threshold are the same as without a threshold.

    Args:
        found: M detections.
        objects: N objects.
        overlap: (M, N), from :func:`~striate.tasks.coco.overlaps`.
    """
    order = np.argsort(-found.scores, kind="stable")
    object_of = np.full(len(found), -1)
    ignored = np.zeros(len(found), dtype=np.bool_)
    allowed = (overlap >= OVERLAP) & (found.labels[:, None] == objects.labels[None, :])
    single = np.where(allowed & ~objects.crowd, overlap, -1.0)
    in_crowd = (allowed & objects.crowd).any(1)
    for number in order if len(objects) else ():
        best = int(single[number].argmax())
        if single[number, best] >= 0:
            object_of[number] = best
            single[:, best] = -1.0
        else:
            ignored[number] = in_crowd[number]
    return Matches(order, object_of, ignored)


def above(
    threshold: float, name: str, found: Regions, objects: Regions, overlap: NDArray[np.float64], matches: Matches
) -> PictureMatches:
    """The outcome of a picture for the detections with a score of at least ``threshold``.

    Detections without an object of their class are then matched with the remaining object of another class that they
    overlap most, by at least a half; such an object counts as confused.
    """
    shown = [number for number in matches.order.tolist() if found.scores[number] >= threshold]
    hits = [(int(matches.object_of[number]), number) for number in shown if matches.object_of[number] >= 0]
    left = ~objects.crowd
    left[[number for number, _ in hits]] = False
    confused: list[tuple[int, int]] = []
    false_alarms: list[int] = []
    for number in shown:
        if matches.object_of[number] >= 0 or matches.ignored[number]:
            continue
        free = np.where(left, overlap[number], -1.0)
        best = int(free.argmax()) if len(free) else -1
        if best >= 0 and free[best] >= OVERLAP:
            confused.append((best, number))
            left[best] = False
        else:
            false_alarms.append(number)
    return PictureMatches(
        name, tuple(sorted(hits)), tuple(sorted(confused)), tuple(np.flatnonzero(left).tolist()), tuple(false_alarms)
    )


def best_threshold(scores: NDArray[np.float64], right: NDArray[np.bool_], objects: int) -> float:
    """The threshold at which the detections of all classes together have the greatest F1; of several the highest.

    Args:
        scores: (M,) of detections that count.
        right: (M,), whether each found an object.
        objects: number of objects.

    Returns:
        One of the scores; 0.5 if there are none, or none is right.

    >>> best_threshold(np.array([0.9, 0.8, 0.3]), np.array([True, True, False]), 2)
    0.8
    """
    if not right.any():
        return 0.5
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    hits = np.cumsum(right[order])
    f1 = 2 * hits / (np.arange(1, len(ordered) + 1) + objects)
    # Detections with equal scores pass a threshold together.
    last = np.append(ordered[1:] != ordered[:-1], True)
    ends = np.flatnonzero(last)
    return float(ordered[ends[int(f1[ends].argmax())]])


def confusion_of(
    pictures: Sequence[PictureMatches], objects: Sequence[Regions], found: Sequence[Regions], classes: int
) -> NDArray[np.int64]:
    """Counts (K + 1, K + 1): row = true class, column = found class; the last of each is the background.

    So the last column counts objects that were missed, the last row false alarms.
    """
    counts = np.zeros((classes + 1, classes + 1), dtype=np.int64)
    for picture, truth, guess in zip(pictures, objects, found, strict=True):
        for one, other in (*picture.hits, *picture.confused):
            counts[truth.labels[one], guess.labels[other]] += 1
        for one in picture.missed:
            counts[truth.labels[one], classes] += 1
        for other in picture.false_alarms:
            counts[classes, guess.labels[other]] += 1
    return counts
