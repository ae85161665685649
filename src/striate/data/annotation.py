"""Annotations and detections of one picture: boxes, masks, a class for each pixel.

Coordinates are pixels from the top left corner, ``x0 y0 x1 y1``; the pixel in column c covers c to c + 1, so a box
around it is ``(c, r, c + 1, r + 1)``. Labels are indices of class names, from 0; no class stands for "no object".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from striate.data.fitting import kind
from striate.errors import DataError

#: The value of a class map where the class is unknown or doesn't count.
IGNORED: Final = 255


@dataclass(frozen=True, eq=False)
class Annotation:
    """The truth about one picture of ``size`` (H, W). A picture without objects is legal.

    Args:
        size: height and width of the picture, pixels.
        boxes: float32 (N, 4), ``0 <= x0 < x1 <= W`` and ``0 <= y0 < y1 <= H``.
        labels: int64 (N,), from 0.
        crowd: bool (N,), regions of many objects: losses ignore them, and a detection inside is no mistake.
        masks: bool (N, H, W), the visible pixels of each object; None if outlines aren't known.
        class_map: uint8 (H, W), a class for each pixel, :data:`IGNORED` where it is unknown; None if there is no map.

    Raises:
        DataError: parts that don't fit together.

    >>> Annotation((8, 8), torch.tensor([[0.0, 0, 4, 4]]), torch.tensor([2]))
    Annotation(1 object on 8x8)
    """

    size: tuple[int, int]
    boxes: Tensor = field(default_factory=lambda: torch.zeros(0, 4))
    labels: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    crowd: Tensor | None = None
    masks: Tensor | None = None
    class_map: Tensor | None = None

    def __post_init__(self) -> None:
        count = len(self.labels)
        if self.crowd is None:
            object.__setattr__(self, "crowd", torch.zeros(count, dtype=torch.bool))
        needed = {
            "boxes": (self.boxes, torch.float32, (count, 4)),
            "labels": (self.labels, torch.int64, (count,)),
            "crowd": (self.crowd, torch.bool, (count,)),
            "masks": (self.masks, torch.bool, (count, *self.size)),
            "class_map": (self.class_map, torch.uint8, self.size),
        }
        for name, (tensor, dtype, shape) in needed.items():
            if tensor is not None and (tensor.dtype != dtype or tuple(tensor.shape) != shape):
                word = str(dtype).removeprefix("torch.")
                raise DataError("Annotation", f"got {name} of {kind(tensor)}", f"needed {word} {shape}")

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        parts = [f"{len(self)} object{'s' * (len(self) != 1)}"]
        parts += ["with masks"] * (self.masks is not None) + ["with a class map"] * (self.class_map is not None)
        return f"Annotation({' '.join(parts)} on {self.size[0]}x{self.size[1]})"

    def select(self, chosen: Tensor) -> Annotation:
        """Some of the objects, by a bool mask (N,) or indices; the class map stays."""
        assert self.crowd is not None
        masks = None if self.masks is None else self.masks[chosen]
        return Annotation(self.size, self.boxes[chosen], self.labels[chosen], self.crowd[chosen], masks, self.class_map)


@dataclass(frozen=True, eq=False)
class Detections:
    """The objects that a network finds on one picture of ``size`` (H, W), the highest score first.

    Args:
        size: height and width of the picture, pixels.
        boxes: float32 (N, 4), as in :class:`Annotation`.
        labels: int64 (N,), from 0.
        scores: float32 (N,), from 0 to 1.
        masks: bool (N, H, W); None for a network that predicts no masks.
    """

    size: tuple[int, int]
    boxes: Tensor
    labels: Tensor
    scores: Tensor
    masks: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def above(self, score: float) -> Detections:
        """The objects with at least this score."""
        chosen = self.scores >= score
        masks = None if self.masks is None else self.masks[chosen]
        return Detections(self.size, self.boxes[chosen], self.labels[chosen], self.scores[chosen], masks)
