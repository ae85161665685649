"""Files and folders of annotated data sets: what readers of all kinds need."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from striate.data.decoding import is_image
from striate.data.folder import PARTS
from striate.errors import DataError, readable

#: A file of annotations with more bytes is refused, because it would fill the memory.
MAX_BYTES: Final = 8 << 30


def folder(path: Path) -> Path:
    """The path of an existing folder.

    Raises:
        DataError: there is no such folder.
    """
    if not path.is_dir():
        got = "is a file" if path.exists() else "no such folder"
        raise DataError(readable(path), got, "needed a folder")
    return path


def read_text(path: Path) -> str:
    """A file of UTF-8 text.

    Raises:
        DataError: one that is missing, or isn't.
    """
    try:
        if path.exists() and not path.is_file():
            raise DataError(readable(path), "is no regular file", "needed a file")
        if path.stat().st_size > MAX_BYTES:
            raise DataError(readable(path), f"has {path.stat().st_size} bytes", f"needed {MAX_BYTES} or fewer")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(readable(path), error.strerror or str(error), "needed a file") from error
    except UnicodeDecodeError as error:
        raise DataError(readable(path), f"is no text in UTF-8, at byte {error.start}", "needed text") from error


def read_json(path: Path) -> Any:
    """A file of JSON.

    Raises:
        DataError: one that is missing, or isn't.
    """
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise DataError(readable(path), f"is no JSON: {error.msg} at {where}", "needed JSON") from error
    except RecursionError as error:
        raise DataError(readable(path), "is no JSON that can be read: nested too deep", "needed JSON") from error


def within(root: Path, name: str) -> Path:
    """A path that a file of a data set names; it must lie in the data set's folder.

    Raises:
        DataError: the path lies elsewhere, or is invalid.
    """
    path = Path(os.path.normpath(root / name.replace("\\", "/")))
    if "\0" in name or not path.is_relative_to(os.path.normpath(root)):
        raise DataError(readable(name), "lies outside of the data set's folder", f"needed a path in {readable(root)}")
    return path


def images_in(root: Path) -> list[Path]:
    """The image files in a folder and the folders within it, in the order of their names, hidden ones left out."""
    return sorted(path for path in _files(root) if is_image(path) is None)


def files_in(root: Path, suffix: str) -> list[Path]:
    """The files in a folder and the folders within it whose names end so."""
    return sorted(path for path in _files(root) if path.suffix.lower() == suffix)


def _files(root: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place) / name for name in names if not name.startswith("."))


def part_folders(root: Path) -> dict[str, Path]:
    """The folders for ``train``, ``val`` and ``test`` in a folder, by any of the names that these have.

    Raises:
        DataError: two for one part.
    """
    found: dict[str, Path] = {}
    for part, names in PARTS.items():
        there = [entry for entry in sorted(root.iterdir()) if entry.is_dir() and entry.name.lower() in names]
        if len(there) > 1:
            got = f"got {there[0].name} and {there[1].name}, both for {part}"
            raise DataError(readable(root), got, "needed one of them")
        if there:
            found[part] = there[0]
    return found


def lists(root: Path) -> dict[str, list[str]]:
    """The entries of ``train.txt``, ``val.txt`` and ``test.txt`` in a folder, a picture's name or path a line.

    Raises:
        DataError: a list that can't be read, or without a line.
    """
    found: dict[str, list[str]] = {}
    for part, names in PARTS.items():
        for name in names:
            path = root / f"{name}.txt"
            if not path.is_file():
                continue
            lines = [line.strip() for line in read_text(path).splitlines()]
            found.setdefault(part, []).extend(line for line in lines if line)
            if not found[part]:
                raise DataError(readable(path), "lists nothing", "needed a picture's name a line")
    return found


def by_lists(root: Path, pictures: list[Path]) -> dict[str, list[Path]]:
    """Pictures divided by the lists in ``root``, or by the folders for parts that they lie in; else all under ``""``.

    A line of a list is a path from ``root``, a file's name, or that without its suffix.

    Raises:
        DataError: a line that matches no picture or several; a picture in two lists.
    """
    listed = lists(root)
    if not listed:
        return _by_folders(root, pictures)
    calls: dict[str, list[Path]] = {}
    for picture in pictures:
        relative = picture.relative_to(root)
        names = {relative.as_posix(), relative.with_suffix("").as_posix(), picture.name, picture.stem}
        for name in names:
            calls.setdefault(name, []).append(picture)
    parts: dict[str, list[Path]] = {}
    seen: dict[Path, str] = {}
    for part, lines in listed.items():
        parts[part] = []
        for line in lines:
            answers = calls.get(os.path.normpath(line).replace("\\", "/"), [])
            if len(answers) != 1:
                got = f"lists {readable(line)!r}, to which {len(answers) or 'no'} pictures answer"
                raise DataError(readable(root / f"{part}.txt"), got, "needed one picture a line")
            if answers[0] in seen:
                got = f"lists {readable(line)!r}, which is in {seen[answers[0]]} already"
                raise DataError(readable(root / f"{part}.txt"), got, "needed each picture once")
            seen[answers[0]] = part
            parts[part].append(answers[0])
    return parts


def _by_folders(root: Path, pictures: list[Path]) -> dict[str, list[Path]]:
    """Pictures by the first folder of their paths that is named as a part; all under ``""`` if none is for training."""
    names = {name: part for part, each in PARTS.items() for name in each}
    parts: dict[str, list[Path]] = {}
    for picture in pictures:
        within_root = picture.relative_to(root).parts[:-1]
        part = next((names[name.lower()] for name in within_root if name.lower() in names), "")
        parts.setdefault(part, []).append(picture)
    if "train" not in parts:
        return {"": pictures}
    parts.pop("", None)
    return {part: parts[part] for part in PARTS if part in parts}
