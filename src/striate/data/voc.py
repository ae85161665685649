"""Annotations as in Pascal VOC: an XML file of boxes for each picture, and PNG files of classes and of objects.

Everingham et al., "The PASCAL visual object classes (VOC) challenge", 2010, and its development kit. There pixels are
counted from 1 and a box includes its last pixel: ``xmin=1, xmax=1`` is the first column, here 0 to 1. Many programs
count from 0 instead; where a folder has a coordinate 0, it does, and its boxes are taken as they are.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

import numpy as np

from striate.data.annotated import Fault
from striate.data.annotation import IGNORED
from striate.data.decoding import SUFFIXES, indices
from striate.data.folder import PARTS
from striate.data.found import Found
from striate.data.images import expanded
from striate.data.outlines import runs_of
from striate.data.places import by_lists, files_in, folder, read_text, within
from striate.data.recorded import Box, Record, Recorded, Thing
from striate.errors import DataError, readable

#: VOC's own classes, in the order of the numbers in its class maps.
CLASSES: Final = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
_MASKS: Final = "Segmentation"


def read_voc(argument: str) -> Found:
    """The pictures of ``FOLDER[,LISTS]``.

    A folder with ``Annotations``, ``JPEGImages`` and ``ImageSets``, as VOC is published, whose parts are
    ``ImageSets/LISTS/train.txt`` and ``val.txt`` (``trainval.txt`` where there is no ``train.txt``). LISTS is ``Main``;
    with ``Segmentation`` objects and class maps come from ``SegmentationObject`` and ``SegmentationClass`` instead of
    the boxes. Or any folder with XML files beside their pictures.

    Raises:
        DataError: no such folder, no annotations.
    """
    place, comma, name = argument.rpartition(",")
    if not comma or expanded(argument).exists():
        place, name = argument, ""
    root = folder(expanded(place))
    if name == _MASKS:
        return _read_masks(root)
    files = files_in(root / "Annotations" if (root / "Annotations").is_dir() else root, ".xml")
    if not files:
        raise DataError(readable(root), "no XML files", "needed one for each picture, as in Annotations/")
    parts = _parts(root, files, name)
    read = {file: _read(file, root) for each in parts.values() for file in each}
    classes = _classes(root, [thing for _, things, _ in read.values() for thing in things])
    from_zero = any(min(box[:2]) == 0 for _, things, _ in read.values() for *_, box, _ in things if box is not None)
    recorded = {part: _recorded([read[file] for file in each], classes, from_zero) for part, each in parts.items()}
    counted = "0, as some boxes begin there" if from_zero else "1, as VOC does"
    return Found(recorded, notes=(f"takes the boxes' pixels to be counted from {counted}",))


#: An object of a file: what it is called, its class, its box if it has one, and what is wrong with it otherwise.
_Object = tuple[str, str, Box | None, str]


def _read(file: Path, root: Path) -> tuple[Record, list[_Object], list[Fault]]:
    """The picture of a file without its objects, those, and what is wrong with the file."""
    name = readable(file.relative_to(root).as_posix())
    faults: list[Fault] = []
    try:
        tree = _tree(file)
    except DataError as error:
        faults.append(Fault(name, "; ".join(part for part in (error.got, error.needed) if part)))
        tree = ElementTree.Element("annotation")
    picture = _picture(file, root, tree.findtext("filename"))
    size = tuple(_number(tree.findtext(f"size/{side}")) for side in ("height", "width"))
    told = (int(size[0]), int(size[1])) if all(np.isfinite(size)) and min(size) > 0 else None
    objects: list[_Object] = []
    for number, each in enumerate(tree.findall("object"), 1):
        called, label = f"object {number}", (each.findtext("name") or "").strip()
        if not label:
            faults.append(Fault(name, "has no name", called))
            continue
        values = [_number(each.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")]
        missing = each.find("bndbox") is None
        objects.append(
            (
                f"{called} ({readable(label)})",
                label,
                None if missing else (values[0], values[1], values[2], values[3]),
                name,
            )
        )
        if missing:
            faults.append(Fault(name, "has no bndbox", called))
    return Record(readable(picture.relative_to(root).as_posix()), picture, (), told), objects, faults


def _tree(file: Path) -> ElementTree.Element:
    """The elements of an XML file.

    A document that defines entities is refused before it is parsed: a few lines of them unfold to gigabytes.
    """
    text = read_text(file)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise DataError(readable(file), "has a document type definition", "needed plain XML without one")
    try:
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, RecursionError) as error:
        raise DataError(readable(file), f"is no XML: {error}", "needed XML") from error


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return float("nan")


def _picture(file: Path, root: Path, told: str | None) -> Path:
    """The picture that an XML file is about: the one that it names, or else the one that is called as it is."""
    folders = [file.parent, root / "JPEGImages", root / "images", root]
    names = [file.stem + suffix for suffix in SUFFIXES]
    if told and told.strip():
        names.insert(0, Path(told.strip().replace("\\", "/")).name)
    for place in folders:
        for name in names:
            if (path := within(place, name)).is_file():
                return path
    return folders[1 if folders[1].is_dir() else 0] / names[0]


def _parts(root: Path, files: list[Path], name: str) -> dict[str, list[Path]]:
    """The XML files by part: by the lists, by folders, or all under ``""``."""
    place = root / "ImageSets" / (name or "Main")
    if name and not place.is_dir():
        raise DataError(readable(place), "no such folder", "needed the folder of the lists")
    listed = _lists(place) if place.is_dir() else {}
    if not listed:
        return by_lists(root, files)
    stems = {file.stem: file for file in files}
    for part, stemmed in listed.items():
        if missing := [stem for stem in stemmed if stem not in stems]:
            got = f"lists {readable(missing[0])}, which has no XML file"
            raise DataError(readable(place / f"{part}.txt"), got, "needed one for each picture")
    return {part: [stems[stem] for stem in stemmed] for part, stemmed in listed.items()}


def _lists(place: Path) -> dict[str, list[str]]:
    found = {}
    for part in PARTS:
        names = ("train", "trainval") if part == "train" else (part,)
        path = next((place / f"{name}.txt" for name in names if (place / f"{name}.txt").is_file()), None)
        if path is not None:
            found[part] = [line.split()[0] for line in read_text(path).splitlines() if line.strip()]
    return {part: each for part, each in found.items() if each}


def _classes(root: Path, objects: list[_Object]) -> tuple[str, ...]:
    """Those of ``classes.txt`` or ``labels.txt``; VOC's own; or those that occur, in the order of their names."""
    used = sorted({label for _, label, _, _ in objects})
    for name in ("classes.txt", "labels.txt"):
        if (root / name).is_file():
            return tuple(line.strip() for line in read_text(root / name).splitlines() if line.strip())
    if used and set(used) <= set(CLASSES) and (root / "JPEGImages").is_dir():
        return CLASSES
    if not used:
        raise DataError(readable(root), "no objects", "needed one at least", "or name the classes in classes.txt")
    return tuple(used)


