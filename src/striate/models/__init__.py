"""Networks, one paper a file, under one register: :func:`names`, :func:`create`, :func:`describe`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from striate.models.catalogue import FAMILIES, TASKS
from striate.models.registry import create, describe, families, has_small_form, input_shape, names, register, task_of

if TYPE_CHECKING:
    from striate.models import (
        alexnet,
        centernet,
        coatnet,
        condinst,
        convnext,
        deeplab,
        densenet,
        efficientnet,
        efficientnet_v2,
        faster_rcnn,
        fcn,
        fcos,
        googlenet,
        inception_v3,
        lenet,
        lraspp,
        mask_rcnn,
        mobilenet_v1,
        mobilenet_v2,
        mobilenet_v3,
        regnet,
        resnet,
        resnet_aps,
        resnet_blur,
        retinanet,
        shufflenet_v2,
        simple_cnn,
        squeezenet,
        ssd,
        ssdlite,
        swin,
        unet,
        vgg,
        vit,
    )
    from striate.models.predicting import Ranked, classify, rank
    from striate.models.trained import (
        IMAGENET,
        Pretrained,
        describe_weights,
        imagenet_classes,
        imagenet_preprocessing,
        pretrained,
    )
    from striate.models.weights import About, about_weights, load_weights, located, read_weights

# Names that need PyTorch are imported on first access: the command line lists networks without it.
_HOMES = {
    "About": "weights",
    "IMAGENET": "trained",
    "Pretrained": "trained",
    "Ranked": "predicting",
    "about_weights": "weights",
    "classify": "predicting",
    "describe_weights": "trained",
    "imagenet_classes": "trained",
    "imagenet_preprocessing": "trained",
    "load_weights": "weights",
    "located": "weights",
    "pretrained": "trained",
    "rank": "predicting",
    "read_weights": "weights",
}

__all__ = [
    "IMAGENET",
    "TASKS",
    "About",
    "Pretrained",
    "Ranked",
    "about_weights",
    "alexnet",
    "centernet",
    "classify",
    "coatnet",
    "condinst",
    "convnext",
    "create",
    "deeplab",
    "densenet",
    "describe",
    "describe_weights",
    "efficientnet",
    "efficientnet_v2",
    "families",
    "faster_rcnn",
    "fcn",
    "fcos",
    "googlenet",
    "has_small_form",
    "imagenet_classes",
    "imagenet_preprocessing",
    "inception_v3",
    "input_shape",
    "lenet",
    "load_weights",
    "located",
    "lraspp",
    "mask_rcnn",
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilenet_v3",
    "names",
    "pretrained",
    "rank",
    "read_weights",
    "register",
    "regnet",
    "resnet",
    "resnet_aps",
    "resnet_blur",
    "retinanet",
    "shufflenet_v2",
    "simple_cnn",
    "squeezenet",
    "ssd",
    "ssdlite",
    "swin",
    "task_of",
    "unet",
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
