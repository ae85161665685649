"""From sets of annotated pictures to the batches that networks learn from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from striate.data.annotated import AnnotatedSet, Sample
from striate.data.annotated_augmentation import AnnotatedAugmentation
from striate.data.annotation import Annotation
from striate.data.batches import Normalization, shuffled
from striate.data.fitting import Fit
from striate.data.moving import fit_annotated
from striate.errors import DataError

#: Pictures, float32 from 0 to 1: a tensor (B, C, H, W) if they are fitted to one size, else one (C, H, W) each.
Pictures = Tensor | list[Tensor]


@dataclass(frozen=True)
class AnnotatedBatches:
    """A set of annotated pictures in batches, in an order of its own for every epoch.

    Args:
        images: the set.
        batch_size: pictures in a batch; the last one of an epoch may have fewer.
        fit: fits pictures and annotations to one size; None keeps their own sizes.
        shuffle_seed: the order in epoch k depends on this and on k alone; None: always the order of the set.
        device: where the pictures are. Annotations stay on the CPU.
        augmentation: random changes of pictures and annotations.
        order: from the number of an epoch to the indices of its pictures, int64 (M,); None: a shuffle by
            ``shuffle_seed``, or the order of the set.
        part: (number, count): use only this one of ``count`` nearly equal parts of each batch, for one of several
            processes. A part may be empty. The random numbers of augmentation don't depend on it.
        workers: processes that decode and change pictures ahead.
        normalization: applied to the pictures; None: they have values from 0 to 1.

    Raises:
        DataError: a batch size below 1, a negative seed.

    >>> from striate.data import load
    >>> batches = AnnotatedBatches(load("scenes:64,5,1").train, 2, Fit((48, 48)))
    >>> [(tuple(pictures.shape), len(truths)) for pictures, truths in batches.epoch(0)]
    [((2, 3, 48, 48), 2), ((2, 3, 48, 48), 2), ((1, 3, 48, 48), 1)]
    """

    images: AnnotatedSet
    batch_size: int
    fit: Fit | None = None
    shuffle_seed: int | None = None
    device: str | torch.device = "cpu"
    augmentation: AnnotatedAugmentation | None = None
    order: Callable[[int], Tensor] | None = None
    part: tuple[int, int] = (0, 1)
    workers: int = 0
    normalization: Normalization | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise DataError("batches", f"got batch size {self.batch_size}", "needed 1 or more")
        if self.shuffle_seed is not None and self.shuffle_seed < 0:
            raise DataError("batches", f"got shuffle seed {self.shuffle_seed}", "needed 0 or more")

    def __len__(self) -> int:
        """Batches in an epoch."""
        return math.ceil(len(self.images) / self.batch_size)

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[Pictures, list[Annotation]]]:
        """The batches of epoch ``number`` from batch ``start`` on: pictures, and an annotation for each.

        They are the last ``len(self) - start`` of those that the whole epoch has. A part of a batch without pictures is
        an empty list, whatever ``fit`` is.

        Raises:
            DataError: no such epoch or batch; a picture that can't be read.
        """
        if number < 0 or not 0 <= start <= len(self):
            got = f"got epoch {number}, start {start}"
            raise DataError("batches", got, f"needed an epoch from 0, a start from 0 to {len(self)}")
        return self._from(number, start)

    def _from(self, epoch: int, start: int) -> Iterator[tuple[Pictures, list[Annotation]]]:
        rows = [self._part(batch) for batch in shuffled(self, epoch).split(self.batch_size)[start:]]
        for samples in _gathered(_Batches(self.images, self.fit, self.augmentation, epoch), rows, self.workers):
            pictures = [self._floats(picture) for picture, _ in samples]
            truths = [truth for _, truth in samples]
            yield (torch.stack(pictures) if self.fit is not None and pictures else pictures), truths

    def _part(self, batch: Tensor) -> list[int]:
        number, count = self.part
        indices: list[int] = batch.tensor_split(count)[number].tolist()
        return indices

    def _floats(self, picture: Tensor) -> Tensor:
        there = picture.to(self.device, non_blocking=True)
        return there.float().div_(255) if self.normalization is None else self.normalization(there[None])[0]


@dataclass(frozen=True)
class _Batches(Dataset[list[Sample] | DataError]):
    """The samples of whole batches by their indices, also in worker processes."""

    images: AnnotatedSet
    fit: Fit | None
    augmentation: AnnotatedAugmentation | None
    epoch: int

    def samples(self, indices: list[int]) -> list[Sample]:
        return [self._sample(index) for index in indices]

    def _sample(self, index: int) -> Sample:
        if self.augmentation is not None and self.augmentation.changes:
            return self.augmentation.sample(self.images, index, self.epoch, self.fit)
        picture, truth = self.images.sample(index)
        if self.fit is None:
            return picture, truth
        picture, truth, _ = fit_annotated(picture, truth, self.fit)
        return picture, truth

    def __getitem__(self, indices: list[int]) -> list[Sample] | DataError:
        try:
            return self.samples(indices)
        except DataError as error:
            return error  # if raised here, a DataLoader would wrap it into an error of many lines


def _gathered(batches: _Batches, rows: list[list[int]], workers: int) -> Iterator[list[Sample]]:
    if not workers:
        yield from map(batches.samples, rows)
        return
    loader: DataLoader[list[Sample] | DataError] = DataLoader(
        batches,
        sampler=rows,  # each item is the indices of a whole batch
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=workers,
        generator=torch.Generator(),  # else it would draw from the global generator, which layers use
    )
    for samples in loader:
        if isinstance(samples, DataError):
            raise samples
        yield samples


def _as_it_is(samples: list[Sample]) -> list[Sample]:
    return samples
