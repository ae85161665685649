"""The network, the images and the target of an explanation, prepared once and evaluated on varied images."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from torch import Tensor

from striate.errors import ExplainError
from striate.explain.inputs import Input, call_of
from striate.explain.probe import Probe, probing
from striate.explain.progress import is_reported, watched
from striate.explain.rectify import change_rectifiers
from striate.explain.result import Explanation, picture_of
from striate.explain.targets import Aim, ExplainWarning, Target, guesses, probabilities_of, settle

#: Number of batches without a progress bar.
_FEW: Final = 4


@dataclass(frozen=True, eq=False)
class Subject:
    """Images to explain, with their network and target; made by :func:`asking`.

    Args:
        probe: the network, in evaluation mode.
        images: (N, C, H, W) as it computes.
        aim: the target, settled on these images.
        output: the network's, of these images.
    """

    probe: Probe
    images: Tensor
    aim: Aim
    output: Any

    def gradient(self, images: Tensor, which: Tensor | None = None, *, rectified: str | None = None) -> Tensor:
        """The derivative of each image's score by the image.

        Args:
            images: (B, C, H, W).
            which: (B,), of which image each is a copy; None if they are all images.
            rectified: a rule of :func:`striate.explain.rectify.change_rectifiers`.

        Raises:
            ExplainError: a score that no gradient leads back from.
        """
        images = images.detach().requires_grad_()
        score = self.aim(self.probe(images, which), which)
        if rectified is not None:
            change_rectifiers(score, rectified)
        if score.requires_grad:
            (gradient,) = torch.autograd.grad(score.sum(), images, allow_unused=True)
            if gradient is not None:
                return gradient
        raise ExplainError(
            self.probe.name,
            f"no gradient leads from {self.aim.label} back to the image",
            "needed a network without detach or no_grad on the way",
            "occlusion and rise need no gradients",
        )

    def fill(self, number: float) -> float:
        """The value of covered pixels in the images' dtype.

        Raises:
            ExplainError: a number that is infinite in their dtype.
        """
        if abs(number) > torch.finfo(self.images.dtype).max:
            dtype = str(self.images.dtype).removeprefix("torch.")
            raise ExplainError("fill", f"got {number:g}", f"needed a number that {dtype} can hold")
        return number

    def scores(self, images: Tensor, which: Tensor, *, probabilities: bool = False) -> Tensor:
        """The score of each of B images, float64 (B,): of the output, or of its softmax if the target is classes."""
        with torch.no_grad():
            output = self.probe(images, which)
            if probabilities and self.aim.classes is not None:
                output = probabilities_of(output)
            return self.aim(output, which).double()

    def explanation(
        self,
        method: str,
        values: Tensor,
        map_: Tensor,
        quantity: str,
        *,
        signed: bool,
        detail: Literal["pixels", "regions"],
        layer: str | None = None,
        empty: str = "the score doesn't hang on any pixel",
        measures: dict[str, tuple[float, ...]] | None = None,
        notes: tuple[str, ...] = (),
    ) -> Explanation:
        """The result, after checks of its numbers.

        Raises:
            ExplainError: numbers that aren't finite.
        """
        dtype = torch.float64 if self.images.dtype == torch.float64 else torch.float32
        map_, values = map_.detach().to("cpu", dtype), values.detach().to("cpu", dtype)
        if not bool(map_.isfinite().all()):
            raise ExplainError(
                method,
                "the map isn't finite",
                f"needed a network whose gradients fit {str(self.images.dtype).removeprefix('torch.')}",
                "model.float()",
            )
        blank = [image for image, numbers in enumerate(map_) if not bool(numbers.any())]
        if blank:
            more = f" and {len(blank) - 5} more" if len(blank) > 5 else ""
            which = "" if len(map_) == 1 else f"image {', '.join(map(str, blank[:5]))}{more}: "
            notes = (*notes, f"{which}the map is empty: {empty}")
            warnings.warn(f"{method}: {notes[-1]}", ExplainWarning, stacklevel=_outside())
        scores = self.aim(self.output).detach().double().tolist()
        return Explanation(
            method=method,
            map=map_,
            signed=signed,
            quantity=quantity,
            values=values,
            detail=detail,
            layer=layer,
            target=self.aim.label,
            classes=self.aim.classes,
            scores=tuple(scores),
            predictions=guesses(self.output),
            picture=picture_of(self.images),
            measures=measures or {},
            notes=notes,
        )


def _outside() -> int:
    """The number of stack frames up to the first one outside of this package, for the location of a warning."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and str(frame.f_globals.get("__name__", "")).startswith("striate."):
        frame, level = frame.f_back, level + 1
    return level


@contextmanager
def asking(model: torch.nn.Module, image: Input, target: Target, *layers: str) -> Iterator[Subject]:
    """A :class:`Subject`; the network is left as it was found."""
    call = call_of(model, image)
    with probing(model, *layers, call=call) as probe:
        output = probe(call.images)
        yield Subject(probe, call.images, settle(target, output, len(call.images)), output)


def in_batches(total: int, batch_size: int, what: str) -> Iterator[Tensor]:
    """The numbers 0 to total-1, so many at a time, with progress on stderr where that is a terminal.

    Raises:
        ExplainError: a batch of none.
    """
    if batch_size < 1:
        raise ExplainError("batch_size", f"got {batch_size}", "needed 1 or more")
    parts = torch.arange(total).split(batch_size)
    few = len(parts) < _FEW and not is_reported()
    yield from parts if few else watched(parts, what, len(parts))
