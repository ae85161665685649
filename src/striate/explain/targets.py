"""Targets of explanations: a class, a class for each image, or any function of the network's output."""

from __future__ import annotations

import difflib
import numbers
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from striate.errors import ExplainError, StriateError
from striate.explain.arguments import array, kind_of, real, single, texts, whole
from striate.explain.arguments import text as text_of
from striate.explain.names import find

#: A class; one for each image; a function that takes the network's output and gives one number an image; None is the
#: class that the network predicts. Numbers may be Python's, NumPy's or a tensor's.
Target: TypeAlias = (
    int | np.integer[Any] | Sequence[int] | NDArray[np.integer[Any]] | Tensor | Callable[[Any], Tensor] | None
)


class ExplainWarning(UserWarning):
    """An explanation that shows nothing, or less than it seems to (its notes say the same), or an ambiguous target."""


@dataclass(frozen=True)
class Guess:
    """A class, and the probability that the network gives it."""

    category: int
    probability: float


@dataclass(frozen=True)
class Aim:
    """A target for N images, which scores varied copies of them.

    Args:
        label: for titles: ``"class 3"``, ``"classes 3, 5"``, a function's name.
        classes: one an image; None where the target is a function.
        function: of the output; None where it is classes.
        images: how many; None if that isn't known.
    """

    label: str
    classes: tuple[int, ...] | None
    function: Callable[[Any], Tensor] | None = None
    images: int | None = None

    def __call__(self, output: Any, which: Tensor | None = None) -> Tensor:
        """The score of each row of an output, (B,): logits of the classes, or what the function says.

        Args:
            output: the network's.
            which: int64 (B,): of which of the N images each row is a copy; by default they are these images.

        Raises:
            ExplainError: a function that gives something else than one number a row.
        """
        if self.classes is not None:
            wanted = torch.tensor(self.classes, device=output.device)
            wanted = wanted if which is None else wanted[which.to(output.device)]
            scores: Tensor = logits_of(output).gather(1, wanted[:, None])[:, 0]
            return scores
        assert self.function is not None
        needed = "needed a function that gives (N,), one number an image"
        try:
            scores = self.function(output)
        except StriateError:
            raise
        except Exception as error:  # it is the caller's function, and may raise anything
            got = f"can't take {_kind(output)} ({type(error).__name__}: {str(error).partition(chr(10))[0]})"
            raise ExplainError(self.label, got, needed) from error
        if not isinstance(scores, Tensor) or scores.dim() != 1 or not scores.is_floating_point():
            got = f"a tensor of {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
            raise ExplainError(self.label, f"gave {got}", needed)
        expected = len(which) if which is not None else self.images
        if expected is not None and len(scores) != expected:
            raise ExplainError(self.label, f"gave {len(scores)} numbers for {expected} images", needed)
        return scores


def settle(target: Target, output: Any, images: int) -> Aim:
    """A target for the images whose output this is.

    Raises:
        ExplainError: a class that the output hasn't, a count that isn't that of the images, an output without classes,
            a target of another kind.
    """
    if callable(target) and not isinstance(target, Tensor):
        return Aim(getattr(target, "__name__", type(target).__name__), None, target, images)
    classes = None if target is None else _classes(target)
    logits = logits_of(output)
    if len(logits) != images:
        got = f"the network's output has {len(logits)} rows for {images} images"
        raise ExplainError("target", got, "needed one an image", "pass a function of the output as target")
    count = logits.shape[1]
    if classes is None:
        classes = logits.argmax(1).tolist()
    elif isinstance(classes, int):
        classes = [classes] * images
    if len(classes) != images:
        raise ExplainError("target", f"got {len(classes)} classes", f"needed one, or one for each of {images} images")
    for each in classes:
        if not 0 <= each < count:
            raise ExplainError("target", f"got class {each}", f"needed 0 to {count - 1}")
    label = f"class {classes[0]}" if len(set(classes)) == 1 else "a class for each image"
    return Aim(label, tuple(classes))


