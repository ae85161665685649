"""Image files in one sub-folder for each class, possibly within folders for training, validation and testing."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from striate.data.decoding import SUFFIXES, is_image
from striate.data.streamed import Stored
from striate.errors import DataError, readable

#: Names of the folders of a data set's parts.
PARTS: Final = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
_PART_OF: Final = {name: part for part, names in PARTS.items() for name in names}
#: Files that operating systems create; they are ignored without a message.
_LITTER: Final = ("thumbs.db", "desktop.ini", "__macosx")
#: The first file of a run's folder; the pictures in a run's folder aren't training images.
_RUN: Final = ("settings.json", "images.csv")


@dataclass(frozen=True)
class Listing:
    """The images of a folder, by part.

    Args:
        parts: from ``"train"``, ``"val"``, ``"test"``, or ``""`` where the folder has no parts, to the images.
        skipped: the files and folders that were left out, each with the reason.
        notes: what was taken for what.
    """

    parts: dict[str, Stored]
    skipped: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


def list_class_folder(path: str | Path) -> Listing:
    """The images in the sub-folders of ``path``, one for each class; classes and files are in the order of their names.

    If ``path`` has the sub-folders ``train`` (or ``training``), ``val`` (``valid``, ``validation``) or ``test``
    (``testing``) and these contain class folders, they are the parts of the data set, and everything beside them is
    left out. Images in folders within a class folder belong to the class. Hidden files are left out silently, other
    files with a message.

    Raises:
        DataError: no such folder, no class, a class without images, classes in one part that training hasn't.
    """
    root = Path(path)
    skipped: list[tuple[str, str]] = []
    folders = _folders(root, skipped)
    parts: dict[str, Path] = {}
    for folder in folders:
        part = _PART_OF.get(folder.name.lower())
        if part is not None and any(_has_images(inner) for inner in _entries(folder) if inner.is_dir()):
            if part in parts:
                raise DataError(
                    readable(root), f"got {parts[part].name} and {folder.name}, both for {part}", "needed one of them"
                )
            parts[part] = folder
    if "train" not in parts and len(parts) < len(folders):  # a class may be called test
        parts = {}
    if not parts:
        stored = _stored(root, root, _classes(root, folders, skipped), None)
        return Listing({"": stored}, tuple(skipped), ())
    return _divided(root, parts, folders, skipped)


def image_files(paths: Iterable[str | os.PathLike[str]]) -> tuple[list[Path], list[tuple[str, str]]]:
    """The given image files, and the image files in the given folders and their sub-folders.

    Returns:
        The files, those of a folder in the order of their names; and what was left out, with the reason: files in
        folders that are no images.

    Raises:
        DataError: a URL; a folder without an image.
    """
    files: list[Path] = []
    skipped: list[tuple[str, str]] = []
    for each in paths:
        if is_url(str(each)):
            raise DataError(
                readable(each), "is a URL", "needed a file or a folder of this machine", "download it first"
            )
        path = Path(each)
        if not path.is_dir():
            files.append(path)
            continue
        found = list(_images(path, path, skipped))
        if not found:
            raise DataError(readable(path), "no images in this folder", f"needed files named {', '.join(SUFFIXES)}")
        files += found
    return files, skipped


def is_url(text: str) -> bool:
    """Whether a text looks like a URL.

    >>> is_url("https://example.org/cat.jpg"), is_url("photos/cat.jpg")
    (True, False)
    """
    scheme, colon, rest = text.partition(":/")
    return bool(colon) and len(scheme) > 1 and scheme.isalnum() and rest.startswith("/")


def _divided(root: Path, parts: dict[str, Path], folders: list[Path], skipped: list[tuple[str, str]]) -> Listing:
    """The listing of a folder that has parts."""
    skipped += [
        (readable(folder.name), f"a folder beside {', '.join(part.name for part in parts.values())}")
        for folder in folders
        if folder not in parts.values()
    ]
    first = "train" if "train" in parts else next(iter(parts))
    order = [first, *(part for part in PARTS if part in parts and part != first)]
    found = {part: _classes(parts[part], _folders(parts[part], skipped, root), skipped, root) for part in order}
    classes = tuple(found[first])
    for part in order[1:]:
        if unknown := sorted(found[part].keys() - set(classes)):
            got = f"class {readable(unknown[0])} is in {parts[part].name}, not in {parts[first].name}"
            raise DataError(readable(root), got, f"needed the classes of {parts[first].name}")
    note = ", ".join(f"{readable(parts[part].name)}/ for {_FOR[part]}" for part in order)
    return Listing(
        {part: _stored(root, parts[part], found[part], classes) for part in order}, tuple(skipped), (f"uses {note}",)
    )


_FOR: Final = {"train": "training", "val": "validation", "test": "testing"}


def _stored(root: Path, part: Path, found: dict[str, list[Path]], classes: Sequence[str] | None) -> Stored:
    names = tuple(found) if classes is None else tuple(classes)
    files = [file for each in found.values() for file in each]
    labels = torch.tensor([names.index(name) for name, each in found.items() for _ in each])
    relative = [readable(file.relative_to(root).as_posix()) for file in files]
    return Stored(files, labels, tuple(map(readable, names)), relative)


def _classes(
    root: Path, folders: list[Path], skipped: list[tuple[str, str]], top: Path | None = None
) -> dict[str, list[Path]]:
    """The image files of each class folder of ``root``."""
    if not folders:
        raise DataError(readable(root), "no class folders", "needed at least two, each with the images of its class")
    classes = {}
    for folder in folders:
        left_out: list[tuple[str, str]] = []
        images = list(_images(folder, top or root, left_out))
        if not images:
            seen = f": {left_out[0][1]}, {left_out[0][0]}" if left_out else ""
            raise DataError(
                readable(folder), f"no images in this class folder{seen}", f"needed files named {', '.join(SUFFIXES)}"
            )
        classes[folder.name] = images
        skipped += left_out
    return classes


def _images(folder: Path, root: Path, skipped: list[tuple[str, str]], above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """The image files in a folder and the folders within it, in the order of their names."""
    place = folder.resolve()
    if place in above:
        skipped.append((readable(folder.relative_to(root).as_posix()), "a link to a folder that it lies in"))
        return
    if _is_run(folder):
        skipped.append((readable(folder.relative_to(root).as_posix()), "the folder of a run"))
        return
    for entry in _entries(folder):
        if entry.is_dir():
            yield from _images(entry, root, skipped, (*above, place))
        elif entry.exists() and not entry.is_file():
            skipped.append((readable(entry.relative_to(root).as_posix()), "no regular file"))
        elif (reason := is_image(entry)) is None:
            yield entry
        else:
            skipped.append((readable(entry.relative_to(root).as_posix()), reason))


def _has_images(folder: Path) -> bool:
    return next(_images(folder, folder, []), None) is not None


def _folders(root: Path, skipped: list[tuple[str, str]], top: Path | None = None) -> list[Path]:
    """The visible folders in ``root``; other entries are left out."""
    entries = _entries(root)
    skipped += [
        (readable(entry.relative_to(top or root).as_posix()), "beside the class folders, not in one")
        for entry in entries
        if not entry.is_dir() and is_image(entry) is None
    ]
    folders = [entry for entry in entries if entry.is_dir()]
    skipped += [
        (readable(entry.relative_to(top or root).as_posix()), "the folder of a run")
        for entry in folders
        if _is_run(entry)
    ]
    return [entry for entry in folders if not _is_run(entry)]


def _is_run(folder: Path) -> bool:
    return all((folder / name).is_file() for name in _RUN)


def _entries(folder: Path) -> list[Path]:
    """The visible entries of a folder, in the order of their names."""
    try:
        visible = (entry for entry in folder.iterdir() if not entry.name.startswith("."))
        return sorted(entry for entry in visible if entry.name.lower() not in _LITTER)
    except OSError as error:
        raise DataError(readable(folder), error.strerror or str(error), "needed a folder of class folders") from error
