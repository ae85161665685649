"""Networks in the form in which files for other programs hold them, and how near two results are to each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor

from striate.errors import RunError
from striate.models.dense import called_by

#: Where overlapping boxes are left out: in the file, or by the program that reads it.
SUPPRESSION: Final = ("inside", "outside")

Results = tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class Exportable:
    """A network from a batch of images (N, C, H, W) to tensors.

    Args:
        network: in evaluation mode it gives a tensor, or a tuple of them.
        outputs: their names.
        unit: height and width may be any multiples of this, from ``least`` on; None: those of the images that the file
            is made with.
        least: the smallest side, pixels.
        about: what else a file says of itself, as JSON can have it.
    """

    network: torch.nn.Module
    outputs: tuple[str, ...] = ("logits",)
    unit: int | None = None
    least: int = 1
    about: Mapping[str, Any] = field(default_factory=dict)

    def takes(self, size: tuple[int, int]) -> bool:
        """Whether images of (H, W) are among those that all sizes stand for."""
        return self.unit is not None and all(side >= self.least and side % self.unit == 0 for side in size)

    def scale(self, results: Results) -> float:
        """What a difference is a share of: the largest absolute value, or 1 if that is more."""
        return max(1.0, *(each.abs().max().item() for each in results))

    def differences(self, first: Results, second: Results, images: Tensor) -> Tensor:
        """The largest absolute difference of two results for each of ``images`` (N, C, H, W): (N,)."""
        each = [(one - other).abs().flatten(1).amax(1) for one, other in zip(first, second, strict=True)]
        return torch.stack(each).amax(0)

    def same(self, first: Results, second: Results) -> bool:
        """Whether two results that hardly differ say the same: an image's class. Of pixels some are always about to be
        of another class; there the differences say all."""
        return all(
            one.dim() != 2 or torch.equal(one.argmax(1), other.argmax(1))
            for one, other in zip(first, second, strict=True)
        )

    def counted(self, results: Results) -> int | None:
        """How many objects results hold; None where they hold none by their nature."""
        return None


@dataclass(frozen=True, eq=False)
class ExportableObjects(Exportable):
    """A detector from images to objects.

    The outputs are rows of all images, one after the other: ``image`` int64 (D,), from 0, whose row it is; ``boxes``
    (D, 4); ``labels`` int64 (D,), from 0; ``scores`` (D,); and of networks that draw outlines ``masks`` (D, H, W), the
    probability of each pixel. Where overlapping boxes are left to the reader of the file, and as many boxes are told of
    each image, there is no ``image``, and the others are (N, M, ...).

    Args:
        threshold: rows that score no more are none.
    """

    threshold: float = 0.0

    def scale(self, results: Results) -> float:
        return 1.0

    def differences(self, first: Results, second: Results, images: Tensor) -> Tensor:
        """Of the rows that are most like each other, boxes in shares of the image's longer side. Infinite where one
        result has an object that the other hasn't."""
        side = max(images.shape[2:])
        one, other = (self._rows(each, len(images)) for each in (first, second))
        return torch.tensor([_difference(*pair, side) for pair in zip(one, other, strict=True)])

    def same(self, first: Results, second: Results) -> bool:
        return True  # rows with other labels aren't alike

    def counted(self, results: Results) -> int | None:
        named = dict(zip(self.outputs, results, strict=True))
        return int((named["scores"] > self.threshold).sum())

    def _rows(self, results: Results, count: int) -> list[dict[str, Tensor]]:
        """Each image's objects."""
        named = dict(zip(self.outputs, results, strict=True))
        likely = named["scores"] > self.threshold
        if "image" not in named:
            return [{name: each[row, likely[row]] for name, each in named.items()} for row in range(count)]
        whose = named.pop("image")
        return [{name: each[likely & (whose == row)] for name, each in named.items()} for row in range(count)]


