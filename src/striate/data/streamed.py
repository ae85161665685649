"""Encoded images in files or in a table: decoded into memory once, or decoded for each batch (streamed)."""

from __future__ import annotations

import bisect
import io
import itertools
import unicodedata
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from striate.data.decoding import Encoded, Reading, reduced, stores_grey
from striate.data.fitting import Crop, Fit, as_channels
from striate.data.images import Identity, ImageSet, checked_indices, digest
from striate.data.progress import progress
from striate.errors import DataError, did_you_mean, readable

#: Images that would take more bytes than this when decoded stay encoded.
IN_MEMORY: Final = 2 << 30

#: Largest number of files that an error names; for more it gives the number.
_NAMED: Final = 10


@dataclass(frozen=True)
class Wanted:
    """How a source's images are loaded.

    Args:
        reading: size, channels, and how many pixels a file may have; None for their own size and channels.
        stream: whether they stay encoded until a batch needs them; None: if they would take more than 2 GiB of memory.
            Streaming needs an image size.
        skip_broken: whether files that can't be read are left out; otherwise one error names them all.
    """

    reading: Reading = Reading()  # noqa: RUF009 - frozen
    stream: bool | None = None
    skip_broken: bool = False


AS_STORED: Final = Wanted()


@dataclass(frozen=True, eq=False, repr=False)
class StreamedSet:
    """Labelled images that are decoded on each access; otherwise like an :class:`ImageSet`, bit for bit.

    Args:
        encoded: the N images.
        labels: int64 (N,), each the index of a class.
        classes: the names of the classes.
        reading: how they are decoded, with a fit and channels.
        known: their N identities.
    """

    encoded: Sequence[Encoded]
    labels: torch.Tensor
    classes: tuple[str, ...]
    reading: Reading
    known: tuple[Identity, ...]

    #: What all sets of a split have in common.
    SAME: ClassVar = ImageSet.SAME

    def __post_init__(self) -> None:
        if self.reading.fit is None or self.reading.channels is None:
            raise DataError("stream", "got no image size or channels", "needed both, as all images are fitted to them")

    def __len__(self) -> int:
        return len(self.encoded)

    def __repr__(self) -> str:
        shape = "x".join(map(str, (self.channels, *self.image_size)))
        return f"StreamedSet({len(self)} images of {shape}, {len(self.classes)} classes)"

    @property
    def channels(self) -> int:
        """Channels of each image."""
        return self.reading.channels or 0

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width."""
        assert self.reading.fit is not None
        return self.reading.fit.image_size

    def gather(self, indices: torch.Tensor, crops: Sequence[Crop] = ()) -> torch.Tensor:
        """The images at ``indices``, int64 (B,), decoded to uint8 (B, C, H, W); with ``crops``, one an image, these
        parts of them at the whole size.

        Raises:
            DataError: an image that can't be read.
        """
        images = torch.empty(len(indices), self.channels, *self.image_size, dtype=torch.uint8)
        for place, index in enumerate(indices.tolist()):
            images[place] = self.reading(self.encoded[index], crops[place] if crops else None)
        return images

    def subset(self, indices: Sequence[int] | NDArray[np.integer[Any]] | torch.Tensor) -> StreamedSet:
        """The images at ``indices``, in their order.

        Raises:
            DataError: no indices, or one that is no integer from 0 to N-1.
        """
        chosen = checked_indices(indices, len(self))
        known = tuple(self.known[index] for index in chosen.tolist())
        return replace(self, encoded=_Chosen(self.encoded, chosen), labels=self.labels[chosen], known=known)

    def identities(self) -> tuple[Identity, ...]:
        """The N images' names and digests."""
        return self.known

    def in_memory(self, shorter: int) -> StreamedSet:
        """The same set with decoded images, in their own proportions and with a shorter side of at most ``shorter``
        pixels, if they take no more than 2 GiB; else the set itself."""
        read = reduced(self.reading, shorter)
        pictures: list[torch.Tensor] = []
        total = 0
        with ThreadPoolExecutor() as pool, progress("decoding images", len(self)) as advance:
            try:
                for picture in pool.map(read, self.encoded):
                    pictures.append(picture)
                    total += picture.numel()
                    if total > IN_MEMORY:
                        return self
                    advance()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
        return replace(self, encoded=pictures)


#: Labelled images, in memory or streamed.
LabelledImages = ImageSet | StreamedSet


@dataclass(frozen=True)
class _Chosen(Sequence[Encoded]):
    """Selected items of a sequence, without reading them."""

    whole: Sequence[Encoded]
    indices: torch.Tensor

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: Any) -> Any:
        return self.whole[int(self.indices[index])]


@dataclass(frozen=True)
class Stored:
    """Labelled images that aren't decoded yet.

    Args:
        encoded: the N images.
        labels: int64 (N,).
        classes: the names of the classes.
        names: what the images are called, paths in the data set.
    """

    encoded: Sequence[Encoded]
    labels: torch.Tensor
    classes: tuple[str, ...]
    names: Sequence[str]


