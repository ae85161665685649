"""Counts of what a data set contains, and its faults."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from striate.data.annotated import AnnotatedSet, Fault
from striate.data.annotation import IGNORED
from striate.data.images import ImageSet
from striate.data.progress import progress
from striate.data.sources import Collection, gather
from striate.data.streamed import BrokenImagesError, LabelledImages, Wanted
from striate.errors import DataError

#: Sides of objects that divide small from middle and large ones, pixels; COCO's.
SMALL, LARGE = 32, 96


@dataclass(frozen=True)
class BoxSize:
    """The smallest or the largest box of a set, by its area.

    Args:
        width, height: pixels.
        file: the picture.
        name: of its class.
    """

    width: float
    height: float
    file: str
    name: str

    def __str__(self) -> str:
        return f"{self.width:.0f}x{self.height:.0f} ({self.name}, {self.file})"


@dataclass(frozen=True)
class Counts:
    """A part of a data set in numbers.

    Args:
        pictures: how many.
        sizes: how often each (width, height) occurs, the most frequent first.
        classes: how many objects there are of each class; images, where they have one label each; pixels of class maps.
        counted: what ``classes`` counts: ``"objects"``, ``"images"`` or ``"pixels"``.
        each: objects in a picture: fewest, median, most.
        unlabelled: the pictures without an object.
        crowds: how many objects are regions of many.
        smallest, largest: of the boxes; None without any.
        small, large: boxes below :data:`SMALL` and from :data:`LARGE` pixels, by the root of their area.
        unknown: share of the pixels of class maps where nothing is known.
        sides: shorter sides of all boxes with the size of their picture; for :meth:`below`, not for people.
    """

    pictures: int
    sizes: tuple[tuple[tuple[int, int], int], ...]
    classes: dict[str, int]
    counted: str
    each: tuple[int, float, int] = (0, 0.0, 0)
    unlabelled: tuple[str, ...] = ()
    crowds: int = 0
    smallest: BoxSize | None = None
    largest: BoxSize | None = None
    small: int = 0
    large: int = 0
    unknown: float | None = None
    sides: tuple[tuple[float, float, tuple[int, int]], ...] = field(default=(), repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON has it."""
        return {name: value for name, value in asdict(self).items() if name != "sides"}


