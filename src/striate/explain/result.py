"""The result of an explanation: its numbers, and everything that is needed to draw them."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from numpy.typing import NDArray
from torch import Tensor

from striate.drawing import Pictured
from striate.errors import ExplainError
from striate.explain.arguments import array, kind_of, texts
from striate.explain.targets import Guess

#: A method of this package: (model, image, target, ...) to an explanation.
Method: TypeAlias = Callable[..., "Explanation"]


@dataclass(frozen=True, eq=False)
class Explanation(Pictured):
    """How much each pixel of N images is evidence for a target.

    Args:
        method: ``"grad_cam"``, as the function is called.
        map: (N, H, W), float, of the images' size, finite, on the CPU.
        signed: whether negative numbers are evidence against the target; otherwise all numbers are 0 or more.
        quantity: name and unit of the numbers, for a colour bar.
        values: before enlargement or the sum over channels: (N, h, w) of the layer, or (N, C, H, W).
        detail: ``"pixels"`` if each pixel has its own number, ``"regions"`` if neighbours share one.
        layer: whose activations were used; None for methods that look at the input only.
        target: in words.
        classes: one an image; None for a target that is a function.
        scores: of the target, one an image.
        predictions: the likeliest classes of each image, likeliest first; empty if the output isn't (N, classes).
        picture: (N, 1 or 3, H, W) in 0..1, to draw on.
        names: of the classes, if they are known.
        measures: figures of the method about itself, such as the gap of a sum rule; one an image.
        notes: remarks for the reader: missing evidence, known failures.
        images: their names, if they have any.
    """

    method: str
    map: Tensor
    signed: bool
    quantity: str
    values: Tensor
    detail: Literal["pixels", "regions"]
    layer: str | None
    target: str
    classes: tuple[int, ...] | None
    scores: tuple[float, ...]
    predictions: tuple[tuple[Guess, ...], ...]
    picture: Tensor
    names: tuple[str, ...] = ()
    measures: dict[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    images: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.map)

    def on(
        self,
        picture: Tensor | NDArray[Any] | None = None,
        *,
        names: Sequence[str] = (),
        images: Sequence[str] = (),
    ) -> Explanation:
        """The same explanation with a picture to draw on and names of classes and images.

        Args:
            picture: (C, H, W) or (N, C, H, W), uint8 or floats in 0..1, of the images' size; 1 or 3 channels.
            names: of the classes, in order.
            images: of the images, in order, as files are called.

        Raises:
            ExplainError: a picture of another size, another number of images.
        """
        names, images = texts("names", names), texts("images", images)
        if images and len(images) != len(self):
            raise ExplainError("images", f"got {len(images)} names", f"needed {len(self)}, one an image")
        shown = self.picture if picture is None else array("picture", picture).detach().cpu()
        shown = shown / 255 if shown.dtype == torch.uint8 else shown.float()
        shown = shown[None] if shown.dim() == 3 else shown
        if shown.dim() != 4 or len(shown) != len(self) or shown.shape[1] not in (1, 3):
            needed = f"needed ({len(self)}, 1 or 3, {self.map.shape[1]}, {self.map.shape[2]})"
            raise ExplainError("picture", f"got {tuple(shown.shape)}", needed)
        if shown.shape[2:] != self.map.shape[1:]:
            size = "x".join(map(str, self.map.shape[1:]))
            got = "x".join(map(str, shown.shape[2:]))
            raise ExplainError("picture", f"got {got}", f"needed {size}, as the network saw it")
        return dataclasses.replace(self, picture=shown, names=names or self.names, images=images or self.images)

    def name_of(self, category: int) -> str:
        """A class in words: its name, or ``"class 3"``."""
        return self.names[category] if category < len(self.names) else f"class {category}"

    def image_of(self, image: int) -> str:
        """What an image is called: its name, or ``"image 3"``."""
        return self.images[image] if self.images else f"image {image}"

    def target_of(self, image: int) -> str:
        """What an image is explained for, in words."""
        return self.target if self.classes is None else self.name_of(self.classes[image])

    def to_dict(self) -> dict[str, Any]:
        """All but the picture, for JSON."""
        return {
            "images": [self.image_of(image) for image in range(len(self))],
            "method": self.method,
            "layer": self.layer,
            "target": [self.target_of(image) for image in range(len(self))],
            "classes": None if self.classes is None else list(self.classes),
            "scores": list(self.scores),
            "predictions": [
                [{"class": g.category, "name": self.name_of(g.category), "probability": g.probability} for g in row]
                for row in self.predictions
            ],
            "signed": self.signed,
            "quantity": self.quantity,
            "measures": {
                name: [value if math.isfinite(value) else None for value in values]
                for name, values in self.measures.items()
            },
            "notes": list(self.notes),
            "map": self.map.tolist(),
        }


def joined(parts: Sequence[Explanation]) -> Explanation:
    """Explanations of several images, by one method at one layer, as one.

    Raises:
        ExplainError: none, or of images of different sizes.
    """
    if not parts or len({(part.method, part.layer, part.map.shape[1:], part.picture.shape[1:]) for part in parts}) > 1:
        raise ExplainError("joined", "got explanations that differ", "needed one method, layer and size of images")
    first = parts[0]
    common = set.intersection(*(set(part.notes) for part in parts))
    notes = [
        note if note in common or not part.images else f"{part.image_of(0)}: {note}"
        for part in parts
        for note in part.notes
    ]
    return dataclasses.replace(
        first,
        map=torch.cat([part.map for part in parts]),
        values=torch.cat([part.values for part in parts]),
        picture=torch.cat([part.picture for part in parts]),
        target=first.target if len({part.target for part in parts}) == 1 else "a class for each image",
        classes=None if first.classes is None else tuple(k for part in parts for k in part.classes or ()),
        scores=tuple(score for part in parts for score in part.scores),
        predictions=tuple(row for part in parts for row in part.predictions),
        measures={name: tuple(value for part in parts for value in part.measures[name]) for name in first.measures},
        notes=tuple(dict.fromkeys(notes)),
        images=tuple(name for part in parts for name in part.images),
    )


def made_by(method: Method, *args: Any, **options: Any) -> Explanation:
    """The explanation by a method, which may be the user's own.

    Raises:
        ExplainError: the result isn't an explanation, or the method doesn't take the options.
    """
    name = getattr(method, "__name__", type(method).__name__)
    try:
        inspect.signature(method).bind(*args, **options)
    except TypeError as error:
        raise ExplainError(name, str(error), "needed a method: (model, image, target, ...)") from error
    made = method(*args, **options)
    if isinstance(made, Explanation):
        return made
    raise ExplainError(name, f"gave {kind_of(made)}", "needed a method that gives an Explanation")


def picture_of(images: Tensor) -> Tensor:
    """Network input (N, C, H, W) as pictures (N, 1 or 3, H, W): each from 0 at its smallest number to 1 at its largest.

    >>> picture_of(torch.tensor([[[[-2.0, 2.0]]]])).tolist()
    [[[[0.0, 1.0]]]]
    """
    numbers = images.detach().float().cpu()
    numbers = numbers if numbers.shape[1] in (1, 3) else numbers.mean(1, keepdim=True)
    low, high = numbers.amin((1, 2, 3), keepdim=True), numbers.amax((1, 2, 3), keepdim=True)
    return (numbers - low) / (high - low).clamp_min(torch.finfo(torch.float32).tiny)