class BrokenImagesError(DataError):
    """Image files that can't be read, all of them: ``files`` has each with the reason."""

    def __init__(self, where: str, got: str, needed: str = "", remedy: str = "", files: tuple[str, ...] = ()) -> None:
        super().__init__(where, got, needed, remedy)
        self.files = files

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.where, self.got, self.needed, self.remedy, self.files)


def decoded(stored: Stored, wanted: Wanted) -> tuple[LabelledImages, tuple[tuple[str, str], ...]]:
    """Stored images as a set, in memory or streamed, and the files that were left out, each with the reason.

    Unless channels are requested, the set is grey if all images are. Every file is decoded once, even if it stays
    encoded, so that a broken one isn't discovered in the middle of training.

    Raises:
        BrokenImagesError: files that can't be read, unless they are to be left out.
        DataError: images of different sizes, or to be streamed, with no size wanted; no image that can be read.
    """
    reading = wanted.reading
    if reading.fit is None and wanted.stream:
        raise DataError("stream", "got no image size", "needed one that all images are fitted to")
    keep = wanted.stream is False or reading.fit is None
    if not keep and not wanted.stream:
        rows, columns = reading.fit.image_size  # type: ignore[union-attr]
        keep = len(stored.encoded) * (reading.channels or 3) * rows * columns <= IN_MEMORY
    looked = _look(stored, reading, keep=keep)
    broken = [(name, each.reason) for name, each in zip(stored.names, looked, strict=True) if each.reason]
    if broken and (not wanted.skip_broken or len(broken) == len(looked)):
        raise _broken(broken, len(looked))
    good = torch.tensor([not each.reason for each in looked]).nonzero().squeeze(1)
    known = tuple(Identity(stored.names[index], looked[index].digest) for index in good.tolist())
    labels = stored.labels[good]
    channels = reading.channels or max(looked[index].channels for index in good.tolist())
    encoded = stored.encoded if not broken else _Chosen(stored.encoded, good)
    streamed = None
    if reading.fit is not None:
        streamed = StreamedSet(encoded, labels, stored.classes, replace(reading, channels=channels), known)
    if keep:
        pictures = [looked[index].picture for index in good.tolist()]
        del looked
        if reading.fit is None:
            _check_sizes(pictures, known)
        return ImageSet(_stacked(pictures, channels), labels, stored.classes, known, streamed), tuple(broken)
    assert streamed is not None
    return streamed, tuple(broken)


@dataclass(frozen=True)
class _Looked:
    """The result of decoding a file once."""

    digest: str = ""
    channels: int = 0
    picture: Any = None
    reason: str = ""


def _look(stored: Stored, reading: Reading, *, keep: bool) -> list[_Looked]:
    """Decodes every image once; keeps digest and channels, and the picture if requested."""

    def look(place: int) -> _Looked:
        try:
            encoded = stored.encoded[place]
            content, opened = content_of(encoded)
            picture = reading(opened)
            opened.seek(0)
            channels = reading.channels or (1 if stores_grey(opened, reading.max_pixels) else 3)
        except DataError as error:
            return _Looked(reason="; ".join(part for part in (error.got, error.remedy) if part))
        return _Looked(digest(content), channels, picture if keep else None)

    # Threads are enough: Pillow decodes outside of Python's global lock.
    with ThreadPoolExecutor() as pool, progress("reading images", len(stored.encoded)) as advance:
        try:
            looked = []
            for each in pool.map(look, range(len(stored.encoded))):
                looked.append(each)
                advance()
            return looked
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # after an error, don't wait for the rest