def _classes(target: Any) -> int | list[int]:
    """A class, or one an image, as Python's numbers."""
    if isinstance(target, Tensor | np.ndarray) and len(target.shape) > 1:
        remedy = "argmax(1) gives the class of each row"
        raise ExplainError("target", f"got {kind_of(target)}", "needed a class, or one an image, (N,)", remedy)
    if isinstance(target, Tensor | np.ndarray):
        target = target.tolist()
    if isinstance(target, str | bytes):
        remedy = "class_named(name, classes) in striate.explain tells the number"
        raise ExplainError("target", f"got {target!r}", "needed the number of a class", remedy)
    if isinstance(target, Sequence):
        return [whole("target", each) for each in target]
    if isinstance(single(target), bool | numbers.Number):
        return whole("target", target)
    needed = "needed a class's number, one for each image, or a function of the output"
    raise ExplainError("target", f"got {kind_of(target)}", needed)


def class_named(text: str, classes: Sequence[str], where: str = "target") -> int:
    """The index of a class that the user typed, as its name or its number.

    Names have priority, as in :func:`striate.explain.names.find`. So if classes have numbers as names, ``"7"`` is the
    class with this name, whatever its index.

    Args:
        text: as it was typed.
        classes: the names, in order; may be empty where nobody gave any.
        where: it was typed, for messages: ``"--target"``.

    Raises:
        ExplainError: no such class, or several whose names are equally alike.

    Warns:
        ExplainWarning: a number that is the name of one class and the index of another; it says which was used.

    >>> class_named("cat", ["Cat", "cat"]), class_named("1", ["Cat", "cat"]), class_named("DOG", ["cat", "dog"])
    (1, 1, 1)
    """
    typed, classes = text_of(where, text), texts("classes", classes)
    place = find(typed, classes, where)
    number = int(typed) if typed.strip().isdecimal() else None
    if place is not None:
        if number is not None and number != place and number < len(classes):
            told = f"{where} {typed!r}: took the class of that name, number {place}; number {number} is"
            warnings.warn(f"{told} {classes[number]!r}", ExplainWarning, stacklevel=2)
        return place
    if number is not None and classes and number >= len(classes):
        raise ExplainError(where, f"got class {number}", f"needed 0 to {len(classes) - 1}")
    if number is not None:
        return number
    known = {name.casefold(): name for name in classes}
    near = [known[each] for each in difflib.get_close_matches(typed.casefold(), known, n=3)]
    needed = f"a class's name or 0 to {len(classes) - 1}" if classes else "a class's number"
    raise ExplainError(where, f"got {typed!r}", f"needed {needed}", "near: " * bool(near) + ", ".join(near))


def logits_of(output: Any) -> Tensor:
    """A classifier's output (N, K), float.

    Raises:
        ExplainError: an output of another kind, or numbers that aren't finite.
    """
    if not isinstance(output, Tensor) or output.dim() != 2 or not output.is_floating_point():
        raise ExplainError(
            "target",
            f"the network's output is {_kind(output)}",
            "needed (N, classes)",
            "pass a function of the output as target, as lambda output: output[...][:, 3], segmentation_target or "
            "detection_target",
        )
    if not bool(output.isfinite().all()):
        raise ExplainError("target", "the network's output is NaN or infinite", "needed finite numbers")
    return output


def probabilities_of(output: Tensor) -> Tensor:
    """Logits (N, K) as probabilities, by softmax (sigmoid for a single logit); such already, they stay as they are."""
    logits = logits_of(output).detach().double()
    if bool((logits >= 0).all()) and torch.allclose(logits.sum(1), torch.ones_like(logits[:, 0]), atol=1e-3):
        return logits  # the network ends with a softmax of its own
    return logits.softmax(1) if logits.shape[1] > 1 else logits.sigmoid()


def guesses(output: Any, top: int = 5) -> tuple[tuple[Guess, ...], ...]:
    """The likeliest classes of each image; nothing for outputs that aren't (N, K)."""
    if not isinstance(output, Tensor) or output.dim() != 2 or not output.is_floating_point():
        return ()
    best = probabilities_of(output).topk(min(top, output.shape[1]), dim=1)
    return tuple(
        tuple(Guess(category, value) for category, value in zip(*row, strict=True))
        for row in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    )


