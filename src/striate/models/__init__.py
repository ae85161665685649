"""Networks, one paper a file, under one register: :func:`names`, :func:`create`, :func:`describe`."""

from striate.models import convnext, lenet, simple_cnn, vit
from striate.models.registry import create, describe, load_weights, names, register

__all__ = [
    "convnext",
    "create",
    "describe",
    "lenet",
    "load_weights",
    "names",
    "register",
    "simple_cnn",
    "vit",
]
