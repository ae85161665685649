"""Annotations of the program labelme: for each picture a JSON file of shapes."""

from __future__ import annotations

import base64
import binascii
import io
import math
from pathlib import Path
from typing import Any

import numpy as np

from striate.data.annotated import Fault
from striate.data.decoding import SUFFIXES, Encoded
from striate.data.found import Found
from striate.data.images import expanded
from striate.data.outlines import Outline, Polygons, runs_of
from striate.data.places import by_lists, files_in, folder, read_json, read_text, within
from striate.data.recorded import Record, Recorded, Thing
from striate.data.streamed import opened
from striate.errors import DataError, readable

#: Corners of the polygon that stands for a circle.
_CORNERS = 64


def read_labelme(argument: str) -> Found:
    """The pictures of a folder with a JSON file for each, beside it or with the picture in it.

    Polygons, rectangles, circles and masks are objects; polygons with one ``group_id`` and label are parts of one
    object. Points and lines have no area, and are left out. Coordinates are those of the picture as it is seen. Class
    names are the lines of ``classes.txt`` or ``labels.txt`` (but those that begin with ``_``), or those that occur.
    Parts are lists of JSON files (``train.txt``, ...) or folders.

    Raises:
        DataError: no such folder, no shapes.
    """
    root = folder(expanded(argument))
    files = files_in(root, ".json")
    if not files:
        raise DataError(readable(root), "no JSON files", "needed one for each picture")
    parts = by_lists(root, files)
    read = {file: _Read(file, root) for each in parts.values() for file in each}
    classes = _classes(root, list(read.values()))
    skipped = tuple(skip for each in read.values() for skip in each.skipped)
    return Found({part: _recorded([read[file] for file in each], classes) for part, each in parts.items()}, skipped)


class _Read:
    """The contents of a file."""

    def __init__(self, file: Path, root: Path) -> None:
        self.file, self.root = file, root
        self.name = readable(file.relative_to(root).as_posix())
        self.faults: list[Fault] = []
        self.skipped: list[tuple[str, str]] = []
        self.shapes: list[tuple[str, str, Outline]] = []
        try:
            data = read_json(file)
            if not isinstance(data, dict) or not isinstance(data.get("shapes"), list):
                raise DataError(self.name, "has no shapes", "needed a file of labelme")
        except DataError as error:
            self.faults.append(Fault(self.name, "; ".join(part for part in (error.got, error.needed) if part)))
            data = {"shapes": []}
        self.size = self._size(data)
        self.picture, self.encoded = self._picture(data)
        groups: dict[tuple[str, Any], int] = {}
        for number, shape in enumerate(data["shapes"], 1):
            self._add(shape, f"shape {number}", groups)

    def _size(self, data: dict[str, Any]) -> tuple[int, int] | None:
        height, width = data.get("imageHeight"), data.get("imageWidth")
        return (
            (height, width) if isinstance(height, int) and isinstance(width, int) and min(height, width) > 0 else None
        )

    def _picture(self, data: dict[str, Any]) -> tuple[str, Encoded]:
        """The picture's name, and its source: the named file, a file with the JSON file's name, or the bytes inside."""
        names = [self.file.stem + suffix for suffix in SUFFIXES]
        if isinstance(data.get("imagePath"), str) and data["imagePath"]:
            names.insert(0, data["imagePath"])
        for name in names:
            try:
                path = within(self.root, (self.file.parent / name).relative_to(self.root).as_posix())
            except (DataError, ValueError):
                continue
            if path.is_file():
                return readable(path.relative_to(self.root).as_posix()), path
        if isinstance(data.get("imageData"), str):
            try:
                return self.name, opened(base64.b64decode(data["imageData"], validate=True), self.name)
            except (binascii.Error, ValueError):
                self.faults.append(Fault(self.name, "has imageData that isn't base64"))
        return self.name, self.file.with_name(Path(names[0]).name)

    def _add(self, shape: Any, called: str, groups: dict[tuple[str, Any], int]) -> None:
        label = shape.get("label") if isinstance(shape, dict) else None
        if not isinstance(label, str) or not label:
            self.faults.append(Fault(self.name, "has no label", called))
            return
        kind = shape.get("shape_type") or "polygon"
        if kind in ("point", "line", "linestrip", "points"):
            self.skipped.append((self.name, f"{called} ({readable(label)}) is a {kind}, which has no area"))
            return
        called = f"{called} ({readable(label)})"
        try:
            outline = _outline(shape, kind, self.size)
        except DataError as error:
            self.faults.append(Fault(self.name, "; ".join(part for part in (error.got, error.needed) if part), called))
            return
        group = shape.get("group_id")
        place = groups.get((label, group)) if isinstance(group, int | str) else None
        if (
            place is not None
            and isinstance(outline, Polygons)
            and isinstance(before := self.shapes[place][2], Polygons)
        ):
            first = self.shapes[place]
            self.shapes[place] = (first[0], first[1], Polygons((*before.rings, *outline.rings)))
            return
        if isinstance(group, int | str):
            groups[label, group] = len(self.shapes)
        self.shapes.append((called, label, outline))


