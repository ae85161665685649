"""Networks, one paper a file, under one register: :func:`names`, :func:`create`, :func:`describe`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from striate.models.catalogue import FAMILIES
from striate.models.registry import create, describe, families, has_small_form, input_shape, names, register

if TYPE_CHECKING:
    from striate.models import (
        alexnet,
        coatnet,
        convnext,
        efficientnet,
        lenet,
        mobilenet_v1,
        mobilenet_v2,
        resnet,
        resnet_aps,
        resnet_blur,
        simple_cnn,
        vgg,
        vit,
    )
    from striate.models.trained import IMAGENET, Pretrained, imagenet_classes, pretrained
    from striate.models.weights import load_weights, read_weights

# What needs PyTorch is fetched when asked for: the command line lists networks without it.
_HOMES = {
    "IMAGENET": "trained",
    "Pretrained": "trained",
    "imagenet_classes": "trained",
    "load_weights": "weights",
    "pretrained": "trained",
    "read_weights": "weights",
}

__all__ = [
    "IMAGENET",
    "Pretrained",
    "alexnet",
    "coatnet",
    "convnext",
    "create",
    "describe",
    "efficientnet",
    "families",
    "has_small_form",
    "imagenet_classes",
    "input_shape",
    "lenet",
    "load_weights",
    "mobilenet_v1",
    "mobilenet_v2",
    "names",
    "pretrained",
    "read_weights",
    "register",
    "resnet",
    "resnet_aps",
    "resnet_blur",
    "simple_cnn",
    "vgg",
    "vit",
]


def __getattr__(name: str) -> Any:
    if name in {family.module for family in FAMILIES}:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
