"""Detectors and segmentation networks as networks with one score for each class, which explanations need.

An explanation answers why a score is high. A detector's score of a class is the score at the place, or for the
proposal, where it is highest; for one detected object, the scores are those at the object's place or for its box. The
place, proposal or box is then held fixed. A segmentation network's score of a class is the mean over the pixels that
are predicted as this class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from striate.errors import ExplainError, RunError
from striate.models.dense import called_by

#: The prefix of an object's number, in case a class has this number as its name.
_OBJECT: Final = "object:"


@dataclass(frozen=True, eq=False)
class Explained:
    """A network with a score for each class, and which one is asked about.

    Args:
        network: from (N, C, H, W) to scores (N, K).
        target: the class; None for the class with the largest score.
        box: of the object to explain, xyxy, pixels of the network's input; None for no object.
        layer: the layer whose maps suit class activation maps; None for the last layer with spatial positions.
    """

    network: torch.nn.Module
    target: int | None
    box: tuple[float, float, float, float] | None = None
    layer: str | None = None


def object_number(text: str, classes: Sequence[str]) -> int | None:
    """The number of the detected object that a target means, from 1, the best score; None if the target is a class.

    A number means an object if no class has it as its name; ``object:3`` always means an object.

    Raises:
        ExplainError: no number after ``object:``.

    >>> object_number("2", ["cat", "dog"]), object_number("2", ["1", "2"]), object_number("object:2", ["1", "2"])
    (2, None, 2)
    """
    number = text.strip().removeprefix(_OBJECT)
    if number == text.strip() and (number in classes or not number.isdecimal()):
        return None
    if not number.isdecimal() or int(number) < 1:
        raise ExplainError("--target", f"got {text!r}", "needed the number of an object, from 1", f"{_OBJECT}1")
    return int(number)


@torch.no_grad()
def one_object(model: Any, picture: Tensor, number: int) -> Explained:
    """A detector's layers under the same names, from pictures to the scores of the classes for one object (N, K).

    Args:
        model: with the methods ``place_of``, from a picture, a box and a label to the place that predicts them, and
            ``scores_at``, from pictures and this place to the logits of all classes. A method ``layer_of`` or
            ``map_layer`` may name the layer whose maps suit class activation maps.
        picture: float (C, H, W), the network's input.
        number: of the object, from 1, the best score.

    Raises:
        ExplainError: no objects, or fewer than this number, are detected.
        RunError: a detector without these methods.
    """
    kind = type(model).__name__
    if not hasattr(model, "place_of"):
        raise RunError("explain", f"{kind} has no method place_of", "needed it of a detector", "name a class instead")
    (found,) = model([picture])
    count = len(found["labels"])
    if count < number:
        got = "nothing is found on this picture" if count == 0 else f"got object {number} of {count}"
        needed = "needed an object" if count == 0 else f"needed 1 to {count}"
        raise ExplainError("--target", got, needed, "name a class instead, which is explained at its best place")
    row = int(found["scores"].sort(descending=True, stable=True).indices[number - 1])
    box, label = found["boxes"][row], int(found["labels"][row])
    place, scores = model.place_of(picture, box, label), type(model).scores_at

    def forward(self: Any, images: Tensor) -> Tensor:
        said: Tensor = scores(self, images, place)
        return said

    x0, y0, x1, y1 = box.tolist()
    layer = model.layer_of(picture, place) if hasattr(model, "layer_of") else getattr(model, "map_layer", None)
    return Explained(called_by(model, forward), label - 1, (x0, y0, x1, y1), layer)


def object_scores(model: torch.nn.Module) -> torch.nn.Module:
    """A detector's layers under the same names, from pictures (N, C, H, W) of values from 0 to 1 to scores (N, K).

    Args:
        model: a detector with a method ``class_scores``, which returns the score of each class at its best place.

    Raises:
        RunError: a detector without this method.
    """
    scores = getattr(type(model), "class_scores", None)
    if scores is None:
        raise RunError("explain", f"{type(model).__name__} has no method class_scores", "needed it of a detector")
    return called_by(model, scores)


def pixel_scores(model: torch.nn.Module) -> torch.nn.Module:
    """A segmentation network's layers under the same names, from (N, C, H, W) to scores (N, K).

    A class that is predicted at no pixel has the score of the pixel where it comes closest to being predicted.
    """
    whole = type(model).forward

    def forward(self: Any, images: Tensor) -> Tensor:
        outputs: Mapping[str, Tensor] = whole(self, images)
        scores = outputs["out"].flatten(2)
        best = scores.argmax(1, keepdim=True)
        taken = (best == torch.arange(scores.shape[1], device=best.device)[:, None]).to(scores.dtype)
        count = taken.sum(2)
        mean = (scores * taken).sum(2) / count.clamp(min=1)
        return torch.where(count > 0, mean, scores.amax(2))

    return called_by(model, forward)


def map_scores(model: torch.nn.Module) -> torch.nn.Module:
    """A segmentation network's layers under the same names, from (N, C, H, W) to scores (N, K, H, W) alone."""
    whole = type(model).forward

    def forward(self: Any, images: Tensor) -> Tensor:
        outputs: Mapping[str, Tensor] = whole(self, images)
        return outputs["out"]

    return called_by(model, forward)
