"""The register of networks: one name, one builder; a name that is taken is an error."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from striate.errors import ModelError

Builder = TypeVar("Builder", bound=Callable[..., torch.nn.Module])

_BUILDERS: dict[str, Callable[..., torch.nn.Module]] = {}


def register(builder: Builder) -> Builder:
    """Enters a function or class under its own name, in lower case; it takes ``num_classes`` and ``in_channels``."""
    name = builder.__name__.lower()
    if name in _BUILDERS:
        raise ModelError("models.register", f"a model named {name!r} exists", "needed a new name")
    _BUILDERS[name] = builder
    return builder


def names() -> tuple[str, ...]:
    """The names of all networks.

    >>> "lenet5" in names()
    True
    """
    return tuple(sorted(_BUILDERS))


def create(
    name: str, num_classes: int = 10, in_channels: int = 1, weights: str | os.PathLike[str] | None = None
) -> torch.nn.Module:
    """A new network, with random weights from torch's global generator or with those of a file.

    Every network has ``input_size``, the (H, W) it was made for; its output is (N, num_classes), larger is likelier.

    Args:
        name: one of :func:`names`.
        num_classes: length of the output.
        in_channels: channels of the images.
        weights: a .safetensors file of this network's parameters, as training writes it.

    Raises:
        ModelError: an unknown name, sizes that the network can't have, weights that can't be read or are another's.

    >>> sum(parameter.numel() for parameter in create("lenet5").parameters())
    61706
    """
    builder = _builder(name)
    for what, value in (("num_classes", num_classes), ("in_channels", in_channels)):
        if value < 1:
            raise ModelError(name, f"{what} is {value}", "needed 1 or more")
    model = builder(num_classes=num_classes, in_channels=in_channels)
    if weights is not None:
        load_weights(model, weights)
    return model


def load_weights(model: torch.nn.Module, path: str | os.PathLike[str]) -> None:
    """Gives ``model`` the parameters in a .safetensors file; nothing in the file is executed.

    Raises:
        ModelError: the file can't be read, or its names or shapes are not the model's; the model is left as it was.
    """
    try:
        loaded = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(str(path), f"no readable weights ({error})", "needed a whole .safetensors file") from error
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in loaded.items()}
    wrong = [
        f"{name} {found.get(name, 'missing')} instead of {own.get(name, 'none')}"
        for name in sorted(own.keys() | found.keys())
        if own.get(name) != found.get(name)
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ModelError(str(path), "weights of another model: " + ", ".join(wrong[:3]) + more)
    model.load_state_dict(loaded)


def describe(name: str) -> str:
    """One line on a network: the first of its docstring."""
    return (_builder(name).__doc__ or "").strip().partition("\n")[0]


def _builder(name: str) -> Callable[..., torch.nn.Module]:
    if name not in _BUILDERS:
        close = difflib.get_close_matches(name, _BUILDERS, n=1)
        raise ModelError(
            "model",
            f"got {name!r}",
            "needed one of " + ", ".join(names()),
            f"did you mean {close[0]}?" if close else "",
        )
    return _BUILDERS[name]
