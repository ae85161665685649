"""What is explained: a class, a class for each image, or any function of the network's output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from striate.errors import ExplainError

#: None is the class that the network predicts; a function takes the network's output and gives one number an image.
Target: TypeAlias = int | Sequence[int] | Tensor | Callable[[Any], Tensor] | None


@dataclass(frozen=True)
class Guess:
    """A class, and the probability that the network gives it."""

    category: int
    probability: float


@dataclass(frozen=True)
class Aim:
    """A target that is settled for N images: what varied copies of these are scored by.

    Args:
        label: for titles: ``"class 3"``, ``"classes 3, 5"``, a function's name.
        classes: one an image; None where the target is a function.
        function: of the output; None where it is classes.
    """

    label: str
    classes: tuple[int, ...] | None
    function: Callable[[Any], Tensor] | None = None

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
        scores = self.function(output)
        if not isinstance(scores, Tensor) or scores.dim() != 1 or not scores.is_floating_point():
            got = f"a tensor of {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
            raise ExplainError(self.label, f"gave {got}", "needed a function that gives (N,), one number an image")
        return scores


def settle(target: Target, output: Any, images: int) -> Aim:
    """A target for the images whose output this is.

    Raises:
        ExplainError: a class that the output hasn't, a count that isn't that of the images, an output without classes.
    """
    if callable(target) and not isinstance(target, Tensor):
        return Aim(getattr(target, "__name__", type(target).__name__), None, target)
    logits = logits_of(output)
    count = logits.shape[1]
    if target is None:
        classes = logits.argmax(1).tolist()
    elif isinstance(target, int):
        classes = [target] * images
    else:
        classes = [int(each) for each in target]
    if len(classes) != images:
        raise ExplainError("target", f"got {len(classes)} classes", f"needed one, or one for each of {images} images")
    for each in classes:
        if not 0 <= each < count:
            raise ExplainError("target", f"got class {each}", f"needed 0 to {count - 1}")
    label = f"class {classes[0]}" if len(set(classes)) == 1 else "a class for each image"
    return Aim(label, tuple(classes))


def logits_of(output: Any) -> Tensor:
    """A classifier's output (N, K), float.

    Raises:
        ExplainError: an output of another kind, or numbers that aren't finite.
    """
    if not isinstance(output, Tensor) or output.dim() != 2:
        got = f"a tensor of {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise ExplainError(
            "target",
            f"the network's output is {got}",
            "needed (N, classes)",
            "pass a function of the output as target, as segmentation_target or detection_target",
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
    if not isinstance(output, Tensor) or output.dim() != 2:
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

    def score(output: Any) -> Tensor:
        logits = output["out"] if isinstance(output, dict) and "out" in output else output
        if not isinstance(logits, Tensor) or logits.dim() != 4 or not 0 <= category < logits.shape[1]:
            got = f"{tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
            raise ExplainError(f"class {category}", f"got an output {got}", "needed (N, classes, H, W) with that class")
        inside = logits.argmax(1) == category if region is None else region.to(logits.device).expand_as(logits[:, 0])
        summed: Tensor = (logits[:, category] * inside).flatten(1).sum(1)
        return summed

    score.__name__ = f"segmentation of class {category}"
    return score


def detection_target(category: int, box: Sequence[float]) -> Callable[[Any], Tensor]:
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
    wanted = torch.tensor(box, dtype=torch.float32)

    def score(output: Any) -> Tensor:
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
