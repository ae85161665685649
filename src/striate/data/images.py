"""Labelled images as tensors: sets that fit in memory, with one size and one number of channels.

Everything stays uint8 until a batch is made, which takes a quarter of the memory of floats.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic

import numpy as np
import torch
from numpy.typing import NDArray
from typing_extensions import TypeVar

from striate.data.fitting import Crop, Fit, kind
from striate.errors import DataError

if TYPE_CHECKING:
    from striate.data.annotated import AnnotatedSet
    from striate.data.streamed import StreamedSet


@dataclass(frozen=True)
class Identity:
    """The name of an image and a digest of its content. The same image under another name has the same digest.

    Args:
        name: the path in its data set, ``"cat/12.jpg"``, or its number.
        digest: BLAKE2b, 16 bytes in hexadecimal: of the file, or of size and pixels if there is no file.
    """

    name: str
    digest: str


@dataclass(frozen=True, eq=False, repr=False)
class ImageSet:
    """Labelled images of one size in memory.

    Args:
        images: uint8 (N, C, H, W), contiguous.
        labels: int64 (N,), each the index of a class.
        classes: the names of the classes.
        known: the N images' identities; if empty, :meth:`identities` computes them.
        origin: the same images before they were fitted to one size; None if there is nothing more than ``images``.

    Raises:
        DataError: parts that don't fit together.

    >>> ImageSet(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([1, 0]), ("cat", "dog"))
    ImageSet(2 images of 1x8x8, 2 classes)
    """

    images: torch.Tensor
    labels: torch.Tensor
    classes: tuple[str, ...]
    known: tuple[Identity, ...] = ()
    origin: StreamedSet | None = None

    #: Attributes that all sets of a split share.
    SAME: ClassVar = ("classes", "channels", "image_size")

    def __post_init__(self) -> None:
        images, labels, classes = self.images, self.labels, self.classes
        if images.dtype != torch.uint8 or images.ndim != 4 or 0 in images.shape:
            raise DataError("ImageSet", f"got images of {kind(images)}", "needed uint8 (N, C, H, W), no size 0")
        if not images.is_contiguous():
            raise DataError("ImageSet", "got images that aren't contiguous", remedy="pass images.contiguous()")
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            raise DataError(
                "ImageSet", f"got labels of {kind(labels)}", f"needed int64 ({len(images)},), one for each image"
            )
        if len(set(classes)) != len(classes):
            raise DataError("ImageSet", f"got classes {classes}", "needed names that differ")
        outside = ((labels < 0) | (labels >= len(classes))).nonzero()
        if len(outside):
            index = int(outside[0])
            raise DataError(
                "ImageSet", f"got label {int(labels[index])} at index {index}", f"needed 0 to {len(classes) - 1}"
            )
        if self.known and len(self.known) != len(images):
            raise DataError("ImageSet", f"got {len(self.known)} identities", f"needed {len(images)}, or none")

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.images.shape[1:]))
        return f"ImageSet({len(self)} images of {shape}, {len(self.classes)} classes)"

    @property
    def channels(self) -> int:
        """Channels of each image."""
        return self.images.shape[1]

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width."""
        return self.images.shape[2], self.images.shape[3]

    def gather(self, indices: torch.Tensor, crops: Sequence[Crop] = ()) -> torch.Tensor:
        """The images at ``indices``, int64 (B,), as uint8 (B, C, H, W); with ``crops``, one an image, these parts of
        them at the whole size."""
        # index_select, because indexing by brackets is several times slower for bytes.
        chosen = self.images.index_select(0, indices)
        if not crops:
            return chosen
        fit = Fit(self.image_size, "squash")
        return torch.stack([fit(image, crop) for image, crop in zip(chosen, crops, strict=True)])

    def subset(self, indices: Sequence[int] | NDArray[np.integer[Any]] | torch.Tensor) -> ImageSet:
        """The images at ``indices``, in their order (a copy).

        Raises:
            DataError: no indices, or one that is no integer from 0 to N-1.
        """
        chosen = checked_indices(indices, len(self))
        known = tuple(self.known[index] for index in chosen.tolist()) if self.known else ()
        origin = None if self.origin is None else self.origin.subset(chosen)
        return ImageSet(self.images[chosen], self.labels[chosen], self.classes, known, origin)

    def identities(self) -> tuple[Identity, ...]:
        """The N images' names and digests; images without names are called by their numbers, from 0."""
        if self.known:
            return self.known
        shape = str(tuple(self.images.shape[1:])).encode()
        return tuple(
            Identity(str(number), digest(shape + image.tobytes())) for number, image in enumerate(self.images.numpy())
        )


#: A kind of set; labelled images by default.
SetT = TypeVar("SetT", bound="ImageSet | StreamedSet | AnnotatedSet", default="ImageSet | StreamedSet")


@dataclass(frozen=True)
class Split(Generic[SetT]):
    """Training, validation and test images: sets with the same classes and channels. Labelled images also have the same
    size.

    Args:
        train: the training images.
        test: images that training never sees.
        source: the source, as in :func:`striate.data.load`.
        val: validation images. Training never computes a gradient from them, but may use them to choose when to stop
            and which weights to keep. None for none.
        skipped: files that were left out, each with the reason.
        notes: remarks for the user on how the images were divided.

    Raises:
        DataError: sets that differ in more than their images.
    """

    train: SetT
    test: SetT
    source: str
    val: SetT | None = None
    skipped: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for part, images in self.parts.items():
            for what in self.train.SAME:
                train, other = getattr(self.train, what), getattr(images, what)
                if train != other:
                    raise DataError(self.source, f"{what.replace('_', ' ')} {train} in train, {other} in {part}")

    @property
    def parts(self) -> dict[str, SetT]:
        """The sets by part: train, val if there is one, test."""
        val = {} if self.val is None else {"val": self.val}
        return {"train": self.train, **val, "test": self.test}


def expanded(path: str) -> Path:
    """A path with ``~`` and ``~NAME`` replaced by folders of users.

    Raises:
        DataError: a user who doesn't exist or has no home.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise DataError(path, "there is no such user, or no home folder", "needed a path") from error


def digest(content: bytes) -> str:
    """A digest of bytes, 32 hexadecimal digits."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def checked_indices(indices: Sequence[int] | NDArray[np.integer[Any]] | torch.Tensor, count: int) -> torch.Tensor:
    """Indices of images out of ``count`` as int64 (B,).

    Raises:
        DataError: no indices, or one that is no integer from 0 to ``count`` - 1.
    """
    chosen = torch.as_tensor(indices)
    if chosen.dtype.is_floating_point or chosen.dtype == torch.bool or chosen.ndim != 1 or not len(chosen):
        raise DataError("subset", f"got indices of {kind(chosen)}", "needed a list of integers, at least one")
    chosen = chosen.to(torch.int64)
    if chosen.min() < 0 or chosen.max() >= count:
        raise DataError(
            "subset", f"got indices from {int(chosen.min())} to {int(chosen.max())}", f"needed 0 to {count - 1}"
        )
    return chosen
