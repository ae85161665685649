"""Image files in folders, a sub-folder for each class."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

from striate.data.images import SUFFIXES, ImageSet, as_channels, load_image
from striate.errors import DataError

_HELD_OUT = ("test", "val")
_PATIENCE = 1.0  # seconds


def read_class_folder(
    path: str | Path, image_size: tuple[int, int] | None = None, channels: int | None = None
) -> tuple[ImageSet, ImageSet | None]:
    """The images in the sub-folders of ``path``, one for each class; classes and files are in the order of their names.

    Where ``path`` has the sub-folders ``train`` and ``test`` (or ``val``) and no others, each of these has the class
    folders, and they are the training and the test set; else the test set is None. What is hidden, files that aren't
    PNG, JPEG, BMP or WebP by their suffix, and whatever lies beside the class folders are left out.

    Args:
        path: the folder.
        image_size: (height, width) that all images are brought to; None: their own, the same for all.
        channels: 1 or 3; None: 1 if all files store grey, else 3.

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
    images = _decode(files, image_size, channels)
    labels = torch.tensor(
        [label for side in sides.values() for label, files in enumerate(side.values()) for _ in files]
    )
    count = sum(map(len, train.values()))
    test = ImageSet(images[count:], labels[count:], classes) if held_out else None
    return ImageSet(images[:count], labels[:count], classes), test


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


def _decode(files: list[Path], image_size: tuple[int, int] | None, channels: int | None) -> torch.Tensor:
    """The images in ``files``, in their order, as one tensor."""
    pictures: list[torch.Tensor] = []
    # Threads are enough: Pillow decodes outside of Python's global lock.
    with ThreadPoolExecutor() as pool, _progress(len(files)) as advance:
        try:
            decoding = pool.map(partial(load_image, image_size=image_size, channels=channels), files)
            for file, picture in zip(files, decoding, strict=True):
                pictures.append(picture)
                advance()
                size, first = picture.shape[-2:], pictures[0].shape[-2:]
                if size != first:
                    raise DataError(
                        str(file),
                        f"an image of {size[0]}x{size[1]}, where {files[0]} has {first[0]}x{first[1]}",
                        "needed one size",
                        "give an image size that all are brought to",
                    )
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # after an error, nobody waits for what is left
    deepest = max(len(picture) for picture in pictures)
    images = torch.empty(len(pictures), deepest, *pictures[0].shape[-2:], dtype=torch.uint8)
    for slot in reversed(images.unbind()):  # each picture is let go as it is copied, or all were held twice
        slot.copy_(as_channels(pictures.pop(), deepest))
    return images


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """What to call after each image: it shows a bar, but only on a terminal and to somebody who has waited."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    progress, began = Progress(console=console, transient=True), time.monotonic()
    bar = progress.add_task("decoding images", total=total)

    def advance() -> None:
        progress.advance(bar)
        if console.is_interactive and not progress.live.is_started and time.monotonic() - began > _PATIENCE:
            progress.start()

    try:
        yield advance
    finally:
        if progress.live.is_started:
            progress.stop()
