"""Sources of images: from a name, or a name and a path, to images for training and for testing."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic

import numpy as np
import torch

from striate.data.annotated import PARTS, AnnotatedSet
from striate.data.cifar import read_cifar_folder
from striate.data.coco import read_coco
from striate.data.decoding import MAX_PIXELS, Reading
from striate.data.digits import read_digits
from striate.data.fitting import Fit, Size, as_channels
from striate.data.folder import list_class_folder
from striate.data.found import Found
from striate.data.hub import read_hub
from striate.data.idx import read_idx_folder
from striate.data.images import Identity, ImageSet, SetT, Split, expanded
from striate.data.labelme import read_labelme
from striate.data.masks import read_masks
from striate.data.recorded import Recorded, look_through, summary
from striate.data.scenes import USAGE as SCENES
from striate.data.scenes import read_scenes
from striate.data.streamed import Joined, LabelledImages, Stored, Wanted, decoded, fitting
from striate.data.voc import read_voc
from striate.data.yolo import read_yolo
from striate.errors import DataError


@dataclass(frozen=True)
class Source:
    """A kind of place that images can be loaded from.

    Args:
        usage: the syntax, ``"idx:FOLDER"``, with optional parts in brackets.
        example: the same with an example of a path.
        description: one line for a list of sources.
        find: from the text after the colon to the images by part. :func:`gather` handles decoding, size and channels.
        holds: the possible annotations: ``"labels"``, or some of :data:`~striate.data.annotated.PARTS`.
    """

    usage: str
    example: str
    description: str
    find: Callable[[str], Found]
    holds: frozenset[str] = frozenset({"labels"})

    def accepts(self, argument: str) -> bool:
        """Whether this text, which may be empty, is allowed after the colon."""
        return "[:" in self.usage or (":" in self.usage) == bool(argument)


@dataclass(frozen=True)
class Collection(Generic[SetT]):
    """All images of a source by part, with the same classes; labelled images also have one size.

    Args:
        source: as in :func:`load`.
        parts: as in :class:`Found`.
        skipped: files that were left out, each with the reason.
        notes: how files and folders were interpreted.
    """

    source: str
    parts: Mapping[str, SetT]
    skipped: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        return next(iter(self.parts.values())).classes

    def tested(self) -> tuple[SetT, tuple[str, ...]]:
        """The images to test a network on that wasn't trained on this source, and a note for the user.

        If the source has a test set (or else a validation set), it is used; otherwise all images are.
        """
        refuse_faults(self)
        if "" in self.parts:
            return self.parts[""], self.notes
        part = next(name for name in ("test", "val", "train") if name in self.parts)
        others = [f"{len(images):,} of {name}" for name, images in self.parts.items() if name != part]
        note = f"tests the {len(self.parts[part]):,} images of {part}"
        return self.parts[part], (note + (f", not the {' and '.join(others)}" if others else ""),)


def load(
    source: str,
    *,
    image_size: Size | None = None,
    channels: int | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
    stream: bool | None = None,
    val_fraction: float = 0.0,
    fit: Fit | None = None,
    skip_broken: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> Split[Any]:
    """The images of ``source`` for training and for testing.

    Args:
        source: one of :data:`SOURCES`: ``"digits"``, ``"folder:PATH"``, ...; with annotations ``"scenes"``, ...
        image_size: (height, width) that all images are brought to by :func:`~striate.data.fit_image`; None: their own.
            Pictures with annotations always keep theirs, until they become batches.
        channels: 1 or 3, by :func:`~striate.data.as_channels`; None: their own.
        test_fraction: the share held out by :func:`split` where the source has no test set of its own.
        seed: which images those are.
        stream: whether encoded images (folder, hf) are decoded for each batch instead of once; None: if they would
            take more than 2 GiB of memory. Streaming needs an image size.
        val_fraction: the share of the training images held out for validation, where the source has no validation set
            of its own; 0 for none.
        fit: fits images to one size, instead of ``image_size``.
        skip_broken: leave out image files that can't be read; else they are an error that names them all.
        max_pixels: an image file with more is one that can't be read.

    Returns:
        A split of :class:`~striate.data.ImageSet` or :class:`~striate.data.StreamedSet`, or of
        :class:`~striate.data.AnnotatedSet` where the source has boxes, masks or class maps.

    Raises:
        DataError: an unknown source, or one with invalid contents.

    >>> load("digits", image_size=(28, 28)).test
    ImageSet(359 images of 1x28x28, 10 classes)
    >>> load("scenes:64,200,50").test
    AnnotatedSet(50 pictures with boxes, masks, map, 10 classes)
    """
    wanted = Wanted(Reading(fitting(image_size, fit), channels, max_pixels), stream, skip_broken)
    return divide(gather(source, wanted), test_fraction=test_fraction, val_fraction=val_fraction, seed=seed)


def kind_of(source: str) -> Source:
    """The kind of place that ``source`` names.

    Raises:
        DataError: an unknown source, a missing path, or a path for a source that takes none.
    """
    name, _, path = source.partition(":")
    if name not in SOURCES:
        raise _unknown(source, name)
    kind = SOURCES[name]
    if not kind.accepts(path):
        got = "got a path" if path else "got no path"
        raise DataError(f"data {source!r}", got, f"needed {kind.usage}, as in {kind.example!r}")
    return kind


def gather(source: str, wanted: Wanted) -> Collection[Any]:
    """All images of ``source``, decoded as requested.

    Raises:
        DataError: as :func:`load`.
    """
    found = kind_of(source).find(source.partition(":")[2])
    parts: Mapping[str, LabelledImages | AnnotatedSet]
    parts, skipped = _decoded(found.parts, wanted, source)
    return Collection(source, parts, found.skipped + skipped, found.notes)


def divide(
    collection: Collection[SetT],
    *,
    test_fraction: float,
    val_fraction: float = 0.0,
    seed: int = 0,
    selects: bool = False,
) -> Split[SetT]:
    """Divides the images of a source into training, validation and test images.

    Existing parts are used as they are. Missing parts are held out: the test set from all images, then the validation
    set from the remaining training images. If there is a validation set but no test set, the validation set becomes the
    test set, unless training chooses something by it (``selects``): then it can't measure how good the choice is.

    Raises:
        DataError: a source without images to learn from; as :func:`split`.
    """
    refuse_faults(collection)
    parts, notes = dict(collection.parts), list(collection.notes)
    if not 0 <= val_fraction < 1:
        raise DataError("validation fraction", f"got {val_fraction}", "needed 0 or more, and less than 1")
    train = parts.get("train", parts.get(""))
    if train is None:
        raise DataError(collection.source, f"has {' and '.join(parts)}, no train", "needed images to learn from")
    if len(train.classes) < 2 and not isinstance(train, AnnotatedSet):
        raise DataError(collection.source, f"one class only, {train.classes[0]}", "needed at least two to tell apart")
    each = "" if isinstance(train, AnnotatedSet) else " of each class"
    test, val = parts.get("test"), parts.get("val")
    if test is None and val is not None and not selects:
        test, val = val, None
        notes.append("tests on the validation images, as there are no others and nothing is chosen by them")
    # Drawn first, so that the same seed holds out the same test images with and without a validation set.
    if test is None:
        train, test = split(train, test_fraction=test_fraction, seed=seed)
        notes.append(f"holds out {len(test):,} images for testing ({test_fraction:.0%}{each}, seed {seed})")
    if val is None and val_fraction:
        train, val = split(train, test_fraction=val_fraction, seed=seed + 1)
        notes.append(f"holds out {len(val):,} training images for validation ({val_fraction:.0%}, seed {seed})")
    return Split(train, test, collection.source, val, collection.skipped, tuple(notes))


def refuse_faults(collection: Collection[Any]) -> None:
    """Raises a DataError that summarises the faults of annotations, if there are any."""
    if found := [fault for each in collection.parts.values() for fault in getattr(each, "faults", ())]:
        raise summary(found, collection.source)


def _decoded(
    parts: Mapping[str, ImageSet | Stored | AnnotatedSet | Recorded], wanted: Wanted, source: str
) -> tuple[Mapping[str, LabelledImages | AnnotatedSet], tuple[tuple[str, str], ...]]:
    """All parts as sets of one number of channels and, where images have one label each, one size."""
    if annotated := {part: each for part, each in parts.items() if isinstance(each, AnnotatedSet)}:
        return annotated, ()
    if recorded := {part: each for part, each in parts.items() if isinstance(each, Recorded)}:
        return look_through(recorded, wanted, source)
    stored = {part: each for part, each in parts.items() if isinstance(each, Stored)}
    if not stored:
        kept = {part: each for part, each in parts.items() if isinstance(each, ImageSet)}
        return {part: _brought(each, wanted.reading, part) for part, each in kept.items()}, ()
    # All parts together, so that either all are grey or none is, and one error lists all broken files.
    first = next(iter(stored.values()))
    together = Stored(
        Joined([each.encoded for each in stored.values()]),
        torch.cat([each.labels for each in stored.values()]),
        first.classes,
        [name for each in stored.values() for name in each.names],
    )
    images, broken = decoded(together, wanted)
    gone = {name for name, _ in broken}
    result: dict[str, LabelledImages] = {}
    start = 0
    for part, each in stored.items():
        count = sum(name not in gone for name in each.names)
        if not count:
            raise DataError(part or "images", "none can be read", "needed one at least")
        result[part] = images.subset(range(start, start + count)) if len(stored) > 1 else images
        start += count
    return result, broken


def split(images: SetT, *, test_fraction: float, seed: int) -> tuple[SetT, SetT]:
    """A training and a test set out of one, every class divided in the same proportion where images have one class.

    Of each class, or of pictures with annotations of all, round(``test_fraction`` x its images) go to the test set, but
    at least one, and at least one stays. The choice depends on the labels and ``seed`` alone; both sets keep the order
    of the images.

    Raises:
        DataError: a class with a single image, a fraction outside (0, 1), a negative seed.
    """
    if not 0 < test_fraction < 1:
        raise DataError("test fraction", f"got {test_fraction}", "needed more than 0 and less than 1")
    if seed < 0:
        raise DataError("seed", f"got {seed}", "needed 0 or more")
    whole: LabelledImages | AnnotatedSet = images
    annotated = isinstance(whole, AnnotatedSet)
    labels = np.zeros(len(whole), dtype=np.int64) if isinstance(whole, AnnotatedSet) else whole.labels.numpy()
    held_out = np.zeros(len(labels), dtype=bool)
    random = np.random.default_rng(seed)
    for label in np.unique(labels):
        (members,) = np.nonzero(labels == label)
        if len(members) == 1:
            raise DataError(
                "split",
                "got one picture only" if annotated else f"class {images.classes[label]} has one image only",
                "needed two, one for training and one for testing",
            )
        count = min(max(round(test_fraction * len(members)), 1), len(members) - 1)
        held_out[random.permutation(members)[:count]] = True
    parts: Any = (whole.subset(np.flatnonzero(~held_out)), whole.subset(np.flatnonzero(held_out)))
    train, test = parts  # of the same type as the whole set, which the types don't express
    return train, test


def _read_digits() -> Found:
    pixels, labels = read_digits()
    classes = tuple(map(str, np.unique(labels).tolist()))
    return Found({"": ImageSet(torch.from_numpy(pixels), torch.from_numpy(labels), classes)})


def _read_folder(path: str) -> Found:
    listed = list_class_folder(expanded(path))
    return Found(listed.parts, listed.skipped, listed.notes)


def _parted(train: ImageSet, test: ImageSet | None) -> Found:
    return Found({"": train} if test is None else {"train": train, "test": test})


SOURCES: dict[str, Source] = {
    "digits": Source(
        usage="digits",
        example="digits",
        description="1,797 handwritten digits of 8x8 pixels, part of scikit-learn",
        find=lambda _: _read_digits(),
    ),
    "idx": Source(
        usage="idx:FOLDER",
        example="idx:data/mnist",
        description="MNIST and its relatives: IDX files, plain or gzipped",
        find=lambda path: _parted(*read_idx_folder(expanded(path))),
    ),
    "cifar": Source(
        usage="cifar:FOLDER",
        example="cifar:data/cifar-10-batches-py",
        description="CIFAR-10 and CIFAR-100 as published, the binary or the Python version",
        find=lambda path: _parted(*read_cifar_folder(expanded(path))),
    ),
    "folder": Source(
        usage="folder:PATH",
        example="folder:data/pets",
        description="image files in a sub-folder for each class; also within train/, val/ and test/",
        find=_read_folder,
    ),
    "hf": Source(
        usage="hf:PATH",
        example="hf:data/pets.parquet",
        description="Hugging Face data sets: parquet files, or OWNER/NAME on the Hub; a split after a colon",
        find=lambda path: Found(read_hub(path)),
    ),
    "coco": Source(
        usage="coco:FILE[,IMAGES]",
        example="coco:data/instances_train2017.json,data/train2017",
        description="boxes and outlines in COCO's JSON; a folder of them with train and val",
        find=lambda path: Found(read_coco(path)),
        holds=frozenset(PARTS),
    ),
    "voc": Source(
        usage="voc:FOLDER[,LISTS]",
        example="voc:data/VOC2012,Segmentation",
        description="Pascal VOC: a file of boxes for each picture; with the lists Segmentation masks and class maps",
        find=read_voc,
        holds=frozenset(PARTS),
    ),
    "yolo": Source(
        usage="yolo:FOLDER",
        example="yolo:data/pets",
        description="text files of boxes or polygons beside images/, names in data.yaml",
        find=read_yolo,
        holds=frozenset(PARTS),
    ),
    "labelme": Source(
        usage="labelme:FOLDER",
        example="labelme:data/cells",
        description="a JSON file for each picture, as the program labelme writes it",
        find=read_labelme,
        holds=frozenset(PARTS),
    ),
    "masks": Source(
        usage="masks:FOLDER",
        example="masks:data/roads",
        description="class maps: a PNG of class numbers for each picture, names in classes.txt",
        find=read_masks,
        holds=frozenset({"map"}),
    ),
    "scenes": Source(
        usage=SCENES,
        example="scenes:128,2000,300",
        description="digits on photographs with boxes, masks and class maps, drawn at any number and size",
        find=read_scenes,
        holds=frozenset(PARTS),
    ),
}


def _unknown(source: str, name: str) -> DataError:
    if close := difflib.get_close_matches(name.lower(), SOURCES, n=1):
        remedy = f"did you mean {SOURCES[close[0]].usage}?"
    elif expanded(source).is_dir():
        remedy = f"did you mean 'folder:{source}' or 'idx:{source}'?"
    else:
        remedy = ""
    known = ", ".join(f"{each.usage} (as in {each.example!r})" for each in SOURCES.values())
    return DataError(f"data {source!r}", "no such source", f"needed one of {known}", remedy)


def _brought(images: ImageSet, reading: Reading, part: str) -> ImageSet:
    known = tuple(Identity(f"{part}/{each.name}" if part else each.name, each.digest) for each in images.identities())
    pixels = images.images
    if reading.channels is not None:
        pixels = as_channels(pixels, reading.channels)
    if reading.fit is not None:
        pixels = reading.fit(pixels)
    return ImageSet(pixels.contiguous(), images.labels, images.classes, known)
