"""From sets of images to the batches that networks are trained with.

Images in memory need no worker processes and no loop over samples: a batch is a gather, a subtraction and a division,
and augmentation works on whole batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sized
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from striate.data.augmentation import Augmentation
from striate.data.streamed import LabelledImages, gathered
from striate.errors import DataError

_CHUNK = 1 << 22  # pixels counted at a time
_SAMPLE = 200_000  # images that are counted


@dataclass(frozen=True)
class Normalization:
    """Mean and standard deviation of each channel, of pixel values scaled to 0..1.

    Called on uint8 (N, C, H, W), it gives float32 of the same shape: (pixel / 255 - mean) / std.

    Raises:
        DataError: no channels, counts that differ, numbers that aren't finite, a deviation that isn't positive.

    >>> Normalization(mean=(0.5,), std=(0.25,))(torch.tensor([[[[0, 255]]]], dtype=torch.uint8))
    tensor([[[[-2.,  2.]]]])
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        fit = 0 < len(self.mean) == len(self.std)
        if not fit or not all(map(math.isfinite, (*self.mean, *self.std))) or min(self.std) <= 0:
            raise DataError(
                "normalization",
                f"got mean {self.mean}, std {self.std}",
                "needed one finite number each for every channel, std above 0",
            )

    @classmethod
    def of(cls, images: LabelledImages, workers: int = 0) -> Normalization:
        """The normalization of a set: each channel then has mean 0 and standard deviation 1 (a constant channel is 0).

        It counts how often each pixel value occurs and computes with integers, so the result is exact in any order. Of
        a set of more than 200,000 images, this number is counted, spread evenly over the set.
        """
        counts = torch.zeros(images.channels, 256, dtype=torch.int64)
        some = torch.arange(len(images)) if len(images) <= _SAMPLE else torch.arange(_SAMPLE) * len(images) // _SAMPLE
        at_once = max(1, _CHUNK // (images.channels * math.prod(images.image_size)))
        for part in gathered(images, some.split(at_once), workers):
            for channel, pixels in zip(counts, part.unbind(1), strict=True):
                channel += torch.bincount(pixels.flatten(), minlength=256)
        mean, std = [], []
        for channel_counts in counts.tolist():
            # The sums of 1, of v and of v squared, over all pixel values v.
            pixels, first, second = (sum(n * v**power for v, n in enumerate(channel_counts)) for power in range(3))
            mean.append(first / (255 * pixels))
            std.append(math.sqrt(pixels * second - first**2) / (255 * pixels) or 1.0)
        return cls(tuple(mean), tuple(std))

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != len(self.mean):
            got = f"{str(images.dtype).removeprefix('torch.')} {tuple(images.shape)}"
            raise DataError("normalization", f"got images of {got}", f"needed uint8 (N, {len(self.mean)}, H, W)")
        return self.of_bytes(images.to(torch.float32))

    def of_bytes(self, images: torch.Tensor) -> torch.Tensor:
        """The same for float32 images (N, C, H, W) with values from 0 to 255, which are overwritten."""
        mean, std = (
            torch.tensor(numbers, dtype=torch.float32, device=images.device).mul_(255).view(-1, 1, 1)
            for numbers in (self.mean, self.std)
        )
        return images.sub_(mean).div_(std)

    def pixels(self, images: torch.Tensor) -> torch.Tensor:
        """The inverse of a call: normalised images back to uint8 (N, C, H, W)."""
        mean, std = (torch.tensor(numbers, device=images.device).view(-1, 1, 1) for numbers in (self.mean, self.std))
        return (images * std + mean).mul(255).round().clamp(0, 255).to(torch.uint8)

    def to_dict(self) -> dict[str, list[float]]:
        """The same as JSON has it."""
        return {"mean": list(map(float, self.mean)), "std": list(map(float, self.std))}

    @classmethod
    def from_dict(cls, data: object) -> Normalization:
        """The inverse of :meth:`to_dict`.

        Raises:
            DataError: ``data`` of another form.

        >>> Normalization.from_dict({"mean": [0.5], "std": [0.25]})
        Normalization(mean=(0.5,), std=(0.25,))
        """
        if not isinstance(data, dict) or set(data) != {"mean", "std"} or not all(map(_is_floats, data.values())):
            raise DataError("normalization", f"got {data!r}", "needed {'mean': [floats], 'std': [floats]}")
        return cls(tuple(data["mean"]), tuple(data["std"]))


class Batches:
    """A set of images in batches, in an order of its own for every epoch.

    Args:
        images: the set. It isn't moved; each batch is copied to ``device`` as bytes.
        batch_size: images in a batch; the last one of an epoch may have fewer.
        normalization: from uint8 to float32.
        shuffle_seed: the order in epoch k depends on this and on k alone; None: always the order of the set.
        device: where the batches are.
        augmentation: changes whole batches; mixed labels are probabilities, float32 (B, K).
        order: from the number of an epoch to the indices of its images, int64 (N,); None: a shuffle by
            ``shuffle_seed``, or the order of the set.
        part: (number, count): use only this one of ``count`` nearly equal parts of each batch, for one of several
            processes. A part may be empty. The random numbers of augmentation don't depend on it.
        workers: processes that decode ahead where images are streamed.

    Raises:
        DataError: a batch size below 1, a negative seed, a normalization for other channels.

    >>> from striate.data import ImageSet
    >>> images = ImageSet(torch.zeros(5, 1, 2, 2, dtype=torch.uint8), torch.arange(5), tuple("abcde"))
    >>> batches = Batches(images, 2, Normalization.of(images))
    >>> [labels.tolist() for _, labels in batches.epoch(0)]
    [[0, 1], [2, 3], [4]]
    """

    def __init__(
        self,
        images: LabelledImages,
        batch_size: int,
        normalization: Normalization,
        *,
        shuffle_seed: int | None = None,
        device: str | torch.device = "cpu",
        augmentation: Augmentation | None = None,
        order: Callable[[int], torch.Tensor] | None = None,
        part: tuple[int, int] = (0, 1),
        workers: int = 0,
    ) -> None:
        if batch_size < 1:
            raise DataError("batches", f"got batch size {batch_size}", "needed 1 or more")
        if shuffle_seed is not None and shuffle_seed < 0:
            raise DataError("batches", f"got shuffle seed {shuffle_seed}", "needed 0 or more")
        if len(normalization.mean) != images.channels:
            raise DataError(
                "batches",
                f"got a normalization of {len(normalization.mean)} channels for images of {images.channels}",
                remedy="use Normalization.of(images), or as_channels on the images",
            )
        self.images, self.batch_size, self.normalization = images, batch_size, normalization
        self.shuffle_seed, self.device = shuffle_seed, torch.device(device)
        self.augmentation, self.order, self.part, self.workers = augmentation, order, part, workers

    def __len__(self) -> int:
        """Batches in an epoch."""
        return math.ceil(len(self.images) / self.batch_size)

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The batches of epoch ``number`` from batch ``start`` on: float32 images (B, C, H, W) and int64 labels (B,).

        They are the last ``len(self) - start`` batches of the whole epoch, so a resumed run continues with the images
        that it hasn't seen in this epoch.

        Raises:
            DataError: no such epoch or batch.
        """
        if number < 0 or not 0 <= start <= len(self):
            got = f"got epoch {number}, start {start}"
            raise DataError("batches", got, f"needed an epoch from 0, a start from 0 to {len(self)}")
        return self._from(number, start)

    def _from(self, epoch: int, start: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        number, count = self.part
        batches = shuffled(self, epoch).split(self.batch_size)
        wanted = [torch.arange(len(batch)).tensor_split(count)[number] for batch in batches]
        places = [
            positions if self.augmentation is None else self.augmentation.sources(len(batch), positions, epoch, n)
            for n, (batch, positions) in enumerate(zip(batches, wanted, strict=True))
        ][start:]
        rows = [batch[place] for batch, place in zip(batches[start:], places, strict=True)]
        crops = (
            [
                self.augmentation.parts(len(batch), place, epoch, n)
                for n, (batch, place) in enumerate(zip(batches[start:], places, strict=True), start)
            ]
            if self.augmentation is not None and self.augmentation.crops
            else ()
        )
        for step, (chosen, pixels) in enumerate(
            zip(rows, gathered(self.images, rows, self.workers, crops), strict=True), start
        ):
            images = pixels.to(self.device, non_blocking=True)
            labels = self.images.labels.index_select(0, chosen).to(self.device, non_blocking=True)
            if self.augmentation is None:
                yield self.normalization(images), labels
                continue
            augmented, targets = self.augmentation(
                images,
                labels,
                len(self.images.classes),
                epoch=epoch,
                step=step,
                batch=len(batches[step]),
                wanted=wanted[step],
            )
            yield self.normalization.of_bytes(augmented), targets


class _Ordered(Protocol):
    """Batches with an order for each epoch."""

    @property
    def images(self) -> Sized: ...

    @property
    def shuffle_seed(self) -> int | None: ...

    @property
    def order(self) -> Callable[[int], torch.Tensor] | None: ...


def shuffled(batches: _Ordered, epoch: int) -> torch.Tensor:
    """The indices of an epoch's images, int64 (N,), in the order in which batches take them."""
    count = len(batches.images)
    if batches.order is not None:
        return batches.order(epoch)
    if batches.shuffle_seed is None:
        return torch.arange(count)
    # A spawn key, unlike a sum or a tuple, keeps (seed, epoch) apart from all other pairs and from the seed alone.
    random = np.random.default_rng(np.random.SeedSequence(batches.shuffle_seed, spawn_key=(epoch,)))
    return torch.from_numpy(random.permutation(count))


def _is_floats(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(number, float) for number in value)
