"""Networks, one paper a file, under one register: :func:`names`, :func:`create`, :func:`describe`."""

from striate.models import alexnet, lenet, resnet, simple_cnn, vgg
from striate.models.registry import create, describe, has_small_form, names, register
from striate.models.weights import load_weights, read_weights

__all__ = [
    "alexnet",
    "create",
    "describe",
    "has_small_form",
    "lenet",
    "load_weights",
    "names",
    "read_weights",
    "register",
    "resnet",
    "simple_cnn",
    "vgg",
]
