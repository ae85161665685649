"""Annotations as programs of the YOLO family take them: for each picture a text file with an object a line.

A line is a class number, then the middle, width and height of a box, or the points of a polygon; all in shares of the
picture's width and height, as it is seen (set upright by EXIF).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from striate.data.annotated import Fault
from striate.data.folder import PARTS
from striate.data.found import Found
from striate.data.images import expanded
from striate.data.outlines import Polygons
from striate.data.places import by_lists, folder, images_in, read_text, within
from striate.data.recorded import Record, Recorded, Thing
from striate.errors import DataError, readable


def read_yolo(argument: str) -> Found:
    """The pictures of a folder with ``images`` and ``labels``, or with both in a folder for each part.

    The label file of ``images/val/a.jpg`` is ``labels/val/a.txt``, or ``a.txt`` beside it. The one ``*.yaml`` file, or
    of several the one called data, has the classes as ``names`` and may have ``train``, ``val`` and ``test``, each a
    folder or a list of pictures; else ``classes.txt`` has the classes and parts are lists or folders. A picture
    without a label file has no objects.

    Raises:
        DataError: no such folder, no classes, no pictures.
    """
    root = folder(expanded(argument))
    described = _described(root)
    classes = _classes(root, described)
    parts = _parts(root, described) or by_lists(root, images_in(root))
    recorded = {part: _recorded(root, each, classes) for part, each in parts.items()}
    if not any(each.records for each in recorded.values()):
        raise DataError(readable(root), "no pictures", "needed image files in images/")
    count = sum(not _labels_of(file).is_file() for each in parts.values() for file in each)
    return Found(
        recorded, notes=(f"{count:,} of the pictures without a label file, and so without objects",) if count else ()
    )


def _described(root: Path) -> dict[str, Any]:
    """What the YAML file of a data set says; empty without one."""
    import yaml

    files = (
        [root / "data.yaml"] if (root / "data.yaml").is_file() else sorted((*root.glob("*.yaml"), *root.glob("*.yml")))
    )
    if len(files) > 1:
        raise DataError(readable(root), f"{files[0].name} and {files[1].name}", "needed one, or data.yaml")
    if not files:
        return {}
    try:
        found = yaml.safe_load(read_text(files[0]))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise DataError(readable(files[0]), f"is no YAML: {error}", "needed YAML") from error
    if not isinstance(found, dict):
        raise DataError(readable(files[0]), f"holds a {type(found).__name__}", "needed names, train and val")
    return found


def _classes(root: Path, described: dict[str, Any]) -> tuple[str, ...]:
    names = described.get("names")
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise DataError(readable(root), f"has the names {list(names)[:5]}", "needed numbers from 0 without gaps")
        names = [names[number] for number in range(len(names))]
    if names is None and (root / "classes.txt").is_file():
        names = [line.strip() for line in read_text(root / "classes.txt").splitlines() if line.strip()]
    if not isinstance(names, list) or not names:
        raise DataError(readable(root), "no class names", "needed names in data.yaml, or classes.txt")
    told = tuple(readable(name) for name in names)
    if len(set(told)) != len(told):
        raise DataError(readable(root), f"has the names {', '.join(told)}", "needed names that differ")
    return told


def _parts(root: Path, described: dict[str, Any]) -> dict[str, list[Path]]:
    """The pictures of the parts that a YAML file names."""
    found = {}
    base = within(root, str(described["path"])) if _is_inside(root, described.get("path")) else root
    for part, names in PARTS.items():
        told = next((described[name] for name in names if described.get(name)), None)
        if told is None:
            continue
        places = told if isinstance(told, list) else [told]
        found[part] = [picture for each in places for picture in _pictures(root, base, str(each))]
    if found and "train" not in found:
        raise DataError(readable(root), f"has {', '.join(found)}, no train", "needed pictures to learn from")
    return found


def _is_inside(root: Path, name: object) -> bool:
    """Whether a data set's own path is in its folder; it is often that of another machine."""
    return (
        isinstance(name, str)
        and not Path(name).is_absolute()
        and ".." not in Path(name).parts
        and (root / name).is_dir()
    )


def _pictures(root: Path, base: Path, told: str) -> list[Path]:
    """The pictures of a folder or a list that a YAML file names."""
    name = told.replace("\\", "/")
    while name.startswith("../"):  # as some programs write, counted from a folder beside the file
        name = name[3:]
    places = [place for place in (within(base, name), within(root, name)) if place.exists()]
    if not places:
        raise DataError(
            readable(root), f"names {readable(told)!r}, which isn't there", "needed a folder or a list in it"
        )
    place = places[0]
    if place.is_dir():
        return images_in(place)
    return [within(root, line.strip()) for line in read_text(place).splitlines() if line.strip()]


def _labels_of(picture: Path) -> Path:
    """The label file of a picture: the last ``images`` in its path is ``labels`` there."""
    steps = list(picture.parts)
    for number in range(len(steps) - 2, -1, -1):
        if steps[number].lower() == "images":
            there = Path(*steps[:number], "labels", *steps[number + 1 :]).with_suffix(".txt")
            return (
                there if there.is_file() or not picture.with_suffix(".txt").is_file() else picture.with_suffix(".txt")
            )
    return picture.with_suffix(".txt")


def _recorded(root: Path, pictures: list[Path], classes: tuple[str, ...]) -> Recorded:
    faults: list[Fault] = []
    records = []
    for picture in pictures:
        file = _labels_of(picture)
        things = _things(file, readable(file.relative_to(root).as_posix()), classes, faults) if file.is_file() else ()
        name = readable(picture.relative_to(root).as_posix())
        records.append(Record(name, picture, tuple(things), relative=True, turned=True))
    return Recorded(tuple(records), classes, faults=tuple(faults))


def _things(file: Path, name: str, classes: tuple[str, ...], faults: list[Fault]) -> list[Thing]:
    things = []
    try:
        lines = read_text(file).splitlines()
    except DataError as error:
        faults.append(Fault(name, error.got))
        return []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            things.append(_thing(line.split(), f"line {number}", len(classes)))
        except DataError as error:
            faults.append(Fault(name, "; ".join(part for part in (error.got, error.needed) if part), f"line {number}"))
    return things


def _thing(words: list[str], called: str, classes: int) -> Thing:
    try:
        numbers = [float(word) for word in words]
    except ValueError as error:
        raise DataError("line", "has a word that is no number", "needed a class number and shares") from error
    label = numbers[0]
    if not (math.isfinite(label) and label == int(label) and 0 <= label < classes):
        raise DataError("line", f"has the class {words[0]}", f"needed 0 to {classes - 1}")
    values = numbers[1:]
    if len(values) == 4:
        x, y, width, height = values
        if math.isfinite(width + height) and min(width, height) < 0:
            raise DataError("line", f"has a box of {width:g}x{height:g}, with swapped corners")
        return Thing(called, int(label), (x - width / 2, y - height / 2, x + width / 2, y + height / 2))
    if len(values) < 6 or len(values) % 2:
        raise DataError(
            "line", f"has {len(values)} numbers after the class", "needed 4 for a box, 6 or more for points"
        )
    return Thing(called, int(label), outline=Polygons((np.array(values, dtype=np.float32).reshape(-1, 2),)))