def _recorded(
    read: list[tuple[Record, list[_Object], list[Fault]]], classes: tuple[str, ...], from_zero: bool
) -> Recorded:
    faults = [fault for _, _, each in read for fault in each]
    records = []
    shift = 0.0 if from_zero else 1.0
    for record, objects, _ in read:
        things = []
        for called, label, box, file in objects:
            if label not in classes:
                faults.append(Fault(file, f"is of no class of {', '.join(classes[:5])}", called))
            elif box is not None:
                things.append(Thing(called, classes.index(label), (box[0] - shift, box[1] - shift, box[2], box[3])))
        records.append(replace(record, things=tuple(things)))
    return Recorded(tuple(records), tuple(map(readable, classes)), faults=tuple(faults))


def _read_masks(root: Path) -> Found:
    """The pictures with a PNG of classes and one of objects."""
    places = [folder(root / name) for name in ("SegmentationClass", "SegmentationObject")]
    stems = sorted(path.stem for path in files_in(places[0], ".png"))
    parts = _lists(root / "ImageSets" / _MASKS) or {"": stems}
    named = root / "classes.txt"
    classes = (
        tuple(line.strip() for line in read_text(named).splitlines() if line.strip()) if named.is_file() else CLASSES
    )
    recorded = {}
    for part, each in parts.items():
        faults: list[Fault] = []
        records = tuple(
            _outlined(root, stem, [place / f"{stem}.png" for place in places], classes, faults) for stem in each
        )
        recorded[part] = Recorded(records, classes, ("background", *classes), faults=tuple(faults))
    return Found(recorded)


def _outlined(root: Path, stem: str, files: list[Path], classes: tuple[str, ...], faults: list[Fault]) -> Record:
    """A picture with the objects that its two PNG files show."""
    picture = _picture(root / "Annotations" / f"{stem}.xml", root, None)
    name = readable(picture.relative_to(root).as_posix())
    record = Record(name, picture, class_map=files[0])
    try:
        kinds, numbers = (indices(file) for file in files)
    except DataError as error:
        faults.append(Fault(readable(error.where), error.got))
        return record
    if kinds.shape != numbers.shape:
        faults.append(Fault(name, "has files of classes and of objects that differ in size"))
        return record
    things = []
    for number in np.unique(numbers):
        if number in (0, IGNORED):
            continue
        mask = numbers == number
        kind = int(np.bincount(kinds[mask], minlength=256)[:IGNORED].argmax())
        if not 1 <= kind <= len(classes):
            faults.append(Fault(name, f"has the class {kind}, needed 1 to {len(classes)}", f"object {number}"))
            continue
        things.append(Thing(f"object {number} ({classes[kind - 1]})", kind - 1, outline=runs_of(mask)))
    return replace(record, things=tuple(things), size=(kinds.shape[0], kinds.shape[1]))