@dataclass(frozen=True)
class Checked:
    """The result of checking a whole source.

    Args:
        source: as in :func:`~striate.data.load`.
        holds: what its pictures are annotated with.
        parts: counts by part.
        faults: all faults.
        skipped: files that were left out, each with the reason.
        notes: how files and folders were interpreted.
    """

    source: str
    holds: tuple[str, ...]
    parts: dict[str, Counts]
    faults: tuple[Fault, ...]
    skipped: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON has it."""
        return {
            "source": self.source,
            "holds": list(self.holds),
            "parts": {name or "all": counts.to_dict() for name, counts in self.parts.items()},
            "faults": [asdict(fault) for fault in self.faults],
            "skipped": [{"file": file, "reason": reason} for file, reason in self.skipped],
            "notes": list(self.notes),
        }


def faults(images: AnnotatedSet | LabelledImages) -> list[Fault]:
    """The faults of the annotations of a set; :func:`striate.data.recorded.summary` puts them into one line."""
    return list(images.faults) if isinstance(images, AnnotatedSet) else []


def check(source: str, wanted: Wanted | None = None) -> tuple[Checked, Collection[Any] | None]:
    """Checks every picture and annotation of a source.

    Returns:
        The counts and the faults; and the pictures that could be read, None if none.

    Raises:
        DataError: an unknown source, or one in which nothing can be read.
    """
    wanted = wanted or Wanted()
    told: list[Fault] = []
    try:
        collection = gather(source, wanted)
    except BrokenImagesError as error:
        told += [Fault(*_file_and_reason(line)) for line in error.files]
        try:
            collection = gather(source, Wanted(wanted.reading, wanted.stream, skip_broken=True))
        except DataError:
            return Checked(source, ("labels",), {}, tuple(told), (), ()), None
    told += [fault for each in collection.parts.values() for fault in faults(each)]
    parts = {name: count(each) for name, each in collection.parts.items()}
    first = next(iter(collection.parts.values()))
    holds = tuple(sorted(first.holds)) if isinstance(first, AnnotatedSet) else ("labels",)
    broken = {fault.file for fault in told}
    skipped = tuple(skip for skip in collection.skipped if skip[0] not in broken)
    return Checked(source, holds, parts, tuple(told), skipped, collection.notes), collection


def _file_and_reason(line: str) -> tuple[str, str]:
    name, _, reason = line.partition(": ")
    return name, reason


def count(images: AnnotatedSet | LabelledImages) -> Counts:
    """The counts of a set. Annotated pictures are all decoded."""
    if isinstance(images, AnnotatedSet):
        return _count_annotated(images)
    numbers = torch.bincount(images.labels, minlength=len(images.classes)).tolist()
    height, width = images.image_size
    classes = dict(zip(images.classes, numbers, strict=True))
    size = () if not isinstance(images, ImageSet) else (((width, height), len(images)),)
    return Counts(len(images), size, classes, "images")


def _count_annotated(images: AnnotatedSet) -> Counts:
    objects = "boxes" in images.holds
    names = images.classes if objects else images.map_classes
    sizes: Counter[tuple[int, int]] = Counter()
    pixels = torch.zeros(256, dtype=torch.int64)
    labels: Counter[int] = Counter()
    numbers, boxes, unlabelled, crowds = [], [], [], 0
    needed = images.holding(images.holds - {"masks"} if objects else images.holds)
    with progress("counting", len(images)) as advance:
        for index, identity in enumerate(images.identities()):
            _, truth = needed.sample(index)
            sizes[truth.size[1], truth.size[0]] += 1
            if truth.class_map is not None:
                pixels += torch.bincount(truth.class_map.flatten(), minlength=256)
            if objects:
                assert truth.crowd is not None
                numbers.append(len(truth))
                crowds += int(truth.crowd.sum())
                labels.update(truth.labels.tolist())
                unlabelled += [identity.name] * (not len(truth))
                sides = (truth.boxes[:, 2:] - truth.boxes[:, :2]).tolist()
                boxes += [
                    (width, height, identity.name, names[label], truth.size)
                    for (width, height), label in zip(sides, truth.labels.tolist(), strict=True)
                ]
            advance()
    counted = labels if objects else dict(enumerate(pixels.tolist()))
    areas = [width * height for width, height, *_ in boxes]
    return Counts(
        len(images),
        tuple(sizes.most_common()),
        {name: counted.get(number, 0) for number, name in enumerate(names)},
        "objects" if objects else "pixels",
        (min(numbers), float(statistics.median(numbers)), max(numbers)) if numbers else (0, 0.0, 0),
        tuple(unlabelled),
        crowds,
        _extreme(boxes, areas, min),
        _extreme(boxes, areas, max),
        sum(area < SMALL**2 for area in areas),
        sum(area >= LARGE**2 for area in areas),
        float(pixels[IGNORED] / pixels.sum().clamp(min=1)) if "map" in images.holds else None,
        tuple((width, height, size) for width, height, _, _, size in boxes),
    )


def _extreme(boxes: Sequence[tuple[Any, ...]], areas: Sequence[float], choose: Any) -> BoxSize | None:
    if not boxes:
        return None
    width, height, file, name, _ = boxes[choose(range(len(boxes)), key=areas.__getitem__)]
    return BoxSize(width, height, file, name)


def sample_of(collection: Collection[Any], number: int) -> Iterable[tuple[str, AnnotatedSet, int]]:
    """Some pictures of a collection, evenly over it, those of each part in turn: name, set and index."""
    every = [
        (each.known[index].name, each, index)
        for each in collection.parts.values()
        if isinstance(each, AnnotatedSet)
        for index in range(len(each))
    ]
    some = min(number, len(every))
    return [every[round(place * (len(every) - 1) / max(1, some - 1))] for place in range(some)]
