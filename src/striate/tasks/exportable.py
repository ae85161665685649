"""Networks in the form in which they are exported, and the comparison of two results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor

from striate.errors import RunError
from striate.models.dense import called_by

#: Where overlapping boxes are suppressed: inside the file, or outside, by the program that reads it.
SUPPRESSION: Final = ("inside", "outside")

Results = tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class Exportable:
    """A network from a batch of images (N, C, H, W) to tensors.

    Args:
        network: in evaluation mode it returns a tensor or a tuple of tensors.
        outputs: their names.
        unit: height and width may be any multiples of this, from ``least`` on; None: only the size of the images that
            the file is made with.
        least: the smallest side, pixels.
        about: further metadata of a file, in the form of JSON.
    """

    network: torch.nn.Module
    outputs: tuple[str, ...] = ("logits",)
    unit: int | None = None
    least: int = 1
    about: Mapping[str, Any] = field(default_factory=dict)

    def takes(self, size: tuple[int, int]) -> bool:
        """Whether images of (H, W) have one of the allowed sizes."""
        return self.unit is not None and all(side >= self.least and side % self.unit == 0 for side in size)

    def scale(self, results: Results) -> float:
        """The scale for relative differences: the largest absolute value, but at least 1."""
        return max(1.0, *(each.abs().max().item() for each in results))

    def differences(self, first: Results, second: Results, images: Tensor) -> Tensor:
        """The largest absolute difference of two results for each of ``images`` (N, C, H, W): (N,)."""
        each = [(one - other).abs().flatten(1).amax(1) for one, other in zip(first, second, strict=True)]
        return torch.stack(each).amax(0)

    def same(self, first: Results, second: Results) -> bool:
        """Whether two results mean the same: for classification, the same class.

        Class maps aren't compared in this way, because some pixels are always close to another class; for them only the
        differences count.
        """
        return all(
            one.dim() != 2 or torch.equal(one.argmax(1), other.argmax(1))
            for one, other in zip(first, second, strict=True)
        )

    def counted(self, results: Results) -> int | None:
        """The number of objects in the results; None for networks that don't detect objects."""
        return None


@dataclass(frozen=True, eq=False)
class ExportableObjects(Exportable):
    """A detector from images to objects.

    The outputs are the rows of all images, one image after the other: ``image`` int64 (D,), from 0, the image that a
    row belongs to; ``boxes`` (D, 4); ``labels`` int64 (D,), from 0; ``scores`` (D,); and, for networks that predict
    masks, ``masks`` (D, H, W), the probability of each pixel. If suppression is left to the reader of the file and
    every image has the same number of boxes, there is no ``image``, and the other outputs are (N, M, ...).

    Args:
        threshold: rows with this score or less don't count as detections.
    """

    threshold: float = 0.0

    def scale(self, results: Results) -> float:
        return 1.0

    def differences(self, first: Results, second: Results, images: Tensor) -> Tensor:
        """The largest difference between matching rows, with boxes in fractions of the image's longer side. Infinite if
        one result has an object that the other doesn't have."""
        side = max(images.shape[2:])
        one, other = (self._rows(each, len(images)) for each in (first, second))
        return torch.tensor([_difference(*pair, side) for pair in zip(one, other, strict=True)])

    def same(self, first: Results, second: Results) -> bool:
        return True  # rows with different labels don't match

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
    """Refuses a choice of where boxes are suppressed.

    Raises:
        RunError: there is such a choice.
    """
    if suppression is not None:
        raise RunError("suppression", f"got {suppression!r}", f"needed none: {what}")


def objects_of(model: Any, name: str, suppression: str | None) -> Exportable:
    """A detector with rows as results.

    Args:
        model: with a method ``detect_batch``; ``export_sizes``, the unit and the smallest of its images' sides; and
            ``suppression``, the limits by which it suppresses boxes that overlap, or only a ``score_threshold``.
        name: of its task.
        suppression: one of :data:`SUPPRESSION`; None for the first, if the network suppresses boxes that overlap.

    Raises:
        RunError: a network without this method; another word, or a choice that the network doesn't offer.
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
