"""Class maps in a folder: for each picture a PNG with the number of a class at each pixel; 255 isn't counted."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from striate.data.annotated import Fault
from striate.data.annotation import IGNORED
from striate.data.decoding import indices
from striate.data.found import Found
from striate.data.images import expanded
from striate.data.places import by_lists, folder, images_in, read_text
from striate.data.recorded import Record, Recorded
from striate.errors import DataError, readable

#: What follows the name of a picture in the name of its class map, where both lie in one folder.
_SUFFIXES: Final = ("_mask", "-mask", ".mask", "_label", "_labels", "_seg", "_gt")
#: Folders of class maps and of pictures, where each has its own.
_MAPS: Final = ("masks", "labels", "annotations", "segmentationclass", "masks_machine", "gt")
_PICTURES: Final = ("images", "jpegimages", "imgs", "pictures")


def read_masks(argument: str) -> Found:
    """The pictures of a folder with their class maps.

    A class map is called as its picture is: beside it, as ``a.png`` of ``a.jpg`` or ``a_mask.png`` of ``a.png``; or in
    ``masks/`` (``labels/``, ``annotations/``, ``SegmentationClass/``) where the picture is in ``images/``
    (``JPEGImages/``). Class names are the lines of ``classes.txt``, that of 0 first; without it, numbers. Parts are
    lists (``train.txt``, ``val.txt``, ``test.txt``) or folders.

    Raises:
        DataError: no such folder, no picture with a class map.
    """
    root = folder(expanded(argument))
    files = images_in(root)
    maps = {file: found for file in files if (found := _map_of(file, set(files), root)) is not None}
    taken = set(maps.values())
    pictures = [file for file in files if file not in taken]
    if not maps:
        raise DataError(
            readable(root), "no picture has a class map", "needed a.png beside a.jpg, or a_mask.png, or masks/"
        )
    parts = by_lists(root, pictures)
    classes, faults = _classes(root, sorted(taken))
    recorded = {}
    for part, each in parts.items():
        records = tuple(_record(file, maps[file], root) for file in each if file in maps)
        missing = [Fault(_name(file, root), "has no class map") for file in each if file not in maps]
        if not records:
            raise DataError(readable(root), f"no picture of {part or 'it'} has a class map", "needed one at least")
        recorded[part] = Recorded(records, (), classes, False, (*faults, *missing))
        faults = []
    return Found(recorded)


def _record(file: Path, class_map: Path, root: Path) -> Record:
    return Record(_name(file, root), file, class_map=class_map)


def _name(file: Path, root: Path) -> str:
    return readable(file.relative_to(root).as_posix())


def _map_of(file: Path, files: set[Path], root: Path) -> Path | None:
    """The class map of a picture; None for none, and for one that is itself a class map."""
    for suffix in _SUFFIXES:
        if file.suffix.lower() == ".png" and file.stem.endswith(suffix):
            return None
        if (beside := file.with_name(f"{file.stem}{suffix}.png")) in files:
            return beside
    steps = file.relative_to(root).parts
    for number, step in enumerate(steps[:-1]):
        if step.lower() not in _PICTURES:
            continue
        above, below = root.joinpath(*steps[:number]), steps[number + 1 : -1]
        for entry in sorted(above.iterdir()):
            if entry.is_dir() and entry.name.lower() in _MAPS:
                for suffix in ("", *_SUFFIXES):
                    if (found := entry.joinpath(*below, f"{file.stem}{suffix}.png")) in files:
                        return found
    beside = file.with_suffix(".png")
    return beside if beside != file and beside in files else None


def _classes(root: Path, maps: list[Path]) -> tuple[tuple[str, ...], list[Fault]]:
    """The names of ``classes.txt``; without one the numbers from 0 to the largest that occurs."""
    named = root / "classes.txt"
    if named.is_file():
        names = tuple(line.strip() for line in read_text(named).splitlines() if line.strip())
        if len(set(names)) != len(names) or not names:
            raise DataError(readable(named), f"has {len(names)} names", "needed names that differ, one a line")
        if len(names) > IGNORED:
            raise DataError(readable(named), f"has {len(names)} names", f"needed {IGNORED} or fewer")
        return tuple(map(readable, names)), []
    largest = 1
    for file in maps:
        try:
            values = indices(file)
        except DataError:
            continue  # reported when its picture is checked
        counted = values[values != IGNORED]
        largest = max(largest, int(counted.max())) if counted.size else largest
    return tuple(map(str, np.arange(largest + 1).tolist())), []
