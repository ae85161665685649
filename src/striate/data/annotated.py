"""Sets of annotated pictures. Pictures have any size and are decoded on access."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from striate.data.annotation import IGNORED, Annotation
from striate.data.images import Identity, checked_indices
from striate.errors import DataError

#: What an annotation may have: boxes with labels, a mask for each box, a class for each pixel.
PARTS: Final = ("boxes", "masks", "map")

#: A picture, uint8 (C, H, W), and its annotation.
Sample = tuple[Tensor, Annotation]


class Samples(Protocol):
    """The source of an :class:`AnnotatedSet`'s pictures. It can be pickled, for worker processes."""

    def __len__(self) -> int: ...

    def sample(self, index: int, holds: frozenset[str]) -> Sample:
        """The picture and its annotation, which has at least what ``holds`` names."""
        ...


@dataclass(frozen=True)
class Fault:
    """Something wrong in annotated data.

    Args:
        file: the file with the fault, by its name in the data set.
        what: what is wrong, in a few words.
        thing: which object, ``"object 3"`` or ``"annotation 17"``; empty if the whole file is faulty.
    """

    file: str
    what: str
    thing: str = ""

    @property
    def told(self) -> str:
        """The fault without the file."""
        return f"{self.thing} {self.what}" if self.thing else self.what

    def __str__(self) -> str:
        return f"{self.file}: {self.told}"


@dataclass(frozen=True, eq=False, repr=False)
class AnnotatedSet:
    """Pictures of any sizes with annotations.

    Args:
        samples: the N pictures with their annotations.
        classes: names of the classes of objects, without background.
        map_classes: names of the classes in class maps; empty if there are no maps.
        holds: the parts that every annotation has, some of :data:`PARTS`.
        channels: 1 or 3, of all pictures.
        known: the N identities; the digest is of picture and annotation together.
        faults: what is wrong with the data. Objects with faults are not among the annotations.

    Raises:
        DataError: parts that don't fit together.
    """

    samples: Samples
    classes: tuple[str, ...]
    map_classes: tuple[str, ...]
    holds: frozenset[str]
    channels: int
    known: tuple[Identity, ...]
    faults: tuple[Fault, ...] = ()

    #: Attributes that all sets of a split share.
    SAME: ClassVar = ("classes", "map_classes", "channels")

    def __post_init__(self) -> None:
        if len(self.known) != len(self.samples):
            raise DataError("AnnotatedSet", f"got {len(self.known)} identities", f"needed {len(self.samples)}")
        for names in (self.classes, self.map_classes):
            if len(set(names)) != len(names):
                raise DataError("AnnotatedSet", f"got classes {names}", "needed names that differ")
        if not self.holds or not self.holds <= set(PARTS):
            raise DataError("AnnotatedSet", f"got parts {sorted(self.holds)}", f"needed some of {', '.join(PARTS)}")

    def __len__(self) -> int:
        return len(self.samples)

    def __repr__(self) -> str:
        parts = ", ".join(part for part in PARTS if part in self.holds)
        return f"AnnotatedSet({len(self)} pictures with {parts}, {len(self.classes or self.map_classes)} classes)"

    def sample(self, index: int) -> Sample:
        """The picture at ``index``, uint8 (C, H, W), and its annotation.

        Raises:
            DataError: no such index; a picture that can't be read.
        """
        if not 0 <= index < len(self):
            raise DataError("sample", f"got index {index}", f"needed 0 to {len(self) - 1}")
        picture, truth = self.samples.sample(index, self.holds)
        masks = truth.masks if "masks" in self.holds else None
        class_map = truth.class_map if "map" in self.holds else None
        if masks is not truth.masks or class_map is not truth.class_map:
            truth = replace(truth, masks=masks, class_map=class_map)
        return picture, truth

    def holding(self, parts: Iterable[str]) -> AnnotatedSet:
        """The same set with only these parts of the annotations. Other parts aren't decoded.

        Raises:
            DataError: parts that these annotations don't have.
        """
        wanted = frozenset(parts)
        if missing := wanted - self.holds:
            raise DataError(
                "annotations", f"have {', '.join(sorted(self.holds))}", f"needed {', '.join(sorted(missing))}"
            )
        return replace(self, holds=wanted)

    def subset(self, indices: Sequence[int] | NDArray[np.integer[Any]] | Tensor) -> AnnotatedSet:
        """The pictures at ``indices``, in their order; nothing is copied.

        Raises:
            DataError: no indices, or one that is no integer from 0 to N-1.
        """
        chosen = checked_indices(indices, len(self))
        known = tuple(self.known[index] for index in chosen.tolist())
        return replace(self, samples=_Chosen(self.samples, chosen), known=known)

    def identities(self) -> tuple[Identity, ...]:
        """The N pictures' names and digests."""
        return self.known


