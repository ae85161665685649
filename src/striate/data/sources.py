"""Where images come from: a name, or a name and a path, to images for training and for testing."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from striate.data.cifar import read_cifar_folder
from striate.data.folder import read_class_folder
from striate.data.hub import read_hub
from striate.data.idx import read_idx_folder
from striate.data.images import ImageSet, Split, as_channels, fit_image
from striate.data.streamed import LabelledImages, StreamedSet, Wanted
from striate.errors import DataError

Size = tuple[int, int]


@dataclass(frozen=True)
class Source:
    """A kind of place that images can be loaded from.

    Args:
        usage: what to write, ``"idx:FOLDER"``; what follows the colon is a path.
        example: the same with a path that may exist.
        description: one line for people who choose.
        read: from the path, and what is wanted of encoded images, to the training set, and the test set where the place
            has one. For all others :func:`load` sees to size and channels.
    """

    usage: str
    example: str
    description: str
    read: Callable[[Path, Wanted], tuple[LabelledImages, LabelledImages | None]]


def load(
    source: str,
    *,
    image_size: Size | None = None,
    channels: int | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
    stream: bool | None = None,
) -> Split:
    """The images of ``source`` for training and for testing.

    Args:
        source: one of :data:`SOURCES`: ``"digits"``, ``"idx:FOLDER"``, ``"cifar:FOLDER"``, ``"folder:PATH"``,
            ``"hf:PATH"``.
        image_size: (height, width) that all images are brought to by :func:`~striate.data.fit_image`; None: their own.
        channels: 1 or 3, by :func:`~striate.data.as_channels`; None: their own.
        test_fraction: the share held out by :func:`split` where the source has no test set of its own.
        seed: which images those are.
        stream: whether encoded images (folder, hf) are decoded when a batch needs them, each time anew, rather than
            once; None: where they would take more than 2 GiB. That takes an image size.

    Raises:
        DataError: an unknown source, or one that doesn't hold what it should.

    >>> load("digits", image_size=(28, 28)).test
    ImageSet(359 images of 1x28x28, 10 classes)
    """
    name, _, path = source.partition(":")
    if name not in SOURCES:
        raise _unknown(source, name)
    found = SOURCES[name]
    if (":" in found.usage) != bool(path):
        got = "got a path" if path else "got no path"
        raise DataError(f"data {source!r}", got, f"needed {found.usage}, as in {found.example!r}")
    train, test = found.read(Path(path).expanduser(), Wanted(image_size, channels, stream))
    if test is None:
        train, test = split(train, test_fraction=test_fraction, seed=seed)
    return Split(_brought(train, image_size, channels), _brought(test, image_size, channels), source)


def split(images: LabelledImages, *, test_fraction: float, seed: int) -> tuple[LabelledImages, LabelledImages]:
    """A training and a test set out of one, every class divided in the same proportion.

    Of each class round(``test_fraction`` x its images) go to the test set, but at least one, and at least one stays.
    The choice depends on the labels and ``seed`` alone; both sets keep the order of the images.

    Raises:
        DataError: a class with a single image, a fraction outside (0, 1), a negative seed.
    """
    if not 0 < test_fraction < 1:
        raise DataError("test fraction", f"got {test_fraction}", "needed more than 0 and less than 1")
    if seed < 0:
        raise DataError("seed", f"got {seed}", "needed 0 or more")
    labels = images.labels.numpy()
    held_out = np.zeros(len(images), dtype=bool)
    random = np.random.default_rng(seed)
    for label in np.unique(labels):
        (members,) = np.nonzero(labels == label)
        if len(members) == 1:
            raise DataError(
                "split",
                f"class {images.classes[label]} has one image only",
                "needed two, one for training and one for testing",
            )
        count = min(max(round(test_fraction * len(members)), 1), len(members) - 1)
        held_out[random.permutation(members)[:count]] = True
    return images.subset(np.flatnonzero(~held_out)), images.subset(np.flatnonzero(held_out))


def _read_digits() -> tuple[ImageSet, None]:
    """Of scikit-learn, from Alpaydin and Kaynak 1998: how many pixels of each 4x4 block were black, 0 to 16."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy(np.rint(digits.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
    labels = torch.from_numpy(digits.target.astype(np.int64))
    return ImageSet(images, labels, tuple(map(str, digits.target_names))), None


SOURCES: dict[str, Source] = {
    "digits": Source(
        usage="digits",
        example="digits",
        description="1,797 handwritten digits of 8x8 pixels, part of scikit-learn",
        read=lambda *_: _read_digits(),
    ),
    "idx": Source(
        usage="idx:FOLDER",
        example="idx:data/mnist",
        description="MNIST and its relatives: IDX files, plain or gzipped",
        read=lambda path, _: read_idx_folder(path),
    ),
    "cifar": Source(
        usage="cifar:FOLDER",
        example="cifar:data/cifar-10-batches-py",
        description="CIFAR-10 and CIFAR-100 as published, the binary or the Python version",
        read=lambda path, _: read_cifar_folder(path),
    ),
    "folder": Source(
        usage="folder:PATH",
        example="folder:data/pets",
        description="PNG, JPEG, BMP and WebP files in a sub-folder for each class, or those in train/ and test/",
        read=read_class_folder,
    ),
    "hf": Source(
        usage="hf:PATH",
        example="hf:data/pets.parquet",
        description="Hugging Face data sets: parquet files, or OWNER/NAME on the Hub; a split after a colon",
        read=read_hub,
    ),
}


def _unknown(source: str, name: str) -> DataError:
    if close := difflib.get_close_matches(name.lower(), SOURCES, n=1):
        remedy = f"did you mean {SOURCES[close[0]].usage}?"
    elif Path(source).expanduser().is_dir():
        remedy = f"did you mean 'folder:{source}' or 'idx:{source}'?"
    else:
        remedy = ""
    known = ", ".join(f"{each.usage} (as in {each.example!r})" for each in SOURCES.values())
    return DataError(f"data {source!r}", "no such source", f"needed one of {known}", remedy)


def _brought(images: LabelledImages, image_size: Size | None, channels: int | None) -> LabelledImages:
    if isinstance(images, StreamedSet):
        return images  # as it was wanted
    pixels = images.images
    if channels is not None:
        pixels = as_channels(pixels, channels)
    if image_size is not None:
        pixels = fit_image(pixels, image_size)
    return ImageSet(pixels, images.labels, images.classes)