def _difference(first: Mapping[str, Tensor], second: Mapping[str, Tensor], side: int) -> float:
    """The largest difference between the objects of an image in two results."""
    if len(first["scores"]) != len(second["scores"]):
        return torch.inf
    free = torch.ones(len(second["scores"]), dtype=torch.bool)
    largest = 0.0
    for row in range(len(free)):
        apart = torch.maximum(
            (second["boxes"] - first["boxes"][row]).abs().amax(1) / side,
            (second["scores"] - first["scores"][row]).abs(),
        )
        apart[~free | (second["labels"] != first["labels"][row])] = torch.inf
        nearest = int(apart.argmin())
        free[nearest] = False
        largest = max(largest, apart[nearest].item())
        if "masks" in first and largest < torch.inf:
            largest = max(largest, (second["masks"][nearest] - first["masks"][row]).abs().max().item())
    return largest


def without_suppression(what: str, suppression: str | None) -> None:
    """Refuses the choice where boxes are left out that overlap.

    Raises:
        RunError: it was made.
    """
    if suppression is not None:
        raise RunError("suppression", f"got {suppression!r}", f"needed none: {what}")


def objects_of(model: Any, name: str, suppression: str | None) -> Exportable:
    """A detector with rows as results.

    Args:
        model: with a method ``detect_batch``; ``export_sizes``, the unit and the least of its images' sides; and
            ``suppression``, by which limits it leaves out boxes that overlap, or a ``score_threshold`` alone.
        name: of its task.
        suppression: one of :data:`SUPPRESSION`; None for the first, where the network leaves out boxes that overlap.

    Raises:
        RunError: a network that has no such method; another word, or a choice that the network doesn't leave.
    """
    kind = type(model).__name__
    if not hasattr(model, "detect_batch"):
        raise RunError("export", f"{kind} has no method detect_batch", f"needed it of networks for {name}")
    if suppression not in (None, *SUPPRESSION):
        raise RunError("suppression", f"got {suppression!r}", f"needed {' or '.join(SUPPRESSION)}")
    limits = getattr(model, "suppression", None)
    masks = bool(getattr(model, "has_masks", False))
    if limits is None:
        without_suppression(f"{kind} finds each object once, and leaves out nothing for its overlap", suppression)
    outside = suppression == "outside"
    if outside and masks:
        raise RunError(
            "suppression", "got 'outside'", f"needed 'inside': {kind} draws the masks of what suppression leaves"
        )
    options = {} if limits is None else {"suppress": not outside}
    fixed = outside and not hasattr(model, "rpn")
    names = tuple(["image"] * (not fixed) + ["boxes", "labels", "scores"] + ["masks"] * masks)
    whole = type(model).detect_batch

    def forward(self: Any, images: Tensor) -> Results:
        found = whole(self, images, **options)
        found["labels"] = found["labels"] - 1
        if masks:
            found["masks"] = found["masks"][:, 0]
        return tuple(found[each] for each in names)

    unit, least = model.export_sizes
    threshold = float(model.score_threshold if limits is None else limits["score_threshold"])
    about: dict[str, Any] = {
        "outputs": _described(names, fixed),
        "suppression": {"where": "nowhere", "score_threshold": threshold}
        if limits is None
        else {"where": suppression or "inside", **limits},
    }
    return ExportableObjects(called_by(model, forward), names, unit, least, about, threshold)


def _described(names: tuple[str, ...], fixed: bool) -> dict[str, str]:
    """The outputs in words."""
    shape = "(N, M" if fixed else "(D"
    words = {
        "image": "int64 (D), which image of the batch a row belongs to, from 0",
        "boxes": f"float32 {shape}, 4), x0 y0 x1 y1 in pixels of the input",
        "labels": f"int64 {shape}), places in classes",
        "scores": f"float32 {shape}), 0 to 1" + ", also such as no object has" * fixed,
        "masks": "float32 (D, H, W), the probability that a pixel belongs to the object",
    }
    return {name: words[name] for name in names}