def joined(sets: Sequence[AnnotatedSet]) -> AnnotatedSet:
    """Several sets with the same classes and channels as one, in order; it holds the parts that all of them hold."""
    first, *others = sets
    if not others:
        return first
    return replace(
        first,
        samples=_Joined(tuple(each.samples for each in sets)),
        known=tuple(identity for each in sets for identity in each.known),
        holds=frozenset.intersection(*(each.holds for each in sets)),
        faults=tuple(fault for each in sets for fault in each.faults),
    )


def relabelled(images: AnnotatedSet, classes: tuple[str, ...]) -> AnnotatedSet:
    """The same pictures with labels that index ``classes``; if there are only class maps, their values do.

    Raises:
        DataError: a class that isn't among them.
    """
    maps = images.holds == {"map"}
    names = images.map_classes if maps else images.classes
    if names == classes:
        return images
    if unknown := [name for name in names if name not in classes]:
        raise DataError("classes", f"got {', '.join(unknown[:5])}", f"needed those of {', '.join(classes[:5])}, ...")
    table = torch.tensor([classes.index(name) for name in names])
    samples = _Relabelled(images.samples, table, maps)
    if maps:
        return replace(images, samples=samples, map_classes=classes)
    return replace(images, samples=samples, classes=classes)


@dataclass(frozen=True)
class _Relabelled:
    """Samples whose labels, or the values of their maps, are other numbers."""

    whole: Samples
    table: Tensor
    maps: bool

    def __len__(self) -> int:
        return len(self.whole)

    def sample(self, index: int, holds: frozenset[str]) -> Sample:
        picture, truth = self.whole.sample(index, holds)
        if not self.maps:
            return picture, replace(truth, labels=self.table[truth.labels], class_map=None)
        assert truth.class_map is not None
        values = torch.full((IGNORED + 1,), IGNORED, dtype=torch.uint8)
        values[: len(self.table)] = self.table.to(torch.uint8)
        return picture, replace(truth, class_map=values[truth.class_map.long()])


@dataclass(frozen=True)
class _Chosen:
    """Some samples, in an order of their own."""

    whole: Samples
    indices: Tensor

    def __len__(self) -> int:
        return len(self.indices)

    def sample(self, index: int, holds: frozenset[str]) -> Sample:
        return self.whole.sample(int(self.indices[index]), holds)


@dataclass(frozen=True)
class _Joined:
    """Samples one after the other."""

    parts: tuple[Samples, ...]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def sample(self, index: int, holds: frozenset[str]) -> Sample:
        ends = np.cumsum([len(part) for part in self.parts])
        part = int(np.searchsorted(ends, index, side="right"))
        return self.parts[part].sample(index - int(ends[part] - len(self.parts[part])), holds)


def object_map(truth: Annotation) -> Tensor:
    """The class map that follows from masks, uint8 (H, W): 0 for background, label + 1 for an object.

    Where objects of different classes overlap, and in crowds, the class is unknown
    (:data:`~striate.data.annotation.IGNORED`).
    """
    assert truth.masks is not None
    assert truth.crowd is not None
    drawn = torch.zeros(truth.size, dtype=torch.uint8)
    for mask, label, crowd in zip(truth.masks, truth.labels.tolist(), truth.crowd.tolist(), strict=True):
        if crowd:
            continue
        taken = mask & (drawn != 0) & (drawn != label + 1)
        drawn[mask] = label + 1
        drawn[taken] = IGNORED
    for mask in truth.masks[truth.crowd]:
        drawn[mask & (drawn == 0)] = IGNORED
    return drawn
