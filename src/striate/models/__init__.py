"""Networks, one paper a file, under one register: :func:`names`, :func:`create`, :func:`describe`."""

from striate.models import lenet, simple_cnn
from striate.models.registry import create, describe, load_weights, names, register

__all__ = ["create", "describe", "lenet", "load_weights", "names", "register", "simple_cnn"]
