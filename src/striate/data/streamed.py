"""Encoded images, in files or in a table: decoded into memory, or left where they are until a batch needs them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from striate.data.images import Encoded, ImageSet, as_channels, checked_indices, load_image, stores_grey
from striate.data.progress import progress
from striate.errors import DataError

#: Images that would take more bytes than this when decoded stay encoded.
IN_MEMORY: Final = 2 << 30


@dataclass(frozen=True)
class Wanted:
    """How a source's images are to come.

    Args:
        image_size: (height, width) that all are brought to; None: their own.
        channels: 1 or 3; None: their own.
        stream: whether they stay encoded until a batch needs them; None: where they would take more than 2 GiB. That
            takes an ``image_size``.
    """

    image_size: tuple[int, int] | None = None
    channels: int | None = None
    stream: bool | None = None


AS_STORED: Final = Wanted()


@dataclass(frozen=True, eq=False, repr=False)
class StreamedSet:
    """Labelled images that are decoded anew whenever they are asked for; else like an :class:`ImageSet`, bit for bit.

    Args:
        encoded: the N images.
        labels: int64 (N,), each the index of a class.
        classes: the names of the classes.
        image_size: (height, width) that each image is brought to.
        channels: 1 or 3, for all.
    """

    encoded: Sequence[Encoded]
    labels: torch.Tensor
    classes: tuple[str, ...]
    image_size: tuple[int, int]
    channels: int

    def __len__(self) -> int:
        return len(self.encoded)

    def __repr__(self) -> str:
        shape = "x".join(map(str, (self.channels, *self.image_size)))
        return f"StreamedSet({len(self)} images of {shape}, {len(self.classes)} classes)"

    def gather(self, indices: torch.Tensor) -> torch.Tensor:
        """The images at ``indices``, int64 (B,), decoded to uint8 (B, C, H, W).

        Raises:
            DataError: an image that can't be read.
        """
        decode = partial(load_image, channels=self.channels, image_size=self.image_size)
        images = torch.empty(len(indices), self.channels, *self.image_size, dtype=torch.uint8)
        for image, index in zip(images, indices.tolist(), strict=True):
            image.copy_(decode(self.encoded[index]))
        return images

    def subset(self, indices: Sequence[int] | NDArray[np.integer[Any]] | torch.Tensor) -> StreamedSet:
        """The images at ``indices``, in their order.

        Raises:
            DataError: no indices, or one that is no integer from 0 to N-1.
        """
        chosen = checked_indices(indices, len(self))
        return replace(self, encoded=_Chosen(self.encoded, chosen), labels=self.labels[chosen])


#: Labelled images, wherever they are.
LabelledImages = ImageSet | StreamedSet


@dataclass(frozen=True)
class _Chosen(Sequence[Encoded]):
    """Some of a sequence, in an order of their own, without touching them."""

    whole: Sequence[Encoded]
    indices: torch.Tensor

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: Any) -> Any:
        return self.whole[int(self.indices[index])]


def labelled(
    encoded: Sequence[Encoded], labels: torch.Tensor, classes: tuple[str, ...], wanted: Wanted
) -> LabelledImages:
    """Encoded images with their labels, in memory or not as is wanted; grey if all are, unless channels are wanted.

    Raises:
        DataError: an image that can't be read; images of different sizes, or to be streamed, with no size wanted.
    """
    if wanted.image_size is None:
        if wanted.stream:
            raise DataError("stream", "got no image size", "needed one that all are brought to")
    elif wanted.stream is not False:
        channels = wanted.channels or (1 if all(map(stores_grey, encoded)) else 3)
        streamed = StreamedSet(encoded, labels, classes, wanted.image_size, channels)
        if wanted.stream or len(encoded) * channels * wanted.image_size[0] * wanted.image_size[1] > IN_MEMORY:
            return streamed
    return ImageSet(_decode(encoded, wanted.image_size, wanted.channels), labels, classes)


def _decode(encoded: Sequence[Encoded], image_size: tuple[int, int] | None, channels: int | None) -> torch.Tensor:
    """All images, in their order, as one tensor."""
    pictures: list[torch.Tensor] = []
    # Threads are enough: Pillow decodes outside of Python's global lock.
    with ThreadPoolExecutor() as pool, progress("decoding images", len(encoded)) as advance:
        try:
            decoding = pool.map(partial(load_image, image_size=image_size, channels=channels), encoded)
            for file, picture in zip(encoded, decoding, strict=True):
                pictures.append(picture)
                advance()
                size, first = picture.shape[-2:], pictures[0].shape[-2:]
                if size != first:
                    raise DataError(
                        str(file),
                        f"an image of {size[0]}x{size[1]}, where {encoded[0]} has {first[0]}x{first[1]}",
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


class _Batches(Dataset[torch.Tensor | DataError]):
    """Whole batches by their indices, for worker processes."""

    def __init__(self, images: StreamedSet) -> None:
        self.images = images

    def __getitem__(self, indices: torch.Tensor) -> torch.Tensor | DataError:
        try:
            return self.images.gather(indices)
        except DataError as error:
            return error  # raised here, a DataLoader would make another one of it, of many lines


def gathered(images: LabelledImages, rows: Sequence[torch.Tensor], workers: int) -> Iterator[torch.Tensor]:
    """Batch after batch of images, by their indices; ``workers`` processes decode ahead where images are streamed.

    Raises:
        DataError: an image that can't be read.
    """
    if isinstance(images, ImageSet) or not workers:
        yield from map(images.gather, rows)
        return
    loader: DataLoader[torch.Tensor | DataError] = DataLoader(
        _Batches(images),
        sampler=rows,  # what it draws are the indices of a whole batch
        batch_size=None,
        num_workers=workers,
        generator=torch.Generator(),  # or it would draw from the one that layers use
    )
    for batch in loader:
        if isinstance(batch, DataError):
            raise batch
        yield batch
