"""Running a network to measure it: images that it takes, in evaluation mode, and left as it was found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeAlias

import torch
from torch import Tensor

from striate.analysis.trace import InputSize, input_shape
from striate.errors import AnalysisError, StriateError

#: From images to what a network takes of them, as a normalisation does.
Prepare: TypeAlias = Callable[[Tensor], Tensor]

_BATCH: Final = 256


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode for all layers; afterwards each is in the mode that it was in, also after an exception."""
    modes = [(layer, layer.training) for layer in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for layer, mode in modes:
            layer.training = mode


def images_of(given: Tensor | InputSize, seed: int) -> Tensor:
    """Images as given, or of a size: eight of standard normal noise.

    Raises:
        AnalysisError: images that aren't (N, C, H, W) of floating point numbers, all finite.
    """
    if not isinstance(given, Tensor):
        size = [each for each in given if isinstance(each, int)]
        shape = input_shape(size)
        if len(shape) != 4 or len(size) != len(given):
            raise AnalysisError("input size", f"got {tuple(given)}", "needed (C, H, W) or (N, C, H, W)")
        number = 8 if len(size) == 3 else shape[0]
        return torch.randn(number, *shape[1:], generator=torch.Generator().manual_seed(seed))
    shape = tuple(given.shape)
    if len(shape) != 4 or 0 in shape:
        raise AnalysisError("images", f"got {'x'.join(map(str, shape)) or 'a number'}", "needed (N, C, H, W)")
    if not given.is_floating_point():
        raise AnalysisError("images", f"got {given.dtype}", "needed floating point numbers", "divide bytes by 255")
    if not bool(given.isfinite().all()):
        raise AnalysisError("images", "hold numbers that are not finite", "needed finite ones")
    return given.detach()


def pixels_of(given: Tensor) -> Tensor:
    """Images whose pixels are 0 to 1.

    Raises:
        AnalysisError: others.
    """
    images = images_of(given, 0)
    low, high = float(images.min()), float(images.max())
    if low < 0 or high > 1:
        raise AnalysisError(
            "images",
            f"got pixels from {low:.3g} to {high:.3g}",
            "needed 0 to 1",
            "divide bytes by 255, and give a normalisation as prepare",
        )
    return images


def labels_of(given: Tensor, images: Tensor, classes: int) -> Tensor:
    """Labels as int64 (N,) on the images' device.

    Raises:
        AnalysisError: another number of labels than of images, or numbers that are no class.
    """
    if given.dim() != 1 or len(given) != len(images):
        raise AnalysisError(
            "labels", f"got {'x'.join(map(str, given.shape)) or 'a number'}", f"needed ({len(images)},), one an image"
        )
    if given.is_floating_point() or given.is_complex() or given.dtype == torch.bool:
        raise AnalysisError("labels", f"got {given.dtype}", "needed whole numbers")
    low, high = int(given.min()), int(given.max())
    if low < 0 or high >= classes:
        raise AnalysisError(
            "labels", f"got {low if low < 0 else high}", f"needed 0 to {classes - 1}, the network has {classes} classes"
        )
    return given.to(images.device, torch.int64)


def logits_of(model: torch.nn.Module, images: Tensor) -> Tensor:
    """What a classifier answers, (N, K); it is to be in evaluation mode already.

    Raises:
        AnalysisError: images that it doesn't take, or answers of another shape.
    """
    name = type(model).__name__
    try:
        parts = [model(batch) for batch in images.split(_BATCH)]
    except StriateError as error:
        raise AnalysisError(name, f"{error.where}: {error.got}", error.needed, error.remedy) from error
    except RuntimeError as error:
        shape = "x".join(map(str, images.shape))
        raise AnalysisError(
            name,
            f"{shape} doesn't go through ({str(error).strip().splitlines()[0]})",
            remedy="give images of the size, channels, dtype and device that the network takes",
        ) from error
    if not all(isinstance(part, Tensor) and part.dim() == 2 for part in parts):
        raise AnalysisError(name, "its answer isn't (N, K)", "needed a classifier, which gives one number a class")
    return torch.cat(parts)
