"""Networks, one paper a file, under one register: :func:`names`, :func:`create`, :func:`describe`."""

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
from striate.models.predicting import Ranked, classify, rank
from striate.models.pretrained import (
    IMAGENET,
    Pretrained,
    describe_weights,
    imagenet_classes,
    imagenet_preprocessing,
    pretrained,
)
from striate.models.registry import create, describe, families, has_small_form, input_shape, names, register
from striate.models.weights import About, about_weights, load_weights, read_weights

__all__ = [
    "IMAGENET",
    "About",
    "Pretrained",
    "Ranked",
    "about_weights",
    "alexnet",
    "classify",
    "coatnet",
    "convnext",
    "create",
    "describe",
    "describe_weights",
    "efficientnet",
    "families",
    "has_small_form",
    "imagenet_classes",
    "imagenet_preprocessing",
    "input_shape",
    "lenet",
    "load_weights",
    "mobilenet_v1",
    "mobilenet_v2",
    "names",
    "pretrained",
    "rank",
    "read_weights",
    "register",
    "resnet",
    "resnet_aps",
    "resnet_blur",
    "simple_cnn",
    "vgg",
    "vit",
]
