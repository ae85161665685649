"""Annotated pictures of a run that are worth a look: their choice and their files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image
from torch import Tensor

from striate.data import Annotation, Detections, Preprocessing
from striate.data.decoding import Reading
from striate.errors import StriateError
from striate.files import read_json, write_json, write_whole

INDEX: Final = "index.json"


@dataclass(frozen=True, eq=False)
class Shown:
    """A picture, its annotation and a network's prediction.

    Args:
        image: uint8 (C, H, W).
        truth: the annotation.
        found: detections, or a class map, uint8 (H, W).
        classes: their names.
        name: of the picture.
        place: in the set.
    """

    image: Tensor
    truth: Annotation
    found: Detections | Tensor
    classes: tuple[str, ...]
    name: str
    place: int


def evenly(count: int, wanted: int) -> list[int]:
    """A limited number of indices from 0 to ``count`` - 1, spread evenly.

    >>> evenly(10, 3), evenly(2, 3)
    ([0, 3, 6], [0, 1])
    """
    chosen = min(count, wanted)
    return [number * count // chosen for number in range(chosen)]


def write_pictures(folder: Path, shown: Sequence[Shown], *, copies: bool) -> None:
    """Writes which pictures these are, and with ``copies`` each picture as PNG, as it is."""
    folder.mkdir(exist_ok=True)
    index = {}
    for number, each in enumerate(shown, start=1):
        file = f"{number:02}.png"
        if copies:
            write_whole(folder / file, png(each.image))
        index[file if copies else each.name] = {"name": each.name, "copy": copies}
    write_json(folder / INDEX, index)


@dataclass(frozen=True, eq=False)
class Kept:
    """A copy of a picture in a run's folder.

    Args:
        image: uint8 (C, H, W).
        name: of the picture.
    """

    image: Tensor
    name: str


def read_pictures(folder: Path, preprocessing: Preprocessing) -> tuple[Kept, ...]:
    """The copies that :func:`write_pictures` wrote; none if it wrote none or they can't be read any more."""
    try:
        index = read_json(folder / INDEX)
        read = Reading(None, preprocessing.channels)
        return tuple(
            Kept(read(folder / file), str(entry["name"])) for file, entry in index.items() if entry.get("copy")
        )
    except (OSError, StriateError, AttributeError, KeyError, TypeError):
        return ()  # the copies are only for looking at; a run is complete without them


def png(image: Tensor) -> bytes:
    """A picture, uint8 (C, H, W), as a PNG file."""
    pixels = image.permute(1, 2, 0).contiguous().numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(buffer, format="PNG")
    return buffer.getvalue()