class _Named(io.BytesIO):
    """Bytes in memory with the name of their origin."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self._name = name

    def __str__(self) -> str:
        return self._name


def opened(content: bytes, name: str) -> io.BytesIO:
    """Bytes as an open file that messages call ``name``."""
    return _Named(content, name)


def content_of(encoded: Encoded) -> tuple[bytes, io.BytesIO]:
    """The bytes of an encoded image, and the same as an open file."""
    if isinstance(encoded, str | Path):
        if Path(encoded).exists() and not Path(encoded).is_file():
            raise DataError(readable(encoded), "is no regular file", "needed an image file")
        try:
            content = Path(encoded).read_bytes()
        except OSError as error:
            raise DataError(readable(encoded), error.strerror or str(error), "needed an image file") from error
    else:
        assert not isinstance(encoded, torch.Tensor)
        content = encoded.read()
        encoded.seek(0)
    return content, opened(content, readable(encoded))


def _broken(files: list[tuple[str, str]], count: int) -> BrokenImagesError:
    lines = tuple(f"{name}: {reason}" for name, reason in files)
    more = f" and {len(lines) - _NAMED} more" if len(lines) > _NAMED else ""
    return BrokenImagesError(
        f"{len(lines)} of {count} images",
        f"can't be read: {' | '.join(lines[:_NAMED])}{more}",
        "needed files that can",
        "mend or remove them, or leave them out: skip_broken, --skip-broken" if len(lines) < count else "",
        lines,
    )


def _check_sizes(pictures: Sequence[torch.Tensor], known: Sequence[Identity]) -> None:
    first = tuple(pictures[0].shape[-2:])
    for picture, each in zip(pictures, known, strict=True):
        size = tuple(picture.shape[-2:])
        if size != first:
            raise DataError(
                each.name,
                f"an image of {size[0]}x{size[1]}, where {known[0].name} has {first[0]}x{first[1]}",
                "needed one size",
                "give an image size that all images are fitted to",
            )


def _stacked(pictures: list[torch.Tensor], channels: int) -> torch.Tensor:
    """Pictures of one size as one tensor; the list is empty afterwards."""
    images = torch.empty(len(pictures), channels, *pictures[0].shape[-2:], dtype=torch.uint8)
    for slot in reversed(images.unbind()):  # each picture is freed once it is copied, so memory holds only one copy
        slot.copy_(as_channels(pictures.pop(), channels))
    return images


class _Batches(Dataset[torch.Tensor | DataError]):
    """Whole batches by their indices, for worker processes."""

    def __init__(self, images: StreamedSet) -> None:
        self.images = images

    def __getitem__(self, row: tuple[torch.Tensor, Sequence[Crop]]) -> torch.Tensor | DataError:
        try:
            return self.images.gather(*row)
        except DataError as error:
            return error  # if raised here, a DataLoader would wrap it into an error of many lines


def gathered(
    images: LabelledImages, rows: Sequence[torch.Tensor], workers: int, crops: Sequence[Sequence[Crop]] = ()
) -> Iterator[torch.Tensor]:
    """Batch after batch of images, by their indices; ``workers`` processes decode ahead where images are streamed.

    Args:
        images: the set.
        rows: for each batch its images' indices.
        workers: how many processes.
        crops: for each batch a crop of each image; none by default.

    Raises:
        DataError: an image that can't be read.
    """
    wanted = list(zip(rows, crops or [()] * len(rows), strict=True))
    if isinstance(images, ImageSet) or not workers or _decoded_already(images):
        for row in wanted:
            yield images.gather(*row)
        return
    loader: DataLoader[torch.Tensor | DataError] = DataLoader(
        _Batches(images),
        sampler=wanted,  # what it draws are the indices of a whole batch
        batch_size=None,
        num_workers=workers,
        generator=torch.Generator(),  # or it would draw from the one that layers use
    )
    for batch in loader:
        if isinstance(batch, DataError):
            raise batch
        yield batch


def _decoded_already(images: StreamedSet) -> bool:
    return bool(len(images)) and isinstance(images.encoded[0], torch.Tensor)


def fitting(image_size: tuple[int, int] | None, fit: Fit | None) -> Fit | None:
    """The fit that is asked for by itself, or by an image size."""
    return fit if fit is not None or image_size is None else Fit(image_size)


class Joined(Sequence[Encoded]):
    """Sequences one after the other, without touching what they hold."""

    def __init__(self, parts: Sequence[Sequence[Encoded]]) -> None:
        self.parts = parts
        self.ends = list(itertools.accumulate(map(len, parts)))

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = bisect.bisect_right(self.ends, index)
        return self.parts[part][index - (self.ends[part - 1] if part else 0)]


def joined(sets: Sequence[LabelledImages]) -> LabelledImages:
    """Sets of the same classes, size and channels as one, in their order."""
    first, *others = sets
    if not others:
        return first
    labels = torch.cat([each.labels for each in sets])
    known = tuple(identity for each in sets for identity in each.identities())
    if isinstance(first, ImageSet):
        pixels = torch.cat([each.images for each in sets if isinstance(each, ImageSet)])
        origins = [each.origin for each in sets if isinstance(each, ImageSet) and each.origin is not None]
        origin = joined(origins) if len(origins) == len(sets) else None
        assert not isinstance(origin, ImageSet)
        return ImageSet(pixels, labels, first.classes, known, origin)
    encoded = Joined([each.encoded for each in sets if isinstance(each, StreamedSet)])
    return replace(first, encoded=encoded, labels=labels, known=known)


def relabelled(images: LabelledImages, classes: tuple[str, ...]) -> LabelledImages:
    """The same images with the labels of ``classes``, which have all classes that occur among them.

    Raises:
        DataError: a class that isn't among them.
    """
    # One letter with an accent may be one character or two: some systems write file names the one way, some the other.
    numbers = {unicodedata.normalize("NFC", name): number for number, name in enumerate(classes)}
    table = [numbers.get(unicodedata.normalize("NFC", name), -1) for name in images.classes]
    if unknown := [images.classes[label] for label in images.labels.unique().tolist() if table[label] < 0]:
        shown = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
        got = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        spelt = {name.casefold(): name for name in classes}
        near = spelt.get(unknown[0].casefold())
        remedy = did_you_mean(unknown[0], classes) if near is None else f"did you mean {near}?"
        raise DataError("classes", f"got {got}", f"needed those of {shown}", remedy)
    if isinstance(images, ImageSet):
        images = replace(images, origin=None)
    return replace(images, labels=torch.tensor(table)[images.labels], classes=classes)
