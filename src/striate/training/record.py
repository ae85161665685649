"""The record of a run's training, validation and test images, by path and content.

A folder of images changes over time: images are added, renamed or edited, or the folder is moved. If the held-out
images were drawn again from the current contents, they would include images that the network was trained on. So a run
records the part of each image, and identifies images by their content.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from striate.data import AnnotatedSet, LabelledImages, Split, annotated, streamed
from striate.data.sources import Collection
from striate.errors import DataError, RunError
from striate.files import write_whole
from striate.tasks.predictions import as_was, inert
from striate.training.folder import RECORD

PARTS: Final = ("train", "val", "test")
_HEADER: Final = ("part", "class", "image", "digest")
_LEFT_OUT: Final = "left out"
#: The part of an image that the initial weights were trained on earlier.
_EARLIER: Final = "earlier"
#: Largest number of images that a note names; for more it gives the number.
_NAMED: Final = 3


@dataclass(frozen=True)
class Entry:
    """An image: its part of the data, its class, its path in the data set, and its digest."""

    part: str
    category: str
    name: str
    digest: str


@dataclass(frozen=True)
class Changes:
    """How the data differ from a run's record; paths of images.

    Args:
        new: images that the run has never seen.
        gone: images of each part that don't exist any more.
        edited: images of each part whose file has another content now.
        moved: number of images that have another path.
    """

    new: tuple[str, ...] = ()
    gone: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    edited: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    moved: int = 0

    def told(self) -> list[str]:
        """A line for each kind of change.

        >>> Changes(("cat/7.jpg",), {"test": ("dog/1.jpg",)}).told()
        ['1 image is new: cat/7.jpg', '1 of test is gone: dog/1.jpg']
        """
        lines = []
        if self.new:
            lines.append(f"{len(self.new):,} {_are(self.new, 'image')} new: {_some(self.new)}")
        for what, parts in (("gone", self.gone), ("edited", self.edited)):
            for part, names in parts.items():
                lines.append(f"{len(names):,} of {part} {'is' if len(names) == 1 else 'are'} {what}: {_some(names)}")
        if self.moved:
            lines.append(f"{self.moved:,} {'has' if self.moved == 1 else 'have'} another path, and the same content")
        return lines


@dataclass(frozen=True)
class Record:
    """The images of a run, in the run's order.

    Args:
        entries: the images.
        left_out: files that were left out, with the reasons.
        earlier: digests of images that the initial weights were trained on, if those weights come from a run with a
            record.
    """

    entries: tuple[Entry, ...]
    left_out: tuple[tuple[str, str], ...] = ()
    earlier: frozenset[str] = frozenset()

    @classmethod
    def of(cls, split: Split, earlier: frozenset[str] = frozenset()) -> Record:
        entries = [
            Entry(part, category, each.name, each.digest)
            for part, images in split.parts.items()
            for each, category in zip(images.identities(), categories(images), strict=True)
        ]
        return cls(tuple(entries), split.skipped, earlier)

    def save(self, folder: Path) -> None:
        """Writes ``images.csv``, whole or not at all."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_HEADER)
        writer.writerows((each.part, inert(each.category), inert(each.name), each.digest) for each in self.entries)
        writer.writerows((_LEFT_OUT, reason, inert(name), "") for name, reason in self.left_out)
        writer.writerows((_EARLIER, "", "", each) for each in sorted(self.earlier))
        write_whole(folder / RECORD, text.getvalue().encode())

    @classmethod
    def load(cls, folder: Path) -> Record | None:
        """The record in a run's folder; None if there is none, as in runs of older versions.

        Raises:
            RunError: a file of another form.
        """
        path = folder / RECORD
        if not path.exists():
            return None
        try:
            header, *rows = csv.reader(io.StringIO(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, csv.Error) as error:
            raise RunError(str(path), f"can't be read ({error})", "needed the file as training wrote it") from error
        if tuple(header) != _HEADER or any(
            len(row) != 4 or row[0] not in (*PARTS, _LEFT_OUT, _EARLIER) for row in rows
        ):
            raise RunError(str(path), "is no record of images", f"needed the columns {', '.join(_HEADER)}")
        return cls(
            tuple(Entry(row[0], as_was(row[1]), as_was(row[2]), row[3]) for row in rows if row[0] in PARTS),
            tuple((as_was(row[2]), row[1]) for row in rows if row[0] == _LEFT_OUT),
            frozenset(row[3] for row in rows if row[0] == _EARLIER),
        )

    def counts(self) -> dict[str, dict[str, int]]:
        """Images by class and part."""
        found: dict[str, dict[str, int]] = {}
        for each in self.entries:
            parts = found.setdefault(each.category, dict.fromkeys(self.parts, 0))
            parts[each.part] += 1
        return found

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of the run, some of train, val and test."""
        there = {each.part for each in self.entries}
        return tuple(part for part in PARTS if part in there)

    def digests(self, part: str) -> frozenset[str]:
        """The digests of a part's images."""
        return frozenset(each.digest for each in self.entries if each.part == part)

    @property
    def learnt(self) -> frozenset[str]:
        """Digests of all training and validation images, including those of earlier runs."""
        return self.digests("train") | self.digests("val") | self.earlier

    def overlap(self) -> int:
        """The number of test images with the same content as a training image, under any name."""
        learnt = self.learnt
        return sum(each.part == "test" and each.digest in learnt for each in self.entries)

    def find(self, collection: Collection[Any]) -> tuple[dict[str, Any], Changes]:
        """The recorded images in a source, by part and in the record's order; and the changes.

        An image matches if it has the recorded content and class; among several, the one with the recorded path.
        """
        pool = joined(list(collection.parts.values()))
        of_each = categories(pool)
        places: dict[tuple[str, str], list[int]] = defaultdict(list)
        named: dict[str, int] = {}
        identities = pool.identities()
        for place, each in enumerate(identities):
            places[each.digest, of_each[place]].append(place)
            named[each.name] = place
        found: dict[str, list[int]] = {part: [] for part in self.parts}
        gone: dict[str, list[str]] = defaultdict(list)
        edited: dict[str, list[str]] = defaultdict(list)
        used: set[int] = set()
        unreadable = {name for name, _ in collection.skipped}
        moved = 0
        for entry in self.entries:
            there = places.get((entry.digest, entry.category), ())
            same: int | None = named.get(entry.name)
            found_at: int | None = same if same in there else next((each for each in there if each not in used), None)
            if found_at is not None:
                moved += found_at != same
                found[entry.part].append(found_at)
                used.add(found_at)
            elif same is not None or entry.name in unreadable:
                edited[entry.part].append(entry.name)
                used |= set() if same is None else {same}
            else:
                gone[entry.part].append(entry.name)
        new = tuple(each.name for place, each in enumerate(identities) if place not in used)
        changes = Changes(
            new,
            {part: tuple(names) for part, names in gone.items()},
            {part: tuple(names) for part, names in edited.items()},
            moved,
        )
        return {part: pool.subset(chosen) for part, chosen in found.items() if chosen}, changes

    def restored(self, collection: Collection[Any]) -> tuple[Split[Any], Changes]:
        """The recorded split, from a source that must contain all its images.

        Raises:
            DataError: images that are missing or were edited.
        """
        found, changes = self.find(collection)
        if changes.gone or changes.edited:
            raise DataError(
                collection.source,
                "isn't what the run began with: " + ", ".join(Changes((), changes.gone, changes.edited).told()),
                "needed the same images, wherever they lie",
            )
        return Split(
            found["train"], found["test"], collection.source, found.get("val"), self.left_out, collection.notes
        ), changes


def categories(images: LabelledImages | AnnotatedSet) -> list[str]:
    """Each image's class; empty for annotated pictures, whose digests include their annotations."""
    if isinstance(images, AnnotatedSet):
        return [""] * len(images)
    return [images.classes[label] for label in images.labels.tolist()]


def joined(sets: Sequence[Any]) -> Any:
    """Sets of one kind as one, in their order."""
    return annotated.joined(sets) if isinstance(sets[0], AnnotatedSet) else streamed.joined(sets)


def _are(names: tuple[str, ...], what: str) -> str:
    return f"{what} is" if len(names) == 1 else f"{what}s are"


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
