"""Annotations in COCO's format for instances: one JSON file for all pictures.

Lin et al., "Microsoft COCO: common objects in context", 2014; the fields are those of the data format that the data set
publishes: ``images``, ``annotations`` with ``bbox`` (x, y, width, height) and ``segmentation`` (polygons, or runs for
crowds), ``categories``. Categories become labels in the order of their ids, whatever these are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeGuard

import numpy as np

from striate.data.annotated import Fault
from striate.data.images import expanded
from striate.data.outlines import Outline, Polygons, read_runs
from striate.data.places import folder, part_folders, read_json, within
from striate.data.recorded import Box, Record, Recorded, Thing
from striate.errors import DataError, readable

_TABLES: Final = ("images", "annotations", "categories")


def read_coco(argument: str) -> dict[str, Recorded]:
    """The instances of a JSON file, undivided; or of a folder with one for each part.

    Args:
        argument: ``FILE[,IMAGES]``, with the folder of the pictures where it isn't the file's own, a folder ``images``
            beside it, or one beside its folder. Or a folder: ``annotations/instances_train*.json`` and
            ``..._val*.json`` with the folders ``train*`` and ``val*``, as COCO is published; or ``train/*.json``,
            ``valid/*.json`` beside their pictures.

    Raises:
        DataError: no such file, or one that holds no instances.
    """
    whole = expanded(argument)
    place, _, images = (
        (argument, "", "") if whole.exists() else argument.rpartition(",") if "," in argument else (argument, "", "")
    )
    path = expanded(place)
    if not path.is_dir():
        return {"": _read(path, expanded(images) if images else None)}
    files = _parts(path)
    parts = {part: _read(file, expanded(images) if images else None, part) for part, file in files.items()}
    first, *others = parts.items()
    for part, each in others:
        if each.classes != first[1].classes:
            raise DataError(
                readable(path), f"{first[0] or 'one file'} and {part} have other categories", "needed the same"
            )
    return parts


def _parts(root: Path) -> dict[str, Path]:
    """The files of annotations in a folder, by part."""
    found: dict[str, Path] = {}
    for part, each in part_folders(root).items():
        if files := sorted(each.glob("*.json")):
            found[part] = _single(each, files)
    if found:
        return found
    candidates = [*sorted(root.glob("*.json")), *sorted((root / "annotations").glob("*.json"))]
    for part in ("train", "val", "test"):
        files = [file for file in candidates if part in file.stem.lower()]
        if instances := [file for file in files if "instances" in file.stem.lower()]:
            files = instances
        if files:
            found[part] = _single(root, files)
    if not found and len(candidates) == 1:
        return {"": candidates[0]}
    if not found:
        raise DataError(
            readable(root), f"{len(candidates)} JSON files, none for train, val or test", "needed one of each"
        )
    return found


def _single(root: Path, files: list[Path]) -> Path:
    if len(files) > 1:
        got = f"{files[0].name} and {files[1].name} are for the same part"
        raise DataError(readable(root), got, "needed one", f"name one: coco:{readable(files[0])}")
    return files[0]


def _read(path: Path, images: Path | None, part: str = "") -> Recorded:
    data = read_json(path)
    if not isinstance(data, dict) or not all(isinstance(data.get(name), list) for name in _TABLES):
        held = ", ".join(sorted(map(str, data))[:5]) if isinstance(data, dict) else type(data).__name__
        raise DataError(readable(path), f"holds {held or 'nothing'}", f"needed lists of {', '.join(_TABLES)}")
    return _Reader(path, images, part).read(*(data[name] for name in _TABLES))


@dataclass
class _Pending:
    """A picture whose annotations are still being gathered."""

    name: str
    encoded: Path
    size: tuple[int, int] | None
    things: list[Thing] = field(default_factory=list)


class _Reader:
    def __init__(self, path: Path, images: Path | None, part: str) -> None:
        self.path = path
        self.part = f"{part}/" if part else ""  # pictures of several parts may have one name
        self.file = readable(path.name)
        self.given = None if images is None else folder(images)
        self.faults: list[Fault] = []

    def read(self, images: list[Any], annotations: list[Any], categories: list[Any]) -> Recorded:
        labels, classes = self._categories(categories)
        pictures = self._pictures(images)
        ids: set[int] = set()
        for number, each in enumerate(annotations):
            called = f"annotation {each['id']}" if isinstance(each, dict) and "id" in each else f"annotations[{number}]"
            image = each.get("image_id") if isinstance(each, dict) else None
            picture = pictures.get(image) if _is_id(image) else None
            file = self.file if picture is None else picture.name
            try:
                self._check_id(each, "annotation", ids)
            except DataError as error:
                self.faults.append(Fault(file, error.got, readable(called)))
            try:
                if picture is None:
                    raise DataError("annotation", f"is of the image {image!r}, which isn't among the images")
                picture.things.append(_thing(each, called, labels))
            except DataError as error:
                self.faults.append(
                    Fault(file, "; ".join(part for part in (error.got, error.needed) if part), readable(called))
                )
        if not pictures:
            raise DataError(readable(self.path), "has no images", "needed one at least")
        records = tuple(Record(each.name, each.encoded, tuple(each.things), each.size) for each in pictures.values())
        return Recorded(records, classes, faults=tuple(self.faults))

    def _categories(self, categories: list[Any]) -> tuple[dict[int, int], tuple[str, ...]]:
        """Labels by id, and the names of the classes, in the order of the ids."""
        names: dict[int, str] = {}
        for number, each in enumerate(categories):
            if not isinstance(each, dict) or not isinstance(each.get("name"), str):
                self.faults.append(Fault(self.file, "has no name", f"categories[{number}]"))
                continue
            try:
                self._check_id(each, "category", set(names))
            except DataError as error:
                self.faults.append(Fault(self.file, error.got, f"category {readable(each['name'])!r}"))
            if _is_id(each.get("id")):
                names.setdefault(each["id"], readable(each["name"]))
        if not names:
            raise DataError(readable(self.path), "has no categories", "needed one at least")
        classes: list[str] = []
        labels: dict[int, int] = {}
        for number in sorted(names):
            if names[number] in classes:
                self.faults.append(Fault(self.file, "has the name of another one", f"category {names[number]!r}"))
            else:
                classes.append(names[number])
            labels[number] = classes.index(names[number])
        return labels, tuple(classes)

    def _pictures(self, images: list[Any]) -> dict[int, _Pending]:
        found: dict[int, _Pending] = {}
        root: Path | None = None
        names: set[str] = set()
        for number, each in enumerate(images):
            called = f"images[{number}]"
            if not isinstance(each, dict) or not isinstance(each.get("file_name"), str) or not _is_id(each.get("id")):
                self.faults.append(Fault(self.file, "has no file_name or no id", called))
                continue
            name = each["file_name"]
            if each["id"] in found:
                self.faults.append(
                    Fault(self.file, f"has the id {each['id']} of another image", f"image {readable(name)}")
                )
                continue
            root = self._root(name) if root is None else root
            try:
                path = within(root, name)
            except DataError as error:
                self.faults.append(Fault(self.file, error.got, f"image {readable(name)}"))
                path = None
            if path is None:
                continue
            if name in names:
                self.faults.append(Fault(self.file, "is there twice", f"image {readable(name)}"))
            names.add(name)
            size = (each.get("height"), each.get("width"))
            told = size if all(isinstance(side, int) and side > 0 for side in size) else None
            found[each["id"]] = _Pending(self.part + readable(name), path, told)  # type: ignore[arg-type]
        return found

    def _root(self, name: str) -> Path:
        """The folder of the pictures: the one that is given, or the first likely one that has the first picture."""
        if self.given is not None:
            return self.given
        beside = self.path.parent
        likely = [beside, beside / "images", beside.parent, beside.parent / "images"]
        part = self.path.stem.rpartition("_")[2]  # instances_val2017 belongs to val2017
        likely += [each / part for each in (beside, beside.parent, beside / "images", beside.parent / "images")]
        return next((each for each in likely if (each / name).is_file()), beside)

    def _check_id(self, each: Any, kind: str, taken: set[int]) -> None:
        """Raises a DataError for an id that is missing, used twice or 0, which COCO's own evaluation takes for none."""
        number = each.get("id") if isinstance(each, dict) else None
        if not _is_id(number):
            raise DataError(kind, f"has no id that is a whole number, but {number!r}")
        if number in taken:
            raise DataError(kind, f"has the id {number} of another {kind}")
        taken.add(number)
        if number <= 0:
            raise DataError(kind, f"has the id {number}, where ids are from 1 (COCO's evaluation takes 0 for none)")


def _is_id(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _thing(each: dict[str, Any], called: str, labels: dict[int, int]) -> Thing:
    category = each.get("category_id")
    if not _is_id(category) or category not in labels:
        raise DataError("annotation", f"has the category {category!r}, which isn't among the categories")
    outline = _outline(each.get("segmentation"))
    box = _box(each["bbox"]) if each.get("bbox") is not None else None
    if box is None and outline is None:
        raise DataError("annotation", "has neither bbox nor segmentation")
    return Thing(readable(called), labels[category], box, outline, bool(each.get("iscrowd", 0)))


def _box(value: object) -> Box:
    if not isinstance(value, list) or len(value) != 4 or not all(map(_is_number, value)):
        raise DataError("annotation", f"has the bbox {value!r}", "needed [x, y, width, height]")
    x, y, width, height = map(float, value)
    if math.isfinite(width + height) and (width < 0 or height < 0):
        raise DataError("annotation", f"has a box of {width:g}x{height:g}, with swapped corners")
    return x, y, x + width, y + height


def _outline(value: object) -> Outline | None:
    if not value:
        return None
    if isinstance(value, dict):
        return read_runs(value.get("counts"), value.get("size"))
    if not isinstance(value, list):
        raise DataError("annotation", f"has the segmentation {str(value)[:40]!r}", "needed polygons or runs")
    rings = []
    for ring in value:
        if not isinstance(ring, list) or not all(map(_is_number, ring)) or len(ring) % 2:
            raise DataError("annotation", "has a polygon that isn't numbers, two for each point")
        rings.append(np.array(ring, dtype=np.float32).reshape(-1, 2))
    return Polygons(tuple(rings))


def _is_number(value: object) -> bool:
    return isinstance(value, float) or (_is_id(value) and abs(value) < 1 << 53)