def _outline(shape: dict[str, Any], kind: str, size: tuple[int, int] | None) -> Outline:
    points = shape.get("points")
    try:
        ring = np.array(points, dtype=np.float32)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError("shape", "has points that aren't numbers") from error
    if ring.ndim != 2 or ring.shape[1] != 2:
        raise DataError("shape", "has points that aren't pairs of numbers")
    if kind == "polygon":
        return Polygons((ring,))
    if kind not in ("rectangle", "circle", "mask") or len(ring) != 2:
        raise DataError(
            "shape", f"is a {readable(kind)} of {len(ring)} points", "needed a polygon, rectangle, circle or mask"
        )
    (x0, y0), (x1, y1) = ring.tolist()
    if kind == "mask":
        return _placed(shape.get("mask"), (x0, y0, x1, y1), size)
    if kind == "circle":
        radius = math.hypot(x1 - x0, y1 - y0)
        angle = np.linspace(0, 2 * np.pi, _CORNERS, endpoint=False)
        return Polygons((np.stack([x0 + radius * np.cos(angle), y0 + radius * np.sin(angle)], 1).astype(np.float32),))
    # Either corner may be drawn first.
    return Polygons((np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], dtype=np.float32),))


def _placed(encoded: object, box: tuple[float, float, float, float], size: tuple[int, int] | None) -> Outline:
    """A mask that is a small PNG, at its place in the picture."""
    from PIL import Image

    if size is None or not isinstance(encoded, str):
        raise DataError("shape", "is a mask without its pixels or the picture's size")
    try:
        with Image.open(io.BytesIO(base64.b64decode(encoded, validate=True)), formats=["PNG"]) as image:
            small = np.asarray(image) > 0
    except (binascii.Error, ValueError, OSError, SyntaxError) as error:
        raise DataError("shape", f"has a mask that can't be decoded: {error}") from error
    left, top = round(box[0]), round(box[1])
    if small.ndim != 2 or min(left, top) < 0 or top + small.shape[0] > size[0] or left + small.shape[1] > size[1]:
        raise DataError("shape", "has a mask outside of the picture")
    whole = np.zeros(size, dtype=bool)
    whole[top : top + small.shape[0], left : left + small.shape[1]] = small
    return runs_of(whole)


def _classes(root: Path, read: list[_Read]) -> tuple[str, ...]:
    for name in ("classes.txt", "labels.txt"):
        if (root / name).is_file():
            lines = [line.strip() for line in read_text(root / name).splitlines()]
            return tuple(line for line in lines if line and not line.startswith("_"))
    used = sorted({label for each in read for _, label, _ in each.shapes})
    if not used:
        faults = [fault for each in read for fault in each.faults]
        told = f": {faults[0]}" if faults else ""
        raise DataError(readable(root), f"no shapes{told}", "needed one at least", "or name the classes in classes.txt")
    return tuple(used)


def _recorded(read: list[_Read], classes: tuple[str, ...]) -> Recorded:
    faults, records = [], []
    for each in read:
        faults += each.faults
        things = []
        for called, label, outline in each.shapes:
            if label in classes:
                things.append(Thing(called, classes.index(label), outline=outline))
            else:
                faults.append(Fault(each.name, f"is of no class of {', '.join(classes[:5])}", called))
        records.append(Record(each.picture, each.encoded, tuple(things), each.size, turned=True))
    return Recorded(tuple(records), tuple(map(readable, classes)), faults=tuple(faults))
