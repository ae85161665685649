"""Image files in folders, a sub-folder for each class."""

from __future__ import annotations

from pathlib import Path

import torch

from striate.data.images import SUFFIXES
from striate.data.streamed import AS_STORED, LabelledImages, Wanted, labelled
from striate.errors import DataError

_HELD_OUT = ("test", "val")


def read_class_folder(path: str | Path, wanted: Wanted = AS_STORED) -> tuple[LabelledImages, LabelledImages | None]:
    """The images in the sub-folders of ``path``, one for each class; classes and files are in the order of their names.

    Where ``path`` has the sub-folders ``train`` and ``test`` (or ``val``) and no others, each of these has the class
    folders, and they are the training and the test set; else the test set is None. What is hidden, files that aren't
    PNG, JPEG, BMP or WebP by their suffix, and whatever lies beside the class folders are left out.

    Args:
        path: the folder.
        wanted: size and channels; None: the files' own size, which is to be one, and 1 channel if all store grey, else
            3. And whether the images stay in their files.

    Raises:
        DataError: no such folder, fewer than two classes, a class without images or with folders in it, an image that
            can't be read, different image sizes and no ``image_size``.
    """
    sides = {side.name: _list_classes(side) for side in _sides(Path(path))}
    train, *held_out = sides.values()
    classes = tuple(train)
    for side in held_out:
        if odd := sorted(set(train) ^ set(side)):
            one, other = sides if odd[0] in train else reversed(sides)
            got = f"class {odd[0]} is in {one}, not in {other}"
            raise DataError(str(path), got, "needed the same classes in both")
    files = [file for side in sides.values() for files in side.values() for file in files]
    labels = torch.tensor(
        [label for side in sides.values() for label, files in enumerate(side.values()) for _ in files]
    )
    images = labelled(files, labels, classes, wanted)
    if not held_out:
        return images, None
    count = sum(map(len, train.values()))
    return images.subset(range(count)), images.subset(range(count, len(files)))


def _sides(root: Path) -> list[Path]:
    """The folders that hold class folders: ``root`` itself, or its train and test."""
    names = [folder.name for folder in _visible(root) if folder.is_dir()]
    if "train" not in names or not any(name in names for name in _HELD_OUT):
        return [root]
    if len(names) > 2:
        raise DataError(
            str(root),
            f"got the folders {', '.join(names)}",
            f"needed train and one of {', '.join(_HELD_OUT)}, or only class folders",
            "hide the others by a dot before their names",
        )
    return [root / "train", *(root / name for name in names if name != "train")]


def _list_classes(root: Path) -> dict[str, list[Path]]:
    """The image files of each class folder in ``root``."""
    folders = [folder for folder in _visible(root) if folder.is_dir()]
    if len(folders) < 2:
        got = f"one class folder, {folders[0].name}" if folders else "no class folders"
        raise DataError(str(root), got, "needed at least two, each with the images of its class")
    classes = {}
    for folder in folders:
        entries = _visible(folder)
        if nested := [entry.name for entry in entries if entry.is_dir()]:
            raise DataError(str(folder), f"folder {nested[0]} in a class folder", "needed image files only")
        images = [entry for entry in entries if entry.suffix.lower() in SUFFIXES]
        if not images:
            raise DataError(str(folder), "no images in this class folder", f"needed files named {', '.join(SUFFIXES)}")
        classes[folder.name] = images
    return classes


def _visible(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise DataError(str(folder), error.strerror or str(error), "needed a folder of class folders") from error
