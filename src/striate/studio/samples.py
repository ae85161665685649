"""The default pictures of a studio: digits, a run's samples, photos, or drawn scenes."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from striate.data import MAX_PIXELS, image_files, load_image
from striate.data.decoding import Encoded
from striate.errors import DataError, StudioError
from striate.studio.subject import Subject
from striate.studio.workspace import Picture

#: The most samples of a run that are used.
_MOST: Final = 10
#: The largest side of a stored picture, in pixels.
_SIDE: Final = 1024


def pictures_of(subject: Subject, images: Sequence[str | Path] = (), *, max_pixels: int | None = None) -> list[Picture]:
    """The initial pictures of a studio: the given image files, or pictures that suit the network.

    Raises:
        DataError: a file can't be read as an image.
        StudioError: the network's input isn't a picture, and there are no example inputs.
    """
    pictures = _pictures(subject, images, max_pixels or MAX_PIXELS)
    if not subject.found:
        return pictures
    listed = f", {[str(each) for each in images]!r}" if images else ""
    begin = "from striate.studio.samples import pictures_of\nfrom striate.studio.subject import find\n\n"
    return [
        replace(picture, code=f"{begin}inputs = pictures_of({subject.found}{listed})[{number}].inputs")
        for number, picture in enumerate(pictures)
    ]


def _pictures(subject: Subject, images: Sequence[str | Path], max_pixels: int) -> list[Picture]:
    if images:
        files, _ = image_files([str(each) for each in images])
        return [
            subject.picture(read_pixels(file, subject, max_pixels), Path(str(file)).name, id=f"p{number}")
            for number, file in enumerate(files)
        ]
    if subject.examples is not None:
        return [subject.given(subject.examples, "example", id="p0")]
    if subject.preprocessing is None:
        raise StudioError(subject.name, "its input isn't one picture", "needed example inputs")
    return [
        subject.picture(pixels, name, id=f"p{number}", label=label)
        for number, (pixels, name, label) in enumerate(_samples(subject))
    ]


def read_pixels(file: Encoded, subject: Subject, max_pixels: int = MAX_PIXELS) -> Tensor:
    """An image file's pixels, uint8 (C, H, W), rotated by its EXIF orientation, with the network's channels."""
    channels = 1 if subject.preprocessing is not None and subject.preprocessing.channels == 1 else 3
    return reduced(load_image(file, channels=channels, max_pixels=max_pixels))


def reduced(pixels: Tensor) -> Tensor:
    """A picture, uint8 (C, H, W), reduced to at most 1024 pixels along each side, the limit for stored pictures."""
    factor = _SIDE / max(pixels.shape[1:])
    if factor >= 1:
        return pixels
    size = [max(1, round(side * factor)) for side in pixels.shape[1:]]
    return functional.interpolate(pixels[None], size, mode="bilinear", antialias=True)[0]


def _samples(subject: Subject) -> Iterator[tuple[Tensor, str, int | None]]:
    assert subject.preprocessing is not None
    grey = subject.preprocessing.channels == 1
    data = subject.data.partition(":")[0]
    if data == "digits" or (not data and grey):
        yield from digits()
        return
    own = list(_of_run(subject))
    if own:
        yield from own
    elif grey:
        yield from digits()
    else:
        yield from photos(subject.preprocessing.channels)


def digits() -> Iterator[tuple[Tensor, str, int]]:
    """The last of scikit-learn's handwritten digits of each class, which training may or may not have held out."""
    from striate.data.digits import read_digits

    images, labels = read_digits()
    for label in range(10):
        place = int((labels == label).nonzero()[0][-1])
        yield torch.from_numpy(images[place].copy()), f"a {label}", label


def photos(channels: int = 3) -> Iterator[tuple[Tensor, str, None]]:
    """scikit-learn's two photos, a flower and a temple; in grey unless there are three channels.

    Raises:
        StudioError: scikit-learn isn't installed.
    """
    found = importlib.util.find_spec("sklearn")  # importing it would take longer than reading the photos
    if found is None or found.origin is None:
        raise StudioError("photos", "scikit-learn, which has them, isn't installed", remedy="name pictures by --image")
    for file, name in (("flower.jpg", "a flower"), ("china.jpg", "a temple")):
        pixels = load_image(Path(found.origin).parent / "datasets" / "images" / file, channels=3)
        if channels != 3:
            pixels = pixels.float().mean(0, keepdim=True).round().to(torch.uint8).repeat(channels, 1, 1)
        yield pixels, name, None


def _of_run(subject: Subject) -> Iterator[tuple[Tensor, str, int | None]]:
    """The held-out images that a run's folder contains."""
    if subject.run is None or not (subject.run / "samples").is_dir():
        return
    for file in sorted((subject.run / "samples").iterdir())[:_MOST]:
        if file.suffix.lower() in (".png", ".jpg", ".jpeg"):
            try:
                yield read_pixels(file, subject), file.stem, None
            except DataError:
                continue
