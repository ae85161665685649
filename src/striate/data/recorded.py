"""Annotations as files contain them: checked for faults, then stored compactly until a sample is requested.

A reader returns a :class:`Recorded`. This module decodes every picture once and checks its annotations against its
size, in the same way for all file formats.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from striate.data.annotated import AnnotatedSet, Fault, Sample, object_map
from striate.data.annotation import IGNORED, Annotation
from striate.data.decoding import Encoded, Header, Reading, header, indices
from striate.data.images import Identity, digest
from striate.data.moving import upright
from striate.data.outlines import Outline, Polygons, Runs, box_of, filled
from striate.data.progress import progress
from striate.data.streamed import Wanted, content_of
from striate.errors import DataError, readable

#: Boxes and polygons may extend this many pixels beyond their picture, because of rounding; they are clipped.
SLACK: Final = 1.0

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Thing:
    """An object as a file contains it.

    Args:
        called: its name in messages, ``"annotation 17"``, ``"object 3"``.
        label: from 0.
        box: x0 y0 x1 y1, pixels; None for the box around the outline.
        outline: None if there is none.
        crowd: whether it is a region of many objects.
    """

    called: str
    label: int
    box: Box | None = None
    outline: Outline | None = None
    crowd: bool = False


@dataclass(frozen=True)
class Record:
    """A file's information about one picture.

    Args:
        name: what the picture is called, a path in the data set.
        encoded: the picture.
        things: its objects.
        size: the (H, W) in the file; None if the file doesn't contain it.
        class_map: a file of class indices; None for none.
        relative: whether boxes and outlines are in shares of width and height.
        turned: whether boxes and outlines refer to the picture turned upright by EXIF, if its size leaves this open.
    """

    name: str
    encoded: Encoded
    things: tuple[Thing, ...] = ()
    size: tuple[int, int] | None = None
    class_map: Path | None = None
    relative: bool = False
    turned: bool = False


@dataclass(frozen=True)
class Recorded:
    """The files' information about the pictures of a part.

    Args:
        records: one for each picture.
        classes: of objects.
        map_classes: of class maps in files; empty if class maps follow from masks.
        holds_things: whether there are objects, or only class maps.
        faults: faults that are visible without decoding pictures.
    """

    records: tuple[Record, ...]
    classes: tuple[str, ...]
    map_classes: tuple[str, ...] = ()
    holds_things: bool = True
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True, eq=False)
class Noted:
    """The annotation of a picture without faults, stored compactly.

    Args:
        encoded: the picture.
        size: (H, W) that boxes and outlines belong to.
        orientation: of EXIF, by which the annotation must still be turned.
        boxes: float32 (N, 4).
        labels: int64 (N,).
        crowd: bool (N,).
        outlines: N of them, or none.
        class_map: a file of class indices, if there is one.
    """

    encoded: Encoded
    size: tuple[int, int]
    orientation: int
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    outlines: tuple[Outline, ...] = ()
    class_map: Path | None = None

    def annotation(self, holds: frozenset[str]) -> Annotation:
        masks = None
        if "masks" in holds or ("map" in holds and self.class_map is None):
            drawn = [filled(outline, self.size) for outline in self.outlines]
            masks = torch.from_numpy(np.stack(drawn)) if drawn else torch.zeros(0, *self.size, dtype=torch.bool)
        class_map = None
        if "map" in holds and self.class_map is not None:
            class_map = torch.from_numpy(indices(self.class_map))
        boxes, labels, crowd = map(torch.from_numpy, (self.boxes, self.labels, self.crowd))
        truth = Annotation(self.size, boxes, labels, crowd, masks, class_map)
        if "map" in holds and class_map is None:
            truth = replace(truth, class_map=object_map(truth))
        return truth if self.orientation == 1 else upright(truth, self.orientation)


@dataclass(frozen=True)
class _Files:
    """Samples that are decoded on access."""

    notes: tuple[Noted, ...]
    reading: Reading

    def __len__(self) -> int:
        return len(self.notes)

    def sample(self, index: int, holds: frozenset[str]) -> Sample:
        noted = self.notes[index]
        return self.reading(noted.encoded), noted.annotation(holds)


def look_through(
    parts: Mapping[str, Recorded], wanted: Wanted, source: str
) -> tuple[dict[str, AnnotatedSet], tuple[tuple[str, str], ...]]:
    """The pictures of each part as a set, and what was left out, each with the reason.

    Every picture is decoded once, so that a broken one isn't discovered in the middle of training. Faulty objects and
    pictures are left out and listed in the sets' faults, unless faults are to be skipped. Either all sets are grey or
    none is, and all hold the same parts.

    Raises:
        DataError: a part without a picture that can be read.
    """
    looked = {part: _look(recorded, wanted.reading) for part, recorded in parts.items()}
    channels = wanted.reading.channels or max(3 - 2 * each.grey for found in looked.values() for each in found)
    reading = replace(wanted.reading, fit=None, channels=channels)
    sets = {part: _set(parts[part], found, reading, part or source) for part, found in looked.items()}
    holds = frozenset.intersection(*(each.holds for each in sets.values()))
    faults = [fault for each in sets.values() for fault in each.faults]
    skipped = tuple((fault.file, fault.told) for fault in faults) if wanted.skip_broken else ()
    for part, each in sets.items():
        map_classes = each.map_classes if "map" in holds else ()
        sets[part] = replace(
            each, holds=holds, map_classes=map_classes, faults=() if wanted.skip_broken else each.faults
        )
    return sets, skipped


def _set(recorded: Recorded, looked: list[_Looked], reading: Reading, where: str) -> AnnotatedSet:
    faults = [*recorded.faults, *(fault for each in looked for fault in each.faults)]
    good = [(each, each.noted) for each in looked if each.noted is not None]
    if not good:
        told = f": {faults[0]}" if faults else ""
        raise DataError(where, f"no picture can be read{told}", "needed one at least")
    notes = tuple(noted for _, noted in good)
    holds = {"boxes"} if recorded.holds_things else set()
    map_classes = recorded.map_classes
    outlined = all(len(noted.outlines) == len(noted.labels) for noted in notes)
    if recorded.holds_things and outlined and any(noted.outlines for noted in notes):
        holds.add("masks")
        if not map_classes and len(recorded.classes) < IGNORED:
            map_classes = ("background", *recorded.classes)
    if map_classes and ("masks" in holds or all(noted.class_map is not None for noted in notes)):
        holds.add("map")
    return AnnotatedSet(
        _Files(notes, reading),
        recorded.classes,
        map_classes if "map" in holds else (),
        frozenset(holds),
        reading.channels or 3,
        tuple(Identity(each.name, each.digest) for each, _ in good),
        tuple(faults),
    )


@dataclass
class _Looked:
    """The result of checking a picture."""

    name: str
    faults: list[Fault] = field(default_factory=list)
    noted: Noted | None = None
    grey: bool = False
    digest: str = ""


def _look(recorded: Recorded, reading: Reading) -> list[_Looked]:
    def look(record: Record) -> _Looked:
        found = _Looked(record.name)
        try:
            content, head = _decoded(record, reading)
            found.noted = _noted(record, head, found.faults, recorded)
            found.grey = head.grey
            found.digest = digest(content + _content(found.noted, recorded.classes))
        except DataError as error:
            found.faults.append(Fault(record.name, "; ".join(part for part in (error.got, error.needed) if part)))
        return found

    # Threads are enough: Pillow decodes outside of Python's global lock.
    with ThreadPoolExecutor() as pool, progress("reading pictures", len(recorded.records)) as advance:
        looked = []
        for each in pool.map(look, recorded.records):
            looked.append(each)
            advance()
        return looked


def _decoded(record: Record, reading: Reading) -> tuple[bytes, Header]:
    """The bytes of a picture that can be decoded, and its header."""
    if isinstance(record.encoded, torch.Tensor):
        return record.encoded.numpy().tobytes(), header(record.encoded)
    content, file = content_of(record.encoded)
    head = header(file, reading.max_pixels)
    file.seek(0)
    replace(reading, fit=None)(file)
    return content, head


def _noted(record: Record, head: Header, faults: list[Fault], recorded: Recorded) -> Noted:
    """The annotation of a picture; faults are appended to ``faults``."""
    size, orientation = _frame(record, head, faults)
    things, boxes = [], []
    for thing in record.things:
        try:
            fitting, box = _checked(_absolute(thing, size) if record.relative else thing, size)
        except DataError as error:
            faults.append(
                Fault(record.name, "; ".join(part for part in (error.got, error.needed) if part), thing.called)
            )
            continue
        things.append(fitting)
        boxes.append(box)
    outlines = tuple(thing.outline for thing in things if thing.outline is not None)
    if record.class_map is not None:
        _check_map(record.class_map, size, len(recorded.map_classes))
    return Noted(
        record.encoded,
        size,
        orientation,
        np.array(boxes, dtype=np.float32).reshape(-1, 4),
        np.array([thing.label for thing in things], dtype=np.int64),
        np.array([thing.crowd for thing in things], dtype=bool),
        outlines if len(outlines) == len(things) else (),
        record.class_map,
    )


def _frame(record: Record, head: Header, faults: list[Fault]) -> tuple[tuple[int, int], int]:
    """The size that boxes and outlines refer to, and the orientation by which they must be turned."""
    stored = head.size
    lies = head.orientation >= 5
    shown = (stored[1], stored[0]) if lies else stored
    if record.size is not None and record.size not in (stored, shown):
        got, needed = ("x".join(map(str, reversed(size))) for size in (record.size, shown))
        faults.append(Fault(record.name, f"is said to be {got} (width x height), and is {needed}"))
    told = record.size if record.size is not None else _map_size(record)
    if lies and stored != shown and told is not None:
        return (shown, 1) if told == shown else (stored, head.orientation)
    return (shown, 1) if record.turned else (stored, head.orientation)


def _map_size(record: Record) -> tuple[int, int] | None:
    return None if record.class_map is None else header(record.class_map).size


def _absolute(thing: Thing, size: tuple[int, int]) -> Thing:
    """Converts an object from fractions of width and height to pixels."""
    height, width = size
    box = thing.box
    if box is not None:
        box = (box[0] * width, box[1] * height, box[2] * width, box[3] * height)
    outline = thing.outline
    if isinstance(outline, Polygons):
        outline = Polygons(tuple(ring * np.array([width, height], dtype=np.float32) for ring in outline.rings))
    return replace(thing, box=box, outline=outline)


def _checked(thing: Thing, size: tuple[int, int]) -> tuple[Thing, Box]:
    """The object and its box, clipped to the picture.

    Raises:
        DataError: an object that doesn't fit the picture.
    """
    height, width = size
    outline = thing.outline
    if isinstance(outline, Runs):
        if outline.size != size:
            got = f"has a mask of {outline.size[1]}x{outline.size[0]}"
            raise DataError("mask", got, f"needed {width}x{height}, as the picture")
        if not outline.counts[1::2].any():
            raise DataError("mask", "has a mask without a pixel")
    elif isinstance(outline, Polygons):
        _check_rings(outline, size)
    if thing.box is not None:
        return thing, checked_box(thing.box, size)
    assert outline is not None, "a thing has a box or an outline"
    return thing, checked_box(box_of(outline), size)


def _check_rings(outline: Polygons, size: tuple[int, int]) -> None:
    height, width = size
    for ring in outline.rings:
        if len(ring) < 3:
            raise DataError("outline", f"has a polygon of {len(ring)} points", "needed 3 or more")
        if not np.isfinite(ring).all():
            raise DataError("outline", "has a polygon that isn't finite")
        if ring.min() < -SLACK or (ring > np.array([width, height]) + SLACK).any():
            far = ring[((ring < -SLACK) | (ring > np.array([width, height]) + SLACK)).any(1)][0]
            raise DataError(
                "outline", f"has a polygon outside of the picture, at {far[0]:g},{far[1]:g} of {width}x{height}"
            )


def checked_box(box: Box, size: tuple[int, int]) -> Box:
    """A box cut to its picture of ``size`` (H, W).

    Raises:
        DataError: corners that aren't finite or are swapped, no area, more than :data:`SLACK` outside.
    """
    height, width = size
    with np.errstate(over="ignore"):
        x0, y0, x1, y1 = np.array(box, dtype=np.float32).tolist()  # as they are kept
    told = "box {:g},{:g} to {:g},{:g}".format(*box)
    if not all(map(math.isfinite, (x0, y0, x1, y1))):
        raise DataError("box", f"has a {told} that isn't finite")
    if x1 < x0 or y1 < y0:
        raise DataError("box", f"has a {told} with swapped corners")
    if x1 == x0 or y1 == y0:
        raise DataError("box", f"has a {told} without area")
    if min(x0, y0) < -SLACK or x1 > width + SLACK or y1 > height + SLACK:
        raise DataError("box", f"has a {told} outside of the picture, which is {width}x{height}")
    cut = (max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height)))
    if cut[2] <= cut[0] or cut[3] <= cut[1]:
        raise DataError("box", f"has a {told} outside of the picture, which is {width}x{height}")
    return cut


def _check_map(path: Path, size: tuple[int, int], classes: int) -> None:
    """Raises a DataError if a file of class indices doesn't fit its picture or has other classes."""
    values = indices(path)
    if values.shape != size:
        got = f"has a mask of {values.shape[1]}x{values.shape[0]}, {readable(path.name)}"
        raise DataError("mask", got, f"needed {size[1]}x{size[0]}, as the picture")
    used = np.bincount(values.reshape(-1), minlength=256)[:IGNORED]
    if used[classes:].any():
        value = classes + int(np.flatnonzero(used[classes:])[0])
        raise DataError(
            "mask",
            f"has the class {value} in its mask {readable(path.name)}",
            f"needed 0 to {classes - 1}, or {IGNORED}",
        )


def _content(noted: Noted, classes: Sequence[str]) -> bytes:
    """The annotation as bytes, independent of the file format."""
    parts = [noted.boxes.tobytes(), noted.crowd.tobytes()]
    parts += [classes[label].encode() for label in noted.labels]
    for outline in noted.outlines:
        rings = (outline.counts,) if isinstance(outline, Runs) else outline.rings
        parts += [ring.tobytes() for ring in rings]
    if noted.class_map is not None:
        parts.append(noted.class_map.read_bytes())
    return b"|".join([str((noted.size, noted.orientation)).encode(), *parts])


def summary(faults: Sequence[Fault], source: str) -> DataError:
    """The error that lists the faults in one line, with which training refuses a data set."""
    shown = " | ".join(map(str, faults[:3]))
    more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
    kinds = Counter(fault.file for fault in faults)
    return DataError(
        source,
        f"{len(faults)} fault{'s' * (len(faults) != 1)} in {len(kinds)} file{'s' * (len(kinds) != 1)}: {shown}{more}",
        "needed annotations that fit their pictures",
        "mend them (`striate check` lists all), or leave out what has faults: skip_broken, --skip-broken",
    )