def segmentation_target(category: int, region: Tensor | None = None) -> Callable[[Any], Tensor]:
    """A target for segmentation: the sum of a class's logits over a region.

    Args:
        category: the class.
        region: bool (H, W) of the output's size; where the network itself predicts the class by default.

    Source: Vinogradova, Dibrov & Myers, "Towards interpretable semantic segmentation via gradient-weighted class
    activation mapping" (2020), equation 1.

    >>> segmentation_target(1)(torch.tensor([[[[0.0, 1.0]], [[2.0, 0.0]]]]))
    tensor([2.])
    """

    category = whole("category", category)
    region = None if region is None else array("region", region).bool()

    def score(output: Any) -> Tensor:
        logits = output["out"] if isinstance(output, dict) and "out" in output else output
        if not isinstance(logits, Tensor) or logits.dim() != 4 or not 0 <= category < logits.shape[1]:
            needed = "needed (N, classes, H, W) with that class"
            raise ExplainError(f"class {category}", f"got {_kind(logits)} as output", needed)
        if region is not None and region.shape[-2:] != logits.shape[2:]:
            raise ExplainError("region", f"got {kind_of(region)}", f"needed bool of {tuple(logits.shape[2:])}")
        inside = logits.argmax(1) == category if region is None else region.to(logits.device).expand_as(logits[:, 0])
        summed: Tensor = (logits[:, category] * inside).flatten(1).sum(1)
        return summed

    score.__name__ = f"segmentation of class {category}"
    return score


def detection_target(category: int, box: Sequence[float] | Tensor | NDArray[Any]) -> Callable[[Any], Tensor]:
    """A target for detectors that give ``boxes``, ``labels`` and ``scores`` an image, as torchvision's do.

    The score of the detection that is most like what is asked for: confidence times intersection over union, 0 where
    nothing of the class overlaps.

    Args:
        category: the detection's label.
        box: (left, top, right, bottom), pixels.

    Source: after Petsiuk et al., "Black-box explanation of object detectors via saliency maps" (2021), equation 2.

    >>> found = [{"boxes": torch.tensor([[0.0, 0, 2, 2]]), "labels": torch.tensor([3]), "scores": torch.tensor([0.5])}]
    >>> detection_target(3, (0, 0, 2, 4))(found)
    tensor([0.2500])
    """
    category = whole("category", category)
    if not isinstance(box, Sequence | Tensor | np.ndarray):
        raise ExplainError("box", f"got {kind_of(box)}", "needed left, top, right, bottom")
    sides = [real("box", each) for each in box] if isinstance(box, Sequence) or box.ndim == 1 else []
    if len(sides) != 4 or sides[0] >= sides[2] or sides[1] >= sides[3]:
        raise ExplainError("box", f"got {sides}", "needed left, top, right, bottom, with left < right and top < bottom")
    wanted = torch.tensor(sides, dtype=torch.float32)

    def score(output: Any) -> Tensor:
        fields = {"boxes", "labels", "scores"}
        if not isinstance(output, list | tuple) or any(
            not isinstance(e, Mapping) or not fields <= {*e} for e in output
        ):
            needed = "needed a list of dicts with boxes, labels and scores, one an image"
            raise ExplainError(f"detection of class {category}", f"got {_kind(output)} as output", needed)
        return torch.stack([_likest(each, category, wanted) for each in output])

    score.__name__ = f"detection of class {category}"
    return score


def _likest(found: dict[str, Tensor], category: int, wanted: Tensor) -> Tensor:
    boxes, scores = found["boxes"].detach(), found["scores"]
    wanted = wanted.to(boxes)
    first, last = torch.maximum(boxes[:, :2], wanted[:2]), torch.minimum(boxes[:, 2:], wanted[2:])
    both = (last - first).clamp_min(0).prod(1)
    union = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (wanted[2:] - wanted[:2]).prod() - both
    likeness = scores * both / union * (found["labels"] == category)
    return torch.cat([likeness, likeness.new_zeros(1)]).max()


def _kind(output: Any) -> str:
    """An output in few words."""
    if isinstance(output, Mapping):
        return f"a dict of {', '.join(map(str, output))}"
    if isinstance(output, Tensor):
        return f"a tensor of {tuple(output.shape)}" if output.is_floating_point() else kind_of(output)
    return kind_of(output)
