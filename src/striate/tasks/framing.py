"""Annotated pictures in a network's frame, and the network's results mapped back to the pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from striate.data import AnnotatedSet, Annotation, Normalization
from striate.data.fitting import Fit
from striate.data.moving import Placement, fit_annotated
from striate.errors import DataError


@dataclass(frozen=True)
class Framed:
    """A picture in a network's frame: its annotation at its own size, and its placement in the frame."""

    truth: Annotation
    placement: Placement | None


@dataclass(frozen=True)
class FramedBatches:
    """Annotated pictures in their order, fitted to a network, each with its truth at the picture's own size.

    Boxes and masks are compared with the truth at the size at which they were annotated, whatever size the network
    sees. Every process evaluates all pictures, because measures of detections aren't sums over pictures.

    Args:
        images: the set.
        batch_size: pictures at once.
        fit: fits pictures to one size; None keeps their own sizes.
        device: where the network is.
        normalization: of pixels; None: values from 0 to 1.
    """

    images: AnnotatedSet
    batch_size: int
    fit: Fit | None
    device: torch.device
    normalization: Normalization | None = None
    part: tuple[int, int] = (0, 1)

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[Any, list[Framed]]]:
        """The batches from ``start`` on, the same in every epoch: pictures as :class:`striate.data.AnnotatedBatches`
        gives them, and the truth."""
        for first in range(start * self.batch_size, len(self.images), self.batch_size):
            pictures, framed = [], []
            for index in range(first, min(first + self.batch_size, len(self.images))):
                picture, truth = self.images.sample(index)
                placement = None
                if self.fit is not None:
                    picture, _, placement = fit_annotated(picture, Annotation(truth.size), self.fit)
                pictures.append(floats(picture, self.normalization).to(self.device))
                framed.append(Framed(truth, placement))
            yield (pictures if self.fit is None else torch.stack(pictures)), framed


def floats(picture: Tensor, normalization: Normalization | None) -> Tensor:
    """Uint8 (C, H, W) to float32: values from 0 to 1, or normalised."""
    return picture.float() / 255 if normalization is None else normalization(picture[None])[0]


def holding(images: Any, part: str, model_task: str) -> AnnotatedSet:
    """A set of annotated pictures with the part that a task needs.

    Raises:
        DataError: images with labels alone, or annotations without that part.
    """
    words = {"boxes": "boxes of objects", "masks": "masks of objects", "map": "a class for each pixel"}
    if not isinstance(images, AnnotatedSet) or part not in images.holds:
        got = "have one label an image" if not isinstance(images, AnnotatedSet) else f"have {_list(images)}"
        raise DataError("data", got, f"needed {words[part]} for {model_task}", "as --data scenes has them")
    return images.holding({part, *({"boxes"} if part == "masks" else ())})


def _list(images: AnnotatedSet) -> str:
    return " and ".join({"map": "class maps"}.get(part, part) for part in sorted(images.holds))


def normalization_of(images: AnnotatedSet) -> Normalization:
    """Mean and deviation of the pixels of a set, from a limited number of pictures spread evenly over it."""
    every = max(1, len(images) // _COUNTED)
    pixels = squares = count = torch.zeros(images.channels, dtype=torch.float64)
    for index in range(0, len(images), every):
        values = images.sample(index)[0].flatten(1).double() / 255
        pixels, squares = pixels + values.sum(1), squares + values.square().sum(1)
        count = count + values.shape[1]
    mean = pixels / count
    deviation = (squares / count - mean.square()).clamp(min=0).sqrt()
    deviation = torch.where(deviation > 0, deviation, 1.0)
    return Normalization(tuple(mean.tolist()), tuple(deviation.tolist()))


#: Largest number of pictures whose pixels are counted.
_COUNTED: Final = 500
