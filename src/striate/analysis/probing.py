"""Runs a network to measure it, in evaluation mode; the network's state is restored afterwards."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor

from striate.analysis import arguments
from striate.analysis.examples import Example, InputSize, chosen, first_line, input_shape, is_size, prepared
from striate.errors import AnalysisError, StriateError, is_out_of_memory

#: From images to a network's input, such as a normalisation.
Prepare: TypeAlias = Callable[[Tensor], Tensor]

#: Images, alone or among other inputs of the network, as a list of positional inputs or a dictionary.
Images: TypeAlias = InputSize

_BATCH: Final = 256


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """A context with all layers in evaluation mode; afterwards, also after an exception, each mode is restored."""
    modes = [(layer, layer.training) for layer in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for layer, mode in modes:
            layer.training = mode


class Subject:
    """A network that is measured on images, whatever else it takes besides them.

    Args:
        model: any network; lazy layers are made on a copy.
        given: images, or several inputs of which one are the images.
        input: which one, by its name or number; by default the first with axes to look along.
        prepare: what the network gets of images; the images themselves by default.
        name: of the network, its class by default.
        seed: of standard normal noise, which is taken where sizes are given: eight images of (C, H, W), or as many as
            a whole shape says. None refuses sizes.

    Raises:
        AnalysisError: no network, or inputs that it doesn't take.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        given: Images,
        *,
        input: str | int | None = None,
        prepare: Prepare | None = None,
        name: str | None = None,
        seed: int | None = None,
    ) -> None:
        if prepare is not None and not callable(prepare):
            raise AnalysisError("prepare", f"got {type(prepare).__name__}", "needed a function from images to images")
        alone = is_size(given)
        if alone and seed is not None:
            shape = input_shape(given)  # type: ignore[arg-type]
            if len(shape) != 4:
                got = ", ".join(map(str, given))  # type: ignore[arg-type]
                raise AnalysisError("input size", f"got ({got})", "needed (C, H, W) or (N, C, H, W)")
            given = (8, *shape[1:]) if len(given) == 3 else shape  # type: ignore[arg-type]
        self.model, self.example = prepared(model, given)
        if self.example.sized:
            if seed is None:
                raise AnalysisError("images", "got a size", "needed (N, C, H, W), a tensor or an array")
            noise = generator(seed)
            self.example = self.example.mapped(
                lambda tensor: torch.randn(tensor.shape, generator=noise).to(tensor.device, tensor.dtype)
            )
        self.name = name or type(model).__name__
        self._prepare = prepare
        shapes = {each: tuple(tensor.shape) for each, tensor in self.example.tensors.items()}
        self.input = chosen(shapes, input)
        #: The images, on the network's device, in its floating-point format.
        self.images = self.example.tensors[self.input]

    def copied(self) -> Subject:
        """The same with a copy of the network."""
        twin = copy.copy(self)
        try:
            twin.model = copy.deepcopy(self.model)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise AnalysisError(
                self.name, f"can't be copied ({first_line(error)})", "needed a network that copy.deepcopy takes"
            ) from error
        return twin

    def with_images(self, images: Tensor, first: int = 0) -> Example:
        """The network's inputs with these images, the first of which takes the place of number ``first``."""
        number, rows = len(self.images), slice(first, first + len(images))
        other = images if self._prepare is None else self._prepared(images)
        # Inputs with a row an image go along with theirs.
        cut = self.example.mapped(lambda tensor: tensor[rows] if tensor.dim() and len(tensor) == number else tensor)
        return cut.replaced(self.input, other)

    def _prepared(self, images: Tensor) -> Tensor:
        assert self._prepare is not None
        try:
            found: object = self._prepare(images)
        except StriateError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise
            told = f"failed on {_by(images)} ({type(error).__name__}: {first_line(error)})"
            raise AnalysisError("prepare", told, "needed a function from images to images") from error
        if not isinstance(found, Tensor) or len(found) != len(images):
            raise AnalysisError("prepare", f"gave {type(found).__name__}", "needed as many images as it got")
        return found

    def answer(self, images: Tensor, first: int = 0) -> Any:
        """The network's output for images.

        Raises:
            AnalysisError: images that it doesn't take.
        """
        example = self.with_images(images, first)
        try:
            return example.call(self.model)
        except AnalysisError:
            raise
        except StriateError as error:
            raise AnalysisError(self.name, f"{error.where}: {error.got}", error.needed, error.remedy) from error
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise AnalysisError(
                self.name,
                f"{_by(images)} doesn't go through ({type(error).__name__}: {first_line(error)})",
                remedy="give images of the size and channels that the network takes",
            ) from error

    def logits(self, images: Tensor) -> Tensor:
        """A classifier's output, (N, K); the network must be in evaluation mode already.

        Raises:
            AnalysisError: images that it doesn't take, or answers of another shape.
        """
        parts = [self.answer(images[first : first + _BATCH], first) for first in range(0, len(images), _BATCH)]
        if not all(isinstance(part, Tensor) and part.dim() == 2 for part in parts):
            raise AnalysisError(self.name, "its answer isn't (N, K)", "needed a classifier, one number a class")
        return torch.cat(parts)


def maps_of(subject: Subject) -> Tensor:
    """The subject's images, if they can be measured on.

    Raises:
        AnalysisError: images that aren't (N, C, H, W) of floating-point numbers, all finite.
    """
    images = subject.images.detach()
    if images.dim() != 4 or 0 in images.shape:
        raise AnalysisError("images", f"got {_by(images)}", "needed (N, C, H, W)")
    if not images.is_floating_point():
        raise AnalysisError("images", f"got {images.dtype}", "needed floating point numbers", "divide bytes by 255")
    if not bool(images.isfinite().all()):
        raise AnalysisError("images", "hold numbers that are not finite", "needed finite ones")
    return images


def pixels_of(subject: Subject) -> Tensor:
    """The subject's images, if their pixels are 0 to 1.

    Raises:
        AnalysisError: others.
    """
    images = maps_of(subject)
    low, high = float(images.min()), float(images.max())
    if low < 0 or high > 1:
        raise AnalysisError(
            "images",
            f"got pixels from {low:.3g} to {high:.3g}",
            "needed 0 to 1",
            "divide bytes by 255, and give a normalisation as prepare",
        )
    return images


def labels_of(given: object, images: Tensor, classes: int | None = None) -> Tensor:
    """Labels as int64 (N,) on the images' device.

    Raises:
        AnalysisError: another number of labels than of images, or numbers that are no class.
    """
    needed = f"needed ({len(images)},), one an image"
    labels = arguments.tensor("labels", given, needed)
    if labels.dim() != 1 or len(labels) != len(images):
        raise AnalysisError("labels", f"got {_by(labels)}", needed)
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise AnalysisError("labels", f"got {labels.dtype}", "needed whole numbers")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or (classes is not None and high >= classes):
        told = f"0 to {classes - 1}, the network has {classes} classes" if classes is not None else "0 or more"
        raise AnalysisError("labels", f"got {low if low < 0 else high}", f"needed {told}")
    return labels.to(images.device, torch.int64)


def generator(seed: object) -> torch.Generator:
    """A generator that starts from a seed.

    Raises:
        AnalysisError: a seed that is no whole number.
    """
    return torch.Generator().manual_seed(arguments.whole("seed", seed, -(2**63), 2**63 - 1))


def _by(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"
