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
from striate.models.pretrained import IMAGENET, Pretrained, imagenet_classes, pretrained
from striate.models.registry import create, describe, families, has_small_form, input_shape, names, register
from striate.models.weights import load_weights, read_weights

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
